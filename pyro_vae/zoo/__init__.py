"""Trained models that come with the package.

Each is a folder with the configuration of its run, its weights, and ``model.json``: shape of the data, commands,
machine, versions, date and results.
"""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path
from typing import Any

from pyro_vae._core.checks import check_choice
from pyro_vae.experiments.experiment import instantiate, parse_config
from pyro_vae.experiments.restore import restore_weights
from pyro_vae.models import VAE
from pyro_vae.models.build import build_vae
from pyro_vae.training import RunFolder

__all__ = ["describe", "load", "names"]

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the models.

    Example:
        >>> names()
        ['mnist-vae-50']
    """
    return sorted(path.parent.name for path in FOLDER.glob("*/model.json"))


def describe(name: str) -> dict[str, Any]:
    """Describe a model: shape of the data, commands, machine, versions, date, results in nats per datum.

    Args:
        name: one of :func:`names`.

    Raises:
        ValueError: there is no such model.

    Example:
        >>> describe("mnist-vae-50")["data_shape"]
        [1, 28, 28]
    """
    check_choice("zoo", "name", name, names())
    return dict(json.loads((FOLDER / name / "model.json").read_text()))


def load(name: str) -> VAE:
    """A trained VAE in eval mode, on the CPU; no data set is needed.

    Args:
        name: one of :func:`names`.

    Raises:
        ValueError: there is no such model.

    Example:
        >>> import torch
        >>> vae = load("mnist-vae-50")
        >>> vae.encode(torch.zeros(2, 1, 28, 28)).mean.shape
        torch.Size([2, 50])
    """
    description, run = describe(name), RunFolder(FOLDER / name)
    options = instantiate(parse_config(run))
    arguments = {key: options[key] for key in signature(build_vae).parameters if key in options}
    vae = build_vae(tuple(description["data_shape"]), **arguments)
    restore_weights(vae, run)
    return vae.eval()
