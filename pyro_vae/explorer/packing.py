"""Tensors as one block of bytes, for a page that decodes them in JavaScript."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae._core.checks import require

_LARGEST_HALF = 65504


class Pack:
    """A growing block of little-endian arrays.

    Each method appends a tensor and returns where it is: its kind, its first byte and its number of entries. Kinds are
    ``f2`` and ``f4``, floating-point numbers of 2 and 4 bytes; ``u1``, bytes; and ``b1``, bits.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()

    def weight(self, tensor: Tensor) -> list[Any]:
        """Store a matrix or kernel in half precision, relative error 2^-11, or single if it has larger numbers."""
        return self._append("f2" if tensor.abs().max() <= _LARGEST_HALF else "f4", tensor)

    def vector(self, tensor: Tensor) -> list[Any]:
        """Store biases, locations and scales in single precision."""
        return self._append("f4", tensor)

    def pixels(self, x: Tensor, steps: int | None) -> list[Any]:
        """Store data in [0, 1]: bits if ``steps`` is 1, bytes k for k / steps, or single precision if it is None."""
        if steps is None:
            return self.vector(x)
        levels = (x.double() * steps).round().flatten().cpu().numpy().astype(np.uint8)
        return self._place("b1", np.packbits(levels), levels.size) if steps == 1 else self._place("u1", levels)

    def base64(self) -> str:
        """The block as text."""
        return base64.b64encode(self._bytes).decode()

    def _append(self, kind: str, tensor: Tensor) -> list[Any]:
        require(bool(tensor.isfinite().all()), "explore", "the weights must be finite", "nan or inf", "Train again")
        return self._place(kind, tensor.detach().to("cpu", torch.float64).numpy().astype(f"<{kind}"))

    def _place(self, kind: str, array: np.ndarray, size: int | None = None) -> list[Any]:
        start = len(self._bytes)
        self._bytes += array.tobytes()
        return [kind, start, array.size if size is None else size]
