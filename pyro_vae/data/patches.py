"""Patches of the photographs that come with scikit-learn."""

from __future__ import annotations

from os import PathLike

import torch
from torch import Tensor

from pyro_vae._core.checks import check_count, require
from pyro_vae.data.base import Dataset, RawArrays
from pyro_vae.data.binarization import Binarization
from pyro_vae.data.kinds import DataKind
from pyro_vae.data.splitting import TEST_SEED, stream

_SIDE = 32


class Patches(Dataset):
    """Colour patches of 32 x 32 pixels, at random positions of scikit-learn's two photographs of 427 x 640 pixels.

    The test patches are of the right fifth of each photograph, training and validation patches of the rest, so that no
    pixel is in both. They are the same for every ``seed``. Patches of one split may overlap: intervals over the data
    treat them as independent and are too short.

    Args:
        root: must be ``None``, as the photographs come with scikit-learn.
        binarize: ``"none"``, levels in [0, 1]; ``"dynamic"``, ``"fixed"`` and ``"threshold"`` as for all data sets.
        validation: number of training patches held out; ``None`` is a sixth of them. They overlap with training
            patches.
        seed: seed of the validation split and of fixed binarization.
        count: number of patches of all splits, a sixth of which are test patches.
        grey: one channel instead of colour, the mean of the three.

    Shape:
        ``data_shape`` is ``(3, 32, 32)``, in grey ``(1, 32, 32)``; ``max_value`` is 255.

    Raises:
        ValueError: ``root`` is not ``None``, or ``count`` below 12.

    References:
        The photographs are "China" and "Flower" of :func:`sklearn.datasets.load_sample_images`.

    Example:
        >>> splits = Patches(count=60).load()
        >>> len(splits.train), len(splits.validation), len(splits.test), splits.data_shape
        (42, 8, 10, (3, 32, 32))
    """

    def __init__(
        self,
        root: str | PathLike[str] | None = None,
        *,
        binarize: Binarization = "none",
        validation: int | None = None,
        seed: int = 0,
        count: int = 6000,
        grey: bool = False,
    ) -> None:
        rule = "root must be None, as the photographs come with scikit-learn"
        require(root is None, "Patches", rule, f"root={str(root)!r}", "Use Files(root) for your own images")
        super().__init__(root, binarize=binarize, validation=validation, seed=seed)
        check_count("Patches", 12, count=count)
        self.count, self.grey = count, grey

    def raw(self) -> RawArrays:
        photographs = _photographs()
        border = photographs.shape[-1] * 4 // 5
        num_test = self.count // 6
        train = _cut(photographs[..., :border], self.count - num_test, "training patches")
        test = _cut(photographs[..., border:], num_test, "test patches")
        if self.grey:
            train, test = (images.float().mean(1, keepdim=True).round().to(torch.uint8) for images in (train, test))
        return RawArrays(train, None, test, None, 255, described={"kind": self.known_kind})

    @property
    def known_kind(self) -> DataKind | None:
        return "colour" if self.binarize == "none" else None


def _photographs() -> Tensor:
    """The pixels, ``(2, 3, 427, 640)``."""
    from sklearn.datasets import load_sample_images

    return torch.stack([torch.from_numpy(image.copy()) for image in load_sample_images().images]).permute(0, 3, 1, 2)


def _cut(photographs: Tensor, count: int, name: str) -> Tensor:
    """Patches at uniform positions, ``(count, 3, 32, 32)``."""
    height, width = photographs.shape[-2:]
    ranges = torch.tensor([len(photographs), height - _SIDE + 1, width - _SIDE + 1])
    uniform = torch.rand(count, 3, generator=stream(TEST_SEED, name), dtype=torch.float64, device="cpu")
    positions = (uniform * ranges).long().tolist()
    return torch.stack([photographs[i, :, y : y + _SIDE, x : x + _SIDE] for i, y, x in positions])
