"""The file format of compressed data: a checked header, then chunks that are checked one by one."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from typing import BinaryIO

import numpy as np

from pyro_vae._core.checks import refusal

MAGIC = b"PVZ\x01"
_LONGEST = 2**16  # bytes of a header that are read


@dataclass(frozen=True)
class Header:
    """Content of a file, and the model and coder that wrote it.

    Args:
        model: fingerprint of the model's weights.
        tables: fingerprint of the integer tables.
        coder: name of the coding scheme.
        grid: binary logarithm of the grid points of a latent per unit.
        num_values: number of values of a count; 0 if the likelihood bounds the data.
        num_particles: number of samples of the latents per datum.
        lanes: number of coders per chunk.
        shape: shape of a datum.
        count: number of data.
        chunk_size: data per chunk; the last chunk may hold fewer.
    """

    model: str
    tables: str
    coder: str
    grid: int
    num_values: int
    num_particles: int
    lanes: int
    shape: tuple[int, ...]
    count: int
    chunk_size: int

    @property
    def num_chunks(self) -> int:
        """Number of chunks."""
        return -(-self.count // self.chunk_size)

    def size(self, chunk: int) -> int:
        """Number of data in a chunk."""
        return min(self.chunk_size, self.count - chunk * self.chunk_size)


def write(file: BinaryIO, header: Header, chunks: Iterable[bytes]) -> int:
    """Write a file chunk by chunk, and the index before them at the end; returns the number of bytes."""
    text = json.dumps(astuple(header), separators=(",", ":")).encode()
    head = MAGIC + len(text).to_bytes(4, "little") + text
    index = np.zeros((header.num_chunks, 2), dtype="<u4")
    start = file.tell()
    file.write(head + index.tobytes() + bytes(4))
    for entry, chunk in zip(index, chunks, strict=True):
        entry[:] = len(chunk), zlib.crc32(chunk)
        file.write(chunk)
    end, head = file.tell(), head + index.tobytes()
    file.seek(start)
    file.write(head + zlib.crc32(head).to_bytes(4, "little"))
    file.seek(end)
    return end - start


class Container:
    """A file that :func:`write` wrote, whose chunks are read one by one.

    Args:
        file: open for reading, at its beginning.

    Attributes:
        header: of the file.

    Raises:
        ValueError: no such file, a damaged header, or missing or additional bytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, size = file, file.seek(0, io.SEEK_END)
        file.seek(0)
        self.header, head = _header(file, size)
        head += file.read(8 * self.header.num_chunks)
        if file.read(4) != zlib.crc32(head).to_bytes(4, "little"):
            raise _damaged("a damaged header")
        index = np.frombuffer(head, dtype="<u4", offset=len(head) - 8 * self.header.num_chunks).reshape(-1, 2)
        self._lengths, self._checks = index.astype(np.int64).T
        self._ends = file.tell() + self._lengths.cumsum()
        end = int(self._ends[-1]) if len(self._ends) else file.tell()
        if size != end:
            raise _damaged(f"{size} bytes instead of {end}")
        if ((self._lengths < 8 * self.header.lanes) | (self._lengths % 4 > 0)).any():
            raise _damaged("chunks of impossible lengths")

    def chunk(self, number: int) -> bytes | None:
        """The content of a chunk; None if it is damaged."""
        length = int(self._lengths[number])
        self._file.seek(int(self._ends[number]) - length)
        content = self._file.read(length)
        return content if zlib.crc32(content) == self._checks[number] else None


def _header(file: BinaryIO, file_size: int) -> tuple[Header, bytes]:
    """The header, not yet checked, and its bytes."""
    head = file.read(8)
    if head[:4] != MAGIC:
        raise refusal("decompress", "the file must be one of pyro-vae compress", "another", "Choose another file")
    try:
        text = file.read(min(int.from_bytes(head[4:], "little"), _LONGEST))
        values = json.loads(text)  # earlier files have names as well
        header = Header(*values) if isinstance(values, list) else Header(**values)
        header = replace(header, shape=tuple(header.shape))
        positive = [header.lanes, header.num_particles, header.chunk_size, *header.shape]
        if any(type(v) is not int or v < 1 for v in positive) or type(header.num_values) is not int:
            raise ValueError
        if type(header.count) is not int or header.count < 0:
            raise ValueError
        if 8 * header.num_chunks > file_size:
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _damaged("a damaged header") from None
    return header, head + text


def _damaged(what: str) -> ValueError:
    return refusal("decompress", "the file must be whole", what, "Copy it again")
