"""Lossless and lossy compression by trained models."""

from pyro_vae.compression.code_lengths import codelength
from pyro_vae.compression.codec import compress, compress_to, decompress
from pyro_vae.compression.lossy import compress_lossy, decompress_lossy
from pyro_vae.compression.rates import rate_distortion
from pyro_vae.compression.restored import Restored

__all__ = [
    "Restored",
    "codelength",
    "compress",
    "compress_lossy",
    "compress_to",
    "decompress",
    "decompress_lossy",
    "rate_distortion",
]
