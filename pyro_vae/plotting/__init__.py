"""Figures for a paper. ``import pyro_vae`` does not load matplotlib; ``from pyro_vae import plotting`` does."""

from pyro_vae.plotting.comparison import guide_comparison
from pyro_vae.plotting.figures import (
    active_units,
    image_grid,
    latent_scatter,
    log_likelihood_histogram,
    manifold,
    reconstructions,
    samples,
    training_curves,
)
from pyro_vae.plotting.panels import PALETTE, WIDTH
from pyro_vae.plotting.save import caption_of, save_figures

__all__ = [
    "PALETTE",
    "WIDTH",
    "active_units",
    "caption_of",
    "guide_comparison",
    "image_grid",
    "latent_scatter",
    "log_likelihood_histogram",
    "manifold",
    "reconstructions",
    "samples",
    "save_figures",
    "training_curves",
]
