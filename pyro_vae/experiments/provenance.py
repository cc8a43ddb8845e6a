"""Provenance of a run's weights: protocol entries, and the data that they were trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch

from pyro_vae._core.checks import require
from pyro_vae._core.distributed import join
from pyro_vae._core.version import full_version
from pyro_vae.data import Splits
from pyro_vae.objectives import Objective
from pyro_vae.objectives.schedules import ConstantSchedule
from pyro_vae.training import RunFolder

PROVENANCE = ("weights_sha256", "model_sha256", "epoch", "step", "version", "torch")
"""Protocol entries that identify the weights and the programs that a result was computed with."""
_DATA = {
    **{"train": "training images", "validation": "validation images", "test": "test images"},
    **{"labels": "training labels", "m1": "weights of M1"},
}


def provenance_entries(provenance: dict[str, str]) -> dict[str, Any]:
    """The protocol entries :data:`PROVENANCE` of results that are computed now.

    Args:
        provenance: of the weights, see :meth:`pyro_vae.training.RunFolder.provenance`; its versions, those of the
            training, are replaced.
    """
    values = {**provenance, "version": full_version(), "torch": str(torch.__version__)}
    entries = {name: values[name] for name in PROVENANCE if name in values}
    numbers = {name: int(entries[name]) for name in ("epoch", "step") if entries.get(name, "").isdecimal()}
    return {**entries, **numbers}


def objective_entries(objective: Objective) -> dict[str, Any]:
    """The protocol entries ``objective`` and, unless it is 1, ``beta``: its value, or the class of its schedule."""
    schedule = objective.schedule
    beta = schedule(0, 0.0) if isinstance(schedule, ConstantSchedule) else type(schedule).__name__
    return {"objective": type(objective).__name__, **({} if beta == 1 else {"beta": beta})}


def known_data(provenance: dict[str, str]) -> dict[str, str]:
    """The fingerprints of the data that weights were trained on; empty for those of earlier versions."""
    text = provenance.get("data", "{}")
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    rule = "weights.safetensors must hold the fingerprints of its data as a JSON object"
    require(isinstance(data, dict), "RunFolder", rule, f"data={text[:60]!r}", "Restore it from a copy")
    return {key: value for key, value in data.items() if key in _DATA}


def is_earlier(run: object) -> bool:
    """Whether a run is of an earlier version, which recorded no fingerprints and split folders by position."""
    return isinstance(run, RunFolder) and run.has_weights() and not known_data(run.provenance())


def check_data(provenance: dict[str, str], splits: Splits, owner: str) -> None:
    """Require the data to be those that the weights were trained on, by their fingerprints if these are known.

    Args:
        provenance: of the weights.
        splits: the data.
        owner: the name that the message begins with.

    Raises:
        ValueError: they are others.
    """
    known = known_data(provenance)
    wrong = [name for key, name in _DATA.items() if known and known.get(key) != splits.fingerprints.get(key)]
    advice = "Restore them"
    if wrong != ["weights of M1"]:
        advice = "Restore the files, or pass the path of a copy, --root (in train: --data.root)"
    names = " and ".join([", ".join(wrong[:-1]), *wrong[-1:]] if len(wrong) > 1 else wrong)
    require(not wrong, owner, f"the {names} must be those that the run was trained on", "others", advice)


class RecordedRun:
    """A function that opens a run folder, whose weights then record the fingerprints of the data.

    Args:
        run: the run folder, or a function that creates it.
        splits: the data.
        resume: whether a training is resumed, which must have been of the same data.
    """

    def __init__(self, run: RunFolder | Callable[[], RunFolder], splits: Splits, *, resume: bool) -> None:
        self._run, self._splits, self._resume = run, splits, resume
        self._folder: RunFolder | None = None

    def __call__(self) -> RunFolder:
        folder = self._run if isinstance(self._run, RunFolder) else self._run()
        self._folder = folder
        if self._resume and folder.has_weights():
            check_data(folder.provenance(), self._splits, str(folder.path))
        if not is_earlier(folder):
            folder.metadata["data"] = json.dumps(self._splits.fingerprints)
        return folder

    def entries(self) -> dict[str, Any]:
        """The protocol entries of the trained weights, on every process."""
        return join().from_first(provenance_entries(self._folder.provenance()) if self._folder else {})
