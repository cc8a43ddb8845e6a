"""Inputs of the transformer that are not arrays: data frames with texts, files, sparse matrices, torch data sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils import check_array
from sklearn.utils.validation import _check_feature_names, validate_data
from torch import Tensor

from pyro_vae.data.image_set import ImageSet
from pyro_vae.data.kinds import Column
from pyro_vae.data.loading import is_external, loaded
from pyro_vae.data.tables import encoded_as, read_frame
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import NormalLikelihood
from pyro_vae.models import VAE
from pyro_vae.models.build import build_vae
from pyro_vae.priors import StandardNormalPrior
from pyro_vae.training import vae_for

FLOATS = [np.float64, np.float32]


def validated(
    estimator: Any, X: Any, *, columns: tuple[Column, ...] | None = None, **options: Any
) -> tuple[np.ndarray, ImageSet | None]:
    """Check data, ``(N, D)``, and convert those that are no array of numbers.

    Args:
        estimator: named in errors; ``fit`` stores the number of columns in it, and their names.
        X: the data.
        columns: of the table that the estimator was fitted to, by which a table is encoded; None in ``fit``.
        options: of scikit-learn's ``check_array``.

    Returns:
        The matrix; and in ``fit``, if X was no array of numbers, the same data as a set of a known kind.
    """
    owner, reset = type(estimator).__name__, columns is None
    is_table = hasattr(X, "iloc") and (bool(columns) or is_external(X))
    if not (is_table or is_external(X)):
        return validate_data(estimator, X, dtype=FLOATS, reset=reset, **options), None
    if is_table and columns:
        _check_feature_names(estimator, X, reset=False)
        encoded = encoded_as(read_frame(X, owner=owner).columns, columns, owner=owner)
        return check_array(encoded, dtype=np.float32, **options), None
    data = loaded(X, owner=owner)
    matrix = data.batch(slice(None), dtype=torch.float32).flatten(1).numpy()
    matrix = validate_data(estimator, matrix, dtype=FLOATS, reset=reset, **options)
    if data.columns:
        estimator.feature_names_in_ = np.array([column.name for column in data.columns], dtype=object)
    return matrix, data


def new_vae(
    x: Tensor, data: ImageSet | None, latent_dim: int, *, prior: Any, likelihood: Any, guide: Any, seed: int
) -> VAE:
    """Build the VAE of a transformer, started at the mean of its data.

    Args:
        x: the data, ``(N, *data_shape)``, whose dtype the weights get.
        data: the same data as a set of a known kind, if they were no array; the default likelihood follows from it.
        latent_dim: number of latent dimensions.
        prior, likelihood, guide: factories, or None for the defaults.
        seed: seed of the initial weights.
    """
    pieces: dict[str, Any] = {
        "prior": prior or StandardNormalPrior,
        "guide": guide or DiagonalNormalGuide,
        "seed": seed,
    }
    if data is not None and data.data_shape == tuple(x.shape[1:]):
        return vae_for(data, latent_dim, likelihood=likelihood, **pieces).to(x.dtype)
    vae = build_vae(tuple(x.shape[1:]), latent_dim, likelihood=likelihood or NormalLikelihood, **pieces).to(x.dtype)
    vae.likelihood.initialise_mean(x.mean(0))
    return vae
