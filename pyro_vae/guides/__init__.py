"""Guides q(z | x)."""

from pyro_vae.guides.auxiliary import AuxiliaryGuide
from pyro_vae.guides.base import AmortizedGuide, Guide
from pyro_vae.guides.categorical import CategoricalGuide
from pyro_vae.guides.delta import DeltaGuide
from pyro_vae.guides.diagonal_normal import DiagonalNormalGuide
from pyro_vae.guides.flow import FlowGuide
from pyro_vae.guides.full_rank_normal import FullRankNormalGuide
from pyro_vae.guides.hmc import HMCGuide
from pyro_vae.guides.householder_flow import HouseholderFlowGuide
from pyro_vae.guides.iaf import IAFGuide
from pyro_vae.guides.implicit import ImplicitGuide
from pyro_vae.guides.low_rank_normal import LowRankNormalGuide
from pyro_vae.guides.mixture_of_normals import MixtureOfNormalsGuide
from pyro_vae.guides.planar_flow import PlanarFlowGuide
from pyro_vae.guides.quantized import QuantizedGuide
from pyro_vae.guides.radial_flow import RadialFlowGuide
from pyro_vae.guides.semi_amortized import SemiAmortizedGuide
from pyro_vae.guides.spline_flow import SplineFlowGuide
from pyro_vae.guides.sylvester_flow import SylvesterFlowGuide

__all__ = [
    "AmortizedGuide",
    "AuxiliaryGuide",
    "CategoricalGuide",
    "DeltaGuide",
    "DiagonalNormalGuide",
    "FlowGuide",
    "FullRankNormalGuide",
    "Guide",
    "HMCGuide",
    "HouseholderFlowGuide",
    "IAFGuide",
    "ImplicitGuide",
    "LowRankNormalGuide",
    "MixtureOfNormalsGuide",
    "PlanarFlowGuide",
    "QuantizedGuide",
    "RadialFlowGuide",
    "SemiAmortizedGuide",
    "SplineFlowGuide",
    "SylvesterFlowGuide",
]
