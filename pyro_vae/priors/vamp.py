"""The variational mixture of posteriors prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn
from typing_extensions import Self

from pyro_vae._core.checks import check_count, refusal, require
from pyro_vae.priors.base import Prior


@runtime_checkable
class Encoder(Protocol):
    """Interface of guides that a VampPrior accepts."""

    data_shape: tuple[int, ...]
    latent_dim: int

    def posterior(self, x: Tensor) -> TorchDistribution:
        """q(z | x)."""


class VampPrior(Prior):
    r"""Mixture of the guide's posteriors at learned pseudo-inputs, :math:`p(z) = \frac{1}{K} \sum_k q(z | u_k)`.

    The guide becomes a part of the model: its parameters get gradients through prior and posterior, and
    ``vae.with_guide(other)`` keeps it in the prior, so that p(z) does not change. Each training step encodes the K
    pseudo-inputs.

    Useful if the aggregate posterior is far from normal; call :meth:`initialise_pseudo_inputs` with training data.

    Args:
        guide: q(z | x), any guide whose posterior has a density; usually that of the VAE.
        num_components: number of pseudo-inputs K.
        bounds: range of the data, to which a sigmoid confines the pseudo-inputs; None for unbounded data.

    Shape:
        ``forward()`` returns a distribution with batch shape ``()`` and event shape ``(latent_dim,)``.

    Raises:
        ValueError: ``num_components`` is not positive, or ``bounds`` are not in increasing order.

    References:
        VAE with a VampPrior (Tomczak and Welling, 2018), eq. 10. https://arxiv.org/abs/1705.07120
        The authors clamp the pseudo-inputs, which has no gradient outside of the bounds; a sigmoid has one everywhere.

    Example:
        >>> import torch
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import VampPrior
        >>> guide = DiagonalNormalGuide((5,), 2)
        >>> prior = VampPrior(guide, num_components=10).initialise_pseudo_inputs(torch.rand(50, 5))
        >>> VAE(prior, BernoulliLikelihood(2, (5,)), guide).sample(3).shape
        torch.Size([3, 5])
    """

    def __init__(
        self, guide: Encoder, *, num_components: int = 500, bounds: tuple[float, float] | None = (0.0, 1.0)
    ) -> None:
        super().__init__(guide.latent_dim)
        check_count("VampPrior", num_components=num_components)
        valid = bounds is None or -math.inf < bounds[0] < bounds[1] < math.inf
        rule = "bounds must be (low, high), finite with low < high, or None"
        require(valid, "VampPrior", rule, f"bounds={bounds}")
        self.guide, self.data_shape, self.bounds = guide, tuple(guide.data_shape), bounds
        self.raw = nn.Parameter(torch.randn(num_components, *self.data_shape))

    @property
    def pseudo_inputs(self) -> Tensor:
        """u, ``(num_components, *data_shape)``."""
        if self.bounds is None:
            return self.raw
        low, high = self.bounds
        return low + (high - low) * self.raw.sigmoid()

    @torch.no_grad()
    def initialise_pseudo_inputs(self, x: Tensor) -> Self:
        """Set the pseudo-inputs to data, which are repeated if there are fewer than K.

        Args:
            x: ``(N, *data_shape)``, training data in random order.

        Returns:
            The prior itself.

        Raises:
            ValueError: ``x`` has another shape.
        """
        if tuple(x.shape[1:]) != self.data_shape or not len(x):
            rule, advice = f"x must be data of shape (N, *{self.data_shape})", "Pass a batch of the training data"
            raise refusal("VampPrior", rule, f"shape={tuple(x.shape)}", advice)
        rows = torch.arange(len(self.raw), device=x.device) % len(x)
        self.raw.copy_(self._to_raw(x[rows].to(self.raw)))
        return self

    def _to_raw(self, u: Tensor) -> Tensor:
        if self.bounds is None:
            return u
        low, high = self.bounds
        # Away from the bounds, where the sigmoid is flat.
        return ((u - low) / (high - low)).clamp(0.02, 0.98).logit()

    def forward(self) -> TorchDistribution:
        return MixtureOfPosteriors(self.guide.posterior, self.pseudo_inputs, self.latent_dim)


class MixtureOfPosteriors(TorchDistribution):
    r"""Equal mixture of posteriors, :math:`\frac{1}{K} \sum_k q(z | u_k)`; sampling encodes the chosen component only.

    Args:
        posterior: maps ``(*batch, *data_shape)`` to q(z | .).
        inputs: u, ``(K, *data_shape)``.
        latent_dim: number of latent dimensions L.
        batch_shape: shape of independent copies.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(
        self,
        posterior: Callable[[Tensor], TorchDistribution],
        inputs: Tensor,
        latent_dim: int,
        batch_shape: torch.Size = torch.Size(),  # noqa: B008
    ) -> None:
        self.posterior, self.inputs = posterior, inputs
        self._components: TorchDistribution | None = None
        super().__init__(batch_shape, torch.Size([latent_dim]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> MixtureOfPosteriors:
        new = MixtureOfPosteriors(self.posterior, self.inputs, self.event_shape[0], torch.Size(batch_shape))
        new._components = self._components
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        components = self.components()
        normals = getattr(components, "base_dist", None)
        if isinstance(normals, Normal):
            log_prob = log_normals(value, normals.loc, normals.scale)  # (*batch, K)
        else:
            log_prob = components.log_prob(value.unsqueeze(-2))  # (*batch, K)
        mean = log_prob.logsumexp(-1) - math.log(len(self.inputs))
        return mean.expand(torch.broadcast_shapes(mean.shape, self.batch_shape))

    def components(self) -> TorchDistribution:
        """The posteriors at all inputs, batch shape ``(K,)``; they are encoded once."""
        if self._components is None:
            self._components = self.posterior(self.inputs)
        return self._components

    @property
    def has_rsample(self) -> bool:
        """Whether the posteriors have it; the weights are fixed, so samples depend on their component's parameters."""
        return bool(self.components().has_rsample)

    @property
    def support(self) -> Any:
        """Support of the posteriors."""
        return self.components().support

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            return self._chosen(sample_shape).sample()

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self._chosen(sample_shape).rsample()

    def _chosen(self, sample_shape: torch.Size) -> TorchDistribution:
        shape = torch.Size(sample_shape) + self.batch_shape
        return self.posterior(self.inputs[torch.randint(len(self.inputs), shape, device=self.inputs.device)])


def log_normals(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    r"""Log-density of every z under every diagonal normal, :math:`z^2 \sigma^{-2} - 2 z \mu\sigma^{-2} + \dots`.

    By matrix products, in double precision since the large terms of narrow normals cancel; still much faster than
    differences of shape ``(*batch, K, L)``, which exceed the cache.

    Args:
        z: ``(*batch, L)``.
        loc: ``(K, L)``.
        scale: ``(K, L)``.

    Returns:
        ``(*batch, K)``, log densities in nats, with the dtype of z.
    """
    x, mean, precision = z.double(), loc.double(), scale.double() ** -2
    square = x.square() @ precision.mT - 2 * x @ (mean * precision).mT + (mean.square() * precision).sum(-1)
    constant = 0.5 * precision.log().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)  # (K,)
    return (constant - 0.5 * square).to(z.dtype)
