"""Linear-Gaussian model, all quantities in closed form: x = W z + b + sigma eps, z ~ N(0, I)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyro_vae import VAE
from pyro_vae.guides import DiagonalNormalGuide, FullRankNormalGuide
from pyro_vae.likelihoods import NormalLikelihood
from pyro_vae.networks import MLP
from pyro_vae.priors import StandardNormalPrior


class LinearGaussian:
    """A VAE with known weights, its exact evidence and posterior, and a guide that is the posterior or wider than it.

    The columns of W are orthogonal, so that the posterior is a diagonal normal; or else the guide has full rank.

    Args:
        latent_dim: L.
        dim: D, size of a datum.
        scale: sigma.
        inflate: factor on the posterior's standard deviation; 1 is exact.
        shift: added to the posterior's mean.
        correlated: mix the columns of W, so that the posterior's dimensions are correlated.
    """

    def __init__(
        self,
        latent_dim: int = 3,
        dim: int = 7,
        *,
        scale: float = 0.5,
        inflate: float = 1.0,
        shift: float = 0.0,
        correlated: bool = False,
    ) -> None:
        g = torch.Generator().manual_seed(1)
        q, _ = torch.linalg.qr(torch.randn(dim, latent_dim, generator=g))
        self.weight = q * torch.linspace(0.4, 1.5, latent_dim)  # (D, L)
        self.bias, self.scale = torch.randn(dim, generator=g), scale
        if correlated:
            self.weight = self.weight @ torch.randn(latent_dim, latent_dim, generator=g)
        self.vae = self._vae(latent_dim, dim, FullRankNormalGuide if correlated else DiagonalNormalGuide)
        self._set_model()
        if correlated:
            self._set_full_rank_guide(inflate, shift)
        else:
            self._set_guide(inflate, shift)

    def _vae(self, latent_dim: int, dim: int, guide: type) -> VAE:
        linear = partial(MLP, hidden=())
        likelihood = NormalLikelihood(latent_dim, (dim,), net=linear, scale=self.scale)
        return VAE(StandardNormalPrior(latent_dim), likelihood, guide((dim,), latent_dim, net=linear))

    @torch.no_grad()
    def _set_model(self) -> None:
        layer = self.vae.likelihood.net.layers[0]
        layer.weight.copy_(self.weight)
        layer.bias.copy_(self.bias)

    @torch.no_grad()
    def _set_guide(self, inflate: float, shift: float) -> None:
        layer, n = self.vae.guide.net.layers[0], self.weight.shape[1]
        gain = self.posterior_variance().unsqueeze(-1) * self.weight.T / self.scale**2  # (L, D)
        layer.weight.copy_(torch.cat([gain, torch.zeros_like(gain)]))
        layer.bias[:n] = shift - gain @ self.bias
        layer.bias[n:] = self.posterior_variance().sqrt().mul(inflate).log()

    @torch.no_grad()
    def _set_full_rank_guide(self, inflate: float, shift: float) -> None:
        layer, n = self.vae.guide.net.layers[0], self.weight.shape[1]
        covariance = self.posterior_covariance()
        gain = covariance @ self.weight.T / self.scale**2  # (L, D)
        factor = torch.linalg.cholesky(covariance)  # diag(s) (I + A / L)
        entries = n * (factor / factor.diagonal().unsqueeze(-1))[tuple(torch.tril_indices(n, n, -1))]
        layer.weight.copy_(torch.cat([gain, gain.new_zeros(n + len(entries), gain.shape[1])]))
        layer.bias.copy_(torch.cat([shift - gain @ self.bias, factor.diagonal().mul(inflate).log(), entries]))

    def posterior_covariance(self) -> Tensor:
        """(L, L), (I + W'W / sigma^2)^-1."""
        return torch.linalg.inv(torch.eye(self.weight.shape[1]) + self.weight.T @ self.weight / self.scale**2)

    def posterior_mean(self, x: Tensor) -> Tensor:
        """(B, L)."""
        return (x - self.bias) @ self.weight @ self.posterior_covariance() / self.scale**2

    def posterior_variance(self) -> Tensor:
        """(L,), the diagonal of (I + W'W / sigma^2)^-1."""
        return 1 / (1 + self.weight.square().sum(0) / self.scale**2)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), (B,)."""
        covariance = self.weight @ self.weight.T + self.scale**2 * torch.eye(len(self.bias))
        return MultivariateNormal(self.bias, covariance).log_prob(x)

    def data(self, num: int) -> Tensor:
        """(num, D), drawn from the model."""
        return self.vae.sample(num)
