"""The latents of one model as the data of another: M1 below M2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.owners import evaluating
from pyro_vae.data import Dataset, ImageSet, Splits
from pyro_vae.data.latent_set import LatentSet
from pyro_vae.evaluation.marginals import moments
from pyro_vae.models import VAE
from pyro_vae.priors import VampPrior


def active_latents(vae: VAE, train: ImageSet, *, threshold: float = 0.1) -> Tensor:
    r"""Positions of the latents of a VAE that carry something, ``(L,)``.

    Those whose mean of q(z | x) has a standard deviation above ``threshold`` over the training data; validation and
    test images are not looked at to find them.

    Args:
        vae: the trained VAE, on the device of the data.
        train: the training images.
        threshold: of the standard deviation; 0.1 is that of the authors' code.

    Raises:
        ValueError: there is none, or the VAE is of other data.

    References:
        Semi-supervised learning with deep generative models (Kingma et al., 2014), section 2.3.
        https://arxiv.org/abs/1406.5298
    """
    if vae.data_shape != train.data_shape:
        raise ValueError(
            f"m1: the VAE must be of these data, of shape {train.data_shape}, got {vae.data_shape}. Use another run."
        )
    like = next(vae.parameters())
    with evaluating(vae), isolated_rng(0):
        parts = (train.batch(part, dtype=like.dtype) for part in torch.arange(len(train)).split(1000))
        active = torch.cat([moments(vae.encode(x), 100)[0] for x in parts]).std(0) > threshold
    if not active.any():
        raise ValueError(
            f"m1: a latent dimension must vary by more than {threshold} over the data, got none of {vae.latent_dim}. "
            "Train that run for longer."
        )
    return active.nonzero().squeeze(-1)


def latents_of(vae: VAE, splits: Splits, active: Tensor | None = None) -> Splits:
    """Draws of the latents of a trained VAE as data, anew for every batch: M1 below M2.

    Args:
        vae: the VAE, in eval mode, on the device of the data.
        splits: images, whose labels and pairing are kept.
        active: positions of the latents that are taken; by default those of :func:`active_latents`.
    """
    position = active_latents(vae, splits.train) if active is None else active

    def encode(x: Tensor) -> Tensor:
        return vae.encode(x).sample()[..., position]

    def encoded(images: ImageSet) -> LatentSet:
        return LatentSet.of(images, encode, (len(position),))

    validation = None if splits.validation is None else encoded(splits.validation)
    return Splits(encoded(splits.train), validation, encoded(splits.test), dict(splits.protocol))


def check_same_data(theirs: Dataset, ours: Dataset, where: str) -> None:
    """Refuse a run of other images, or of images that are split otherwise, as M1.

    Args:
        theirs: the data set of that run.
        ours: the data set here.
        where: the run's name, for the message.

    Raises:
        ValueError: they differ in more than labels and place on the disk.
    """
    found, expected = _images(theirs), _images(ours)
    wrong = next((key for key in expected if found.get(key) != expected[key]), None)
    if wrong:
        raise ValueError(
            f"--m1: the run must be of the same data, got {wrong}={found.get(wrong)} in {where}, {expected[wrong]} "
            "here. Use the same options of --data."
        )


def _images(dataset: Dataset) -> dict[str, Any]:
    left_out = {"labels", "label_seed", "may_download", "root"}
    return {"data": type(dataset).__name__, **{k: v for k, v in vars(dataset).items() if k not in left_out}}


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
        vae.likelihood.initialise_mean(train.mean())
    if isinstance(vae.prior, VampPrior):
        with isolated_rng(seed):
            rows = torch.randperm(len(train))[: len(vae.prior.raw)]
            vae.prior.initialise_pseudo_inputs(train.batch(rows))


def _initialise_at_latents(likelihood: Any, train: LatentSet, seed: int) -> None:
    with isolated_rng(seed), torch.no_grad():
        z = torch.cat([train.batch(rows) for rows in torch.arange(len(train)).split(1000)])
        likelihood.initialise_mean(z.mean(0))
        if isinstance(scale := getattr(likelihood, "log_scale", None), Tensor):
            scale.zero_()
