"""Distributions that torch and Pyro do not have."""

from pyro_vae.distributions.augmented import AugmentedPosterior
from pyro_vae.distributions.gradient import gradient
from pyro_vae.distributions.leapfrog import Leapfrog
from pyro_vae.distributions.mixture_of_normals import MixtureOfNormals
from pyro_vae.distributions.one_hot import IndependentOneHotCategorical, RelaxedIndependentOneHotCategorical
from pyro_vae.distributions.pair import AuxiliaryJoint

__all__ = [
    "AugmentedPosterior",
    "AuxiliaryJoint",
    "IndependentOneHotCategorical",
    "Leapfrog",
    "MixtureOfNormals",
    "RelaxedIndependentOneHotCategorical",
    "gradient",
]
