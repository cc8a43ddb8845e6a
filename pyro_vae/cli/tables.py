"""Tables as text, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from tabulate import tabulate

Rows = Sequence[Sequence[str]]


def aligned(header: Sequence[str], rows: Rows) -> str:
    """Columns of text, the first left-aligned, the others right-aligned.

    Example:
        >>> print(aligned(["run", "ELBO"], [["a", "-103.25"], ["long", "-9.50"]]))
        run      ELBO
        a     -103.25
        long    -9.50
    """
    return _table(header, rows, "plain")


def markdown(header: Sequence[str], rows: Rows) -> str:
    """A Markdown table, with pipes and line breaks in cells escaped.

    Example:
        >>> print(markdown(["run", "ELBO"], [["a|b", "-9.50"]]))
        | run   |   ELBO |
        |:------|-------:|
        | a\\|b  |  -9.50 |
    """
    return _table([_escaped(cell) for cell in header], [[_escaped(cell) for cell in row] for row in rows], "pipe")


def comma_separated(header: Sequence[str], rows: Rows) -> str:
    """A CSV file.

    Example:
        >>> comma_separated(["run", "note"], [["a", "x, y"]])
        'run,note\\r\\na,"x, y"\\r\\n'
    """
    buffer = io.StringIO()
    csv.writer(buffer).writerows([header, *rows])
    return buffer.getvalue()


def _table(header: Sequence[str], rows: Rows, form: str) -> str:
    alignment = ["left", *["right"] * (len(header) - 1)]
    return tabulate(rows, header, form, colalign=alignment, disable_numparse=True)


def _escaped(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
