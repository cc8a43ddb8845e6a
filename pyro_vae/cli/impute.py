"""``pyro-vae impute``."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae._core.checks import check_count, require
from pyro_vae._core.distributed import join
from pyro_vae._core.files import write_atomically
from pyro_vae.cli.console import check_out, check_seed, load, run_parser, say
from pyro_vae.data.arrays import check_array, read_npy
from pyro_vae.data.kinds import Column
from pyro_vae.data.tables import Columns, encoded_as, read_csv
from pyro_vae.evaluation import Imputation, impute
from pyro_vae.experiments.trained_model import TrainedModel

_OWNER, _DIGITS = "impute", 6
_DESCRIPTION = """\
Fill the missing entries of a table with a model that was trained on data with missing entries: numbers with their
conditional mean given the observed entries of the row (counts rounded), classes with the most probable one. A csv file
must have the columns of the training data, in any order; other columns are copied. In an npy file NaN is missing."""


def impute_table(argv: list[str]) -> None:
    """Fill the missing entries of a csv or npy file."""
    parser = run_parser(_OWNER, _DESCRIPTION)
    parser.add_argument("file", metavar="FILE", type=Path, help="csv or npy file with missing entries")
    parser.add_argument("--out", type=Path, required=True, help="file to write, of the same kind")
    help = "write this number of random completions instead, below each other, numbered in a column 'draw' (of an npy "
    parser.add_argument("--draws", type=int, help=f"{help}file: along a first dimension)")
    help = "samples of z per row, of which the completions are made (default 1000)"
    parser.add_argument("--num_samples", type=int, default=1000, help=help)
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples (default 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    options = vars(parser.parse_args(argv))
    file, out, draws = options["file"], options["out"], options["draws"]
    check_count(_OWNER, draws=draws, num_samples=options["num_samples"])
    check_seed(options["seed"])
    require(file.suffix in (".csv", ".npy"), _OWNER, "FILE must end in .csv or .npy", file, "Convert it")
    check_out(out, options["overwrite"], file.suffix)
    trained = load({key: options[key] for key in ("run", "device", "root", "weights", "trust")})
    missing = getattr(trained.vae, "missing", False)
    advice = "Train a VAE on a table or array in which some entries are missing"
    require(missing, _OWNER, "the model must be one of data with missing entries", "complete training data", advice)
    table = read_csv(file, owner=_OWNER).columns if file.suffix == ".csv" else {}
    array = _rows(file, table, trained)
    scale = _scale(array, trained.splits.max_value)
    x = torch.from_numpy(np.asarray(array / scale, dtype=np.float32)).to(next(trained.vae.parameters()).device)
    settings = {name: options[name] for name in ("num_samples", "seed")}
    result = impute(trained.vae, x, num_draws=draws or 200, progress=sys.stderr.isatty(), **settings)
    columns = trained.splits.train.columns
    values = result.draws if draws else _point(result, columns).unsqueeze(0)
    filled = np.where(np.isnan(array), values.cpu().numpy() * np.float32(scale), array)
    content = _csv(table, columns, x, values, numbered=bool(draws)) if table else _npy(filled, draws=draws)
    if join().first:
        write_atomically(out, content, overwrite=options["overwrite"])
        say("\n".join([*_lines(x, result), f"file: {out}"]))


def _scale(array: np.ndarray, max_value: int) -> int:
    """The number that stands for 1 in a file: the largest grey level, unless its values are fractions."""
    return max_value if max_value > 1 and np.nanmax(array) > 1 else 1


def _rows(file: Path, table: Columns, trained: TrainedModel) -> np.ndarray:
    """The data of the file, ``(N, *data_shape)``, NaN if missing."""
    shape = trained.splits.data_shape
    if table:
        columns = trained.splits.train.columns
        array = encoded_as(table, columns, owner=_OWNER) if columns else np.stack(list(table.values()), 1)
    else:
        array = read_npy(file, owner=_OWNER)
        array = array[:, None] if array.ndim == 3 else array
        check_array(array, owner=_OWNER, name=str(file))
    rule, advice = f"{file} must hold data of shape {shape}, as the training data", "Convert it"
    require(array.shape[1:] == shape, _OWNER, rule, array.shape[1:], advice)
    return array


def _point(result: Imputation, columns: Sequence[Column]) -> Tensor:
    """Means of real numbers, rounded means of counts, and the most frequent class of others, ``(N, *data_shape)``."""
    values = result.mean.clone()
    for i, column in enumerate(columns):
        if column.kind == "count":
            values[:, i] = values[:, i].round()
        elif column.kind != "real":
            values[:, i] = result.mode()[:, i]
    return values


def _csv(table: Columns, columns: Sequence[Column], x: Tensor, values: Tensor, *, numbered: bool) -> bytes:
    """The table with its missing cells filled from ``(K, N, D)``, K times below each other."""
    like = columns or [Column(name, "real") for name in table]
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*(["draw"] if numbered else []), *table])
    for number, filled in enumerate(values.cpu().numpy(), 1):
        texts = {name: [_text(cell) for cell in cells.tolist()] for name, cells in table.items()}
        for i, column in enumerate(like):
            for row in np.flatnonzero(x[:, i].isnan().cpu().numpy()):
                value = float(filled[row, i])
                level = column.levels[round(value)] if column.levels else _text(float(f"{value:.{_DIGITS}g}"))
                texts[column.name][row] = level
        writer.writerows([*([number] if numbered else []), *row] for row in zip(*texts.values(), strict=True))
    return buffer.getvalue().encode()


def _text(cell: Any) -> str:
    """A cell as it is read again: an empty one if it is missing, a number without needless zeros."""
    if cell is None or cell != cell:
        return ""
    return cell if isinstance(cell, str) else np.format_float_positional(cell, trim="-")


def _npy(values: np.ndarray, *, draws: int | None) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, (values if draws else values[0]).astype(np.float32))
    return buffer.getvalue()


def _lines(x: Tensor, result: Imputation) -> list[str]:
    missing, empty = int(x.isnan().sum()), int(x.flatten(1).isnan().all(1).sum())
    lines = [f"{len(x)} rows: {missing} of {x.numel()} entries imputed ({missing / x.numel():.1%})"]
    if empty:
        lines.append(f"{empty} rows have no observed entry: their values are those of the model without data")
    ess = float(result.effective_sample_size.median())
    lines.append(
        f"log p(x observed) {float(result.log_likelihood.mean()):.3f} nats per row; effective sample size, "
        f"median: {ess:.1f}"
    )
    return [*lines, f"note: {advice}"] if (advice := result.advice()) else lines
