"""Read anybody's data as one array of numbers, with labels, names and columns."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from pyro_vae._core.checks import check_count, refusal, require, shown
from pyro_vae.data.arrays import are_numbers, as_labels, check_shape, npz_keys, read_npy, read_npz
from pyro_vae.data.folder import PICTURES, Folder, FolderRows, read_images
from pyro_vae.data.items import read_items
from pyro_vae.data.kinds import Column, DataKind
from pyro_vae.data.mapped import NpyRows
from pyro_vae.data.sparse import SPARSE, dense, saved_matrix
from pyro_vae.data.tables import Frame, check_names, encoded, encoded_as, read_csv, read_frame

_ARRAYS = ("images", "x", "X", "data", "arr_0")
_LAYOUTS = (("images",), ("train", "test"), *((name,) for name in _ARRAYS[1:]))
_LABELS = ("labels", "label", "y", "target")
SUFFIXES = (".npz", ".npy", ".csv", ".parquet")
"""Endings of files of arrays and tables."""


@dataclass(frozen=True)
class Options:
    """Options of reading data.

    Args:
        kinds: kinds of the columns of a table by name, or of all in order.
        label: the column of a table that holds the classes.
        drop: columns of a table to leave out.
        size: images of a folder are cropped to squares and resized to this number of pixels.
        columns: of another table, by whose names, kinds and levels a table is encoded; empty to detect them.
        classes: of another table, whose positions are the labels; empty for those that occur.
    """

    kinds: Mapping[str, str] | Sequence[str] | None = None
    label: str | None = None
    drop: Sequence[str] = ()
    size: int | None = None
    columns: tuple[Column, ...] = ()
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Data as they were read.

    Attributes:
        array: numbers, ``(N, D)``, ``(N, H, W)`` or ``(N, C, H, W)``; or the rows of a file or folder, which are read
            when they are needed.
        name: of the array, for errors.
        labels: classes of the data, numbers or texts, ``(N,)``; None without.
        classes: names of the classes 0, 1, ...; empty if they have none.
        columns: of a table.
        kind: of the data, if it was detected already.
        names: of the files of a folder.
        files: that the data were read from.
        notes: what was left out, or should be.
        num_train: number of data before the test data, if the file holds both.
    """

    array: np.ndarray | NpyRows | FolderRows
    name: str
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    kind: DataKind | None = None
    names: list[str] | None = None
    files: Iterable[Path] = ()
    notes: list[str] = field(default_factory=list)
    num_train: int | None = None

    @property
    def max_value(self) -> int | None:
        """The integer that stands for 1, white: 255 in image files; None if the largest value determines it."""
        return None if self.names is None else 255


ByBatches = Callable[[int], bool]


def read(data: Any, options: Options, *, owner: str, by_batches: ByBatches = lambda size: False) -> Source:
    """Read data of any of the types of :func:`pyro_vae.data.load`.

    Args:
        data: the data.
        options: how they are read.
        owner: name that errors begin with.
        by_batches: whether a file or folder of a number of bytes is read by batches.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: the data cannot be used.
    """
    check_count(owner, size=options.size)
    if isinstance(data, str | os.PathLike):
        return _read_path(Path(os.path.expanduser(data)), options, owner, by_batches)
    if isinstance(data, tuple):
        return _with_labels(data, options, owner)
    _refuse_options(options, owner, ("size",), "data in memory")
    if hasattr(data, "iloc"):
        return _table(read_frame(data, owner=owner, drop=options.drop), options, owner, "the data frame")
    if type(data).__name__ == "AnnData":
        return _annotated(data, options, owner)
    _refuse_options(options, owner, ("kinds", "label", "drop"), "data without named columns")
    if hasattr(data, "tocsr"):
        return Source(dense(data), "the sparse matrix")
    if isinstance(data, torch.Tensor):
        return Source(data.detach().cpu().numpy(), "data")
    if hasattr(data, "__array__") or are_numbers(data):
        return Source(_numbers(data, owner), "data")
    if isinstance(data, torch.utils.data.Dataset | DataLoader | Sequence) and not isinstance(data, bytes):
        return Source(*read_items(data, owner=owner))
    rule = "data must be an array, tensor, data frame, sparse matrix, torch Dataset or DataLoader, or a path"
    raise refusal(owner, rule, shown(data), f"Convert it to one of these, or to a file ({', '.join(SUFFIXES)})")


