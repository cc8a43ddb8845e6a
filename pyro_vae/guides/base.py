"""The contract of a guide, and the Pyro program that all guides share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import pyro
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae._core.param_store import register
from pyro_vae.distributions import AugmentedPosterior
from pyro_vae.networks import NetworkFactory, Shape, build_network

LogJoint = Callable[[Tensor, Tensor], Tensor]


class Guide(nn.Module, ABC):
    """q(z | x), amortised: ``posterior(x)`` returns the distribution, calling the guide runs it as a Pyro program.

    Args:
        data_shape: shape of one datum, ``(C, H, W)`` for images.
        latent_dim: number of latent dimensions L.

    Attributes:
        infer: what Pyro's inference is told about the site ``"z"``, such as ``{"enumerate": "parallel"}``.
        needs_model: whether the posterior depends on :meth:`log_joint`.
    """

    needs_model = False

    def __init__(self, data_shape: Shape, latent_dim: int) -> None:
        super().__init__()
        if latent_dim < 1 or not data_shape or min(data_shape) < 1:
            raise ValueError(
                f"{type(self).__name__}: data_shape and latent_dim must be positive, got data_shape={data_shape}, "
                f"latent_dim={latent_dim}. Use sizes such as data_shape=(1, 28, 28), latent_dim=20."
            )
        self.data_shape, self.latent_dim = tuple(data_shape), latent_dim
        self.infer: dict[str, Any] = {}
        self._log_joint: LogJoint | None = None

    @abstractmethod
    def posterior(self, x: Tensor) -> TorchDistribution:
        """q(z | x) for ``x`` ``(*batch, *data_shape)``: batch shape ``batch``, event shape ``(latent_dim,)``."""

    def attach(self, log_joint: LogJoint) -> None:
        """Let the guide know its model; a :class:`~pyro_vae.VAE` does it. Most guides never ask.

        Args:
            log_joint: log p(x, z) for ``x`` ``(*batch, *data_shape)`` and ``z`` ``(*batch, latent_dim)``: ``batch``.
        """
        self._log_joint = log_joint

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z) of the model that the guide is attached to, ``batch``, in nats.

        Raises:
            RuntimeError: there is none.
        """
        if self._log_joint is None:
            raise RuntimeError(
                f"{type(self).__name__}: the guide must know its model, got none. "
                "Build a VAE with it, or call guide.attach(model.log_joint)."
            )
        return self._log_joint(x, z)

    def forward(self, x: Tensor) -> Tensor:
        """The Pyro guide: samples ``"z"`` within the plate ``"data"``.

        Args:
            x: ``(B, *data_shape)``, a batch of data.

        Returns:
            z, ``(B, latent_dim)``, or ``(K, B, latent_dim)`` under a plate of K particles.
        """
        register(self)
        q = self.posterior(x)
        with pyro.plate("data", x.shape[0], dim=-1):
            if isinstance(q, AugmentedPosterior):
                return q.program("z")
            return pyro.sample("z", q, infer=dict(self.infer))


class AmortizedGuide(Guide):
    """A guide whose posterior is a family of distributions with local parameters that a network computes.

    The seam between the two is what makes local optimisation possible: :class:`~pyro_vae.guides.SemiAmortizedGuide`
    improves ``net(x)`` per datum, for any such guide.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L.
        param_shape: shape of the local parameters of one datum.
        net: builds the encoder, ``net(data_shape, param_shape)``; a :class:`~pyro_vae.networks.ContextNetwork` makes it
            one of x and a context.
    """

    def __init__(self, data_shape: Shape, latent_dim: int, *, param_shape: Shape, net: NetworkFactory) -> None:
        super().__init__(data_shape, latent_dim)
        self.net = build_network(net, self.data_shape, param_shape)

    @abstractmethod
    def distribution(self, params: Tensor) -> TorchDistribution:
        """The member of the family with local parameters ``params``, ``(*batch, *param_shape)``."""

    def posterior(self, x: Tensor, *context: Tensor) -> TorchDistribution:
        """q(z | x), or q(z | x, context) where the network takes one: a deeper latent, a label."""
        return self.distribution(self.net(x, *context))
