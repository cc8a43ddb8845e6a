"""Lengths of the same data by general-purpose coders and by image formats."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math

import numpy as np
from numpy.typing import NDArray

from pyro_vae.evaluation.code_length import OTHER_CODERS

_LARGEST_SIDE = 16383  # of a WebP image


def other_coders(symbols: NDArray[np.uint16], shape: tuple[int, ...], size: int) -> list[float]:
    """Bits of all data by each of :data:`OTHER_CODERS`; nan if a coder does not apply.

    Args:
        symbols: ``(N, n)``, integers below ``size``.
        shape: of a datum; images are ``(1, H, W)`` or ``(3, H, W)``.
        size: number of values of a symbol.
    """
    values = symbols.astype(np.uint8) if size <= 256 else symbols
    raw = [values.tobytes()] + ([np.packbits(values).tobytes()] if size == 2 else [])
    coders = (lambda b: gzip.compress(b, 9), lambda b: bz2.compress(b, 9), lambda b: lzma.compress(b, preset=9))
    bits = {name: 8.0 * min(len(code(b)) for b in raw) for name, code in zip(OTHER_CODERS[:3], coders, strict=True)}
    if len(shape) == 3 and shape[0] in (1, 3) and size <= 256 and shape[1] <= _LARGEST_SIDE >= shape[2]:
        images = values.reshape(-1, *shape).transpose(0, 2, 3, 1)  # (N, H, W, C)
        scaled = images * np.uint8(255 if size == 2 else 1)
        bits |= {"PNG": _png(scaled, size), "WebP": _webp(images)}
    return [bits.get(name, math.nan) for name in OTHER_CODERS]


def _png(images: NDArray[np.uint8], size: int) -> float:
    from PIL import Image

    tall = images.reshape(-1, *images.shape[2:])
    image = Image.fromarray(tall if tall.shape[-1] == 3 else tall[..., 0])
    return _length(image.convert("1") if size == 2 else image, format="PNG", optimize=True)


def _webp(images: NDArray[np.uint8]) -> float:
    from PIL import Image

    number = _LARGEST_SIDE // images.shape[1]
    parts = [images[i : i + number].reshape(-1, *images.shape[2:]) for i in range(0, len(images), number)]
    colour = [np.repeat(part, 3 // part.shape[-1], -1) for part in parts]
    return sum(_length(Image.fromarray(part), format="WEBP", lossless=True, quality=100, method=6) for part in colour)


def _length(image: object, **options: object) -> float:
    buffer = io.BytesIO()
    image.save(buffer, **options)  # type: ignore[attr-defined]
    return 8.0 * len(buffer.getvalue())
