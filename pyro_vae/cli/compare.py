"""``pyro-vae compare``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import Any

from pyro_vae._core.distributed import join
from pyro_vae._core.files import json_ready, write_atomically
from pyro_vae.cli.arguments import Parser
from pyro_vae.cli.console import check_out, say
from pyro_vae.cli.tables import aligned, comma_separated, html, latex, markdown
from pyro_vae.evaluation import Quantity
from pyro_vae.experiments.comparison import Cell, Table, compare, read_runs

_DESCRIPTION = """\
Compare the results of runs: a row per run, and for each method a table with one protocol (data set, split,
binarization, sizes, estimator, number of samples, proposal, precision, ...). Runs with different protocols are
refused. This command does not evaluate runs; pyro-vae evaluate does."""


def compare_runs(argv: list[str]) -> None:
    """Print the tables of several runs, and write them to the file of ``--out``."""
    parser = Parser(prog="pyro-vae compare", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders; gains are relative to the first")
    parser.add_argument("--split", choices=["test", "validation", "train"], default="test", help="(default test)")
    parser.add_argument("--mixed", action="store_true", help="allow different protocols; rows list the differences")
    parser.add_argument("--out", type=Path, help="also write the tables to this file: .csv, .md, .html, .tex or .json")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    options = parser.parse_args(argv)
    check_out(options.out, options.overwrite, ".csv", ".md", ".html", ".tex", ".json")
    tables = compare(read_runs(options.runs, split=options.split), mixed=options.mixed)
    say("\n\n".join(as_text(table) for table in tables))
    if options.out and join().first:
        write_atomically(options.out, _rendered(tables, options.out.suffix).encode(), overwrite=options.overwrite)
        say(f"\ntable: {options.out}")


def as_text(table: Table) -> str:
    """A table for the terminal, with its protocol below."""
    header, rows = _columns(table, "+-", "{} (stale)")
    return "\n".join([table.method, aligned(header, rows), *_legend(table)])


def _rendered(tables: Sequence[Table], suffix: str) -> str:
    if suffix == ".json":
        return json.dumps(json_ready([_record(table) for table in tables]), allow_nan=False, indent=1) + "\n"
    if suffix == ".md":
        blocks = (
            ["## " + t.method, markdown(*_columns(t, "\N{PLUS-MINUS SIGN}", "~~{}~~")), *_legend(t)] for t in tables
        )
        return "\n\n".join(paragraph for block in blocks for paragraph in block) + "\n"
    if suffix == ".tex":
        return "\n".join(latex(*_columns(t, "\N{PLUS-MINUS SIGN}", "{} (stale)"), t.method, _legend(t)) for t in tables)
    if suffix == ".html":
        return "\n".join(html(*_columns(t, "\N{PLUS-MINUS SIGN}", "{} (stale)"), t.method, _legend(t)) for t in tables)
    return _csv(tables)


def _record(table: Table) -> dict[str, Any]:
    units = {q.name: q.unit for q in table.quantities}
    rows = [asdict(row) for row in table.rows]
    return {"method": table.method, "protocol": table.protocol, "units": units, "rows": rows, "notes": table.notes}


def _columns(table: Table, sign: str, stale: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows: each quantity with its error, of stale rows in a format, and its gain if the data are shared."""
    forms = [stale if row.stale else "{}" for row in table.rows]
    columns: dict[str, list[str]] = {"run": [row.run for row in table.rows]}
    columns |= {key: [str(row.model.get(key, "-")) for row in table.rows] for key in table.model_entries}
    for quantity in table.quantities:
        cells = [row.cells.get(quantity.name) for row in table.rows]
        name = f"{quantity.label} ({quantity.unit})"
        texts = ["-" if cell is None else _number(cell, quantity, sign) for cell in cells]
        columns[name] = [form.format(text) for form, text in zip(forms, texts, strict=True)]
        if any(cell and math.isfinite(cell.gain) for cell in cells):
            gains = ["-" if cell is None or math.isnan(cell.gain) else _gain(cell, sign) for cell in cells]
            change = "gain" if quantity.name in ("log_likelihood", "elbo") else "change"
            columns[f"{change} in {quantity.label} ({quantity.unit})"] = gains
    if any(row.differs for row in table.rows):
        columns["differs in"] = [_entries(row.differs) or "-" for row in table.rows]
    return list(columns), [list(line) for line in zip(*columns.values(), strict=True)]


def _number(cell: Cell, quantity: Quantity, sign: str) -> str:
    if quantity.unit == "%":
        return f"{cell.value:.2f} {sign} {cell.sampling_error:.2f}"
    if not quantity.paired:
        return f"{cell.value:g}"
    error = cell.sampling_error if math.isnan(cell.monte_carlo_error) else cell.monte_carlo_error
    return f"{cell.value:.3f} {sign} {error:.3f}"


def _gain(cell: Cell, sign: str) -> str:
    return f"{cell.gain:+.3f} {sign} {cell.gain_error:.3f}"


def _legend(table: Table) -> list[str]:
    lines = [f"protocol: {_entries(table.protocol)}"]
    cells = [cell for row in table.rows for cell in row.cells.values()]
    noisy = {name for row in table.rows for name, c in row.cells.items() if math.isfinite(c.monte_carlo_error)}
    noise = [q.label for q in table.quantities if q.name in noisy]
    spread = [q.label for q in table.quantities if q.name not in noisy and q.unit in ("nats", "%")]
    lines += [f"Monte Carlo errors, for exactly these data: {', '.join(noise)}"] if noise else []
    lines += [f"errors over data: {', '.join(spread)}"] if spread else []
    if any(math.isfinite(cell.gain) for cell in cells):
        base = next(row.run for row in table.rows if row.cells and not row.stale)
        lines.append(f"gain, change: from {base}, paired by datum, with the error of the mean difference")
    return lines + table.notes


def _entries(protocol: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in protocol.items())


def _csv(tables: Sequence[Table]) -> str:
    """One line per run, the tables side by side, each number and each error in its own column."""
    header, rows = ["run"], [[row.run] for row in tables[0].rows]
    for number, table in enumerate(tables, 1):
        name = f"{number} {table.method}"
        for quantity in table.quantities:
            header += [f"{name} {quantity.name} {f.name} [{quantity.unit}]" for f in fields(Cell)]
            for line, row in zip(rows, table.rows, strict=True):
                values = astuple(row.cells.get(quantity.name, Cell(math.nan)))
                line += ["" if math.isnan(value) else repr(value) for value in values]
        header += [f"{name} stale", f"{name} protocol"]
        for line, row in zip(rows, table.rows, strict=True):
            protocol = {**table.protocol, **row.differs}
            line += ["yes" if row.stale else "no", _entries(protocol)] if row.cells else ["", ""]
    return comma_separated(header, rows)
