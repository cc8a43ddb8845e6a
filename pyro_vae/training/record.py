"""The record of an epoch."""

from __future__ import annotations

from typing import Any

from pyro_vae.objectives import Objective
from pyro_vae.training.settings import Settings
from pyro_vae.training.state import TrainingState
from pyro_vae.training.warm_up import warm_up_factor


def epoch_record(state: TrainingState, settings: Settings) -> dict[str, Any]:
    """The numbers of the epoch that has been completed, in nats per datum, without those of the validation."""
    record: dict[str, Any] = {"epoch": state.epoch, "step": state.step, **state.meter.means()}
    rate = float(state.optimizer.param_groups[0]["lr"]) * warm_up_factor(state.step - 1, settings.lr_warmup)
    record |= {"seconds": state.meter.sums["seconds"], "lr": rate}
    if isinstance(settings.objective, Objective):
        record |= settings.objective.numbers()
    if settings.skip_norm is not None:
        record["skipped"] = int(state.meter.sums["skipped"])
    return record
