"""Models: the pieces bound into Pyro programs."""

from pyro_vae.models.vae import VAE, GenerativeModel

__all__ = ["VAE", "GenerativeModel"]
