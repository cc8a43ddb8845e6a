"""Anybody's data from a file or a folder of images, with splits and defaults that follow from their kind."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from pyro_vae._core.checks import check_count, require
from pyro_vae.data.base import Dataset, RawArrays
from pyro_vae.data.binarization import Binarization
from pyro_vae.data.image_set import ImageSet
from pyro_vae.data.kinds import DataKind, default_likelihood
from pyro_vae.data.lazy import memory_size
from pyro_vae.data.loading import as_earlier, as_set
from pyro_vae.data.sources import Options, Source, read
from pyro_vae.data.splitting import TEST_SEED, hold_out, hold_out_by_name

_MEMORY_SHARE = 1 / 4  # of larger arrays, which are copied when they are split, too much would be taken


class Files(Dataset):
    """Data from a file or folder, of a kind that is detected.

    - ``.npz``: ``images`` (or ``x``, ``X``, ``data``, or any single array) with optional ``labels`` (or ``y``,
      ``target``); ``train`` and ``test`` with optional ``train_labels`` and ``test_labels``; or a sparse matrix of
      scipy. ``.npy``: the data. Arrays are ``(N, D)``, ``(N, H, W)`` or ``(N, C, H, W)``.
    - ``.csv`` and ``.parquet``: a table; texts are categories. NaN and empty cells are missing entries.
    - a folder of png, jpg, webp, tif, bmp or gif files, grey or colour, all of one size; sub-folders, sorted by name,
      are the classes 0, 1, ... and may hold further folders. Images are turned as their EXIF data say, and transparent
      pixels are laid over white; 16 bits are kept. Other files are counted and named in a warning. The splits follow
      from a hash of each file's name, so that a new file moves no other one.

    The kind of data is detected from the values, see :func:`~pyro_vae.data.kinds.kind_of`. Grey levels and colours are
    fractions k / ``max_value`` of the integers; other data keep their units. Nothing is ever unpickled.

    Args:
        root: the file or folder.
        binarize: ``"none"``, the values as they are; ``"dynamic"``, at random for every batch; ``"fixed"``, at random
            once; ``"threshold"``, at one half.
        validation: number of training images held out; ``None`` is a sixth of them, of a folder about a sixth.
        seed: seed of the validation split and of fixed binarization.
        labels, label_seed, context: see :class:`Dataset`.
        test: number of test images held out if the data have no test split, the same ones for every ``seed``;
            ``None`` is a sixth of all, of a folder about a sixth.
        kind: binary, grey, colour, fractions, real, counts or mixed; ``None`` detects it.
        kinds: kinds of columns of a table by name, ``'{zip: category}'``, or of all in order: real, count, binary,
            ordinal or category; the others are detected.
        label: the column of a table that holds the classes.
        drop: columns of a table to leave out.
        size: crop the images of a folder at the centre to squares, and resize them to this number of pixels.
        max_value: the integer that stands for 1 in grey levels and colours; ``None`` is 255, or in arrays the largest
            value if that is below 128.
        standardize: whether the encoder, and a decoder of a context, see standardized data (counts as log(1 + x)), and
            a normal, Laplace or Student t likelihood measures its scale in standard deviations of each column;
            densities are those of the data in their own units. ``None`` does so for real and mixed data and counts.
        in_memory: ``False`` reads an npy file or a folder by batches, with the same numbers; of pixels that are sampled
            or thresholded once, one bit each is in memory. ``"auto"`` does so if the images take more than a quarter of
            the machine's memory, and warns.
        num_workers: processes that read ahead if images are read by batches; ``None`` is none for an npy file, and for
            a folder one for each other core, at most four.

    Shape:
        ``data_shape`` is ``(C, H, W)``, or ``(D,)`` for ``(N, D)`` arrays and tables.

    Raises:
        FileNotFoundError: by ``load``, if ``root`` does not exist.
        ValueError: by ``load``, if the file or its arrays cannot be used.

    Example:
        >>> import os, tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "mine.npz")
        ...     np.savez(path, images=np.zeros((60, 4, 4), dtype=np.uint8))
        ...     splits = Files(path, test=10, validation=5).load()
        >>> len(splits.train), len(splits.validation), len(splits.test), splits.data_shape
        (45, 5, 10, (1, 4, 4))
    """

    def __init__(
        self,
        root: str | PathLike[str] | None = None,
        *,
        binarize: Binarization = "none",
        validation: int | None = None,
        seed: int = 0,
        test: int | None = None,
        labels: int | None = None,
        label_seed: int = 0,
        context: str | None = None,
        kind: DataKind | None = None,
        kinds: dict[str, str] | list[str] | None = None,
        label: str | None = None,
        drop: list[str] | None = None,
        size: int | None = None,
        max_value: int | None = None,
        standardize: bool | None = None,
        in_memory: bool | Literal["auto"] = "auto",
        num_workers: int | None = None,
    ) -> None:
        check_count("Files", 0, num_workers=num_workers)
        advice = "Pass a file (npz, npy, csv, parquet) or a folder of images"
        require(root is not None, "Files", "root must be a path", "root=None", advice)
        options: dict[str, Any] = {"labels": labels, "label_seed": label_seed, "context": context}
        super().__init__(root, binarize=binarize, validation=validation, seed=seed, **options)
        check_count("Files", max_value=max_value, size=size)
        self.test, self.kind, self.kinds, self.label, self.drop = test, kind, kinds, label, drop
        self.size, self.max_value, self.standardize = size, max_value, standardize
        self.in_memory, self.num_workers = in_memory, num_workers

    def raw(self) -> RawArrays:
        source = self._once()
        for note in source.notes:
            warnings.warn(f"Files: {note}.", stacklevel=2)
        data = self._as_set(source)
        if source.num_train is None:
            return self._hold_out_test(data, source)
        require(self.test is None, "Files", "test must be None if the file has a test split", f"test={self.test}")
        parts = data.subset(slice(source.num_train)), data.subset(slice(source.num_train, None))
        labels = [None if p.labels is None or bool((p.labels < 0).all()) else p.labels for p in parts]
        (train, test), described = (part.images for part in parts), _description(data)
        return RawArrays(train, labels[0], test, labels[1], data.max_value, files=source.files, described=described)

    def _once(self, *, keep: bool = False) -> Source:
        """Read the file or folder; what was kept is used once if no time stamp has changed."""
        path, options = Path(os.path.expanduser(self.root or "")), self._options
        key = (str(path), repr(options), self.in_memory, _stamps(path))
        source = _READ.pop(key, None) or read(path, options, owner="Files", by_batches=self._reads_by_batches)
        _READ.clear()
        if keep:
            _READ[key] = source
        return source

    @property
    def _options(self) -> Options:
        return Options(self.kinds, self.label, tuple(self.drop or ()), self.size)

    def _reads_by_batches(self, size: int) -> bool:
        """Whether data of a number of bytes are read by batches; if this is decided here, a warning says so."""
        if self.in_memory != "auto":
            return not self.in_memory
        memory = memory_size()
        if size <= _MEMORY_SHARE * memory:
            return False
        warnings.warn(
            f"Files: {self.root} is read by batches, since its {size / 1e9:.3g} GB of images exceed a quarter of the "
            f"{memory / 1e9:.3g} GB of memory; in_memory=True reads it at once, in_memory=False omits this line.",
            stacklevel=2,
        )
        return True

    def _as_set(self, source: Source) -> ImageSet:
        if self.kind is not None or self.detects:
            workers = self.num_workers
            return as_set(source, kind=self.kind, max_value=self.max_value, owner="Files", num_workers=workers)
        return as_earlier(source, owner="Files", num_workers=self.num_workers)

    def defaults(self) -> tuple[dict[str, Any], tuple[str, dict[str, Any]], str]:
        """Read the data and determine what follows from their kind; the next ``raw`` does not read them again.

        Returns:
            The arguments that this determines, such as ``kind``; class name and arguments of the likelihood; and the
            data in words.
        """
        source = self._once(keep=True)
        data = self._as_set(source)
        kind: Any = data.kind
        likelihood = default_likelihood("binary" if self.binarize != "none" else kind, data.max_value)
        arguments: dict[str, Any] = {"kind": kind, "standardize": self.standardizes(data)}
        if kind == "mixed":
            arguments["kinds"] = [column.kind for column in data.columns]
        if kind in ("grey", "colour"):
            arguments["max_value"] = data.max_value
        return arguments, likelihood, data.describe()

    def _hold_out_test(self, data: ImageSet, source: Source) -> RawArrays:
        count, names = len(data), source.names if self.by_name else None
        size = max(1, count // 6) if self.test is None else self.test
        rule = f"test must be at least 1 and less than the {count} images"
        require(1 <= size < count, "Files", rule, f"test={size}")
        if names is None:
            kept, test = hold_out(count, size, seed=TEST_SEED, name="test")
        else:
            kept, test = hold_out_by_name(names, self.test, seed=TEST_SEED, name="test")
        parts = data.subset(kept), data.subset(test)
        arrays = parts[0].images, parts[0].labels, parts[1].images, parts[1].labels, data.max_value
        train_names = None if names is None else [names[i] for i in kept]
        files, described = source.files, _description(data)
        return RawArrays(*arrays, rows=(kept, test), train_names=train_names, files=files, described=described)


def _description(data: ImageSet) -> Mapping[str, Any]:
    return {name: getattr(data, name) for name in ("kind", "columns", "classes")}


_READ: dict[Any, Source] = {}  # at most one: read to determine the defaults, and used by the training that follows


def _stamps(path: Path) -> Sequence[tuple[str, int, int]]:
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    infos = [(str(file), file.stat()) for file in files if file.exists()]
    return tuple((name, info.st_size, info.st_mtime_ns) for name, info in infos)
