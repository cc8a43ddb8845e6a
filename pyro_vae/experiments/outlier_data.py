"""Outliers to test a detector with: images of files, or made from the test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.checks import refusal
from pyro_vae.data import ImageSet
from pyro_vae.data.inputs import Input, read_inputs, read_rows
from pyro_vae.data.lazy import chunks
from pyro_vae.data.splitting import stream
from pyro_vae.experiments.trained_model import TrainedModel


def _noise(images: Tensor, top: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, top + 1, images.shape, generator=generator).to(images.dtype)


def _constant(images: Tensor, top: int, generator: torch.Generator) -> Tensor:
    levels = torch.randint(0, top + 1, (len(images), *[1] * (images.dim() - 1)), generator=generator)
    return levels.to(images.dtype).expand_as(images).clone()


KINDS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "noise": _noise,
    "constant": _constant,
    "inverted": lambda images, top, _: top - images,
    "rotated": lambda images, top, _: images.rot90(dims=(-2, -1)),
}
"""Outliers made from images in 0..top: every pixel uniform, every image of one level, the negative, a quarter turn."""
AGAINST = f"outliers to test the scores with: a file of images, or one of {', '.join(KINDS)}, made from the test images"


def made_outliers(kind: str, images: ImageSet, *, seed: int = 0) -> ImageSet:
    """Outliers of one of the :data:`KINDS`, as many as there are images.

    Args:
        kind: ``"noise"``, ``"constant"``, ``"inverted"`` or ``"rotated"``.
        images: images with grey levels.
        seed: of noise and constants.

    Raises:
        ValueError: the images have real values or counts, or are to be rotated and not square.

    Example:
        >>> images = ImageSet(torch.tensor([[[[0, 1], [0, 0]]]], dtype=torch.uint8), max_value=1)
        >>> made_outliers("rotated", images).images.flatten().tolist()
        [1, 0, 0, 0]
    """
    pixels = torch.cat(list(chunks(images.images)))
    if pixels.dtype != torch.uint8:
        rule, got = "images to make outliers from must have grey levels", images.kind or "real values"
        raise refusal("outliers", rule, got, "Pass a file")
    top = 1 if images.max_value == 1 else images.max_value
    new = KINDS[kind](pixels.cpu(), top, stream(seed, kind)).to(pixels.device)
    if new.shape != pixels.shape:
        raise refusal("outliers", "images to rotate must be square", tuple(pixels.shape[1:]), "Use inverted")
    return replace(images, images=new, labels=None, paired=False, rows=None)


def read_run_inputs(trained: TrainedModel, paths: Sequence[str | Path], *, owner: str, seed: int) -> list[Input]:
    """Images of files in the form of a run's data; see :func:`~pyro_vae.data.inputs.read_inputs` for the errors."""
    return read_inputs(paths, owner=owner, **_form(trained), seed=seed)


def read_run_rows(trained: TrainedModel, path: Path, *, owner: str, seed: int) -> ImageSet:
    """Images of an npy file or a folder in the form of a run's data, read by batches."""
    return read_rows(path, owner=owner, **_form(trained), seed=seed)


def _form(trained: TrainedModel) -> dict[str, Any]:
    splits, binarization = trained.splits, trained.protocol["binarize"]
    form = {"data_shape": splits.data_shape, "max_value": splits.max_value, "kind": splits.train.kind}
    return {**form, "binarization": binarization}


def outliers_of(trained: TrainedModel, source: str | Path, *, seed: int) -> ImageSet:
    """The outliers that ``--against`` names.

    Args:
        trained: the run.
        source: a file of images, or one of :data:`KINDS`.
        seed: of binarization, noise and constants.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the images are unlike the training images.
    """
    if str(source) in KINDS:
        return made_outliers(str(source), trained.images("test"), seed=seed)
    if not Path(source).is_file():
        text = f"--against: must be a file or one of {', '.join(KINDS)}, got {source}. Check the path."
        raise FileNotFoundError(text)
    (file,) = read_run_inputs(trained, [source], owner="--against", seed=seed)
    return file.images.to(trained.images("test").device)
