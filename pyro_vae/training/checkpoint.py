"""The checkpoint of a training: what it holds, and going back to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyro_vae._core.contexts import rng_state, set_rng_state
from pyro_vae.objectives import Objective
from pyro_vae.training.engines.select import EngineName, resolve_engine

if TYPE_CHECKING:
    from pyro_vae.training.trainer import Trainer

_STATE = {"weights", "optimizer", "lr_schedule", "rng", "best", "progress", "has_terms", "identity"}


def state_of(loop: Trainer) -> dict[str, Any]:
    """Everything that the rest of a training depends on."""
    return {
        "weights": loop.trainable.weights(),
        "optimizer": loop.optimizer.state_dict(),
        "lr_schedule": loop.scheduler.state_dict() if loop.scheduler else None,
        "rng": rng_state(),
        "best": loop.best,
        "progress": {"epoch": loop.epoch, "step": loop.step, "position": loop.position, **loop.meter.sums},
        "has_terms": loop.meter.has_terms,
        "identity": _identity(loop),
    }


def _identity(loop: Trainer) -> dict[str, Any]:
    """What must not change between a run and its resumption."""
    return {
        "seed": loop.settings.seed,
        "batch_size": loop.batches.batch_size,
        "num_data": loop.batches.num_data,
        "optimizer": type(loop.optimizer).__name__,
        "lr_schedule": type(loop.scheduler).__name__,
        "objective": type(loop.objective).__name__,
        "engine": loop.engine_name,
        "precision": loop.settings.precision,
        "accumulate": loop.settings.accumulate,
    }


def _check_identity(loop: Trainer, state: dict[str, Any]) -> None:
    missing = sorted(_STATE - set(state))
    if missing:
        raise ValueError(f"RunFolder: state.pt must be that of a training, got none of {missing[0]!r}. Train it anew.")
    saved = {"engine": "eager", "precision": "fp32", "accumulate": 1, **state["identity"]}
    if loop.engine_name == "auto":  # the run's own, where there is its device
        loop.engine_name = _available(loop, saved["engine"])
        saved["engine"] = loop.engine_name
    for name, value in _identity(loop).items():
        if saved[name] != value:
            raise ValueError(
                f"fit: {name} must be that of the run to resume, got {name}={value!r} "
                f"where the run has {saved[name]!r}. Pass the same, or start a new run."
            )


def restore(loop: Trainer, state: dict[str, Any]) -> None:
    """Go back to a state.

    Raises:
        ValueError: it is that of another training.
    """
    _check_identity(loop, state)
    loop.trainable.load(state["weights"])
    loop.optimizer.load_state_dict(state["optimizer"])
    if loop.scheduler:
        loop.scheduler.load_state_dict(state["lr_schedule"])
    set_rng_state(state["rng"])
    loop.best, progress = state["best"], state["progress"]
    loop.epoch, loop.step, loop.position = (int(progress.pop(k)) for k in ("epoch", "step", "position"))
    loop.optimizer._opt_called = loop.step > 0  # type: ignore[attr-defined]  # else the scheduler warns that none was
    loop.meter.sums, loop.meter.has_terms = progress, state["has_terms"]
    if isinstance(loop.objective, Objective):  # the epoch's record tells the last beta
        position = max(0, loop.position - loop.settings.accumulate)
        loop.objective.set_progress(*loop.progress(max(0, loop.step - 1), position))


def _available(loop: Trainer, name: EngineName) -> EngineName:
    """The engine, where there is its device."""
    device = next(iter(loop.trainable.parameters.values())).device
    try:
        return resolve_engine(name, device, ranks=loop.ranks)
    except ValueError:
        return "auto"
