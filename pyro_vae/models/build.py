"""Models from their pieces' factories."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from torch import nn

from pyro_vae._core.contexts import isolated_rng
from pyro_vae.guides import AmortizedGuide, CategoricalGuide, Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.models.semi_supervised import SemiSupervisedVAE
from pyro_vae.models.vae import VAE
from pyro_vae.networks import Shape
from pyro_vae.networks.conditioned import factory_options, with_context
from pyro_vae.priors import CategoricalPrior, Prior


def build_vae(
    data_shape: Shape,
    latent_dim: int,
    prior: Callable[[int], Prior],
    likelihood: Callable[[int, Shape], Likelihood],
    guide: Callable[[Shape, int], Guide],
    prior_guide: Callable[[Shape, int], Guide] | None = None,
    *,
    seed: int = 0,
) -> VAE:
    """Build the three pieces for the data's shape, with initial weights by ``seed``; the global generator stays.

    A prior whose first argument is called ``guide``, as VampPrior's, is given the guide, or one built by
    ``prior_guide``, instead of ``latent_dim``.
    """
    with isolated_rng(seed):
        if not takes_guide(prior):
            if prior_guide is not None:
                raise ValueError("prior_guide: must have a VampPrior, got another prior. Leave the option away.")
            return VAE(prior(latent_dim), likelihood(latent_dim, data_shape), guide(data_shape, latent_dim))
        made = likelihood(latent_dim, data_shape), guide(data_shape, latent_dim)
        through = made[1] if prior_guide is None else prior_guide(data_shape, latent_dim)
        return VAE(cast(Any, prior)(through), *made)


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
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> pieces = StandardNormalPrior, BernoulliLikelihood, DiagonalNormalGuide
        >>> build_semi_supervised((1, 8, 8), 2, 10, *pieces).classify(torch.zeros(4, 1, 8, 8)).shape
        torch.Size([4, 10])
    """
    vamp = takes_guide(prior)
    if vamp == (prior_guide is None):
        rule = "a VampPrior of M2 must have a guide of its own" if vamp else "must have a VampPrior"
        raise ValueError(f"prior_guide: {rule}, got {'none' if vamp else 'another prior'}. {_ADVICE[vamp]}")
    with isolated_rng(seed):
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


def takes_guide(factory: Any) -> bool:
    """Whether the first argument is called ``guide``; the class may be within the parser's ``partial``."""
    classes = [c for c in (factory, *getattr(factory, "args", ())) if inspect.isclass(c)]
    return bool(classes) and next(iter(inspect.signature(classes[0]).parameters), "") == "guide"
