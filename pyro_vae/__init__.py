"""Variational autoencoders as probabilistic programs.

A VAE is a Pyro model and a Pyro guide, each built from small modules that map tensors to a distribution; everything
else here trains such a pair, measures it, or uses it.
"""

from typing import Any

from pyro_vae import data, evaluation, flows, guides, likelihoods, models, networks, objectives, priors, training
from pyro_vae._core.version import __version__ as __version__
from pyro_vae.data import MNIST, Digits, Files, FreyFaces
from pyro_vae.evaluation import (
    annealed_log_likelihood,
    inference_gaps,
    latent_diagnostics,
    log_likelihood,
    log_weights,
    sandwich,
)
from pyro_vae.models import ADGM, SDGM, VAE, HierarchicalVAE, SemiSupervisedVAE, StackedVAE
from pyro_vae.training import fit, refit_guide

__all__ = [
    "ADGM",
    "MNIST",
    "SDGM",
    "VAE",
    "Digits",
    "Files",
    "FreyFaces",
    "HierarchicalVAE",
    "SemiSupervisedVAE",
    "StackedVAE",
    "annealed_log_likelihood",
    "data",
    "evaluation",
    "fit",
    "flows",
    "guides",
    "inference_gaps",
    "latent_diagnostics",
    "likelihoods",
    "load_run",
    "log_likelihood",
    "log_weights",
    "models",
    "networks",
    "objectives",
    "priors",
    "refit_guide",
    "sandwich",
    "training",
]


def __getattr__(name: str) -> Any:
    if name == "load_run":  # imported on first use, since it loads the parser of the command line
        from pyro_vae.experiments.experiment import load_run

        return load_run
    raise AttributeError(f"module 'pyro_vae' has no attribute {name!r}")
