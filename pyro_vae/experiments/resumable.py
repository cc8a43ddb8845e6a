"""Options that may differ between a training and its resumption."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from jsonargparse import Namespace

from pyro_vae._core.checks import refusal
from pyro_vae.experiments.experiment import to_yaml

# The engine is compared with the one that was used, and the data by their content.
_CHANGEABLE = re.compile(
    r"(epochs|patience|clip_norm|skip_norm|optimizer\.lr|lr_schedule(_unit|\..*)?|num_samples|checkpoint_seconds"
    r"|tensorboard|device|threads|engine|data\.root)"
)


def check_resumable(trained: Namespace, wanted: Namespace) -> None:
    """Require the options of a training, except those that may change.

    Args:
        trained: options of the checkpoint.
        wanted: options to resume with.

    Raises:
        ValueError: naming the first other option.
    """
    old, new = (dict(_flat(yaml.safe_load(to_yaml(options)))) for options in (trained, wanted))
    for name in [*new, *(name for name in old if name not in new)]:
        if old.get(name) != new.get(name) and not _CHANGEABLE.fullmatch(name):
            got = f"{new.get(name)}, and {old.get(name)} in the run"
            advice = "Undo the change in config.yaml or omit the option, or start a new run"
            raise refusal(f"--{name}", "must be that of the run to resume", got, advice)


def _flat(options: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Options by dotted name, the class of a component by the component's name."""
    if isinstance(options, dict):
        for key, value in options.items():
            own = key not in ("class_path", "init_args")
            yield from _flat(value, f"{name}.{key}" if own and name else key if own else name)
    else:
        yield name, options
