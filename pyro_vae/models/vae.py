"""The variational autoencoder: a prior and a likelihood bound into a Pyro model, next to a guide."""

from __future__ import annotations

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae._core.param_store import register
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.priors import Prior, VampPrior


class GenerativeModel(nn.Module):
    r"""The Pyro model :math:`p(x, z) = p(z)\, p(x | z)`; calling it runs it.

    Args:
        prior: p(z).
        likelihood: p(x | z).

    Example:
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> model = GenerativeModel(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)))
        >>> model(batch_size=3).shape
        torch.Size([3, 5])
    """

    def __init__(self, prior: Prior, likelihood: Likelihood) -> None:
        super().__init__()
        self.prior, self.likelihood = prior, likelihood

    def forward(self, x: Tensor | None = None, *, batch_size: int = 1) -> Tensor:
        """The Pyro model: samples ``"z"`` and ``"x"`` within the plate ``"data"``.

        Args:
            x: ``(B, *data_shape)``, observed; without it x is sampled.
            batch_size: number of data to sample where ``x`` is not given.

        Returns:
            x, ``(B, *data_shape)``.
        """
        register(self)
        with pyro.plate("data", batch_size if x is None else x.shape[0], dim=-1):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(z), obs=x)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z) = log p(z) + log p(x | z) for ``x`` ``(*batch, *data_shape)``, z ``(*batch, L)``: ``batch``."""
        return self.prior().log_prob(z) + self.likelihood(z).log_prob(x)


class VAE(nn.Module):
    r"""Variational autoencoder: :math:`p(z)\, p(x | z)` with the amortised posterior :math:`q(z | x)`.

    Args:
        prior: p(z).
        likelihood: p(x | z).
        guide: q(z | x).

    Attributes:
        model: the Pyro model, an ``nn.Module``; ``model(x)`` has the sites ``"z"`` and ``"x"`` in the plate ``"data"``.
        guide: the Pyro guide, an ``nn.Module``; ``guide(x)`` has the site ``"z"``.

    Raises:
        ValueError: the three do not share ``latent_dim``, or the data shapes differ.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014). https://arxiv.org/abs/1312.6114
        Stochastic backpropagation and approximate inference in deep generative models (Rezende et al., 2014).
        https://arxiv.org/abs/1401.4082

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

    def __init__(self, prior: Prior, likelihood: Likelihood, guide: Guide) -> None:
        super().__init__()
        dims = {"prior": prior.latent_dim, "likelihood": likelihood.latent_dim, "guide": guide.latent_dim}
        if len(set(dims.values())) > 1:
            raise ValueError(
                "VAE: prior, likelihood and guide must share latent_dim, got "
                f"{', '.join(f'{k}={v}' for k, v in dims.items())}. Build all three with the same latent_dim."
            )
        if isinstance(prior, VampPrior) and getattr(prior.guide, "needs_model", False):
            raise ValueError(
                "VAE: a VampPrior's guide must not depend on the model, whose prior it is, got "
                f"guide={type(prior.guide).__name__}. Build the prior with another guide."
            )
        categories = getattr(prior, "categories", None), getattr(guide, "categories", None)
        if None not in categories and len(set(categories)) > 1:
            raise ValueError(
                f"VAE: prior and guide must share categories, got prior={categories[0]}, guide={categories[1]}. "
                "Build both with the same categories."
            )
        shapes = {"likelihood": likelihood.data_shape, "guide": guide.data_shape}
        if isinstance(prior, VampPrior):
            shapes["pseudo-inputs"] = prior.data_shape
        if len(set(shapes.values())) > 1:
            raise ValueError(
                f"VAE: {', '.join(list(shapes)[:-1])} and {list(shapes)[-1]} must share data_shape, got "
                f"{', '.join(f'{k}={v}' for k, v in shapes.items())}. Build them with the same data_shape."
            )
        self.model = GenerativeModel(prior, likelihood)
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

    def with_guide(self, guide: Guide) -> VAE:
        """The same model with another guide; the model's tensors are shared, not copied.

        Args:
            guide: q(z | x) for the same latent_dim and data_shape.
        """
        return VAE(self.prior, self.likelihood, guide)

    def encode(self, x: Tensor) -> TorchDistribution:
        """q(z | x) for ``x`` of shape ``(*batch, *data_shape)``."""
        return self.guide.posterior(x)

    def decode(self, z: Tensor) -> TorchDistribution:
        """p(x | z) for ``z`` of shape ``(*batch, latent_dim)``."""
        return self.likelihood(z)

    @torch.no_grad()
    def sample(self, num_samples: int = 1, *, mean: bool = False) -> Tensor:
        """Draw from the model: z from the prior, then x from p(x | z), or its mean.

        Args:
            num_samples: number of draws N.
            mean: return the mean of p(x | z), which is what figures usually show, instead of a draw.

        Returns:
            ``(N, *data_shape)``.
        """
        p = self.decode(self.prior().sample(torch.Size([num_samples])))
        return p.mean if mean else p.sample()

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of p(x | z) at one draw z of q(z | x), ``(*batch, *data_shape)``."""
        return self.decode(self.encode(x).sample()).mean
