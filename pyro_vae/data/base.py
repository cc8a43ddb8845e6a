"""The base of every data set: one constructor, one split, one binarization protocol."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from os import PathLike, fspath
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.data.binarization import PROTOCOLS, Binarization, Part, binarize
from pyro_vae.data.image_set import ImageSet
from pyro_vae.data.labelling import choose_labels
from pyro_vae.data.splitting import hold_out


class RawArrays(NamedTuple):
    """A data set as it is stored: images ``(N, *data_shape)``, labels ``(N,)`` int64 or ``None``."""

    train: Tensor
    train_labels: Tensor | None
    test: Tensor
    test_labels: Tensor | None
    max_value: int


@dataclass(frozen=True, eq=False)
class Splits:
    """Training, validation and test images, and how they were made.

    Args:
        train: images to fit.
        validation: images held out of the training part; ``None`` when its size is 0.
        test: images for the final number.
        protocol: plain values to store next to a result: ``dataset``, ``binarize``, ``seed`` and the sizes
            ``train``, ``validation`` and ``test``.
        max_value: the integer that stood for 1 before the images were binarized.

    Example:
        >>> from pyro_vae.data import Digits
        >>> splits = Digits().load()
        >>> splits.data_shape, splits.protocol["train"]
        ((1, 8, 8), 1350)
    """

    train: ImageSet
    validation: ImageSet | None
    test: ImageSet
    protocol: dict[str, str | int | float]
    max_value: int = 255

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one datum, ``(C, H, W)`` for images."""
        return self.train.data_shape

    def to(self, device: torch.device | str) -> Splits:
        """The same splits on another device."""
        validation = None if self.validation is None else self.validation.to(device)
        return replace(self, train=self.train.to(device), validation=validation, test=self.test.to(device))


class Dataset(ABC):
    """A data set on disk or embedded; :meth:`load` splits and binarizes it.

    A subclass implements :meth:`raw` alone and passes its own defaults to this constructor.

    Args:
        root: where the files are; each data set says what it looks for.
        binarize: ``"dynamic"``, ``"fixed"``, ``"threshold"`` or ``"none"``, see
            :func:`pyro_vae.data.binarization.binarize`.
        validation: number of training images held out for validation; 0 for none, ``None`` for a sixth.
        seed: of the validation split and of the draws made once. The test images never depend on it.
        labels: number of training images whose class is told, as many of every class; then training batches are
            (x, y), with y -1 for the others. ``None`` trains on the images alone.
        label_seed: which ones.

    Raises:
        ValueError: for an unknown ``binarize`` or a negative ``validation``.

    Example:
        >>> import torch
        >>> class Stripes(Dataset):
        ...     def raw(self):
        ...         images = torch.eye(4, dtype=torch.uint8).reshape(4, 1, 2, 2)
        ...         return RawArrays(images, None, images, None, 1)
        >>> splits = Stripes(validation=1).load()
        >>> len(splits.train), len(splits.validation), len(splits.test)
        (3, 1, 4)
    """

    def __init__(
        self,
        root: str | PathLike[str] | None = None,
        *,
        binarize: Binarization = "dynamic",
        validation: int | None = None,
        seed: int = 0,
        labels: int | None = None,
        label_seed: int = 0,
    ) -> None:
        if binarize not in PROTOCOLS:
            raise ValueError(
                f"{self._name}: binarize must be one of {', '.join(PROTOCOLS)}, got binarize={binarize!r}. "
                "Pass 'dynamic' for binary pixels or 'none' for grey ones."
            )
        if validation is not None and validation < 0:
            raise ValueError(
                f"{self._name}: validation must be 0 or more, got validation={validation}. Pass 0 for no validation."
            )
        self.root = None if root is None else fspath(root)
        self.binarize: Binarization = binarize
        self.validation = validation
        self.seed = seed
        self.labels = labels
        self.label_seed = label_seed

    may_download = True  # False where ``root`` was not chosen by the user but read from somebody's run folder

    @abstractmethod
    def raw(self) -> RawArrays:
        """Read the images and labels as they are stored."""

    def load(self) -> Splits:
        """Read, split and binarize; the global random state is left untouched.

        Returns:
            The splits, on the CPU; move them with :meth:`Splits.to`.

        Raises:
            ValueError: for damaged or zero-length data, a validation split as large as the training part, or labels
                that are not there.
            OSError: when a file is missing.
        """
        raw = self.raw()
        part = ImageSet(raw.train, raw.train_labels, raw.max_value)
        kept, held = hold_out(len(part), self._validation_size(len(part)), seed=self.seed, name="validation")
        train = self._labelled(self._binarized(part.subset(kept), "train"))
        validation = self._binarized(part.subset(held), "validation") if len(held) else None
        test = self._binarized(ImageSet(raw.test, raw.test_labels, raw.max_value), "test")
        return Splits(train, validation, test, self._protocol(len(kept), len(held), len(test)), raw.max_value)

    def __repr__(self) -> str:
        return (
            f"{self._name}(root={self.root!r}, binarize={self.binarize!r}, "
            f"validation={self.validation}, seed={self.seed}{self._label_arguments})"
        )

    @property
    def _label_arguments(self) -> str:
        return "" if self.labels is None else f", labels={self.labels}, label_seed={self.label_seed}"

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _validation_size(self, count: int) -> int:
        size = count // 6 if self.validation is None else self.validation
        if size >= count:
            raise ValueError(
                f"{self._name}: validation must be less than the {count} training images, got "
                f"validation={size}. Pass a smaller validation."
            )
        return size

    def _binarized(self, images: ImageSet, part: Part) -> ImageSet:
        return binarize(images, self.binarize, part=part, seed=self.seed)

    def _labelled(self, train: ImageSet) -> ImageSet:
        if self.labels is None:
            return train
        return train.partly_labelled(choose_labels(train.labels, self.labels, seed=self.label_seed))

    def _protocol(self, train: int, validation: int, test: int) -> dict[str, str | int | float]:
        sizes = {"train": train, "validation": validation, "test": test}
        labels = {} if self.labels is None else {"labels": self.labels, "label_seed": self.label_seed}
        return {"dataset": self._name, "binarize": self.binarize, "data_seed": self.seed, **sizes, **labels}
