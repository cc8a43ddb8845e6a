"""Networks that see their input with noise in training."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae._core.checks import check_positive
from pyro_vae.networks.base import Network, NetworkFactory, Shape, build_network
from pyro_vae.networks.mlp import MLP


class NoisyNetwork(Network):
    r"""Network of an input with noise, :math:`\mathrm{net}(x + \sigma\epsilon)`, in train mode; otherwise net(x).

    As the encoder of a :class:`~pyro_vae.guides.DeltaGuide` it makes a denoising autoencoder: the encoder sees x with
    noise, the target is x. For small noise this penalises the derivatives of the reconstruction, as a contractive
    autoencoder does.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        noise: standard deviation of the noise, in units of the data.
        net: builds the network, ``net(in_shape, out_shape)``.

    Raises:
        ValueError: ``noise`` is negative or not finite.

    References:
        Extracting and composing robust features with denoising autoencoders (Vincent et al., 2008), which masks entries
        instead of adding noise. https://doi.org/10.1145/1390156.1390294
        What regularized auto-encoders learn from the data-generating distribution (Alain and Bengio, 2014), theorem 1,
        on small noise. https://arxiv.org/abs/1211.4246

    Example:
        >>> import torch
        >>> net, x = NoisyNetwork((3,), (2,), noise=0.5), torch.ones(3)
        >>> torch.equal(net(x), net(x)), torch.equal(net.eval()(x), net(x))
        (False, True)
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, *, noise: float = 0.3, net: NetworkFactory = MLP) -> None:
        super().__init__(in_shape, out_shape)
        check_positive("NoisyNetwork", at_least_zero=True, noise=noise)
        self.noise, self.net = float(noise), build_network(net, self.in_shape, self.out_shape)

    def transform(self, x: Tensor) -> Tensor:
        return self.net(x + self.noise * torch.randn_like(x) if self.training else x)
