"""Compare results of several runs: tables of one protocol each, with gains paired by datum.

The columns of a kind of result are its class attribute ``quantities``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_vae._core.checks import refusal, require
from pyro_vae.evaluation import Quantity, Result
from pyro_vae.evaluation.result import TOPICS
from pyro_vae.experiments.config import read_yaml
from pyro_vae.experiments.methods import METHODS
from pyro_vae.experiments.provenance import PROVENANCE
from pyro_vae.experiments.results import renewal, results_of, same_data
from pyro_vae.training import RunFolder

MODEL = (
    *("model", "m1", "labels", "label_seed", "alpha", "classification_weight"),
    *("prior", "likelihood", "guide", "net", "classifier", "label_prior", "latent_dim", "objective", "beta"),
)
"""Protocol entries that describe the model; tables compare models."""
STALE, UNKNOWN, MODEL_OF = "stale", "without_fingerprint", "model_of"
"""Entries that :func:`read_runs` adds to protocols: how a stale result is renewed; that a result has no fingerprint of
its weights; and the run folder that the model was trained in, which of a refit is another one."""
_NAMES = {"data_sha256": ("dataset", "data_file"), "outliers_sha256": ("outliers",)}  # by the entry of the content
OF_SAMPLES = ("estimator", "num_samples", "proposal")
"""Protocol entries of an estimate, in which a result without Monte Carlo error may differ from others."""
FREE = (*MODEL, *PROVENANCE, STALE, UNKNOWN, MODEL_OF, "sample_seed", "unavailable")
"""Protocol entries in which results of one table may differ."""


@dataclass(frozen=True)
class Cell:
    """A number of a run.

    Attributes:
        value: the mean over the data.
        monte_carlo_error: standard error for exactly these data; nan if unknown.
        sampling_error: standard error for the population of the data; nan for a count.
        gain: the mean difference to the first run, paired by datum; nan if the data differ.
        gain_error: its standard error.
    """

    value: float
    monte_carlo_error: float = math.nan
    sampling_error: float = math.nan
    gain: float = math.nan
    gain_error: float = math.nan


@dataclass(frozen=True)
class Row:
    """A run: its model, its cells by quantity, and the protocol entries that differ from the table's.

    The numbers of a stale row were computed with other weights than the run's present ones.
    """

    run: str
    model: dict[str, Any] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)
    differs: dict[str, Any] = field(default_factory=dict)
    stale: bool = False


@dataclass(frozen=True)
class Table:
    """Results of one kind under one protocol, a row per run; a run without such a result has no cells.

    The notes are about stale rows, rows without a fingerprint of their weights, and gains that are not shown.
    """

    kind: type[Result]
    protocol: dict[str, Any]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)

    @property
    def method(self) -> str:
        """Name of the kind of results."""
        return self.kind.method

    @property
    def quantities(self) -> list[Quantity]:
        """The columns that hold a number."""
        return [q for q in self.kind.quantities if any(q.name in row.cells for row in self.rows)]

    @property
    def model_entries(self) -> list[str]:
        """The protocol entries in which the models differ."""
        return [key for key in MODEL if len({str(row.model[key]) for row in self.rows if key in row.model}) > 1]


def read_runs(paths: Sequence[str | Path], *, split: str = "test") -> dict[str, list[Result]]:
    """The comparable results of each run folder on a split, by folder.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: a folder is repeated, or has no result.
    """
    runs: dict[str, list[Result]] = {}
    for path in map(str, paths):
        repeated = Path(path).resolve() in {Path(other).resolve() for other in runs}
        require(not repeated, "compare", "runs must be distinct", f"{path} twice")
        run = RunFolder(path)
        results = [r for r in _results(run) if r.quantities and r.protocol.get("split") == split]
        advice = f"Make one: pyro-vae evaluate {path} --split {split}"
        require(bool(results), "compare", f"every run must have a result on split={split}", f"none in {path}", advice)
        runs[path] = results
    return runs


def _results(run: RunFolder) -> list[Result]:
    """The results of a run, whose protocols tell what is known of their weights and data."""
    entries = results_of(run)
    for path, result in entries.stale.items():
        result.protocol[STALE] = f"{entries.note(result)}; renew it: {renewal(run, path, result)}"
    for result in entries.unknown().values():
        result.protocol[UNKNOWN] = True
    results = [*entries.current.values(), *entries.stale.values()]
    file = run.path / "config.yaml"
    config = read_yaml(run.config(), str(file)) if file.is_file() else {}
    data = config.get("data")
    arguments = data.get("init_args") if isinstance(data, dict) else None
    for result in results:
        result.protocol[MODEL_OF] = str(Path(str(config.get("model_from") or run.path)).resolve())
        if result.protocol.get("dataset") == "Files":  # the file instead of the class that reads it
            result.protocol["data_file"] = arguments.get("root") if isinstance(arguments, dict) else None
    return results


def compare(runs: Mapping[str, Sequence[Result]], *, mixed: bool = False) -> list[Table]:
    """Tables of the runs' results, one for each kind of result and each protocol that the runs with that kind share.

    Args:
        runs: the results of each run, by its name; gains are relative to the first.
        mixed: if the runs share no protocol, put the most similar results into one table, whose rows list the
            differing entries.

    Raises:
        ValueError: the runs with a kind of result share no protocol for it, and ``mixed`` is False.
    """
    kinds = {type(result) for results in runs.values() for result in results if result.quantities}
    return [table for kind in sorted(kinds, key=_place) for table in _tables(kind, runs, mixed)]


def _place(kind: type[Result]) -> tuple[int, int, str]:
    """Order of tables: by topic, then as on the command line, then by name."""
    return TOPICS.index(kind.topic), [*METHODS, kind.method].index(kind.method), kind.method


def _tables(kind: type[Result], runs: Mapping[str, Sequence[Result]], mixed: bool) -> list[Table]:
    of_kind = {name: [r for r in results if type(r) is kind] for name, results in runs.items()}
    with_results = {name: results for name, results in of_kind.items() if results}
    first, *others = with_results.values()
    shared = [a for i, a in enumerate(first) if not any(_same(a, b) for b in first[:i])]
    shared = [a for a in shared if all(any(_same(a, b) for b in results) for results in others)]
    if not shared and not mixed:
        raise _protocol_error(kind, with_results)
    nearest = min(first, key=lambda a: sum(_distance(a, b) for b in others))
    return [_table(reference, of_kind) for reference in shared or [nearest]]


def _table(reference: Result, runs: Mapping[str, Sequence[Result]]) -> Table:
    protocol = {k: v for k, v in reference.protocol.items() if k not in FREE}
    rows: list[Row] = []
    notes: list[str] = []
    base = None
    for name, results in runs.items():
        if not results:
            rows.append(Row(name))
            continue
        chosen = min(
            results, key=lambda r: (len(_differences(reference, r)), STALE in r.protocol, *_seed_order(reference, r))
        )
        stale = STALE in chosen.protocol
        base = chosen if base is None and not stale else base
        differs = {key: value for key, (_, value) in _differences(reference, chosen).items()}
        model = {key: chosen.protocol[key] for key in MODEL if key in chosen.protocol}
        other = base is not None and not stale and _froze_another(chosen, base)
        partner = chosen if base is None or stale or other else base
        rows.append(Row(name, model, _cells(chosen, partner), differs, stale))
        notes += [f"{name}: {note}" for note in _notes(chosen, other)]
    return Table(type(reference), protocol, rows, notes)


def _notes(result: Result, froze_another: bool) -> list[str]:
    """Remarks on a row."""
    notes = [f"stale, {result.protocol[STALE]}"] if STALE in result.protocol else []
    if UNKNOWN in result.protocol:
        notes.append("the result has no fingerprint of its weights; it may be of earlier ones")
    return notes + ["no gain: the refit froze another model than the run has now"] * froze_another


def _froze_another(a: Result, b: Result) -> bool:
    """Whether both models are of one run, a refit's frozen one included, but not the same."""
    models, origins = ([r.protocol.get(key) for r in (a, b)] for key in ("model_sha256", MODEL_OF))
    return None not in (*models, *origins) and origins[0] == origins[1] and models[0] != models[1]


