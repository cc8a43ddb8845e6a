"""Conditional linear-Gaussian model in closed form: x = W z + V c + b + sigma eps, z ~ N(A c + a, diag(s^2))."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyro_vae import ConditionalVAE
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import NormalLikelihood
from pyro_vae.models import SeenEntries
from pyro_vae.networks import MLP, with_context
from pyro_vae.priors import ConditionalPrior

L, D, C = 3, 6, 4


class ConditionalLinearGaussian:
    """A conditional VAE whose guide is the exact posterior, or wider than it by ``inflate``.

    Args:
        inflate: factor on the posterior's standard deviation.
        joined: c is a part of the data, ``[x; c]``, instead of a second argument.
    """

    def __init__(self, *, inflate: float = 1.0, joined: bool = False) -> None:
        g = torch.Generator().manual_seed(2)
        q, _ = torch.linalg.qr(torch.randn(D, L, generator=g))
        self.w, self.scale = q * torch.linspace(0.5, 1.4, L), 0.6  # (D, L), orthogonal columns
        self.v, self.a = torch.randn(D, C, generator=g), torch.randn(L, C, generator=g)
        self.b, self.a0 = torch.randn(D, generator=g), torch.randn(L, generator=g)
        self.s = torch.linspace(0.7, 1.6, L)
        self.variance = 1 / (1 / self.s**2 + self.w.square().sum(0) / self.scale**2)  # (L,)
        self.joined = joined
        self.vae = self._joined(inflate) if joined else self._separate(inflate)

    def _pieces(self, size: int, context: int) -> tuple[ConditionalPrior, NormalLikelihood]:
        linear = partial(MLP, hidden=())
        prior = ConditionalPrior(DiagonalNormalGuide((context,), L, net=linear))
        return prior, NormalLikelihood(L, (size,), net=with_context(linear, context), scale=self.scale)

    def _separate(self, inflate: float) -> ConditionalVAE:
        prior, likelihood = self._pieces(D, C)
        guide = DiagonalNormalGuide((D,), L, net=with_context(partial(MLP, hidden=()), C))
        _set(prior.guide.net, [self.a], self.a0, self.s)
        _set(likelihood.net.net, [self.w, self.v], self.b)
        _set(guide.net.net, self._gains(), self._offset(), inflate * self.variance.sqrt())
        return ConditionalVAE(prior, likelihood, guide)

    def _joined(self, inflate: float) -> ConditionalVAE:
        prior, likelihood = self._pieces(D + C, D + C)
        guide = DiagonalNormalGuide((D + C,), L, net=partial(MLP, hidden=()))
        seen, unused = torch.arange(D + C) >= D, 7.0  # numbers that no result may depend on
        _set(prior.guide.net, [torch.full((L, D), unused), self.a], self.a0, self.s)
        rows = torch.full((C, L), unused), torch.full((C, D + C), unused)
        weights = [
            torch.cat([self.w, rows[0]]),
            torch.cat([torch.cat([torch.full((D, D), unused), self.v], 1), rows[1]]),
        ]
        _set(likelihood.net.net, weights, torch.cat([self.b, torch.full((C,), unused)]))
        _set(guide.net, self._gains(), self._offset(), inflate * self.variance.sqrt())
        return ConditionalVAE(prior, likelihood, guide, given=SeenEntries(seen))

    def _gains(self) -> list[Tensor]:
        """The posterior mean's slopes in x and c, ``(L, D)`` and ``(L, C)``."""
        gain = self.variance.unsqueeze(-1) * self.w.T / self.scale**2
        return [gain, self.variance.unsqueeze(-1) * self.a / self.s.unsqueeze(-1) ** 2 - gain @ self.v]

    def _offset(self) -> Tensor:
        return self.variance * (self.a0 / self.s**2) - self._gains()[0] @ self.b

    def posterior_mean(self, x: Tensor, c: Tensor) -> Tensor:
        """``(B, L)``, from the joint normal of x and z given c."""
        loc, cov = self.moments(c)
        cross = self.s.square().unsqueeze(-1) * self.w.T  # (L, D)
        return self.a0 + c @ self.a.T + (x - loc) @ torch.linalg.solve(cov, cross.T)

    def moments(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``(B, D)`` and covariance ``(D, D)`` of p(x | c)."""
        loc = (self.a0 + c @ self.a.T) @ self.w.T + c @ self.v.T + self.b
        return loc, self.w @ torch.diag(self.s**2) @ self.w.T + self.scale**2 * torch.eye(D)

    def log_prob(self, x: Tensor, c: Tensor) -> Tensor:
        """log p(x | c), ``(B,)``."""
        return MultivariateNormal(*self.moments(c)).log_prob(x)

    def draw(self, num: int) -> tuple[Tensor, Tensor]:
        """``(num, D)`` data and ``(num, C)`` contexts."""
        c = torch.randn(num, C)
        return MultivariateNormal(*self.moments(c)).sample(), c

    def data(self, x: Tensor, c: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Data of the programs."""
        return torch.cat([x, c], -1) if self.joined else (x, c)


@torch.no_grad()
def _set(net: MLP, weights: list[Tensor], bias: Tensor, scale: Tensor | None = None) -> None:
    """Set a linear network; with ``scale`` it returns loc and log scale."""
    layer, weight = net.layers[0], torch.cat(weights, -1)
    layer.weight.copy_(weight if scale is None else torch.cat([weight, torch.zeros_like(weight)]))
    layer.bias.copy_(bias if scale is None else torch.cat([bias, scale.log()]))
