"""The device of a run, and its trained weights."""

from __future__ import annotations

from typing import Literal

import torch

from pyro_vae._core.distributed import local_rank
from pyro_vae.models import VAE, LabelledVAE
from pyro_vae.training import RunFolder

Device = Literal["auto", "cpu", "cuda"]


def load_weights(vae: VAE | LabelledVAE, run: RunFolder) -> None:
    """Give model and guide the trained weights of their own run.

    Raises:
        FileNotFoundError: there are none yet.
        ValueError: they are those of another model, or damaged.
    """
    weights = run.load_weights()
    try:
        vae.load_state_dict(weights)
    except RuntimeError:
        raise ValueError(
            f"RunFolder: {run.path} must hold the weights of its own config.yaml, got others. "
            "Restore the folder from a copy."
        ) from None


def load_model(vae: VAE | LabelledVAE, run: RunFolder) -> None:
    """Give the model the trained weights of a run, whatever the guide there was.

    Raises:
        ValueError: they are those of another model.
    """
    weights = {name.removeprefix("model."): t for name, t in run.load_weights().items() if name.startswith("model.")}
    try:
        vae.model.load_state_dict(weights)
    except RuntimeError:
        raise ValueError(
            f"model_from: {run.path} must hold a model with the same prior and likelihood, got another. "
            "Use `pyro-vae refit`, which takes both from the run."
        ) from None


def choose_device(name: Device) -> torch.device:
    """The device of a name.

    Raises:
        ValueError: CUDA is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: cuda must be available, got none on this machine. Use --device cpu or auto.")
    return torch.device("cuda", local_rank()) if name != "cpu" and torch.cuda.is_available() else torch.device("cpu")
