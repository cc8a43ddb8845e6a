"""Call every public function and constructor with one bad argument at a time, all others valid.

    python -m tools.attack_arguments                    all of them; prints a table and lists the failures
    python -m tools.attack_arguments guides MNIST       those of a folder, or of a name

A good answer is one line, ``<owner>: ...``, that names the argument. A value may be accepted only if ``ACCEPTED`` lists
it. Everything else is a failure: another message, nonsense that is accepted, a call that does not end.

The bad values are made from the annotation of the argument and its valid value. Networks, priors, likelihoods and
guides are called by the conventions of the contract tests, which are also the source of the classes; what else is
needed stands in ``CALLS``.
"""

from __future__ import annotations

import argparse
import inspect
import math
import re
import signal
import sys
import types
import typing
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal, NamedTuple

import numpy as np
import optuna
import torch
from matplotlib.figure import Figure
from pyro.distributions import Normal
from torch import Tensor, nn

from pyro_vae import (
    data,
    distributions,
    evaluation,
    features,
    flows,
    guides,
    likelihoods,
    models,
    networks,
    objectives,
    plotting,
    priors,
    training,
)
from tests.test_contracts import CONVENTIONS, DATA_SHAPE, concrete, mixed_parts, public, small

FOLDERS = [networks, distributions, flows, priors, likelihoods, guides, models, objectives]
FOLDERS += [data, evaluation, training, plotting, features]
SECONDS = 10.0  # after which a call counts as endless

# ---------------------------------------------------------------- valid calls


@cache
def vae(shape: tuple[int, ...] = (5,)) -> models.VAE:
    return models.VAE(
        priors.StandardNormalPrior(2),
        likelihoods.BernoulliLikelihood(2, shape, net=small),
        guides.DiagonalNormalGuide(shape, 2, net=small),
    )


@cache
def incomplete() -> models.VAE:
    guide = guides.DiagonalNormalGuide((5,), 2, net=partial(networks.ZeroFilledNetwork, net=small))
    return models.VAE(vae().prior, vae().likelihood, guide, missing=True)


@cache
def x(*shape: int) -> Tensor:
    return torch.rand(shape or (6, 5), generator=torch.Generator().manual_seed(0)).round()


@cache
def pieces(shape: tuple[int, ...] = (5,)) -> dict[str, Any]:
    """Pieces of a model of three classes."""
    net = partial(networks.ContextNetwork, context_dim=3, net=small, hidden=(4,))
    return {
        "prior": priors.StandardNormalPrior(2),
        "likelihood": likelihoods.BernoulliLikelihood(2, shape, net=net),
        "guide": guides.DiagonalNormalGuide(shape, 2, net=net),
        "classifier": guides.CategoricalGuide(shape, 3, net=small),
    }


@cache
def labelled(shape: tuple[int, ...] = (5,)) -> models.SemiSupervisedVAE:
    return models.SemiSupervisedVAE(**pieces(shape))


@cache
def completing() -> models.ConditionalVAE:
    net, seen = networks.with_context(small, IMAGES), torch.ones(IMAGES, dtype=torch.bool)
    seen[:, :2] = False
    likelihood = likelihoods.BernoulliLikelihood(2, IMAGES, net=net)
    guide = guides.DiagonalNormalGuide(IMAGES, 2, net=small)
    return models.ConditionalVAE(priors.StandardNormalPrior(2), likelihood, guide, given=models.SeenEntries(seen))


@cache
def auxiliary() -> dict[str, Any]:
    def net(*sizes: int) -> Any:
        return partial(networks.ContextNetwork, context_dim=sizes, net=small, hidden=(4,))

    return {
        "prior": priors.StandardNormalPrior(2),
        "likelihood": likelihoods.BernoulliLikelihood(2, (5,), net=net(3)),
        "guide": guides.DiagonalNormalGuide((5,), 2, net=net(3, 1)),
        "classifier": guides.CategoricalGuide((5,), 3, net=net(1)),
        "auxiliary": guides.DiagonalNormalGuide((5,), 1, net=small),
        "auxiliary_model": guides.DiagonalNormalGuide((5,), 1, net=net(2, 3)),
    }


@cache
def layers() -> dict[str, Any]:
    below = [guides.DiagonalNormalGuide((2,), 3, net=small)]
    up = [guides.DiagonalNormalGuide((5,), 3, net=small), guides.DiagonalNormalGuide((3,), 2, net=small)]
    likelihood = likelihoods.BernoulliLikelihood(3, (5,), net=small)
    return {"prior": vae().prior, "conditionals": below, "likelihood": likelihood, "guide": models.BottomUpGuide(up)}


def programs(**options: Any) -> dict[str, Any]:
    return {"model": vae().model, "guide": vae().guide, "data": x(), **options}


def pair() -> dict[str, Any]:
    """Model and guide of one VAE."""
    chosen = vae()
    return {"model": chosen.model, "guide": chosen.guide}


def saved_pair() -> str:
    """The file of a pair."""
    training.save_pair(path := f"{mkdtemp()}/pair", **pair(), batch=x())
    return path


