"""How to train, and how a training went."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pyro.infer import ELBO as PyroELBO
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyro_vae._core.precision import Precision
from pyro_vae.data.batches import Data
from pyro_vae.training.engines.select import EngineName
from pyro_vae.training.parameters import OptimizerFactory

ScheduleFactory = Callable[[Optimizer], LRScheduler]
Monitor = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class FitResult:
    """How a training went.

    Attributes:
        history: one record per epoch, as in ``metrics.jsonl``: nats per datum, higher is better for ``elbo`` and
            ``reconstruction``.
        best_epoch: epoch with the best validation ELBO, or None without validation.
        stopped: why the training ended.
    """

    history: list[dict[str, Any]]
    best_epoch: int | None
    stopped: Literal["epochs", "patience"]


@dataclass(frozen=True)
class Settings:
    """How to train; the arguments of the same names of :func:`pyro_vae.fit`."""

    objective: PyroELBO
    optimizer: OptimizerFactory
    lr_schedule: ScheduleFactory | None
    lr_schedule_unit: Literal["epoch", "step"]
    clip_norm: float | None
    validation: Data | None
    patience: int | None
    monitor: Monitor | None
    seed: int
    engine: EngineName
    precision: Precision
    accumulate: int
    checkpoint_seconds: float
