"""Distributions that torch and Pyro do not have."""

from pyro_vae.distributions.augmented import AugmentedPosterior

__all__ = ["AugmentedPosterior"]
