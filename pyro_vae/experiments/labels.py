"""Checks of the labels of a data set."""

from __future__ import annotations

from inspect import signature

from torch import Tensor

from pyro_vae.data import Dataset, Splits


def check_labels_asked(model: str, dataset: Dataset) -> None:
    """Refuse labels that a model does not take, and a model without the labels that it needs.

    Raises:
        ValueError: it is so.
    """
    if model == "VAE" and dataset.labels is not None:
        raise ValueError(
            f"--data.labels: a VAE takes no labels, got {dataset.labels}. Add --model M2, or leave the option away."
        )
    if model != "VAE" and "labels" not in signature(type(dataset)).parameters:
        raise ValueError(
            f"--model {model}: the data must have labels, got {type(dataset).__name__}, which has none. "
            "Use Digits, MNIST or Files."
        )
    if model != "VAE" and dataset.labels is None:
        raise ValueError(f"--model {model}: some labels must be told, got none. Add for example --data.labels 100.")


def num_classes_of(splits: Splits) -> int:
    """The number of classes of a data set with few labels, checked in all its parts.

    Raises:
        ValueError: a class has no labelled example.
    """
    num = count_classes(splits.train.labels)
    for name, part in (("validation", splits.validation), ("test", splits.test)):
        top = -1 if part is None or part.labels is None else int(part.labels.max())
        if top >= num:
            raise ValueError(
                f"labels: every class must be among the training images, got class {top} among those for {name} alone. "
                "Use more training images, or leave that class out."
            )
    return num


def count_classes(labels: Tensor | None) -> int:
    """The number of classes of partly known labels ``(N,)``, each of which must have an example.

    Raises:
        ValueError: there are no labels, or the classes are not numbered from 0 without a gap.

    Example:
        >>> import torch
        >>> count_classes(torch.tensor([-1, 1, 0, -1, 2]))
        3
    """
    there = set() if labels is None else set(labels.unique().tolist()) - {-1}
    num = max(there, default=-1) + 1
    missing = sorted(set(range(num)) - there)
    if num < 2 or missing:
        found = f"none of {', '.join(map(str, missing[:5]))}" if missing else f"{num} of them"
        raise ValueError(
            f"labels: there must be two classes or more, and a labelled example of each, got {found}. "
            "Number the classes from 0 without a gap, and ask for more labels."
        )
    return num
