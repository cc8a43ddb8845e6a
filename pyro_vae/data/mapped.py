"""Arrays in ``.npy`` files, of which single rows are read."""

from __future__ import annotations

import mmap
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pyro_vae._core.checks import refusal, require
from pyro_vae._core.files import open_regular
from pyro_vae.data.arrays import read_npy_header


@dataclass(frozen=True)
class NpyRows:
    """The rows of an array in a file, read from the file at every call.

    The file is read and not mapped: pages of a mapped file count as memory of the process, and one that is truncated
    ends it.

    Args:
        path: the file.
        offset: position of the first row in it, in bytes.
        shape: of the array.
        dtype: of the array.
        stamp: size and time stamp of the file when it was opened.
        owner: name that messages begin with.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    stamp: tuple[int, int]
    owner: str
    since: int = field(default_factory=time.time_ns)

    @classmethod
    def open(cls, path: Path, *, owner: str) -> NpyRows:
        """Open an ``.npy`` file.

        Raises:
            OSError: the file is missing, unreadable, or not a regular file.
            ValueError: the file is damaged, holds pickled objects, or an array in Fortran order.
        """
        since = time.time_ns()
        shape, fortran, dtype, offset = read_npy_header(path, owner=owner)
        advice = "Save it again with np.save(path, np.ascontiguousarray(array)), or read it in memory"
        require(not fortran, owner, f"{path} must hold an array in C order to be read by batches", "another", advice)
        return cls(path.resolve(), offset, shape, dtype, stamp_of(path), owner, since)

    @classmethod
    def of(cls, array: np.memmap, *, owner: str) -> NpyRows | None:
        """The file of a memory-mapped array; None of an array in another order and of one whose changes stay in memory.

        Raises:
            ValueError: the file is smaller than the array.
        """
        base: object = array
        while isinstance(base, np.ndarray) and not isinstance(base.base, mmap.mmap):
            base = base.base
        copies = getattr(array, "mode", "c") == "c" or getattr(array, "filename", None) is None
        if not isinstance(base, np.memmap) or copies or array.ndim == 0 or not array.flags.c_contiguous:
            return None
        distance = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        path = Path(str(array.filename)).resolve()
        source = cls(path, base.offset + distance, array.shape, array.dtype, stamp_of(path), owner)
        if source.offset + array.nbytes > source.stamp[0]:
            raise changed(path, owner, source.stamp, (source.offset + array.nbytes, 0))
        return source

    @property
    def files(self) -> tuple[Path]:
        """The file."""
        return (self.path,)

    @property
    def layout(self) -> str:
        """Position, shape and dtype of the array in the file."""
        return f"{self.offset} {self.shape} {self.dtype.str}"

    def rows(self, index: np.ndarray) -> np.ndarray:
        """Read rows, ``(B, *row_shape)``, in the order of ``index``.

        Raises:
            OSError: the file is missing or unreadable.
            ValueError: the file has changed since it was opened.
        """
        rows = np.empty((len(index), *self.shape[1:]), self.dtype)
        size = rows.nbytes // max(1, len(index))
        view, first = rows.reshape(-1).view(np.uint8).data, _first_of_runs(index)
        ends = [*(first[1:] * size).tolist(), rows.nbytes]
        runs = zip((first * size).tolist(), ends, (self.offset + index[first] * size).tolist(), strict=True)
        with open_regular(self.path) as file:
            handle, read = file.fileno(), os.preadv
            count = sum([read(handle, (view[start:end],), position) for start, end, position in runs])
            info = os.fstat(handle)
        stamp = info.st_size, info.st_mtime_ns
        if count != rows.nbytes or stamp != self.stamp:
            raise changed(self.path, self.owner, stamp, self.stamp)
        return rows


def stamp_of(path: str | Path) -> tuple[int, int]:
    """Size and time stamp of a file."""
    info = os.stat(path)
    return info.st_size, info.st_mtime_ns


def changed(path: Path, owner: str, stamp: tuple[int, int], expected: tuple[int, int]) -> ValueError:
    """The error for a file that has changed."""
    size = f"{stamp[0]} bytes, {expected[0]} at the start"
    value = size if stamp[0] != expected[0] else "a new time stamp"
    return refusal(owner, f"{path} must not change while it is in use", value, "Restore it and resume, or start again")


def _first_of_runs(index: np.ndarray) -> np.ndarray:
    """Positions in ``index`` at which runs of consecutive rows begin."""
    return np.flatnonzero(np.diff(index, prepend=index[:1] - 2) != 1)
