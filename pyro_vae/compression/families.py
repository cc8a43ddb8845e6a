"""The distributions that can be coded: their fixed-point parameters, and the numbers that their symbols stand for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pyro.distributions import Bernoulli, Laplace, Normal, ZeroInflatedDistribution
from pyro.distributions import Independent as IndependentDistribution
from torch import Tensor

from pyro_vae._core.checks import refusal
from pyro_vae.compression.conditionals import ChannelsOfLogistics, Conditional, Independent, MixtureOnGrid
from pyro_vae.compression.counts import negative_binomial, poisson, rising, zero_inflated
from pyro_vae.compression.family import Family, Parameters, Sizes, grid_size, on_grid
from pyro_vae.compression.symbols import (
    FRACTION,
    I64,
    Binary,
    Categorical,
    LogisticLevels,
    NormalGrid,
    inverse,
    shares,
)
from pyro_vae.distributions import IndependentOneHotCategorical, MixtureOfNormals
from pyro_vae.distributions.counts import LogMeanNegativeBinomial, LogMeanPoisson
from pyro_vae.likelihoods.beta_binomial import BetaBinomialLevels
from pyro_vae.likelihoods.categorical import CategoricalLevels
from pyro_vae.likelihoods.discretized_logistic import DiscretizedLogistic
from pyro_vae.likelihoods.mixture_of_logistics import MixtureOfLogistics
from pyro_vae.priors.vamp import MixtureOfPosteriors


def family_of(distribution: Any, sizes: Sizes) -> Family:
    """The family of a distribution.

    Raises:
        ValueError: it cannot be coded.
    """
    while isinstance(distribution, IndependentDistribution):
        distribution = distribution.base_dist
    kind = type(distribution)
    if kind not in _FAMILIES:
        advice = "Fit another guide with pyro-vae refit, or train another prior or a discrete likelihood"
        raise refusal("compress", "each distribution must be one that can be coded", kind.__name__, advice)
    return _FAMILIES[kind](distribution, sizes)


def _bernoulli(distribution: Any, sizes: Sizes) -> Family:
    return Family(
        lambda d: {"logits": d.logits},
        lambda p: Independent(Binary(p["logits"].reshape(len(p["logits"]), -1))),
        lambda x: x << FRACTION,
        2,
    )


def _normal(distribution: Any, sizes: Sizes) -> Family:
    grid = sizes.grid
    return Family(
        lambda d: {"loc": d.loc, "log_scale": d.scale.log()},
        lambda p: Independent(NormalGrid(p["loc"], p["log_scale"], **sizes.of_latents)),
        on_grid(grid),
        grid_size(grid),
        continuous=True,
    )


def _mixture(distribution: Any, sizes: Sizes) -> Family:
    grid = sizes.grid
    return Family(
        lambda d: {"logits": d.logits, "loc": d.locs, "log_scale": d.scales.log()},
        lambda p: MixtureOnGrid(p["logits"], p["loc"], p["log_scale"], **sizes.of_latents),
        on_grid(grid),
        grid_size(grid),
        continuous=True,
    )


def _posteriors(distribution: Any, sizes: Sizes) -> Family:
    grid = sizes.grid
    components = distribution.components()
    kind = type(getattr(components, "base_dist", components))
    if kind is not Normal:
        raise refusal("compress", "a VampPrior must have normal components", kind.__name__, "Use --prior_guide")

    def parameters(d: Any) -> dict[str, Tensor]:
        normal = d.components().base_dist
        return {"logits": normal.loc[..., 0] * 0.0, "loc": normal.loc, "log_scale": normal.scale.log()}

    return Family(
        parameters,
        lambda p: MixtureOnGrid(p["logits"], p["loc"], p["log_scale"], **sizes.of_latents),
        on_grid(grid),
        grid_size(grid),
        continuous=True,
    )


def _one_hot(distribution: Any, sizes: Sizes) -> Family:
    categories = distribution.logits.shape[-1]

    def numbers(values: I64) -> I64:
        return (np.eye(categories, dtype=np.int64)[values] << FRACTION).reshape(len(values), -1)

    return Family(lambda d: {"logits": d.logits}, lambda p: Independent(Categorical(p["logits"])), numbers, categories)


def _grey(
    levels: int, parameters: Callable[[Any], Mapping[str, Tensor]], build: Callable[[Parameters], Conditional]
) -> Family:
    def numbers(values: I64) -> I64:
        return ((values << FRACTION) + (levels - 1) // 2) // (levels - 1)

    return Family(parameters, build, numbers, levels, lambda x: x * (levels - 1))


def _discretized_logistic(distribution: Any, sizes: Sizes) -> Family:
    def build(p: Parameters) -> Conditional:
        loc, log_scale = (a.reshape(len(a), -1, 1) for a in (p["loc"], p["log_scale"]))
        weights = np.full_like(loc, 1 << 16)
        return Independent(LogisticLevels(weights, loc, log_scale, levels=distribution.levels))

    return _grey(distribution.levels, lambda d: {"loc": d.loc, "log_scale": d.scale.log()}, build)


def _mixture_of_logistics(distribution: Any, sizes: Sizes) -> Family:
    def parameters(d: Any) -> dict[str, Tensor]:
        return {"logits": d.logits, "loc": d.loc, "log_scale": d.scale.log(), "coefficients": d.coefficients}

    def build(p: Parameters) -> Conditional:
        weights = shares(np.moveaxis(p["logits"], 1, -1))
        parts = (np.moveaxis(p[name], 1, -1) for name in ("loc", "log_scale", "coefficients"))
        return ChannelsOfLogistics(weights, *parts, levels=distribution.levels)

    return _grey(distribution.levels, parameters, build)


def _categorical(distribution: Any, sizes: Sizes) -> Family:
    def build(p: Parameters) -> Conditional:
        logits = np.moveaxis(p["logits"], distribution.level_dim, -1)
        return Independent(Categorical(logits.reshape(len(logits), -1, distribution.levels)))

    if distribution.codes:
        return Family(lambda d: {"logits": d.logits}, build, lambda x: x << FRACTION, distribution.levels)
    return _grey(distribution.levels, lambda d: {"logits": d.logits}, build)


def _beta_binomial(distribution: Any, sizes: Sizes) -> Family:
    n = distribution.levels - 1
    choose = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)]
    coefficients = np.array([round(c * 2**FRACTION) for c in choose], dtype=np.int64)

    def build(p: Parameters) -> Conditional:
        alpha, beta = (a.reshape(len(a), -1) for a in (p["alpha"], p["beta"]))
        return Independent(Categorical(coefficients + rising(alpha, n) + rising(beta, n)[..., ::-1]))

    def parameters(d: Any) -> dict[str, Tensor]:
        return {"alpha": d.concentration * d.logits.sigmoid(), "beta": d.concentration * (-d.logits).sigmoid()}

    return _grey(distribution.levels, parameters, build)


def _laplace(distribution: Any, sizes: Sizes) -> Family:
    numbers = on_grid(sizes.grid)
    z = numbers(np.arange(grid_size(sizes.grid)))

    def build(p: Parameters) -> Conditional:
        loc, precision = p["loc"][..., None], inverse(p["log_scale"])[..., None]
        return Independent(Categorical(-(np.abs(z - loc) * precision >> 14)))

    def parameters(d: Any) -> dict[str, Tensor]:
        return {"loc": d.loc, "log_scale": d.scale.log()}

    return Family(parameters, build, numbers, grid_size(sizes.grid), continuous=True)


_FAMILIES: dict[type, Callable[[Any, Sizes], Family]] = {
    Bernoulli: _bernoulli,
    Normal: _normal,
    Laplace: _laplace,
    MixtureOfNormals: _mixture,
    MixtureOfPosteriors: _posteriors,
    IndependentOneHotCategorical: _one_hot,
    DiscretizedLogistic: _discretized_logistic,
    MixtureOfLogistics: _mixture_of_logistics,
    CategoricalLevels: _categorical,
    BetaBinomialLevels: _beta_binomial,
    LogMeanPoisson: poisson,
    LogMeanNegativeBinomial: negative_binomial,
    ZeroInflatedDistribution: zero_inflated,
}
