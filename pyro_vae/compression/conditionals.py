"""Conditional distributions as coders: vectors of symbols that are pushed onto stacks and popped off them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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

    def at(self, site: int) -> Conditional:
        """The distribution of one of the independent sites: a symbol, or the channels of a pixel."""
        raise NotImplementedError


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

    def at(self, site: int) -> Conditional:
        return Independent(self.symbols[:, site : site + 1])


class MixtureOnGrid(Conditional):
    r"""A mixture of diagonal normals; the component is coded by bits back, at no cost beyond that of the mixture.

    Args:
        logits: ``(num, C)``, with ``FRACTION`` fractional bits.
        loc: ``(num, C, L)``, with as many.
        log_scale: as ``loc``.
        grid: as of :class:`NormalGrid`.
        width: as of :class:`NormalGrid`.
        everywhere: as of :class:`NormalGrid`.
    """

    def __init__(
        self, logits: I64, loc: I64, log_scale: I64, *, grid: int, width: int, everywhere: bool = True
    ) -> None:
        self.logits, self.loc, self.log_scale, self.grid, self.width = logits, loc, log_scale, grid, width
        self.everywhere = everywhere
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
        return NormalGrid(loc, log_scale, grid=self.grid, width=self.width, everywhere=self.everywhere)

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


class SequentialOnGrid(Conditional):
    """Normal variables on the grid, each of whose loc and scale depend on the noise of those before it.

    Args:
        loc: ``(num, L)``, with ``FRACTION`` fractional bits.
        log_scale: as ``loc``.
        grid: as of :class:`NormalGrid`.
        width: as of :class:`NormalGrid`.
        everywhere: as of :class:`NormalGrid`.
    """

    def __init__(self, loc: I64, log_scale: I64, *, grid: int, width: int, everywhere: bool = True) -> None:
        self.loc, self.log_scale, self.grid, self.width = loc, log_scale, grid, width
        self.everywhere = everywhere

    @abstractmethod
    def location(self, i: int, noise: I64) -> tuple[I64, I64]:
        """Loc and log scale of the i-th variable, ``(num,)``, given the standardized values of those before it."""

    def push(self, stacks: Stacks, values: I64) -> None:
        steps = self._steps(values)
        for i in reversed(range(self.loc.shape[1])):
            stacks.push(values[:, i : i + 1], steps[i])

    def pop(self, stacks: Stacks) -> I64:
        noise, values = np.zeros_like(self.loc), np.zeros_like(self.loc)
        for i in range(self.loc.shape[1]):
            step = self._coordinate(i, noise)
            values[:, i] = stacks.pop(step)[:, 0]
            noise[:, i] = self._noise(step, values[:, i])
        return values

    def log_mass(self, values: I64) -> I64:
        steps = enumerate(self._steps(values))
        return np.concatenate([step.log_mass(values[:, i : i + 1]) for i, step in steps], -1).sum(-1)

    def _steps(self, values: I64) -> list[NormalGrid]:
        """The distribution of each variable, given the values of those before it."""
        noise, steps = np.zeros_like(self.loc), []
        for i in range(self.loc.shape[1]):
            steps.append(self._coordinate(i, noise))
            noise[:, i] = self._noise(steps[-1], values[:, i])
        return steps

    def _coordinate(self, i: int, noise: I64) -> NormalGrid:
        loc, log_scale = self.location(i, noise)
        options: Any = {"grid": self.grid, "width": self.width, "everywhere": self.everywhere}
        return NormalGrid(loc[:, None], log_scale[:, None], **options)

    def _noise(self, step: NormalGrid, values: I64) -> I64:
        z = (values - (self.width << self.grid)) << (FRACTION - self.grid)
        noise = ((z - step.loc[:, 0]) * step.precision[:, 0]) >> 14
        return np.minimum(np.maximum(noise, -1 << 20), 1 << 20)


class TriangularOnGrid(SequentialOnGrid):
    r"""A full-rank normal, :math:`z_i = \mu_i + \sigma_i (\epsilon_i + \sum_{j < i} a_{ij} \epsilon_j)`.

    Args:
        below: ``(num, L, L)``, strictly lower triangular a, with ``FRACTION`` fractional bits.
        loc: as of :class:`SequentialOnGrid`.
        log_scale: as of :class:`SequentialOnGrid`.
        options: of :class:`SequentialOnGrid`.
    """

    def __init__(self, loc: I64, log_scale: I64, below: I64, **options: Any) -> None:
        super().__init__(loc, log_scale, **options)
        self.below, self.unit = below, (1 << (14 + FRACTION)) // inverse(log_scale)

    def location(self, i: int, noise: I64) -> tuple[I64, I64]:
        shift = (self.below[:, i] * noise).sum(-1) >> FRACTION
        return self.loc[:, i] + (shift * self.unit[:, i] >> FRACTION), self.log_scale[:, i]


class InverseFlowOnGrid(SequentialOnGrid):
    r"""One inverse autoregressive flow, :math:`z_i = a_i(y_{<i}) + g_i(y_{<i}) y_i` of normal :math:`y`.

    Args:
        coefficients: from y ``(num, L)`` to a, g and log g of the same shape, all with ``FRACTION`` fractional bits.
        loc: of y, as of :class:`SequentialOnGrid`.
        log_scale: of y.
        largest: y is clamped to this absolute value.
        options: of :class:`SequentialOnGrid`.
    """

    def __init__(
        self, loc: I64, log_scale: I64, coefficients: Callable[[I64], Sequence[I64]], *, largest: int, **options: Any
    ) -> None:
        super().__init__(loc, log_scale, **options)
        self.coefficients, self.edge, self.unit = coefficients, largest << FRACTION, inverse(-log_scale)

    def location(self, i: int, noise: I64) -> tuple[I64, I64]:
        y = self.loc + (noise * self.unit >> 14)
        shift, gate, log_gate = (a[:, i] for a in self.coefficients(np.minimum(np.maximum(y, -self.edge), self.edge)))
        return shift + (gate * self.loc[:, i] >> FRACTION), log_gate + self.log_scale[:, i]


class OneByOne(Conditional):
    """Sites each of which depends on those before it in an order.

    Args:
        given: the distribution of all sites given values ``(num, n)``, of which each depends on those before it.
        order: positions of the sites.
        num: number of stacks.
        size: symbols of a site, which are as many sites apart.
    """

    def __init__(self, given: Callable[[I64], Conditional], order: Sequence[int], num: int, size: int = 1) -> None:
        self.given, self.order, self.num, self.size = given, order, num, size

    def push(self, stacks: Stacks, values: I64) -> None:
        distribution, sites = self.given(values), self._sites(values)
        for i in reversed(self.order):
            distribution.at(i).push(stacks, sites[..., i])

    def pop(self, stacks: Stacks) -> I64:
        values = np.zeros((self.num, self.size * len(self.order)), dtype=np.int64)
        for i in self.order:
            self._sites(values)[..., i] = self.given(values).at(i).pop(stacks)
        return values

    def log_mass(self, values: I64) -> I64:
        return self.given(values).log_mass(values)

    def _sites(self, values: I64) -> I64:
        """A view of the values, ``(num, size, sites)``."""
        return values.reshape(len(values), self.size, -1)


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

    def at(self, site: int) -> Conditional:
        weights, pixel = self.weights[:, site : site + 1], slice(site, site + 1)
        parts = (a[:, :, pixel] for a in (self.loc, self.log_scale, self.coefficients))
        return ChannelsOfLogistics(weights, *parts, levels=self.levels)

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