def _with_labels(data: tuple[Any, ...], options: Options, owner: str) -> Source:
    """The source of a pair of data and labels."""
    rule, advice = "a tuple must be (data, labels)", "Pass a list of data, or a tuple of contexts to fit itself"
    require(len(data) == 2 and not isinstance(data[0], tuple), owner, rule, f"{len(data)} parts", advice)
    source, labels = read(data[0], options, owner=owner), np.asarray(data[1])
    labels = labels.astype(str) if labels.dtype == object else labels
    return replace(source, labels=_checked_labels(labels, source.array.shape[0], owner, "labels"), classes=())


def _annotated(data: Any, options: Options, owner: str) -> Source:
    """The matrix of an AnnData, with its names if they are distinct, and a column of ``obs`` as classes."""
    source, names = read(data.X, Options(), owner=owner), [str(name) for name in getattr(data, "var_names", ())]
    if len(set(names)) < max(len(names), 1):
        return replace(read(data.X, options, owner=owner), name="the AnnData")
    columns = dict(zip(names, np.asarray(source.array).T, strict=True))
    if options.label is not None:
        check_names(owner, "label", [options.label], [str(name) for name in data.obs.columns])
        columns[options.label] = read_frame(data.obs[[options.label]], owner=owner).columns[options.label]
    return _table(Frame(columns, alike=True), options, owner, "the AnnData")


def _refuse_options(options: Options, owner: str, names: Sequence[str], what: str) -> None:
    needs = {"size": "a folder of images"}
    for name in names:
        value = getattr(options, name)
        rule = f"{name} must come with {needs.get(name, 'a table')}"
        require(not value, owner, rule, f"{name}={value!r} for {what}", "Omit it")


def _read_path(path: Path, options: Options, owner: str, by_batches: ByBatches) -> Source:
    what = "root" if owner == "Files" else "data"
    if not path.exists():
        raise FileNotFoundError(
            f"{owner}: {what} must be a file ({', '.join(SUFFIXES)}) or a folder of images, got {what}={str(path)!r}, "
            f"which does not exist. Check the path; it is relative to {os.getcwd()}."
        )
    suffix, name = path.suffix.lower(), f"in {path}"
    if path.is_dir():
        _refuse_options(options, owner, ("kinds", "label", "drop"), "a folder")
        return _read_folder(path, options, owner, by_batches)
    _refuse_options(options, owner, ("size",), "a file")
    if suffix == ".csv":
        return _table(read_csv(path, owner=owner), options, owner, str(path), [path])
    if suffix == ".parquet":
        frame = read_frame(_read_parquet(path, owner), owner=owner, drop=options.drop)
        return _table(frame, options, owner, str(path), [path])
    _refuse_options(options, owner, ("kinds", "label", "drop"), f"a {suffix} file")
    if suffix == ".npy":
        lazy = path.is_file() and by_batches(path.stat().st_size)
        array = NpyRows.open(path, owner=owner) if lazy else read_npy(path, owner=owner)
        return Source(array, f"images {name}", files=[path])
    rule, advice = "in_memory=False requires an npy file or a folder", "Save the images with np.save"
    require(suffix != ".npz" or not by_batches(0), owner, rule, f"{what}={str(path)!r}", advice)
    if suffix == ".npz":
        return _read_npz(path, owner)
    rule = f"{what} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, or be a folder of images"
    advice = "Save the data with np.savez or as csv"
    advice = "Pass the folder that holds it" if suffix in PICTURES else advice
    advice = "Pass anndata.read_h5ad(path)" if suffix == ".h5ad" else advice
    raise refusal(owner, rule, f"{what}={str(path)!r}", advice)


def _read_folder(path: Path, options: Options, owner: str, by_batches: ByBatches) -> Source:
    folder = Folder(path, owner=owner)
    rows = FolderRows.open(path, folder.names, owner=owner, size=options.size)
    lazy = by_batches(math.prod(rows.shape) * rows.dtype.itemsize)
    images = rows if lazy else read_images(folder.files, owner=owner, size=options.size)
    known: dict[str, Any] = {
        "labels": folder.labels,
        "classes": folder.classes,
        "names": folder.names,
        "files": folder.files,
    }
    return Source(images, f"images in {path}", **known, notes=[folder.note()] if folder.skipped else [])


def _read_parquet(path: Path, owner: str) -> Any:
    try:
        import pandas  # type: ignore[import-untyped]

        return pandas.read_parquet(path)
    except ImportError as error:
        advice = "Run pip install pandas pyarrow, or save the table as csv"
        raise refusal(owner, f"pandas and pyarrow must be installed to read {path}", str(error)[:80], advice) from None
    except OSError:
        raise
    except Exception as error:  # pyarrow raises errors of many classes
        raise refusal(owner, f"{path} must be a parquet file", "another", "Save it again, or as csv") from error


