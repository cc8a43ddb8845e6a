"""Calls of the callbacks, which change neither random numbers nor modes of the training."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
from torch import Tensor

from pyro_vae._core.checks import refusal
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.distributed import acting_alone
from pyro_vae._core.owners import evaluating
from pyro_vae.training.callbacks.base import Callback, Training
from pyro_vae.training.state import TrainingState


@contextmanager
def user_code(state: TrainingState, seed: int, *, final: bool = False) -> Iterator[None]:
    """Context of the user's code during a training: eval mode, without gradients, with its own random numbers.

    Unless the weights are ``final``, they are the averaged ones, if they are averaged, and the trained parameters must
    stay the same.
    """
    generators = random.getstate(), np.random.get_state()  # noqa: NPY002  # of data that draw with them
    average = state.average.applied() if state.average and not final else nullcontext()
    try:
        with average, evaluating(*state.parameters.owners.modules.values()), isolated_rng(seed):
            yield
        if not final:
            state.parameters.check_same()
    finally:
        random.setstate(generators[0])
        np.random.set_state(generators[1])  # noqa: NPY002


class Callbacks:
    """The callbacks of a training.

    Args:
        callbacks: none in processes other than the first.
        seed: seed of their random numbers.

    Attributes:
        training: what they see; the trainer sets it before :meth:`start`.
    """

    training: Training

    def __init__(self, callbacks: Sequence[Callback], seed: int) -> None:
        self.callbacks, self.seed = callbacks, seed
        self._ran = False
        self._started: list[Callback] = []

    def start(self, training: Training) -> None:
        """Call :meth:`Callback.start` of each."""
        self.training = training
        with self._isolated():
            for callback in self.callbacks:
                self._started.append(callback)
                callback.start(training)
        self._ran = bool(self.callbacks)

    def call(self, hook: str) -> None:
        """Call a method of each callback that overrides it."""
        overriding = [c for c in self.callbacks if getattr(type(c), hook) is not getattr(Callback, hook)]
        if overriding:
            with self._isolated():
                for callback in overriding:
                    getattr(callback, hook)(self.training)
            self._ran = True

    def ran(self) -> bool:
        """Whether one has been called since the last call of this method, which may have changed the programs."""
        ran, self._ran = self._ran, False
        return ran

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Context at whose end :meth:`Callback.end` of each that was started is called, in reverse order."""
        try:
            yield
        except BaseException as error:
            if self._started:
                self.training.error = error
            raise
        finally:
            if self._started:
                with self._isolated(final=True), ExitStack() as stack:
                    for callback in self._started:
                        stack.callback(callback.end, self.training)

    @contextmanager
    def _isolated(self, *, final: bool = False) -> Iterator[None]:
        with user_code(self.training.state, self.seed, final=final), acting_alone():
            yield

    def state_dict(self) -> dict[str, Any]:
        """The states that are not empty, by class name, numbered if several callbacks share it."""
        states = {name: callback.state_dict() for name, callback in self._named()}
        for name, state in states.items():
            _check_plain(name, state)
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, states: dict[str, Any]) -> None:
        """Restore the states of the callbacks that had one."""
        for name, callback in self._named():
            if name in states:
                callback.load_state_dict(states[name])

    def _named(self) -> Iterator[tuple[str, Callback]]:
        names = [type(callback).__name__ for callback in self.callbacks]
        for number, (name, callback) in enumerate(zip(names, self.callbacks, strict=True)):
            earlier = names[:number].count(name)
            yield f"{name}.{earlier}" if earlier else name, callback


def _check_plain(owner: str, value: Any) -> None:
    """Require what a checkpoint can be read with, as nothing in one is executed."""
    if isinstance(value, dict):
        for key, entry in value.items():
            _check_plain(owner, key)
            _check_plain(owner, entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            _check_plain(owner, entry)
    elif type(value) not in (bool, int, float, str, type(None)) and not isinstance(value, Tensor):
        raise refusal(owner, "state_dict must hold plain values and tensors", f"a {type(value).__name__}")
