"""Runs of MLflow."""

from __future__ import annotations

import time
from typing import Any

from pyro_vae.training.callbacks.base import Callback, Training, imported, numbers_of, starting


class MLflow(Callback):
    """Logs the options of the training and the numbers of each epoch to a run of MLflow, which a resume continues.

    MLflow's environment variables, such as ``MLFLOW_TRACKING_URI``, choose where.

    Args:
        experiment: name of the experiment, created if it does not exist.

    Raises:
        ValueError: MLflow is not installed.

    References:
        https://mlflow.org/docs/latest/tracking
    """

    def __init__(self, *, experiment: str = "Default") -> None:
        self.experiment = experiment
        self._module = imported(self, "mlflow")
        self._client: Any = None
        self._run_id: str | None = None

    def start(self, training: Training) -> None:
        with starting(self):
            self._client = self._module.MlflowClient()
            if self._run_id is None:
                self._create_run(training)
            else:
                self._client.update_run(self._run_id, status="RUNNING")

    def _create_run(self, training: Training) -> None:
        known = self._client.get_experiment_by_name(self.experiment)
        number = known.experiment_id if known else self._client.create_experiment(self.experiment)
        name = training.run.path.name if training.run else None
        self._run_id = self._client.create_run(number, run_name=name).info.run_id
        params = [self._module.entities.Param(key, str(value)) for key, value in training.options.items()]
        for first in range(0, len(params), 100):  # as many as a request may hold
            self._client.log_batch(self._run_id, params=params[first : first + 100])

    def epoch(self, training: Training) -> None:
        now, metric = int(1000 * time.time()), self._module.entities.Metric  # milliseconds
        numbers = numbers_of(training.history[-1]).items()
        self._client.log_batch(self._run_id, [metric(name, value, now, training.step) for name, value in numbers])

    def end(self, training: Training) -> None:
        if self._run_id is not None:
            self._client.set_terminated(self._run_id, "FAILED" if training.error else "FINISHED")

    def state_dict(self) -> dict[str, Any]:
        return {"run_id": self._run_id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._run_id = state["run_id"]
