"""Validation after each epoch: the ELBO of held-out data, the best weights so far, the user's monitor."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.owners import placement
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Batches, Data
from pyro_vae.evaluation import log_likelihood
from pyro_vae.training.callbacks.hooks import user_code
from pyro_vae.training.compatibility import has_score
from pyro_vae.training.progress import monitor_numbers
from pyro_vae.training.settings import Settings
from pyro_vae.training.state import TrainingState


class Validation:
    """Evaluates the weights that the training would leave: the averaged ones, if they are averaged.

    Args:
        model: Pyro model.
        guide: Pyro guide.
        state: the training state, whose best weights are kept up to date.
        settings: the options of the training.
    """

    def __init__(self, model: Program, guide: Program, state: TrainingState, settings: Settings) -> None:
        self.model, self.guide, self.state, self.settings = model, guide, state, settings

    def numbers(self, record: dict[str, Any]) -> dict[str, float]:
        """The numbers to add to the record of an epoch: validation ELBO, also of the raw weights, and the monitor's."""
        numbers: dict[str, float] = {}
        data, average = self.settings.validation, self.state.average
        averaged = average.applied if average else nullcontext
        if data is not None and has_score(self.settings.objective):
            with averaged():
                numbers["validation_loss"], data = self._loss(data), None
        if data is not None and average is not None:
            numbers["validation_elbo_raw"] = self._elbo(data)
        with averaged():
            if data is not None:
                numbers["validation_elbo"] = self._elbo(data)
                self._keep_best(numbers["validation_elbo"])
        if self.settings.monitor is not None:
            with user_code(self.state, self.settings.seed):
                numbers |= monitor_numbers(self.settings.monitor(), {**record, **numbers})
        return numbers

    def _elbo(self, data: Data) -> float:
        plate = self.state.parameters.pair.data_plate()
        options: dict[str, Any] = {"batch_size": 1000, "seed": self.settings.seed}
        options["data_plate"] = None if plate is None else plate.name
        return log_likelihood(self.model, self.guide, data, num_samples=1, **options).mean("elbo")

    def _loss(self, data: Data) -> float:
        """The objective's own loss per datum, if there is no ELBO."""
        device, dtype = placement(self.model, self.guide)
        batches = Batches(data, 1000, device=device, dtype=dtype)
        with self.state.parameters.owners.evaluating(), isolated_rng(self.settings.seed):
            parts = [(self.settings.objective.loss(self.model, self.guide, *b.args), len(b)) for b in batches.epoch()]
        return sum(loss for loss, _ in parts) / sum(size for _, size in parts)

    def _keep_best(self, elbo: float) -> None:
        if elbo > self.state.best["elbo"]:
            tensors = self.state.parameters.weights()
            weights = {k: t.clone() for k, t in tensors.items()} if self.settings.patience else None
            self.state.best = {"elbo": elbo, "epoch": self.state.epoch, "weights": weights}

    def out_of_patience(self) -> bool:
        """Whether the validation ELBO has not improved for ``patience`` epochs."""
        patience, best = self.settings.patience, self.state.best["epoch"] or 0
        return patience is not None and self.state.epoch - best >= patience
