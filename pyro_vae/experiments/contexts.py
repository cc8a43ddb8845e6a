"""Contexts of samples of a run's conditional model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.checks import refusal, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae.data.binarization import Binarization
from pyro_vae.data.inputs import read_inputs
from pyro_vae.experiments.labels import num_classes_of
from pyro_vae.experiments.trained_model import TrainedModel
from pyro_vae.models import Given


def contexts_of(trained: TrainedModel, text: str | None, num: int) -> Tensor:
    """The contexts that a text describes, ``(N, *context_shape)`` or classes ``(N,)``, on the model's device.

    Args:
        trained: a run with a conditional model.
        text: a class, values of the columns, or image files, separated by commas; None for every class, or the
            contexts of the first test data.
        num: number of contexts of the test data.

    Raises:
        ValueError: the text does not describe a context of the model.
        FileNotFoundError: a file does not exist.
    """
    given, device = getattr(trained.vae, "given", None), next(trained.vae.parameters()).device
    if given is None:
        num_classes = num_classes_of(trained.splits)
        return (torch.arange(num_classes) if text is None else _class(text, num_classes)).to(device)
    if text is None:
        with isolated_rng(0):
            x = trained.splits.test.subset(slice(num)).batch(slice(None))
    elif len(given.data_shape) == 1:
        x = _row(text, given)
    else:
        return _of_images(trained, text, given, device)
    return given(x.to(device))


def _class(text: str, num_classes: int) -> Tensor:
    valid = text.isdecimal() and int(text) < num_classes
    require(valid, "--context", f"must be a class in 0..{num_classes - 1}", text)
    return torch.tensor([int(text)])


def _row(text: str, given: Given) -> Tensor:
    """A row of a table with the values of the columns that are seen."""
    columns = [] if given.seen is None else given.seen.nonzero().flatten().tolist()
    try:
        values = [float(value) for value in text.split(",")]
    except ValueError:
        values = []
    if len(values) != len(columns):
        raise refusal("--context", f"must be {len(columns)} number(s), of the columns {columns}", text)
    x = torch.zeros(1, *given.data_shape)
    x[0, columns] = torch.tensor(values)
    return x


def _of_images(trained: TrainedModel, text: str, given: Given, device: torch.device) -> Tensor:
    """The contexts of images of the data's shape; images of the context's shape, such as grey ones, as they are."""
    try:
        return given(_images(trained, text, given.data_shape, trained.protocol["binarize"]).to(device))
    except ValueError:
        if given.context_shape == given.data_shape:
            raise
        return _images(trained, text, given.context_shape, "none").to(device)


def _images(trained: TrainedModel, text: str, shape: tuple[int, ...], binarization: Binarization) -> Tensor:
    kind = "real" if trained.splits.train.kind == "counts" else trained.splits.train.kind  # means of counts, too
    options: dict[str, Any] = {"data_shape": shape, "max_value": trained.splits.max_value, "kind": kind}
    inputs = read_inputs(text.split(","), owner="--context", binarization=binarization, **options)
    with isolated_rng(0):
        return torch.cat([part.images.batch(slice(None)) for part in inputs])
