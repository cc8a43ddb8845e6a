"""The kind of data: binary, grey levels, colour, fractions, real, counts or mixed columns; and what follows from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from pyro_vae._core.checks import check_choice, refusal, require

DataKind = Literal["binary", "grey", "colour", "fractions", "real", "counts", "mixed"]
ColumnKind = Literal["real", "count", "binary", "ordinal", "category"]
KINDS: tuple[DataKind, ...] = get_args(DataKind)
COLUMN_KINDS: tuple[ColumnKind, ...] = get_args(ColumnKind)

_BYTES = 255
_MIN_LEVELS = 33  # distinct values k / 255 of floating data that are taken as bytes: fewer may be fifths or thirds
_LIKELIHOODS = {
    "binary": "BernoulliLikelihood",
    "grey": "DiscretizedLogisticLikelihood",
    "colour": "MixtureOfLogisticsLikelihood",
    "fractions": "ContinuousBernoulliLikelihood",
    "real": "NormalLikelihood",
    "counts": "NegativeBinomialLikelihood",
    "mixed": "MixedLikelihood",
}
_PARTS = {
    "real": "NormalLikelihood",
    "count": "NegativeBinomialLikelihood",
    "binary": "BernoulliLikelihood",
    "ordinal": "OrdinalLikelihood",
    "category": "CategoricalLikelihood",
}
_WORDS = {"grey": "grey levels", "colour": "colours", "mixed": "mixed columns", "fractions": "fractions in [0, 1]"}


class Column(NamedTuple):
    """A column of a table.

    Args:
        name: its name.
        kind: ``"real"``, ``"count"``, ``"binary"``, ``"ordinal"`` or ``"category"``.
        levels: what the codes 0, 1, ... stand for; empty for numbers.
    """

    name: str
    kind: ColumnKind
    levels: tuple[str, ...] = ()


def kind_of(array: np.ndarray) -> DataKind:
    """Determine the kind of an array ``(N, D)``, ``(N, H, W)`` or ``(N, C, H, W)`` from its values.

    - only 0 and 1: binary;
    - whole numbers from 0 to at most 255, as images, or as vectors if the largest is 255 (of bytes: at least 128): grey
      levels, or colours for several channels; so are floating numbers that are all k / 255;
    - other whole numbers from 0 on: counts, except images of 16 bits;
    - images within [0, 1]: fractions; all else is real.

    Args:
        array: numbers; NaN is not considered.

    Example:
        >>> import numpy as np
        >>> kind_of(np.array([[0, 3], [7, 1]])), kind_of(np.array([[0.5, -3.0]]))
        ('counts', 'real')
    """
    return kind_of_parts([array])[0]


def kind_of_parts(parts: Iterable[np.ndarray]) -> tuple[DataKind, Facts]:
    """The kind of an array that is given part by part, see :func:`kind_of`, and what it follows from."""
    facts, levels = Facts(), np.zeros(_BYTES + 1, dtype=bool)
    for part in parts:
        facts = facts.add(part, levels)
    is_image, (ndim, channels) = len(facts.shape) > 1, (len(facts.shape), facts.shape[0])
    grey: DataKind = "colour" if ndim == 3 and channels > 1 else "grey"
    if facts.low < 0:
        return "real", facts
    if facts.whole:
        if facts.high <= 1:
            return "binary", facts
        is_bytes = facts.high == _BYTES or (facts.dtype == np.uint8 and facts.high >= 128)
        if is_bytes or (is_image and facts.high <= _BYTES):
            return grey, facts
        return ("fractions" if is_image and facts.dtype == np.uint16 else "counts"), facts
    if facts.high <= 1 and facts.bytes and levels.sum() >= _MIN_LEVELS:
        return grey, facts
    return ("fractions" if facts.high <= 1 and is_image else "real"), facts


class Facts(NamedTuple):
    """Properties of an array that determine its kind.

    Attributes:
        shape: of one datum.
        dtype: of the array.
        low, high: smallest and largest number.
        whole: whether all numbers are whole.
        bytes: whether all are k / 255, up to rounding.
    """

    shape: tuple[int, ...] = ()
    dtype: np.dtype = np.dtype(float)
    low: float = np.inf
    high: float = -np.inf
    whole: bool = True
    bytes: bool = True

    def add(self, part: np.ndarray, levels: np.ndarray) -> Facts:
        """These facts with those of a further part; ``levels`` marks the k that occur."""
        low, high = (float(bound(part)) for bound in (np.nanmin, np.nanmax))
        whole = _whole(part)
        is_bytes = self.bytes and low >= 0 and high <= 1 and _are_bytes(part, levels)
        return Facts(
            part.shape[1:], part.dtype, min(self.low, low), max(self.high, high), self.whole and whole, is_bytes
        )


def _whole(array: np.ndarray) -> bool:
    return array.dtype.kind in "biu" or bool(((array == np.rint(array)) | np.isnan(array)).all())


def _are_bytes(array: np.ndarray, levels: np.ndarray) -> bool:
    """Whether numbers in [0, 1] are k / 255 up to rounding; the k are marked."""
    if array.dtype.kind != "f":
        return True
    scaled = array[~np.isnan(array)] * _BYTES
    near = np.rint(scaled)
    levels[near.astype(np.int64)] = True
    return bool((np.abs(scaled - near) <= 2 * _BYTES * float(np.finfo(array.dtype).eps)).all())


def converted(
    array: np.ndarray,
    kind: DataKind,
    *,
    owner: str,
    name: str,
    max_value: int | None = None,
    whole: bool | None = None,
) -> tuple[Tensor, int]:
    """Convert an array to the tensor that stores data of a kind, and the integer that stands for 1.

    Grey levels, colours and binary data become uint8, counts int32, others floating. Data with NaN become floating, in
    the units of the model.

    Args:
        array: numbers.
        kind: the kind.
        owner: name that the errors begin with.
        name: of the array, for the errors.
        max_value: the largest grey level; None for 255, or for the largest value if that is below 128.
        whole: whether the numbers are whole; None determines it, which a part of an array does not allow.

    Raises:
        ValueError: a value is not of the kind.
    """
    check_choice(owner, "kind", kind, KINDS)
    whole = _whole(array) if whole is None else whole
    low, high = float(np.nanmin(array)), float(np.nanmax(array))
    value, advice = f"values from {low:.6g} to {high:.6g}", "Choose another kind, or rescale the data"
    if kind in ("fractions", "real", "mixed"):
        scaled = array / np.float32(65535) if kind == "fractions" and array.dtype == np.uint16 else array
        if kind == "fractions":
            require(
                low >= 0 and np.nanmax(scaled) <= 1, owner, f"fractions of {name} must lie in [0, 1]", value, advice
            )
        return _floating(scaled), 1
    top = 1 if kind in ("binary", "counts") else max_value or largest_level(high, whole=whole)
    if kind in ("grey", "colour") and array.dtype.kind == "f" and high <= 1 and not whole:
        array, high = array * top, high * top
        require(_near_whole(array), owner, f"grey levels of {name} must be k / {top}", "other fractions", advice)
        array = np.rint(array)
    limits = {"binary": "0 or 1", "counts": "whole numbers from 0 on"}
    rule = f"{name} must be {limits.get(kind, f'whole numbers in 0..{top}')} to be {_WORDS.get(kind, kind)}"
    require(_whole(array) and low >= 0 and (kind == "counts" or high <= top), owner, rule, value, advice)
    if high >= 2**31 or (array.dtype.kind == "f" and np.isnan(array).any()):
        return _floating(array / top), top
    return torch.from_numpy(array.astype(np.int32 if kind == "counts" else np.uint8)), top


def largest_level(high: float, *, whole: bool) -> int:
    """The integer that stands for 1: the largest value if it is small, since few images of bytes are so dark."""
    return _BYTES if high >= 128 or not whole else max(1, int(high))


def _near_whole(array: np.ndarray) -> bool:
    difference = np.abs(array - np.rint(array))
    return bool((np.isnan(difference) | (difference < 1e-3)).all())


def _floating(array: np.ndarray) -> Tensor:
    """Native byte order and at most 8 bytes, which torch requires; integers as float32."""
    size = min(array.dtype.itemsize, 8) if array.dtype.kind == "f" else 4
    return torch.from_numpy(array.astype(f"=f{size}"))


def default_likelihood(kind: DataKind, max_value: int) -> tuple[str, dict[str, Any]]:
    """Class name and arguments of the likelihood for a kind of data; those of mixed columns follow from the columns.

    Example:
        >>> default_likelihood("grey", 16)
        ('DiscretizedLogisticLikelihood', {'levels': 17})
    """
    arguments: dict[str, Any] = {"levels": max_value + 1} if kind in ("grey", "colour") else {}
    return _LIKELIHOODS[kind], {"scale": "pixel"} if kind == "real" else arguments


def parts_of(columns: tuple[Column, ...]) -> list[tuple[list[int], str, dict[str, Any]]]:
    """The parts of a mixed likelihood: positions of the columns, class name and arguments.

    Columns of one kind share a part, those with classes only if they have as many.

    Example:
        >>> parts_of((Column("age", "real"), Column("sex", "binary", ("f", "m")), Column("height", "real")))
        [([0, 2], 'NormalLikelihood', {'scale': 'pixel'}), ([1], 'BernoulliLikelihood', {})]
    """
    groups: dict[tuple[str, int], list[int]] = {}
    for i, column in enumerate(columns):
        levels = len(column.levels) if column.kind in ("ordinal", "category") else 0
        groups.setdefault((column.kind, levels), []).append(i)
    arguments: dict[str, Any] = {"real": {"scale": "pixel"}}
    return [
        (positions, _PARTS[kind], arguments.get(kind, _levels(kind, levels)))
        for (kind, levels), positions in groups.items()
    ]


def _levels(kind: str, levels: int) -> dict[str, Any]:
    codes = {"codes": True} if kind == "category" else {}
    return {"levels": levels, **codes} if levels else {}


def standardizes(kind: DataKind) -> bool:
    """Whether data of a kind are standardized by default."""
    return kind in ("real", "counts", "mixed")


def column_words(columns: tuple[Column, ...]) -> str:
    """The number of columns of each kind, such as "2 real, 1 category"."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(column.kind for column in columns).items())


def column_names(columns: tuple[Column, ...]) -> str:
    """The names of the columns of each kind, such as "real: age, fare; binary: sex"."""
    kinds = dict.fromkeys(column.kind for column in columns)
    names = {kind: [column.name for column in columns if column.kind == kind] for kind in kinds}
    return "; ".join(f"{kind}: {shortened(of_kind)}" for kind, of_kind in names.items())


def kind_words(kind: DataKind, max_value: int) -> str:
    """The kind in words, such as "grey levels 0 to 255"."""
    return _WORDS.get(kind, kind) + (f" 0 to {max_value}" if kind in ("grey", "colour") else "")


def check_column_kind(owner: str, name: str, kind: str) -> None:
    """Require a kind of column.

    Raises:
        ValueError: listing the kinds.
    """
    if kind not in COLUMN_KINDS:
        raise refusal(owner, f"the kind of column {name!r} must be one of {', '.join(COLUMN_KINDS)}", repr(kind))


def shortened(names: Sequence[str], limit: int = 5) -> str:
    """The first names of a list."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