def annealing(**options: Any) -> dict[str, Any]:
    return programs(num_chains=2, num_steps=1, engine="eager", batch_size=6, **options)


@cache
def result(name: str) -> Any:
    """The result of an evaluation at its valid arguments."""
    with torch.random.fork_rng():
        return getattr(evaluation, name)(**CALLS[name]())


def same_shape(a: Tensor) -> Any:
    return Normal(a.expand(*a.shape[:-1], 2), 1.0).to_event(1)


def top_down() -> list[Any]:
    net = partial(networks.ContextNetwork, context_dim=2, net=small, hidden=(4,))
    return [guides.DiagonalNormalGuide((5,), 3, net=net), guides.DiagonalNormalGuide((5,), 2, net=small)]


def ladder() -> list[Any]:
    return [guides.DiagonalNormalGuide((4,), 3, net=small), guides.DiagonalNormalGuide((3,), 2, net=small)]


def stacked() -> dict[str, Any]:
    net = partial(networks.ContextNetwork, context_dim=3, net=small, hidden=(4,))
    upper = models.SemiSupervisedVAE(
        priors.StandardNormalPrior(2),
        likelihoods.NormalLikelihood(2, (2,), net=net),
        guides.DiagonalNormalGuide((2,), 2, net=net),
        guides.CategoricalGuide((2,), 3, net=small),
    )
    return {"lower": vae(), "upper": upper, "active": torch.arange(2)}


CAUSAL = [
    *("MaskedMLP", "PixelCNN", "GatedPixelCNN", "PixelCNNPlusPlus", "RowLSTM", "DiagonalLSTM", "PixelAttention"),
]


def causal(name: str) -> dict[str, Any]:
    sizes = {"channels": 4, "num_layers": 1, "hidden": (4,)}
    known = inspect.signature(getattr(networks, name)).parameters
    options = {key: value for key, value in sizes.items() if key in known}
    return {"in_shape": (1, 4, 4), "out_shape": (1, 4, 4), **options}


