"""Digits of scikit-learn, available without a download."""

from __future__ import annotations

from os import PathLike
from typing import Any

import torch

from pyro_vae._core.checks import require
from pyro_vae.data.base import Dataset, RawArrays
from pyro_vae.data.binarization import Binarization
from pyro_vae.data.splitting import TEST_SEED, hold_out


class Digits(Dataset):
    """The 1797 hand-written 8 x 8 digits of scikit-learn, with values 0..16.

    The 297 test images are the same for every ``seed``.

    Args:
        root: must be ``None``, as the images come with scikit-learn.
        binarize: ``"dynamic"``, at random for every batch; ``"fixed"``, at random once; ``"threshold"``, at one half;
            ``"none"``, grey levels in [0, 1].
        validation: number of the 1500 training images held out.
        seed: seed of the validation split and of fixed binarization.
        labels, label_seed, context: see :class:`Dataset`.

    Shape:
        ``data_shape`` is ``(1, 8, 8)``, ``max_value`` is 16.

    Raises:
        ValueError: ``root`` is not ``None``.

    References:
        "Optical recognition of handwritten digits" (Alpaydin and Kaynak, 1998), UCI, its test set,
        https://archive.ics.uci.edu/dataset/80. The split is specific to this package.

    Example:
        >>> splits = Digits().load()
        >>> len(splits.train), len(splits.validation), len(splits.test)
        (1350, 150, 297)
        >>> splits.train.batch([0, 1]).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        root: str | PathLike[str] | None = None,
        *,
        binarize: Binarization = "dynamic",
        validation: int = 150,
        seed: int = 0,
        labels: int | None = None,
        label_seed: int = 0,
        context: str | None = None,
    ) -> None:
        rule = "root must be None, as the images come with scikit-learn"
        require(root is None, "Digits", rule, f"root={str(root)!r}", "Use Files(root) for your own images")
        options: dict[str, Any] = {"labels": labels, "label_seed": label_seed, "context": context}
        super().__init__(root, binarize=binarize, validation=validation, seed=seed, **options)

    def raw(self) -> RawArrays:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images.astype("uint8")).unsqueeze(1)  # (1797, 1, 8, 8)
        labels = torch.from_numpy(digits.target.astype("int64"))  # (1797,)
        kept, test = hold_out(len(images), 297, seed=TEST_SEED, name="test")
        return RawArrays(images[kept], labels[kept], images[test], labels[test], 16, rows=(kept, test))
