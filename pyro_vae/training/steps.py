"""Steps of an epoch: which batches they take, and their position in the training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from pyro_vae.data.batches import Batches
from pyro_vae.training.engines.base import Step
from pyro_vae.training.state import TrainingState

T = TypeVar("T")


def remaining_steps(batches: Batches, state: TrainingState, *, accumulate: int, size: int) -> Iterator[list[Step]]:
    """The remaining steps of the epoch, in groups.

    Args:
        batches: the data.
        state: the training state at the first of them.
        accumulate: batches per step.
        size: steps per group.
    """
    number, position = state.step, state.position
    epoch = batches.epoch(state.epoch, start=position)
    for group in _chunks(_chunks(epoch, accumulate), size):
        steps = []
        for chunk in group:
            steps.append(Step(chunk, (number, epochs_before(batches, state, position))))
            number, position = number + 1, position + len(chunk)
        yield steps


def epochs_before(batches: Batches, state: TrainingState, position: int) -> float:
    """Epochs before a batch of the current one, for schedules; whole if the number of batches is unknown."""
    return state.epoch + (position / len(batches) if len(batches) else 0.0)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
