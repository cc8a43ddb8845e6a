"""Figures for a paper. ``import pyro_vae`` does not load matplotlib; ``from pyro_vae import plotting`` does."""

from pyro_vae.plotting.bounds import (
    annealed_bounds,
    annealed_chains,
    bound_curve,
    bound_differences,
    harmonic_reliability,
    pareto_shapes,
    sandwich_bounds,
)
from pyro_vae.plotting.class_entropy import class_entropy
from pyro_vae.plotting.class_images import analogies, class_samples
from pyro_vae.plotting.classes import class_embedding, confusion_matrix, reliability_diagram
from pyro_vae.plotting.comparison import guide_comparison
from pyro_vae.plotting.diagnostics import (
    aggregate_posterior,
    elbo_decomposition,
    predictive_checks,
    rank_histograms,
)
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
from pyro_vae.plotting.gaps import gap_bars
from pyro_vae.plotting.panels import PALETTE, WIDTH
from pyro_vae.plotting.save import caption_of, result_caption, result_figure, save_figures

__all__ = [
    "PALETTE",
    "WIDTH",
    "active_units",
    "aggregate_posterior",
    "analogies",
    "annealed_bounds",
    "annealed_chains",
    "bound_curve",
    "bound_differences",
    "caption_of",
    "class_embedding",
    "class_entropy",
    "class_samples",
    "confusion_matrix",
    "elbo_decomposition",
    "gap_bars",
    "guide_comparison",
    "harmonic_reliability",
    "image_grid",
    "latent_scatter",
    "log_likelihood_histogram",
    "manifold",
    "pareto_shapes",
    "predictive_checks",
    "rank_histograms",
    "reconstructions",
    "reliability_diagram",
    "result_caption",
    "result_figure",
    "samples",
    "sandwich_bounds",
    "save_figures",
    "training_curves",
]
