"""Checks of the labels of a data set."""

from __future__ import annotations

from inspect import signature

from torch import Tensor

from pyro_vae._core.checks import require, with_article
from pyro_vae.data import Dataset, Splits


def check_labels(model: str, dataset: Dataset) -> None:
    """Require labels for a semi-supervised model, a context for a conditional one, and neither for a VAE.

    An autoregressive model may have a class as context.

    Raises:
        ValueError: model and data set do not fit each other.
    """
    conditional = model == "ConditionalVAE" or (model == "AutoregressiveModel" and dataset.context == "label")
    rule = f"{with_article(model)} must have {'a' if conditional else 'no'} context"
    advice = "Add for example --data.context label" if conditional else "Add --model ConditionalVAE"
    require((dataset.context is not None) == conditional, "--data.context", rule, dataset.context or "none", advice)
    if model != "M2":
        require(
            dataset.labels is None,
            "--data.labels",
            f"{with_article(model)} takes no labels",
            dataset.labels,
            "Add --model M2",
        )
        return
    option, name = f"--model {model}", type(dataset).__name__
    has_labels = "labels" in signature(type(dataset)).parameters
    require(has_labels, option, "the data must have labels", f"{name}, which has none", "Use Digits, MNIST or Files")
    advice = "Add for example --data.labels 100"
    require(dataset.labels is not None, option, "the number of labels must be given", "none", advice)


def num_classes_of(splits: Splits) -> int:
    """The number of classes of a data set with few labels.

    Raises:
        ValueError: a class has no labelled example, or no training image.
    """
    num = count_classes(splits.train.labels)
    for name, images in (("validation", splits.validation), ("test", splits.test)):
        largest = -1 if images is None or images.labels is None else int(images.labels.max())
        advice = "Use more training images, or remove that class"
        rule = "every class must be among the training images"
        require(largest < num, "labels", rule, f"class {largest} in the {name} images only", advice)
    return num


def count_classes(labels: Tensor | None) -> int:
    """The number of classes of partly known labels ``(N,)``, -1 for an unknown one.

    Raises:
        ValueError: no label is known, or the classes are not numbered from 0 without a gap.

    Example:
        >>> import torch
        >>> count_classes(torch.tensor([-1, 1, 0, -1, 2]))
        3
    """
    classes = set() if labels is None else set(labels.unique().tolist()) - {-1}
    num = max(classes, default=-1) + 1
    # one label may be of any size: no more classes are listed than there can be
    missing = [c for c in range(min(num, len(classes) + 5)) if c not in classes]
    got = f"no label of class {', '.join(map(str, missing[:5]))}" if missing else "one class" if num else "no label"
    rule = "at least two classes must have a labelled example each"
    advice = "Number the classes from 0 without a gap, and use more labels"
    require(num >= 2 and not missing, "labels", rule, got, advice)
    return num
