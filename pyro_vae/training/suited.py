"""Build a VAE that suits a data set: the likelihood of its kind, in units of its columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from pyro_vae import likelihoods
from pyro_vae._core.checks import check_arguments, require
from pyro_vae.data.image_set import ImageSet
from pyro_vae.data.kinds import default_likelihood, parts_of, standardizes
from pyro_vae.guides import DiagonalNormalGuide, Guide
from pyro_vae.likelihoods import Likelihood, MixedLikelihood
from pyro_vae.models import VAE
from pyro_vae.models.build import build_vae
from pyro_vae.networks import Shape
from pyro_vae.networks.conditioned import factory_options
from pyro_vae.networks.inputs import InputNetwork, moments, with_inputs
from pyro_vae.priors import ConditionalPrior, Prior, StandardNormalPrior

_BATCH_SIZE = 1000
_GUIDES = ("guide", "prior_guide", "classifier")


def vae_for(
    data: ImageSet,
    latent_dim: int = 20,
    *,
    prior: Callable[[int], Prior] = StandardNormalPrior,
    likelihood: Callable[[int, Shape], Likelihood] | None = None,
    guide: Callable[[Shape, int], Guide] = DiagonalNormalGuide,
    standardize: bool | None = None,
    seed: int = 0,
) -> VAE:
    """Build a VAE for data of a known kind, started at their mean.

    Args:
        data: the training data, of :func:`pyro_vae.data.load`.
        latent_dim: number of latent dimensions.
        prior: p(z).
        likelihood: p(x | z); None for that of the kind of data: Bernoulli for binary, discretized logistic for grey
            levels, mixture of logistics for colours, continuous Bernoulli for fractions, normal for real, negative
            binomial for counts, and a likelihood per column for mixed columns.
        guide: q(z | x).
        standardize: whether the encoder sees standardized data (counts as log(1 + x)), and a normal, Laplace or Student
            t likelihood measures its scale in standard deviations of each column; densities are those of the data in
            their own units. None does so for real data, counts and mixed columns.
        seed: seed of the initial weights; the global generator is left as is.

    Returns:
        The VAE, on the CPU.

    Raises:
        ValueError: the kind of the data is unknown, or the pieces do not fit.

    Example:
        >>> import numpy as np
        >>> from pyro_vae.data import load
        >>> vae = vae_for(load(np.array([[0, 3], [7, 1]])), latent_dim=2)
        >>> type(vae.likelihood).__name__
        'NegativeBinomialLikelihood'
    """
    check_arguments(vae_for, locals(), latent_dim=1)
    advice = "Pass the result of data.load, or a likelihood"
    known = data.kind is not None or (likelihood is not None and standardize is not None)
    require(known, "vae_for", "the kind of the data must be known", "kind=None", advice)
    chosen = _likelihood_of(data) if likelihood is None else likelihood
    standardize = standardizes(data.kind) if standardize is None and data.kind else bool(standardize)
    pieces = suited({"likelihood": chosen, "guide": guide}, data, standardize=standardize)
    vae = build_vae(data.data_shape, latent_dim, prior, **pieces, missing=data.missing, seed=seed)
    set_units(vae, data, standardize=standardize)
    vae.likelihood.initialise_mean(data.mean())
    return vae


def _likelihood_of(data: ImageSet) -> Callable[[int, Shape], Likelihood]:
    name, arguments = default_likelihood(cast(Any, data.kind), data.max_value)
    return partial(getattr(likelihoods, name), **arguments)


def suited(pieces: dict[str, Any], data: ImageSet, *, standardize: bool) -> dict[str, Any]:
    """Factories whose networks and parts suit the data.

    Args:
        pieces: the factories of a model by name.
        data: the training data, whose columns determine the parts of a mixed likelihood.
        standardize: whether the networks of guides see standardized data.

    Returns:
        The factories, those of guides with an :class:`~pyro_vae.networks.inputs.InputNetwork` if ``standardize``.
    """
    kind, options = factory_options(pieces["likelihood"])
    if kind is MixedLikelihood and options.get("parts") is None:
        parts = [
            (columns, partial(getattr(likelihoods, name), **arguments))
            for columns, name, arguments in parts_of(data.columns)
        ]
        advice = "Read a table with columns of several kinds, or choose another likelihood"
        require(bool(parts), "MixedLikelihood", "the data must have columns", "none", advice)
        pieces = {**pieces, "likelihood": partial(pieces["likelihood"], parts=parts)}
    if not standardize:
        return pieces
    kinds = input_kinds(data)
    guides = {name: with_inputs(pieces[name], kinds) for name in _GUIDES if pieces.get(name) is not None}
    return {**pieces, **guides}


def input_kinds(data: ImageSet) -> list[tuple[str, int]]:
    """Kinds of the entries of one datum, or of all, see :class:`~pyro_vae.networks.inputs.InputNetwork`."""
    if data.kind == "mixed":
        return [(column.kind, len(column.levels)) for column in data.columns]
    return [("count" if data.kind == "counts" else data.kind or "real", 0)]


def set_units(model: Any, data: ImageSet, *, standardize: bool) -> None:
    """Set means and units of the networks' inputs, and the units of the likelihood, to those of the data.

    The inputs of a ConditionalPrior's guide and of a likelihood are contexts c(x).
    """
    if not standardize:
        return
    of_context = set(model.likelihood.modules())
    of_context |= set(model.prior.modules()) if isinstance(model.prior, ConditionalPrior) else set()
    for module in model.modules():
        if isinstance(module, InputNetwork):
            module.initialise(map(model.given, _batches(data)) if module in of_context else _batches(data))
    if hasattr(model.likelihood, "set_unit"):
        model.likelihood.set_unit(moments(_batches(data))[1])


def _batches(data: ImageSet) -> Iterator[Tensor]:
    for rows in torch.arange(len(data), device=data.device).split(_BATCH_SIZE):
        yield data.batch(rows, dtype=torch.float64)
