"""Base class of the data sets: constructor, splits, binarization protocol."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae._core.checks import CheckedArguments, check_count, require
from pyro_vae._core.html import folded
from pyro_vae.data.binarization import Binarization, Split, binarize
from pyro_vae.data.fingerprints import kept_fingerprints
from pyro_vae.data.image_set import ImageSet
from pyro_vae.data.kinds import DataKind, column_words, standardizes
from pyro_vae.data.labelling import choose_labels
from pyro_vae.data.lazy import LazyRows
from pyro_vae.data.splitting import hold_out, hold_out_by_name

WITHOUT_EFFECT = ("root", "may_download", "in_memory", "num_workers", "detects")
"""Options of data sets that change no number."""


class RawArrays(NamedTuple):
    """A data set before splitting: images ``(N, *data_shape)``, labels ``(N,)`` int64 or ``None``.

    Training images with names are split by these, see :func:`pyro_vae.data.splitting.hold_out_by_name`. Fingerprints of
    large data are kept by the time stamps of the files that were read. Images may be rows that are read by batches.
    Further arguments of :class:`ImageSet`, such as the kind of data, are in ``described``.
    """

    train: Tensor | LazyRows
    train_labels: Tensor | None
    test: Tensor | LazyRows
    test_labels: Tensor | None
    max_value: int
    rows: tuple[Tensor, Tensor] | None = None  # positions of both splits in the data before they were split
    train_names: list[str] | None = None
    files: Iterable[Path] = ()
    described: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Splits:
    """Training, validation and test images with their protocol.

    Args:
        train: training images.
        validation: images held out of the training split; ``None`` if there are none.
        test: images for the final evaluation.
        protocol: plain values to store with a result: ``dataset``, ``binarize``, ``data_seed`` and the sizes ``train``,
            ``validation`` and ``test``.
        max_value: the integer that stood for 1 before the images were binarized.
        fingerprints: that of the images of each split by its name, see :meth:`ImageSet.fingerprint`; and as
            ``labels`` that of the training images with their labels, if these are used.
        factors: known factors of variation by name, ``(N,)`` for the data before they were split; empty if there are
            none. Those of the test images are ``splits.factors[name][splits.test.rows]``.

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
    fingerprints: dict[str, str] = field(default_factory=dict)
    factors: dict[str, Tensor] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        lines = [f"{name:<10}  {images.describe()}" for name, images in parts.items() if images is not None]
        return folded(str(self.protocol.get("dataset", type(self).__name__)), lines, protocol=self.protocol)

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one datum, ``(C, H, W)`` for images."""
        return self.train.data_shape

    @property
    def missing(self) -> bool:
        """Whether entries of any split are missing."""
        return any(images.missing for images in (self.train, self.validation, self.test) if images is not None)

    def to(self, device: torch.device | str) -> Splits:
        """The same splits on another device."""
        validation = None if self.validation is None else self.validation.to(device)
        return replace(self, train=self.train.to(device), validation=validation, test=self.test.to(device))


class Dataset(CheckedArguments, ABC):
    """A data set on disk or embedded; :meth:`load` splits and binarizes it.

    A subclass implements :meth:`raw` and passes its defaults to this constructor.

    Args:
        root: path of the files, as documented by each data set.
        binarize: ``"dynamic"``, ``"fixed"``, ``"threshold"`` or ``"none"``, see
            :func:`pyro_vae.data.binarization.binarize`.
        validation: number of training images held out for validation; ``None`` for a sixth.
        seed: seed of the validation split and of fixed binarization. The test images do not depend on it.
        labels: number of labelled training images, the same number of every class; training batches are then (x, y),
            with y = -1 for unlabelled images. ``None`` trains on the images alone.
        label_seed: seed of the choice of labelled images.
        context: what a ConditionalVAE is given: ``"label"``, a part of the image such as ``"top-half"``,
            ``"all-but-top-left"``, ``"grey"`` or ``"half-size"``, or columns of a table, separated by commas; of an
            AutoregressiveModel ``"label"``. With ``"label"`` the batches of all splits are (x, y).

    Raises:
        ValueError: unknown ``binarize`` or negative ``validation``.

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
        context: str | None = None,
    ) -> None:
        check_count(self._name, 0, validation=validation)
        check_count(self._name, labels=labels)
        self.root = None if root is None else fspath(root)
        self.binarize: Binarization = binarize
        self.validation = validation
        self.seed = seed
        self.labels = labels
        self.label_seed = label_seed
        self.context = context

    may_download = True  # False if ``root`` was read from a file and not chosen by the user
    standardize: bool | None = False  # None for data whose kind decides
    detects = True  # False for a run of an earlier version, which took integers as grey levels and floats as they are
    by_name = True  # False for a run of an earlier version, which split folders of images by position

    @property
    def factors(self) -> dict[str, Tensor]:
        """Known factors of variation by name, ``(N,)`` for the data before they are split; empty if there are none."""
        return {}

    @property
    def known_kind(self) -> DataKind | None:
        """The kind of the data if it is known before they are read; the default likelihood follows from it."""
        return None

    @abstractmethod
    def raw(self) -> RawArrays:
        """Read the images and labels."""

    def load(self) -> Splits:
        """Read, split and binarize; the global random state is not changed.

        Returns:
            The splits, on the CPU; move them with :meth:`Splits.to`.

        Raises:
            ValueError: damaged or zero-length data, a validation split as large as the training split, or missing
                labels.
            OSError: a file is missing.
        """
        since, raw = time.time_ns(), self.raw()
        train_rows, test_rows = raw.rows or (None, None)
        images = ImageSet(raw.train, raw.train_labels, raw.max_value, rows=train_rows, **raw.described)
        images = self._with_context(images)
        kept, held_out = self._hold_out(len(images), raw.train_names)
        train = self._labelled(self._binarized(images.subset(kept), "train"))
        validation = self._binarized(images.subset(held_out), "validation") if len(held_out) else None
        test = ImageSet(raw.test, raw.test_labels, raw.max_value, rows=test_rows, **raw.described)
        test = self._binarized(self._with_context(test), "test")
        protocol = {**self._protocol(len(kept), len(held_out), len(test)), **self.entries(train)}
        splits = Splits(train, validation, test, protocol, raw.max_value)
        return replace(splits, fingerprints=self._fingerprints(splits, raw.files, since), factors=self.factors)

    def entries(self, train: ImageSet) -> dict[str, str]:
        """Further protocol entries, given the training images: their kind, if it is known."""
        kind = column_words(train.columns) if train.kind == "mixed" else train.kind
        return {} if kind is None else {"kind": kind, "standardize": "yes" if self.standardizes(train) else "no"}

    def standardizes(self, train: ImageSet) -> bool:
        """Whether encoder and likelihood work in standardized units of the training images."""
        if self.standardize is None:
            return train.kind is not None and standardizes(train.kind)
        return self.standardize

    def _fingerprints(self, splits: Splits, files: Iterable[Path], since: int) -> dict[str, str]:
        options = {key: value for key, value in vars(self).items() if key not in WITHOUT_EFFECT}
        options |= {"context": self.context == "label"}  # parts of the data change no fingerprint
        own = type(self).__module__.startswith("pyro_vae.")  # the code of another class may change
        name = f"{type(self)} {options}"
        return kept_fingerprints(files if own else (), name, lambda: fingerprints_of(splits), since=since)

    def __repr__(self) -> str:
        return (
            f"{self._name}(root={self.root!r}, binarize={self.binarize!r}, "
            f"validation={self.validation}, seed={self.seed}{self._label_arguments})"
        )

    @property
    def _label_arguments(self) -> str:
        labels = "" if self.labels is None else f", labels={self.labels}, label_seed={self.label_seed}"
        return labels if self.context is None else f"{labels}, context={self.context!r}"

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _hold_out(self, count: int, names: list[str] | None) -> tuple[Tensor, Tensor]:
        size = count // 6 if self.validation is None else self.validation
        rule = f"validation must be less than the {count} training images"
        require(size < count, self._name, rule, f"validation={size}")
        if names is None:
            return hold_out(count, size, seed=self.seed, name="validation")
        return hold_out_by_name(names, self.validation, seed=self.seed, name="validation")

    def _binarized(self, images: ImageSet, split: Split) -> ImageSet:
        return binarize(images, self.binarize, split=split, seed=self.seed)

    def _with_context(self, images: ImageSet) -> ImageSet:
        if self.context != "label":
            return images
        rule, advice = "context='label' must come with a class for every image", "Use another context"
        known = images.labels is not None and bool((images.labels >= 0).all())
        require(known, self._name, rule, "images without one", advice)
        return replace(images, paired=True)

    def _labelled(self, train: ImageSet) -> ImageSet:
        if self.labels is None:
            return train
        return train.partly_labelled(choose_labels(train.labels, self.labels, seed=self.label_seed))

    def _protocol(self, train: int, validation: int, test: int) -> dict[str, str | int | float]:
        sizes = {"train": train, "validation": validation, "test": test}
        labels = {} if self.labels is None else {"labels": self.labels, "label_seed": self.label_seed}
        context = {} if self.context is None else {"context": self.context}
        return {"dataset": self._name, "binarize": self.binarize, "data_seed": self.seed, **sizes, **labels, **context}


def fingerprints_of(splits: Splits) -> dict[str, str]:
    """Compute the ``fingerprints`` of splits."""
    sets = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    given = splits.test.paired  # as the context of every split, not of some training images
    labels = {"labels": splits.train.fingerprint(labels=True)} if splits.train.paired and not given else {}
    return {**{name: images.fingerprint(labels=given) for name, images in sets.items() if images is not None}, **labels}
