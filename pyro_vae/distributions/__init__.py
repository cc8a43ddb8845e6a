"""Distributions that torch and Pyro lack."""

from pyro_vae.distributions.augmented import AugmentedPosterior, AuxiliaryJoint
from pyro_vae.distributions.autoregressive import Autoregressive, mean_or_sample
from pyro_vae.distributions.columns import Columns
from pyro_vae.distributions.counts import LogMeanNegativeBinomial, LogMeanPoisson
from pyro_vae.distributions.given_entries import GivenEntries
from pyro_vae.distributions.implicit import Implicit, Score, scored_by
from pyro_vae.distributions.leapfrog import Leapfrog, gradient
from pyro_vae.distributions.mixture_of_normals import MixtureOfNormals
from pyro_vae.distributions.observed_entries import ObservedEntries
from pyro_vae.distributions.one_hot import IndependentOneHotCategorical, RelaxedIndependentOneHotCategorical
from pyro_vae.distributions.uniform_noise import UnitBox, WithUniformNoise

__all__ = [
    "AugmentedPosterior",
    "Autoregressive",
    "AuxiliaryJoint",
    "Columns",
    "GivenEntries",
    "Implicit",
    "IndependentOneHotCategorical",
    "Leapfrog",
    "LogMeanNegativeBinomial",
    "LogMeanPoisson",
    "MixtureOfNormals",
    "ObservedEntries",
    "RelaxedIndependentOneHotCategorical",
    "Score",
    "UnitBox",
    "WithUniformNoise",
    "gradient",
    "mean_or_sample",
    "scored_by",
]
