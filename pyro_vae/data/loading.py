"""The function ``load``, which takes data of any type."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyro_vae._core.checks import check_arguments, check_count, require
from pyro_vae.data.arrays import as_labels, check_array
from pyro_vae.data.folder import FolderRows
from pyro_vae.data.image_set import ImageSet
from pyro_vae.data.kinds import DataKind, converted, kind_of, kind_of_parts, largest_level
from pyro_vae.data.lazy import LazyRows, chunks, default_workers
from pyro_vae.data.mapped import NpyRows
from pyro_vae.data.sources import Options, Source, read
from pyro_vae.data.tables import common_kind

_PART = 4_000_000  # numbers that are read at a time


def load(
    data: Any,
    *,
    kind: DataKind | None = None,
    kinds: Mapping[str, str] | Sequence[str] | None = None,
    label: str | None = None,
    drop: Sequence[str] = (),
    size: int | None = None,
    max_value: int | None = None,
    like: ImageSet | None = None,
) -> ImageSet:
    """Load data of any type as a set for training and evaluation, of a kind that is detected.

    Args:
        data: one of these, ``(N, D)``, ``(N, H, W)`` or ``(N, C, H, W)``:

            - a numpy array, a tensor, nested lists, a scipy sparse matrix;
            - an AnnData: its ``X``, with the names of the variables; ``label`` is a column of its ``obs``;
            - a pandas data frame: its columns and categories are kept;
            - a file: ``.npy``; ``.npz`` with the key ``images`` (or ``x``, ``X``, ``data``, or any single array) and
              optional ``labels`` (or ``y``, ``target``), or a sparse matrix; ``.csv``; ``.parquet``;
            - a folder of images, in sub-folders by class if there are any, see :class:`~pyro_vae.data.Files`;
            - a tuple of any of these and its labels, integers or texts ``(N,)``;
            - a torch ``Dataset`` or ``DataLoader`` of data or of ``(x, y)``, whose classes y are kept as labels; all of
              it is read.
        kind: the kind of data: binary, grey, colour, fractions, real, counts or mixed. None detects it from the values,
            see :func:`~pyro_vae.data.kinds.kind_of`; of a table from its columns.
        kinds: kinds of columns of a table by name (or of all in order), in place of the detected ones: real, count,
            binary, ordinal or category.
        label: the column of a table that holds the classes.
        drop: columns of a table to leave out.
        size: crop the images of a folder at the centre to squares, and resize them to this number of pixels.
        max_value: the integer that stands for 1 in grey levels and colours; None for 255, or in arrays for the largest
            value if that is below 128.
        like: another set, such as the training data, whose kind, columns, levels, classes and scale the data get; of
            new data alone these may be detected differently.

    Returns:
        The set: grey levels and colours as fractions k / max_value, all other data in their own units; NaN for missing
        entries. It can be passed to :func:`pyro_vae.fit` and to the evaluations; :func:`pyro_vae.vae_for` builds a
        model of it. Its ``kind``, ``columns``, ``classes``, ``labels`` and ``missing`` describe it.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the data cannot be used.

    Example:
        >>> import numpy as np
        >>> load(np.array([[0, 3], [7, 1]]))
        ImageSet of 2 data (2,): counts
    """
    if isinstance(data, ImageSet):
        return data
    check_arguments(load, locals())
    check_count("load", size=size, max_value=max_value)
    return loaded(data, Options(kinds, label, drop, size), kind=kind, max_value=max_value, like=like)


def is_external(data: Any) -> bool:
    """Whether data must be loaded before they can be split into batches: files, tables with texts, torch data sets."""
    if hasattr(data, "iloc"):
        return not all(getattr(kind, "kind", "O") in "biuf" for kind in data.dtypes)
    known = isinstance(data, str | os.PathLike | Dataset) and not isinstance(data, ImageSet)
    return known or hasattr(data, "tocsr") or type(data).__name__ == "AnnData"


def loaded(
    data: Any,
    options: Options = Options(),  # noqa: B008 - it is frozen
    *,
    kind: DataKind | None = None,
    max_value: int | None = None,
    like: ImageSet | None = None,
    owner: str = "load",
) -> ImageSet:
    """Read data and convert them to a set, see :func:`load`; what was left out is a warning."""
    if like is not None:
        free, advice = not options.kinds and kind is None and max_value is None, "Omit kind, kinds and max_value"
        require(free, owner, "like determines the kind of the data", "both", advice)
        options, kind = replace(options, columns=like.columns, classes=like.classes), like.kind
        max_value = like.max_value
    source = read(data, options, owner=owner)
    for note in source.notes:
        warnings.warn(f"{owner}: {note}.", stacklevel=3)
    rule, advice = "a file with training and test data must be read as splits", "Use Files(path).load()"
    require(source.num_train is None, owner, rule, f"{data}", advice)
    result = as_set(source, kind=kind, max_value=max_value, owner=owner)
    return result if like is None else _with_classes(result, like.classes, owner)


def check_encoding(data: ImageSet, owner: str) -> None:
    """Require that data which were detected on their own have the codes and the scale of any training data.

    Raises:
        ValueError: the data have categories, or dark grey levels whose largest one was taken as 1.
    """
    column = next((column for column in data.columns if column.levels not in ((), ("0", "1"))), None)
    dark = data.kind in ("grey", "colour") and data.max_value != 255
    rule = "data with categories or few grey levels must be read as the training data were"
    got = "" if column is None else f"column {column.name!r} of {', '.join(column.levels[:5])}"
    advice = "Pass load(data, like=train), with train the set of the training"
    require(column is None and not dark, owner, rule, got or f"levels 0 to {data.max_value}", advice)


def _with_classes(data: ImageSet, classes: tuple[str, ...], owner: str) -> ImageSet:
    """The set with labels that number other classes, which contain its own."""
    if data.labels is None or not data.classes or not classes or data.classes == classes:
        return data
    unknown, advice = sorted(set(data.classes) - set(classes)), "Leave out these data"
    rule = f"the classes must be those of the training data ({', '.join(classes[:5])})"
    require(not unknown, owner, rule, f"{unknown[:1]}", advice)
    codes = torch.tensor([classes.index(name) for name in data.classes] + [-1])  # the last of no class, -1
    return replace(data, labels=codes[data.labels], classes=classes)


def as_set(
    source: Source, *, kind: DataKind | None, max_value: int | None, owner: str, num_workers: int | None = None
) -> ImageSet:
    """Convert data that were read to a set; a kind of None is detected.

    Args:
        source: the data.
        kind, max_value: as of :func:`load`.
        owner: name that errors begin with.
        num_workers: processes that read ahead, if the data are read by batches; None for the default.

    Raises:
        ValueError: the data are not of the kind, infinite, or of a shape that no model takes.
    """
    labels, classes = _labels(source, owner)
    max_value = max_value or source.max_value
    if not isinstance(source.array, np.ndarray):
        values, chosen, top = _by_batches(source, source.array, kind, max_value, owner, num_workers)
        return ImageSet(values, labels, top, kind=chosen, classes=classes)
    check_array(source.array, owner=owner, name=source.name)
    array = _with_channels(source.array)
    chosen = kind or source.kind or (common_kind(source.columns) if source.columns else kind_of(array))
    rule, advice = "mixed columns must come from a table", "Pass a data frame or a csv file"
    require(chosen != "mixed" or bool(source.columns), owner, rule, "an array", advice)
    tensor, top = converted(array, chosen, owner=owner, name=source.name, max_value=max_value)
    return ImageSet(tensor, labels, top, kind=chosen, columns=source.columns, classes=classes)


def _with_channels(array: np.ndarray) -> np.ndarray:
    return array[:, None] if array.ndim == 3 else array


def _by_batches(
    source: Source,
    rows: NpyRows | FolderRows,
    kind: DataKind | None,
    max_value: int | None,
    owner: str,
    num_workers: int | None,
) -> tuple[LazyRows, DataKind, int]:
    """The rows of a file or folder, which is read once to detect their kind."""

    def checked(part: np.ndarray, positions: np.ndarray) -> np.ndarray:
        check_array(part, positions, owner=owner, name=source.name)
        missing, advice = part.dtype.kind == "f" and bool(np.isnan(part).any()), "Read it with in_memory=True"
        require(not missing, owner, f"{source.name} must be complete to be read by batches", "missing entries", advice)
        return _with_channels(part)

    size = max(1, _PART // max(1, math.prod(rows.shape[1:])))
    places = (np.arange(start, min(start + size, rows.shape[0])) for start in range(0, rows.shape[0], size))
    detected, facts = kind_of_parts(checked(rows.rows(index), index) for index in places)
    chosen = kind or detected
    top = max_value or largest_level(facts.high, whole=facts.whole)
    options: Any = {"owner": owner, "name": source.name, "max_value": top, "whole": facts.whole}

    def convert(part: np.ndarray, positions: np.ndarray) -> Tensor:
        return converted(checked(part, positions), chosen, **options)[0]

    default = default_workers() if isinstance(rows, FolderRows) else 0
    values = LazyRows.of(rows, convert, num_workers=default if num_workers is None else num_workers)
    return values, chosen, top if chosen in ("grey", "colour") else 1


def as_earlier(source: Source, *, owner: str, num_workers: int | None = None) -> ImageSet:
    """Convert data as earlier versions did: integers to grey levels of 255, or to 0 and 1, others as they are."""
    whole = isinstance(source.array, np.ndarray) and source.array.dtype.kind in "biu"
    if not isinstance(source.array, np.ndarray):
        whole = source.array.dtype.kind in "biu"
    kind: DataKind = "grey" if whole else "real"
    data = as_set(source, kind=kind, max_value=255 if whole else None, owner=owner, num_workers=num_workers)
    binary = whole and not any(bool((part > 1).any()) for part in chunks(data.images))
    return replace(data, kind=None, classes=(), max_value=1 if binary or not whole else 255)


def _labels(source: Source, owner: str) -> tuple[Tensor | None, tuple[str, ...]]:
    """Labels as int64, and the names of the classes; texts are sorted."""
    labels = source.labels
    if labels is None or labels.dtype.kind != "U":
        as_numbers = None if labels is None else as_labels(labels, source.array.shape[0], owner=owner, name="labels")
        return as_numbers, source.classes
    names, codes = np.unique(labels, return_inverse=True)
    return torch.from_numpy(codes.astype(np.int64)), tuple(names.tolist())
