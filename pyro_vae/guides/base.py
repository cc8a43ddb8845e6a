"""Base classes of guides, with the Pyro program that all guides share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import pyro
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn

from pyro_vae._core.checks import CheckedArguments, check_count, require
from pyro_vae._core.param_store import register
from pyro_vae.distributions import AugmentedPosterior
from pyro_vae.networks import NetworkFactory, Shape, build_network

LogJoint = Callable[[Tensor, Tensor], Tensor]
LogScaleBounds = tuple[float, float]


class Guide(nn.Module, CheckedArguments, ABC):
    """Approximate posterior q(z | x): ``posterior(x)`` returns the distribution, a call runs it as a Pyro program.

    Args:
        data_shape: shape of one datum, ``(C, H, W)`` for images.
        latent_dim: number of latent dimensions L.

    Attributes:
        infer: the ``infer`` options of the site ``"z"``, such as ``{"enumerate": "parallel"}``.
        needs_model: whether the posterior depends on :meth:`log_joint`.
        discrete: whether z consists of one-hot vectors, which need a discrete prior.
        has_density: whether q(z | x) has a density in closed form; otherwise the posterior is an
            :class:`~pyro_vae.distributions.AugmentedPosterior` or :class:`~pyro_vae.distributions.Implicit`, or a
            point if the guide is ``deterministic``.
        has_marginals: whether the marginals q(z_d | x) of the single dimensions have closed forms.
        implicit: whether the posterior can only be sampled.
        deterministic: whether q(z | x) is a point; see :class:`~pyro_vae.guides.DeltaGuide`.
        bounded: whether q(z | x) is 0 outside a part of the latent space, so that no log-likelihood can be estimated.
        random_posterior: whether ``posterior(x)`` is itself random, so that two calls differ.
    """

    needs_model = False
    discrete = False
    has_density = True
    has_marginals = False
    implicit = False
    deterministic = False
    bounded = False
    random_posterior = False

    def __init__(self, data_shape: Shape, latent_dim: int) -> None:
        super().__init__()
        check_count(type(self).__name__, latent_dim=latent_dim)
        require(len(data_shape) > 0, type(self).__name__, "data_shape must not be empty", "data_shape=()")
        self.data_shape, self.latent_dim = tuple(data_shape), latent_dim
        self.infer: dict[str, Any] = {}
        self._log_joint: LogJoint | None = None

    @abstractmethod
    def posterior(self, x: Tensor) -> TorchDistribution:
        """q(z | x) for ``x`` ``(*batch, *data_shape)``: batch shape ``batch``, event shape ``(latent_dim,)``."""

    def attach(self, log_joint: LogJoint) -> None:
        """Give the guide the density of its model; :class:`~pyro_vae.VAE` calls this. Few guides use it.

        Args:
            log_joint: log p(x, z) for ``x`` ``(*batch, *data_shape)`` and ``z`` ``(*batch, latent_dim)``: ``batch``.
        """
        self._log_joint = log_joint

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z) of the model that the guide is attached to, ``batch``, in nats.

        Raises:
            RuntimeError: the guide is not attached to a model.
        """
        if self._log_joint is None:
            raise RuntimeError(
                f"{type(self).__name__}: the guide must be attached to a model, got none. "
                "Build a VAE with it, or call guide.attach(model.log_joint)."
            )
        return self._log_joint(x, z)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Run the Pyro guide: sample ``"z"`` within the plate ``"data"``.

        Args:
            x: ``(B, *data_shape)``, a batch of data.
            context: further arguments of the posterior of an :class:`AmortizedGuide`.

        Returns:
            z, ``(B, latent_dim)``, or ``(K, B, latent_dim)`` under a plate of K particles.
        """
        register(self)
        q = self.posterior(x, *context)
        with pyro.plate("data", x.shape[0], dim=-1):
            if isinstance(q, AugmentedPosterior):
                return q.program("z")
            return pyro.sample("z", q, infer=dict(self.infer))


class AmortizedGuide(Guide):
    """A guide whose posterior is a family of distributions with local parameters computed by a network.

    Since network and family are separate, the local parameters ``net(x)`` can be optimised per datum:
    :class:`~pyro_vae.guides.SemiAmortizedGuide` does so for any such guide.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L.
        param_shape: shape of the local parameters of one datum.
        net: builds the encoder, ``net(data_shape, param_shape)``; a :class:`~pyro_vae.networks.ContextNetwork`
            also takes a context.
    """

    def __init__(self, data_shape: Shape, latent_dim: int, *, param_shape: Shape, net: NetworkFactory) -> None:
        super().__init__(data_shape, latent_dim)
        self.net = build_network(net, self.data_shape, param_shape)

    @abstractmethod
    def distribution(self, params: Tensor) -> TorchDistribution:
        """The member of the family with local parameters ``params``, ``(*batch, *param_shape)``."""

    def posterior(self, x: Tensor, *context: Tensor) -> TorchDistribution:
        """q(z | x), or q(z | x, context) if the network takes a context: a deeper latent, a label."""
        return self.distribution(self.net(x, *context))


def check_log_scale_bounds(name: str, log_scale_bounds: LogScaleBounds) -> LogScaleBounds:
    """Return the limits of a log scale as floats.

    Raises:
        ValueError: they are not in increasing order.
    """
    low, high = log_scale_bounds
    rule, what = "log_scale_bounds must be (low, high) with low < high", f"log_scale_bounds={log_scale_bounds}"
    require(low < high, name, rule, what, "Use for example (-3.0, 1.0)")
    return float(low), float(high)


def diagonal_normal(params: Tensor, log_scale_bounds: LogScaleBounds) -> TorchDistribution:
    """The diagonal normal with loc and log scale ``(*batch, 2, L)``: batch shape ``batch``, event shape ``(L,)``."""
    loc, log_scale = params.unbind(-2)
    return Normal(loc, log_scale.clamp(*log_scale_bounds).exp()).to_event(1)
