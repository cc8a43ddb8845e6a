"""Inputs of the transformer that are not arrays: data frames with texts, files, sparse matrices, torch data sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils import check_array
from sklearn.utils.validation import _check_feature_names, validate_data
from torch import Tensor

from pyro_vae._core.checks import require
from pyro_vae.data.image_set import ImageSet
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
    estimator: Any, X: Any, *, like: ImageSet | None = None, reset: bool = True, **options: Any
) -> tuple[np.ndarray, ImageSet | None]:
    """Check data, ``(N, D)``, and convert those that are no array of numbers.

    Args:
        estimator: named in errors; ``fit`` stores the number of columns in it, and their names.
        X: the data.
        like: a set of the kind, columns and scale of the data that the estimator was fitted to, which X gets; None if
            these were an array, and in ``fit``.
        reset: whether this is ``fit``.
        options: of scikit-learn's ``check_array``.

    Returns:
        The matrix; and in ``fit``, if X was no array of numbers, the same data as a set of a known kind.
    """
    owner, columns = type(estimator).__name__, () if like is None else like.columns
    is_table = hasattr(X, "iloc") and (bool(columns) or is_external(X))
    if not (is_table or is_external(X)):
        return validate_data(estimator, X, dtype=FLOATS, reset=reset, **options), None
    if is_table and columns:
        _check_feature_names(estimator, X, reset=False)
        encoded = encoded_as(read_frame(X, owner=owner).columns, columns, owner=owner)
        return check_array(encoded, dtype=np.float32, **options), None
    fitted_to_array = not reset and like is None and estimator.vae is None
    data = loaded(X, owner=owner, like=like, kind="real" if fitted_to_array else None)
    coded = not reset and like is None and any(column.levels and column.kind != "binary" for column in data.columns)
    require(not coded, owner, "X must be of the type of the training data", "a table with codes", "Pass an array")
    matrix = data.batch(slice(None), dtype=torch.float32).flatten(1).numpy()
    if columns:  # whose names are those of fit
        return check_array(matrix, dtype=FLOATS, **options), data
    matrix = validate_data(estimator, matrix, dtype=FLOATS, reset=reset, **options)
    if data.columns and reset:
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
