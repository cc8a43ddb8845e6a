"""Likelihoods p(x | z)."""

from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.bernoulli import BernoulliLikelihood
from pyro_vae.likelihoods.categorical import CategoricalLikelihood
from pyro_vae.likelihoods.discretized_logistic import DiscretizedLogisticLikelihood
from pyro_vae.likelihoods.normal import NormalLikelihood

__all__ = [
    "BernoulliLikelihood",
    "CategoricalLikelihood",
    "DiscretizedLogisticLikelihood",
    "Likelihood",
    "NormalLikelihood",
]
