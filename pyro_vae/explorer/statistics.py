"""Statistics of a data set for the explorer: codes, KL, quantiles, principal components, directions of attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.checks import check_shape
from pyro_vae.data.image_set import ImageSet
from pyro_vae.explorer.packing import Pack
from pyro_vae.latents.aggregate import aggregate_marginals
from pyro_vae.latents.attributes import attribute_vector
from pyro_vae.latents.space import LatentSpace

LEVELS = (0.001, *torch.linspace(0.01, 0.99, 7, dtype=torch.float64).tolist(), 0.999)
"""Quantiles of the aggregate posterior: the ends of the sliders, and between them the columns of a traversal."""
_NUM_QUANTILES, _NUM_CODES = 2000, 10_000  # data for quantiles and KL, and for means of codes and the classifier
_MAX_CLASSES = 50


def describe_codes(space: LatentSpace, data: ImageSet, pack: Pack) -> dict[str, Any]:
    """Order of the dimensions, KL in nats, number of active ones, quantiles and principal components of the codes."""
    marginals = aggregate_marginals(space, data.subset(slice(_NUM_QUANTILES)))
    z = _codes(space, data)
    mean = z.mean(0)
    directions = torch.linalg.svd(z - mean, full_matrices=False)[2][:2]
    directions = directions * directions.sum(1, keepdim=True).sign()  # their signs are free
    variances = ((z - mean) @ directions.mT).square().sum(0) / (z - mean).square().sum().clamp_min(1e-12)
    return {
        "order": marginals.order(active=False),
        "active": len(marginals.order(active=True)),
        "kl": None if marginals.kl is None else [round(kl, 4) for kl in marginals.kl.tolist()],
        "levels": LEVELS,
        "quantiles": pack.vector(marginals.quantiles(torch.tensor(LEVELS, device=z.device)).mT),
        "pca": {"mean": pack.vector(mean), "directions": pack.vector(directions), "share": variances.tolist()},
    }


def describe_labels(
    space: LatentSpace, data: ImageSet, shown: ImageSet, attributes: Mapping[str, Tensor], pack: Pack, *, classes: bool
) -> dict[str, Any]:
    """Directions of attributes and, if the data have labels and the model no classes, of classes; a classifier.

    Args:
        space: the latent.
        data: data with or without labels, -1 for an unknown one.
        shown: the data of the page, on which the classifier's accuracy is measured if they are others.
        attributes: vectors ``(L,)`` by name.
        pack: receives vectors and weights.
        classes: whether the labels are used.
    """
    size = space.means(shown.subset([0])).shape[1:]
    for name, vector in attributes.items():
        check_shape("explore", f"attribute {name!r}", vector.shape, size, "Use attribute_vector")
    vectors = [{"name": name, "vector": pack.vector(vector)} for name, vector in attributes.items()]
    rows = torch.tensor([]) if data.labels is None else (data.labels >= 0).nonzero().flatten()[:_NUM_CODES]
    values = [] if data.labels is None else data.labels[rows].unique().tolist()
    if not classes or not 2 <= len(values) <= _MAX_CLASSES:
        return {"vectors": vectors, "classifier": None}
    known = data.subset(rows)
    table = torch.stack([known.labels == value for value in values], 1)
    directions = attribute_vector(space, known, table, balance=False)
    names = [data.classes[c] if data.classes else f"class {c}" for c in values]
    vectors += [{"name": name, "vector": pack.vector(v)} for name, v in zip(names, directions, strict=True)]
    return {"vectors": vectors, "classifier": _classifier(space, known, shown, pack)}


def _classifier(space: LatentSpace, data: ImageSet, shown: ImageSet, pack: Pack) -> dict[str, Any]:
    """Logistic regression of the classes on standardised codes."""
    from sklearn.linear_model import LogisticRegression  # importing it takes longer than importing this package
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    z, labels = _codes(space, data).double().cpu().numpy(), data.labels.cpu().numpy()  # type: ignore[union-attr]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(z, labels)
    scaler, regression = model[0], model[1]
    weight, bias = torch.as_tensor(regression.coef_ / scaler.scale_), torch.as_tensor(regression.intercept_)
    if len(weight) == 1:  # two classes have one row, the log odds
        weight, bias = torch.cat([0 * weight, weight]), torch.cat([0 * bias, bias])
    bias = bias - weight @ torch.as_tensor(scaler.mean_)
    accuracy = None
    if shown.labels is not None and shown is not data and bool((shown.labels >= 0).all()):
        test = _codes(space, shown).double().cpu().numpy()
        accuracy = float(model.score(test, shown.labels.cpu().numpy()))
    classes = [int(c) for c in regression.classes_]
    return {"w": pack.vector(weight), "b": pack.vector(bias), "classes": classes, "accuracy": accuracy}


def _codes(space: LatentSpace, data: ImageSet) -> Tensor:
    return space.means(data.subset(slice(_NUM_CODES)))
