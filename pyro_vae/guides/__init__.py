"""Guides q(z | x)."""

from pyro_vae.guides.base import AmortizedGuide, Guide
from pyro_vae.guides.diagonal_normal import DiagonalNormalGuide
from pyro_vae.guides.flow import FlowGuide
from pyro_vae.guides.householder_flow import HouseholderFlowGuide
from pyro_vae.guides.iaf import IAFGuide
from pyro_vae.guides.planar_flow import PlanarFlowGuide
from pyro_vae.guides.radial_flow import RadialFlowGuide
from pyro_vae.guides.spline_flow import SplineFlowGuide
from pyro_vae.guides.sylvester_flow import SylvesterFlowGuide

__all__ = [
    "AmortizedGuide",
    "DiagonalNormalGuide",
    "FlowGuide",
    "Guide",
    "HouseholderFlowGuide",
    "IAFGuide",
    "PlanarFlowGuide",
    "RadialFlowGuide",
    "SplineFlowGuide",
    "SylvesterFlowGuide",
]
