"""A VAE from its pieces' factories, on a device, with the weights of a run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, cast

import torch

from pyro_vae._core.contexts import isolated
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.models import VAE, LabelledVAE
from pyro_vae.networks import Shape
from pyro_vae.priors import Prior
from pyro_vae.ranks import local_rank
from pyro_vae.training import Run

Device = Literal["auto", "cpu", "cuda"]


def build_vae(
    data_shape: Shape,
    latent_dim: int,
    prior: Callable[[int], Prior],
    likelihood: Callable[[int, Shape], Likelihood],
    guide: Callable[[Shape, int], Guide],
    prior_guide: Callable[[Shape, int], Guide] | None = None,
    *,
    seed: int = 0,
) -> VAE:
    """Build the three pieces for the data's shape, with initial weights by ``seed``; the global generator stays.

    A prior whose first argument is called ``guide``, as VampPrior's, is given the guide, or one built by
    ``prior_guide``, instead of ``latent_dim``.
    """
    with isolated(seed):
        if not takes_guide(prior):
            if prior_guide is not None:
                raise ValueError("prior_guide: must have a VampPrior, got another prior. Leave the option away.")
            return VAE(prior(latent_dim), likelihood(latent_dim, data_shape), guide(data_shape, latent_dim))
        made = likelihood(latent_dim, data_shape), guide(data_shape, latent_dim)
        through = made[1] if prior_guide is None else prior_guide(data_shape, latent_dim)
        return VAE(cast(Any, prior)(through), *made)


def load_weights(vae: VAE | LabelledVAE, run: Run) -> None:
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
            f"Run: {run.path} must hold the weights of its own config.yaml, got others. Restore the folder from a copy."
        ) from None


def load_model(vae: VAE | LabelledVAE, run: Run) -> None:
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


def takes_guide(factory: Any) -> bool:
    """Whether the first argument is called ``guide``; the class may be within the parser's ``partial``."""
    classes = [c for c in (factory, *getattr(factory, "args", ())) if inspect.isclass(c)]
    return bool(classes) and next(iter(inspect.signature(classes[0]).parameters), "") == "guide"


def choose_device(name: Device) -> torch.device:
    """The device of a name.

    Raises:
        ValueError: CUDA is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: cuda must be available, got none on this machine. Use --device cpu or auto.")
    return torch.device("cuda", local_rank()) if name != "cpu" and torch.cuda.is_available() else torch.device("cpu")
