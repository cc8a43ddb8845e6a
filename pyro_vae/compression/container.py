"""The file format of compressed data: a checked header, then chunks that are checked one by one."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from pyro_vae._core.checks import refusal

MAGIC = b"PVZ\x01"


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
    def sizes(self) -> list[int]:
        """Number of data in each chunk."""
        return [min(self.chunk_size, self.count - i) for i in range(0, self.count, self.chunk_size)]


def pack(header: Header, chunks: Sequence[bytes]) -> bytes:
    """The file of a header and the contents of the chunks."""
    text = json.dumps(asdict(header), separators=(",", ":")).encode()
    index = np.array([(len(chunk), zlib.crc32(chunk)) for chunk in chunks], dtype="<u4").tobytes()
    head = MAGIC + len(text).to_bytes(4, "little") + text + index
    return b"".join([head, zlib.crc32(head).to_bytes(4, "little"), *chunks])


def unpack(content: bytes) -> tuple[Header, list[bytes | None]]:
    """The header and the chunks of a file; a damaged chunk is None.

    Raises:
        ValueError: no such file, a damaged header, or missing or additional bytes.
    """
    header, start = _header(content)
    place = start + 8 * len(header.sizes)
    if content[place : place + 4] != zlib.crc32(content[:place]).to_bytes(4, "little"):
        raise _damaged("a damaged header")
    index = np.frombuffer(content, dtype="<u4", offset=start, count=2 * len(header.sizes)).reshape(-1, 2)
    place += 4
    if len(content) != place + int(index[:, 0].sum()):
        raise _damaged(f"{len(content)} bytes instead of {place + int(index[:, 0].sum())}")
    chunks: list[bytes | None] = []
    for length, crc in index.tolist():
        chunk = content[place : place + length]
        chunks.append(chunk if zlib.crc32(chunk) == crc else None)
        place += length
    return header, chunks


def _header(content: bytes) -> tuple[Header, int]:
    """The header, not yet checked, and the position after it."""
    if content[:4] != MAGIC:
        raise refusal("decompress", "the file must be one of pyro-vae compress", "another", "Choose another file")
    try:
        size = int.from_bytes(content[4:8], "little")
        values: dict[str, Any] = json.loads(content[8 : 8 + size])
        header = Header(**{**values, "shape": tuple(values["shape"])})
        positive = [header.lanes, header.num_particles, header.chunk_size, *header.shape]
        if (
            any(type(v) is not int or v < 1 for v in positive)
            or type(header.count) is not int
            or type(header.num_values) is not int
        ):
            raise ValueError
        if {f.name for f in fields(Header)} != set(values) or 8 * header.count // header.chunk_size > len(content):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _damaged("a damaged header") from None
    return header, 8 + size


def _damaged(what: str) -> ValueError:
    return refusal("decompress", "the file must be whole", what, "Copy it again")