def _seed_order(reference: Result, result: Result) -> tuple[bool, int]:
    """The reference's seed before others, then the smallest."""
    seed = int(result.protocol.get("sample_seed", 0))
    return seed != reference.protocol.get("sample_seed", 0), seed


def _differences(a: Result, b: Result) -> dict[str, tuple[Any, Any]]:
    """Both values of each entry in which results of one table must not differ, but do."""
    keys = dict.fromkeys([*a.protocol, *b.protocol])
    pairs = {key: (a.protocol.get(key), b.protocol.get(key)) for key in keys if key not in FREE}
    for content, names in _NAMES.items():
        first, second = pairs.get(content, (None, None))
        if first is None or second is None:
            pairs.pop(content, None)
        elif first == second:  # known by their content, whatever their name
            pairs = {key: pair for key, pair in pairs.items() if key not in names}
    if "exact" in pairs.get("estimator", ()):
        pairs = {key: pair for key, pair in pairs.items() if key not in OF_SAMPLES}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _same(a: Result, b: Result) -> bool:
    return not _differences(a, b)


def _distance(a: Result, results: Sequence[Result]) -> int:
    return min(len(_differences(a, b)) for b in results)


def _protocol_error(kind: type[Result], runs: Mapping[str, Sequence[Result]]) -> ValueError:
    """Name two runs, if possible two that share no protocol, and an entry in which their nearest results differ."""
    results = [(name, result) for name, of_run in runs.items() for result in of_run]
    pairs = [(x, y) for i, x in enumerate(results) for y in results[i + 1 :] if x[0] != y[0] and not _same(x[1], y[1])]
    ranks = [
        (any(_same(a, b) for a in runs[x[0]] for b in runs[y[0]]), len(_differences(x[1], y[1]))) for x, y in pairs
    ]
    (p, a), (q, b) = pairs[min(range(len(pairs)), key=ranks.__getitem__)]
    key, (first, second) = next(iter(_differences(a, b).items()))
    got = f"{key}={first} in {p} and {key}={second} in {q} ({kind.method})"
    return refusal("compare", "a column must have one protocol", got, "Evaluate them alike, or pass --mixed")


def _cells(result: Result, base: Result) -> dict[str, Cell]:
    cells = {q.name: _cell(q, result, base) for q in result.quantities}
    return {name: cell for name, cell in cells.items() if cell is not None}


def _cell(quantity: Quantity, result: Result, base: Result) -> Cell | None:
    value = getattr(result, quantity.name, None)
    if value is None:
        return None
    if callable(value):
        mean, error = value()
        return Cell(mean, sampling_error=error)
    if not quantity.paired:
        return Cell(float(value))
    noise = result.monte_carlo_error(quantity.name) if quantity.error else math.nan
    return Cell(result.mean(quantity.name), noise, result.sampling_error(quantity.name), *_gain(quantity, result, base))


def _gain(quantity: Quantity, result: Result, base: Result) -> tuple[float, float]:
    other = getattr(base, quantity.name, None)
    if result is base or other is None or len(other) != len(getattr(result, quantity.name)):
        return math.nan, math.nan
    return result.gain(base, quantity.name) if same_data(result, base) else (math.nan, math.nan)
