"""Integer frequencies of the distributions of a model: which parameters they take, and how symbols become data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyro.distributions import Bernoulli, Independent, Normal, TorchDistribution
from torch import Tensor

from pyro_vae._core.checks import refusal
from pyro_vae.compression.symbols import Binary, I64, NormalGrid, Symbols

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Coder:
    """How a class of distributions is coded.

    Args:
        parameters: the parameters of a distribution that its frequencies are computed from, by name.
        symbols: the frequencies for these parameters, integers ``(num, n)`` of ``FRACTION`` fractional bits.
    """

    parameters: Callable[[Any], dict[str, Tensor]]
    symbols: Callable[..., Symbols]


CODERS: dict[type, Coder] = {
    Bernoulli: Coder(lambda d: {"logits": d.logits}, lambda logits: Binary(logits)),
}
"""The coders of data, by class of distribution."""


def unwrapped(distribution: TorchDistribution) -> Any:
    """The distribution of the single numbers."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def coder_of(distribution: TorchDistribution) -> Coder:
    """The coder of data with this distribution.

    Raises:
        ValueError: data of this distribution cannot be coded.
    """
    kind = type(unwrapped(distribution))
    if kind not in CODERS:
        names = ", ".join(sorted(c.__name__ for c in CODERS))
        advice = "Densities have no code length; train a discrete likelihood"
        raise refusal("compress", f"p(x | z) must be one of {names}", kind.__name__, advice)
    return CODERS[kind]
