"""Another guide for a trained model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from torch import nn

from pyro_vae.data.batches import Data
from pyro_vae.training.fitting import fit
from pyro_vae.training.settings import FitResult

V = TypeVar("V", bound="Swappable")


class Swappable(Protocol):
    """What refitting asks of a VAE: a model, a guide, and the same model with another guide."""

    model: nn.Module
    guide: nn.Module

    def with_guide(self: V, guide: Any) -> V:
        """The same model with another guide."""


class Refitted(NamedTuple, Generic[V]):
    """A VAE with its new guide, and how the guide was trained.

    Attributes:
        vae: the same model, its tensors shared, with the new guide.
        result: the history of the training.
    """

    vae: V
    result: FitResult


def refit_guide(vae: V, guide: nn.Module, data: Data, **options: Any) -> Refitted[V]:
    r"""Train a new guide for a trained model, :math:`\max_\phi \mathrm{ELBO}(\theta, \phi)` with :math:`\theta` fixed.

    The model is frozen and in eval mode meanwhile, and is afterwards as it was. What the new guide gains in ELBO over
    the old one is inference alone: log p(x) has not changed.

    Args:
        vae: a trained VAE or HierarchicalVAE; it keeps its own guide.
        guide: the new guide, for the same latents and data.
        data: as for :func:`pyro_vae.fit`.
        options: of :func:`pyro_vae.fit`: epochs, batch_size, objective, optimizer, engine, run, seed, ...

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
    own = {id(parameter) for parameter in vae.model.parameters()}
    if any(id(parameter) in own for parameter in guide.parameters()):
        raise ValueError(
            "refit_guide: the guide must not share parameters with the model, which is frozen, got one that does "
            "(a VampPrior holds the guide it was built with). Build a new guide."
        )
    fitted = vae.with_guide(guide)
    with frozen(fitted.model):
        return Refitted(fitted, fit(fitted.model, guide, data, **options))


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within it, the module has nothing to train and is in eval mode; afterwards each part is as it was.

    Args:
        module: of any kind.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> with frozen(layer):
        ...     layer.weight.requires_grad, layer.training
        (False, False)
        >>> layer.weight.requires_grad, layer.training
        (True, True)
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.requires_grad_(False).eval()
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for part, mode in modes:
            part.training = mode
