"""Coding of counts, whose probabilities are normalised over 0 to the largest one of the data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import softplus

from pyro_vae._core.checks import refusal
from pyro_vae.compression.conditionals import Conditional, Independent
from pyro_vae.compression.family import Family, Parameters, Sizes
from pyro_vae.compression.symbols import FRACTION, I64, Categorical, log_sum_exp, logarithm
from pyro_vae.distributions.counts import LogMeanNegativeBinomial


def poisson(distribution: Any, sizes: Sizes) -> Family:
    """Counts up to the largest one of the data."""
    values, log_factorials = _counts(sizes.num_values)

    def build(p: Parameters) -> Conditional:
        log_mean = p["log_mean"].reshape(len(p["log_mean"]), -1, 1)
        return Independent(Categorical(values * log_mean - log_factorials))

    return Family(lambda d: {"log_mean": d.log_mean}, build, lambda x: x << FRACTION, sizes.num_values)


def negative_binomial(distribution: Any, sizes: Sizes) -> Family:
    """Counts up to the largest one of the data."""

    def parameters(d: Any) -> dict[str, Tensor]:
        log_r = d.log_inverse_dispersion
        return {"r": log_r.exp(), "odds": softplus(log_r - d.log_mean)}  # minus the log of mean / (mean + r)

    def build(p: Parameters) -> Conditional:
        return Independent(Categorical(_logits(p, sizes.num_values)))

    return Family(parameters, build, lambda x: x << FRACTION, sizes.num_values)


def zero_inflated(distribution: Any, sizes: Sizes) -> Family:
    """A negative binomial with additional zeros of probability sigmoid(gate)."""
    counts = distribution.base_dist
    if not isinstance(counts, LogMeanNegativeBinomial):
        got, advice = type(counts).__name__, "Use ZeroInflatedNegativeBinomialLikelihood"
        raise refusal("compress", "zero-inflated counts must be negative binomial", got, advice)
    family = negative_binomial(counts, sizes)

    def parameters(d: Any) -> dict[str, Tensor]:
        gate = d.gate_logits
        return {**family.parameters(d.base_dist), "log_gate": -softplus(-gate), "log_rest": -softplus(gate)}

    def build(p: Parameters) -> Conditional:
        log_gate, log_rest = (p[name].reshape(len(p[name]), -1) for name in ("log_gate", "log_rest"))
        logits = _logits(p, sizes.num_values)
        logits = logits - log_sum_exp(logits)[..., None] + log_rest[..., None]
        logits[..., 0] = log_sum_exp(np.stack([logits[..., 0], log_gate], -1))
        return Independent(Categorical(logits))

    return Family(parameters, build, family.numbers, sizes.num_values)


def _logits(p: Parameters, num_values: int) -> I64:
    """Logarithms of negative binomial probabilities up to a constant, ``(num, n, num_values)``."""
    values, log_factorials = _counts(num_values)
    r, odds = (a.reshape(len(a), -1) for a in (p["r"], p["odds"]))
    return rising(r, num_values - 1) - log_factorials - values * odds[..., None]


def _counts(num_values: int) -> tuple[I64, I64]:
    """The counts, and the logarithms of their factorials."""
    logs = [round(math.lgamma(k + 1) * 2**FRACTION) for k in range(num_values)]
    return np.arange(num_values), np.array(logs, dtype=np.int64)


def rising(a: I64, n: int) -> I64:
    """Sums of log(a + j) over j < k, for k = 0..n, in a new last dimension."""
    logs = logarithm(np.maximum(a, 1)[..., None] + (np.arange(n) << FRACTION), FRACTION)
    return np.concatenate([np.zeros((*logs.shape[:-1], 1), dtype=np.int64), logs.cumsum(-1)], -1)
