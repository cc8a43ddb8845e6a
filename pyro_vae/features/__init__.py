"""Latents as features for other learners. Imports scikit-learn, which the package itself does not."""

from pyro_vae.features.transformer import VAETransformer

__all__ = ["VAETransformer"]
