"""Priors p(z)."""

from pyro_vae.priors.base import Prior
from pyro_vae.priors.categorical import CategoricalPrior
from pyro_vae.priors.conditional import ConditionalPrior
from pyro_vae.priors.factorized import FactorizedPrior
from pyro_vae.priors.flow import FlowPrior
from pyro_vae.priors.hyper import HyperPrior
from pyro_vae.priors.laplace import LaplacePrior
from pyro_vae.priors.mixture_of_normals import MixtureOfNormalsPrior
from pyro_vae.priors.standard_normal import StandardNormalPrior
from pyro_vae.priors.vamp import VampPrior

__all__ = [
    "CategoricalPrior",
    "ConditionalPrior",
    "FactorizedPrior",
    "FlowPrior",
    "HyperPrior",
    "LaplacePrior",
    "MixtureOfNormalsPrior",
    "Prior",
    "StandardNormalPrior",
    "VampPrior",
]
