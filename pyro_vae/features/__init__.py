"""Latents as features: a scikit-learn transformer. Importing this subpackage imports scikit-learn."""

from pyro_vae.features.transformer import VAETransformer

__all__ = ["VAETransformer"]
