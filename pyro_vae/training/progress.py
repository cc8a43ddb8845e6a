"""Progress bar of a training, and the numbers of its monitor."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

from pyro_vae._core.checks import refusal
from pyro_vae.training.settings import Settings
from pyro_vae.training.state import TrainingState


class Progress:
    """Progress bar.

    Args:
        show: True or False; None shows it if standard error is a terminal.
        num_data: number of data of an epoch, if known.
        settings: the options of the training.
        state: the training state.
    """

    def __init__(self, show: bool | None, num_data: int | None, settings: Settings, state: TrainingState) -> None:
        self.state = state
        done = 0 if num_data is None else state.epoch * num_data + int(state.meter.sums["data"])
        total = None if num_data is None else settings.epochs * num_data
        disable = not (sys.stderr.isatty() if show is None else show)
        options: dict[str, Any] = {"unit": " data", "unit_scale": True, "dynamic_ncols": True}
        self.bar = tqdm(total=total, initial=done, desc="preparing", disable=disable, **options)
        self.shown = 0.0

    def update(self, num_data: int) -> None:
        """Advance by ``num_data``; the numbers are refreshed twice a second."""
        self.bar.update(num_data)
        if not self.bar.disable and time.monotonic() - self.shown > 0.5:
            self.shown = time.monotonic()
            means = self.state.meter.means()
            names: list[str] = [name for name in ("elbo", "distortion", "rate") if name in means] or ["loss"]
            self.bar.set_description(f"epoch {self.state.epoch + 1}")
            self.bar.set_postfix({name: f"{means[name]:.2f}" for name in names})

    def close(self) -> None:
        """Close the bar, which stays on the screen."""
        self.bar.close()


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
