"""Coding of chunks, several of them side by side, in one process or in several."""

from __future__ import annotations

import math
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from pyro_vae._core.checks import refusal
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.owners import evaluating
from pyro_vae.compression.ans import Exhausted, Stacks
from pyro_vae.compression.bits_back import BitsBack
from pyro_vae.compression.container import Header
from pyro_vae.compression.family import Sizes
from pyro_vae.compression.particles import CoupledParticles
from pyro_vae.compression.symbols import I64

CODER = "bits back 2"
CODERS = {"bits back": True, CODER: False}  # whether latents are popped from everywhere
SIDE_BY_SIDE = 16  # chunks that are coded together
_INITIAL_WORDS = 4096  # per chunk, of which few are read
U16 = NDArray[np.uint16]
Advance = Callable[[int], object]


class Coder(Protocol):
    """Codes one datum on each of several stacks."""

    def push(self, stacks: Stacks, x: I64) -> Any:
        """Push the symbols of a datum ``(num, n)`` onto each of the first stacks."""

    def pop(self, stacks: Stacks, num: int) -> I64:
        """Pop what :meth:`push` pushed, ``(num, n)``."""


class Coders:
    """The coders of a model, one for each number of chunks that are coded side by side.

    Args:
        vae: the model.
        header: of the file.
        build: the coder of a number of chunks; by default that of bits back coding.
    """

    def __init__(self, vae: Any, header: Header, build: Callable[[int], Coder] | None = None) -> None:
        self.vae, self.header, self._build = vae, header, build or self._bits_back
        self._coders: dict[int, Coder] = {}

    def of(self, rows: int) -> Coder:
        """The coder of a number of chunks, built once."""
        if rows not in self._coders:
            self._coders[rows] = self._build(rows)
        return self._coders[rows]

    def _bits_back(self, rows: int) -> Coder:
        header = self.header
        sizes = Sizes(header.grid, header.num_values, CODERS[header.coder])
        if header.num_particles == 1:
            return BitsBack(self.vae, sizes, rows=rows)
        return CoupledParticles(self.vae, sizes, rows=rows, num_particles=header.num_particles)


class EncodedChunk(NamedTuple):
    """A compressed chunk.

    Attributes:
        content: of the file.
        net_bits: growth of the stack by each datum, in bits.
    """

    content: bytes
    net_bits: NDArray[np.float64]


@dataclass(frozen=True)
class ToEncode:
    """Consecutive chunks of a group, whose initial bits depend on its size.

    Attributes:
        symbols: of each chunk, ``(size, n)``.
        first: place of the first chunk in the group.
        group: number of chunks in the group.
    """

    symbols: list[U16]
    first: int
    group: int

    def __len__(self) -> int:
        return sum(map(len, self.symbols))

    def run(self, coders: Coders, advance: Advance) -> list[EncodedChunk]:
        """Encode the chunks side by side."""
        sizes, place = [len(part) for part in self.symbols], slice(self.first, self.first + len(self.symbols))
        net_bits = [np.zeros(size) for size in sizes]
        with evaluating(coders.vae), isolated_rng(), torch.no_grad():
            coder = coders.of(len(sizes))
            stacks = Stacks.filled(self.group, coders.header.lanes, _INITIAL_WORDS)[place]
            before = stacks.content()
            for step in range(max(sizes)):
                num = sum(size > step for size in sizes)
                coder.push(stacks, np.stack([part[step] for part in self.symbols[:num]]).astype(np.int64))
                after = stacks.content()
                for bits, length in zip(net_bits, (after - before)[:num].tolist(), strict=False):
                    bits[step] = length
                before = after
                advance(num)
        return list(map(EncodedChunk, stacks.write(), net_bits))


@dataclass(frozen=True)
class ToDecode:
    """Contents of chunks, and their places in the file."""

    contents: list[bytes]
    numbers: list[int]
    sizes: list[int]

    def __len__(self) -> int:
        return sum(self.sizes)

    def run(self, coders: Coders, advance: Advance) -> U16:
        """Decode the chunks side by side, ``(N, n)``."""
        rows = [np.zeros((size, math.prod(coders.header.shape)), dtype=np.uint16) for size in self.sizes]
        with evaluating(coders.vae), isolated_rng(), torch.no_grad():
            coder = coders.of(len(rows))
            try:
                stacks = Stacks.read(self.contents, coders.header.lanes)
                for step in reversed(range(max(self.sizes))):
                    num = sum(size > step for size in self.sizes)
                    for row, x in zip(rows, coder.pop(stacks, num), strict=False):
                        row[step] = x
                    advance(num)
                if not np.array_equal(stacks.states, _initial_states(coders.header, self.numbers)):
                    raise Exhausted  # another architecture with the same weights, or other arithmetic
            except Exhausted:
                raise refusal("decompress", "the chunks must be those of this model", "others") from None
        return np.concatenate(rows)


def _initial_states(header: Header, numbers: Sequence[int]) -> NDArray[np.uint64]:
    """The states that chunks began with, to which decoding returns."""
    rows = []
    for number in numbers:
        first = number - number % SIDE_BY_SIDE
        group = min(SIDE_BY_SIDE, header.num_chunks - first)
        rows.append(Stacks.filled(group, header.lanes, _INITIAL_WORDS).states[number - first])
    return np.stack(rows)


def groups(numbers: Sequence[int], workers: int) -> Iterator[tuple[int, list[int]]]:
    """The numbers in groups, and these in parts for the workers: the size of the group, and a part."""
    for start in range(0, len(numbers), SIDE_BY_SIDE):
        group = numbers[start : start + SIDE_BY_SIDE]
        for part in np.array_split(group, min(workers, len(group))):
            yield len(group), part.tolist()


def run_all(
    tasks: Iterable[ToEncode] | Iterable[ToDecode],
    vae: Any,
    header: Header,
    *,
    workers: int,
    progress: bool,
) -> Iterator[Any]:
    """The results of the tasks, in their order; at most ``workers`` tasks are held at a time."""
    with tqdm(total=header.count, unit=" data", disable=not progress) as bar:
        if workers == 1:
            coders = Coders(vae, header)
            yield from (task.run(coders, bar.update) for task in tasks)
            return
        context = get_context("spawn")  # a fork would copy locks that threads of torch hold
        with ProcessPoolExecutor(workers, context, _start, (vae, header)) as pool, _named():
            pending: deque[Any] = deque()
            for task in tasks:
                pending.append((len(task), pool.submit(_run, task)))
                if len(pending) == workers:
                    yield _next(pending, bar.update)
            while pending:
                yield _next(pending, bar.update)


@contextmanager
def _named() -> Iterator[None]:
    """Context in which a process that ended early is one line."""
    try:
        yield
    except BrokenProcessPool:
        advice = "Use workers=1; in a script, call it under if __name__ == '__main__'"
        raise refusal("compress", "worker processes must run to their end", "one that did not", advice) from None


def _next(pending: deque[Any], advance: Advance) -> Any:
    number, future = pending.popleft()
    result = future.result()
    advance(number)
    return result


_coders: list[Coders] = []  # those of a worker


def _start(vae: Any, header: Header) -> None:
    if parent_process() is not None:
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends the others
    _coders[:] = [Coders(vae, header)]


def _run(task: ToEncode | ToDecode) -> Any:
    return task.run(_coders[0], lambda number: None)
