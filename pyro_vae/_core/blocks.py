"""Densities per datum of guides that sample the latents of all data as one vector, as Pyro's AutoContinuous does."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import torch
from pyro.distributions.transforms import AffineAutoregressive
from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)

from pyro_vae._core.checks import refusal


@singledispatch
def per_element(fn: Any, value: Tensor) -> Tensor:
    r"""Log-density of a vector as a sum over its entries, ``(*batch, M)``, of conditional densities.

    For :math:`z = f(\epsilon)` with a triangular Jacobian and independent noise, the term of entry j is
    :math:`\log p(\epsilon_j) - \log |\partial z_j / \partial \epsilon_j|`. The terms of a datum add up to the density
    of its latents given the noise of all others. Averaged over that noise, :math:`p(x, z) / q(z | \epsilon)` is an
    unbiased estimate of p(x); and the sum over the data is the density of the whole vector.

    Raises:
        ValueError: the distribution does not have this form.
    """
    rule, got = "the density must factorise over the data", f"one {type(fn).__name__} for the latents of all data"
    raise refusal("guide", rule, got, "Use AutoNormal, or a guide with a plate")


@per_element.register(Independent)
def _(fn: Any, value: Tensor) -> Tensor:
    if isinstance(fn.base_dist, Normal):
        return fn.base_dist.log_prob(value)
    return per_element.dispatch(object)(fn.base_dist, value)


@per_element.register(MultivariateNormal)
def _(fn: Any, value: Tensor) -> Tensor:
    return _triangular(value - fn.loc, fn._unbroadcasted_scale_tril)


@per_element.register(LowRankMultivariateNormal)
def _(fn: Any, value: Tensor) -> Tensor:
    factor = fn._unbroadcasted_cov_factor
    covariance = factor @ factor.mT + torch.diag_embed(fn._unbroadcasted_cov_diag)
    return _triangular(value - fn.loc, torch.linalg.cholesky(covariance))


@per_element.register(TransformedDistribution)
def _(fn: Any, value: Tensor) -> Tensor:
    transforms = [t for transform in fn.transforms for t in getattr(transform, "parts", [transform])]
    if len(transforms) != 1 or not isinstance(transforms[0], AffineAutoregressive):
        return per_element.dispatch(object)(fn, value)
    (transform,) = transforms
    noise = transform.inv(value)
    transform.log_abs_det_jacobian(noise, value)  # stores the scales in the transform
    return per_element(fn.base_dist, noise) - transform._cached_log_scale


def _triangular(centred: Tensor, scale_tril: Tensor) -> Tensor:
    noise = torch.linalg.solve_triangular(scale_tril, centred.unsqueeze(-1), upper=False).squeeze(-1)
    return torch.distributions.Normal(0.0, 1.0).log_prob(noise) - scale_tril.diagonal(dim1=-2, dim2=-1).log()
