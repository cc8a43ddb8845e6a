"""Figures for a paper: one column wide, colour-blind safe, with units on the axes and the protocol as caption.

Every function returns a :class:`matplotlib.figure.Figure` and leaves matplotlib's settings, torch's random state and
the model's mode unchanged. ``import pyro_vae`` does not load matplotlib; ``from pyro_vae import plotting`` does.
"""

from pyro_vae.evaluation.caption import caption_of
from pyro_vae.plotting.accuracy import tried_estimators
from pyro_vae.plotting.annealing import (
    annealed_bounds,
    annealed_chains,
    bound_differences,
    harmonic_reliability,
    sandwich_bounds,
)
from pyro_vae.plotting.bounds import bound_curve, log_likelihood_histogram, pareto_shapes
from pyro_vae.plotting.class_images import analogies, class_samples
from pyro_vae.plotting.classes import class_embedding, class_entropy, confusion_matrix, reliability_diagram
from pyro_vae.plotting.code_length import code_lengths
from pyro_vae.plotting.comparison import gap_bars, guide_comparison, rate_distortion
from pyro_vae.plotting.conditional import completions
from pyro_vae.plotting.diagnostics import (
    aggregate_posterior,
    elbo_decomposition,
    predictive_checks,
    rank_histograms,
)
from pyro_vae.plotting.distorted import distortion_ranks
from pyro_vae.plotting.images import image_grid, manifold, reconstructions, samples
from pyro_vae.plotting.latents import active_units, latent_scatter
from pyro_vae.plotting.lossy_code import rate_distortion_curve
from pyro_vae.plotting.outliers import outlier_scores
from pyro_vae.plotting.panels import PALETTE, WIDTH
from pyro_vae.plotting.paths import interpolation_grid, j_diagram, mine_grid, traversal_strip
from pyro_vae.plotting.posteriors import posterior_ellipses, posterior_midpoint
from pyro_vae.plotting.qualities import factor_information, quality_panels
from pyro_vae.plotting.registry import result_figure
from pyro_vae.plotting.save import save_figures, save_for_paper
from pyro_vae.plotting.training import seed_curves, training_curves

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
    "code_lengths",
    "completions",
    "confusion_matrix",
    "distortion_ranks",
    "elbo_decomposition",
    "factor_information",
    "gap_bars",
    "guide_comparison",
    "harmonic_reliability",
    "image_grid",
    "interpolation_grid",
    "j_diagram",
    "latent_scatter",
    "log_likelihood_histogram",
    "manifold",
    "mine_grid",
    "outlier_scores",
    "pareto_shapes",
    "posterior_ellipses",
    "posterior_midpoint",
    "predictive_checks",
    "quality_panels",
    "rank_histograms",
    "rate_distortion",
    "rate_distortion_curve",
    "reconstructions",
    "reliability_diagram",
    "result_figure",
    "samples",
    "sandwich_bounds",
    "save_figures",
    "save_for_paper",
    "seed_curves",
    "training_curves",
    "traversal_strip",
    "tried_estimators",
]
