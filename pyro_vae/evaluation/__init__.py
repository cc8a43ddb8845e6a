"""Evaluation: per-datum numbers with their uncertainty."""

from pyro_vae.evaluation.annealed import AnnealedLogLikelihood, annealed_log_likelihood
from pyro_vae.evaluation.diagnostics import LatentDiagnostics, latent_diagnostics
from pyro_vae.evaluation.importance import log_likelihood
from pyro_vae.evaluation.inflation import InflatedProposal
from pyro_vae.evaluation.likelihood import LogLikelihood
from pyro_vae.evaluation.log_weights import LogWeights, Weigher, log_weights, prior_proposal
from pyro_vae.evaluation.pareto import pareto_k
from pyro_vae.evaluation.result import Result

__all__ = [
    "AnnealedLogLikelihood",
    "InflatedProposal",
    "LatentDiagnostics",
    "LogLikelihood",
    "LogWeights",
    "Result",
    "Weigher",
    "annealed_log_likelihood",
    "latent_diagnostics",
    "log_likelihood",
    "log_weights",
    "pareto_k",
    "prior_proposal",
]
