"""Priors p(z)."""

from pyro_vae.priors.base import Prior
from pyro_vae.priors.categorical import CategoricalPrior
from pyro_vae.priors.conditional import ConditionalPrior
from pyro_vae.priors.flow import FlowPrior
from pyro_vae.priors.mixture_of_normals import MixtureOfNormalsPrior
from pyro_vae.priors.standard_normal import StandardNormalPrior
from pyro_vae.priors.vamp import VampPrior

__all__ = [
    "CategoricalPrior",
    "ConditionalPrior",
    "FlowPrior",
    "MixtureOfNormalsPrior",
    "Prior",
    "StandardNormalPrior",
    "VampPrior",
]
