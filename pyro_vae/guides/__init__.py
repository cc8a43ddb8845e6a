"""Guides q(z | x)."""

from pyro_vae.guides.base import AmortizedGuide, Guide
from pyro_vae.guides.diagonal_normal import DiagonalNormalGuide

__all__ = ["AmortizedGuide", "DiagonalNormalGuide", "Guide"]
