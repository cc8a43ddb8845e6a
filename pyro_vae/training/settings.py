"""Options and result of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pyro.infer import ELBO as PyroELBO
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyro_vae._core.precision import Precision
from pyro_vae.data.batches import Data
from pyro_vae.training.callbacks.base import Callback
from pyro_vae.training.engines.select import EngineName
from pyro_vae.training.parameters import OptimizerFactory
from pyro_vae.training.threads import Threads

ScheduleFactory = Callable[[Optimizer], LRScheduler]
Monitor = Callable[[], Mapping[str, float]]
Reason = Literal["epochs", "patience", "callback"]


@dataclass(frozen=True)
class Settings:
    """Options of a training; the arguments of the same names of :func:`pyro_vae.fit`."""

    epochs: int
    objective: PyroELBO
    optimizer: OptimizerFactory
    lr_schedule: ScheduleFactory | None
    lr_schedule_unit: Literal["epoch", "step"]
    lr_warmup: int
    clip_norm: float | None
    skip_norm: float | None
    ema: float | None
    validation: Data | None
    patience: int | None
    monitor: Monitor | None
    callbacks: Sequence[Callback]
    seed: int
    accumulate: int
    engine: EngineName
    precision: Precision
    threads: Threads
    checkpoint_seconds: float
    tensorboard: bool
    progress: bool | None

    def identity(self) -> dict[str, Any]:
        """Those that must not change between a run and its resumption."""
        names = ("seed", "precision", "accumulate", "lr_warmup", "ema")
        return {name: getattr(self, name) for name in names}

    def changeable(self) -> dict[str, Any]:
        """Those that may change, beside learning rate and schedule, and are recorded when they do."""
        names = ("epochs", "lr_schedule_unit", "clip_norm", "skip_norm", "patience", "threads")
        return {name: getattr(self, name) for name in (*names, "checkpoint_seconds", "tensorboard")}


@dataclass(frozen=True)
class FitResult:
    """Result of a training.

    Attributes:
        history: one record per epoch, as in ``metrics.jsonl``: nats per datum; ``elbo`` is
            minus the sum of ``distortion`` and ``rate``.
        best_epoch: epoch with the best validation ELBO; None without validation.
        stopped: whether the training ended after its last epoch, when patience ran out, or by a callback.
    """

    history: list[dict[str, Any]]
    best_epoch: int | None
    stopped: Reason
