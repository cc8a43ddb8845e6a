"""Objectives: what SVI minimises, and the schedules of their weights."""

from pyro_vae.objectives.base import Objective, Terms
from pyro_vae.objectives.elbo import ELBO, BetaELBO, BetaMeanFieldELBO, MeanFieldELBO
from pyro_vae.objectives.schedules import ConstantSchedule, CyclicalSchedule, LinearWarmUp, Schedule

__all__ = [
    "ELBO",
    "BetaELBO",
    "BetaMeanFieldELBO",
    "ConstantSchedule",
    "CyclicalSchedule",
    "LinearWarmUp",
    "MeanFieldELBO",
    "Objective",
    "Schedule",
    "Terms",
]
