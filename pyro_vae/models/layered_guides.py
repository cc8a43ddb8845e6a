"""Guides of several layers of latents: bottom-up, top-down, and the ladder of both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import cast

import pyro
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn

from pyro_vae._core.checks import CheckedArguments, refusal
from pyro_vae._core.param_store import register
from pyro_vae.guides import AmortizedGuide, DiagonalNormalGuide
from pyro_vae.networks import Network


class LayeredGuide(nn.Module, CheckedArguments, ABC):
    """Guide q(z_1, ..., z_n | x); calling it runs it as a Pyro program with the sites ``"z1"`` to ``"zn"``.

    Args:
        data_shape: shape of one datum.
        layers: one conditional distribution per layer, from z_1 to z_n.
    """

    def __init__(self, data_shape: tuple[int, ...], layers: Sequence[AmortizedGuide]) -> None:
        super().__init__()
        if not layers:
            raise refusal(type(self).__name__, "there must be a layer", "layers=[]", "Pass one per latent")
        self.data_shape = tuple(data_shape)
        self.layers = layer_list(layers)

    @property
    def latent_dims(self) -> tuple[int, ...]:
        """Number of latent dimensions of z_1 to z_n."""
        return tuple(layer.latent_dim for layer in self.layers)

    def attach(self, conditionals: Iterable[AmortizedGuide]) -> None:
        """Give the guide the model's conditionals; :class:`~pyro_vae.models.HierarchicalVAE` calls this.

        Args:
            conditionals: p(z_1 | z_2) to p(z_{n-1} | z_n) of the model.
        """
        self._conditionals = tuple(conditionals)  # a tuple, so that they do not become submodules of the guide

    @abstractmethod
    def latents(self, x: Tensor) -> list[Tensor]:
        """Run the Pyro statements within the plate ``"data"``; returns z_1 to z_n, ``(*batch, L_l)`` each."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """Run the Pyro guide: sample ``"z1"`` to ``"zn"`` within the plate ``"data"``.

        Args:
            x: ``(B, *data_shape)``, a batch of data.

        Returns:
            z_1 to z_n, ``(B, L_l)`` each, or ``(K, B, L_l)`` under a plate of K particles.
        """
        register(self)
        with pyro.plate("data", x.shape[0], dim=-1):
            return self.latents(x)


class BottomUpGuide(LayeredGuide):
    r"""Bottom-up guide, :math:`q(z_1 | x)\, q(z_2 | z_1) \cdots q(z_n | z_{n-1})`.

    Args:
        layers: q(z_1 | x) to q(z_n | z_{n-1}), any amortized guides; the ``data_shape`` of each is that of its input.

    Raises:
        ValueError: sizes of layers are inconsistent.

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
                rule = f"every layer must take the latents below it, {(below.latent_dim,)}"
                raise refusal("BottomUpGuide", rule, f"data_shape={layer.data_shape}")

    def latents(self, x: Tensor) -> list[Tensor]:
        latents: list[Tensor] = []
        for number, layer in enumerate(self.layers, start=1):
            q = layer.posterior(latents[-1] if latents else x)
            latents.append(pyro.sample(f"z{number}", q, infer=dict(layer.infer)))
        return latents


class TopDownGuide(LayeredGuide):
    r"""Top-down guide, :math:`q(z_n | x)\, q(z_{n-1} | x, z_n) \cdots q(z_1 | x, z_2)`.

    The order of the model, so that the analytic KL of each layer can be used.

    Args:
        layers: q(z_1 | x, z_2) to q(z_{n-1} | x, z_n), guides with a :class:`~pyro_vae.networks.ContextNetwork`, and
            q(z_n | x).

    Raises:
        ValueError: the layers have different ``data_shape``.

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
                rule, advice = f"every layer must take data of shape {self.data_shape}", "The latent above is a context"
                raise refusal("TopDownGuide", rule, f"data_shape={layer.data_shape}", advice)

    def latents(self, x: Tensor) -> list[Tensor]:
        latents: list[Tensor] = []
        for number in range(len(self.layers), 0, -1):
            layer = self.layers[number - 1]
            q = layer.posterior(x, *latents[:1])
            latents.insert(0, pyro.sample(f"z{number}", q, infer=dict(layer.infer)))
        return latents


class LadderGuide(LayeredGuide):
    r"""Ladder guide: each layer is the product of a normal factor of the data and the model's conditional.

    :math:`q(z_l | x, z_{l+1}) \propto \hat N(z_l; \hat\mu_l(d_l), \hat\sigma_l^2(d_l))\, p(z_l | z_{l+1})`, a normal:
    precisions add and means are weighted by them; :math:`d_1 = f_1(x)`, :math:`d_l = f_l(d_{l-1})`.

    Args:
        layers: the factors of z_1 to z_n, diagonal normals whose input are the features.
        features: networks f_1 to f_n; the output of each is the input of its layer and of the next network.

    Raises:
        ValueError: sizes are inconsistent, or the model's conditionals are not diagonal normals.

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
        shapes = [network.out_shape for network in features]
        if [layer.data_shape for layer in layers] != shapes or [f.in_shape for f in features[1:]] != shapes[:-1]:
            networks = [(f.in_shape, f.out_shape) for f in features]
            rule = "features must be one network per layer, whose output the layer and the next network take"
            raise refusal("LadderGuide", rule, f"networks {networks}, layers {[g.data_shape for g in layers]}")
        self.features = nn.ModuleList(features)

    def attach(self, conditionals: Iterable[AmortizedGuide]) -> None:
        conditionals = tuple(conditionals)
        wrong = [type(c).__name__ for c in conditionals if not isinstance(c, DiagonalNormalGuide)]
        if wrong:
            rule = "the model's conditionals must be diagonal normals"
            raise refusal("LadderGuide", rule, wrong[0], "Use TopDownGuide")
        super().attach(conditionals)

    def latents(self, x: Tensor) -> list[Tensor]:
        factors, features = [], x
        for network, layer in zip(self.features, self.layers, strict=True):
            features = network(features)
            factors.append(layer.posterior(features))
        latents = [pyro.sample(f"z{len(factors)}", factors[-1])]
        for number in range(len(factors) - 1, 0, -1):
            q = product_of_normals(factors[number - 1], self._conditionals[number - 1].posterior(latents[0]))
            latents.insert(0, pyro.sample(f"z{number}", q))
        return latents


def layer_list(layers: Iterable[AmortizedGuide]) -> Sequence[AmortizedGuide]:
    """Return a ``ModuleList``, typed by its elements."""
    return cast("Sequence[AmortizedGuide]", nn.ModuleList(layers))


def product_of_normals(first: TorchDistribution, second: TorchDistribution) -> TorchDistribution:
    """Normalised product of two diagonal normals: precisions add and weight the means.

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
