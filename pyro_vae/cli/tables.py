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
    return tabulate([header, *rows], (), "plain", colalign=_alignment(header), disable_numparse=True)


def markdown(header: Sequence[str], rows: Rows) -> str:
    """A Markdown table, with pipes and line breaks in cells escaped.

    Example:
        >>> print(markdown(["run", "ELBO"], [["a|b", "-9.50"]]))
        | run   |   ELBO |
        |:------|-------:|
        | a\\|b  |  -9.50 |
    """
    cells = [[_escaped(cell) for cell in row] for row in (header, *rows)]
    return tabulate(cells, "firstrow", "pipe", colalign=_alignment(header), disable_numparse=True)


def comma_separated(header: Sequence[str], rows: Rows) -> str:
    """A CSV file.

    Example:
        >>> comma_separated(["run", "note"], [["a", "x, y"]])
        'run,note\\r\\na,"x, y"\\r\\n'
    """
    buffer = io.StringIO()
    csv.writer(buffer).writerows([header, *rows])
    return buffer.getvalue()


def _alignment(header: Sequence[str]) -> list[str]:
    return ["left", *["right"] * (len(header) - 1)]


def _escaped(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
