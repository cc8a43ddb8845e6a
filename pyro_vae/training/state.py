"""Training state: stored in a checkpoint, advanced by the trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyro_vae._core.contexts import rng_state, set_rng_state
from pyro_vae.training.average import WeightAverage
from pyro_vae.training.engines.base import StepResult, restore
from pyro_vae.training.parameters import ParameterSet

_POSITION = ("epoch", "step", "position")


class EpochMeter:
    """Sums over an epoch, so that every mean is over data and not over batches."""

    def __init__(self) -> None:
        names = ("data", "loss", "reconstruction", "kl", "seconds", "skipped")
        self.sums: dict[str, float] = dict.fromkeys(names, 0.0)
        self.has_terms = True  # whether the objective reports reconstruction and KL

    def add(self, result: StepResult, num_data: int) -> None:
        """Add the result of a step."""
        self.sums["data"] += num_data
        self.sums["loss"] += result.loss
        self.sums["skipped"] += result.skipped
        self.has_terms = result.kl is not None
        self.sums["reconstruction"] += result.reconstruction or 0.0
        self.sums["kl"] += result.kl or 0.0

    def means(self) -> dict[str, float]:
        """Means so far in nats per datum, and examples per second."""
        n = max(self.sums["data"], 1.0)
        means = {"loss": self.sums["loss"] / n}
        if self.has_terms:
            means |= {"distortion": -self.sums["reconstruction"] / n, "rate": self.sums["kl"] / n}
            means["elbo"] = -means["distortion"] - means["rate"]
        means["examples_per_second"] = self.sums["data"] / max(self.sums["seconds"], 1e-9)
        return means


def _no_best() -> dict[str, Any]:
    return {"elbo": -float("inf"), "epoch": None, "weights": None}


@dataclass
class TrainingState:
    """State that the rest of a training depends on, together with the random numbers.

    Attributes:
        parameters: parameters and buffers.
        optimizer: the optimizer.
        scheduler: the learning-rate schedule, if any.
        epoch: number of completed epochs.
        step: number of steps taken.
        position: number of batches of the current epoch that have been used.
        best: best validation ELBO, its epoch, and its weights if training stops early.
        meter: sums over the current epoch.
        average: average of the weights, if any.
        threads: number of processor threads that was chosen by timing, if any.
        start: the settings that may change at a resume; what a resume compares.
        changed: those that a resume has changed, with old and new value, until the next record holds them.
    """

    parameters: ParameterSet
    optimizer: Optimizer
    scheduler: LRScheduler | None
    epoch: int = 0
    step: int = 0
    position: int = 0
    best: dict[str, Any] = field(default_factory=_no_best)
    meter: EpochMeter = field(default_factory=EpochMeter)
    average: WeightAverage | None = None
    threads: int | None = None
    start: dict[str, Any] = field(default_factory=dict)
    changed: dict[str, Any] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """The state and that of torch's generators, as plain values and tensors."""
        return {
            "weights": self.parameters.weights(),
            "objective": self.parameters.objective_state or None,
            "optimizer": self.optimizer.state_dict(),
            "lr_schedule": self.scheduler.state_dict() if self.scheduler else None,
            "rng": rng_state(),
            "best": self.best,
            "progress": {**{name: getattr(self, name) for name in _POSITION}, **self.meter.sums},
            "has_terms": self.meter.has_terms,
            "average": self.average.tensors if self.average else None,
            "threads": self.threads,
            "start": self.start,
            "changed": self.changed,
        }

    def load_state_dict(self, saved: dict[str, Any], *, num_schedule_steps: int | None = None) -> None:
        """Restore the state and that of torch's generators.

        Args:
            saved: a :meth:`state_dict`.
            num_schedule_steps: take this number of steps of the present schedule instead of restoring the saved one,
                and keep the present options of the optimizer.

        Raises:
            ValueError: the weights are those of another model.
        """
        self.parameters.load(saved["weights"])
        restore(self.parameters.objective_state, saved.get("objective") or [])
        if num_schedule_steps is None:
            self.optimizer.load_state_dict(saved["optimizer"])
            if self.scheduler:
                self.scheduler.load_state_dict(saved["lr_schedule"])
        else:
            self._replay(saved["optimizer"], num_schedule_steps)
        set_rng_state(saved["rng"])
        self.best, sums = saved["best"], dict(saved["progress"])
        for name in _POSITION:
            setattr(self, name, int(sums.pop(name)))
        self.meter.sums, self.meter.has_terms = {**self.meter.sums, **sums}, saved["has_terms"]
        if self.average:
            self.average.load(saved["average"])
        self.threads = saved.get("threads")
        self._mark_called(self.step > 0)

    def _replay(self, saved: dict[str, Any], num_schedule_steps: int) -> None:
        self._mark_called(True)
        for _ in range(num_schedule_steps if self.scheduler else 0):
            self.scheduler.step()  # type: ignore[union-attr]
        self.optimizer.load_state_dict({**saved, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def _mark_called(self, flag: bool) -> None:
        """Set whether the optimizer has taken a step; otherwise a step of the schedule warns."""
        self.optimizer._opt_called = flag  # type: ignore[attr-defined]
