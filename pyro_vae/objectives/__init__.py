"""Objectives: losses for SVI, as Pyro ELBOs, and schedules of their weights."""

from pyro_vae.objectives.adversarial_elbo import AdversarialELBO
from pyro_vae.objectives.adversarial_reconstruction import AdversarialReconstruction
from pyro_vae.objectives.adversarial_samples import AdversarialSamples
from pyro_vae.objectives.base import Objective, Terms
from pyro_vae.objectives.beta_tc import BetaTC
from pyro_vae.objectives.elbo import ELBO, BetaELBO, BetaMeanFieldELBO, MeanFieldELBO
from pyro_vae.objectives.enumerated import EnumeratedELBO
from pyro_vae.objectives.factor_vae import FactorVAE
from pyro_vae.objectives.free_bits import FreeBits
from pyro_vae.objectives.importance_weighted import IWAE, MIWAE
from pyro_vae.objectives.info_vae import InfoVAE
from pyro_vae.objectives.perceptual import PerceptualReconstruction
from pyro_vae.objectives.rate_distortion import RateDistortion
from pyro_vae.objectives.ratio import RatioNetwork, RatioTraining, fit_ratio
from pyro_vae.objectives.renyi import Renyi
from pyro_vae.objectives.reparameterized import DoublyReparameterized, StickingTheLanding
from pyro_vae.objectives.schedules import ConstantSchedule, CyclicalSchedule, LinearWarmUp, Schedule
from pyro_vae.objectives.score_function import VIMCO, ScoreFunction
from pyro_vae.objectives.trace_enum import TraceEnumELBO
from pyro_vae.objectives.wake_sleep import ReweightedWakeSleep, WakeSleep

__all__ = [
    "ELBO",
    "IWAE",
    "MIWAE",
    "VIMCO",
    "AdversarialELBO",
    "AdversarialReconstruction",
    "AdversarialSamples",
    "BetaELBO",
    "BetaMeanFieldELBO",
    "BetaTC",
    "ConstantSchedule",
    "CyclicalSchedule",
    "DoublyReparameterized",
    "EnumeratedELBO",
    "FactorVAE",
    "FreeBits",
    "InfoVAE",
    "LinearWarmUp",
    "MeanFieldELBO",
    "Objective",
    "PerceptualReconstruction",
    "RateDistortion",
    "RatioNetwork",
    "RatioTraining",
    "Renyi",
    "ReweightedWakeSleep",
    "Schedule",
    "ScoreFunction",
    "StickingTheLanding",
    "Terms",
    "TraceEnumELBO",
    "WakeSleep",
    "fit_ratio",
]
