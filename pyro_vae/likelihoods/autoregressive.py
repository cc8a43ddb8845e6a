"""Autoregressive likelihood: the pixels depend on one another given the latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pyro_vae._core.checks import check_count, refusal
from pyro_vae.distributions import Autoregressive
from pyro_vae.likelihoods.base import Likelihood, SiteLikelihood
from pyro_vae.likelihoods.bernoulli import BernoulliLikelihood
from pyro_vae.networks import (
    MLP,
    CausalNetwork,
    CausalNetworkFactory,
    GatedPixelCNN,
    NetworkFactory,
    Shape,
    build_network,
)
from pyro_vae.networks.conditioned import factory_options

BaseFactory = Callable[[int, Shape], SiteLikelihood]


class AutoregressiveLikelihood(Likelihood):
    r"""Pixels that depend on those before, :math:`p(x | z) = \prod_s p(x_s | x_{<s}, z)`: the decoder of a PixelVAE.

    The network sees z as an image of ``features`` channels. A network that sees all pixels before can do without z, and
    the guide then tends to ignore the data; ``receptive_field`` and free bits prevent that. The distribution has exact
    densities and samples, but no ``mean``.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum.
        net: builds the causal network, ``net(data_shape, out_shape, context_shape=..., joint_channels=...)``.
        base: likelihood of independent sites, such as ``partial(CategoricalLikelihood, levels=16)``;
            :class:`MixtureOfLogisticsLikelihood` with one component is a discretized logistic.
        decoder: builds the network of the latents, ``decoder((latent_dim,), (features, H, W))``.
        features: number of channels in which the causal network sees z.
        receptive_field: largest distance of a pixel before that the causal network sees; None for that of the network.

    Attributes:
        offset: passed to the base, which adds it to every conditional. :meth:`initialise_mean` is exact if the network
            returns 0.

    Shape:
        ``(*batch, latent_dim)`` to a distribution with batch shape ``batch`` and event shape ``data_shape``.

    Raises:
        ValueError: the base has no independent sites, or the network no ``receptive_field``.

    References:
        PixelVAE: a latent variable model for natural images (Gulrajani et al., 2017).
        https://arxiv.org/abs/1611.05013
        Variational lossy autoencoder (Chen et al., 2017), section 3.1: the receptive field.
        https://arxiv.org/abs/1611.02731

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import AutoregressiveLikelihood
        >>> p = AutoregressiveLikelihood(2, (1, 4, 4), receptive_field=2)(torch.zeros(5, 2))
        >>> p.log_prob(p.sample()).shape
        torch.Size([5])
    """

    def __init__(
        self,
        latent_dim: int,
        data_shape: Shape,
        *,
        net: CausalNetworkFactory = GatedPixelCNN,
        base: BaseFactory = BernoulliLikelihood,
        decoder: NetworkFactory = MLP,
        features: int = 8,
        receptive_field: int | None = None,
    ) -> None:
        super().__init__(latent_dim, data_shape)
        check_count("AutoregressiveLikelihood", features=features)
        context_shape = (features, *self.data_shape[1:]) if len(self.data_shape) == 3 else (features,)
        self.decoder = build_network(decoder, (latent_dim,), context_shape)
        options = {} if receptive_field is None else {"receptive_field": receptive_field}
        self.base = causal_base(base, self.data_shape, net, context_shape=context_shape, **options)
        del self.base.offset  # that of this likelihood takes its place

    def forward(self, z: Tensor, *context: Tensor) -> Autoregressive:
        return Autoregressive(self.base.net, self.base.distribution, self.decoder(z, *context), self.offset)

    def mean_to_output(self, mean: Tensor) -> Tensor:
        return self.base.mean_to_output(mean)

    @property
    def mean_tolerance(self) -> float:  # type: ignore[override]
        """That of the base."""
        return self.base.mean_tolerance


def causal_base(base: Any, data_shape: Shape, net: Any, **options: Any) -> SiteLikelihood:
    """Build a likelihood of independent sites around a causal network, which takes the place of the decoder.

    Args:
        base: class of the likelihood, or a ``partial`` of it.
        data_shape: shape of one datum.
        net: class of the network, or a ``partial`` of it; or a network.
        options: further arguments of the network, such as ``context_shape``.

    Raises:
        ValueError: the base has no independent sites, the network is not causal, or it has no such option.
    """
    kind, _ = factory_options(base)
    if kind is None or not issubclass(kind, SiteLikelihood):
        rule, advice = "base must be a likelihood of independent sites", "Use Bernoulli-, Categorical- or Mixture"
        raise refusal("Autoregressive", rule, getattr(kind, "__name__", base), f"{advice}OfLogisticsLikelihood")
    network, _ = factory_options(net)
    causal = isinstance(net, CausalNetwork) or (network is not None and issubclass(network, CausalNetwork))
    if not causal:
        rule, advice = "net must be a CausalNetwork", "Use for example GatedPixelCNN"
        raise refusal("Autoregressive", rule, getattr(network, "__name__", type(net).__name__), advice)
    if "receptive_field" in options and "receptive_field" not in factory_options(net)[1]:
        rule, advice = "receptive_field needs a network that has one", "Use PixelCNN or GatedPixelCNN"
        raise refusal("Autoregressive", rule, getattr(network, "__name__", type(net).__name__), advice)

    def build(_: Shape, out_shape: Shape) -> CausalNetwork:
        if isinstance(net, CausalNetwork):
            return net
        return net(data_shape, out_shape, joint_channels=kind.joint_channels, **options)

    return base(1, data_shape, net=build)  # the outputs do not come from a latent
