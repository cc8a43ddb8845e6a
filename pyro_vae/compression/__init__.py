"""Lossless compression by trained models."""

from pyro_vae.compression.codec import compress, decompress
from pyro_vae.compression.code_lengths import codelength

__all__ = ["codelength", "compress", "decompress"]
