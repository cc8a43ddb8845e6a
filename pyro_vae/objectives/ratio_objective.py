"""Base class of objectives that train a density ratio on the samples of each batch."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae._core.checks import refusal
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.types import Program
from pyro_vae.objectives.per_datum import PerDatumObjective
from pyro_vae.objectives.ratio import RatioTraining
from pyro_vae.objectives.schedules import Schedule

_NEW = 0.02  # weight of a batch in the averages
_SETTLED = 200  # steps after which the averages are no longer those of the initial weights


class RatioObjective(PerDatumObjective):
    """An objective with a network of its own, which takes steps of its own Adam after the gradient of each batch.

    ``fit`` saves and restores the network with the run, under every engine; its weights are not part of the model's.

    Args:
        network: builds the network from the shape of a sample.
        training: builds its training from the network.
        num_particles: number of particles K per datum.
        beta: a weight that may be scheduled.
        steps: steps of the network per batch.

    Attributes:
        ratio: the training of the network; None before the first batch.
        measured: names of further numbers that are averaged over the last batches and recorded.
    """

    additive = False
    measured: tuple[str, ...] = ()

    def __init__(
        self,
        network: Callable[[tuple[int, ...]], nn.Module],
        training: Callable[[nn.Module], RatioTraining],
        *,
        num_particles: int = 1,
        beta: float | Schedule = 1.0,
        steps: int = 1,
    ) -> None:
        super().__init__(num_particles=num_particles, beta=beta)
        self._network, self._training, self._steps = network, training, steps
        self.ratio: RatioTraining | None = None
        self._samples: Any = None
        self._shape: tuple[int, ...] | None = None
        self._constants: list[Tensor] = []  # that a recording reads as those that change

    def reset(self) -> None:
        self.ratio = self._samples = None
        self._constants = []

    def trained(self, model: Program, guide: Program, *args: Any) -> list[Tensor]:
        if self.ratio is None:
            with self.scoring():
                self._examination(model, guide, args, {})
        return [*self._built().tensors(), self._averages, *self._constants]

    def update(self) -> Tensor | float:
        if self._samples is None or self.ratio is None:
            return 0.0
        samples, self._samples = self._samples, None
        for _ in range(self._steps - 1):
            self.ratio.step(*self._sides(samples))
        loss = self.ratio.step(*self._sides(samples))
        new = torch.stack([loss, *self._measures(samples)])
        self._averages.copy_(torch.where(self._averages.isinf(), new, self._averages.lerp(new, _NEW)))
        return loss

    def numbers(self) -> dict[str, float]:
        if self.ratio is None:
            return {"beta": self.beta}
        numbers = dict(zip(("ratio_loss", *self.measured), self._averages.tolist(), strict=True))
        text = self._diagnosis(numbers) if self.ratio.num_steps >= _SETTLED else ""
        if text:
            warnings.warn(f"{type(self).__name__}: {text}.", stacklevel=2)
        return {"beta": self.beta, **{k: v for k, v in numbers.items() if math.isfinite(v)}}

    def _measures(self, samples: Any) -> list[Tensor]:
        """The numbers :attr:`measured` of a batch."""
        return []

    def _diagnosis(self, numbers: dict[str, float]) -> str:
        """Describe a fault of these numbers; empty if there is none."""
        return ""

    @abstractmethod
    def _sides(self, samples: Any) -> tuple[Tensor, Tensor]:
        """Samples of the densities in the numerator and in the denominator, from the stored samples of the batch."""

    def _build(self, shape: tuple[int, ...], like: Tensor) -> nn.Module:
        """The network for samples of this shape, built at the first call."""
        if self.ratio is None or self._shape != shape:
            with isolated_rng():
                self.ratio, self._shape = self._training(self._network(shape).to(like)), shape
                self._averages = like.new_full((1 + len(self.measured),), math.inf)
        return self.ratio.network

    def _built(self) -> RatioTraining:
        """The training of the network, which the examination of the programs builds."""
        if self.ratio is None:
            raise refusal(type(self).__name__, "the loss must be computed first", "none", "Call loss(model, guide, x)")
        return self.ratio
