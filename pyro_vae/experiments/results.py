"""Results in a run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pyro_vae.evaluation import Result
from pyro_vae.training import RunFolder

R = TypeVar("R", bound=Result)
DATA = ("dataset", "data_file", "binarize", "data_seed", "split", "num_data", "train", "validation", "test")
"""Protocol entries that identify the evaluated data."""
PREFIX = {"importance": "log_likelihood"}
"""First part of file names, by method, if it is not the method's name."""


def result_path(run: RunFolder, method: str, stem: str) -> Path:
    """The file of a result, such as ``ais-test-prior-1000x16-seed0.json``."""
    return run.path / f"{PREFIX.get(method, method)}-{stem}.json"


def results_of(run: RunFolder) -> dict[Path, Result]:
    """Every result in the run folder by file, sorted by name; other JSON files are skipped.

    Raises:
        ValueError: the file of a result is damaged.
    """
    results = {path: _read(path) for path in sorted(run.path.glob("*.json"))}
    return {path: result for path, result in results.items() if result is not None}


def _read(path: Path) -> Result | None:
    try:
        content: Any = json.loads(path.read_text())
        if not isinstance(content, dict) or "per_datum" not in content:
            return None
        return Result.load(path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [""])[0][:120]
        rule = "must be a complete result of pyro-vae evaluate"
        raise ValueError(f"{path}: {rule}, got a damaged one ({reason}).") from None


def same_data(a: Result, b: Result) -> bool:
    """Whether the rows of both results belong to the same data; training images sampled in each epoch do not."""
    resampled = a.protocol.get("binarize") == "dynamic" and a.protocol.get("split") == "train"
    return not resampled and all(a.protocol.get(key) == b.protocol.get(key) for key in DATA)


def by_settings(results: Sequence[R]) -> list[list[R]]:
    """Groups of annealed results that differ only in number of distributions and seed, each sorted by that number."""
    groups: dict[str, list[R]] = {}
    for result in results:
        key = {k: v for k, v in result.protocol.items() if k not in ("num_distributions", "sample_seed")}
        groups.setdefault(repr(key), []).append(result)
    return [sorted(group, key=lambda r: int(r.protocol["num_distributions"])) for group in groups.values()]


def first_rows(result: R, other: Result) -> R | None:
    """The first rows of a result, as many as another has, if both are then of the same data; otherwise None."""
    if len(other) > len(result):
        return None
    rows: dict[str, Any] = {name: values[: len(other)] for name, values in result.tensors().items()}
    cut = replace(result, **rows, protocol={**result.protocol, "num_data": other.protocol.get("num_data")})
    return cut if same_data(cut, other) else None
