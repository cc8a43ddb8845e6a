"""The variational autoencoder: a Pyro model from a prior and a likelihood, and a guide."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae._core.checks import CheckedArguments, check_equal, require
from pyro_vae._core.html import DisplayedModule
from pyro_vae._core.param_store import register
from pyro_vae._core.saved_modules import SavedModule
from pyro_vae.distributions import ObservedEntries, mean_or_sample
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.priors import Prior, VampPrior


class GenerativeModel(nn.Module, CheckedArguments):
    r"""The Pyro model :math:`p(x, z) = p(z)\, p(x | z)`; calling it runs it.

    Args:
        prior: p(z).
        likelihood: p(x | z).
        missing: whether entries of x that are NaN are missing; see :class:`VAE`.

    Example:
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> model = GenerativeModel(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)))
        >>> model(batch_size=3).shape
        torch.Size([3, 5])
    """

    def __init__(self, prior: Prior, likelihood: Likelihood, *, missing: bool = False) -> None:
        super().__init__()
        self.prior, self.likelihood, self.missing = prior, likelihood, missing

    def forward(self, x: Tensor | None = None, *context: Tensor, batch_size: int = 1) -> Tensor:
        """Run the Pyro model: sample ``"z"`` and ``"x"`` within the plate ``"data"``.

        Args:
            x: ``(B, *data_shape)``, observed; None to sample x.
            context: further arguments of the likelihood, such as log size factors ``(B, 1)`` of counts.
            batch_size: number of data to sample if ``x`` is None.

        Returns:
            x, ``(B, *data_shape)``.
        """
        register(self)
        with pyro.plate("data", batch_size if x is None else x.shape[0], dim=-1):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.observation(z, *context), obs=x)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(z) + log p(x | z), ``batch``, for ``x`` ``(*batch, *data_shape)`` and ``z`` ``(*batch, L)``."""
        return self.prior().log_prob(z) + self.observation(z).log_prob(x)

    def observation(self, z: Tensor, *context: Tensor) -> TorchDistribution:
        """p(x | z), or with ``missing`` its marginal distribution of the observed entries of x."""
        p = self.likelihood(z, *context)
        return ObservedEntries(p) if self.missing else p


class VAE(nn.Module, DisplayedModule, SavedModule, CheckedArguments):
    r"""Variational autoencoder: :math:`p(z)\, p(x | z)` with the amortized posterior :math:`q(z | x)`.

    Args:
        prior: p(z).
        likelihood: p(x | z).
        guide: q(z | x).
        missing: whether entries of x that are NaN are missing. The model is then that of the observed entries,
            :math:`p(x_{obs}, z) = p(z) \prod_{d \in obs} p(x_d | z)`: the likelihood must have entries that are
            independent given z, and the guide must take such data, as does one whose network is a
            :class:`~pyro_vae.networks.ZeroFilledNetwork`. log p is 0 for a datum without an observed entry.

    Attributes:
        model: the Pyro model, an ``nn.Module``; ``model(x)`` has the sites ``"z"`` and ``"x"`` in the plate ``"data"``.
        guide: the Pyro guide, an ``nn.Module``; ``guide(x)`` has the site ``"z"``. Both take further arguments, which
            the likelihood and an amortized guide receive: ``model(x, log_size)``.

    Raises:
        ValueError: the three do not share ``latent_dim``, or the data shapes differ.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014). https://arxiv.org/abs/1312.6114
        Stochastic backpropagation and approximate inference in deep generative models (Rezende et al., 2014).
        https://arxiv.org/abs/1401.4082
        MIWAE: deep generative modelling and imputation of incomplete data sets (Mattei and Frellsen, 2019).
        https://arxiv.org/abs/1812.02633

    Example:
        >>> import torch
        >>> from pyro.infer import SVI, Trace_ELBO
        >>> from pyro.optim import Adam
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), Trace_ELBO())
        >>> svi.step(torch.ones(7, 5)) > 0
        True
    """

    def __init__(self, prior: Prior, likelihood: Likelihood, guide: Guide, *, missing: bool = False) -> None:
        super().__init__()
        check_pieces("VAE", prior, likelihood, guide)
        advice = "Build a ConditionalVAE, or use a prior without a context"
        require(not prior.conditional, "VAE", "the prior must not be conditional", type(prior).__name__, advice)
        self.model = GenerativeModel(prior, likelihood, missing=missing)
        self.guide = guide
        guide.attach(self.model.log_joint)

    @property
    def prior(self) -> Prior:
        """p(z)."""
        return self.model.prior

    @property
    def likelihood(self) -> Likelihood:
        """p(x | z)."""
        return self.model.likelihood

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions L."""
        return self.prior.latent_dim

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return self.likelihood.data_shape

    @property
    def missing(self) -> bool:
        """Whether entries that are NaN are missing."""
        return self.model.missing

    def with_guide(self, guide: Guide) -> VAE:
        """Combine the model with another guide; the model's tensors are shared, not copied.

        Args:
            guide: q(z | x) for the same latent_dim and data_shape.
        """
        return VAE(self.prior, self.likelihood, guide, missing=self.missing)

    def encode(self, x: Tensor) -> TorchDistribution:
        """q(z | x) for ``x`` of shape ``(*batch, *data_shape)``."""
        return self.guide.posterior(x)

    def decode(self, z: Tensor) -> TorchDistribution:
        """p(x | z) for ``z`` of shape ``(*batch, latent_dim)``."""
        return self.likelihood(z)

    @torch.no_grad()
    def sample(self, num_samples: int = 1, *, mean: bool = False) -> Tensor:
        """Sample from the model: z from the prior, then x from p(x | z).

        Args:
            num_samples: number of samples N.
            mean: return the mean of p(x | z), as figures usually show, instead of a sample, if it has a closed form.

        Returns:
            ``(N, *data_shape)``.

        Raises:
            ValueError: the encoder is deterministic and the prior has no parameters that could have been fitted to its
                codes.
        """
        check_prior("VAE", self)
        p = self.decode(self.prior().sample(torch.Size([num_samples])))
        return mean_or_sample(p) if mean else p.sample()

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Mean of p(x | z), or else a sample, at one sample z of q(z | x), ``(*batch, *data_shape)``."""
        return mean_or_sample(self.decode(self.encode(x).sample()))