IMAGES, NORMAL = (1, 4, 4), partial(Normal, torch.zeros(4, 3), 1.0)
# Arguments of one valid call, by name; those that are missing keep their defaults.
CALLS: dict[str, Callable[[], dict[str, Any]]] = {
    "ContextNetwork": lambda: {"in_shape": (3,), "out_shape": (4,), "context_dim": 2, "net": small, "hidden": (4,)},
    **{name: partial(causal, name) for name in CAUSAL},
    "MultiScale": lambda: {
        "in_shape": IMAGES,
        "out_shape": IMAGES,
        "net": partial(networks.PixelCNN, channels=2, num_layers=1),
        "features": 2,
    },
    "AutoregressiveLikelihood": lambda: {
        "latent_dim": 2,
        "data_shape": IMAGES,
        "net": partial(networks.PixelCNN, channels=2, num_layers=1),
        "decoder": small,
    },
    "Autoregressive": lambda: {
        "net": networks.MaskedMLP((5,), (5,), hidden=(4,)),
        "base": likelihoods.BernoulliLikelihood(1, (5,), net=small).distribution,
    },
    "mean_or_sample": lambda: {"p": NORMAL()},
    "BernoulliComponents": lambda: {"data_shape": (5,), "num_components": 2},
    "NormalComponents": lambda: {"data_shape": (5,), "num_components": 2},
    "MixtureModel": lambda: {"components": models.BernoulliComponents((5,), 2)},
    "ImplicitModel": lambda: {
        "prior": priors.StandardNormalPrior(2),
        "likelihood": likelihoods.ImplicitLikelihood(2, (5,), net=small),
    },
    "PerceptualReconstruction": lambda: {"features": nn.Linear(5, 3)},
    "UnitBox": lambda: {"loc": torch.zeros(5)},
    "WithUniformNoise": lambda: {"logits": priors.FactorizedPrior(2).logits, "like": torch.zeros(2)},
    "fit_em": lambda: {"model": models.MixtureModel(models.BernoulliComponents((5,), 2)), "data": x(), "iterations": 2},
    "fit_latent_density": lambda: {"vae": vae(), "data": x(12, 5)},
    "EncoderClassifier": lambda: {"encoder": vae().guide, "num_classes": 2},
    "fine_tune": lambda: {"source": vae(), "images": x(), "labels": torch.arange(6) % 2, "epochs": 1},
    "AutoregressiveModel": lambda: {"data_shape": (5,), "net": partial(networks.MaskedMLP, hidden=(4,))},
    "build_network": lambda: {"net": small, "in_shape": (3,), "out_shape": (4,)},
    "OrdinalLikelihood": lambda: {"latent_dim": 2, "data_shape": (5,), "levels": 4, "net": small},
    "MixedLikelihood": lambda: {"latent_dim": 2, "data_shape": DATA_SHAPE, "parts": mixed_parts(), "net": small},
    "VampPrior": lambda: {"guide": vae().guide, "num_components": 3},
    "SemiAmortizedGuide": lambda: {
        "data_shape": (5,),
        "latent_dim": 2,
        "guide": partial(guides.DiagonalNormalGuide, net=small),
    },
    # distributions and flows
    "AugmentedPosterior": lambda: {
        "joint": NORMAL().to_event(1),
        "latent_dim": 2,
        "reverse": lambda z: Normal(z[..., :1], 1.0).to_event(1),
    },
    "AuxiliaryJoint": lambda: {
        "auxiliary": Normal(torch.zeros(4, 1), 1.0).to_event(1),
        "conditional": same_shape,
        "latent_dim": 2,
    },
    "Leapfrog": lambda: {
        "log_density": lambda z: -z.square().sum(-1),
        "step_size": torch.full((2,), 0.1),
        "log_tempering": torch.zeros(3),
    },
    "MixtureOfNormals": lambda: {
        "logits": torch.zeros(4, 3),
        "locs": torch.zeros(4, 3, 2),
        "scales": torch.ones(4, 3, 2),
    },
    "IndependentOneHotCategorical": lambda: {"logits": torch.zeros(4, 2, 3)},
    "RelaxedIndependentOneHotCategorical": lambda: {
        "logits": torch.zeros(4, 2, 3),
        "temperature": torch.tensor(0.5),
    },
    "gradient": lambda: {"function": lambda z: z.square().sum(-1), "at": torch.ones(4, 3)},
    "AffineFlow": lambda: {"loc": torch.zeros(3), "log_scale": torch.zeros(3)},
    "AutoregressiveFlow": lambda: {"coefficients": lambda z: (0 * z, 0 * z)},
    "CouplingFlow": lambda: {"parameters": lambda a: torch.zeros(*a.shape[:-1], 2, 11), "bound": 3.0},
    "FlowDistribution": lambda: {"base": NORMAL().to_event(1), "transforms": [flows.ReverseFlow()]},
    "HouseholderFlow": lambda: {"v": torch.ones(3)},
    "InverseFlow": lambda: {"flow": flows.ReverseFlow()},
    "PlanarFlow": lambda: {"u": torch.ones(3), "w": torch.ones(3), "b": torch.zeros(1)},
    "RadialFlow": lambda: {"center": torch.zeros(3), "alpha": torch.ones(1), "gamma": torch.ones(1)},
    "RationalQuadraticSpline": lambda: {"raw": torch.zeros(3, 11), "bound": 3.0},
    "SylvesterFlow": lambda: {
        "q": torch.eye(3)[:, :2],
        "r": torch.ones(2, 2),
        "r_tilde": torch.ones(2, 2),
        "b": torch.zeros(2),
    },
    # models
    "VAE": lambda: {name: getattr(vae(), name) for name in ("prior", "likelihood", "guide")},
    "BernoulliLikelihood.initialise_mean": lambda: {
        "self": likelihoods.BernoulliLikelihood(2, (5,), net=small),
        "mean": torch.full((5,), 0.5),
    },
    "GenerativeModel": lambda: {name: getattr(vae(), name) for name in ("prior", "likelihood")},
    "BottomUpGuide": lambda: {"layers": list(layers()["guide"].layers)},
    "TopDownGuide": lambda: {"layers": top_down()},
    "LadderGuide": lambda: {"layers": ladder(), "features": [networks.MLP((5,), (4,)), networks.MLP((4,), (3,))]},
    "HierarchicalModel": lambda: {k: v for k, v in layers().items() if k != "guide"} | {"skip": False},
    "HierarchicalVAE": lambda: dict(layers()),
    "SemiSupervisedGuide": lambda: {name: pieces()[name] for name in ("classifier", "guide")},
    "SemiSupervisedModel": lambda: {
        "label_prior": priors.CategoricalPrior(3),
        **{k: pieces()[k] for k in ("prior", "likelihood")},
    },
    "SemiSupervisedVAE": lambda: dict(pieces()),
    "ADGM": lambda: dict(auxiliary()),
    "SDGM": lambda: (
        auxiliary()
        | {
            "likelihood": likelihoods.BernoulliLikelihood(
                2, (5,), net=partial(networks.ContextNetwork, context_dim=(3, 1), net=small, hidden=(4,))
            ),
            "auxiliary_model": guides.DiagonalNormalGuide(
                (2,), 1, net=partial(networks.ContextNetwork, context_dim=3, net=small, hidden=(4,))
            ),
        }
    ),
    "StackedVAE": stacked,
    "ConditionalPrior": lambda: {"guide": guides.DiagonalNormalGuide((3,), 2, net=small)},
    "ConditionalModel": lambda: {
        **{name: pieces()[name] for name in ("prior", "likelihood")},
        "given": None,
        "score_seen": False,
    },
    "ConditionalVAE": lambda: {name: pieces()[name] for name in ("prior", "likelihood", "guide")},
    "GreyLevels": lambda: {"data_shape": (3, 4, 4)},
    "LowResolution": lambda: {"data_shape": (1, 4, 4), "factor": 2},
    "SeenEntries": lambda: {"seen": torch.tensor([True, False])},
    "GivenEntries": lambda: {
        "base": Normal(torch.zeros(2), 1.0).to_event(1),
        "seen": torch.tensor([True, False]),
        "value": torch.zeros(2),
    },
    "with_context": lambda: {"net": networks.MLP, "context_shape": 3},
    "completions": lambda: {"vae": completing(), "images": x(3, *IMAGES), "num": 2, "num_samples": 2},
    "classification_weight": lambda: {"num_data": 100, "num_labels": 10},
    # data
    "Files": lambda: {"root": mkdtemp()},
    "load": lambda: {"data": np.arange(8).reshape(4, 2)},
    "ImageSet": lambda: {"images": torch.zeros(4, 1, 2, 2, dtype=torch.uint8), "labels": torch.arange(4)},
    # evaluation
    "FinishedBatches": lambda: {"folder": mkdtemp()},
    "AggregatePosterior": lambda: {"posteriors": [vae().encode(x())]},
    "ImportanceWeights": lambda: {"model": vae().model, "guide": vae().guide, "args": (x(),)},
    "InflatedProposal": lambda: {"guide": vae().guide, "factor": 1.2},
    "accurate_log_likelihood": lambda: programs(
        accuracy=5.0, max_samples=1024, max_distributions=2, num_simulated=4, batch_size=6, engine="eager"
    ),
    "annealed_log_likelihood": lambda: annealing(num_distributions=3),
    "class_posterior": lambda: {
        "model": labelled().model,
        "guide": labelled().guide,
        "data": x(),
        "num_classes": 3,
        "num_samples": 30,
        "engine": "eager",
    },
    "classification": lambda: {
        "classifier": torch.tensor([[0.9, 0.1], [0.2, 0.8]]),
        "labels": torch.tensor([0, 1]),
    },
    "default_statistics": lambda: {"data_shape": IMAGES},
    "gap_table": lambda: {"results": {"one": result("inference_gaps")}},
    "gradient_snr": lambda: {
        "model": vae().model,
        "guide": vae().guide,
        "x": x(),
        "objective": objectives.ELBO(),
        "num_draws": 3,
    },
    "harmonic_log_likelihood": lambda: annealing(num_samples=64, num_fitted=64, warmup=2),
    "impute": lambda: {"vae": incomplete(), "data": x(), "num_samples": 3, "num_draws": 2},
    "inference_gaps": lambda: programs(num_samples=30, num_steps=2, num_particles=2, chunk_size=2),
    "latent_diagnostics": lambda: {"vae": vae(), "data": x(), "num_samples": 3},
    "log_likelihood": lambda: programs(num_samples=30, engine="eager"),
    "log_weights": lambda: {"model": vae().model, "guide": vae().guide, "x": x(), "num_samples": 3},
    "mean_interval": lambda: {"errors": [1.0, 2.0, 3.0]},
    "pareto_k": lambda: {"largest_log_weights": x(21, 4), "num_samples": 100},
    "posterior_predictive_check": lambda: {"vae": vae(), "data": x(), "num_samples": 10, "chunk_size": 5},
    "posterior_samples": lambda: annealing(num_samples=4, warmup=2),
    "prior_proposal": lambda: {"model": vae().model},
    "reliability": lambda: {"confidence": torch.tensor([0.9, 0.6]), "correct": torch.tensor([True, False])},
    "sandwich": lambda: annealing(num_distributions=3),
    "simulation_based_calibration": lambda: {"vae": vae(), "num_simulations": 25, "num_samples": 9, "num_bins": 5},
    "OutlierDetector": lambda: {"model": vae().model, "guide": vae().guide, "reference": x(60, 5), "num_samples": 2},
    "outliers": lambda: programs(reference=x(60, 5), num_samples=2),
    "conformal_p_values": lambda: {"scores": x(5, 1)[:, 0], "calibration": x(20, 1)[:, 0]},
    "false_alarm_interval": lambda: {"level": 0.01, "num_calibration": 200},
    "detection": lambda: {"scores": x(9, 1)[:, 0], "outliers": x(9, 1)[:, 0] + 1},
    "code_disentanglement": lambda: {"codes": x(20, 3), "factors": x(20, 2), "num_bootstrap": 2},
    "disentanglement": lambda: {"vae": vae(), "data": x(20, 5), "factors": x(20, 2), "num_bootstrap": 2},
    "sample_quality": lambda: {
        "vae": vae((1, 8, 8)),
        "data": data.ImageSet(x(12, 1, 8, 8)),
        "train": data.ImageSet(x(12, 1, 8, 8)),
        "num_repeats": 2,
    },
    # objectives
    "RatioNetwork": lambda: {"in_shape": (2,), "net": small},
    "RatioTraining": lambda: {"network": nn.Linear(2, 1)},
    "fit_ratio": lambda: {"network": objectives.RatioNetwork((5,)), "p": x(), "q": x(), "num_steps": 1},
    # training
    "RunFolder": lambda: {"path": mkdtemp()},
    "build_engine": lambda: {
        "name": "eager",
        "objective": objectives.ELBO(),
        "model": vae().model,
        "guide": vae().guide,
        "optimizer": torch.optim.SGD(vae().parameters(), lr=1e-6),
        "parameters": list(vae().parameters()),
        "args": (x(),),
    },
    "vae_for": lambda: {"data": data.load(np.arange(8).reshape(4, 2)), "latent_dim": 2},
    "TensorBoard": lambda: {"num_images": 2},
    "MLflow": lambda: {"experiment": "vaes"},
    "WandB": lambda: {"project": "vaes"},
    "OptunaPruner": lambda: {"trial": optuna.trial.FixedTrial({}), "name": "loss"},
    "fit": lambda: programs(epochs=1, batch_size=3, engine="eager", progress=False),
    "frozen": lambda: {"module": nn.Linear(1, 1)},
    "save_pair": lambda: {"path": f"{mkdtemp()}/pair", "batch": x(), **pair()},
    "load_pair": lambda: {"path": saved_pair(), "factory": lambda: tuple(pair().values()), "batch": x()},
    "refit_guide": lambda: {
        "vae": vae(),
        "guide": guides.DiagonalNormalGuide((5,), 2, net=small),
        "data": x(),
        "options": {"epochs": 1, "batch_size": 3, "engine": "eager"},
    },
    # plotting
    "active_units": lambda: {"diagnostics": result("latent_diagnostics")},
    "aggregate_posterior": lambda: {"diagnostics": result("latent_diagnostics")},
    "elbo_decomposition": lambda: {"diagnostics": result("latent_diagnostics")},
    "analogies": lambda: {"vae": labelled(IMAGES), "images": x(3, *IMAGES), "num": 2},
    "annealed_bounds": lambda: {"results": [result("annealed_log_likelihood")]},
    "annealed_chains": lambda: {"result": result("annealed_log_likelihood")},
    "bound_curve": lambda: {"result": result("log_likelihood")},
    "bound_differences": lambda: {
        "annealed": result("annealed_log_likelihood"),
        "importance": result("log_likelihood"),
    },
    "caption_of": lambda: {"protocol": {"dataset": "digits"}},
    "class_embedding": lambda: {"features": x(12, 4) + x(12, 1), "labels": torch.arange(12) % 2, "perplexity": 3.0},
    "class_entropy": lambda: {"result": result("class_posterior")},
    "class_samples": lambda: {"vae": labelled(IMAGES), "num": 2},
    "confusion_matrix": lambda: {"result": result("classification")},
    "reliability_diagram": lambda: {"result": result("classification")},
    "factor_information": lambda: {"result": result("disentanglement")},
    "outlier_scores": lambda: {"result": result("outliers")},
    "quality_panels": lambda: {"result": result("sample_quality")},
    "gap_bars": lambda: {"results": {"one": result("inference_gaps")}},
    "guide_comparison": lambda: {"results": dict.fromkeys("ab", result("log_likelihood"))},
    "harmonic_reliability": lambda: {"result": result("harmonic_log_likelihood")},
    "image_grid": lambda: {"images": x(3, *IMAGES), "columns": 2},
    "latent_scatter": lambda: {"means": x(5, 2)},
    "log_likelihood_histogram": lambda: {"result": result("log_likelihood")},
    "manifold": lambda: {"vae": vae(IMAGES), "num": 2},
    "pareto_shapes": lambda: {"result": result("log_likelihood")},
    "predictive_checks": lambda: {"check": result("posterior_predictive_check")},
    "rate_distortion": lambda: {"results": dict.fromkeys("ab", result("log_likelihood"))},
    "rank_histograms": lambda: {"calibration": result("simulation_based_calibration")},
    "reconstructions": lambda: {"vae": vae(IMAGES), "images": x(3, *IMAGES), "num": 2},
    "result_figure": lambda: {"result": result("log_likelihood")},
    "samples": lambda: {"vae": vae(IMAGES), "num": 2},
    "sandwich_bounds": lambda: {"result": result("sandwich")},
    "save_for_paper": lambda: {"figure": Figure(), "path": f"{mkdtemp()}/figure.pdf"},
    "seed_curves": lambda: {"histories": {"a": [{"epoch": 1, "elbo": -1.0}], "b": [{"epoch": 1, "elbo": -2.0}]}},
    "training_curves": lambda: {"history": [{"epoch": 1, "elbo": -1.0, "distortion": 1.0, "rate": 0.0}] * 2},
    "tried_estimators": lambda: {"result": result("accurate_log_likelihood")},
}
CALLS["VAETransformer"] = lambda: {"latent_dim": 2, "epochs": 1, "batch_size": 3}
# Built by other functions of the package, with whose results they are called.
INTERNAL = {"CompiledEngine", "CudaGraphEngine", "EagerEngine", "LossFunction", "Step", "Splits", "Quantity"}
INTERNAL |= {"Batch", "Training", "save_figures"}  # a folder of all figures, each of which is called by itself

