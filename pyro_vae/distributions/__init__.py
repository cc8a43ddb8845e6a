"""Distributions that torch and Pyro do not have."""

from pyro_vae.distributions.augmented import AugmentedPosterior
from pyro_vae.distributions.mixture_of_normals import MixtureOfNormals

__all__ = ["AugmentedPosterior", "MixtureOfNormals"]
