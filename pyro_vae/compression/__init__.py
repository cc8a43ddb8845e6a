"""Lossless compression by trained models."""

from pyro_vae.compression.code_lengths import codelength
from pyro_vae.compression.codec import compress, decompress

__all__ = ["codelength", "compress", "decompress"]
