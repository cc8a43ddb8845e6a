"""Models: the pieces bound into Pyro programs."""

from pyro_vae.models.hierarchical import HierarchicalModel, HierarchicalVAE
from pyro_vae.models.layered_guides import BottomUpGuide, LadderGuide, LayeredGuide, TopDownGuide
from pyro_vae.models.semi_supervised import (
    SemiSupervisedGuide,
    SemiSupervisedModel,
    SemiSupervisedVAE,
    classification_weight,
)
from pyro_vae.models.vae import VAE, GenerativeModel

__all__ = [
    "VAE",
    "BottomUpGuide",
    "GenerativeModel",
    "HierarchicalModel",
    "HierarchicalVAE",
    "LadderGuide",
    "LayeredGuide",
    "SemiSupervisedGuide",
    "SemiSupervisedModel",
    "SemiSupervisedVAE",
    "TopDownGuide",
    "classification_weight",
]
