"""Lossy image formats on the same images: bits per dimension against squared error at several qualities."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from pyro_vae._core.checks import require

FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"format": "JPEG", "optimize": True, "progressive": True},
    "WebP": {"format": "WEBP", "method": 6},
}
QUALITIES = (1, 3, 6, 12, 20, 35, 55, 75, 90)
_LARGEST_SIDE = 16383  # of a WebP image


class Point(NamedTuple):
    """A file of all images.

    Attributes:
        quality: of the format, 1 to 95.
        bits: bits per dimension of the file, with its header.
        squared_error: mean squared error, for pixels in [0, 1].
    """

    quality: int
    bits: float
    squared_error: float


def image_formats(images: Tensor, qualities: Sequence[int] = QUALITIES, *, block: int = 1) -> dict[str, list[Point]]:
    """Rate and distortion of JPEG and WebP, with all images on one square sheet, whose one header is counted.

    The images are joined as they are, or extended to whole blocks by their own edge pixels, so that no block has parts
    of two images; on images with a plain border the first gives the smaller file.

    Args:
        images: ``(N, C, H, W)`` in [0, 1], C 1 or 3; rounded to 256 grey levels.
        qualities: of the formats.
        block: images are extended to multiples of it: 8 is the block of JPEG, 16 that of WebP and of JPEG's colours.

    Raises:
        ValueError: the data are no such images, or too many for a sheet.
    """
    shape = tuple(images.shape)
    valid = len(shape) == 4 and shape[0] > 0 and shape[1] in (1, 3)
    require(valid, "image_formats", "images must be (N, C, H, W) with C 1 or 3", f"shape={shape}")
    sheet, columns = _sheet(images, block)
    rule, advice = f"the sheet must be at most {_LARGEST_SIDE} pixels wide and high", "Use fewer images"
    require(max(sheet.shape) <= _LARGEST_SIDE, "image_formats", rule, f"{sheet.shape[:2]}", advice)
    return {name: [_point(images, sheet, columns, q, options) for q in qualities] for name, options in FORMATS.items()}


def bits_at(points: Sequence[Point], squared_error: float) -> float:
    """Bits per dimension of a format at a squared error, linear in the logarithms; nan outside its range."""
    points = sorted(points, key=lambda point: point.squared_error)
    errors = [point.squared_error for point in points]
    if not errors[0] <= squared_error <= errors[-1]:
        return math.nan
    return float(np.exp(np.interp(math.log(squared_error), np.log(errors), np.log([p.bits for p in points]))))


def _sheet(images: Tensor, block: int) -> tuple[NDArray[np.uint8], int]:
    """The images side by side, ``(height, width, C)``, and the number of columns."""
    n, _, h, w = images.shape
    levels = (images * 255).round().clamp(0, 255)
    tiles = pad(levels, (0, -w % block, 0, -h % block), mode="replicate")
    columns = math.isqrt(n - 1) + 1
    rows = -(-n // columns)
    tiles = torch.cat([tiles, tiles[-1:].expand(rows * columns - n, -1, -1, -1)])
    sheet = tiles.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2)  # (rows, H, columns, W, C)
    return sheet.flatten(2, 3).flatten(0, 1).to(torch.uint8).numpy(), columns


def _point(images: Tensor, sheet: NDArray[np.uint8], columns: int, quality: int, options: dict[str, Any]) -> Point:
    from PIL import Image

    buffer, (n, c, h, w) = io.BytesIO(), images.shape
    image = Image.fromarray(sheet if c == 3 else sheet[..., 0])
    (image if c == 3 or options["format"] == "JPEG" else image.convert("RGB")).save(buffer, quality=quality, **options)
    decoded = np.asarray(Image.open(buffer).convert("RGB" if c == 3 else "L"))
    rows = -(-n // columns)
    tiles = torch.from_numpy(decoded.copy()).reshape(rows, len(sheet) // rows, columns, -1, c)
    back = tiles.permute(0, 2, 4, 1, 3).flatten(0, 1)[:n, :, :h, :w]
    error = float((back.double() / 255 - images.double()).square().mean())
    return Point(quality, 8 * len(buffer.getvalue()) / images.numel(), error)
