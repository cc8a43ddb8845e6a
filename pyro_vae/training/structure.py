"""Checks of every run of the loss: the plate of the data, and new structures of sites."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyro.infer import ELBO

from pyro_vae._core.checks import refusal
from pyro_vae._core.contexts import is_tracing
from pyro_vae._core.types import Program
from pyro_vae._core.watch import Watch
from pyro_vae.objectives.per_datum import PerDatumObjective
from pyro_vae.training.compatibility import check_pair, examine
from pyro_vae.training.parameters import ParameterSet


class StructureCheck:
    """Compares the sites of every run of the loss with those before; a new structure is checked as at the start.

    Args:
        objective: the objective.
        model: Pyro model.
        guide: Pyro guide.
        parameters: their parameters, with the pair as examined at the start.
    """

    def __init__(self, objective: ELBO, model: Program, guide: Program, parameters: ParameterSet) -> None:
        self.objective, self.model, self.guide, self.parameters = objective, model, guide, parameters
        self._structures: set[Any] = set()

    @contextmanager
    def __call__(self, args: tuple[Any, ...], size: int) -> Iterator[None]:
        """Context for one run of the loss on ``args``, a batch of ``size`` data."""
        plate = self.parameters.pair.data_plate()
        with Watch(None if plate is None else plate.name) as watch:
            try:
                yield
            except Exception:
                self._check(watch, args)
                raise
        num_draws = self.objective.num_draws if isinstance(self.objective, PerDatumObjective) else 1
        if watch.sizes and not watch.sizes & {size, size * num_draws}:  # flattened draws repeat each datum
            rule = "the plate of the data must be as long as the batch"
            value = f"{min(watch.sizes)} in plate {plate.name!r} and {size} in the batch"
            raise refusal("fit", rule, value, "Pass batches of the data alone")
        self._check(watch, args)

    def _check(self, watch: Watch, args: tuple[Any, ...]) -> None:
        if watch.structure() not in self._structures and not is_tracing():
            if self._structures:
                pair = examine(self.objective, self.model, self.guide, args, self.parameters.owners)
                check_pair(self.objective, pair)
            self._structures.add(watch.structure())
