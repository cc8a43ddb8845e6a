"""Lossless compression by trained models."""

from pyro_vae.compression.codec import compress, decompress

__all__ = ["compress", "decompress"]
