"""Log-weights of many batches of one evaluation, eager or compiled."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

from pyro_vae._core.checks import check_choice
from pyro_vae._core.contexts import validating
from pyro_vae._core.modes import Runs
from pyro_vae._core.owners import Owners
from pyro_vae._core.recording import Recorded, RecordingError
from pyro_vae._core.types import Program
from pyro_vae.evaluation.weights import ImportanceWeights, LogWeights

Engine = Literal["auto", "eager", "compiled"]

MIN_COMPILED_CALLS = 2_000
"""Number of calls from which compilation, about ten seconds, saves time."""


def use_compiled(owner: str, engine: Engine, num_calls: int) -> bool:
    """Whether to compile for this number of calls; ``"auto"`` compiles from :data:`MIN_COMPILED_CALLS` on.

    Raises:
        ValueError: the engine is unknown.
    """
    check_choice(owner, "engine", engine, ("auto", "eager", "compiled"))
    return engine == "compiled" or (engine == "auto" and num_calls >= MIN_COMPILED_CALLS)


class WeightSampler:
    """Samples log-weights of one batch after the other, with compiled programs if requested.

    Args:
        owner: name that messages begin with.
        model: Pyro model.
        guides: Pyro guides or other proposals.
        data_plate: name of the plate over the data, if several plates contain all sites.
        owners: the programs' modules.
        compiled: record and compile the programs; if that fails they run eagerly, after one warning.
    """

    def __init__(
        self,
        owner: str,
        model: Program,
        guides: Sequence[Program],
        data_plate: str | None,
        owners: Owners,
        *,
        compiled: bool,
    ) -> None:
        self.owner, self.model, self.guides, self.data_plate, self.owners = owner, model, guides, data_plate, owners
        self._compiled = compiled
        self._recorded: Recorded | None = None
        self._ways: dict[Any, Runs] = {}

    def check(self, args: tuple[Any, ...], num_samples: int) -> dict[str, Any]:
        """Examine the programs on a batch with all checks; the samples that follow are not checked.

        Returns:
            Protocol entries of the data and of the mode in which the programs run.
        """
        with validating(True):
            options = {"owner": self.owner, "owners": self.owners, "ways": self._ways, "data_plate": self.data_plate}
            self._weights = ImportanceWeights(self.model, self.guides, args, **options)  # type: ignore[arg-type]
        self._weights.check_repeatable(args)
        self._weights.check_coverage()
        if self._compiled and self._recorded is None:
            self._recorded = Recorded(self._sample, self.owners.tensors())
        return self._weights.protocol(num_samples)

    def __call__(self, num_samples: int, args: tuple[Any, ...]) -> LogWeights:
        """Log-weights ``(num_samples, batch)`` of the batch that was checked last."""
        return self._weights.in_order(self._in_plate_order(num_samples, args))

    def _in_plate_order(self, num_samples: int, args: tuple[Any, ...]) -> LogWeights:
        self._weights.runs(num_samples)  # determines the mode, which must not happen within a recording
        if self._recorded:
            try:
                return self._recorded(num_samples, *args)
            except RecordingError as cause:
                self._compiled, self._recorded = False, None
                warnings.warn(
                    f"{self.owner}: runs eagerly, because the programs cannot be recorded: {cause}.", stacklevel=3
                )
        return self._sample(num_samples, *args)

    def _sample(self, num_samples: int, *args: Any) -> LogWeights:
        return self._weights.sample(num_samples, *args)
