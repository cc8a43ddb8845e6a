"""Regions that a pass of a causal network computes: the whole image, or one pixel of it with the rest in a cache.

A network is written once, for any region: everything that acts on one pixel at a time is ordinary torch, and what
combines pixels asks the region for the neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn import functional

T = TypeVar("T")


class WholeImage:
    """Compute all pixels at once; differentiable."""

    whole = True

    def pad(self, key: Any, h: Tensor, padding: tuple[int, int, int, int], *, strict: bool = False) -> Tensor:
        """Features and their neighbours, for a convolution with that ``padding`` (left, right, top, bottom).

        Args:
            key: the layer, which identifies the features among those that are stored.
            h: features of the region; with ``strict`` the whole image, of which the current pixel is not known.
            padding: number of neighbours on each side; 0 at the bottom.
            strict: exclude the current pixel, whose weights must be masked.
        """
        return functional.pad(h, padding)

    def conv(self, layer: nn.Conv2d, patches: Tensor, mask: Tensor | None = None) -> Tensor:
        """Convolution of padded features, whose kernel may be multiplied by a mask."""
        weight = layer.weight if mask is None else layer.weight * mask
        return functional.conv2d(patches, weight, layer.bias, layer.stride)

    def above(self, x: Tensor) -> Tensor:
        """The image of the pixels one row above."""
        return functional.pad(x, (0, 0, 1, -1))

    def left(self, x: Tensor) -> Tensor:
        """The image of the pixels to the left."""
        return functional.pad(x, (1, -1))

    def crop(self, h: Tensor) -> Tensor:
        """Part of an image, or of a 1 x 1 image for all pixels, that lies in the region."""
        return h

    def add(self, h: Tensor, bias: Tensor | None) -> Tensor:
        """Features plus an image of biases, if there is one."""
        return h if bias is None else h + self.crop(bias)

    def once(self, key: Any, compute: Callable[[], T]) -> T:
        """Result of a function that does not depend on the pixels."""
        return compute()

    def per_row(self, key: Any, compute: Callable[[Any], T]) -> T:
        """Result of a function of the region of the current row, which depends on the rows above only."""
        return compute(self)

    def per_pixel(self, key: Any, compute: Callable[[], T]) -> T:
        """Result of a function of the pixels before the current one, common to its channels."""
        return compute()

    def coarse(self, key: Any, compute: Callable[[Any], T]) -> T:
        """Result of a function of the region of half the resolution, whose pixels (i, j) are those of (2 i, 2 j)."""
        return compute(self)

    def fine(self, h: Tensor, like: Tensor) -> Tensor:
        """Part of an image of doubled size that lies in the region."""
        return h[..., : like.shape[-2], : like.shape[-1]]


class Pixel(WholeImage):
    """Compute one pixel, or one row, after those before it; the features of those before are stored.

    Args:
        store: results of the passes before.
        position: row and column; the column is None for all columns.
        size: height and width of the image.
        channel: index of the channel, 0 at the first pass of a pixel.
    """

    whole = False

    def __init__(
        self, store: dict[Any, Any], position: tuple[int, int | None], size: tuple[int, int], channel: int = 0
    ) -> None:
        self.store, self.size, self.channel = store, size, channel
        self.row, self.column = position
        self.rows = slice(self.row, self.row + 1)
        self.columns = slice(0, size[1]) if self.column is None else slice(self.column, self.column + 1)

    def pad(self, key: Any, h: Tensor, padding: tuple[int, int, int, int], *, strict: bool = False) -> Tensor:
        left, right, top, _ = padding
        height, width = self.size
        buffer = self.once(key, lambda: h.new_zeros(*h.shape[:2], height + top, left + width + right))
        if strict:  # of the whole image, only the pixel before is not stored yet
            i, j = divmod(self.row * width + (self.column or 0) - 1, width)
            if i >= 0:
                buffer[..., top + i, left + j] = h[..., i, j]
        else:
            buffer[..., top + self.row, left + self.columns.start : left + self.columns.stop] = h[..., 0, :]
        return buffer[..., self.row : self.row + top + 1, self.columns.start : self.columns.stop + left + right]

    def conv(self, layer: nn.Conv2d, patches: Tensor, mask: Tensor | None = None) -> Tensor:
        if patches.shape[-2:] != layer.kernel_size:
            return super().conv(layer, patches, mask)
        # At a single pixel a matrix product has less overhead.
        flat = self.once((layer, "flat"), lambda: (layer.weight if mask is None else layer.weight * mask).flatten(1))
        return functional.linear(patches.flatten(1), flat, layer.bias)[..., None, None]

    def above(self, x: Tensor) -> Tensor:
        row = x[..., max(self.row - 1, 0) : max(self.row, 1), self.columns]
        return row if self.row else row * 0

    def left(self, x: Tensor) -> Tensor:
        j = self.columns.start
        pixel = x[..., self.rows, max(j - 1, 0) : max(j, 1)]
        return pixel if j else pixel * 0

    def crop(self, h: Tensor) -> Tensor:
        rows, columns = (
            s if n > 1 else slice(0, 1) for s, n in zip((self.rows, self.columns), h.shape[-2:], strict=True)
        )
        return h[..., rows, columns]

    def once(self, key: Any, compute: Callable[[], T]) -> T:
        if key not in self.store:
            self.store[key] = compute()
        return self.store[key]

    def per_row(self, key: Any, compute: Callable[[Any], T]) -> T:
        if self.column == 0:
            self.store[key, "row"] = compute(Pixel(self.store, (self.row, None), self.size))
        return self.store[key, "row"]

    def per_pixel(self, key: Any, compute: Callable[[], T]) -> T:
        if self.channel == 0:
            self.store[key, "pixel"] = compute()
        return self.store[key, "pixel"]

    def coarse(self, key: Any, compute: Callable[[Any], T]) -> T:
        column = self.columns.start
        if self.row % 2 == column % 2 == 0:
            height, width = self.size
            half = Pixel(self.store, (self.row // 2, column // 2), (-(-height // 2), -(-width // 2)))
            self.store[key, column // 2] = compute(half)
        return self.store[key, column // 2]

    def fine(self, h: Tensor, like: Tensor) -> Tensor:
        row = h[..., self.row % 2 : self.row % 2 + 1, :]
        return row[..., : self.size[1]] if self.column is None else row[..., self.column % 2 : self.column % 2 + 1]
