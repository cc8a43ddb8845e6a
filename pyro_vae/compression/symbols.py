"""Distributions of symbols by integer frequencies, computed in integers from fixed-point parameters."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr, ndtri  # type: ignore[import-untyped]
from typing_extensions import Self

PRECISION = 26
"""Binary logarithm of the sum of all frequencies."""
FRACTION = 12
"""Fractional bits of parameters."""
I64: TypeAlias = NDArray[np.int64]
_TOTAL = 2**PRECISION
_RANGE = 16  # tables of distribution functions cover [-_RANGE, _RANGE]
_STEPS = 8  # binary logarithm of their entries per unit
_SCALES = 8  # logarithms of scales are clamped to [-_SCALES, _SCALES]
_INVERSE = 14  # fractional bits of the inverse of a scale
_SHARE = 16  # binary logarithm of the sum of the weights of a mixture


class Symbols(ABC):
    """Distributions of integers ``0..size-1``, one for each of ``(num, n)`` symbols.

    A subclass stores its parameters in arrays ``(num, n, ...)``, by name in ``parameters``.

    Attributes:
        size: number of values of a symbol.
        parameters: names of the arrays.
    """

    size: int
    parameters: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of stacks, and of symbols for each."""
        return getattr(self, self.parameters[0]).shape[:2]

    def __getitem__(self, index: Any) -> Self:
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__)
        for name in self.parameters:
            setattr(part, name, getattr(self, name)[index])
        return part

    @abstractmethod
    def cumulative(self, value: I64) -> I64:
        """Sum of the frequencies of all symbols below ``value``: 0 at 0, ``2^PRECISION`` at ``size``, increasing."""

    def interval(self, value: I64) -> tuple[I64, I64]:
        """Sum of the frequencies below each value, and its own frequency."""
        start = self.cumulative(value)
        return start, self.cumulative(value + 1) - start

    def guess(self, code: I64) -> I64:
        """The value whose interval contains the code, or one near it."""
        return self.find(code)

    def locate(self, code: I64) -> tuple[I64, I64, I64]:
        """The value whose interval contains the code, with the interval."""
        value = self.guess(code)
        for _ in range(4):
            start, frequency = self.interval(value)
            step = (code >= start + frequency).astype(np.int64) - (code < start)
            if not step.any():
                return value, start, frequency
            value = value + step
        value = self.find(code)
        return (value, *self.interval(value))

    def log_mass(self, value: I64) -> I64:
        """Logarithm of the probability of each value, with ``FRACTION`` fractional bits."""
        return logarithm(self.interval(value)[1], PRECISION)

    def find(self, code: I64) -> I64:
        """The value whose interval contains the code, by bisection."""
        low, high = np.zeros_like(code), np.full_like(code, self.size)
        for _ in range(self.size.bit_length()):
            middle = (low + high) >> 1
            below = self.cumulative(middle) <= code
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return low


class Binary(Symbols):
    """Bernoulli variables.

    Args:
        logits: ``(num, n)``, with ``FRACTION`` fractional bits.
    """

    size, parameters = 2, ("zero",)

    def __init__(self, logits: I64) -> None:
        self.zero = _spread(_at(_logistic(), -logits, FRACTION), 2) + 1

    def cumulative(self, value: I64) -> I64:
        return np.where(value == 0, 0, np.where(value == 1, self.zero, _TOTAL))

    def interval(self, value: I64) -> tuple[I64, I64]:
        return self.zero * value, np.where(value == 0, self.zero, _TOTAL - self.zero)

    def find(self, code: I64) -> I64:
        return (code >= self.zero).astype(np.int64)


