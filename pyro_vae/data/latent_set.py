"""Images that reach a program through an encoder: the latents of one model as the data of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyro_vae.data.image_set import ImageSet, Index


def _identity(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True, eq=False)
class LatentSet(ImageSet):
    r"""An image set whose batches are :math:`e(x)`, encoded anew each time: draws from q(z | x), say.

    Args:
        encode: from a batch ``(B, *data_shape)`` to its code ``(B, *code_shape)``, without a gradient; may be random.
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
        """The set of the codes of ``images``, labels and pairing kept."""
        kept = {name: getattr(images, name) for name in ("images", "labels", "max_value", "dynamic", "paired")}
        return cls(**kept, encode=encode, code_shape=tuple(code_shape))

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one code."""
        return self.code_shape

    def mean(self, *, dtype: torch.dtype | None = None) -> Tensor:
        """Mean over the set of one code of each image, ``code_shape``."""
        parts = torch.arange(len(self), device=self.device).split(1000)
        return torch.cat([self.batch(part, dtype=dtype) for part in parts]).mean(0)

    def batch(
        self, index: Index, *, dtype: torch.dtype | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """The codes of the images at ``index``, ``(B, *code_shape)``; arguments as of :meth:`ImageSet.batch`."""
        x = super().batch(index, dtype=dtype, generator=generator)
        with torch.no_grad():
            return self.encode(x)