# Not attacked yet: distributions of columns and counts, figures of the folder latents, distorted images.
INTERNAL |= {"DistortedImages", "Implicit", "distorted_images", "distortion_ranks", "scored_by"}
INTERNAL |= {"VAEClassifier", "VAEOutlierDetector"}  # its arguments are checked by fit, as scikit-learn demands
INTERNAL |= {"Imputation", "LossyCode", "code_lengths", "rate_distortion_curve"}  # results, figures of compression
INTERNAL |= {"interpolation_grid", "j_diagram", "mine_grid", "posterior_ellipses", "posterior_midpoint"}
INTERNAL |= {"traversal_strip", "Columns", "LogMeanNegativeBinomial", "LogMeanPoisson", "ObservedEntries"}

# ---------------------------------------------------------------- bad values

# Values that are meaningful: (function or class, or * for any; argument): the kinds of value.
ACCEPTED: dict[tuple[str, str], Sequence[str]] = {
    ("*", "dropout"): ("zero",),
    ("*", "blocks"): ("zero",),
    ("*", "classification_weight"): ("zero",),
    ("*", "seed"): ("zero", "negative"),
    ("Files", "test"): ("zero", "negative"),  # refused by load, which knows the number of images
    ("*", "kinds"): ("empty",),
    ("*", "noise"): ("zero",),
    ("TensorBoard", "num_images"): ("zero",),
    ("fit", "callbacks"): ("empty",),
    ("*", "kl_weight"): ("zero",),
    ("AdversarialReconstruction", "gamma"): ("zero",),
    ("fit_em", "tolerance"): ("zero",),
    ("latent_scatter", "names"): ("empty",),
    ("*", "ensemble"): ("empty",),
    ("Files", "num_workers"): ("zero",),
    ("impute", "data"): ("nan",),  # missing
    **{(owner, name): ("nan",) for owner in ("conformal_p_values", "detection") for name in ("scores", "outliers")},
    ("conformal_p_values", "calibration"): ("nan",),  # the strangest score
    ("*", "drop"): ("empty",),
    ("*", "label_seed"): ("zero", "negative"),
    ("*", "draw_seed"): ("zero", "negative"),
    ("*", "beta"): ("zero",),
    ("*", "reconstruction_weight"): ("zero",),
    ("BetaTC", "alpha"): ("zero",),
    ("BetaTC", "gamma"): ("zero",),
    ("FactorVAE", "gamma"): ("zero",),
    ("*", "gradient_penalty"): ("zero",),
    ("*", "start"): ("zero",),
    ("*", "end"): ("zero",),
    ("ConstantSchedule", "value"): ("zero",),
    ("FreeBits", "nats"): ("zero",),
    ("InfoVAE", "alpha"): ("zero", "negative"),
    ("InfoVAE", "mmd_weight"): ("zero",),
    ("Renyi", "alpha"): ("zero", "negative", "inf"),
    ("classification_weight", "alpha"): ("zero",),
    ("HierarchicalModel", "conditionals"): ("empty",),  # one layer
    ("FlowDistribution", "transforms"): ("empty",),  # the base itself
    ("*", "validation"): ("zero",),
    ("*", "warmup"): ("zero",),
    ("*", "lr_warmup"): ("zero",),
    ("*", "num_decomposed"): ("zero",),
    ("*", "checkpoint_seconds"): ("zero", "inf"),
    ("ImageSet", "images"): ("fraction", "nan"),  # continuous data
    # Any shape is that of a batch.
    ("*", "at"): ("shape", "nan"),
    ("frozen", "module"): ("foreign module",),
    ("HouseholderFlow", "v"): ("shape",),
    ("RadialFlow", "center"): ("shape",),
    ("*", "active_threshold"): ("zero",),
    ("*", "random_state"): ("zero", "negative"),
    ("IndependentOneHotCategorical", "logits"): ("shape",),
    ("RelaxedIndependentOneHotCategorical", "logits"): ("shape",),
    ("image_grid", "images"): ("shape",),
    ("pareto_k", "largest_log_weights"): ("nan",),
    # Parameters of distributions and flows are outputs of networks: reading their values would delay every step.
    **{(owner.__name__, "*"): ("nan",) for folder in (distributions, flows) for owner in public(folder)},
}
# What messages call an argument that is passed to a program.
ALIASES = dict.fromkeys(
    ("data", "x", "batch", "images", "validation", "reference", "against"), r"data|input|batch|arguments|images"
) | {"parts": "part"}
# Functions that move tensors to one device
COPYING = {"class_embedding", "classification", "log_weights", "reliability", "RelaxedIndependentOneHotCategorical"}
# Functions that pass their arguments on under the same names, and the owners of the messages.
DELEGATES = {
    "OutlierDetector": ("outliers", "log_likelihood", "log_weights"),
    "outliers": ("log_likelihood", "log_weights"),
    "ImportanceWeights": ("log_weights",),
    "accurate_log_likelihood": ("log_likelihood", "log_weights", "importance_bounds"),
    "log_likelihood": ("log_weights", "accurate_log_likelihood"),
    "build_engine": ("fit",),
    "refit_guide": ("fit",),
    "save_pair": ("fit",),
    "load_pair": ("fit",),
    "reliability_diagram": ("reliability",),
    "result_figure": ("bound_curve",),
}


