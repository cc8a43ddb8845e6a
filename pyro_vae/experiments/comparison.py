"""Results of several runs side by side, one protocol to a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pyro_vae.evaluation import Result
from pyro_vae.experiments.results import results_of, same_data
from pyro_vae.training import RunFolder

MODEL = (
    *("model", "m1", "labels", "label_seed", "alpha", "classification_weight"),
    *("prior", "likelihood", "guide", "classifier", "label_prior", "latent_dim"),
)
"""Entries of a protocol that say what is compared, instead of how."""
FREE = (*MODEL, "sample_seed", "unavailable")
"""Entries in which results of one table may differ."""


@dataclass(frozen=True)
class Quantity:
    """A column.

    Args:
        name: of the field, with a row per datum; or of a method that returns value and error, or of a number.
        label: for people.
        unit: ``"nats"``, or what is counted.
        paired: whether the rows are those of the data, so that differences are taken datum by datum.
    """

    name: str
    label: str
    unit: str = "nats"
    paired: bool = True

    @property
    def change(self) -> str:
        """What a difference to another run is called."""
        return "gain" if self.name in ("log_likelihood", "elbo") else "change"


_LIKELIHOOD = Quantity("log_likelihood", "log-likelihood")
QUANTITIES = {
    "classification": (
        Quantity("error", "error", "%"),
        Quantity("cross_entropy", "cross entropy"),
    ),
    "class_posterior": (_LIKELIHOOD, Quantity("entropy", "entropy")),
    "importance": (_LIKELIHOOD, Quantity("elbo", "ELBO"), Quantity("rate", "rate")),
    "ais": (_LIKELIHOOD,),
    "harmonic": (_LIKELIHOOD,),
    "sandwich": (
        _LIKELIHOOD,
        Quantity("gap", "gap on simulated data", paired=False),
    ),
    "gaps": (Quantity("approximation", "approximation gap"), Quantity("amortization", "amortization gap")),
    "diagnostics": (
        Quantity("active_units", "active units", "dimensions", paired=False),
        Quantity("information", "mutual information"),
        Quantity("total_correlation", "total correlation"),
        Quantity("dimension_kl", "dimension-wise KL"),
    ),
}
"""What is compared of each kind of result."""
_ERRORS = {"log_likelihood": "standard_error"}


@dataclass(frozen=True)
class Cell:
    """A number of a run.

    Attributes:
        value: the mean over the data.
        monte_carlo_error: standard error for just these data; nan where it is not known.
        sampling_error: standard error for the population of the data; nan for a count.
        gain: the mean difference to the first run's, datum by datum; nan where the data are not the same.
        gain_error: its standard error.
    """

    value: float
    monte_carlo_error: float = math.nan
    sampling_error: float = math.nan
    gain: float = math.nan
    gain_error: float = math.nan


@dataclass(frozen=True)
class Row:
    """A run: its model, its cells by quantity, and in which entries its protocol is another than the table's."""

    run: str
    model: dict[str, Any] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)
    differs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Results of one method under one protocol, a row per run; a run without such a result has no cells."""

    method: str
    protocol: dict[str, Any]
    rows: list[Row]

    @property
    def quantities(self) -> list[Quantity]:
        """The columns in which there is a number."""
        return [q for q in QUANTITIES[self.method] if any(q.name in row.cells for row in self.rows)]

    @property
    def model_entries(self) -> list[str]:
        """What tells the models apart."""
        return [key for key in MODEL if len({str(row.model[key]) for row in self.rows if key in row.model}) > 1]


def read_runs(paths: Sequence[str | Path], *, split: str = "test") -> dict[str, list[Result]]:
    """The results of each run folder on a split that can be compared, by the folder as it was given.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a run is given twice, or has no result.
    """
    found: dict[str, list[Result]] = {}
    for path in map(str, paths):
        if path in found:
            raise ValueError(f"compare: every run must be given once, got {path} twice. Leave one away.")
        run = RunFolder(path)
        results = [r for r in results_of(run).values() if r.method in QUANTITIES and r.protocol.get("split") == split]
        if not results:
            raise ValueError(
                f"compare: every run must have a result on split={split}, got none in {path}. "
                f"Make one: pyro-vae evaluate {path} --split {split}"
            )
        for result in results:
            _name_data(run, result)
        found[path] = results
    return found


def _name_data(run: RunFolder, result: Result) -> None:
    """Data of the user's own are known by their file, not by the name of the class that reads them."""
    if result.protocol.get("dataset") == "Files":
        config = yaml.safe_load(run.config())
        result.protocol["data_file"] = config["data"].get("init_args", {}).get("root")


