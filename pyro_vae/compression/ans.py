"""Asymmetric numeral systems: a stack of bits onto which symbols are coded by integer frequencies."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyro_vae.compression.symbols import I64, PRECISION, Symbols

U32: TypeAlias = NDArray[np.uint32]
U64: TypeAlias = NDArray[np.uint64]
_WORD, _LOW = np.uint64(32), np.uint64(2**32 - 1)
_FACTOR = np.uint64(0x9E3779B1)  # odd, hence invertible modulo 2^PRECISION
_INVERSE_FACTOR = np.uint64(pow(0x9E3779B1, -1, 2**PRECISION))
_P, _MASK, _TOP = np.uint64(PRECISION), np.uint64(2**PRECISION - 1), np.uint64(64 - PRECISION)


class Stacks:
    r"""Stacks of bits, one per chunk, which are pushed and popped side by side.

    Pushing a symbol of frequency f lengthens its stack by :math:`P - \log_2 f` bits, where :math:`2^P` is the sum of
    all frequencies; popping is the inverse. Each stack consists of the states of several coders, between which the
    symbols are dealt, and of the 32-bit words that these have in common. All arithmetic is in integers.

    Args:
        states: ``(num_stacks, num_lanes)``, in :math:`[2^{32}, 2^{64})`.
        words: ``(num_stacks, capacity)``.
        sizes: ``(num_stacks,)``, number of words in use.

    References:
        Asymmetric numeral systems: entropy coding combining speed of Huffman coding with compression rate of
        arithmetic coding (Duda, 2013). https://arxiv.org/abs/1311.2540
        HiLLoC: Lossless image compression with hierarchical latent variable models (Townsend et al., 2020), section 3.
        https://arxiv.org/abs/1912.09953

    Example:
        >>> import numpy as np
        >>> from pyro_vae.compression.symbols import Binary
        >>> stacks, pixels = Stacks.filled(1, 2), np.array([[1, 0, 1]])
        >>> stacks.push(pixels, Binary(np.zeros((1, 3), dtype=np.int64)))
        >>> stacks.pop(Binary(np.zeros((1, 3), dtype=np.int64))).tolist()
        [[1, 0, 1]]
    """

    def __init__(self, states: U64, words: U32, sizes: I64) -> None:
        self.states, self.words, self.sizes = states, words, sizes
        self.lowest = sizes.copy()  # the words below the lowest have not been read

    @classmethod
    def filled(cls, num_stacks: int, num_lanes: int, num_words: int = 0) -> Stacks:
        """Stacks that hold pseudo-random initial words, the same ones in every process."""
        stream = np.random.Generator(np.random.PCG64(0))
        words = stream.integers(0, 2**32, (num_stacks, num_words), dtype=np.uint32)
        states = stream.integers(2**32, 2**33, (num_stacks, num_lanes), dtype=np.uint64)
        return cls(states, words, np.full(num_stacks, num_words, dtype=np.int64))

    @classmethod
    def read(cls, contents: list[bytes], num_lanes: int) -> Stacks:
        """Stacks of the contents that :meth:`write` returned."""
        arrays = [np.frombuffer(content, dtype="<u4") for content in contents]
        heads = np.stack([a[: 2 * num_lanes] for a in arrays]).astype(np.uint64)
        sizes = np.array([len(a) - 2 * num_lanes for a in arrays], dtype=np.int64)
        words = np.zeros((len(arrays), int(sizes.max())), dtype=np.uint32)
        for row, array in zip(words, arrays, strict=True):
            row[: len(array) - 2 * num_lanes] = array[2 * num_lanes :]
        return cls((heads[:, ::2] << _WORD) | heads[:, 1::2], words, sizes)

    def __getitem__(self, rows: slice) -> Stacks:
        """Some of the stacks."""
        return Stacks(self.states[rows], self.words[rows], self.sizes[rows])

    def write(self) -> list[bytes]:
        """The content of each stack, without the initial words that have not been read."""
        halves = np.stack([self.states >> _WORD, self.states & _LOW], -1).astype("<u4")
        rows = zip(halves.reshape(len(halves), -1), self.words, self.lowest, self.sizes, strict=True)
        return [head.tobytes() + row[low:size].astype("<u4").tobytes() for head, row, low, size in rows]

    def content(self) -> NDArray[np.float64]:
        """``(num_stacks,)``, information on each stack, in bits; it grows by what a symbol costs."""
        total: NDArray[np.float64] = np.log2(self.states.astype(np.float64)).sum(1) + 32.0 * self.sizes
        return total

    def push(self, values: I64, symbols: Symbols) -> None:
        """Push values ``(num, n)`` onto the first ``num`` stacks."""
        start, frequency = (a.astype(np.uint64) for a in symbols.interval(values))
        if not frequency.all():  # only in a file that was not compressed by this model
            raise Exhausted
        for columns in self._columns(values.shape[1]):
            self._push(start[:, columns], frequency[:, columns])

    def pop(self, symbols: Symbols) -> I64:
        """Pop values ``(num, n)`` off the first ``num`` stacks."""
        values = np.zeros(symbols.shape, dtype=np.int64)
        for columns in reversed(self._columns(values.shape[1])):
            code = self.states[: len(values), : columns.stop - columns.start] & _MASK
            values[:, columns], start, frequency = symbols[:, columns].locate(code.astype(np.int64))
            self._pop(code, start.astype(np.uint64), frequency.astype(np.uint64))
        return values

    def _columns(self, n: int) -> list[slice]:
        """The symbols that are coded side by side, one per lane."""
        lanes = self.states.shape[1]
        return [slice(i, min(i + lanes, n)) for i in range(0, n, lanes)]

    def mix(self, num: int) -> None:
        """Scramble the codes of the first ``num`` stacks, so that the next pop does not repeat the last push.

        A pop directly after a push reads the interval of the symbol that was pushed; in bits back coding z would
        then be a function of the z of the datum before.
        """
        self._multiply(num, _FACTOR)

    def unmix(self, num: int) -> None:
        """The inverse of :meth:`mix`."""
        self._multiply(num, _INVERSE_FACTOR)

    def _multiply(self, num: int, factor: np.uint64) -> None:
        states = self.states[:num]
        self.states[:num] = (states & ~_MASK) | ((states & _MASK) * factor & _MASK)

    def _push(self, start: U64, frequency: U64) -> None:
        """One symbol for each of the first lanes."""
        num, width = start.shape
        states = self.states[:num, :width]
        full = (states >> _TOP) >= frequency
        if full.any():
            self._reserve(num)
            rows, places = self._places(full)
            self.words[rows, places] = states[full] & _LOW
            self.sizes[:num] += full.sum(1)
            states = np.where(full, states >> _WORD, states)
        quotient = states // frequency
        self.states[:num, :width] = (quotient << _P) + (states - quotient * frequency) + start

    def _pop(self, code: U64, start: U64, frequency: U64) -> None:
        num, width = start.shape
        states = frequency * (self.states[:num, :width] >> _P) + code - start
        empty = states < 2**32
        if empty.any():
            self.sizes[:num] -= empty.sum(1)
            if (self.sizes[:num] < 0).any():
                raise Exhausted
            rows, places = self._places(empty)
            states[empty] = (states[empty] << _WORD) | self.words[rows, places]
            np.minimum(self.lowest[:num], self.sizes[:num], out=self.lowest[:num])
        self.states[:num, :width] = states

    def _places(self, chosen: NDArray[np.bool_]) -> tuple[I64, I64]:
        """Row and column of the word of each chosen lane, which follow each other above ``sizes``."""
        rank = chosen.cumsum(1) - 1 + self.sizes[: len(chosen), None]
        return np.nonzero(chosen)[0], rank[chosen]

    def _reserve(self, num: int) -> None:
        if int(self.sizes[:num].max()) + self.states.shape[1] > self.words.shape[1]:
            more = np.zeros((len(self.words), self.words.shape[1] + 64), dtype=np.uint32)
            self.words = np.concatenate([self.words, more], 1)


class Exhausted(Exception):
    """A stack holds fewer bits than are popped, or a value is pushed that has no frequency."""
