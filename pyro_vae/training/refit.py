"""Training of another guide for a trained model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from torch import nn

from pyro_vae._core.checks import check_arguments, require
from pyro_vae.data.batches import Data
from pyro_vae.training.fitting import FitResult, fit


@runtime_checkable
class Swappable(Protocol):
    """Protocol of a VAE whose guide can be replaced."""

    model: nn.Module
    guide: nn.Module

    def with_guide(self: V, guide: Any) -> V:
        """The same model with another guide."""


V = TypeVar("V", bound=Swappable)


class Refitted(NamedTuple, Generic[V]):
    """A VAE with a new guide, and the result of training it.

    Attributes:
        vae: the same model, its tensors shared, with the new guide.
        result: the result of the training.
    """

    vae: V
    result: FitResult


def refit_guide(vae: V, guide: nn.Module, data: Data, **options: Any) -> Refitted[V]:
    r"""Train a new guide for a trained model, :math:`\max_\phi \mathrm{ELBO}(\theta, \phi)` with :math:`\theta` fixed.

    The model is frozen and in eval mode during training and is restored afterwards. A gain in ELBO over the old guide
    is a gain of inference alone, as log p(x) does not change.

    Args:
        vae: a trained VAE or HierarchicalVAE; its guide is not changed.
        guide: the new guide, for the same latents and data.
        data: as for :func:`pyro_vae.fit`.
        options: options of :func:`pyro_vae.fit`: epochs, batch_size, objective, optimizer, engine, run, seed, ...

    Returns:
        The model with the new guide, and the history.

    Raises:
        ValueError: the guide does not fit the model, or shares parameters with it.

    References:
        Inference suboptimality in variational autoencoders (Cremer et al., 2018), section 5.
        https://arxiv.org/abs/1801.03558

    Example:
        >>> import torch
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide, FullRankNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> richer, result = refit_guide(vae, FullRankNormalGuide((5,), 2), torch.ones(200, 5), epochs=2)
        >>> richer.likelihood is vae.likelihood, len(result.history)
        (True, 2)
    """
    check_arguments(refit_guide, locals())
    frozen_ids = {id(parameter) for parameter in vae.model.parameters()}
    require(
        not any(id(parameter) in frozen_ids for parameter in guide.parameters()),
        "refit_guide",
        "the guide must not share parameters with the model, which is frozen",
        "one that does (a VampPrior holds the guide it was built with)",
        "Build a new guide",
    )
    fitted = vae.with_guide(guide)
    with frozen(fitted.model):
        return Refitted(fitted, fit(fitted.model, guide, data, **options))


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Context in which a module is frozen and in eval mode; both are restored for each submodule.

    Args:
        module: the module.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> with frozen(layer):
        ...     layer.weight.requires_grad, layer.training
        (False, False)
        >>> layer.weight.requires_grad, layer.training
        (True, True)
    """
    check_arguments(frozen, locals())
    trained = [p for p in module.parameters() if p.requires_grad]
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    try:
        module.requires_grad_(False).eval()
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for submodule, mode in modes:
            submodule.training = mode
