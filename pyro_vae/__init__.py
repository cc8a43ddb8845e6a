"""Variational autoencoders as probabilistic programs.

A VAE is a Pyro model and a Pyro guide, each built from small modules that map tensors to a distribution; everything
else here trains such a pair, measures it, or uses it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyro_vae._core.version import __version__ as __version__

if TYPE_CHECKING:
    from pyro_vae import (
        compression,
        data,
        evaluation,
        flows,
        guides,
        latents,
        likelihoods,
        models,
        networks,
        objectives,
        priors,
        training,
    )
    from pyro_vae.data import MNIST, Digits, Faces, FashionMNIST, Files, FreyFaces, Patches
    from pyro_vae.evaluation import (
        annealed_log_likelihood,
        impute,
        inference_gaps,
        latent_diagnostics,
        log_likelihood,
        log_weights,
        sandwich,
    )
    from pyro_vae.experiments.experiment import load_run
    from pyro_vae.explorer import explore
    from pyro_vae.guides import CategoricalGuide, DiagonalNormalGuide, FullRankNormalGuide, IAFGuide
    from pyro_vae.likelihoods import (
        BernoulliLikelihood,
        CategoricalLikelihood,
        DiscretizedLogisticLikelihood,
        MixedLikelihood,
        MixtureOfLogisticsLikelihood,
        NegativeBinomialLikelihood,
        NormalLikelihood,
        PoissonLikelihood,
        StudentTLikelihood,
    )
    from pyro_vae.models import (
        ADGM,
        SDGM,
        VAE,
        AutoregressiveModel,
        ConditionalVAE,
        HierarchicalVAE,
        SemiSupervisedVAE,
        StackedVAE,
    )
    from pyro_vae.networks import MLP, ConvDecoder, ConvEncoder
    from pyro_vae.objectives import ELBO, IWAE, BetaELBO
    from pyro_vae.priors import CategoricalPrior, StandardNormalPrior, VampPrior
    from pyro_vae.training import fit, refit_guide, vae_for

__all__ = [
    "ADGM",
    "ELBO",
    "IWAE",
    "MLP",
    "MNIST",
    "SDGM",
    "VAE",
    "AutoregressiveModel",
    "BernoulliLikelihood",
    "BetaELBO",
    "CategoricalGuide",
    "CategoricalLikelihood",
    "CategoricalPrior",
    "ConditionalVAE",
    "ConvDecoder",
    "ConvEncoder",
    "DiagonalNormalGuide",
    "Digits",
    "DiscretizedLogisticLikelihood",
    "Faces",
    "FashionMNIST",
    "Files",
    "FreyFaces",
    "FullRankNormalGuide",
    "HierarchicalVAE",
    "IAFGuide",
    "MixedLikelihood",
    "MixtureOfLogisticsLikelihood",
    "NegativeBinomialLikelihood",
    "NormalLikelihood",
    "Patches",
    "PoissonLikelihood",
    "SemiSupervisedVAE",
    "StackedVAE",
    "StandardNormalPrior",
    "StudentTLikelihood",
    "VampPrior",
    "annealed_log_likelihood",
    "compression",
    "data",
    "evaluation",
    "explore",
    "fit",
    "flows",
    "guides",
    "impute",
    "inference_gaps",
    "latent_diagnostics",
    "latents",
    "likelihoods",
    "load_run",
    "log_likelihood",
    "log_weights",
    "models",
    "networks",
    "objectives",
    "priors",
    "refit_guide",
    "sandwich",
    "training",
    "vae_for",
]


# Folders of the names that are not folders themselves. They are imported at their first use: the command line prepares
# the process before torch is loaded, and load_run loads the command line's parser.
_FOLDERS = {
    "data": ("MNIST", "Digits", "Faces", "FashionMNIST", "Files", "FreyFaces", "Patches"),
    "evaluation": (
        *("annealed_log_likelihood", "impute", "inference_gaps", "latent_diagnostics"),
        *("log_likelihood", "log_weights", "sandwich"),
    ),
    "guides": ("CategoricalGuide", "DiagonalNormalGuide", "FullRankNormalGuide", "IAFGuide"),
    "likelihoods": (
        *("BernoulliLikelihood", "CategoricalLikelihood", "DiscretizedLogisticLikelihood", "MixedLikelihood"),
        *("MixtureOfLogisticsLikelihood", "NegativeBinomialLikelihood", "NormalLikelihood"),
        *("PoissonLikelihood", "StudentTLikelihood"),
    ),
    "models": (
        *("ADGM", "SDGM", "VAE", "AutoregressiveModel", "ConditionalVAE", "HierarchicalVAE"),
        *("SemiSupervisedVAE", "StackedVAE"),
    ),
    "networks": ("MLP", "ConvDecoder", "ConvEncoder"),
    "objectives": ("ELBO", "IWAE", "BetaELBO"),
    "priors": ("CategoricalPrior", "StandardNormalPrior", "VampPrior"),
    "training": ("fit", "refit_guide", "vae_for"),
    "experiments.experiment": ("load_run",),
    "explorer": ("explore",),
}
_HOME = {name: folder for folder, names in _FOLDERS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"pyro_vae.{_HOME[name]}"), name)
    if name in __all__ or name == "zoo":
        return import_module(f"pyro_vae.{name}")
    raise AttributeError(f"module 'pyro_vae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
