"""All figures of a run, and the line below them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pyro_vae.data import Splits
from pyro_vae.evaluation import LogLikelihood, latent_diagnostics
from pyro_vae.files import write_atomically
from pyro_vae.isolation import evaluating, isolated
from pyro_vae.models import VAE
from pyro_vae.plotting.figures import (
    active_units,
    latent_scatter,
    log_likelihood_histogram,
    manifold,
    reconstructions,
    samples,
    training_curves,
)
from pyro_vae.priors import StandardNormalPrior

_PHRASES = {
    **{"dataset": "{}", "binarize": "{} binarization", "likelihood": "{}", "train": "{} training images"},
    **{"num_samples": "{} importance samples", "data_seed": "data seed {}"},
}
_MAX_IMAGES = 10_000  # of the test part in the latent figures: more are not legible


def caption_of(protocol: Mapping[str, Any]) -> str:
    """A protocol as a short line; entries it has no words for are left out.

    Example:
        >>> caption_of({"dataset": "Digits", "binarize": "dynamic", "data_seed": 0, "train": 1350, "num_samples": 1000})
        'Digits, dynamic binarization, 1350 training images, 1000 importance samples, data seed 0'
    """
    words = {**protocol, "binarize": "no"} if protocol.get("binarize") == "none" else protocol
    return ", ".join(phrase.format(words[key]) for key, phrase in _PHRASES.items() if key in words)


def save_figures(
    folder: str | Path,
    vae: VAE,
    splits: Splits,
    history: Sequence[Mapping[str, Any]],
    *,
    result: LogLikelihood | None = None,
    caption: str = "",
) -> list[Path]:
    """Write every figure that the data allow as PNG, atomically; those there are replaced.

    Args:
        folder: made as needed.
        vae: the trained model.
        splits: the test part is drawn, on the model's device; its first 10 000 images in the latent figures.
        history: records per epoch; none draws no curves.
        result: the log-likelihood of the test part.
        caption: below each figure; by default the protocol of the splits.

    Returns:
        The files. Same inputs, same figures.
    """
    line = caption or caption_of({**splits.protocol, "likelihood": type(vae.likelihood).__name__})
    like, test = next(vae.parameters()), splits.test.subset(slice(_MAX_IMAGES))
    x = test.to(like.device).batch(slice(None), dtype=like.dtype)
    with evaluating(vae), isolated(0):
        units = latent_diagnostics(vae, x)
    figures = {"training_curves": training_curves(history, caption=line)} if history else {}
    if len(x.shape) == 3 or (len(x.shape) == 4 and x.shape[1] in (1, 3)):
        figures |= {"reconstructions": reconstructions(vae, x, caption=line), "samples": samples(vae, caption=line)}
        flat = vae.latent_dim == 2 and isinstance(vae.prior, StandardNormalPrior)  # whose quantiles the grid has
        figures |= {"manifold": manifold(vae, caption=line)} if flat else {}
    figures["latents"] = latent_scatter(units.means, test.labels, caption=line)
    figures["active_units"] = active_units(units, caption=line)
    if result is not None:
        figures["log_likelihood"] = log_likelihood_histogram(result, caption=line)
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [_save(figure, Path(folder) / f"{name}.png") for name, figure in figures.items()]


def _save(figure: Figure, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue(), overwrite=True)
    return path
