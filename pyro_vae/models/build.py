"""Build models from the factories of their pieces."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from torch import nn

from pyro_vae._core.checks import refusal, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae.guides import AmortizedGuide, CategoricalGuide, DiagonalNormalGuide, Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.models.conditional import ConditionalVAE
from pyro_vae.models.given import Given
from pyro_vae.models.implicit import ImplicitModel
from pyro_vae.models.semi_supervised import SemiSupervisedVAE
from pyro_vae.models.vae import VAE
from pyro_vae.networks import Shape, ZeroFilledNetwork
from pyro_vae.networks.conditioned import factory_options, with_context, with_net, within
from pyro_vae.networks.inputs import StandardizedContextNetwork
from pyro_vae.priors import CategoricalPrior, ConditionalPrior, Prior


def build_vae(
    data_shape: Shape,
    latent_dim: int,
    prior: Callable[[int], Prior],
    likelihood: Callable[[int, Shape], Likelihood],
    guide: Callable[[Shape, int], Guide],
    prior_guide: Callable[[Shape, int], Guide] | None = None,
    *,
    missing: bool = False,
    seed: int = 0,
) -> VAE:
    """Build the three pieces for a data shape, with initial weights from ``seed``, leaving the global generator as is.

    A prior whose first argument is called ``guide``, such as VampPrior, receives the guide, or one built by
    ``prior_guide``, instead of ``latent_dim``. For incomplete data, ``missing``, the network of the guide becomes that
    of a :class:`~pyro_vae.networks.ZeroFilledNetwork`.

    Raises:
        ValueError: the pieces are incompatible, or with ``missing`` the guide has no argument ``net``.
    """
    guide = _of_incomplete_data(guide) if missing else guide
    with isolated_rng(seed):
        if not takes_guide(prior):
            if prior_guide is not None:
                raise _prior_guide_refusal("a VAE", needed=False)
            pieces = prior(latent_dim), likelihood(latent_dim, data_shape), guide(data_shape, latent_dim)
            return VAE(*pieces, missing=missing)
        p_x, q_z = likelihood(latent_dim, data_shape), guide(data_shape, latent_dim)
        encoder = q_z if prior_guide is None else prior_guide(data_shape, latent_dim)
        return VAE(cast(Any, prior)(encoder), p_x, q_z, missing=missing)


def build_implicit(
    data_shape: Shape,
    latent_dim: int,
    prior: Callable[[int], Prior],
    likelihood: Callable[[int, Shape], Likelihood],
    *,
    seed: int = 0,
) -> ImplicitModel:
    """Build prior and generator of a generative adversarial network, as :func:`build_vae` does.

    Raises:
        ValueError: the prior is built from a guide, or the likelihood has a density.
    """
    rule, got = "the prior of an ImplicitModel must not be built from a guide", f"{getattr(prior, '__name__', prior)}"
    require(not takes_guide(prior), "prior", rule, got, "Use StandardNormalPrior or MixtureOfNormalsPrior")
    with isolated_rng(seed):
        return ImplicitModel(prior(latent_dim), likelihood(latent_dim, data_shape))


def build_conditional(
    data_shape: Shape,
    latent_dim: int,
    context: int | Given,
    prior: Callable[[int], Prior],
    likelihood: Callable[[int, Shape], Likelihood],
    guide: Callable[[Shape, int], Guide],
    prior_guide: Callable[[Shape, int], Guide] | None = None,
    *,
    score_seen: bool = False,
    kinds: Sequence[tuple[str, int]] | None = None,
    seed: int = 0,
) -> ConditionalVAE:
    """Build a conditional VAE from the factories of a VAE, with initial weights from ``seed``.

    The network of the likelihood gets the context as a second input, by :func:`with_context`; so does that of the
    guide, unless the context is a function of the data. A ConditionalPrior is built from ``prior_guide``, by default a
    DiagonalNormalGuide.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions.
        context: number of classes of the context, or the function of the data that it is.
        prior: p(z) or p(z | c).
        likelihood: p(x | z, c), with the argument ``net``, a network of z.
        guide: q(z | x, c), with the argument ``net``, a network of x.
        prior_guide: guide of a ConditionalPrior, of contexts; or of a VampPrior.
        score_seen: see :class:`~pyro_vae.ConditionalVAE`.
        kinds: kinds of the entries of a context that is a function of the data, which the likelihood's network then
            sees standardized, see :class:`~pyro_vae.networks.inputs.StandardizedContextNetwork`; None for their units.
        seed: seed of the initial weights; the global generator is left as is.

    Raises:
        ValueError: a guide is missing, is not amortized, or the pieces are incompatible.

    Example:
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> pieces = ConditionalPrior, BernoulliLikelihood, DiagonalNormalGuide
        >>> build_conditional((1, 8, 8), 2, 10, *pieces).prior.context_shape
        (10,)
    """
    shape = (context,) if isinstance(context, int) else context.context_shape
    kind = factory_options(prior)[0]
    of_context = kind is not None and issubclass(kind, ConditionalPrior)
    if (prior_guide is not None) != takes_guide(prior) and not of_context:
        raise _prior_guide_refusal("a ConditionalVAE", needed=prior_guide is None)
    with isolated_rng(seed):
        p_x = _of_context(likelihood, shape, kinds)(latent_dim, data_shape)
        q_z = (_of_context(guide, shape) if isinstance(context, int) else guide)(data_shape, latent_dim)
        inputs = shape if of_context else data_shape
        first = (prior_guide or DiagonalNormalGuide)(inputs, latent_dim) if takes_guide(prior) else latent_dim
        given = None if isinstance(context, int) else context
        return ConditionalVAE(cast(Any, prior)(first), p_x, q_z, given=given, score_seen=score_seen)


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
    """Build M2 from the factories of a VAE, with initial weights from ``seed``.

    The networks of likelihood and guide get the label as a second input, by :func:`with_context`.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions.
        num_classes: number of classes.
        prior: p(z).
        likelihood: p(x | y, z), with the argument ``net``, a network of z.
        guide: q(z | x, y), with the argument ``net``, a network of x.
        prior_guide: guide of a VampPrior; that of the model needs labels, which pseudo-inputs lack.
        classifier: q(y | x).
        label_prior: p(y).
        classification_weight: see :class:`SemiSupervisedVAE`.
        seed: seed of the initial weights; the global generator is left as is.

    Raises:
        ValueError: the guide is not amortized, a VampPrior has no guide, or the pieces are incompatible.

    Example:
        >>> import torch
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> pieces = StandardNormalPrior, BernoulliLikelihood, DiagonalNormalGuide
        >>> build_semi_supervised((1, 8, 8), 2, 10, *pieces).classify(torch.zeros(4, 1, 8, 8)).shape
        torch.Size([4, 10])
    """
    if takes_guide(prior) == (prior_guide is None):
        raise _prior_guide_refusal("M2", needed=prior_guide is None)
    with isolated_rng(seed):
        p_x = _of_context(likelihood, (num_classes,))(latent_dim, data_shape)
        q_z = _of_context(guide, (num_classes,))(data_shape, latent_dim)
        if not isinstance(q_z, AmortizedGuide):
            rule, advice = "M2 must have an AmortizedGuide", "Use DiagonalNormalGuide or IAFGuide"
            raise refusal("guide", rule, type(q_z).__name__, advice)
        p_z = cast(Any, prior)(latent_dim if prior_guide is None else prior_guide(data_shape, latent_dim))
        pieces = p_z, p_x, q_z, classifier(data_shape, num_classes), label_prior(num_classes)
        return SemiSupervisedVAE(*pieces, classification_weight=classification_weight)


def _prior_guide_refusal(model: str, *, needed: bool) -> ValueError:
    if needed:
        rule = f"a VampPrior of {model} must have its own guide"
        return refusal("prior_guide", rule, "none", "Specify --prior_guide")
    return refusal(
        "prior_guide", "only a VampPrior or ConditionalPrior has a guide", "another prior", "Omit the option"
    )


def _of_context(factory: Any, context_shape: Shape, kinds: Sequence[tuple[str, int]] | None = None) -> Any:
    """A factory whose network of x or z takes a context; one without such an argument, or with a module, as it is."""
    options = factory_options(factory)[1]
    name = "decoder" if "decoder" in options else "net"  # of an autoregressive likelihood, whose net is causal
    net = options.get(name)
    if net is None or isinstance(net, nn.Module):
        return factory
    if kinds is None:
        return partial(factory, **{name: with_context(net, context_shape)})
    standardized = partial(StandardizedContextNetwork, context_shape=context_shape, kinds=kinds, net=net)
    return partial(factory, **{name: standardized})


def _of_incomplete_data(guide: Any) -> Any:
    zero_filled = with_net(guide, lambda net: within(net, lambda inner: partial(ZeroFilledNetwork, net=inner)))
    rule, advice = "of data with missing entries must build a network of them", "Use DiagonalNormalGuide"
    require(zero_filled is not guide, "guide", rule, getattr(guide, "__name__", "another guide"), advice)
    return zero_filled


def takes_guide(factory: Any) -> bool:
    """Whether the class, possibly within a ``partial`` of the parser, has a first argument ``guide``."""
    classes = [c for c in (factory, *getattr(factory, "args", ())) if inspect.isclass(c)]
    return bool(classes) and next(iter(inspect.signature(classes[0]).parameters), "") == "guide"
