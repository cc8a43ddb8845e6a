"""Distributions that torch and Pyro do not have."""

from pyro_vae.distributions.augmented import AugmentedPosterior
from pyro_vae.distributions.gradient import gradient
from pyro_vae.distributions.leapfrog import Leapfrog
from pyro_vae.distributions.mixture_of_normals import MixtureOfNormals
from pyro_vae.distributions.one_hot import OneHotVariables, RelaxedOneHotVariables
from pyro_vae.distributions.pair import AuxiliaryPair

__all__ = [
    "AugmentedPosterior",
    "AuxiliaryPair",
    "Leapfrog",
    "MixtureOfNormals",
    "OneHotVariables",
    "RelaxedOneHotVariables",
    "gradient",
]
