"""Evaluation: estimates per datum with their uncertainty.

Measurements of any Pyro programs are called ``f(model, guide, data, ...)``; those that need the parts of a VAE are
called ``f(vae, data, ...)``: latent diagnostics, predictive checks, classification, and calibration, which simulates
its own data.
"""

from pyro_vae.evaluation.accuracy import accurate_log_likelihood
from pyro_vae.evaluation.accuracy_result import AccurateLogLikelihood
from pyro_vae.evaluation.aggregate import AggregatePosterior
from pyro_vae.evaluation.annealed import AnnealedLogLikelihood, annealed_log_likelihood
from pyro_vae.evaluation.bidirectional import Sandwich, sandwich
from pyro_vae.evaluation.calibration import Calibration, simulation_based_calibration
from pyro_vae.evaluation.calibration_curve import Reliability, reliability
from pyro_vae.evaluation.classifier import Classification, classification
from pyro_vae.evaluation.code_length import CodeLength
from pyro_vae.evaluation.confidence_interval import ConfidenceInterval, mean_interval
from pyro_vae.evaluation.conformal import Detection, conformal_p_values, detection, false_alarm_interval
from pyro_vae.evaluation.diagnostics import LatentDiagnostics, latent_diagnostics
from pyro_vae.evaluation.finished import FinishedBatches
from pyro_vae.evaluation.gain import Gain
from pyro_vae.evaluation.gaps import inference_gaps
from pyro_vae.evaluation.gaps_result import InferenceGaps, gap_table
from pyro_vae.evaluation.gradient_noise import GradientSNR, gradient_snr
from pyro_vae.evaluation.harmonic import HarmonicLogLikelihood, harmonic_log_likelihood
from pyro_vae.evaluation.image_distortions import DistortedImages, distorted_images
from pyro_vae.evaluation.importance import log_likelihood
from pyro_vae.evaluation.imputation import Imputation, impute
from pyro_vae.evaluation.inflation import InflatedProposal
from pyro_vae.evaluation.label_posterior import ClassPosterior, class_posterior
from pyro_vae.evaluation.latent_factors import Disentanglement, code_disentanglement, disentanglement
from pyro_vae.evaluation.likelihood import LogLikelihood
from pyro_vae.evaluation.lossy_code import LossyCode
from pyro_vae.evaluation.outlier_detection import OutlierDetector, outliers
from pyro_vae.evaluation.outlier_scores import OutlierScores
from pyro_vae.evaluation.pareto import pareto_k
from pyro_vae.evaluation.posterior import PosteriorSamples, posterior_samples
from pyro_vae.evaluation.predictive import PredictiveCheck, default_statistics, posterior_predictive_check
from pyro_vae.evaluation.proposals import prior_proposal
from pyro_vae.evaluation.result import Quantity, Result
from pyro_vae.evaluation.sample_metrics import SampleQuality, sample_quality
from pyro_vae.evaluation.weights import ImportanceWeights, LogWeights, log_weights

__all__ = [
    "AccurateLogLikelihood",
    "AggregatePosterior",
    "AnnealedLogLikelihood",
    "Calibration",
    "ClassPosterior",
    "Classification",
    "CodeLength",
    "ConfidenceInterval",
    "Detection",
    "Disentanglement",
    "DistortedImages",
    "FinishedBatches",
    "Gain",
    "GradientSNR",
    "HarmonicLogLikelihood",
    "ImportanceWeights",
    "Imputation",
    "InferenceGaps",
    "InflatedProposal",
    "LatentDiagnostics",
    "LogLikelihood",
    "LogWeights",
    "LossyCode",
    "OutlierDetector",
    "OutlierScores",
    "PosteriorSamples",
    "PredictiveCheck",
    "Quantity",
    "Reliability",
    "Result",
    "SampleQuality",
    "Sandwich",
    "accurate_log_likelihood",
    "annealed_log_likelihood",
    "class_posterior",
    "classification",
    "code_disentanglement",
    "conformal_p_values",
    "default_statistics",
    "detection",
    "disentanglement",
    "distorted_images",
    "false_alarm_interval",
    "gap_table",
    "gradient_snr",
    "harmonic_log_likelihood",
    "impute",
    "inference_gaps",
    "latent_diagnostics",
    "log_likelihood",
    "log_weights",
    "mean_interval",
    "outliers",
    "pareto_k",
    "posterior_predictive_check",
    "posterior_samples",
    "prior_proposal",
    "reliability",
    "sample_quality",
    "sandwich",
    "simulation_based_calibration",
]
