"""Networks: tensor to tensor, leading dimensions kept."""

from pyro_vae.networks.base import Activation, Network, NetworkFactory, Shape, build_network
from pyro_vae.networks.context import ContextNetwork
from pyro_vae.networks.conv import ConvDecoder, ConvEncoder
from pyro_vae.networks.gated_conv import GatedConvDecoder, GatedConvEncoder
from pyro_vae.networks.mlp import MLP, GatedMLP
from pyro_vae.networks.residual_conv import ResidualConvDecoder, ResidualConvEncoder

__all__ = [
    "MLP",
    "Activation",
    "ContextNetwork",
    "ConvDecoder",
    "ConvEncoder",
    "GatedConvDecoder",
    "GatedConvEncoder",
    "GatedMLP",
    "Network",
    "NetworkFactory",
    "ResidualConvDecoder",
    "ResidualConvEncoder",
    "Shape",
    "build_network",
]
