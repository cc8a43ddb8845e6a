"""The conditional variational autoencoder: a model of data given a context."""

from __future__ import annotations

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae._core.checks import CheckedArguments, check_arguments, check_count, check_shape, refusal, require
from pyro_vae._core.html import DisplayedModule
from pyro_vae._core.param_store import register
from pyro_vae._core.saved_modules import SavedModule
from pyro_vae.distributions import GivenEntries, mean_or_sample
from pyro_vae.guides import AmortizedGuide, Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.models.given import Given
from pyro_vae.models.vae import check_pieces
from pyro_vae.priors import Prior


class ConditionalModel(nn.Module, CheckedArguments):
    r"""The Pyro model :math:`p(z | c)\, p(x | z, c)`; calling it runs it.

    Args:
        prior: p(z), or p(z | c) if it is conditional.
        likelihood: p(x | z, c), called as ``likelihood(z, c)``.
        given: the function c(x), if the context is one of the data.
        score_seen: whether the likelihood scores the entries that the context contains, too.

    Example:
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.networks import MLP, with_context
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> likelihood = BernoulliLikelihood(2, (5,), net=with_context(MLP, 3))
        >>> model = ConditionalModel(StandardNormalPrior(2), likelihood, None, score_seen=False)
        >>> model(None, torch.tensor([0, 2])).shape  # of two classes
        torch.Size([2, 5])
    """

    def __init__(self, prior: Prior, likelihood: Likelihood, given: Given | None, *, score_seen: bool) -> None:
        super().__init__()
        self.prior, self.likelihood, self.given, self.score_seen = prior, likelihood, given, score_seen

    def forward(self, x: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """Run the Pyro model: sample ``"z"`` and ``"x"`` within the plate ``"data"``.

        Args:
            x: ``(B, *data_shape)``, observed; None to sample x given the context.
            context: c, ``(B, *context_shape)``, or classes ``(B,)``; None if it is a function of x.

        Returns:
            x, ``(B, *data_shape)``.
        """
        register(self)
        c = self.context(x) if context is None else context
        with pyro.plate("data", len(c), dim=-1):
            z = pyro.sample("z", self.latent(c))
            return pyro.sample("x", self.decode(z, c), obs=x)

    def context(self, x: Tensor | None) -> Tensor:
        """c(x), for ``(*batch, *data_shape)``.

        Raises:
            ValueError: the context is not a function of x.
        """
        if self.given is None or x is None:
            rule, advice = "the programs must be called with x and a context", "Pass the data as (x, c)"
            raise refusal("ConditionalVAE", rule, "no context", advice)
        return self.given(x)

    def latent(self, context: Tensor) -> TorchDistribution:
        """p(z | c), of batch shape ``batch`` or ``()``."""
        return self.prior(context) if self.prior.conditional else self.prior()

    def decode(self, z: Tensor, context: Tensor) -> TorchDistribution:
        """p(x | z, c); the density is that of the entries that the context does not contain."""
        p, given = self.likelihood(z, context), self.given
        seen = None if given is None or self.score_seen else given.seen
        return p if seen is None else GivenEntries(p, seen, context)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(z | c) + log p(x | z, c), ``batch``, for ``x`` ``(*batch, *data_shape)`` and c = c(x)."""
        c = self.context(x)
        return self.latent(c).log_prob(z) + self.decode(z, c).log_prob(x)


class ConditionalVAE(nn.Module, DisplayedModule, SavedModule, CheckedArguments):
    r"""Conditional variational autoencoder: :math:`p(z | c)\, p(x | z, c)` with the posterior :math:`q(z | x, c)`.

    The context c is either a second argument of the programs, a class or any array, ``fit(vae.model, vae.guide,
    (x, c))``; or a function of the data, such as a part of an image, ``fit(vae.model, vae.guide, x)``. In the second
    case q(z | x) needs no context, any guide can be used, and of x the likelihood scores only the entries that the
    context does not contain: all estimates are of log p(x_unseen | x_seen).

    Args:
        prior: p(z), or p(z | c), a :class:`~pyro_vae.priors.ConditionalPrior`.
        likelihood: p(x | z, c), whose network takes a context, see :func:`~pyro_vae.networks.with_context`.
        guide: q(z | x, c), amortized, whose network takes a context; with ``given`` q(z | x), any guide.
        given: the function c(x): :class:`~pyro_vae.models.SeenEntries`, ``GreyLevels`` or ``LowResolution``.
        score_seen: score the entries that the context contains, too; the number is then not comparable.

    Attributes:
        model: the Pyro model, ``model(x, c)`` or ``model(x)``, with the sites ``"z"`` and ``"x"`` in the plate
            ``"data"``.
        guide: the Pyro guide, ``guide(x, c)`` or ``guide(x)``, with the site ``"z"``.

    Raises:
        ValueError: the pieces do not share ``latent_dim`` or ``data_shape``, or the guide takes no context.

    References:
        Learning structured output representation using deep conditional generative models (Sohn, Lee and Yan, 2015),
        eq. 4. https://papers.nips.cc/paper/2015/hash/8d55a249e6baa5c06772297520da2051-Abstract.html

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from pyro_vae import ConditionalVAE, fit, log_likelihood
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.networks import MLP, with_context
        >>> from pyro_vae.priors import ConditionalPrior
        >>> net = with_context(MLP, 3)  # of three classes
        >>> prior = ConditionalPrior(DiagonalNormalGuide((3,), 2))
        >>> vae = ConditionalVAE(prior, BernoulliLikelihood(2, (5,), net=net), DiagonalNormalGuide((5,), 2, net=net))
        >>> x, c = torch.ones(60, 5), torch.arange(60) % 3
        >>> _ = fit(vae.model, vae.guide, (x, c), epochs=2, batch_size=20)
        >>> len(log_likelihood(vae.model, vae.guide, (x, c), num_samples=10)), vae.sample(c).shape
        (60, torch.Size([1, 60, 5]))
    """

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        guide: Guide,
        *,
        given: Given | None = None,
        score_seen: bool = False,
    ) -> None:
        super().__init__()
        check_pieces("ConditionalVAE", prior, likelihood, guide)
        self.model = ConditionalModel(prior, likelihood, given, score_seen=score_seen)
        self.guide = guide
        if given is None:
            rule = "the guide of a context that is no function of x must be amortized, with a network of x and c"
            advice = "Use DiagonalNormalGuide with net=with_context(MLP, context_shape)"
            require(isinstance(guide, AmortizedGuide), "ConditionalVAE", rule, type(guide).__name__, advice)
        else:
            self._check_given(given)
            guide.attach(self.model.log_joint)

    def _check_given(self, given: Given) -> None:
        rule, got = f"given must be of data_shape={self.data_shape}", f"data_shape={given.data_shape}"
        require(given.data_shape == self.data_shape, "ConditionalVAE", rule, got)

    @property
    def prior(self) -> Prior:
        """p(z) or p(z | c)."""
        return self.model.prior

    @property
    def likelihood(self) -> Likelihood:
        """p(x | z, c)."""
        return self.model.likelihood

    @property
    def given(self) -> Given | None:
        """c(x), if the context is a function of the data."""
        return self.model.given

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions L."""
        return self.prior.latent_dim

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return self.likelihood.data_shape

    def with_guide(self, guide: Guide) -> ConditionalVAE:
        """Combine the model with another guide; the model's tensors are shared, not copied.

        Args:
            guide: q(z | x, c) for the same latent_dim, data_shape and context.
        """
        model = self.model
        return ConditionalVAE(model.prior, model.likelihood, guide, given=model.given, score_seen=model.score_seen)

    def encode(self, x: Tensor, *context: Tensor) -> TorchDistribution:
        """q(z | x, c) for ``x`` of shape ``(*batch, *data_shape)``; without ``context`` if c is a function of x."""
        return self.guide.posterior(x, *context)

    def decode(self, z: Tensor, context: Tensor) -> TorchDistribution:
        """p(x | z, c) for ``z`` of shape ``(*batch, latent_dim)``; the entries that c contains are given."""
        return self.model.decode(z, context)

    @torch.no_grad()
    def sample(self, context: Tensor, num_samples: int = 1, *, mean: bool = False) -> Tensor:
        """Sample from p(x | c): z from the prior, then x from p(x | z, c).

        Args:
            context: c, ``(B, *context_shape)``, such as ``vae.given(x)``; or classes ``(B,)``.
            num_samples: number of samples N for each context.
            mean: return the mean of p(x | z, c), as figures usually show, instead of a sample, if it has a closed form.

        Returns:
            ``(N, B, *data_shape)``; the entries that the context contains are those of the context, if not scored.

        Raises:
            ValueError: ``num_samples`` is not positive, or the context is of another shape.
        """
        check_arguments(ConditionalVAE.sample, locals())
        check_count("ConditionalVAE.sample", num_samples=num_samples)
        if self.given is not None:
            check_shape("ConditionalVAE", "context", context.shape[1:], self.given.context_shape, "Pass vae.given(x)")
        z = self.model.latent(context).expand(torch.Size((num_samples, len(context)))).sample()  # (N, B, L)
        p = self.decode(z, context)
        return mean_or_sample(p) if mean else p.sample()

    @torch.no_grad()
    def reconstruct(self, x: Tensor, *context: Tensor) -> Tensor:
        """Mean of p(x | z, c), or else a sample, at one sample z of q(z | x, c), ``(*batch, *data_shape)``."""
        z = self.encode(x, *context).sample()
        return mean_or_sample(self.decode(z, context[0] if context else self.model.context(x)))
