"""Invertible maps and the distributions they make."""

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
