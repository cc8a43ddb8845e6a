"""The training state at the start of a process, and settings that may change when a training is resumed."""

from __future__ import annotations

import copy
import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyro_vae._core.checks import refusal, require
from pyro_vae.training.average import WeightAverage
from pyro_vae.training.dry_run import built, check_optimization
from pyro_vae.training.parameters import ParameterSet, build_optimizer
from pyro_vae.training.settings import Settings
from pyro_vae.training.state import TrainingState

_RATE, _SCHEDULE = "optimizer.lr", "lr_schedule"
_OF_THE_RATE = ("lr", "initial_lr", "base_lrs", "_last_lr")  # entries of groups and schedules that follow the rate
_FREE = ("params", "param_names", "fused", "foreach", "capturable", *_OF_THE_RATE)  # options that change no number


def initial_state(settings: Settings, parameters: ParameterSet, num_steps: int) -> TrainingState:
    """The state before the first step, with an optimizer and a schedule that were tried.

    Args:
        settings: the options of the training.
        parameters: the parameters to train.
        num_steps: steps of the whole training; 0 if unknown.

    Raises:
        ValueError: optimizer or schedule cannot be used; see :func:`~pyro_vae.training.dry_run.check_optimization`.
    """
    tensors, unit = parameters.tensors, settings.lr_schedule_unit
    optimizer = build_optimizer(lambda p: built("optimizer", settings.optimizer, p), list(tensors.values()))
    length = settings.epochs if unit == "epoch" else num_steps or None
    check_optimization(optimizer, settings.lr_schedule, length=length, unit=unit)
    groups = _options(optimizer)  # before the schedule changes them
    scheduler = settings.lr_schedule(optimizer) if settings.lr_schedule else None
    by_step = isinstance(scheduler, ReduceLROnPlateau) and unit == "step"
    value, advice = "lr_schedule_unit='step'", "Use lr_schedule_unit='epoch'"
    require(not by_step, "fit", "ReduceLROnPlateau must count epochs", value, advice)
    average = None if settings.ema is None else WeightAverage(settings.ema, tensors)
    start = _start(settings, groups, optimizer, scheduler)
    return TrainingState(parameters, optimizer, scheduler, average=average, start=start)


