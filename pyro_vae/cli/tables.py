"""Tables as text, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

Rows = Sequence[Sequence[str]]


def aligned(header: Sequence[str], rows: Rows) -> str:
    """Columns under each other: the first to the left, the others to the right.

    Example:
        >>> print(aligned(["run", "ELBO"], [["a", "-103.25"], ["long", "-9.50"]]))
        run      ELBO
        a     -103.25
        long    -9.50
    """
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = (
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, *rows]
    )
    return "\n".join(line.rstrip() for line in lines)


def markdown(header: Sequence[str], rows: Rows) -> str:
    """A table of Markdown; what would end a cell is escaped.

    Example:
        >>> print(markdown(["run", "ELBO"], [["a|b", "-9.50"]]))
        | run | ELBO |
        | :-- | --: |
        | a\\|b | -9.50 |
    """
    marks = [":--", *["--:"] * (len(header) - 1)]
    lines = [[_escaped(cell) for cell in header], marks, *([_escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def comma_separated(header: Sequence[str], rows: Rows) -> str:
    """Lines of CSV, as spreadsheets read them.

    Example:
        >>> comma_separated(["run", "note"], [["a", "x, y"]])
        'run,note\\r\\na,"x, y"\\r\\n'
    """
    buffer = io.StringIO()
    csv.writer(buffer).writerows([header, *rows])
    return buffer.getvalue()


def _escaped(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