def compare(runs: Mapping[str, Sequence[Result]], *, mixed: bool = False) -> list[Table]:
    """Tables of the runs' results: a table for each method and each protocol that all runs with that method share.

    Args:
        runs: the results of each run, by its name; gains are over the first.
        mixed: where the runs share no protocol, put those that are nearest to each other into one table, which says in
            each row what differs.

    Raises:
        ValueError: the runs with a method share no protocol for it, and ``mixed`` is False; the message names an entry.
    """
    methods = [m for m in QUANTITIES if any(r.method == m for results in runs.values() for r in results)]
    return [table for method in methods for table in _tables(method, runs, mixed)]


def _tables(method: str, runs: Mapping[str, Sequence[Result]], mixed: bool) -> list[Table]:
    those = {name: [r for r in results if r.method == method] for name, results in runs.items()}
    there = {name: results for name, results in those.items() if results}
    first, *others = there.values()
    shared = [a for i, a in enumerate(first) if not any(_same(a, b) for b in first[:i])]
    shared = [a for a in shared if all(any(_same(a, b) for b in results) for results in others)]
    if not shared and not mixed:
        raise ValueError(_refusal(method, there))
    return [_table(a, those) for a in shared or [min(first, key=lambda a: sum(_distance(a, b) for b in others))]]


def _table(reference: Result, runs: Mapping[str, Sequence[Result]]) -> Table:
    entries = {k: v for k, v in reference.protocol.items() if k not in FREE}
    rows, base = [], None
    for name, results in runs.items():
        if not results:
            rows.append(Row(name))
            continue
        chosen = min(results, key=lambda r: (len(_differences(reference, r)), *_seeds(reference, r)))
        base = chosen if base is None else base
        differs = {key: value for key, (_, value) in _differences(reference, chosen).items()}
        model = {key: chosen.protocol[key] for key in MODEL if key in chosen.protocol}
        rows.append(Row(name, model, _cells(chosen, base), differs))
    return Table(reference.method, entries, rows)


def _seeds(reference: Result, result: Result) -> tuple[bool, int]:
    """The reference's seed before others, then the smallest."""
    seed = int(result.protocol.get("sample_seed", 0))
    return seed != reference.protocol.get("sample_seed", 0), seed


def _differences(a: Result, b: Result) -> dict[str, tuple[Any, Any]]:
    """The entries that a table must not mix, with both values, where they differ."""
    keys = dict.fromkeys([*a.protocol, *b.protocol])
    pairs = {key: (a.protocol.get(key), b.protocol.get(key)) for key in keys if key not in FREE}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _same(a: Result, b: Result) -> bool:
    return not _differences(a, b)


def _distance(a: Result, results: Sequence[Result]) -> int:
    return min(len(_differences(a, b)) for b in results)


def _refusal(method: str, runs: Mapping[str, Sequence[Result]]) -> str:
    """Names two runs, if possible two that share no protocol, and an entry in which their nearest results differ."""
    results = [(name, result) for name, own in runs.items() for result in own]
    pairs = [(x, y) for i, x in enumerate(results) for y in results[i + 1 :] if x[0] != y[0] and not _same(x[1], y[1])]
    ranked = (
        (any(_same(a, b) for a in runs[x[0]] for b in runs[y[0]]), len(_differences(x[1], y[1]))) for x, y in pairs
    )
    (p, a), (q, b) = min(zip(ranked, pairs, strict=True), key=lambda found: found[0])[1]
    key, (first, second) = next(iter(_differences(a, b).items()))
    return (
        f"compare: a column must have one protocol, got {key}={first} in {p} and {key}={second} in {q} ({method}). "
        "Evaluate them alike, or pass --mixed."
    )


def _cells(result: Result, base: Result) -> dict[str, Cell]:
    cells = {q.name: _cell(q, result, base) for q in QUANTITIES[result.method]}
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
    errors: Any = getattr(result, _ERRORS.get(quantity.name, f"{quantity.name}_error"), None)
    noise = math.nan if errors is None else float(errors.square().sum().sqrt() / len(errors))
    return Cell(result.mean(quantity.name), noise, result.sampling_error(quantity.name), *_gain(quantity, result, base))


def _gain(quantity: Quantity, result: Result, base: Result) -> tuple[float, float]:
    other = getattr(base, quantity.name, None)
    if result is base or other is None or len(other) != len(getattr(result, quantity.name)):
        return math.nan, math.nan
    return result.gain(base, quantity.name) if same_data(result, base) else (math.nan, math.nan)
