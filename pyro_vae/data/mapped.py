"""Arrays in ``.npy`` files, of which single rows are read."""

from __future__ import annotations

import mmap
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pyro_vae._core.checks import refusal, require
from pyro_vae._core.files import open_regular
from pyro_vae.data.arrays import read_npy_header


@dataclass(frozen=True)
class NpyRows:
    """The rows of an array in a file, read from the file at every call.

    It is mapped during the call only, so that its pages do not add up as memory of the process, and checked before and
    after, so that a file that changes raises an error.

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
        with open_regular(self.path) as file:
            self._check(file)  # before, as reading beyond the end of a mapped file ends the process
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
                # of scattered rows, neighbours in the file are not read ahead
                pages.madvise(mmap.MADV_SEQUENTIAL if _is_dense(index) else mmap.MADV_RANDOM)
                rows = np.ndarray(self.shape, self.dtype, pages, self.offset)[index]
            self._check(file)
        return rows

    def _check(self, file: BinaryIO) -> None:
        info = os.fstat(file.fileno())
        if (info.st_size, info.st_mtime_ns) != self.stamp:
            raise changed(self.path, self.owner, (info.st_size, info.st_mtime_ns), self.stamp)


def stamp_of(path: str | Path) -> tuple[int, int]:
    """Size and time stamp of a file."""
    info = os.stat(path)
    return info.st_size, info.st_mtime_ns


def changed(path: Path, owner: str, stamp: tuple[int, int], expected: tuple[int, int]) -> ValueError:
    """The error for a file that has changed."""
    size = f"{stamp[0]} bytes, {expected[0]} at the start"
    value = size if stamp[0] != expected[0] else "a new time stamp"
    return refusal(owner, f"{path} must not change while it is in use", value, "Restore it and resume, or start again")


def _is_dense(index: np.ndarray) -> bool:
    """Whether most rows from the smallest to the largest are read."""
    return len(index) == 0 or int(index.max() - index.min()) < 2 * len(index)