class Bad(NamedTuple):
    """A bad value of an argument, and the kind of badness."""

    kind: str
    value: Any


TEXT, LIST, NOTHING, NUMBER = Bad("text", "a"), Bad("list", [1.0]), Bad("None", None), Bad("number", 5)
UNKNOWN = Bad("unknown choice", "unknown")
NONFINITE = [Bad("nan", math.nan), Bad("inf", math.inf)]
SIGNS = [Bad("negative", -1), Bad("zero", 0), Bad("True", True)]
FUNCTION = Bad("function", lambda *args, **options: 3)
MODULE = Bad("foreign module", nn.Identity())
SIZES = [TEXT, NUMBER, Bad("size 0", (0,)), Bad("size -1", (-1,)), Bad("size 1.5", (1.5,)), Bad("size text", ("a",))]
PAIRS = [TEXT, NUMBER, Bad("one number", (1.0,)), Bad("nan", (math.nan, 1.0)), Bad("reversed", (1.0, 0.0))]


def bad_values(hint: Any) -> list[Bad]:
    """Bad values of an argument with this annotation; those that suit a part of a union are left out."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    values = {bad.kind: bad for part in parts if part is not type(None) for bad in _of_part(part)}
    values |= {} if type(None) in parts or Any in parts else {"None": NOTHING}
    return [bad for bad in values.values() if not any(_suits(bad.value, part) for part in parts)]


def _of_part(part: Any) -> list[Bad]:
    origin, arguments = typing.get_origin(part) or part, typing.get_args(part)
    if part is int:
        return [TEXT, LIST, *NONFINITE, Bad("fraction", 1.5), *SIGNS]
    if part is float:
        return [TEXT, LIST, *NONFINITE, *SIGNS]
    if part is bool:
        return [TEXT, LIST, Bad("number", 2.5)]
    if part is str:
        return [NUMBER, LIST]
    if origin is Literal:
        return [UNKNOWN, NUMBER, LIST]
    if origin is tuple:
        return PAIRS if arguments and arguments[-1] is not Ellipsis else SIZES if int in arguments else [TEXT, NUMBER]
    if origin is Tensor:
        return [TEXT, LIST, FUNCTION]
    if origin in (Sequence, list):
        return [NUMBER, TEXT, Bad("empty", []), Bad("wrong entries", [5, "a"])]
    if origin is Mapping or origin is dict:
        return [TEXT, NUMBER, LIST]
    if origin is Callable or inspect.isclass(origin):
        return [TEXT, NUMBER, LIST, FUNCTION, MODULE]
    return []


def bad_tensors(valid: Tensor, *, alone: bool) -> Iterator[Bad]:
    """Tensors unlike the valid one; an argument may be on any device if it is the only tensor or module."""
    yield from (Bad("shape", valid.new_ones(7, 11, 13)), Bad("dtype", valid.cfloat()))
    yield Bad("nan", torch.full_like(valid, math.nan)) if valid.is_floating_point() else Bad("fraction", valid + 0.5)
    if not alone:
        yield Bad("device", valid.to("cuda" if torch.cuda.is_available() else "meta"))


def _suits(value: Any, part: Any) -> bool:
    """Whether a value has the type of a part of a union, so that it is not bad."""
    origin = typing.get_origin(part) or part
    if origin is Callable:
        return callable(value) and not isinstance(value, Tensor)
    if part is Any:
        return False
    if part in (int, float):
        return type(value) is int and value > 1
    return inspect.isclass(origin) and origin in (str, Path) and isinstance(value, str)


# ---------------------------------------------------------------- trials


@dataclass(frozen=True)
class Trial:
    """One call with one bad argument, and its outcome: good, legitimate, foreign, silent or endless."""

    folder: str
    owner: str
    argument: str
    kind: str
    outcome: str = ""
    message: str = ""

    def __str__(self) -> str:
        return f"{self.outcome:8} {self.folder}.{self.owner}({self.argument}: {self.kind})  {self.message}"


def callables(folder: Any) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Name, callable and valid arguments of everything that a user calls."""
    for item in public(folder):
        name, is_record = item.__name__, inspect.isclass(item) and issubclass(item, tuple | Exception)
        result_class = inspect.isclass(item) and (issubclass(item, evaluation.Result) or "Result" in name)
        if not (inspect.isabstract(item) or is_record or result_class or name in INTERNAL or not _has_arguments(item)):
            yield name, item, valid_arguments(folder, item)
    for name, call in CALLS.items():
        kind, _, method = name.partition(".")
        if method and hasattr(folder, kind):
            yield name, getattr(getattr(folder, kind), method), call()