def _options(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The options of an optimizer's groups, as plain values."""
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    return [{k: float(v) if isinstance(v, Tensor) else copy.copy(v) for k, v in group.items()} for group in groups]


def _start(
    settings: Settings, groups: list[dict[str, Any]], optimizer: Optimizer, scheduler: LRScheduler | None
) -> dict[str, Any]:
    """The settings that may change, for the checkpoint."""
    schedule = None
    if scheduler is not None:
        state = copy.deepcopy(scheduler.state_dict())
        schedule = {"class": type(scheduler).__name__, "state": state, "groups": _options(optimizer)}
    return {"options": settings.changeable(), "optimizer": groups, "lr_schedule": schedule}


def resume(state: TrainingState, saved: dict[str, Any], lr_schedule_class: str) -> None:
    """Restore a checkpoint, with the learning rate and the schedule of this process.

    If one of them has changed, the schedule is built anew and stepped to the present epoch or step, as if it had been
    there from the start; only ReduceLROnPlateau, which depends on the history, is kept, with its rate scaled, or starts
    afresh. Every change is added to ``state.changed``, with the old and the new value, for the next record.

    Args:
        state: the training state, of this process's settings.
        saved: a checkpoint.
        lr_schedule_class: class of the checkpoint's schedule, for those of version 0.1, which do not store it.

    Raises:
        ValueError: another option of the optimizer has changed.
    """
    now = state.start
    before = saved.get("start") or _start_of_earlier(saved, now, lr_schedule_class)
    _check_options(before["optimizer"], now["optimizer"])
    changed = {k: [v, now["options"][k]] for k, v in before["options"].items() if v != now["options"].get(k, v)}
    rates = [[group.get("lr") for group in start["optimizer"]] for start in (before, now)]
    if rates[0] != rates[1]:
        changed[_RATE] = [values[0] if len(set(values)) == 1 else values for values in rates]
    if _arguments(before["lr_schedule"]) != _arguments(now["lr_schedule"]):
        changed[_SCHEDULE] = [_described(start["lr_schedule"]) for start in (before, now)]
    follows = {_RATE, _SCHEDULE, "lr_schedule_unit"} & changed.keys()
    unchanged = before["lr_schedule"] == now["lr_schedule"] and not follows
    is_plateau = isinstance(state.scheduler, ReduceLROnPlateau)
    if unchanged or (is_plateau and _SCHEDULE not in changed):
        state.load_state_dict(saved)
        if _RATE in changed:
            _scale(state.optimizer, *rates)
    else:
        unit = now["options"]["lr_schedule_unit"]
        state.load_state_dict(saved, num_schedule_steps=0 if is_plateau else saved["progress"][unit])
    state.changed = merged(saved.get("changed", {}), changed)
    _follow_patience(state, now["options"]["patience"])


def merged(earlier: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """Changes after changes that no record holds yet: the first old value and the last new one.

    Example:
        >>> merged({"epochs": [1, 2]}, {"epochs": [2, 3], "patience": [None, 5]})
        {'epochs': [1, 3], 'patience': [None, 5]}
    """
    both = {name: [earlier.get(name, values)[0], values[1]] for name, values in changed.items()}
    return {name: values for name, values in {**earlier, **both}.items() if values[0] != values[1]}


def _start_of_earlier(saved: dict[str, Any], now: dict[str, Any], lr_schedule_class: str) -> dict[str, Any]:
    """The start of a checkpoint of version 0.1: the learning rate and the class of the schedule are known, no more."""
    groups = [dict(group) for group in now["optimizer"]]
    for group, old in zip(groups, saved["optimizer"]["param_groups"], strict=False):
        rate = float(old.get("initial_lr", old.get("lr", 0.0)))
        if "lr" in group and "max_lr" not in old and not math.isclose(rate, group["lr"], rel_tol=1e-6):
            group["lr"] = rate
    schedule, name = now["lr_schedule"], None if lr_schedule_class == "NoneType" else lr_schedule_class
    if name != (schedule and schedule["class"]):
        schedule = name and {"class": name, "state": {}, "groups": []}
    return {"options": {}, "optimizer": groups, "lr_schedule": schedule}


def _check_options(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> None:
    rule, advice = "must be that of the run to resume", "Pass the same, or start a new run"
    if len(before) != len(now):
        got = f"{len(now)} groups, and {len(before)} in the run"
        raise refusal("fit", f"the number of the optimizer's groups {rule}", got, advice)
    for old, new in zip(before, now, strict=True):
        for name in sorted({*old, *new} - {*_FREE}):
            if old.get(name) != new.get(name):
                got = f"{name}={new.get(name)!r}, and {old.get(name)!r} in the run"
                raise refusal("fit", f"optimizer.{name} {rule}", got, advice)


def _arguments(schedule: Any) -> Any:
    """The entries of a schedule that do not follow the learning rate."""
    if isinstance(schedule, dict):
        return {k: _arguments(v) for k, v in schedule.items() if k not in (*_OF_THE_RATE, *_FREE)}
    return [_arguments(item) for item in schedule] if isinstance(schedule, list) else schedule


def _described(schedule: dict[str, Any] | None) -> str | None:
    """A schedule as ``CosineAnnealingLR(T_max=100, eta_min=0.0)``."""
    if schedule is None:
        return None
    hidden = {"base_lrs", "last_epoch", "best", "num_bad_epochs", "cooldown_counter", "mode_worse", "verbose"}
    values = {k: v for k, v in schedule["state"].items() if k[0] != "_" and k not in hidden}
    values |= {k: v for g in schedule["groups"][:1] for k, v in g.items() if k in ("max_lr", "min_lr")}
    return f"{schedule['class']}({', '.join(f'{k}={v}' for k, v in values.items())})"


def _scale(optimizer: Optimizer, old: list[float], new: list[float]) -> None:
    for group, before, now in zip(optimizer.param_groups, old, new, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].mul_(now / before)
        else:
            group["lr"] *= now / before


def _follow_patience(state: TrainingState, patience: int | None) -> None:
    """Keep the best weights only if the training may stop early; patience that is new counts from the resume."""
    if patience is None:
        state.best = {**state.best, "weights": None}
    elif state.best["weights"] is None and state.best["epoch"] is not None:
        state.best = {"elbo": -math.inf, "epoch": state.epoch, "weights": None}
