"""Checkpoints: the training state, with the settings that a resumed training must share."""

from __future__ import annotations

from typing import Any

import torch

from pyro_vae._core.checks import refusal
from pyro_vae._core.distributed import Ranks
from pyro_vae.training.engines.select import EngineName, resolve_engine
from pyro_vae.training.resumption import resume
from pyro_vae.training.saved_state import check_state
from pyro_vae.training.state import TrainingState

_ENTRIES = {"weights", "optimizer", "lr_schedule", "rng", "best", "progress", "has_terms", "identity"}
_ALWAYS = {"seed", "batch_size", "num_data", "optimizer", "objective"}
_EARLIER = {  # of runs that did not store these settings
    **{"engine": "eager", "precision": "fp32", "accumulate": 1},
    **{"lr_warmup": 0, "ema": None},
}


def checkpoint(state: TrainingState, identity: dict[str, Any]) -> dict[str, Any]:
    """The content of ``state.pt``, to which ``RunFolder.save_state`` adds the format and the length of the metrics.

    Args:
        state: the training state.
        identity: settings that must not change between a run and its resumption.
    """
    return {**state.state_dict(), "identity": identity}


def restore(state: TrainingState, saved: dict[str, Any], identity: dict[str, Any], ranks: Ranks) -> EngineName:
    """Restore a training state from a checkpoint.

    Args:
        state: the training state.
        saved: a checkpoint.
        identity: settings of this training. Engine ``"auto"`` resumes with the engine of the run, if it is available.
        ranks: the processes that train.

    Returns:
        The engine to resume with.

    Raises:
        ValueError: the checkpoint is damaged or of another training.
    """
    missing = sorted(_ENTRIES - set(saved))
    if missing:
        raise _foreign(f"no entry {missing[0]!r}")
    try:
        return _restore(state, saved, identity, ranks)
    except (LookupError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise _foreign(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}") from error


def _restore(state: TrainingState, saved: dict[str, Any], identity: dict[str, Any], ranks: Ranks) -> EngineName:
    unknown = {name: value for name, value in identity.items() if name not in _ALWAYS}  # in earlier runs
    saved_identity = {**unknown, **_EARLIER, **saved["identity"]}
    if identity["engine"] == "auto":
        engine = _available(saved_identity["engine"], state.parameters.device, ranks)
        identity = {**identity, "engine": engine}
        saved_identity["engine"] = engine
    for name, value in identity.items():
        if saved_identity.get(name) != value:
            values = f"{name}={value!r}, and {saved_identity.get(name)!r} in the run"
            raise refusal(
                "fit", f"{name} must be that of the run to resume", values, "Pass the same, or start a new run"
            )
    shapes = ({k: t.shape for k, t in weights.items()} for weights in (saved["weights"], state.parameters.weights()))
    if next(shapes) == next(shapes):  # otherwise, loading raises the error of another model
        check_state(saved, {**state.state_dict(), "parameters": list(state.parameters.tensors.values())})
    resume(state, saved, saved_identity.get("lr_schedule", "NoneType"))
    return identity["engine"]


def _foreign(value: str) -> ValueError:
    return refusal("RunFolder", "state.pt must be that of a training", value, "Start a new run")


def _available(name: EngineName, device: torch.device, ranks: Ranks) -> EngineName:
    """The engine if this device supports it, else ``"auto"``."""
    try:
        return resolve_engine(name, device, ranks=ranks)
    except ValueError:
        return "auto"
