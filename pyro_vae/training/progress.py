"""Progress bar and records of a training."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

from pyro_vae._core.checks import refusal, require
from pyro_vae.training.run_folder import RunFolder
from pyro_vae.training.state import EpochMeter


class Progress:
    """Progress bar.

    Args:
        show: True or False; None shows it if standard error is a terminal.
        total: number of data in the whole training, if known.
        done: number of data already processed.
    """

    def __init__(self, show: bool | None, total: int | None, done: int = 0) -> None:
        disable = not (sys.stderr.isatty() if show is None else show)
        options: dict[str, Any] = {"unit": " data", "unit_scale": True, "dynamic_ncols": True}
        self.bar = tqdm(total=total, initial=done, desc="preparing", disable=disable, **options)
        self.shown = 0.0

    def update(self, num_data: int, epoch: int, meter: EpochMeter) -> None:
        """Advance by ``num_data``; the numbers are refreshed twice a second."""
        self.bar.update(num_data)
        if not self.bar.disable and time.monotonic() - self.shown > 0.5:
            self.shown = time.monotonic()
            means = meter.means()
            names: list[str] = [name for name in ("elbo", "distortion", "rate") if name in means] or ["loss"]
            self.bar.set_description(f"epoch {epoch + 1}")
            self.bar.set_postfix({name: f"{means[name]:.2f}" for name in names})

    def close(self) -> None:
        """Close the bar, which stays on the screen."""
        self.bar.close()


class Recorder:
    """Stores the record of every epoch in memory, in ``metrics.jsonl`` and in TensorBoard.

    Args:
        run: the run folder, or None.
        tensorboard: whether to write TensorBoard events to the run folder.
    """

    def __init__(self, run: RunFolder | None, *, tensorboard: bool = False) -> None:
        self.run = run
        self.history: list[dict[str, Any]] = run.metrics() if run else []
        self.writer = _writer(run) if tensorboard and run else None

    def add(self, record: dict[str, Any]) -> None:
        """Store the record of an epoch."""
        self.history.append(record)
        if self.run:
            self.run.append_metrics(record)
        if self.writer:
            for name, value in record.items():
                if isinstance(value, float):
                    self.writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Flush the TensorBoard events."""
        if self.writer:
            self.writer.close()


def check_tensorboard(run: object) -> None:
    """Require a run folder and an installed TensorBoard.

    Raises:
        ValueError: one of them is missing.
    """
    require(run is not None, "fit", "tensorboard requires a run folder", "run=None", "Pass run='runs/NAME'")
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        advice = "Run pip install 'pyro-vae[tensorboard]'"
        raise refusal("fit", "tensorboard must be installed", "tensorboard=True", advice) from None


def _writer(run: RunFolder) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run.folder("tensorboard")))


def monitor_numbers(returned: Any, record: dict[str, Any]) -> dict[str, float]:
    """The numbers that a monitor returned, for the record of an epoch.

    Raises:
        ValueError: they are not numbers by name, or the record has such a name already.
    """
    try:
        numbers = {str(name): float(value) for name, value in (returned or {}).items()}
    except (AttributeError, TypeError, ValueError):
        rule, advice = "monitor must return numbers by name", "Return a dictionary of floats"
        raise refusal("fit", rule, str(returned)[:80], advice) from None
    taken = sorted(numbers.keys() & record.keys())
    if taken:
        raise refusal("fit", "monitor must return names that the record lacks", repr(taken[0]), "Choose another name")
    return numbers
