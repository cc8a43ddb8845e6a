"""Runs of Weights & Biases."""

from __future__ import annotations

from typing import Any

from pyro_vae.training.callbacks.base import Callback, Training, imported, numbers_of, starting


class WandB(Callback):
    """Logs the options of the training and the numbers of each epoch to a run of Weights & Biases.

    A resume continues the run. The environment variables of W&B, such as ``WANDB_MODE=offline``, apply.

    Args:
        project: name of the project.

    Raises:
        ValueError: W&B is not installed.

    References:
        https://docs.wandb.ai/models/track
    """

    def __init__(self, *, project: str = "pyro-vae") -> None:
        self.project = project
        self._module = imported(self, "wandb")
        self._run: Any = None
        self._run_id: str | None = None

    def start(self, training: Training) -> None:
        place = {"dir": training.run.path, "name": training.run.path.name} if training.run else {}
        options = {"project": self.project, "id": self._run_id, "config": dict(training.options)}
        with starting(self):
            self._run = self._module.init(resume="allow", **options, **place)
        self._run_id = self._run.id

    def epoch(self, training: Training) -> None:
        self._run.log(numbers_of(training.history[-1]), step=training.step)

    def end(self, training: Training) -> None:
        if self._run is not None:
            self._run.finish(exit_code=1 if training.error else 0)

    def state_dict(self) -> dict[str, Any]:
        return {"run_id": self._run_id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._run_id = state["run_id"]
