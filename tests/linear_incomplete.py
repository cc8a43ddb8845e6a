"""The linear-Gaussian model of incomplete data: posterior, evidence and conditional distribution in closed form."""

from __future__ import annotations

import torch
from pyro.distributions import MultivariateNormal
from torch import Tensor

from pyro_vae import VAE
from pyro_vae.guides import Guide
from tests.linear_gaussian import LinearGaussian


class Antithetic(MultivariateNormal):
    """Samples in pairs around the mean, so that averages of linear functions are exact."""

    def rsample(self, sample_shape=torch.Size()):  # noqa: B008
        z = super().rsample(sample_shape)
        first, second = z.chunk(2)
        return torch.cat([first, 2 * self.loc[: len(first)] - first]) if len(first) == len(second) else z

    def expand(self, batch_shape, _instance=None):
        return Antithetic(self.loc.expand(*batch_shape, -1), scale_tril=self.scale_tril.expand(*batch_shape, -1, -1))


class ObservedPosterior(Guide):
    """The exact posterior p(z | x_obs), or one ``inflate`` times as wide."""

    def __init__(self, model: LinearGaussian, inflate: float = 1.0, family: type = MultivariateNormal) -> None:
        super().__init__((len(model.bias),), model.weight.shape[1])
        self.exact, self.inflate, self.family = model, inflate, family

    def posterior(self, x: Tensor) -> MultivariateNormal:
        loc, covariance = self.exact_moments(x)
        return self.family(loc, scale_tril=self.inflate * torch.linalg.cholesky(covariance))

    def exact_moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``(*batch, L)`` and covariance ``(*batch, L, L)``."""
        weight, scale = self.exact.weight, self.exact.scale
        seen = weight.T * (~x.isnan()).unsqueeze(-2) / scale**2  # (*batch, L, D)
        covariance = torch.linalg.inv(torch.eye(self.latent_dim) + seen @ weight)
        centred = (x - self.exact.bias).nan_to_num(0.0)
        return (covariance @ seen @ centred.unsqueeze(-1)).squeeze(-1), covariance


class IncompleteGaussian(LinearGaussian):
    """A VAE of incomplete data with known weights, and a guide that is the posterior or wider than it."""

    def __init__(self, *, inflate: float = 1.0, family: type = MultivariateNormal) -> None:
        super().__init__(correlated=True)
        guide = ObservedPosterior(self, inflate, family)
        self.vae = VAE(self.vae.prior, self.vae.likelihood, guide, missing=True)

    def incomplete(self, num: int, share: float = 0.4) -> Tensor:
        """Data of which ``share`` is missing; the first datum has no observed entry."""
        x = self.data(num)
        x[torch.rand(x.shape) < share] = torch.nan
        x[0] = torch.nan
        return x

    def covariance(self) -> Tensor:
        return self.weight @ self.weight.T + self.scale**2 * torch.eye(len(self.bias))

    def log_prob_observed(self, x: Tensor) -> Tensor:
        """log p(x_obs), from the rows and columns of the covariance; 0 without an observed entry."""
        return torch.stack([self._log_prob(row, ~row.isnan()) for row in x])

    def _log_prob(self, row: Tensor, seen: Tensor) -> Tensor:
        if not seen.any():
            return torch.zeros(())
        return MultivariateNormal(self.bias[seen], self.covariance()[seen][:, seen]).log_prob(row[seen])

    def conditional_mean(self, x: Tensor) -> Tensor:
        """E[x | x_obs], by regression on the observed entries."""
        means = x.clone()
        for row, mean in zip(x, means, strict=True):
            seen, c = ~row.isnan(), self.covariance()
            gain = c[~seen][:, seen] @ torch.linalg.inv(c[seen][:, seen])
            mean[~seen] = self.bias[~seen] + gain @ (row[seen] - self.bias[seen])
        return means
