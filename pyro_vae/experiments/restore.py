"""Restoring the weights of a run."""

from __future__ import annotations

from pyro_vae._core.checks import refusal
from pyro_vae.models import VAE, LabelledVAE
from pyro_vae.training import RunFolder


def restore_weights(vae: VAE | LabelledVAE, run: RunFolder, *, raw: bool = False) -> None:
    """Load the trained weights of model and guide; ``raw`` ones are those that are not averaged.

    Raises:
        FileNotFoundError: the run has no weights yet, or no raw ones.
        ValueError: the weights are damaged or those of another model.
    """
    weights = run.load_weights(raw=raw)
    try:
        vae.load_state_dict(weights)
    except RuntimeError:
        rule = f"{run.path} must hold the weights of its own config.yaml"
        raise refusal("RunFolder", rule, "others", "Restore the folder from a copy") from None


def restore_model(vae: VAE | LabelledVAE, run: RunFolder) -> None:
    """Load the trained weights of the model alone; the run's guide may be of another class.

    Raises:
        ValueError: the weights are those of another model.
    """
    weights = {name.removeprefix("model."): t for name, t in run.load_weights().items() if name.startswith("model.")}
    try:
        vae.model.load_state_dict(weights)
    except RuntimeError:
        rule = f"{run.path} must hold a model with the same prior and likelihood"
        raise refusal("model_from", rule, "another", "Use pyro-vae refit, which takes both from the run") from None
