"""Showing and recording how a training goes."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

from pyro_vae.training.engines.base import StepResult
from pyro_vae.training.run_folder import RunFolder


class EpochMeter:
    """Sums over an epoch, exact for ragged last batches: every mean is over data, not over batches."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {"data": 0.0, "loss": 0.0, "reconstruction": 0.0, "kl": 0.0, "seconds": 0.0}
        self.has_terms = True  # whether the objective reports them

    def add(self, result: StepResult, num_data: int) -> None:
        """Take in a step."""
        self.sums["data"] += num_data
        self.sums["loss"] += float(result.loss)
        self.has_terms = result.terms is not None
        if result.terms is not None:
            self.sums["reconstruction"] += float(result.terms.reconstruction)
            self.sums["kl"] += float(result.terms.kl)

    def means(self) -> dict[str, float]:
        """Nats per datum so far, and examples per second."""
        n = max(self.sums["data"], 1.0)
        means = {"loss": self.sums["loss"] / n}
        if self.has_terms:
            means |= {k: self.sums[k] / n for k in ("reconstruction", "kl")}
            means["elbo"] = means["reconstruction"] - means["kl"]
        means["examples_per_second"] = self.sums["data"] / max(self.sums["seconds"], 1e-9)
        return means


class Progress:
    """A bar on a terminal, nothing elsewhere.

    Args:
        show: True or False; None shows it where standard error is a terminal.
        total: number of data in the whole training, if known.
        done: number of data before the start.
    """

    def __init__(self, show: bool | None, total: int | None, done: int = 0) -> None:
        disable = not (sys.stderr.isatty() if show is None else show)
        self.bar = tqdm(total=total, initial=done, unit=" data", unit_scale=True, disable=disable, dynamic_ncols=True)
        self.shown = 0.0

    def update(self, num_data: int, epoch: int, meter: EpochMeter) -> None:
        """Move on by ``num_data``; the numbers are refreshed twice a second."""
        self.bar.update(num_data)
        if not self.bar.disable and time.monotonic() - self.shown > 0.5:
            self.shown = time.monotonic()
            means = meter.means()
            shown: dict[str, str] = {k: f"{means[k]:.2f}" for k in ("elbo", "reconstruction", "kl") if k in means}
            self.bar.set_description(f"epoch {epoch + 1}")
            self.bar.set_postfix({**shown} or {"loss": f"{means['loss']:.2f}"})

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()


class Recorder:
    """Keeps the record of every epoch: in memory, in ``metrics.jsonl``, in TensorBoard.

    Args:
        run: the run folder, or None.
        tensorboard: write TensorBoard events to the run folder too.
    """

    def __init__(self, run: RunFolder | None, *, tensorboard: bool = False) -> None:
        self.run = run
        self.history: list[dict[str, Any]] = run.metrics() if run else []
        self.writer = _writer(run) if tensorboard and run else None

    def add(self, record: dict[str, Any]) -> None:
        """Keep the record of an epoch."""
        self.history.append(record)
        if self.run:
            self.run.append_metrics(record)
        if self.writer:
            for name, value in record.items():
                if isinstance(value, float):
                    self.writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Write out what is buffered."""
        if self.writer:
            self.writer.close()


def check_tensorboard(run: object) -> None:
    """Refuse TensorBoard where it could not be written, before anything is.

    Raises:
        ValueError: there is no run folder, or TensorBoard is not installed.
    """
    if run is None:
        raise ValueError("fit: tensorboard must have a run folder to write to, got run=None. Pass run='runs/NAME'.")
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise ValueError(
            "fit: tensorboard must be installed, got tensorboard=True. Run pip install 'pyro-vae[tensorboard]'."
        ) from None


def _writer(run: RunFolder) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run.path / "tensorboard"))


def own_numbers(found: Any, record: dict[str, Any]) -> dict[str, float]:
    """What a monitor returned, as numbers."""
    try:
        numbers = {str(name): float(value) for name, value in (found or {}).items()}
    except (AttributeError, TypeError, ValueError):
        raise ValueError(
            f"fit: monitor must return numbers by name, got {str(found)[:80]}. Return a dictionary of floats."
        ) from None
    taken = sorted(numbers.keys() & record.keys())
    if taken:
        raise ValueError(f"fit: monitor must have names of its own, got {taken[0]!r}. Call it something else.")
    return numbers
