"""Fingerprints of tensors: equal numbers have equal fingerprints, on any device and in any file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

DIGITS = 16


class Chunked(Protocol):
    """An array that is read in consecutive parts."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def chunks(self) -> Iterator[Tensor]: ...


def fingerprint_of(tensors: Mapping[str, Tensor | Chunked]) -> str:
    """SHA-256 of the names, dtypes, shapes and values of tensors, the first 16 hexadecimal digits.

    The order of the mapping, the device and the strides do not matter. Values of a contiguous tensor on the CPU are
    hashed in place.

    Example:
        >>> fingerprint_of({"a": torch.tensor([1.0, 2.0], dtype=torch.float32)})
        'c48867ed9cbd4f65'
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        for part in (tensor,) if isinstance(tensor, Tensor) else tensor.chunks():
            values = part.detach().cpu().contiguous().reshape(-1)  # 0-dimensional tensors cannot be viewed as bytes
            digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:DIGITS]
