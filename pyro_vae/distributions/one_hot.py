"""Independent categorical variables, each a one-hot vector."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, register_kl

from pyro_vae._core.checks import CheckedArguments, check_shape, refusal, require

MOST_COMBINATIONS = 4096
"""Largest number of combinations that is enumerated."""


class _OneHotBlocks(constraints.Constraint):
    """Concatenated points of the simplex: one-hot vectors and their relaxations."""

    is_discrete = True
    event_dim = 1

    def __init__(self, categories: int) -> None:
        self.categories = categories

    def check(self, value: Tensor) -> Tensor:
        blocks = value.unflatten(-1, (-1, self.categories))
        return ((blocks >= 0).all(-1) & ((blocks.sum(-1) - 1).abs() < 1e-4)).all(-1)


class IndependentOneHotCategorical(TorchDistribution, CheckedArguments):
    r"""Independent one-hot variables, concatenated: :math:`\log p(z) = \sum_{v,c} z_{vc} \log \pi_{vc}`.

    The log-probability is linear in z, and this extends it to relaxed z, whose blocks are probabilities.

    Args:
        logits: ``(*batch, V, C)``, unnormalised log probabilities of C categories for V variables.

    Shape:
        batch shape ``batch``, event shape ``(V * C,)``.

    References:
        Categorical reparameterization with Gumbel-Softmax (Jang et al., 2017), section 2.
        https://arxiv.org/abs/1611.01144

    Example:
        >>> import torch
        >>> p = IndependentOneHotCategorical(torch.zeros(5, 2, 3))
        >>> p.sample().shape, p.enumerate_support(expand=False).shape
        (torch.Size([5, 6]), torch.Size([9, 1, 6]))
    """

    arg_constraints: dict[str, Any] = {"logits": constraints.independent(constraints.real, 2)}
    has_enumerate_support = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        require(
            logits.dim() >= 2, "IndependentOneHotCategorical", "logits must be (*batch, V, C)", f"{tuple(logits.shape)}"
        )
        self.logits = logits
        variables, categories = logits.shape[-2:]
        super().__init__(logits.shape[:-2], torch.Size([variables * categories]), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> _OneHotBlocks:
        """Concatenated points of the simplex."""
        return _OneHotBlocks(self.logits.shape[-1])

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> IndependentOneHotCategorical:
        """The same distribution with batch dimensions added."""
        return IndependentOneHotCategorical(self._expanded(batch_shape), validate_args=self._validate_args)

    def _expanded(self, batch_shape: torch.Size) -> Tensor:
        return self.logits.expand(*batch_shape, *self.logits.shape[-2:])

    @property
    def log_probs(self) -> Tensor:
        """``(*batch, V, C)``, finite even if the probability is 0."""
        return self.logits.log_softmax(-1).clamp_min(torch.finfo(self.logits.dtype).min)

    @property
    def mean(self) -> Tensor:
        """``(*batch, V * C)``, the probabilities."""
        return self.logits.softmax(-1).flatten(-2)

    @property
    def variance(self) -> Tensor:
        """``(*batch, V * C)``."""
        return self.mean * (1 - self.mean)

    def entropy(self) -> Tensor:
        """``(*batch,)``, in nats."""
        return -(self.logits.softmax(-1) * self.log_probs).sum((-2, -1))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability, ``(*sample, *batch)``, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        return (value.unflatten(-1, self.logits.shape[-2:]) * self.log_probs).sum((-2, -1))

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Samples, ``(*sample, *batch, V * C)``."""
        with torch.no_grad():
            return _one_hot(self._noisy(sample_shape)).flatten(-2)

    def _noisy(self, sample_shape: torch.Size) -> Tensor:
        """Log probabilities with Gumbel noise; the argmax is a sample."""
        log_probs = self.log_probs.expand(torch.Size(sample_shape) + self.logits.shape)
        return log_probs - torch.empty_like(log_probs).exponential_().log()

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All combinations, ``(C**V, *batch, V * C)``, or with ones for ``batch``.

        Raises:
            ValueError: more than ``MOST_COMBINATIONS``.
        """
        variables, categories = self.logits.shape[-2:]
        if categories**variables > MOST_COMBINATIONS:
            advice = "Sample them (estimator='score' or 'relaxed'), or use fewer variables"
            rule = f"at most {MOST_COMBINATIONS} combinations can be enumerated"
            raise refusal("IndependentOneHotCategorical", rule, f"{categories}**{variables}", advice)
        place = torch.tensor([categories**power for power in range(variables)], device=self.logits.device)
        digits = torch.arange(categories**variables, device=self.logits.device).unsqueeze(-1) // place % categories
        kinds = torch.arange(categories, device=self.logits.device)
        values = (digits.unsqueeze(-1) == kinds).flatten(-2).to(self.logits)  # (N, V * C)
        values = values.reshape(len(values), *(1 for _ in self.batch_shape), math.prod(self.event_shape))
        return values.expand(-1, *self.batch_shape, -1) if expand else values


class RelaxedIndependentOneHotCategorical(IndependentOneHotCategorical):
    r"""One-hot variables with relaxed samples, :math:`z_v = \mathrm{softmax}((\log \pi_v + g_v) / T)`, g Gumbel.

    ``log_prob`` is *not* the density of the relaxed samples but the log-probability of the one-hot variables, extended
    linearly. An ELBO with it is that of the one-hot variables in the limit of temperature 0 and biased above it.

    Args:
        logits: ``(*batch, V, C)``, unnormalised log probabilities.
        temperature: T, a positive number.
        straight_through: return the one-hot vector of the largest entry, with the gradient of the relaxed one.

    Shape:
        batch shape ``batch``, event shape ``(V * C,)``.

    References:
        Categorical reparameterization with Gumbel-Softmax (Jang et al., 2017), eq. 2 and section 2.2.
        https://arxiv.org/abs/1611.01144
        The concrete distribution: a continuous relaxation of discrete random variables (Maddison et al., 2017), eq. 10.
        https://arxiv.org/abs/1611.00712

    Example:
        >>> import torch
        >>> RelaxedIndependentOneHotCategorical(torch.zeros(5, 2, 3), torch.tensor(0.5)).rsample().shape
        torch.Size([5, 6])
    """

    has_rsample = True
    has_enumerate_support = False

    def __init__(
        self,
        logits: Tensor,
        temperature: Tensor,
        *,
        straight_through: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        check_shape("RelaxedIndependentOneHotCategorical", "temperature", temperature.shape, ())
        self.temperature, self.straight_through = temperature, straight_through
        super().__init__(logits, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> RelaxedIndependentOneHotCategorical:
        """The same distribution with batch dimensions added."""
        return RelaxedIndependentOneHotCategorical(
            self._expanded(batch_shape),
            self.temperature,
            straight_through=self.straight_through,
            validate_args=self._validate_args,
        )

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Samples with a gradient, ``(*sample, *batch, V * C)``."""
        soft = (self._noisy(sample_shape) / self.temperature).softmax(-1)
        # The difference in brackets is exactly 0, so the value is exactly one-hot.
        return (_one_hot(soft) + (soft - soft.detach()) if self.straight_through else soft).flatten(-2)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Samples without a gradient, ``(*sample, *batch, V * C)``."""
        with torch.no_grad():
            return self.rsample(sample_shape)


def split_into_variables(name: str, latent_dim: int, categories: int | None) -> tuple[int, int]:
    """Numbers of variables and of categories whose product is ``latent_dim``.

    Args:
        name: class name for the error.
        latent_dim: number of latent dimensions.
        categories: number of categories of each variable; None for a single variable.

    Returns:
        (variables, categories).

    Raises:
        ValueError: ``latent_dim`` is not a multiple of ``categories``.
    """
    categories = latent_dim if categories is None else categories
    if categories < 1 or latent_dim % categories:
        what = f"latent_dim={latent_dim}, categories={categories}"
        advice = "Use for example latent_dim=30, categories=10 for three variables"
        raise refusal(name, "latent_dim must be a multiple of categories", what, advice)
    return latent_dim // categories, categories


def _one_hot(scores: Tensor) -> Tensor:
    kinds = torch.arange(scores.shape[-1], device=scores.device)
    return (scores.argmax(-1, keepdim=True) == kinds).to(scores)


@register_kl(IndependentOneHotCategorical, IndependentOneHotCategorical)
def _kl_one_hot(q: IndependentOneHotCategorical, p: IndependentOneHotCategorical) -> Tensor:
    return (q.logits.softmax(-1) * (q.log_probs - p.log_probs)).sum((-2, -1))
