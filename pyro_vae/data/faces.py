"""Drawn faces with six known factors of variation."""

from __future__ import annotations

from os import PathLike

import numpy as np
import torch
from torch import Tensor

from pyro_vae._core.checks import check_count, require
from pyro_vae.data.base import Dataset, RawArrays
from pyro_vae.data.binarization import Binarization
from pyro_vae.data.kinds import DataKind
from pyro_vae.data.splitting import TEST_SEED, hold_out, stream_seed


class Faces(Dataset):
    """Drawn faces that smile, turn, wear glasses, and differ in hair, brows and width.

    The six factors are independent and uniform over their ranges, :data:`pyro_vae.data.face_drawing.FACTORS`; an image
    is a function of them alone, :func:`pyro_vae.data.face_drawing.draw_face`. Drawing takes about half a millisecond
    per face of 32 x 32 pixels. A sixth of the faces are the test images, the same ones for every ``seed``.

    Args:
        root: must be ``None``, as the faces are drawn.
        binarize: ``"none"``, levels in [0, 1]; ``"dynamic"``, ``"fixed"`` and ``"threshold"`` as for all data sets.
        validation: number of training images held out; ``None`` is a sixth of them.
        seed: seed of the validation split and of fixed binarization.
        count: number of faces of all splits.
        size: height and width in pixels, at least 16.
        color: three channels instead of grey levels.
        draw_seed: seed of the factors. The first faces of a larger ``count`` are those of a smaller one.

    Attributes:
        factors: float32 values ``(count,)`` of each factor by name, before the data are split: those of the test images
            are ``data.factors["smile"][splits.test.rows]``.

    Shape:
        ``data_shape`` is ``(1, size, size)``, in colour ``(3, size, size)``; ``max_value`` is 255.

    Raises:
        ValueError: ``root`` is not ``None``, ``count`` below 12 or ``size`` below 16.

    Example:
        >>> data = Faces(count=60)
        >>> splits = data.load()
        >>> len(splits.train), len(splits.validation), len(splits.test), splits.data_shape
        (42, 8, 10, (1, 32, 32))
        >>> list(data.factors)
        ['smile', 'turn', 'glasses', 'hair', 'brows', 'width']
        >>> data.factors["smile"][splits.test.rows].shape
        torch.Size([10])
    """

    def __init__(
        self,
        root: str | PathLike[str] | None = None,
        *,
        binarize: Binarization = "none",
        validation: int | None = None,
        seed: int = 0,
        count: int = 6000,
        size: int = 32,
        color: bool = False,
        draw_seed: int = 0,
    ) -> None:
        from pyro_vae.data.face_drawing import MIN_SIZE  # PIL is imported where it is used

        rule = "root must be None, as the faces are drawn"
        require(root is None, "Faces", rule, f"root={str(root)!r}", "Use Files(root) for your own images")
        super().__init__(root, binarize=binarize, validation=validation, seed=seed)
        check_count("Faces", 12, count=count)
        check_count("Faces", MIN_SIZE, size=size)
        self.count, self.size, self.color, self.draw_seed = count, size, color, draw_seed

    @property
    def factors(self) -> dict[str, Tensor]:
        from pyro_vae.data.face_drawing import BINARY, FACTORS

        uniform = np.random.default_rng(stream_seed(self.draw_seed, "faces")).random((self.count, len(FACTORS)))
        values = {}
        for column, (name, (low, high)) in zip(uniform.T, FACTORS.items(), strict=True):
            levels = (column < 0.5) if name in BINARY else low + (high - low) * column
            values[name] = torch.from_numpy(levels.astype("float32"))  # (count,)
        return values

    def raw(self) -> RawArrays:
        from pyro_vae.data.face_drawing import draw_face

        rows = torch.stack(list(self.factors.values()), -1).tolist()
        images = torch.from_numpy(np.stack([draw_face(*row, size=self.size, color=self.color) for row in rows]))
        kept, test = hold_out(len(images), len(images) // 6, seed=TEST_SEED, name="test")
        described = {"kind": self.known_kind}
        return RawArrays(images[kept], None, images[test], None, 255, rows=(kept, test), described=described)

    @property
    def known_kind(self) -> DataKind | None:
        return None if self.binarize != "none" else "colour" if self.color else "grey"
