"""Conditional distributions as coders: vectors of symbols that are pushed onto stacks and popped off them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from pyro_vae.compression.ans import Stacks
from pyro_vae.compression.symbols import (
    FRACTION,
    I64,
    Categorical,
    LogisticLevels,
    NormalGrid,
    Symbols,
    inverse,
    log_sum_exp,
)


class Conditional(ABC):
    """A distribution of vectors of symbols for each of ``num`` stacks."""

    @abstractmethod
    def push(self, stacks: Stacks, values: I64) -> None:
        """Push values ``(num, n)``."""

    @abstractmethod
    def pop(self, stacks: Stacks) -> I64:
        """Pop values ``(num, n)``."""

    @abstractmethod
    def log_mass(self, values: I64) -> I64:
        """``(num,)``, logarithm of the probability of values, up to a constant, with ``FRACTION`` fractional bits."""


@dataclass
class Independent(Conditional):
    """Independent symbols."""

    symbols: Symbols

    def push(self, stacks: Stacks, values: I64) -> None:
        stacks.push(values, self.symbols)

    def pop(self, stacks: Stacks) -> I64:
        return stacks.pop(self.symbols)

    def log_mass(self, values: I64) -> I64:
        return self.symbols.log_mass(values).sum(-1)


class MixtureOnGrid(Conditional):
    r"""A mixture of diagonal normals; the component is coded by bits back, at no cost beyond that of the mixture.

    Args:
        logits: ``(num, C)``, with ``FRACTION`` fractional bits.
        loc: ``(num, C, L)``, with as many.
        log_scale: as ``loc``.
        grid: as of :class:`NormalGrid`.
        width: as of :class:`NormalGrid`.
    """

    def __init__(self, logits: I64, loc: I64, log_scale: I64, *, grid: int, width: int) -> None:
        self.logits, self.loc, self.log_scale, self.grid, self.width = logits, loc, log_scale, grid, width
        self.precision = inverse(log_scale)

    def push(self, stacks: Stacks, values: I64) -> None:
        stacks.mix(len(values))
        component = stacks.pop(self._posterior(values))
        stacks.push(values, self._component(component))
        stacks.push(component, Categorical(self.logits[:, None]))

    def pop(self, stacks: Stacks) -> I64:
        component = stacks.pop(Categorical(self.logits[:, None]))
        values = stacks.pop(self._component(component))
        stacks.push(component, self._posterior(values))
        stacks.unmix(len(values))
        return values

    def _component(self, component: I64) -> Symbols:
        loc, log_scale = (np.take_along_axis(a, component[..., None], 1)[:, 0] for a in (self.loc, self.log_scale))
        return NormalGrid(loc, log_scale, grid=self.grid, width=self.width)

    def log_mass(self, values: I64) -> I64:
        return log_sum_exp(self._joint(values))

    def _posterior(self, values: I64) -> Symbols:
        """p(component | z)."""
        return Categorical(self._joint(values)[:, None])

    def _joint(self, values: I64) -> I64:
        """log p(component, z), up to a constant."""
        z = (values - (self.width << self.grid)) << (FRACTION - self.grid)
        t = ((z[:, None] - self.loc) * self.precision) >> 14
        t = np.minimum(np.abs(t), 1 << 22)
        log_densities = -((t * t >> 1).sum(-1) >> FRACTION) - self.log_scale.sum(-1)
        return self.logits + log_densities


class TriangularOnGrid(Conditional):
    r"""A full-rank normal, one coordinate after the other: :math:`z_i = \mu_i + \sigma_i (\epsilon_i + \sum_j a_{ij}
    \epsilon_j)`, ``j < i``.

    Args:
        loc: ``(num, L)``, with ``FRACTION`` fractional bits.
        log_scale: as ``loc``.
        below: ``(num, L, L)``, strictly lower triangular a, with as many.
        grid: as of :class:`NormalGrid`.
        width: as of :class:`NormalGrid`.
    """

    def __init__(self, loc: I64, log_scale: I64, below: I64, *, grid: int, width: int) -> None:
        self.loc, self.log_scale, self.below, self.grid, self.width = loc, log_scale, below, grid, width
        self.precision = inverse(log_scale)

    def push(self, stacks: Stacks, values: I64) -> None:
        noise, steps = np.zeros_like(self.loc), []
        for i in range(self.loc.shape[1]):
            steps.append(self._coordinate(i, noise))
            noise[:, i] = self._noise(steps[-1], values[:, i], i)
        for i in reversed(range(self.loc.shape[1])):
            stacks.push(values[:, i : i + 1], steps[i])

    def pop(self, stacks: Stacks) -> I64:
        noise, values = np.zeros_like(self.loc), np.zeros_like(self.loc)
        for i in range(self.loc.shape[1]):
            step = self._coordinate(i, noise)
            values[:, i] = stacks.pop(step)[:, 0]
            noise[:, i] = self._noise(step, values[:, i], i)
        return values

    def log_mass(self, values: I64) -> I64:
        noise, total = np.zeros_like(self.loc), np.zeros(len(self.loc), dtype=np.int64)
        for i in range(self.loc.shape[1]):
            step = self._coordinate(i, noise)
            total += step.log_mass(values[:, i : i + 1])[:, 0]
            noise[:, i] = self._noise(step, values[:, i], i)
        return total

    def _coordinate(self, i: int, noise: I64) -> NormalGrid:
        """p(z_i | z_0, ..., z_{i-1})."""
        shift = (self.below[:, i] * noise).sum(-1) >> FRACTION
        scale = (1 << (14 + FRACTION)) // self.precision[:, i]
        loc = self.loc[:, i] + (shift * scale >> FRACTION)
        return NormalGrid(loc[:, None], self.log_scale[:, i : i + 1], grid=self.grid, width=self.width)

    def _noise(self, step: NormalGrid, values: I64, i: int) -> I64:
        z = (values - (self.width << self.grid)) << (FRACTION - self.grid)
        noise = ((z - step.loc[:, 0]) * self.precision[:, i]) >> 14
        return np.minimum(np.maximum(noise, -1 << 20), 1 << 20)


class ChannelsOfLogistics(Conditional):
    """Mixtures of logistics whose channels share the component and follow each other.

    Args:
        weights: ``(num, P, K)``, as of :class:`LogisticLevels`.
        loc: ``(num, C, P, K)``, with ``FRACTION`` fractional bits.
        log_scale: as ``loc``.
        coefficients: ``(num, C (C - 1) / 2, P, K)``.
        levels: number of grey levels.
    """

    def __init__(self, weights: I64, loc: I64, log_scale: I64, coefficients: I64, *, levels: int) -> None:
        self.weights, self.loc, self.log_scale, self.levels = weights, loc, log_scale, levels
        self.coefficients, self.channels = coefficients, loc.shape[1]

    def push(self, stacks: Stacks, values: I64) -> None:
        x = values.reshape(len(values), self.channels, -1)
        steps = [self._channel(c, x) for c in range(self.channels)]
        for c in reversed(range(self.channels)):
            stacks.push(x[:, c], steps[c])

    def pop(self, stacks: Stacks) -> I64:
        x = np.zeros((len(self.weights), self.channels, self.weights.shape[1]), dtype=np.int64)
        for c in range(self.channels):
            x[:, c] = stacks.pop(self._channel(c, x))
        return x.reshape(len(x), -1)

    def log_mass(self, values: I64) -> I64:
        x = values.reshape(len(values), self.channels, -1)
        total: I64 = sum(self._channel(c, x).log_mass(x[:, c]).sum(-1) for c in range(self.channels))
        return total

    def _channel(self, c: int, x: I64) -> LogisticLevels:
        """p(x_c | x_0, ..., x_{c-1})."""
        weights = self.weights
        for earlier in range(c):
            symbols = LogisticLevels(weights, self._loc(earlier, x), self.log_scale[:, earlier], levels=self.levels)
            mass = symbols.components(x[:, earlier] + 1) - symbols.components(x[:, earlier]) + 1
            joint = weights * mass
            parts = ((joint >> 12) << 16) // np.maximum((joint >> 12).sum(-1, keepdims=True), 1)
            largest = np.arange(parts.shape[-1]) == parts.argmax(-1)[..., None]
            weights = parts + largest * ((1 << 16) - parts.sum(-1, keepdims=True))
        return LogisticLevels(weights, self._loc(c, x), self.log_scale[:, c], levels=self.levels)

    def _loc(self, c: int, x: I64) -> I64:
        loc, start = self.loc[:, c], c * (c - 1) // 2
        for j in range(c):
            grey = ((x[:, j] << FRACTION) // (self.levels - 1)) - (1 << (FRACTION - 1))
            loc = loc + (self.coefficients[:, start + j] * grey[..., None] >> FRACTION)
        return loc
