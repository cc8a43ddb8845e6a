"""The implicit guide: samples of a network with noise as input, without a density."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_vae._core.checks import check_count
from pyro_vae.distributions import Implicit
from pyro_vae.guides.base import Guide
from pyro_vae.networks import MLP, Activation, ContextNetwork, NetworkFactory, Shape

_ADVICE = (
    "Train it with AdversarialELBO, and evaluate by annealed_log_likelihood or sandwich with start='prior' "
    "(--method ais, --method sandwich), which need no density of the guide"
)


class ImplicitGuide(Guide):
    r"""Implicit posterior :math:`z = f(x, \epsilon)`, :math:`\epsilon \sim \mathcal{N}(0, I)`, without a density.

    Any posterior can be represented, several modes included, since f need not be invertible nor the noise have the
    dimension of z. Whatever needs log q(z | x) is refused: the ELBO, importance sampling, compression.
    :class:`~pyro_vae.objectives.AdversarialELBO` trains it with an estimate of log q that is no bound.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L.
        noise_dim: number of dimensions of the noise; default ``latent_dim``.
        net: builds the layers of x before the common ones, ``net(data_shape, hidden[:1])``.
        hidden: widths of the common layers of x and the noise.
        activation: the nonlinearity after each common layer.

    Shape:
        ``(*batch, *data_shape)`` to a distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    Raises:
        ValueError: ``noise_dim`` is not positive.

    References:
        Adversarial variational Bayes: unifying variational autoencoders and generative adversarial networks (Mescheder,
        Nowozin and Geiger, 2017), section 3. https://arxiv.org/abs/1701.04722

    Example:
        >>> import torch
        >>> from pyro_vae.guides import ImplicitGuide
        >>> ImplicitGuide((1, 28, 28), 20).posterior(torch.zeros(5, 1, 28, 28)).sample().shape
        torch.Size([5, 20])
    """

    has_density = False
    implicit = True

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        *,
        noise_dim: int | None = None,
        net: NetworkFactory = MLP,
        hidden: Shape = (200, 200),
        activation: Activation = "silu",
    ) -> None:
        super().__init__(data_shape, latent_dim)
        check_count("ImplicitGuide", noise_dim=noise_dim)
        self.noise_dim = latent_dim if noise_dim is None else noise_dim
        options: dict[str, Any] = {"net": net, "hidden": hidden, "activation": activation}
        self.net = ContextNetwork(self.data_shape, (latent_dim,), context_dim=self.noise_dim, **options)

    def posterior(self, x: Tensor) -> Implicit:
        shapes = {"batch_shape": x.shape[: x.dim() - len(self.data_shape)], "event_shape": (self.latent_dim,)}
        return Implicit(
            lambda noise: self.net(x, noise),
            x,
            noise_dim=self.noise_dim,
            owner="ImplicitGuide",
            advice=_ADVICE,
            **shapes,
        )