class Categorical(Symbols):
    """Categorical variables.

    Args:
        logits: ``(num, n, size)``, with ``FRACTION`` fractional bits.
    """

    parameters = ("sums",)

    def __init__(self, logits: I64) -> None:
        self.size = logits.shape[-1]
        shares = _at_exponential(logits - logits.max(-1, keepdims=True))
        below = np.concatenate([np.zeros_like(shares[..., :1]), shares.cumsum(-1)], -1)
        total = below[..., -1:]
        scale = max(0, int(total.max()).bit_length() + PRECISION - 62)  # so that the product fits 64 bits
        below, total = below >> scale, total >> scale
        self.sums = below * (_TOTAL - self.size) // total + np.arange(self.size + 1)

    def cumulative(self, value: I64) -> I64:
        return np.take_along_axis(self.sums, value[..., None], -1)[..., 0]


class Uniform(Symbols):
    """Uniform variables on ``0..sizes-1``.

    Args:
        sizes: ``(num, n)``, at most ``2^PRECISION``.
    """

    parameters = ("sizes",)

    def __init__(self, sizes: I64) -> None:
        self.sizes, self.size = sizes, int(sizes.max(initial=1))

    def cumulative(self, value: I64) -> I64:
        return (np.minimum(value, self.sizes) << PRECISION) // self.sizes

    def guess(self, code: I64) -> I64:
        return (code * self.sizes) >> PRECISION


class NormalGrid(Symbols):
    r"""Normal variables on the grid :math:`z = (k - w\, 2^g)\, 2^{-g}`, ``0 <= k <= 2 w 2^g``.

    Args:
        loc: ``(num, n)``, with ``FRACTION`` fractional bits.
        log_scale: as ``loc``.
        grid: binary logarithm g of the number of grid points per unit.
        width: w; the grid covers ``[-width, width]``.
        everywhere: whether all values have frequencies. Where values are popped first, draws in tails cost many bits.
    """

    parameters = ("loc", "precision")

    def __init__(self, loc: I64, log_scale: I64, *, grid: int, width: int = 16, everywhere: bool = True) -> None:
        self.loc, self.precision, self.grid, self.half = loc, inverse(log_scale), grid, width << grid
        self.size, self.everywhere = 2 * self.half + 1, everywhere

    def cumulative(self, value: I64) -> I64:
        edge = (2 * (value - self.half) - 1) << (FRACTION - self.grid - 1)
        t = ((edge - self.loc) * self.precision) >> (_INVERSE - 4)
        p = _at(_normal(), t, FRACTION + 4)
        inner = _spread(p, self.size) + value if self.everywhere else p
        return np.where(value <= 0, 0, np.where(value >= self.size, _TOTAL, inner))

    def guess(self, code: I64) -> I64:
        quantile = ndtri((code + 0.5) / _TOTAL) * (2.0**_INVERSE / self.precision)
        place = (self.loc / 2.0**FRACTION + quantile) * 2.0**self.grid + self.half
        return np.minimum(np.maximum(np.rint(place), 0), self.size - 1).astype(np.int64)


class LogisticLevels(Symbols):
    r"""Mixtures of logistic variables binned to grey levels, the outer bins open.

    Args:
        weights: ``(num, n, K)``, integers whose sum is :func:`shares`' total.
        loc: ``(num, n, K)``, in units of the grey range, with ``FRACTION`` fractional bits.
        log_scale: as ``loc``.
        levels: number of grey levels.
    """

    parameters = ("weights", "loc", "precision")

    def __init__(self, weights: I64, loc: I64, log_scale: I64, *, levels: int) -> None:
        self.weights, self.loc, self.precision, self.size = weights, loc, inverse(log_scale), levels

    def components(self, value: I64) -> I64:
        """Distribution function of each component below ``value``, ``(num, n, K)``, with ``PRECISION`` bits."""
        edge = ((2 * value - 1) << (FRACTION + 8)) // (2 * (self.size - 1))
        t = ((edge[..., None] - (self.loc << 8)) * self.precision) >> (_INVERSE + 4)
        inner = _at(_logistic(), t, FRACTION + 4)
        ends = np.where(value <= 0, 0, np.where(value >= self.size, _TOTAL, -1))[..., None]
        return np.where(ends >= 0, ends, inner)

    def cumulative(self, value: I64) -> I64:
        inner = _spread((self.components(value) * self.weights).sum(-1) >> _SHARE, self.size) + value
        return np.where(value <= 0, 0, np.where(value >= self.size, _TOTAL, inner))


