"""Models: priors, likelihoods and guides combined into Pyro programs."""

from pyro_vae.models.autoregressive import AutoregressiveModel
from pyro_vae.models.auxiliary_semi_supervised import ADGM, SDGM
from pyro_vae.models.components import BernoulliComponents, Components, NormalComponents
from pyro_vae.models.conditional import ConditionalModel, ConditionalVAE
from pyro_vae.models.given import Given, GreyLevels, LowResolution, SeenEntries
from pyro_vae.models.hierarchical import HierarchicalModel, HierarchicalVAE
from pyro_vae.models.implicit import ImplicitModel
from pyro_vae.models.labelled import LabelledVAE
from pyro_vae.models.layered_guides import BottomUpGuide, LadderGuide, LayeredGuide, TopDownGuide
from pyro_vae.models.mixture import MixtureModel
from pyro_vae.models.semi_supervised import (
    SemiSupervisedGuide,
    SemiSupervisedModel,
    SemiSupervisedVAE,
    classification_weight,
)
from pyro_vae.models.stacked import StackedVAE
from pyro_vae.models.vae import VAE, GenerativeModel

__all__ = [
    "ADGM",
    "SDGM",
    "VAE",
    "AutoregressiveModel",
    "BernoulliComponents",
    "BottomUpGuide",
    "Components",
    "ConditionalModel",
    "ConditionalVAE",
    "GenerativeModel",
    "Given",
    "GreyLevels",
    "HierarchicalModel",
    "HierarchicalVAE",
    "ImplicitModel",
    "LabelledVAE",
    "LadderGuide",
    "LayeredGuide",
    "LowResolution",
    "MixtureModel",
    "NormalComponents",
    "SeenEntries",
    "SemiSupervisedGuide",
    "SemiSupervisedModel",
    "SemiSupervisedVAE",
    "StackedVAE",
    "TopDownGuide",
    "classification_weight",
]
