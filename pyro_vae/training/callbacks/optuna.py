"""Pruning of unpromising trials of Optuna."""

from __future__ import annotations

from typing import Any

from pyro_vae._core.checks import refusal, require, shown
from pyro_vae.training.callbacks.base import Callback, Training, imported, numbers_of


class OptunaPruner(Callback):
    """Reports a number of each epoch to a trial of Optuna; raises ``optuna.TrialPruned`` if its pruner decides so.

    Args:
        trial: the trial; its study must maximise if the number is a bound such as ``validation_elbo``.
        name: the number of the record.

    Raises:
        ValueError: Optuna is not installed, or ``trial`` is not one of its trials; after the first epoch, the record
            has no such number.

    References:
        Optuna: a next-generation hyperparameter optimization framework (Akiba et al., 2019).
        https://arxiv.org/abs/1907.10902
    """

    def __init__(self, trial: Any, *, name: str = "validation_elbo") -> None:
        self._module = imported(self, "optuna")
        require(hasattr(trial, "should_prune"), "OptunaPruner", "trial must be one of Optuna", f"trial={shown(trial)}")
        self.trial, self.name = trial, name

    def epoch(self, training: Training) -> None:
        numbers = numbers_of(training.history[-1])
        if self.name not in numbers:
            rule = f"name must be one of {', '.join(numbers)}"
            advice = "Pass validation data" if self.name.startswith("validation") else ""
            raise refusal("OptunaPruner", rule, f"name={self.name!r}", advice)
        self.trial.report(numbers[self.name], training.epoch)
        if self.trial.should_prune():
            raise self._module.TrialPruned(f"pruned after epoch {training.epoch}")