def shares(logits: I64) -> I64:
    """Probabilities of components as integers that add up to ``2^16``; logits with ``FRACTION`` fractional bits."""
    mass = _at_exponential(logits - logits.max(-1, keepdims=True))
    parts = (mass << _SHARE) // mass.sum(-1, keepdims=True)
    rest = (1 << _SHARE) - parts.sum(-1, keepdims=True)
    return parts + (np.arange(parts.shape[-1]) == parts.argmax(-1)[..., None]) * rest


def inverse(log_scale: I64) -> I64:
    """exp(-log_scale) with 14 fractional bits."""
    edge = _SCALES << FRACTION
    return _inverses()[np.minimum(np.maximum(log_scale, -edge), edge) + edge]


def logarithm(x: I64, fraction: int) -> I64:
    """Natural logarithm of positive fixed-point numbers, with ``FRACTION`` fractional bits."""
    mantissa, exponent = np.frexp(x.astype(np.float64))  # exact
    place = (mantissa * 2.0**14 - 2.0**13).astype(np.int64)
    return _logarithms()[place] + (exponent.astype(np.int64) - fraction) * _LOG2 >> 8


def log_sum_exp(x: I64) -> I64:
    """log sum exp over the last dimension; ``FRACTION`` fractional bits."""
    largest = x.max(-1, keepdims=True)
    return logarithm(_at_exponential(x - largest).sum(-1), 30) + largest[..., 0]


def tables() -> bytes:
    """All tables, which two machines must share."""
    all_tables = (_logistic, _normal, _inverses, _exponential, _logarithms)
    return hashlib.sha256(b"".join(table().astype("<i8").tobytes() for table in all_tables)).digest()


def _spread(probability: I64, size: int) -> I64:
    """A cumulative probability as a sum of frequencies that leaves one to each of ``size`` symbols."""
    return (probability * (_TOTAL - size)) >> PRECISION


def _at(table: I64, x: I64, fraction: int) -> I64:
    """A table at fixed-point numbers of ``fraction`` fractional bits, linear between its entries."""
    shift, limit = fraction - _STEPS, _RANGE << fraction
    position = np.minimum(np.maximum(x, -limit), limit - 1) + limit
    index, rest = position >> shift, position & ((1 << shift) - 1)
    low = table[index]
    return low + (((table[index + 1] - low) * rest) >> shift)


def _at_exponential(x: I64) -> I64:
    """exp of numbers that are not positive, with 30 fractional bits."""
    return _exponential()[np.minimum(-x, (22 << FRACTION) - 1)]


_LOG2 = round(np.log(2.0) * 2.0 ** (FRACTION + 8))


@cache
def _logistic() -> I64:
    return _rounded(expit(_arguments()) * _TOTAL)


@cache
def _normal() -> I64:
    return _rounded(ndtr(_arguments()) * _TOTAL)


@cache
def _inverses() -> I64:
    edge = _SCALES << FRACTION
    return _rounded(np.exp(-np.arange(-edge, edge + 1) / 2.0**FRACTION) * 2.0**_INVERSE)


@cache
def _exponential() -> I64:
    return _rounded(np.exp(-np.arange(22 << FRACTION) / 2.0**FRACTION) * 2.0**30)


@cache
def _logarithms() -> I64:
    """Logarithms of [1/2, 1) with ``FRACTION + 8`` fractional bits."""
    return _rounded(np.log((np.arange(2**13) + 0.5) * 2.0**-14 + 0.5) * 2.0 ** (FRACTION + 8))


def _arguments() -> NDArray[np.float64]:
    return np.arange(-_RANGE << _STEPS, (_RANGE << _STEPS) + 1) / 2.0**_STEPS


def _rounded(values: NDArray[np.float64]) -> I64:
    return np.rint(values).astype(np.int64)