def _read_npz(path: Path, owner: str) -> Source:
    keys = npz_keys(path, owner=owner)
    if set(keys) >= SPARSE:
        return Source(dense(saved_matrix(path, owner)), f"the sparse matrix in {path}", files=[path])
    single = [key for key in keys if key not in _LABELS]
    layouts = (*_LAYOUTS, single) if len(single) == 1 else _LAYOUTS
    arrays = read_npz(path, owner=owner, layouts=layouts, optional=(*_LABELS, "train_labels", "test_labels"))
    if {"train", "test"} <= set(arrays) and "images" not in arrays:
        return _both(arrays, path, owner)
    name = next(key for key in (*_ARRAYS, *single) if key in arrays)
    check_shape(arrays[name], owner, f"{name} in {path}")
    label = next((key for key in _LABELS if key in arrays and key != name), None)
    labels = None if label is None else _checked_labels(arrays[label], len(arrays[name]), owner, f"{label} in {path}")
    return Source(arrays[name], f"{name} in {path}", labels, files=[path])


def _both(arrays: Mapping[str, np.ndarray], path: Path, owner: str) -> Source:
    """Training and test data of one file as one array."""
    train, test = arrays["train"], arrays["test"]
    same = train.shape[1:] == test.shape[1:] and (train.dtype.kind == "f") == (test.dtype.kind == "f")
    value = f"train={train.dtype} {train.shape}, test={test.dtype} {test.shape}"
    require(same, owner, "train and test must share image shape and kind of number", value)
    for name, part in (("train", train), ("test", test)):
        require(part.size > 0, owner, f"{name} in {path} must hold data", f"zero-length data of shape={part.shape}")
    labels = {}
    for name, part in (("train_labels", train), ("test_labels", test)):
        missing = np.full(len(part), -1)
        labels[name] = _checked_labels(arrays.get(name, missing), len(part), owner, f"{name} in {path}")
    joined = np.concatenate(list(labels.values()))
    array = np.concatenate([train, test])
    known = None if set(arrays).isdisjoint(labels) else joined
    return Source(array, f"train and test in {path}", known, files=[path], num_train=len(train))


def _checked_labels(labels: np.ndarray, count: int, owner: str, name: str) -> np.ndarray:
    """Integers as classes; texts are names of classes."""
    is_text = labels.shape == (count,) and labels.dtype.kind == "U"
    return labels if is_text else as_labels(labels, count, owner=owner, name=name).numpy()


def _table(frame: Frame, options: Options, owner: str, name: str, files: Iterable[Path] = ()) -> Source:
    """A table as a matrix; its class column, if one is named, becomes the labels."""
    check_names(owner, "drop", options.drop, frame.columns)
    check_names(owner, "label", [] if options.label is None else [options.label], frame.columns)
    kept = {name: values for name, values in frame.columns.items() if name not in options.drop}
    declared = {name: kind for name, kind in frame.kinds.items() if name in kept and name != options.label}
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    if options.label is not None:
        labels, classes = _classes(kept.pop(options.label), options.label, options.classes, owner)
    kind: DataKind | None = None
    notes: list[str] = []
    if options.columns:
        matrix, columns = encoded_as(kept, options.columns, owner=owner), options.columns
    else:
        notes = [] if frame.alike or options.kinds else _numberings(kept)
        matrix, columns, kind = encoded(
            Frame(kept, frame.levels, declared, frame.alike), owner=owner, kinds=options.kinds
        )
    return Source(matrix, f"the columns of {name}", labels, classes, columns, kind, files=files, notes=notes)


def _numberings(columns: Mapping[str, np.ndarray]) -> list[str]:
    """A note for each column that numbers the rows, which is an identifier rather than data."""
    long = {name: values for name, values in columns.items() if values.dtype != object and len(values) > 20}
    names = [name for name, values in long.items() if (np.diff(values) == 1).all()]
    return [f"column {n!r} numbers the rows; omit it: drop=[{n!r}] (train: --data.drop '[{n}]')" for n in names]


def _classes(values: np.ndarray, name: str, like: tuple[str, ...], owner: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Codes of the sorted values of a class column, or of the classes ``like``; -1 for missing ones."""
    if like:
        column = Column(name, "category", like)
        codes = encoded_as({name: values}, [column], owner=owner)
    else:
        codes, (column,), _ = encoded(Frame({name: values}), owner=owner, kinds={name: "category"})
    return np.where(np.isnan(codes[:, 0]), -1, codes[:, 0]).astype(np.int64), column.levels


def _numbers(data: Any, owner: str) -> np.ndarray:
    try:
        return np.asarray(data)
    except ValueError:
        raise refusal(owner, "the rows must have one length", "others", "Pad them, or pass an array") from None
