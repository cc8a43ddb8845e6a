"""Restoring the weights of a run."""

from __future__ import annotations

from torch import Tensor

from pyro_vae._core.checks import refusal
from pyro_vae.models import VAE, AutoregressiveModel, ConditionalVAE, LabelledVAE
from pyro_vae.training import RunFolder

AnyModel = VAE | ConditionalVAE | LabelledVAE | AutoregressiveModel


def restore_weights(vae: AnyModel, run: RunFolder, *, raw: bool = False) -> None:
    """Load the trained weights of model and guide; ``raw`` ones are those that are not averaged.

    Raises:
        FileNotFoundError: the run has no weights yet, or no raw ones.
        ValueError: the weights are damaged or those of another model.
    """
    weights = run.load_weights(raw=raw)
    if isinstance(vae, AutoregressiveModel):  # whose Pyro model is a method
        weights = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    try:
        vae.load_state_dict(weights)
    except RuntimeError:
        name = f"weights{'-raw' * raw}.safetensors"
        rule = f"{run.path / name} must hold the weights of the run's config.yaml"
        raise refusal("RunFolder", rule, _difference(vae, weights), "Restore the folder from a copy") from None


def _difference(vae: AnyModel, weights: dict[str, Tensor]) -> str:
    """The first tensor that is missing, superfluous, or of another shape."""
    expected = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    name = min(name for name in expected.keys() | shapes.keys() if expected.get(name) != shapes.get(name))
    return f"shape {shapes.get(name)} instead of {expected.get(name)} for {name!r}"


def restore_model(vae: VAE | ConditionalVAE | LabelledVAE, run: RunFolder) -> None:
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
