"""Rows of arrays that stay in files, or packed, until a batch needs them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

_CHUNK_BYTES = 4_000_000
_MAX_WORKERS = 4
_CPU = torch.device("cpu")


class Source(Protocol):
    """An array whose rows are read one by one.

    Attributes:
        shape: of the array, the number of rows first.
        files: the files that hold it.
        since: time before these were opened, in nanoseconds.
        layout: all else that the numbers depend on.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def files(self) -> Iterable[Path]: ...

    @property
    def since(self) -> int: ...

    @property
    def layout(self) -> str: ...

    def rows(self, index: np.ndarray) -> np.ndarray:
        """Read rows, ``(B, *row_shape)``, in the order of ``index``."""
        ...


Convert = Callable[[np.ndarray, np.ndarray], Tensor]


@dataclass(frozen=True, eq=False)
class LazyRows:
    """Rows of a source, with the part of a tensor's interface that data sets use; nothing is kept in memory.

    Args:
        source: the array.
        convert: converts an array of rows, given with their positions in the source, to a tensor.
        row_shape: shape of one converted row.
        dtype: dtype of the converted rows.
        positions: of the rows in the source, ``(N,)``, on the CPU.
        device: device of the tensors.
        num_workers: number of processes that read ahead of :meth:`read_ahead`.
    """

    source: Source
    convert: Convert
    row_shape: tuple[int, ...]
    dtype: torch.dtype
    positions: Tensor
    device: torch.device = _CPU
    num_workers: int = 0

    @classmethod
    def of(cls, source: Source, convert: Convert, *, num_workers: int = 0) -> LazyRows:
        """All rows of a source; the first is read."""
        first = np.arange(min(1, source.shape[0]))
        row = convert(source.rows(first), first)
        positions = torch.arange(source.shape[0], device=_CPU)
        return cls(source, convert, tuple(row.shape[1:]), row.dtype, positions, num_workers=num_workers)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor of all rows, ``(N, *row_shape)``."""
        return (len(self), *self.row_shape)

    def __len__(self) -> int:
        return len(self.positions)

    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def numel(self) -> int:
        """Number of entries."""
        return int(np.prod(self.shape))

    def is_floating_point(self) -> bool:
        """Whether the entries are floating-point numbers."""
        return self.dtype.is_floating_point

    def to(self, target: torch.device | torch.dtype | str) -> LazyRows:
        """The same rows, read to another device or converted to another dtype."""
        if not isinstance(target, torch.dtype):
            return replace(self, device=torch.device(target))
        convert = self.convert
        return replace(self, dtype=target, convert=lambda rows, index: convert(rows, index).to(target))

    def __getitem__(self, index: Any) -> LazyRows:
        """The rows at ``index``, which are not read yet."""
        return replace(self, positions=self.positions[index.cpu() if isinstance(index, Tensor) else index])

    def read(self, index: Any) -> Tensor:
        """Read the rows at ``index``, ``(B, *row_shape)``, to the device."""
        position = self[index].positions.numpy()
        return self._tensor(self.source.rows(position), position)

    def read_ahead(self, order: Tensor, length: int) -> Iterator[Tensor]:
        """Read the rows at ``order``, ``length`` at a time, ahead of their use if there are workers.

        The random state of torch is left as it is.
        """
        parts = _Parts(self.source, self[order].positions.numpy(), length)
        # its own generator, from which the seeds of workers are drawn; they need none
        seeds = torch.Generator(_CPU)
        loader = DataLoader(parts, batch_size=None, num_workers=self.num_workers, collate_fn=_identity, generator=seeds)
        for position, rows in loader:
            if isinstance(rows, Exception):
                raise rows
            yield self._tensor(rows, position)

    def chunks(self) -> Iterator[Tensor]:
        """All rows, in parts of some millions of bytes."""
        return self.read_ahead(torch.arange(len(self), device=_CPU), _chunk_length(self))

    def _tensor(self, rows: np.ndarray, position: np.ndarray) -> Tensor:
        return self.convert(rows, position).to(self.device)


class _Parts(Dataset[Any]):
    """Parts of rows with their positions; errors are returned, as a ``DataLoader`` would add the worker's traceback."""

    def __init__(self, source: Source, positions: np.ndarray, length: int) -> None:
        self.source, self.positions, self.length = source, positions, length

    def __len__(self) -> int:
        return -(-len(self.positions) // self.length)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray | Exception]:
        position = self.positions[number * self.length : (number + 1) * self.length]
        try:
            return position, self.source.rows(position)
        except (OSError, ValueError) as error:
            return position, error


def _identity(rows: Any) -> Any:
    return rows


@dataclass(frozen=True)
class PackedPixels:
    """Zeros and ones in memory, eight in a byte; the source of images that were binarized once.

    Attributes:
        bits: ``(N, D / 8)``, rounded up.
        shape: of the unpacked array, ``(N, *data_shape)``.
    """

    bits: np.ndarray
    shape: tuple[int, ...]
    files = ()
    since, layout = 0, ""

    def rows(self, index: np.ndarray) -> np.ndarray:
        """Unpack rows, uint8 ``(B, *data_shape)``."""
        rows = np.unpackbits(self.bits[index], axis=1, count=int(np.prod(self.shape[1:])))
        return rows.reshape(len(index), *self.shape[1:])


def pack(parts: Iterable[Tensor], shape: tuple[int, ...]) -> LazyRows:
    """Pack tensors of zeros and ones, the consecutive parts of one of ``shape``."""
    bits = np.empty((shape[0], -(-int(np.prod(shape[1:])) // 8)), dtype=np.uint8)
    start = 0
    for part in parts:
        bits[start : start + len(part)] = np.packbits(part.flatten(1).cpu().numpy(), axis=1)
        start += len(part)
    return LazyRows.of(PackedPixels(bits, shape), lambda rows, _: torch.from_numpy(rows))


def chunks(images: Tensor | LazyRows) -> Iterator[Tensor]:
    """Consecutive parts, of the same lengths for rows in memory and in files."""
    return images.chunks() if isinstance(images, LazyRows) else iter(images.split(_chunk_length(images)))


def _chunk_length(images: Tensor | LazyRows) -> int:
    return max(1, _CHUNK_BYTES // max(1, int(np.prod(images.shape[1:])) * images.dtype.itemsize))


def memory_size() -> int:
    """Bytes of memory of this machine, or of the control group's limit if that is smaller."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # without a limit the first is "max"
            size = min(size, int(Path("/sys/fs/cgroup", name).read_text()))
    return size


def default_workers() -> int:
    """Number of processes that decode image files: one for each other core of this process, at most four."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores - 1, _MAX_WORKERS)
