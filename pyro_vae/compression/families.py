"""The distributions that can be coded: their fixed-point parameters, and the numbers that their symbols stand for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from pyro.distributions import Bernoulli, Normal
from pyro.distributions import Independent as IndependentDistribution
from torch import Tensor
from torch.nn.functional import softplus

from pyro_vae._core.checks import refusal
from pyro_vae.compression.conditionals import (
    ChannelsOfLogistics,
    Conditional,
    Independent,
    MixtureOnGrid,
    TriangularOnGrid,
)
from pyro_vae.compression.symbols import (
    FRACTION,
    I64,
    Binary,
    Categorical,
    LogisticLevels,
    NormalGrid,
    logarithm,
    shares,
)
from pyro_vae.distributions import IndependentOneHotCategorical, MixtureOfNormals
from pyro_vae.distributions.counts import LogMeanNegativeBinomial, LogMeanPoisson
from pyro_vae.likelihoods.beta_binomial import BetaBinomialLevels
from pyro_vae.likelihoods.categorical import CategoricalLevels
from pyro_vae.likelihoods.discretized_logistic import DiscretizedLogistic
from pyro_vae.likelihoods.mixture_of_logistics import MixtureOfLogistics
from pyro_vae.priors.vamp import MixtureOfPosteriors

WIDTH = 16
"""Latents are coded on a grid over [-WIDTH, WIDTH]."""
Parameters = dict[str, I64]


@dataclass(frozen=True)
class Family:
    """How a class of distributions is coded.

    Args:
        parameters: the tensors that a distribution's frequencies are computed from, by name.
        build: the coder for these parameters as integers ``(num, ...)``.
        numbers: from symbols ``(num, n)`` to fixed-point numbers ``(num, m)``, the input of networks.
        size: number of values of a symbol.
        symbols: from data as floating numbers to symbols.
        continuous: whether the symbols stand for a density on a grid, which is for latents alone.
    """

    parameters: Callable[[Any], Mapping[str, Tensor]]
    build: Callable[[Parameters], Conditional]
    numbers: Callable[[I64], I64]
    size: int
    symbols: Callable[[Any], Any] = field(default=lambda x: x)
    continuous: bool = False


class Sizes(NamedTuple):
    """Sizes of alphabets that a model leaves open.

    Attributes:
        grid: binary logarithm of the grid points of a latent per unit.
        num_values: number of values of a count, 0 to ``num_values - 1``.
    """

    grid: int
    num_values: int


def family_of(distribution: Any, sizes: Sizes) -> Family:
    """The family of a distribution.

    Raises:
        ValueError: it cannot be coded.
    """
    while isinstance(distribution, IndependentDistribution):
        distribution = distribution.base_dist
    kind = type(distribution)
    if kind not in _FAMILIES:
        names = ", ".join(sorted(c.__name__ for c in _FAMILIES))
        advice = "Fit another guide to the same model with pyro-vae refit, or train a discrete likelihood"
        raise refusal("compress", f"distributions must be of {names}", kind.__name__, advice)
    return _FAMILIES[kind](distribution, sizes)


def full_rank(guide: Any, sizes: Sizes) -> Family:
    """The family of a full-rank normal guide, whose parameters are those of its network."""
    grid, dim, below = sizes.grid, guide.latent_dim, guide.below.cpu().numpy()

    def parameters(params: Tensor) -> dict[str, Tensor]:
        loc, log_scale, entries = params.split([dim, dim, len(below)], -1)
        return {"loc": loc, "log_scale": log_scale.clamp(*guide.log_scale_bounds), "entries": entries / dim}

    def build(p: Parameters) -> Conditional:
        matrix = np.zeros((len(p["loc"]), dim * dim), dtype=np.int64)
        matrix[:, below] = p["entries"]
        matrix = matrix.reshape(-1, dim, dim)
        return TriangularOnGrid(p["loc"], p["log_scale"], matrix, grid=grid, width=WIDTH)

    return Family(parameters, build, _on_grid(grid), _grid_size(grid), continuous=True)


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
        lambda p: Independent(NormalGrid(p["loc"], p["log_scale"], grid=grid, width=WIDTH)),
        _on_grid(grid),
        _grid_size(grid),
        continuous=True,
    )


def _mixture(distribution: Any, sizes: Sizes) -> Family:
    grid = sizes.grid
    return Family(
        lambda d: {"logits": d.logits, "loc": d.locs, "log_scale": d.scales.log()},
        lambda p: MixtureOnGrid(p["logits"], p["loc"], p["log_scale"], grid=grid, width=WIDTH),
        _on_grid(grid),
        _grid_size(grid),
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
        lambda p: MixtureOnGrid(p["logits"], p["loc"], p["log_scale"], grid=grid, width=WIDTH),
        _on_grid(grid),
        _grid_size(grid),
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

    return _grey(distribution.levels, lambda d: {"logits": d.logits}, build)


def _beta_binomial(distribution: Any, sizes: Sizes) -> Family:
    n = distribution.levels - 1
    choose = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)]
    coefficients = np.array([round(c * 2**FRACTION) for c in choose], dtype=np.int64)

    def build(p: Parameters) -> Conditional:
        alpha, beta = (a.reshape(len(a), -1) for a in (p["alpha"], p["beta"]))
        return Independent(Categorical(coefficients + _rising(alpha, n) + _rising(beta, n)[..., ::-1]))

    def parameters(d: Any) -> dict[str, Tensor]:
        return {"alpha": d.concentration * d.logits.sigmoid(), "beta": d.concentration * (-d.logits).sigmoid()}

    return _grey(distribution.levels, parameters, build)


def _poisson(distribution: Any, sizes: Sizes) -> Family:
    values, log_factorials = _counts(sizes.num_values)

    def build(p: Parameters) -> Conditional:
        log_mean = p["log_mean"].reshape(len(p["log_mean"]), -1, 1)
        return Independent(Categorical(values * log_mean - log_factorials))

    return Family(lambda d: {"log_mean": d.log_mean}, build, lambda x: x << FRACTION, sizes.num_values)


def _negative_binomial(distribution: Any, sizes: Sizes) -> Family:
    values, log_factorials = _counts(sizes.num_values)

    def parameters(d: Any) -> dict[str, Tensor]:
        log_r = d.log_inverse_dispersion
        return {"r": log_r.exp(), "odds": softplus(log_r - d.log_mean)}  # minus the log of mean / (mean + r)

    def build(p: Parameters) -> Conditional:
        r, odds = (a.reshape(len(a), -1) for a in (p["r"], p["odds"]))
        logits = _rising(r, sizes.num_values - 1) - log_factorials - values * odds[..., None]
        return Independent(Categorical(logits))

    return Family(parameters, build, lambda x: x << FRACTION, sizes.num_values)


def _counts(num_values: int) -> tuple[I64, I64]:
    """The counts, and the logarithms of their factorials."""
    logs = [round(math.lgamma(k + 1) * 2**FRACTION) for k in range(num_values)]
    return np.arange(num_values), np.array(logs, dtype=np.int64)


def _rising(a: I64, n: int) -> I64:
    """Sums of log(a + j) over j < k, for k = 0..n, in a new last dimension."""
    logs = logarithm(np.maximum(a, 1)[..., None] + (np.arange(n) << FRACTION), FRACTION)
    return np.concatenate([np.zeros_like(logs[..., :1]), logs.cumsum(-1)], -1)


def _on_grid(grid: int) -> Callable[[I64], I64]:
    return lambda values: (values - (WIDTH << grid)) << (FRACTION - grid)


def _grid_size(grid: int) -> int:
    return 2 * (WIDTH << grid) + 1


_FAMILIES: dict[type, Callable[[Any, Sizes], Family]] = {
    Bernoulli: _bernoulli,
    Normal: _normal,
    MixtureOfNormals: _mixture,
    MixtureOfPosteriors: _posteriors,
    IndependentOneHotCategorical: _one_hot,
    DiscretizedLogistic: _discretized_logistic,
    MixtureOfLogistics: _mixture_of_logistics,
    CategoricalLevels: _categorical,
    BetaBinomialLevels: _beta_binomial,
    LogMeanPoisson: _poisson,
    LogMeanNegativeBinomial: _negative_binomial,
}