def _has_arguments(item: Any) -> bool:
    return bool(inspect.signature(item).parameters) and item.__name__ not in ("Gain", "PosteriorSamples", "Refitted")


def valid_arguments(folder: Any, item: Any) -> dict[str, Any]:
    if item.__name__ in CALLS:
        return CALLS[item.__name__]()
    if folder in CONVENTIONS and item in concrete(folder):
        bind: Any = lambda *args, **options: inspect.signature(item).bind(*args, **options).arguments  # noqa: E731
        bind.images = getattr(item, "images", ())
        return dict(CONVENTIONS[folder](bind))
    return {}


def trials(names: Sequence[str] = (), every: int = 1) -> Iterator[Trial]:
    """Run the trials of these folders or names, or of each ``every``-th bad value."""
    number = 0
    for folder in FOLDERS:
        short = folder.__name__.removeprefix("pyro_vae.")
        for name, function, valid in callables(folder):
            if names and not {short, name} & {*names}:
                continue
            _call_quietly(function, valid)
            for argument, bad in _bad_arguments(function, valid):
                number += 1
                if number % every == 0:
                    trial = Trial(short, name, argument, bad.kind)
                    yield judge(trial, function, valid | {argument: bad.value})


def _bad_arguments(function: Any, valid: dict[str, Any]) -> Iterator[tuple[str, Bad]]:
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and name in hints:
            values = bad_values(hints[name])
            if isinstance(valid.get(name), Tensor):
                alone = sum(isinstance(value, Tensor | nn.Module) for value in valid.values()) == 1
                values += bad_tensors(valid[name], alone=alone or function.__name__ in COPYING)
            yield from ((name, bad) for bad in values)


