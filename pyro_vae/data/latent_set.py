"""Data sets of encoded images: the latents of one model as the data of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyro_vae.data.image_set import ImageSet, Index


def _identity(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True, eq=False, repr=False)
class LatentSet(ImageSet):
    r"""An image set whose batches are codes :math:`e(x)`, computed at every call, such as samples of q(z | x).

    Args:
        encode: function from a batch ``(B, *data_shape)`` to codes ``(B, *code_shape)``, run without gradients; may be
            random.
        code_shape: shape of one code, which is the set's ``data_shape``.

    Example:
        >>> import torch
        >>> images = ImageSet(torch.arange(8, dtype=torch.uint8).reshape(2, 4), max_value=8)
        >>> encoded = LatentSet.of(images, lambda x: x.sum(-1, keepdim=True), (1,))
        >>> encoded.batch([1]), encoded.data_shape
        (tensor([[2.7500]]), (1,))
    """

    encode: Callable[[Tensor], Tensor] = field(default=_identity)
    code_shape: tuple[int, ...] = ()

    @classmethod
    def of(cls, images: ImageSet, encode: Callable[[Tensor], Tensor], code_shape: tuple[int, ...]) -> LatentSet:
        """The set of the codes of ``images``, with the same labels and pairing."""
        fields = {
            name: getattr(images, name) for name in ("images", "labels", "max_value", "dynamic", "paired", "rows")
        }
        return cls(**fields, encode=encode, code_shape=tuple(code_shape))

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one code."""
        return self.code_shape

    def mean(self, *, dtype: torch.dtype | None = None) -> Tensor:
        """Mean over the set of one code of each image, ``code_shape``."""
        chunks = torch.arange(len(self), device=self.device).split(1000)
        return torch.cat([self.batch(chunk, dtype=dtype) for chunk in chunks]).mean(0)

    def batch(
        self,
        index: Index,
        *,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
        pixels: Tensor | None = None,
    ) -> Tensor:
        """The codes of the images at ``index``, ``(B, *code_shape)``; arguments as of :meth:`ImageSet.batch`."""
        x = super().batch(index, dtype=dtype, generator=generator, pixels=pixels)
        with torch.no_grad():
            return self.encode(x)
