"""Tables as text, Markdown, CSV, LaTeX and HTML."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from html import escape

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


def latex(header: Sequence[str], rows: Rows, title: str, notes: Sequence[str]) -> str:
    r"""A table of LaTeX in the style of the package booktabs, with title and notes as comments.

    Example:
        >>> print(latex(["run", "ELBO"], [["a_1", "-9.50 ± 0.10"]], "importance", ["num_data=3"]))
        % importance
        % num_data=3
        \begin{tabular}{lr}
        \toprule
        run & ELBO \\
        \midrule
        a\_1 & $-$9.50 $\pm$ 0.10 \\
        \bottomrule
        \end{tabular}
        <BLANKLINE>
    """
    first, *lines = [" & ".join(map(_in_latex, row)) + r" \\" for row in (header, *rows)]
    comments = [f"% {line}" for text in (title, *notes) for line in text.splitlines()]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}"
    body = [begin, r"\toprule", first, r"\midrule", *lines, r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*comments, *body]) + "\n"


def html(header: Sequence[str], rows: Rows, title: str, notes: Sequence[str]) -> str:
    """A table of HTML with a caption, and a paragraph per note.

    Example:
        >>> print(html(["run", "ELBO"], [["a<b", "-9.50"]], "importance", ["num_data=3"]))
        <table><caption>importance</caption>
        <thead><tr><th>run</th><th>ELBO</th></tr></thead>
        <tbody><tr><td>a&lt;b</td><td>-9.50</td></tr></tbody>
        </table>
        <p>num_data=3</p>
        <BLANKLINE>
    """
    head, body = (
        "".join(f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in row)}</tr>" for row in block)
        for tag, block in (("th", [header]), ("td", rows))
    )
    parts = f"<table><caption>{escape(title)}</caption>", f"<thead>{head}</thead>", f"<tbody>{body}</tbody>", "</table>"
    return "\n".join([*parts, *(f"<p>{escape(line)}</p>" for line in notes)]) + "\n"


def comma_separated(header: Sequence[str], rows: Rows) -> str:
    """A CSV file.

    Example:
        >>> comma_separated(["run", "note"], [["a", "x, y"]])
        'run,note\\r\\na,"x, y"\\r\\n'
    """
    buffer = io.StringIO()
    csv.writer(buffer).writerows([header, *rows])
    return buffer.getvalue()


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {c: rf"\{c}" for c in "&%$#_{}"} | {"\N{PLUS-MINUS SIGN}": r"$\pm$"}


def _in_latex(cell: str) -> str:
    text = "".join(_LATEX.get(character, character) for character in cell)
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", text)


def _alignment(header: Sequence[str]) -> list[str]:
    return ["left", *["right"] * (len(header) - 1)]


def _escaped(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