def judge(trial: Trial, function: Any, arguments: dict[str, Any]) -> Trial:
    """The trial with its outcome."""
    outcome, message = "silent", ""
    try:
        with time_limit(SECONDS):
            _call_quietly(function, arguments)
    except TimeoutError:
        outcome = "endless"
    except Exception as error:
        outcome, message = "foreign", f"{type(error).__name__}: {error}"
        if isinstance(error, ValueError | TypeError | FileNotFoundError) and is_good(str(error), trial):
            outcome = "good"
    if outcome == "silent" and trial.kind in {
        kind
        for owner, argument in product((trial.owner, "*"), (trial.argument, "*"))
        for kind in ACCEPTED.get((owner, argument), ())
    }:
        outcome = "legitimate"
    return Trial(trial.folder, trial.owner, trial.argument, trial.kind, outcome, " ".join(message.split())[:150])


def _call_quietly(function: Any, arguments: dict[str, Any]) -> None:
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        _call(function, arguments)


def _call(function: Any, arguments: dict[str, Any]) -> None:
    arguments = dict(arguments)
    options = arguments.pop("options", {})
    first = next(iter(arguments)) if hasattr(function, "dispatch") else "self"  # functools dispatches by position
    instance = (arguments.pop(first),) if first in arguments else ()
    answer = function(*instance, **arguments, **options)
    if isinstance(answer, features.VAETransformer):
        answer.fit(x().numpy())  # which checks them, by scikit-learn's convention
    if hasattr(answer, "__enter__"):
        with answer:
            pass


