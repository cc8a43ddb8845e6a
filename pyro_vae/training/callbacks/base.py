"""The base class of callbacks, and the training that they see."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyro_vae._core.checks import CheckedArguments, refusal
from pyro_vae._core.types import Program
from pyro_vae.training.run_folder import RunFolder
from pyro_vae.training.state import TrainingState


@dataclass
class Training:
    """A training as its callbacks see it.

    Attributes:
        model: the Pyro model.
        guide: the Pyro guide.
        batch: the programs' arguments for a batch of the training data, always the same.
        run: the run folder, or None.
        options: options of the training and of its modules by name, plain values.
        history: the records of the completed epochs, as in ``metrics.jsonl``.
        state: parameters, optimizer and position; not to be changed.
        stopped: whether a callback has stopped the training.
        error: the exception that ended the training, if any.
    """

    model: Program
    guide: Program
    batch: tuple[Any, ...]
    run: RunFolder | None
    options: Mapping[str, Any]
    history: list[dict[str, Any]]
    state: TrainingState
    stopped: bool = False
    error: BaseException | None = None

    @property
    def epoch(self) -> int:
        """Number of completed epochs."""
        return self.state.epoch

    @property
    def step(self) -> int:
        """Number of steps taken."""
        return self.state.step

    @property
    def numbers(self) -> dict[str, float]:
        """Means over the current epoch so far, in nats per datum: loss, and if known distortion, rate and ELBO."""
        return self.state.meter.means()

    def stop(self) -> None:
        """End the training after the current epoch, or, in :meth:`Callback.start`, before the first."""
        self.stopped = True


class Callback(CheckedArguments):
    """Base class of callbacks of :func:`pyro_vae.fit`; each method is called at one occasion and does nothing here.

    The methods run in eval mode, without gradients and with their own random numbers: with and without callbacks the
    trained weights are the same, bit for bit. If the training averages its weights, :meth:`epoch`, :meth:`steps` and
    :meth:`checkpoint` see the average. An exception ends the training; the run folder can be resumed.

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, fit
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> class Printer(Callback):
        ...     def epoch(self, training):
        ...         print(training.epoch, sorted(training.history[-1])[:2])
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> result = fit(vae.model, vae.guide, torch.ones(70, 5), epochs=2, batch_size=20, callbacks=[Printer()])
        1 ['beta', 'distortion']
        2 ['beta', 'distortion']
    """

    def start(self, training: Training) -> None:
        """Called before the first step, after :meth:`load_state_dict` if the training is resumed."""

    def steps(self, training: Training) -> None:
        """Called after each step, or group of steps that the engine takes together.

        The compiled engines then compare their recording with the programs again, which takes as long as an eager step.
        """

    def epoch(self, training: Training) -> None:
        """Called after each epoch, whose record is the last of ``training.history``."""

    def checkpoint(self, training: Training) -> None:
        """Called after each checkpoint in the run folder."""

    def end(self, training: Training) -> None:
        """Called at the end, with the final weights or with ``training.error``, if :meth:`start` was called."""

    def state_dict(self) -> dict[str, Any]:
        """The state to store in checkpoints: plain values and tensors by name."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`, when a training is resumed."""


def imported(owner: Callback, name: str) -> Any:
    """Import an optional package.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        package, advice = name.rpartition(".")[2], "Run pip install 'pyro-vae[loggers]'"
        raise refusal(type(owner).__name__, f"{package} must be installed", "no such package", advice) from None


@contextmanager
def starting(owner: Callback) -> Iterator[None]:
    """Context in which a logger connects to its service; an error of it is one of that service.

    Raises:
        ValueError: with the error, of any class, in one line.
    """
    try:
        yield
    except Exception as error:
        got = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        raise refusal(type(owner).__name__, "the logger must be able to start", got) from error


def run_of(owner: Callback, training: Training) -> RunFolder:
    """The run folder.

    Raises:
        ValueError: the training has none.
    """
    if training.run is None:
        raise refusal(type(owner).__name__, "a run folder is required", "run=None", "Pass run='runs/NAME'")
    return training.run


def numbers_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The entries of a record to plot: its floating-point numbers."""
    return {name: value for name, value in record.items() if isinstance(value, float)}
