"""Which labels a semi-supervised training keeps: as many of every class, by seed."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.data.splitting import stream

MISSING = -1  # the label of a datum whose class is not known


def choose_labels(labels: Tensor | None, num_labels: int, *, seed: int) -> Tensor:
    """Positions of ``num_labels`` labelled data, as many of every class as of any other, or one more.

    Where the number is no multiple of the number of classes, the seed says which classes have one more. With one seed
    a smaller choice is a part of a larger one. The global random state is left untouched.

    Args:
        labels: ``(N,)``, int64 classes; -1 for data whose class is not known, which are never chosen.
        num_labels: how many to choose in all.
        seed: of the choice; it has streams of its own, so nothing else depends on it.

    Returns:
        The positions, ``(num_labels,)``, in ascending order.

    Raises:
        ValueError: there are no labels, or not one int64 class per datum; fewer are asked for than there are classes,
            which would leave a class without any labelled example; or more than exist, in all or of a class.

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
            raise ValueError(
                f"choose_labels: every class must have as many examples as are asked of it, got {count} of class "
                f"{label} for {quota} with num_labels={num_labels}. Ask for fewer labels."
            )
    chosen = [_of_class(known, label, quota, seed) for label, quota in zip(classes, quotas, strict=True)]
    return torch.cat(chosen).sort().values


def _quotas(num_labels: int, num_classes: int, seed: int) -> list[int]:
    """How many of every class: equal numbers, and one more for classes in an order that the seed gives."""
    order = torch.randperm(num_classes, generator=stream(seed, "classes with one more label"), device="cpu")
    quotas = torch.full((num_classes,), num_labels // num_classes, device="cpu")
    quotas[order[: num_labels % num_classes]] += 1
    return quotas.tolist()


def _of_class(labels: Tensor, label: int, quota: int, seed: int) -> Tensor:
    positions = (labels == label).nonzero().squeeze(-1)
    # a stream per class: a choice does not depend on how many the other classes have
    order = torch.randperm(len(positions), generator=stream(seed, f"labels of class {label}"), device="cpu")
    return positions[order[:quota]]


def _checked(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ValueError("choose_labels: the data must have labels, got labels=None. Use a data set with classes.")
    if labels.dtype != torch.int64 or labels.dim() != 1 or bool((labels < MISSING).any()):
        low = int(labels.min()) if labels.numel() else None
        raise ValueError(
            "choose_labels: labels must be one int64 class per datum, -1 where it is not known, got "
            f"dtype={labels.dtype}, shape={tuple(labels.shape)}, smallest={low}. Pass labels.long()."
        )
    return labels.cpu()


def _check_number(num_labels: int, num_classes: int, num_known: int) -> None:
    if not num_known:
        raise ValueError("choose_labels: some labels must be known, got 0. Use a data set with classes.")
    if num_labels > num_known:
        raise ValueError(
            f"choose_labels: num_labels must not exceed the labels there are, got num_labels={num_labels}, "
            f"labels={num_known}. Ask for at most {num_known}."
        )
    if num_labels < num_classes:
        raise ValueError(
            f"choose_labels: every class must have a labelled example, got num_labels={num_labels} for "
            f"{num_classes} classes. Ask for at least {num_classes}."
        )
