"""All figures of a run, and the line below them."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.files import write_atomically
from pyro_vae._core.owners import evaluating
from pyro_vae.data import Splits
from pyro_vae.evaluation import (
    Classification,
    InferenceGaps,
    LatentDiagnostics,
    LogLikelihood,
    Result,
    latent_diagnostics,
)
from pyro_vae.models import VAE, LabelledVAE
from pyro_vae.plotting.bounds import annealed_chains, bound_curve, harmonic_reliability, sandwich_bounds
from pyro_vae.plotting.class_entropy import class_entropy
from pyro_vae.plotting.class_images import analogies, class_samples
from pyro_vae.plotting.classes import confusion_matrix, reliability_diagram
from pyro_vae.plotting.diagnostics import elbo_decomposition, predictive_checks, rank_histograms
from pyro_vae.plotting.figures import (
    active_units,
    latent_scatter,
    log_likelihood_histogram,
    manifold,
    reconstructions,
    samples,
    training_curves,
)
from pyro_vae.plotting.gaps import gap_bars
from pyro_vae.priors import StandardNormalPrior

_PHRASES = {
    **{"dataset": "{}", "binarize": "{} binarization", "likelihood": "{}", "train": "{} training images"},
    **{"labels": "{} of them labelled", "label_seed": "label seed {}", "m1": "M2 on the latents of {}"},
    **{"num_samples": "{} importance samples", "data_seed": "data seed {}", "split": "{} part", "num_data": "{} data"},
    **{"num_distributions": "{} distributions", "num_chains": "{} chains", "num_steps": "{} leapfrog steps"},
    **{"start": "from the {}", "schedule": "{} schedule", "num_simulations": "{} simulations", "precision": "{}"},
    **{"sample_seed": "seed {}"},
}
_OTHERWISE = {
    "gaps": {"num_samples": "{} samples", "num_steps": "{} steps of optimisation"},
    "diagnostics": {"num_samples": "{} draws"},
    "calibration": {"num_samples": "{} draws"},
    "predictive": {"num_samples": "{} replicates"},
    "class_posterior": {"num_samples": "{} importance samples per class"},
    "harmonic": {"num_samples": "{} posterior samples"},
}  # what entries mean to other methods
_MAX_IMAGES = 10_000  # of the test part in the latent figures: more are not legible


def caption_of(protocol: Mapping[str, Any]) -> str:
    """A protocol as a short line; entries it has no words for are left out.

    Example:
        >>> caption_of({"dataset": "Digits", "binarize": "dynamic", "data_seed": 0, "train": 1350, "num_samples": 1000})
        'Digits, dynamic binarization, 1350 training images, 1000 importance samples, data seed 0'
    """
    return _joined(_in_words(protocol), _PHRASES)


def result_caption(result: Result) -> str:
    """The protocol of a result as a short line, in the words of its method."""
    return _joined(_in_words(result.protocol), {**_PHRASES, **_OTHERWISE.get(result.method, {})})


def _in_words(protocol: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**protocol, "binarize": "no"} if protocol.get("binarize") == "none" else protocol


def _joined(words: Mapping[str, Any], phrases: Mapping[str, str]) -> str:
    return ", ".join(phrase.format(words[key]) for key, phrase in phrases.items() if key in words)


def save_figures(
    folder: str | Path,
    vae: VAE | LabelledVAE,
    splits: Splits,
    history: Sequence[Mapping[str, Any]],
    *,
    result: LogLikelihood | None = None,
    classes: Classification | None = None,
    caption: str = "",
) -> list[Path]:
    """Write every figure that the data allow as PNG, atomically; those there are replaced.

    Args:
        folder: made as needed.
        vae: the trained model.
        splits: the test part is drawn, on the model's device; its first 10 000 images in the latent figures.
        history: records per epoch; none draws no curves.
        result: the log-likelihood of the test part.
        classes: how well a model with classes tells those of the test part.
        caption: below each figure; by default the protocol of the splits.

    Returns:
        The files. Same inputs, same figures.
    """
    line = caption or caption_of({**splits.protocol, "likelihood": type(vae.likelihood).__name__})
    like, test = next(vae.parameters()), splits.test.subset(slice(_MAX_IMAGES))
    x = test.to(like.device).batch(slice(None), dtype=like.dtype)
    figures = {"training_curves": training_curves(history, caption=line)} if history else {}
    images = len(x.shape) == 3 or (len(x.shape) == 4 and x.shape[1] in (1, 3))
    if isinstance(vae, LabelledVAE):
        figures |= _of_classes(vae, x, line) if images else {}
    else:
        figures |= {**(_of_images(vae, x, line) if images else {}), **_of_latents(vae, x, test.labels, line)}
    if classes is not None:
        figures["confusion"] = confusion_matrix(classes, caption=line)
    if result is not None:
        figures["log_likelihood"] = log_likelihood_histogram(result, caption=line)
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [_save(figure, Path(folder) / f"{name}.png") for name, figure in figures.items()]


def _of_images(vae: VAE, x: Tensor, line: str) -> dict[str, Figure]:
    figures = {"reconstructions": reconstructions(vae, x, caption=line), "samples": samples(vae, caption=line)}
    flat = vae.latent_dim == 2 and isinstance(vae.prior, StandardNormalPrior)  # whose quantiles the grid has
    return figures | ({"manifold": manifold(vae, caption=line)} if flat else {})


def _of_latents(vae: VAE, x: Tensor, labels: Tensor | None, line: str) -> dict[str, Figure]:
    with evaluating(vae), isolated_rng(0):
        units = latent_diagnostics(vae, x)
    return {
        "latents": latent_scatter(units.means, labels, caption=line),
        "active_units": active_units(units, caption=line),
    }


def _of_classes(vae: LabelledVAE, x: Tensor, line: str) -> dict[str, Figure]:
    return {"analogies": analogies(vae, x, caption=line), "class_samples": class_samples(vae, caption=line)}


def result_figure(result: Result, *, caption: str = "") -> Figure:
    """The figure that shows a result of any kind.

    Args:
        result: of one of the evaluations.
        caption: below it.

    Raises:
        ValueError: its numbers are not finite, or its kind has no figure.
    """
    draw = _FIGURES.get(result.method)
    if draw is None:
        raise ValueError(f"result_figure: result must be of a known kind, got {result.method!r}. Draw it yourself.")
    return draw(result, caption=caption)


def _diagnostics_figure(result: LatentDiagnostics, *, caption: str = "") -> Figure:
    """The parts of the ELBO; where they were left out, the activity."""
    return (active_units if result.information is None else elbo_decomposition)(result, caption=caption)


def _gaps_figure(result: InferenceGaps, *, caption: str = "") -> Figure:
    """The gaps of one guide."""
    return gap_bars({str(result.protocol.get("guide", "guide")): result}, caption=caption)


_FIGURES: dict[str, Callable[..., Figure]] = {
    "importance": bound_curve,
    "ais": annealed_chains,
    "harmonic": harmonic_reliability,
    "sandwich": sandwich_bounds,
    "diagnostics": _diagnostics_figure,
    "gaps": _gaps_figure,
    "calibration": rank_histograms,
    "predictive": predictive_checks,
    "classification": reliability_diagram,
    "class_posterior": class_entropy,
}


def _save(figure: Figure, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue(), overwrite=True)
    return path
