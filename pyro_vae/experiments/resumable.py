"""Options that may differ between a training and its resumption or evaluation."""

from __future__ import annotations

import re

import yaml

from pyro_vae._core.checks import refusal
from pyro_vae.experiments.report_rows import flat

# The engine is compared with the one that was used; the data, M1 and the frozen model by their content.
_CHANGEABLE = re.compile(
    r"(epochs|patience|clip_norm|skip_norm|optimizer\.lr|lr_schedule(_unit|\..*)?|num_samples|checkpoint_seconds"
    r"|tensorboard|logger(\..*)?|device|threads|engine|data\.(root|in_memory|num_workers)|m1|model_from)"
)


def check_resumable(trained: str, wanted: str) -> None:
    """Require the options of a training, except those that may change.

    Args:
        trained: every option that the weights were trained with, as YAML.
        wanted: those of now.

    Raises:
        ValueError: naming the first other option.
    """
    old, new = (flat(yaml.safe_load(options)) for options in (trained, wanted))
    for name in [*new, *(name for name in old if name not in new)]:
        if old.get(name) != new.get(name) and not _CHANGEABLE.fullmatch(name):
            got = f"{new.get(name)}, and {old.get(name)} in the run"
            advice = "Undo the change in config.yaml or omit the option, or start a new run"
            raise refusal(f"--{name}", "must be that of the run", got, advice)
