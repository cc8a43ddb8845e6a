"""Generative adversarial networks: a prior and a generator, without inference."""

from __future__ import annotations

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vae._core.checks import refusal, require
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.models.vae import VAE
from pyro_vae.networks import Shape
from pyro_vae.priors import Prior


class PriorGuide(Guide):
    """The prior in place of an encoder, :math:`q(z | x) = p(z)`.

    Args:
        data_shape: shape of one datum.
        prior: p(z).
    """

    def __init__(self, data_shape: Shape, prior: Prior) -> None:
        super().__init__(data_shape, prior.latent_dim)
        self.prior = prior

    def posterior(self, x: Tensor) -> TorchDistribution:
        return self.prior().expand(x.shape[: x.dim() - len(self.data_shape)])


class ImplicitModel(VAE):
    r"""A generative adversarial network, :math:`z \sim p(z)`, :math:`x = g(z)`: samples, and nothing else.

    It has neither a density nor an encoder; what needs one of them is refused. ``fit(m.model, m.guide, data,
    objective=AdversarialSamples())`` trains it, and :func:`~pyro_vae.evaluation.sample_quality` evaluates it as any
    VAE.

    Args:
        prior: p(z).
        likelihood: the generator, an :class:`~pyro_vae.likelihoods.ImplicitLikelihood`.

    Raises:
        ValueError: the likelihood has a density, or the two do not share ``latent_dim``.

    References:
        Generative adversarial nets (Goodfellow et al., 2014). https://arxiv.org/abs/1406.2661

    Example:
        >>> from pyro_vae.likelihoods import ImplicitLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> ImplicitModel(StandardNormalPrior(2), ImplicitLikelihood(2, (1, 8, 8))).sample(3).shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(self, prior: Prior, likelihood: Likelihood) -> None:
        kind, advice = type(likelihood).__name__, "Use an ImplicitLikelihood, or a VAE"
        require(likelihood.implicit, "ImplicitModel", "the likelihood must have no density", f"a {kind}", advice)
        super().__init__(prior, likelihood, PriorGuide(likelihood.data_shape, prior))

    def with_guide(self, guide: Guide) -> VAE:
        """A VAE of the generator and an encoder, such as for AdversarialReconstruction."""
        return VAE(self.prior, self.likelihood, guide)

    def encode(self, x: Tensor) -> TorchDistribution:
        """Not available.

        Raises:
            ValueError: always.
        """
        raise _no_encoder()

    def reconstruct(self, x: Tensor) -> Tensor:
        """Not available.

        Raises:
            ValueError: always.
        """
        raise _no_encoder()


def _no_encoder() -> ValueError:
    advice = "Train a VAE with the objective AdversarialReconstruction"
    return refusal("ImplicitModel", "the model must have an encoder", "a generator alone", advice)
