"""Networks: tensor to tensor, leading dimensions kept."""

from pyro_vae.networks.base import Activation, Network, NetworkFactory, Shape, build_network
from pyro_vae.networks.causal import CausalNetwork, CausalNetworkFactory
from pyro_vae.networks.conditioned import with_context
from pyro_vae.networks.context import ContextNetwork
from pyro_vae.networks.conv import ConvDecoder, ConvEncoder
from pyro_vae.networks.diagonal_lstm import DiagonalLSTM
from pyro_vae.networks.gated_conv import GatedConvDecoder, GatedConvEncoder
from pyro_vae.networks.gated_pixel_cnn import GatedPixelCNN
from pyro_vae.networks.masked_mlp import MaskedMLP
from pyro_vae.networks.mlp import MLP, GatedMLP
from pyro_vae.networks.multi_scale import MultiScale
from pyro_vae.networks.noisy import NoisyNetwork
from pyro_vae.networks.pixel_attention import PixelAttention
from pyro_vae.networks.pixel_cnn import PixelCNN
from pyro_vae.networks.pixel_cnn_plus_plus import PixelCNNPlusPlus
from pyro_vae.networks.residual_conv import ResidualConvDecoder, ResidualConvEncoder
from pyro_vae.networks.row_lstm import RowLSTM
from pyro_vae.networks.zero_filled import ZeroFilledNetwork

__all__ = [
    "MLP",
    "Activation",
    "CausalNetwork",
    "CausalNetworkFactory",
    "ContextNetwork",
    "ConvDecoder",
    "ConvEncoder",
    "DiagonalLSTM",
    "GatedConvDecoder",
    "GatedConvEncoder",
    "GatedMLP",
    "GatedPixelCNN",
    "MaskedMLP",
    "MultiScale",
    "Network",
    "NetworkFactory",
    "NoisyNetwork",
    "PixelAttention",
    "PixelCNN",
    "PixelCNNPlusPlus",
    "ResidualConvDecoder",
    "ResidualConvEncoder",
    "RowLSTM",
    "Shape",
    "ZeroFilledNetwork",
    "build_network",
    "with_context",
]
