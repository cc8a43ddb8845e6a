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
from pyro_vae._core.traces import latents
from pyro_vae._core.types import Program
from pyro_vae.evaluation.weights import ImportanceWeights, LogWeights

Engine = Literal["auto", "eager", "compiled"]

COMPILATION = 10.0
"""Seconds that a first compilation takes; later ones of the same program are loaded from disk in half a second."""
_PER_CALL = 1.5e-3  # seconds that a compiled call saves: the programs' Python
_PER_VALUE = 5e-9  # and in addition for each observed value in each sample: fused densities


def use_compiled(owner: str, engine: Engine, num_calls: int, num_values: int = 700_000) -> bool:
    """Whether to compile for this work; ``"auto"`` compiles if the calls would save :data:`COMPILATION` seconds.

    The estimate depends on the work alone, not on measured times or on the graphs on disk, so that repeated evaluations
    use one engine and give the same bits. Evaluations of different sizes may use different engines, whose results
    differ by rounding: in float32 about 1e-7 of a value, which the printed digits rarely show.

    Args:
        owner: name that messages begin with.
        engine: the requested engine.
        num_calls: number of calls of the programs.
        num_values: observed values in a call, over all samples; by default those of 1,000 images of 700 pixels.

    Raises:
        ValueError: the engine is unknown.
    """
    check_choice(owner, "engine", engine, ("auto", "eager", "compiled"))
    saved = num_calls * (_PER_CALL + _PER_VALUE * num_values)
    return engine == "compiled" or (engine == "auto" and saved >= COMPILATION)


def values_of_call(weights: ImportanceWeights, num_samples: int) -> int:
    """Number of observed values of a batch, over all samples of a call."""
    return weights.num_data * num_samples * weights.pair.num_values(weights.plate)


class WeightSampler:
    """Samples log-weights of one batch after the other, with compiled programs if requested or worthwhile.

    Args:
        owner: name that messages begin with.
        model: Pyro model.
        guides: Pyro guides or other proposals.
        data_plate: name of the plate over the data, if several plates contain all sites.
        owners: the programs' modules.
        engine: ``"compiled"`` records and compiles the programs, ``"auto"`` if that saves time (:func:`use_compiled`);
            if it fails they run eagerly, after one warning.
        num_calls: number of calls of this object, if known.
        chunk_size: number of samples of most calls.

    Raises:
        ValueError: the engine is unknown.
    """

    def __init__(
        self,
        owner: str,
        model: Program,
        guides: Sequence[Program],
        data_plate: str | None,
        owners: Owners,
        *,
        engine: Engine,
        num_calls: int,
        chunk_size: int,
    ) -> None:
        use_compiled(owner, engine, num_calls)  # checks its name before the first batch
        self.owner, self.model, self.guides, self.data_plate, self.owners = owner, model, guides, data_plate, owners
        self._engine, self._num_calls, self._chunk_size = engine, num_calls, chunk_size
        self._recorded: Recorded | None = None
        self._ways: dict[Any, Runs] = {}

    def check(self, args: tuple[Any, ...], num_samples: int) -> dict[str, Any]:
        """Examine the programs on a batch with all checks; the samples that follow are not checked.

        Returns:
            Protocol entries of the data and of the mode in which the programs run; without latent variables, those of
            an exact evaluation by one sample.
        """
        with validating(True):
            options = {"owner": self.owner, "owners": self.owners, "ways": self._ways, "data_plate": self.data_plate}
            self._weights = ImportanceWeights(self.model, self.guides, args, **options)  # type: ignore[arg-type]
        self._weights.check_repeatable(args)
        if num_samples > 1:  # one sample estimates the ELBO, a bound also with less support
            self._weights.check_coverage()
        exact = not any(latents(trace) for trace in self._weights.pair.guide_traces)  # a weight is log p(x) then
        num_samples = 1 if exact else num_samples
        num_calls = 0 if exact else self._num_calls  # one pass per batch is too little for "auto" to compile
        num_values = values_of_call(self._weights, min(self._chunk_size, num_samples))
        if self._recorded is None and use_compiled(self.owner, self._engine, num_calls, num_values):
            self._recorded = Recorded(self._sample, self.owners.tensors())
        entries = {"estimator": "exact", "num_samples": 1, "proposal": "none"} if exact else {}
        return {**self._weights.protocol(num_samples), **entries}

    def __call__(self, num_samples: int, args: tuple[Any, ...]) -> LogWeights:
        """Log-weights ``(num_samples, batch)`` of the batch that was checked last."""
        return self._weights.in_order(self._in_plate_order(num_samples, args))

    def _in_plate_order(self, num_samples: int, args: tuple[Any, ...]) -> LogWeights:
        self._weights.runs(num_samples)  # determines the mode, which must not happen within a recording
        if self._recorded:
            try:
                return self._recorded(num_samples, *args)
            except RecordingError as cause:
                self._engine, self._recorded = "eager", None
                warnings.warn(
                    f"{self.owner}: runs eagerly, because the programs cannot be recorded: {cause}.", stacklevel=3
                )
        return self._sample(num_samples, *args)

    def _sample(self, num_samples: int, *args: Any) -> LogWeights:
        return self._weights.sample(num_samples, *args)