@cache
def classes() -> set[str]:
    """Names of all classes of the package: a constructor builds others with its arguments."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("pyro_vae.")]
    return {name for module in modules for name, value in vars(module).items() if inspect.isclass(value)}


def is_good(message: str, trial: Trial) -> bool:
    """Whether a message is one line that begins with the owner, or with the class it builds, and names the argument."""
    owner, _, text = message.partition(": ")
    known = owner == trial.owner.partition(".")[0] or owner in DELEGATES.get(trial.owner, ()) or owner in classes()
    names = f"{re.escape(trial.argument)}|{ALIASES.get(trial.argument, trial.argument)}"
    torch_names = f"Expected parameter {trial.argument} "  # torch's own validation of distributions
    return message.startswith(torch_names) or (
        known and "\n" not in text and re.search(rf"\b({names})\b", text) is not None
    )


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def report(done: Sequence[Trial]) -> str:
    """The failures, and the table of outcomes by folder."""
    outcomes = ("good", "legitimate", "foreign", "silent", "endless")
    lines = [str(trial) for trial in done if trial.outcome not in outcomes[:2]]
    lines += ["", f"{'':14}{'trials':>8}" + "".join(f"{name:>12}" for name in outcomes)]
    counts = Counter((trial.folder, trial.outcome) for trial in done) + Counter(("all", t.outcome) for t in done)
    for folder in [*dict.fromkeys(trial.folder for trial in done), "all"]:
        row = [counts[folder, outcome] for outcome in outcomes]
        lines.append(f"{folder:14}{sum(row):8}" + "".join(f"{count:12}" for count in row))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="folders, functions or classes; all without")
    torch.set_num_threads(1)
    done = list(trials(parser.parse_args().names))
    print(report(done))
    return any(trial.outcome not in ("good", "legitimate") for trial in done)


if __name__ == "__main__":
    sys.exit(main())
