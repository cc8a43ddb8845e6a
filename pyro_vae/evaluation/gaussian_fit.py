"""Normal approximations of posteriors, one per datum, by Newton steps on expectations under the approximation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

LogDensity = Callable[[Tensor], Tensor]
"""Maps u, ``(K, batch, dim)``, to log-densities ``(K, batch)``; the data do not interact."""

NUM_ASCENT_STEPS = 50
"""Gradient steps to the mode."""
NUM_NEWTON_STEPS = 8
"""Newton steps on the expectations under the normal, each from one antithetic pair of samples."""
ASCENT_LR = 0.5  # initial learning rate of the ascent, in standard deviations
_DECAY = 0.3  # step i has the size 1 / (1 + 0.3 i), so that later steps average the Hessians of earlier ones
_MIN_PRECISION = 0.25  # smallest precision in any direction, in units of the prior's
_COPIES = 50  # of a datum, for rows of its Hessian that are computed together: as many as samples in a chunk


class NormalFit(NamedTuple):
    """A normal distribution for each datum."""

    loc: Tensor
    """``(batch, dim)``."""
    scale_tril: Tensor
    """``(batch, dim, dim)``, the Cholesky factor of the covariance."""

    def transform(self, noise: Tensor) -> Tensor:
        """Map standard normal noise, ``(K, batch, dim)``, to samples."""
        return self.loc + torch.einsum("bij,kbj->kbi", self.scale_tril, noise)

    def distance(self, u: Tensor) -> Tensor:
        """Squared Mahalanobis distance of u, ``(K, batch, dim)``, to the mean, ``(K, batch)``."""
        difference = (u - self.loc).permute(1, 2, 0)  # (B, D, K)
        return torch.linalg.solve_triangular(self.scale_tril, difference, upper=False).square().sum(1).T

    def log_normaliser(self) -> Tensor:
        """Log of the normalising constant, ``(batch,)``."""
        log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return log_det + 0.5 * self.loc.shape[-1] * math.log(2 * math.pi)


def fit_normal(log_density: LogDensity, start: Tensor, spread: Tensor, prior_scale: Tensor) -> NormalFit:
    r"""The normal q with the largest ELBO for each datum, approximately, by a fixed number of steps.

    At the optimum :math:`E_q[\nabla \log p(x, u)] = 0` and the precision is :math:`-E_q[\nabla^2 \log p(x, u)]`. After
    an ascent to the mode, Newton steps alternate both conditions, with expectations from a pair of antithetic samples
    and running averages of the Hessians. If log p(x, u) is quadratic, q is the exact posterior.

    Eigenvalues of the precision, in coordinates in which the prior has unit scale, are at least 1/4.

    Args:
        log_density: log p(x, u) up to a constant, twice differentiable.
        start: ``(batch, dim)``, initial positions.
        spread: ``(batch, dim)``, approximate standard deviations of the posterior, the scale of the first steps.
        prior_scale: ``(batch, dim)``, standard deviations of the prior.

    Returns:
        Mean and covariance of each datum, without gradients.

    References:
        The variational Gaussian approximation revisited (Opper and Archambeau, 2009): the conditions.
        https://doi.org/10.1162/neco.2008.08-07-592
        Fast and scalable Bayesian deep learning by weight-perturbation in Adam (Khan et al., 2018), on
        Newton steps with averaged Hessians. https://arxiv.org/abs/1806.04854

    Example:
        >>> truth = torch.distributions.MultivariateNormal(torch.ones(2), torch.tensor([[1.0, 0.5], [0.5, 2.0]]))
        >>> one = torch.ones(1, 2)
        >>> fit = fit_normal(truth.log_prob, 0 * one, one, one)
        >>> torch.allclose(fit.loc, one, atol=1e-4), torch.allclose(fit.scale_tril[0], truth.scale_tril, atol=1e-4)
        (True, True)
    """
    with torch.enable_grad():
        loc = _ascend(log_density, start, spread)
    u, precision = loc.unsqueeze(0), None  # first the Hessian at the mode, Laplace's approximation
    for step in range(NUM_NEWTON_STEPS + 1):
        size = 1 / (1 + _DECAY * max(0, step - 1))
        gradient, hessian = _derivatives(log_density, u)
        precision = -hessian if precision is None else precision - size * (hessian + precision)
        covariance = _inverse(precision, prior_scale)
        loc = loc + size * _limited(covariance, gradient)
        fit = NormalFit(loc, torch.linalg.cholesky(covariance).to(loc.dtype))
        noise = torch.randn_like(loc)
        u = fit.transform(torch.stack([noise, -noise]))
    return fit


def _ascend(log_density: LogDensity, start: Tensor, spread: Tensor) -> Tensor:
    """Adam to the mode, in units of the spread."""
    steps = torch.zeros_like(start, requires_grad=True)
    optimizer = Adam([steps], lr=ASCENT_LR)
    schedule = CosineAnnealingLR(optimizer, NUM_ASCENT_STEPS)
    for _ in range(NUM_ASCENT_STEPS):
        value = log_density((start + spread * steps).unsqueeze(0)).sum()
        (gradient,) = torch.autograd.grad(value, steps)
        steps.grad = -gradient.nan_to_num(0.0, 0.0, 0.0)
        optimizer.step()
        schedule.step()
    return (start + spread * steps).detach()


def _derivatives(log_density: LogDensity, u: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient ``(batch, dim)`` and Hessian ``(batch, dim, dim)``, means over the samples u, ``(K, batch, dim)``.

    A copy of each datum per direction gives its row of the Hessian, as the gradient of one entry of the gradient.
    """
    num, batch, dim = u.shape
    eye = torch.eye(dim, dtype=u.dtype, device=u.device)
    rows, total = [], torch.zeros_like(u[0])
    with torch.enable_grad():
        for directions in eye.split(max(1, _COPIES // num)):
            copies = u.repeat(len(directions), 1, 1).requires_grad_()  # (len * K, B, D)
            (gradient,) = torch.autograd.grad(log_density(copies).sum(), copies, create_graph=True)
            chosen = (gradient * directions.repeat_interleave(num, 0).unsqueeze(1)).sum()
            (row,) = torch.autograd.grad(chosen, copies, materialize_grads=True)
            rows.append(row.reshape(len(directions), num, batch, dim).mean(1))
            total = gradient.detach()[:num].mean(0)
    hessian = torch.cat(rows).movedim(0, 1)
    return total.nan_to_num(0.0, 0.0, 0.0), hessian.nan_to_num(0.0, 0.0, 0.0)


def _inverse(precision: Tensor, prior_scale: Tensor) -> Tensor:
    """The inverse in float64, with eigenvalues of the precision, in units of the prior's, limited from below."""
    scale = prior_scale.double()
    scaled = precision.double() * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    values, vectors = torch.linalg.eigh((scaled + scaled.mT) / 2)
    factor = scale.unsqueeze(-1) * vectors * values.clamp_min(_MIN_PRECISION).rsqrt().unsqueeze(-2)
    return factor @ factor.mT


def _limited(covariance: Tensor, gradient: Tensor) -> Tensor:
    """The Newton step, at most as long as the typical distance of a sample from the mean."""
    step = torch.einsum("bij,bj->bi", covariance, gradient.double())
    length = (step * gradient.double()).sum(-1, keepdim=True).clamp_min(1e-300).sqrt()
    return (step * (math.sqrt(step.shape[-1]) / length).clamp_max(1.0)).to(gradient.dtype)