def is_autoencoder(vae: VAE) -> bool:
    """Whether a model has a deterministic encoder and a prior without parameters that could be fitted to its codes."""
    return is_deterministic(vae.guide) and not any(True for _ in vae.prior.parameters())


def is_deterministic(guide: Any) -> bool:
    """Whether q(z | x) is a point; the guide may be a user's, of any type."""
    return bool(getattr(guide, "deterministic", False))


def check_prior(owner: str, vae: VAE) -> None:
    """Require a prior from which to sample.

    Raises:
        ValueError: the model is an autoencoder.
    """
    rule = "an autoencoder has no distribution of z to sample from"
    advice = "Fit one to its codes with fit_latent_density, or train a VAE"
    require(not is_autoencoder(vae), owner, rule, f"guide={type(vae.guide).__name__}", advice)


def check_posterior(owner: str, vae: VAE) -> None:
    """Require a guide whose samples differ.

    Raises:
        ValueError: the guide is deterministic.
    """
    rule, what = "the guide must not be deterministic", f"guide={type(vae.guide).__name__}"
    require(not is_deterministic(vae.guide), owner, rule, what, "Use a DiagonalNormalGuide")


def check_pieces(owner: str, prior: Prior, likelihood: Likelihood, guide: Guide) -> None:
    """Require pieces of one latent_dim, one data_shape and, if discrete, one number of categories.

    Raises:
        ValueError: they differ; the message begins with ``owner``.
    """
    pieces = {"prior": prior, "likelihood": likelihood, "guide": guide}
    check_equal(owner, "latent_dim", {name: piece.latent_dim for name, piece in pieces.items()})
    categories = {name: getattr(pieces[name], "categories", None) for name in ("prior", "guide")}
    if None not in categories.values():
        check_equal(owner, "categories", categories)
    shapes = {"likelihood": likelihood.data_shape, "guide": guide.data_shape}
    if isinstance(prior, VampPrior):
        shapes["pseudo-inputs"] = prior.data_shape
        rule, what = "the guide of a VampPrior must not depend on the model", f"guide={type(prior.guide).__name__}"
        require(not getattr(prior.guide, "needs_model", False), owner, rule, what, "Build the prior with another guide")
        rule = "the guide of a VampPrior must not be deterministic"
        require(not is_deterministic(prior.guide), owner, rule, what, "Use a DiagonalNormalGuide")
    check_equal(owner, "data_shape", shapes)
