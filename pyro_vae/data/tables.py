"""Tables with named columns of several kinds: data frames and csv files as numbers with codes for texts."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from numbers import Number
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from pyro_vae._core.checks import refusal, require
from pyro_vae._core.files import open_regular
from pyro_vae.data.kinds import COLUMN_KINDS, Column, ColumnKind, DataKind, check_column_kind, kind_of, shortened

_MISSING = {"", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "<NA>", "#N/A"}  # as pandas reads them
_NO_NUMBER = {text.lower() for text in _MISSING}  # among numbers
_MAX_LEVELS = 100  # of a column of texts, beyond which it is an identifier or free text
_MAX_ORDINAL = 10  # of whole numbers from 1 on, such as survey answers
_MAX_COUNT = 1000  # of whole numbers from 0 on
_WIDE = 100  # number of numeric columns beyond which all are of one kind: genes, words or pixels

_OF_ALL: dict[str, DataKind] = {"real": "real", "count": "counts", "binary": "binary"}
_OF_EACH: dict[DataKind, tuple[Any, ...]] = {"counts": ("count",), "binary": ("binary", ("0", "1"))}
_CELLS = (str, Number, np.generic)
Columns = Mapping[str, np.ndarray]


class Frame(NamedTuple):
    """Columns of a table by name, and what is known of them.

    Attributes:
        columns: numbers (float64) or texts (object), with NaN or None for missing cells.
        levels: the levels of categories, in their order.
        kinds: kinds that are declared.
        alike: whether all columns are numbers of one kind, those of a matrix.
    """

    columns: Columns
    levels: Mapping[str, Sequence[str]] = MappingProxyType({})
    kinds: Mapping[str, str] = MappingProxyType({})
    alike: bool = False


def read_csv(path: Path, *, owner: str) -> Frame:
    """Read a csv file; a column is one of numbers if all its cells are.

    Missing cells are empty or one of NA, N/A, n/a, NaN, nan, NULL, null, None, <NA> and #N/A, as pandas reads them; in
    a column of numbers in any case. Other texts, such as ``none``, are levels.

    The separator is a comma, tab or semicolon, which allows decimal commas. A first line of numbers alone is data; the
    columns are then called ``column0``, ``column1``, ... An unnamed first column that numbers the rows, as pandas
    writes it, is left out.

    Raises:
        OSError: the file is missing, unreadable, or not a regular file.
        ValueError: the file is no text, has no row, names a column twice, or has rows of different lengths.
    """
    with open_regular(path) as file:
        try:
            text = file.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise refusal(owner, f"{path} must be a text file in UTF-8", "other bytes", "Save it again") from None
    first = text.split("\n", 1)[0]
    separator = max(",;\t", key=first.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows = [[cell.strip() for cell in row] for row in lines if row]
    require(bool(rows), owner, f"{path} must hold a table", "zero-length data")
    names = rows.pop(0)
    if _are_data(names):
        rows, names = [names, *rows], [f"column{i}" for i in range(len(names))]
    _check_rows(path, names, rows, owner)
    comma = separator == ";"
    columns = {name: _column([row[i] for row in rows], decimal_comma=comma) for i, name in enumerate(names)}
    numbering = columns.get("")
    if numbering is not None and numbering.dtype != object and np.array_equal(numbering, np.arange(len(rows))):
        del columns[""]
    return Frame(columns)


def _are_data(cells: list[str]) -> bool:
    """Whether a first line holds numbers and missing cells alone; not the names ``,0,1`` that pandas writes."""
    numbers = [_number(cell) for cell in cells if cell.lower() not in _NO_NUMBER]
    numbered = cells[0] == "" and numbers == list(range(len(cells) - 1))
    return bool(numbers) and None not in numbers and not numbered


def _check_rows(path: Path, names: list[str], rows: list[list[str]], owner: str) -> None:
    require(bool(rows), owner, f"{path} must hold at least one row", "zero-length data")
    twice = [name for name in set(names) if names.count(name) > 1]
    require(not twice, owner, f"the columns of {path} must have distinct names", f"{twice[:1]} twice", "Rename one")
    for number, row in enumerate(rows, 1):
        got, advice = f"{len(row)} in row {number}", "Repair that row, or quote texts that hold the separator"
        require(len(row) == len(names), owner, f"the rows of {path} must have {len(names)} cells", got, advice)


def _number(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)  # Python reads 1_2 as 12
    except ValueError:
        return None


def _column(cells: list[str], *, decimal_comma: bool) -> np.ndarray:
    texts = [cell.replace(",", ".") for cell in cells] if decimal_comma else cells
    numbers = [np.nan if text.lower() in _NO_NUMBER else _number(text) for text in texts]
    if None not in numbers:
        return np.array(numbers, dtype=np.float64)
    return np.array([None if cell in _MISSING else cell for cell in cells], dtype=object)


def read_frame(frame: Any, *, owner: str, drop: Collection[str] = ()) -> Frame:
    """The columns of a pandas data frame, with the levels of its categories; ordered ones are ordinal.

    Columns to ``drop`` are empty, so that they may hold anything.

    Raises:
        ValueError: a name is not unique, or a column holds neither numbers nor texts.
    """
    names = [str(name) for name in frame.columns]
    require(len(set(names)) == len(names), owner, "the columns must have distinct names", "one twice", "Rename it")
    columns: dict[str, np.ndarray] = {}
    levels: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    frame = frame.infer_objects()  # numbers in columns of objects
    for i, name in enumerate(names):
        series = frame.iloc[:, i]
        kind = getattr(series.dtype, "kind", "O")
        if name in drop:
            columns[name] = np.empty(0)
            continue
        known = kind in "biuf" or hasattr(series, "cat")
        others = set() if known else {type(v).__name__ for v in series.dropna() if not isinstance(v, _CELLS)}
        if kind in "Mmc" or others:
            advice = f"Convert it to numbers, or omit it: drop=[{name!r}] (train: --data.drop '[{name}]')"
            got = str(series.dtype) if kind in "Mmc" else min(others)
            raise refusal(owner, f"column {name!r} must hold numbers or texts", got, advice)
        if kind in "biuf":
            columns[name] = series.to_numpy(dtype=np.float64, na_value=np.nan)
            continue
        missing = series.isna().to_numpy()
        values = series.astype(object).to_numpy()
        if not hasattr(series, "cat") and all(isinstance(v, Number) for v in values[~missing]):  # such as decimals
            columns[name] = np.array([np.nan if gap else float(v) for v, gap in zip(values, missing, strict=True)])
            continue
        columns[name] = np.array([None if gap else str(v) for v, gap in zip(values, missing, strict=True)], object)
        if hasattr(series, "cat"):
            levels[name] = [str(level) for level in series.cat.categories]
            kinds |= {name: "ordinal"} if series.cat.ordered and len(levels[name]) > 2 else {}
    return Frame(columns, levels, kinds)


def encoded(
    frame: Frame, *, owner: str, kinds: Mapping[str, str] | Sequence[str] | None = None
) -> tuple[np.ndarray, tuple[Column, ...], DataKind | None]:
    """Encode columns as one matrix of numbers ``(N, D)``, texts as codes 0, 1, ... of their sorted levels.

    A column of texts is a category, or binary if it has two levels. A column of numbers is binary (0 and 1), ordinal
    (whole numbers from 1 to at most 10), a count (whole numbers from 0 to below 1000) or real. More than 100 columns of
    numbers are all of one kind, that of :func:`~pyro_vae.data.kinds.kind_of`.

    Args:
        frame: the table, whose categories keep the order of their levels.
        owner: name that errors begin with.
        kinds: the kinds of some columns by name, or of all in order, in place of the detected ones.

    Returns:
        The matrix, float64 with NaN for missing cells, the columns, and the kind of all; None if each has its own.

    Raises:
        ValueError: a column has no values, too many texts to be a category, or values that are not of its kind.
    """
    columns = frame.columns
    require(bool(columns), owner, "a table must have at least one column", "none")
    if isinstance(kinds, Sequence) and kinds:
        value, advice = f"{len(kinds)} for {len(columns)} columns", "Give the kinds by name: {age: real}"
        require(len(kinds) == len(columns), owner, "kinds must be one per column", value, advice)
        kinds = dict(zip(columns, kinds, strict=True))
    chosen: dict[str, str] = dict(kinds or {})  # type: ignore[arg-type]
    check_names(owner, "kinds", chosen, columns)
    chosen = {**frame.kinds, **chosen}
    for name, kind in chosen.items():
        check_column_kind(owner, name, kind)
    numeric = all(values.dtype != object for values in columns.values())
    if (frame.alike or (numeric and len(columns) > _WIDE)) and not chosen:
        matrix = np.stack(list(columns.values()), 1)
        of_all = kind_of(matrix)
        return matrix, tuple(Column(name, *_OF_EACH.get(of_all, ("real",))) for name in columns), of_all
    of = frame.levels
    pairs = [_encoded(name, values, chosen.get(name), of.get(name), owner) for name, values in columns.items()]
    return np.stack([codes for codes, _ in pairs], 1), tuple(column for _, column in pairs), None


def encoded_as(columns: Columns, like: Sequence[Column], *, owner: str) -> np.ndarray:
    """Encode columns as those of another table were, ``(N, D)``.

    Raises:
        ValueError: a column is missing, or holds a text that is not among the levels.
    """
    check_names(owner, "the columns of the training data", [column.name for column in like], columns)
    matrix = np.empty((len(next(iter(columns.values()))), len(like)))
    for i, column in enumerate(like):
        values = columns[column.name]
        if not column.levels:
            rule, got = f"column {column.name!r} must hold numbers, as in the training data", "texts"
            require(values.dtype != object, owner, rule, got)
            matrix[:, i] = values
            continue
        codes = {level: code for code, level in enumerate(column.levels)}
        texts = [None if value is None or value != value else _text(value) for value in values.tolist()]
        unknown = next((text for text in texts if text is not None and text not in codes), None)
        rule = f"column {column.name!r} must hold the levels of the training data ({shortened(column.levels)})"
        require(unknown is None, owner, rule, repr(unknown), "Leave out these rows")
        matrix[:, i] = [np.nan if text is None else codes[text] for text in texts]
    return matrix


def check_names(owner: str, option: str, names: Collection[str], columns: Collection[str]) -> None:
    """Require the names of an option to be those of columns.

    Raises:
        ValueError: listing the columns.
    """
    unknown = [name for name in names if name not in columns]
    listed = ", ".join(list(columns)[:20]) + (", ..." if len(columns) > 20 else "")
    require(not unknown, owner, f"{option} must name columns", f"{unknown[:1]}", f"The columns are {listed}")


def _encoded(
    name: str, values: np.ndarray, kind: str | None, levels: Sequence[str] | None, owner: str
) -> tuple[np.ndarray, Column]:
    numbers = values.dtype != object
    present = values[~np.isnan(values)] if numbers else np.array([v for v in values if v is not None], dtype=object)
    omit = f"Omit it: drop=[{name!r}] (train: --data.drop '[{name}]')"
    require(len(present) > 0, owner, f"column {name!r} must have values", "none in any row", omit)
    finite = not numbers or bool(np.isfinite(present).all())
    require(finite, owner, f"column {name!r} must be finite", "infinite values", "Repair these rows")
    if numbers and (kind := kind or _kind_of_numbers(present)) in ("real", "count"):
        rule, got = f"column {name!r} must hold whole numbers from 0 on to be a count", f"values from {present.min():g}"
        is_count = _is_whole(present) and present.min() >= 0
        require(kind == "real" or is_count, owner, rule, got, "Declare it real")
        return values, Column(name, "real" if kind == "real" else "count")
    text = next((value for value in present.tolist() if isinstance(value, str)), None)
    rule = f"column {name!r} must hold numbers to be {kind}"
    require(kind not in ("real", "count"), owner, rule, repr(text), "Replace this text by an empty cell")
    names = [str(level) for level in levels] if levels else _levels(present, kind)
    got = f"{len(names)} distinct values in {len(present)} rows"
    few = len(names) <= _MAX_LEVELS and (kind is not None or len(names) <= 20 or 2 * len(names) <= len(present))
    require(few, owner, f"column {name!r} must have at most {_MAX_LEVELS} levels, which recur", got, omit)
    kind = kind or ("binary" if len(names) == 2 else "category")
    right = len(names) == 2 if kind == "binary" else len(names) > 1 and kind in ("ordinal", "category")
    rule = f"column {name!r} must have {'two' if kind == 'binary' else 'several'} levels to be {kind}"
    require(right, owner, rule, got, omit)
    code_of = {level: float(code) for code, level in enumerate(names)}
    codes = [np.nan if value is None or value != value else code_of[_text(value)] for value in values.tolist()]
    return np.array(codes), Column(name, next(known for known in COLUMN_KINDS if known == kind), tuple(names))


def _levels(present: np.ndarray, kind: str | None) -> list[str]:
    """Sorted distinct values as texts; of ordinal numbers, and of 0 and 1, without gaps."""
    distinct = sorted(set(present.tolist()))
    if kind == "binary" and set(distinct) <= {0, 1}:
        distinct = [0, 1]
    elif kind == "ordinal" and present.dtype != object and _is_whole(present) and distinct[-1] - distinct[0] < 1000:
        distinct = list(range(int(distinct[0]), int(distinct[-1]) + 1))
    return [_text(value) for value in distinct]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else np.format_float_positional(value, trim="-")  # all digits


def _is_whole(present: np.ndarray) -> bool:
    return bool((present == np.rint(present)).all())


def _kind_of_numbers(present: np.ndarray) -> ColumnKind:
    """The kind of a column of numbers; see :func:`encoded`."""
    low, high = present.min(), present.max()
    if not _is_whole(present) or low < 0 or low == high:
        return "real"
    if high <= 1:
        return "binary"
    if low == 1 and high <= _MAX_ORDINAL:
        return "ordinal"
    return "count" if low == 0 and high < _MAX_COUNT else "real"


def common_kind(columns: tuple[Column, ...]) -> DataKind:
    """The kind of a table: mixed, unless its columns are all numbers of one kind."""
    kinds = {column.kind for column in columns}
    if len(kinds) > 1 or kinds & {"ordinal", "category"}:
        return "mixed"
    return _OF_ALL[kinds.pop()]
