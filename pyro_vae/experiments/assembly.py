"""Building the data and the model that a configuration describes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, Literal

import torch

from pyro_vae._core.checks import require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae.data import Dataset, Splits
from pyro_vae.experiments.labels import check_labels, num_classes_of
from pyro_vae.experiments.latent_data import active_latents, check_same_data, latents_of
from pyro_vae.experiments.provenance import known_data
from pyro_vae.experiments.restore import AnyModel, restore_weights
from pyro_vae.guides import CategoricalGuide, Guide
from pyro_vae.likelihoods import Likelihood, SiteLikelihood
from pyro_vae.models import (
    VAE,
    AutoregressiveModel,
    ConditionalVAE,
    LabelledVAE,
    SemiSupervisedVAE,
    classification_weight,
)
from pyro_vae.models.build import build_conditional, build_implicit, build_semi_supervised, build_vae
from pyro_vae.models.given import given_part
from pyro_vae.models.stacked import StackedVAE
from pyro_vae.networks import CausalNetwork, Shape
from pyro_vae.priors import CategoricalPrior, Prior
from pyro_vae.training import RunFolder
from pyro_vae.training.suited import input_kinds, set_units, suited

ModelName = Literal["VAE", "M2", "ConditionalVAE", "AutoregressiveModel", "ImplicitModel"]


@dataclass(frozen=True)
class FirstModel:
    """A run whose VAE is M1 of an M1+M2.

    Args:
        run: its folder.
        options: its configuration, as keyword arguments of :func:`pyro_vae.experiments.experiment.train`.
    """

    run: RunFolder
    options: dict[str, Any]


@dataclass(frozen=True)
class Assembly:
    """A model and its data; for M1+M2, M2 is trained on latents and the stacked model is evaluated on images.

    Args:
        trained: the model that is trained.
        training_data: its data.
        vae: the model that is evaluated.
        splits: its data.
        protocol: of the data, with the names of the model's components.
    """

    trained: VAE | ConditionalVAE | SemiSupervisedVAE | AutoregressiveModel
    training_data: Splits
    vae: AnyModel
    splits: Splits
    protocol: dict[str, Any]


def assemble(
    dataset: Dataset,
    device: torch.device,
    *,
    model: ModelName,
    latent_dim: int,
    prior: Callable[[int], Prior],
    likelihood: Callable[[int, Shape], Likelihood],
    guide: Callable[[Shape, int], Guide],
    prior_guide: Callable[[Shape, int], Guide] | None,
    classifier: Callable[[Shape, int], CategoricalGuide],
    label_prior: Callable[[int], CategoricalPrior],
    alpha: float,
    m1: FirstModel | None,
    score_seen: bool,
    net: Callable[[Shape, Shape], CausalNetwork],
    base: Callable[[int, Shape], SiteLikelihood],
    seed: int,
) -> Assembly:
    """Load the data and build the model; for the arguments see :func:`pyro_vae.experiments.experiment.train`.

    Raises:
        ValueError: model, data and labels do not fit each other.
    """
    check_labels(model, dataset)
    splits = dataset.load().to(device)
    if splits.missing:
        rule, advice = "of data with missing entries must be a VAE", "Use --model VAE, or remove such data"
        require(model == "VAE", "--model", rule, model, advice)
    if model == "AutoregressiveModel":
        classes = () if dataset.context is None else (num_classes_of(splits),)
        with isolated_rng(seed):
            exact = AutoregressiveModel(splits.data_shape, net=net, base=base, context_shape=classes)
        protocol = {**splits.protocol, "model": model, **components_of(exact)}
        return Assembly(exact, splits, exact, splits, protocol)
    pieces: dict[str, Any] = {"prior": prior, "likelihood": likelihood, "guide": guide, "prior_guide": prior_guide}
    standardize = dataset.standardizes(splits.train)
    if m1 is None:
        pieces = suited({**pieces, "classifier": classifier}, splits.train, standardize=standardize)
        classifier = pieces.pop("classifier")
        pieces |= {"prior_guide": prior_guide} if dataset.context == "label" else {}  # of classes, not of data
    if model == "VAE":
        vae = build_vae(splits.data_shape, latent_dim, **pieces, missing=splits.missing, seed=seed)
        set_units(vae, splits.train, standardize=standardize)
        return Assembly(vae, splits, vae, splits, {**splits.protocol, **components_of(vae)})
    if model == "ImplicitModel":
        gan = build_implicit(splits.data_shape, latent_dim, prior, pieces["likelihood"], seed=seed)
        return Assembly(gan, splits, gan, splits, {**splits.protocol, "model": model, **components_of(gan)})
    if dataset.context is not None:
        shape, columns = splits.data_shape, [column.name for column in getattr(splits.train, "columns", ())]
        by_class = dataset.context == "label"
        context = num_classes_of(splits) if by_class else given_part(dataset.context, shape, columns or None)
        kinds = input_kinds(splits.train) if standardize and not by_class else None
        given = build_conditional(shape, latent_dim, context, **pieces, score_seen=score_seen, kinds=kinds, seed=seed)
        set_units(given, splits.train, standardize=standardize)
        names = {"model": model, **components_of(given), **({"score_seen": True} if score_seen else {})}
        names |= {} if kinds is None else {"standardize": "data and context"}
        return Assembly(given, splits, given, splits, {**splits.protocol, **names})
    pieces |= {"classifier": classifier, "label_prior": label_prior, "num_classes": num_classes_of(splits)}
    pieces["classification_weight"] = classification_weight(len(splits.train), dataset.labels or 0, alpha=alpha)
    if m1 is None:
        m2 = build_semi_supervised(splits.data_shape, latent_dim, **pieces, seed=seed)
        set_units(m2, splits.train, standardize=standardize)
        protocol = {**splits.protocol, "model": model, **components_of(m2), "alpha": alpha}
        return Assembly(m2, splits, m2, splits, protocol)
    provenance = m1.run.provenance()
    first = _restored(m1, provenance, dataset, splits).to(device)
    splits = replace(splits, fingerprints={**splits.fingerprints, "m1": provenance["weights_sha256"]})
    active = active_latents(first, splits.train)
    m2 = build_semi_supervised((len(active),), latent_dim, **pieces, seed=seed)
    names = {"model": "M1+M2", "m1": m1.run.path.resolve().name, **components_of(m2), "alpha": alpha}
    stacked = StackedVAE(first, m2, active)
    return Assembly(m2, latents_of(first, splits, active), stacked, splits, {**splits.protocol, **names})


MODEL_OPTIONS = [name for name, p in signature(assemble).parameters.items() if p.kind is p.KEYWORD_ONLY]
"""The options of a training that determine its model."""


def _restored(m1: FirstModel, provenance: dict[str, str], dataset: Dataset, splits: Splits) -> VAE:
    """The trained VAE, if it is one and of the same data."""
    name = m1.options["model"]
    require(name == "VAE", "--m1", "the run must be of a VAE", f"{name} in {m1.run.path}")
    fingerprints = known_data(provenance), splits.fingerprints
    check_same_data(m1.options["data"](), dataset, str(m1.run.path), fingerprints)
    arguments = {name: m1.options[name] for name in signature(build_vae).parameters if name in m1.options}
    standardize = dataset.standardizes(splits.train)
    vae = build_vae(splits.data_shape, **suited(arguments, splits.train, standardize=standardize))
    set_units(vae, splits.train, standardize=standardize)
    restore_weights(vae, m1.run)
    return vae.eval().requires_grad_(False)


def components_of(vae: AnyModel) -> dict[str, Any]:
    """The class names of the model's and the guide's components, for the protocol."""
    if isinstance(vae, AutoregressiveModel):
        return {"likelihood": type(vae.base).__name__, "net": type(vae.net).__name__}
    components = {"prior": vae.prior, "likelihood": vae.likelihood, "guide": vae.guide}
    weight: dict[str, Any] = {}
    if isinstance(vae, LabelledVAE):
        components |= {"guide": vae.guide.guide, "classifier": vae.classifier, "label_prior": vae.label_prior}
        weight["classification_weight"] = vae.guide.classification_weight
    names = {name: type(component).__name__ for name, component in components.items()}
    return {**names, "latent_dim": vae.latent_dim, **weight}
