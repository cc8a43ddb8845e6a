"""Variational autoencoders as probabilistic programs.

A VAE is a Pyro model and a Pyro guide, each built from small modules that map tensors to a distribution; everything
else here trains such a pair, measures it, or uses it.
"""

from pyro_vae import data, evaluation, guides, likelihoods, models, networks, objectives, priors, training
from pyro_vae.data import MNIST, Digits, Files, FreyFaces, ImageSet, Splits
from pyro_vae.evaluation import LogLikelihood, latent_diagnostics, log_likelihood, log_weights, prior_proposal
from pyro_vae.guides import AmortizedGuide, DiagonalNormalGuide, Guide
from pyro_vae.likelihoods import (
    BernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    Likelihood,
    NormalLikelihood,
)
from pyro_vae.models import VAE, HierarchicalVAE
from pyro_vae.networks import MLP, ContextNetwork, ConvDecoder, ConvEncoder, GatedMLP, Network
from pyro_vae.priors import MixtureOfNormalsPrior, Prior, StandardNormalPrior, VampPrior
from pyro_vae.training import FitResult, Run, fit, refit_guide

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "MNIST",
    "VAE",
    "AmortizedGuide",
    "BernoulliLikelihood",
    "ContextNetwork",
    "ConvDecoder",
    "ConvEncoder",
    "DiagonalNormalGuide",
    "Digits",
    "DiscretizedLogisticLikelihood",
    "Files",
    "FitResult",
    "FreyFaces",
    "GatedMLP",
    "Guide",
    "HierarchicalVAE",
    "ImageSet",
    "Likelihood",
    "LogLikelihood",
    "MixtureOfNormalsPrior",
    "Network",
    "NormalLikelihood",
    "Prior",
    "Run",
    "Splits",
    "StandardNormalPrior",
    "VampPrior",
    "data",
    "evaluation",
    "fit",
    "guides",
    "latent_diagnostics",
    "likelihoods",
    "log_likelihood",
    "log_weights",
    "models",
    "networks",
    "objectives",
    "prior_proposal",
    "priors",
    "refit_guide",
    "training",
]
