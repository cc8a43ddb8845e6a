"""Choice of the labels of a semi-supervised training, balanced over the classes."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae._core.checks import refusal, require
from pyro_vae.data.splitting import stream

MISSING = -1  # label of an unlabelled datum


def choose_labels(labels: Tensor | None, num_labels: int, *, seed: int) -> Tensor:
    """Positions of ``num_labels`` labelled data, whose numbers per class differ by at most one.

    If ``num_labels`` is not a multiple of the number of classes, the seed decides which classes have one more. For one
    seed, a smaller choice is a subset of a larger one. The global random state is not changed.

    Args:
        labels: ``(N,)``, int64 classes; -1 for unlabelled data, which are never chosen.
        num_labels: total number of labels.
        seed: seed of the choice, with separate random streams.

    Returns:
        The positions, ``(num_labels,)``, in ascending order.

    Raises:
        ValueError: the data have no labels, or not one int64 class per datum; or ``num_labels`` is less than the number
            of classes, or exceeds the labels that exist, in total or of a class.

    References:
        Semi-supervised learning with deep generative models (Kingma et al., 2014), section 4: labels balanced over the
        classes. https://arxiv.org/abs/1406.5298

    Example:
        >>> labels = torch.tensor([0, 1, 0, 1, 0, 1, 2])
        >>> positions = choose_labels(labels, 3, seed=0)
        >>> labels[positions].sort().values
        tensor([0, 1, 2])
    """
    known = _checked(labels)
    classes, counts = (values.tolist() for values in known[known >= 0].unique(return_counts=True))
    _check_number(num_labels, len(classes), sum(counts))
    quotas = _quotas(num_labels, len(classes), seed)
    for label, count, quota in zip(classes, counts, quotas, strict=True):
        if quota > count:
            rule = "every class must have at least as many examples as labels are chosen"
            value = f"{count} of class {label} for {quota} with num_labels={num_labels}"
            raise refusal("choose_labels", rule, value, "Choose fewer labels")
    chosen = [_of_class(known, label, quota, seed) for label, quota in zip(classes, quotas, strict=True)]
    return torch.cat(chosen).sort().values


def _quotas(num_labels: int, num_classes: int, seed: int) -> list[int]:
    """Number of labels of every class; the seed decides which classes have one more."""
    order = torch.randperm(num_classes, generator=stream(seed, "classes with one more label"), device="cpu")
    quotas = torch.full((num_classes,), num_labels // num_classes, device="cpu")
    quotas[order[: num_labels % num_classes]] += 1
    return quotas.tolist()


def _of_class(labels: Tensor, label: int, quota: int, seed: int) -> Tensor:
    positions = (labels == label).nonzero().squeeze(-1)
    # a stream per class: the choice does not depend on the sizes of other classes
    order = torch.randperm(len(positions), generator=stream(seed, f"labels of class {label}"), device="cpu")
    return positions[order[:quota]]


def _checked(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise refusal("choose_labels", "the data must have labels", "labels=None", "Use a data set with classes")
    if labels.dtype != torch.int64 or labels.dim() != 1 or bool((labels < MISSING).any()):
        smallest = int(labels.min()) if labels.numel() else None
        rule = "labels must be one int64 class per datum, -1 for an unlabelled one"
        value = f"dtype={labels.dtype}, shape={tuple(labels.shape)}, smallest={smallest}"
        raise refusal("choose_labels", rule, value, "Pass labels.long()")
    return labels.cpu()


def _check_number(num_labels: int, num_classes: int, num_known: int) -> None:
    owner, value = "choose_labels", f"num_labels={num_labels}"
    require(num_known > 0, owner, "some labels must be known", "0", "Use a data set with classes")
    rule = "num_labels must not exceed the number of labelled data"
    require(num_labels <= num_known, owner, rule, f"{value}, labels={num_known}")
    rule = "every class must have a labelled example"
    advice = f"Choose at least {num_classes}"
    require(num_labels >= num_classes, owner, rule, f"{value} for {num_classes} classes", advice)
