"""Likelihoods p(x | z)."""

from pyro_vae.likelihoods.autoregressive import AutoregressiveLikelihood
from pyro_vae.likelihoods.base import Likelihood, SiteLikelihood
from pyro_vae.likelihoods.bernoulli import BernoulliLikelihood
from pyro_vae.likelihoods.beta_binomial import BetaBinomialLikelihood
from pyro_vae.likelihoods.categorical import CategoricalLikelihood
from pyro_vae.likelihoods.continuous_bernoulli import ContinuousBernoulliLikelihood
from pyro_vae.likelihoods.discretized_logistic import DiscretizedLogisticLikelihood
from pyro_vae.likelihoods.implicit import ImplicitLikelihood
from pyro_vae.likelihoods.laplace import LaplaceLikelihood
from pyro_vae.likelihoods.mixed import MixedLikelihood
from pyro_vae.likelihoods.mixture_of_logistics import MixtureOfLogisticsLikelihood
from pyro_vae.likelihoods.negative_binomial import NegativeBinomialLikelihood
from pyro_vae.likelihoods.normal import NormalLikelihood
from pyro_vae.likelihoods.ordinal import OrdinalLikelihood
from pyro_vae.likelihoods.poisson import PoissonLikelihood
from pyro_vae.likelihoods.student_t import StudentTLikelihood
from pyro_vae.likelihoods.zero_inflated_negative_binomial import ZeroInflatedNegativeBinomialLikelihood

__all__ = [
    "AutoregressiveLikelihood",
    "BernoulliLikelihood",
    "BetaBinomialLikelihood",
    "CategoricalLikelihood",
    "ContinuousBernoulliLikelihood",
    "DiscretizedLogisticLikelihood",
    "ImplicitLikelihood",
    "LaplaceLikelihood",
    "Likelihood",
    "MixedLikelihood",
    "MixtureOfLogisticsLikelihood",
    "NegativeBinomialLikelihood",
    "NormalLikelihood",
    "OrdinalLikelihood",
    "PoissonLikelihood",
    "SiteLikelihood",
    "StudentTLikelihood",
    "ZeroInflatedNegativeBinomialLikelihood",
]
