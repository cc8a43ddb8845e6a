"""Guides of several layers of latents: bottom-up, top-down, and the ladder of both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import cast

import pyro
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn

from pyro_vae._core.param_store import register
from pyro_vae.guides import AmortizedGuide, DiagonalNormalGuide
from pyro_vae.networks import Network


class LayeredGuide(nn.Module, ABC):
    """q(z_1, ..., z_n | x): calling it runs it as a Pyro program with the sites ``"z1"`` to ``"zn"``.

    Args:
        data_shape: shape of one datum.
        layers: one conditional distribution per layer, from z_1 to z_n.
    """

    def __init__(self, data_shape: tuple[int, ...], layers: Sequence[AmortizedGuide]) -> None:
        super().__init__()
        if not layers:
            raise ValueError(f"{type(self).__name__}: there must be a layer, got layers=[]. Pass one per latent.")
        wrong = [type(layer).__name__ for layer in layers if not isinstance(layer, AmortizedGuide)]
        if wrong:
            raise ValueError(
                f"{type(self).__name__}: every layer must be an AmortizedGuide, got {wrong[0]}. "
                "Use one whose posterior does not depend on the model, such as DiagonalNormalGuide or IAFGuide."
            )
        self.data_shape = tuple(data_shape)
        self.layers = layer_list(layers)

    @property
    def latent_dims(self) -> tuple[int, ...]:
        """Number of latent dimensions of z_1 to z_n."""
        return tuple(layer.latent_dim for layer in self.layers)

    def attach(self, conditionals: Iterable[AmortizedGuide]) -> None:
        """Let the guide know p(z_1 | z_2) up to p(z_{n-1} | z_n), as a :class:`~pyro_vae.models.HierarchicalVAE` does.

        Args:
            conditionals: those of the model, from p(z_1 | z_2) on.
        """
        self._conditionals = tuple(conditionals)  # a tuple, so that they do not become parts of the guide

    @abstractmethod
    def latents(self, x: Tensor) -> list[Tensor]:
        """The Pyro statements, within the plate ``"data"``; z_1 to z_n, ``(*batch, L_l)`` each."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """The Pyro guide: samples ``"z1"`` to ``"zn"`` within the plate ``"data"``.

        Args:
            x: ``(B, *data_shape)``, a batch of data.

        Returns:
            z_1 to z_n, ``(B, L_l)`` each, or ``(K, B, L_l)`` under a plate of K particles.
        """
        register(self)
        with pyro.plate("data", x.shape[0], dim=-1):
            return self.latents(x)


class BottomUpGuide(LayeredGuide):
    r"""From the data upwards, :math:`q(z_1 | x)\, q(z_2 | z_1) \cdots q(z_n | z_{n-1})`.

    Args:
        layers: q(z_1 | x) to q(z_n | z_{n-1}), any guides; the ``data_shape`` of each is the size of what it is given.

    Raises:
        ValueError: layers whose sizes do not fit each other.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), section 2. https://arxiv.org/abs/1509.00519

    Example:
        >>> import torch
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> guide = BottomUpGuide([DiagonalNormalGuide((5,), 3), DiagonalNormalGuide((3,), 2)])
        >>> [z.shape[-1] for z in guide(torch.zeros(7, 5))]
        [3, 2]
    """

    def __init__(self, layers: Sequence[AmortizedGuide]) -> None:
        super().__init__(layers[0].data_shape if layers else (), layers)
        for below, layer in pairwise(layers):
            if layer.data_shape != (below.latent_dim,):
                raise ValueError(
                    f"BottomUpGuide: every layer must take the latents below it, {(below.latent_dim,)}, got "
                    f"data_shape={layer.data_shape}. Build it with that data_shape."
                )

    def latents(self, x: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for number, layer in enumerate(self.layers, start=1):
            q = layer.posterior(found[-1] if found else x)
            found.append(pyro.sample(f"z{number}", q, infer=dict(layer.infer)))
        return found


class TopDownGuide(LayeredGuide):
    r"""From the top downwards, :math:`q(z_n | x)\, q(z_{n-1} | x, z_n) \cdots q(z_1 | x, z_2)`.

    The order in which the model samples, so that the analytic KL of each layer may be used.

    Args:
        layers: q(z_1 | x, z_2) to q(z_{n-1} | x, z_n), guides with a :class:`~pyro_vae.networks.ContextNetwork`, and
            q(z_n | x).

    Raises:
        ValueError: layers for different data.

    References:
        VAE with a VampPrior (Tomczak and Welling, 2018), eq. 17. https://arxiv.org/abs/1705.07120

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.networks import ContextNetwork
        >>> below = DiagonalNormalGuide((5,), 3, net=partial(ContextNetwork, context_dim=2))
        >>> [z.shape[-1] for z in TopDownGuide([below, DiagonalNormalGuide((5,), 2)])(torch.zeros(7, 5))]
        [3, 2]
    """

    def __init__(self, layers: Sequence[AmortizedGuide]) -> None:
        super().__init__(layers[-1].data_shape if layers else (), layers)
        for layer in layers:
            if layer.data_shape != self.data_shape:
                raise ValueError(
                    f"TopDownGuide: every layer must take data of shape {self.data_shape}, got "
                    f"data_shape={layer.data_shape}. Build it with that data_shape; the latent above is a context."
                )

    def latents(self, x: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for number in range(len(self.layers), 0, -1):
            layer = self.layers[number - 1]
            q = layer.posterior(x, *found[:1])
            found.insert(0, pyro.sample(f"z{number}", q, infer=dict(layer.infer)))
        return found


class LadderGuide(LayeredGuide):
    r"""The ladder: each layer's normal factor of the data times the model's own conditional.

    :math:`q(z_l | x, z_{l+1}) \propto \hat N(z_l; \hat\mu_l(d_l), \hat\sigma_l^2(d_l))\, p(z_l | z_{l+1})`, a normal:
    precisions add and means are weighted by them; :math:`d_1 = f_1(x)`, :math:`d_l = f_l(d_{l-1})`.

    Args:
        layers: the factors, from z_1 to z_n; diagonal normals of the features.
        features: f_1 to f_n, networks; the output of each is what its layer and the next network take.

    Raises:
        ValueError: sizes that do not fit each other, or the model's conditionals are not diagonal normals.

    References:
        Ladder variational autoencoders (Sonderby et al., 2016), eq. 10 to 15. https://arxiv.org/abs/1602.02282

    Example:
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.networks import MLP
        >>> layers = [DiagonalNormalGuide((20,), 3), DiagonalNormalGuide((10,), 2)]
        >>> LadderGuide(layers, [MLP((5,), (20,)), MLP((20,), (10,))]).latent_dims
        (3, 2)
    """

    def __init__(self, layers: Sequence[DiagonalNormalGuide], features: Sequence[Network]) -> None:
        super().__init__(features[0].in_shape if features else (), layers)
        given = [network.out_shape for network in features]
        if [layer.data_shape for layer in layers] != given or [f.in_shape for f in features[1:]] != given[:-1]:
            raise ValueError(
                "LadderGuide: every layer and the next network must take what its network gives, got "
                f"networks {[(f.in_shape, f.out_shape) for f in features]}, layers {[g.data_shape for g in layers]}. "
                "Build them with the same sizes."
            )
        self.features = nn.ModuleList(features)

    def attach(self, conditionals: Iterable[AmortizedGuide]) -> None:
        conditionals = tuple(conditionals)
        wrong = [type(c).__name__ for c in conditionals if not isinstance(c, DiagonalNormalGuide)]
        if wrong:
            raise ValueError(
                f"LadderGuide: the model's conditionals must be diagonal normals, got {wrong[0]}. Use TopDownGuide."
            )
        super().attach(conditionals)

    def latents(self, x: Tensor) -> list[Tensor]:
        factors, features = [], x
        for network, layer in zip(self.features, self.layers, strict=True):
            features = network(features)
            factors.append(layer.posterior(features))
        found = [pyro.sample(f"z{len(factors)}", factors[-1])]
        for number in range(len(factors) - 1, 0, -1):
            q = product_of_normals(factors[number - 1], self._conditionals[number - 1].posterior(found[0]))
            found.insert(0, pyro.sample(f"z{number}", q))
        return found


def layer_list(layers: Iterable[AmortizedGuide]) -> Sequence[AmortizedGuide]:
    """A ``ModuleList`` under the type of what it holds."""
    return cast("Sequence[AmortizedGuide]", nn.ModuleList(layers))


def product_of_normals(first: TorchDistribution, second: TorchDistribution) -> TorchDistribution:
    """The normalised product of two diagonal normals: precisions add, means are weighted by them.

    Example:
        >>> import torch
        >>> one, two = (Normal(torch.tensor([mean]), 1.0).to_event(1) for mean in (0.0, 2.0))
        >>> product_of_normals(one, two).mean
        tensor([1.])
    """
    a, b = first.base_dist, second.base_dist
    precision = a.scale**-2 + b.scale**-2
    loc = (a.loc * a.scale**-2 + b.loc * b.scale**-2) / precision
    return Normal(loc, precision.rsqrt()).to_event(1)
