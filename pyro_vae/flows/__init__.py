"""Invertible maps and the distributions that they define.

They replace Pyro's and zuko's because they can be traced by ``make_fx``, invert exactly and keep dtypes; zuko's masks
fail the contract on dtypes, and importing it changes torch's validation state. Both libraries are oracles of the tests.
"""

from pyro_vae.flows.autoregressive import AutoregressiveFlow
from pyro_vae.flows.base import Flow
from pyro_vae.flows.coupling import CouplingFlow
from pyro_vae.flows.distribution import FlowDistribution
from pyro_vae.flows.elementary import AffineFlow, InverseFlow, ReverseFlow
from pyro_vae.flows.householder import HouseholderFlow
from pyro_vae.flows.planar import PlanarFlow
from pyro_vae.flows.radial import RadialFlow
from pyro_vae.flows.spline import RationalQuadraticSpline
from pyro_vae.flows.sylvester import SylvesterFlow

__all__ = [
    "AffineFlow",
    "AutoregressiveFlow",
    "CouplingFlow",
    "Flow",
    "FlowDistribution",
    "HouseholderFlow",
    "InverseFlow",
    "PlanarFlow",
    "RadialFlow",
    "RationalQuadraticSpline",
    "ReverseFlow",
    "SylvesterFlow",
]
