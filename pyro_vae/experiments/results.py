"""The results that lie in a run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyro_vae.evaluation import Result
from pyro_vae.training import RunFolder

DATA = ("dataset", "data_file", "binarize", "data_seed", "split", "num_data", "train", "validation", "test")
"""Entries of a protocol that say which data were evaluated."""
PREFIX = {"importance": "log_likelihood"}  # how its files begin, where that is not the method's name


def result_path(run: RunFolder, method: str, stem: str) -> Path:
    """The file of a result, such as ``ais-test-prior-1000x16-seed0.json``."""
    return run.path / f"{PREFIX.get(method, method)}-{stem}.json"


def results_of(run: RunFolder) -> dict[Path, Result]:
    """Every result in the run folder, by file, sorted by name; other JSON files are passed over.

    Raises:
        ValueError: a result's file is damaged.
    """
    found = {path: _read(path) for path in sorted(run.path.glob("*.json"))}
    return {path: result for path, result in found.items() if result is not None}


def _read(path: Path) -> Result | None:
    try:
        content: Any = json.loads(path.read_text())
        if not isinstance(content, dict) or "per_datum" not in content:
            return None
        return Result.load(path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [""])[0][:120]
        raise ValueError(
            f"{path}: must be a whole result of pyro-vae evaluate, got a damaged one ({reason}). Remove it."
        ) from None


def same_data(a: Result, b: Result) -> bool:
    """Whether the rows of both results are those of the same data; training images that are drawn anew are not."""
    drawn = a.protocol.get("binarize") == "dynamic" and a.protocol.get("split") == "train"
    return not drawn and all(a.protocol.get(key) == b.protocol.get(key) for key in DATA)
