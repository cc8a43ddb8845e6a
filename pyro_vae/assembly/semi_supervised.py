"""M2 from the factories that a VAE is built from, and what its data must have."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any, cast

from torch import Tensor, nn

from pyro_vae._core.contexts import isolated
from pyro_vae.assembly.vae import takes_guide
from pyro_vae.data import Dataset, Splits
from pyro_vae.guides import AmortizedGuide, CategoricalGuide, Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.models import SemiSupervisedVAE
from pyro_vae.networks import Shape
from pyro_vae.networks.conditioned import factory_options, with_context
from pyro_vae.priors import CategoricalPrior, Prior


def build_semi_supervised(
    data_shape: Shape,
    latent_dim: int,
    num_classes: int,
    prior: Callable[[int], Prior],
    likelihood: Callable[[int, Shape], Likelihood],
    guide: Callable[[Shape, int], Guide],
    prior_guide: Callable[[Shape, int], Guide] | None = None,
    *,
    classifier: Callable[[Shape, int], CategoricalGuide] = CategoricalGuide,
    label_prior: Callable[[int], CategoricalPrior] = CategoricalPrior,
    classification_weight: float = 0.0,
    seed: int = 0,
) -> SemiSupervisedVAE:
    """Build M2 from the factories that a VAE is built from, with initial weights by ``seed``.

    Likelihood and guide have networks of two inputs: the chosen ones, as :func:`with_context` understands them.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions.
        num_classes: number of classes.
        prior: p(z).
        likelihood: p(x | y, z), with the argument ``net``, a network of z.
        guide: q(z | x, y), with the argument ``net``, a network of x.
        prior_guide: the guide that a VampPrior goes through; that of the model has labels, which pseudo-inputs lack.
        classifier: q(y | x).
        label_prior: p(y).
        classification_weight: see :class:`SemiSupervisedVAE`.
        seed: of the initial weights; the global generator stays.

    Raises:
        ValueError: the guide is not amortized, a VampPrior has no guide, or the pieces do not fit each other.

    Example:
        >>> import torch
        >>> from pyro_vae import BernoulliLikelihood, DiagonalNormalGuide, StandardNormalPrior
        >>> pieces = StandardNormalPrior, BernoulliLikelihood, DiagonalNormalGuide
        >>> build_semi_supervised((1, 8, 8), 2, 10, *pieces).classify(torch.zeros(4, 1, 8, 8)).shape
        torch.Size([4, 10])
    """
    vamp = takes_guide(prior)
    if vamp == (prior_guide is None):
        rule = "a VampPrior of M2 must have a guide of its own" if vamp else "must have a VampPrior"
        raise ValueError(f"prior_guide: {rule}, got {'none' if vamp else 'another prior'}. {_ADVICE[vamp]}")
    with isolated(seed):
        p_x = _of_labels(likelihood, num_classes)(latent_dim, data_shape)
        q_z = _of_labels(guide, num_classes)(data_shape, latent_dim)
        if not isinstance(q_z, AmortizedGuide):
            raise ValueError(
                f"guide: M2 must have an encoder of data and label, got {type(q_z).__name__}, which has none. "
                "Use DiagonalNormalGuide or IAFGuide."
            )
        p_z = cast(Any, prior)(latent_dim if prior_guide is None else prior_guide(data_shape, latent_dim))
        parts = p_z, p_x, q_z, classifier(data_shape, num_classes), label_prior(num_classes)
        return SemiSupervisedVAE(*parts, classification_weight=classification_weight)


_ADVICE = {True: "Give one with --prior_guide, or use another prior.", False: "Leave the option away."}


def _of_labels(factory: Any, num_classes: int) -> Any:
    """The factory with its network made one of two inputs; as it is, where it has no argument ``net``."""
    net = factory_options(factory)[1].get("net")
    return (
        factory if net is None or isinstance(net, nn.Module) else partial(factory, net=with_context(net, num_classes))
    )


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


def classes_of(splits: Splits) -> int:
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
