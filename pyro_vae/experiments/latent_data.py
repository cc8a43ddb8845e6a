"""The latents of one model as the data of another: M1+M2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.checks import check_shape, refusal, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.owners import evaluating
from pyro_vae.data import Dataset, ImageSet, Splits
from pyro_vae.data.base import WITHOUT_EFFECT
from pyro_vae.data.latent_set import LatentSet
from pyro_vae.data.lazy import chunks
from pyro_vae.evaluation.marginals import moments
from pyro_vae.models import VAE, AutoregressiveModel
from pyro_vae.priors import VampPrior

_BATCH_SIZE = 1000
_SPLITS = ("train", "validation", "test")
_MAY_DIFFER = {"labels", "label_seed", "by_name", *WITHOUT_EFFECT}  # options of the data set of M1


def active_latents(vae: VAE, train: ImageSet, *, threshold: float = 0.1) -> Tensor:
    r"""Positions of the active latents of a VAE, ``(L,)``.

    A latent is active if the standard deviation of its posterior mean over the training data exceeds ``threshold``.

    Args:
        vae: the trained VAE, on the device of the data.
        train: the training images.
        threshold: of the standard deviation; 0.1 in the authors' code.

    Raises:
        ValueError: no latent is active, or the VAE is of other data.

    References:
        Semi-supervised learning with deep generative models (Kingma et al., 2014), section 2.3.
        https://arxiv.org/abs/1406.5298
    """
    check_shape("m1", "the data of the VAE", vae.data_shape, train.data_shape, "Use another run")
    dtype = next(vae.parameters()).dtype
    with evaluating(vae), isolated_rng(0):
        batches = (train.batch(rows, dtype=dtype) for rows in torch.arange(len(train)).split(_BATCH_SIZE))
        active = torch.cat([moments(vae.encode(x), 100)[0] for x in batches]).std(0) > threshold
    rule = f"a latent dimension must vary by more than {threshold} over the data"
    require(bool(active.any()), "m1", rule, f"none of {vae.latent_dim}", "Train that run for longer")
    return active.nonzero().squeeze(-1)


def latents_of(vae: VAE, splits: Splits, active: Tensor | None = None) -> Splits:
    """Samples of the latents of a trained VAE as data, drawn again for every batch.

    Args:
        vae: the VAE, in eval mode, on the device of the data.
        splits: images, whose labels and pairing are kept.
        active: positions of the latents to keep; by default those of :func:`active_latents`.
    """
    position = active_latents(vae, splits.train) if active is None else active

    def encode(x: Tensor) -> Tensor:
        return vae.encode(x).sample()[..., position]

    def encoded(images: ImageSet) -> LatentSet:
        return LatentSet.of(images, encode, (len(position),))

    validation = None if splits.validation is None else encoded(splits.validation)
    return replace(splits, train=encoded(splits.train), validation=validation, test=encoded(splits.test))


def check_same_data(
    first: Dataset, second: Dataset, run: str, fingerprints: Sequence[Mapping[str, str]] = ({}, {})
) -> None:
    """Require the data set of M1 to be that of M2, with the same split; labels and location may differ.

    Args:
        first: the data set of M1.
        second: the data set of M2.
        run: the name of M1's run, for the message.
        fingerprints: those of the splits of M1 and of M2; if one is empty, the options of the data sets are compared.

    Raises:
        ValueError: the data sets differ.
    """
    ours, theirs = ({name: f.get(name) for name in _SPLITS} for f in fingerprints)
    if any(ours.values()) and any(theirs.values()) and ours == theirs:
        return
    options, expected = _options(first), _options(second)
    wrong = next((key for key in expected if options.get(key) != expected[key]), None)
    if wrong:
        got = f"{wrong}={options.get(wrong)} in {run}, {expected[wrong]} here"
        raise refusal("--m1", "the run must be of the same data", got, "Use the same options of --data")
    if any(ours.values()) and any(theirs.values()):
        got = f"other images in {run} by the same options"
        raise refusal("--m1", "the run must be of the same data", got, "Restore its files, or train it again")


def _options(dataset: Dataset) -> dict[str, Any]:
    return {"data": type(dataset).__name__, **{k: v for k, v in vars(dataset).items() if k not in _MAY_DIFFER}}


def initialise_at_data(vae: Any, train: ImageSet, *, seed: int = 0, at_mean: bool = True) -> None:
    """Initialise the likelihood at the mean of the training data, and a VampPrior's pseudo-inputs at training data.

    For latents as data the scale of the likelihood is initialised too, at 1.

    Args:
        vae: the model.
        train: the data; of latents the mean is that of one sample each.
        seed: seed of these samples and of the choice of the pseudo-inputs.
        at_mean: initialise the likelihood.
    """
    if at_mean and isinstance(train, LatentSet):
        _initialise_at_latents(vae.likelihood, train, seed)
    elif at_mean:
        (vae.base if isinstance(vae, AutoregressiveModel) else vae.likelihood).initialise_mean(train.mean())
    if isinstance(getattr(vae, "prior", None), VampPrior):
        num, rule = len(vae.prior.raw), f"num_components must be at most the {len(train)} training images"
        require(num <= len(train), "VampPrior", rule, f"num_components={num}")
        with isolated_rng(seed):
            rows = torch.randperm(len(train))[:num]
            x = train.batch(rows)
            vae.prior.initialise_pseudo_inputs(torch.where(x.isnan(), train.mean(dtype=x.dtype), x))


def check_magnitude(images: ImageSet) -> None:
    """Require values whose fourth power is finite; a larger one would also make the mean useless for all others.

    Raises:
        ValueError: naming the datum by its row in the data before they were split.
    """
    if images.images.dtype == torch.uint8:
        return
    dtype = torch.get_default_dtype()
    limit = torch.finfo(dtype).max ** 0.25
    parts = (part.masked_fill(part.isnan(), 0.0) for part in chunks(images.images))
    largest = torch.cat([part.flatten(1).abs().amax(1) for part in parts])  # (N,)
    bad = ~(largest <= limit)
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        row = i if images.rows is None else int(images.rows[i])
        rule = f"data must be finite and, in {str(dtype)[6:]}, at most {limit:.2g}"
        raise refusal("train", rule, f"{largest[i]:.6g} in datum {row}", "Rescale the data, or repair this datum")


def _initialise_at_latents(likelihood: Any, train: LatentSet, seed: int) -> None:
    with isolated_rng(seed), torch.no_grad():
        z = torch.cat([train.batch(rows) for rows in torch.arange(len(train)).split(_BATCH_SIZE)])
        likelihood.initialise_mean(z.mean(0))
        if isinstance(scale := getattr(likelihood, "log_scale", None), Tensor):
            scale.zero_()
