"""All figures of a run."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae._core.checks import check_arguments
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.files import write_atomically
from pyro_vae._core.owners import evaluating
from pyro_vae.data import Splits
from pyro_vae.evaluation import Classification, LogLikelihood, latent_diagnostics
from pyro_vae.evaluation.caption import caption_of
from pyro_vae.models import VAE, ConditionalVAE, LabelledVAE
from pyro_vae.plotting.bounds import log_likelihood_histogram
from pyro_vae.plotting.class_images import analogies, class_samples
from pyro_vae.plotting.classes import confusion_matrix
from pyro_vae.plotting.conditional import completions
from pyro_vae.plotting.images import manifold, reconstructions, samples
from pyro_vae.plotting.latents import active_units, latent_scatter
from pyro_vae.plotting.training import training_curves
from pyro_vae.priors import StandardNormalPrior

_MAX_IMAGES = 10_000  # of the test split in the latent figures: more points are illegible


def save_figures(
    folder: str | Path,
    vae: VAE | ConditionalVAE | LabelledVAE,
    splits: Splits,
    history: Sequence[Mapping[str, Any]],
    *,
    result: LogLikelihood | None = None,
    classes: Classification | None = None,
    caption: str = "",
) -> list[Path]:
    """Write every figure that the data permit as PNG, atomically; existing files are replaced.

    Args:
        folder: created if it does not exist.
        vae: the trained model.
        splits: the test split is drawn, on the model's device; its first 10 000 images in the latent figures.
        history: records per epoch; without records there are no training curves.
        result: the log-likelihood of the test split.
        classes: the classification of the test split.
        caption: printed below each figure but those of results; by default the protocol of the splits, the model's
            classes, and the last epoch.

    Returns:
        The files. The same inputs give the same figures.
    """
    check_arguments(save_figures, locals())
    line = caption or caption_of({**splits.protocol, **_model_entries(vae, history)})
    like, test = next(vae.parameters()), splits.test.subset(slice(_MAX_IMAGES))
    x = test.to(like.device).batch(slice(None), dtype=like.dtype)
    figures = {"training_curves": training_curves(history, caption=line)} if history else {}
    are_images = len(x.shape) == 3 or (len(x.shape) == 4 and x.shape[1] in (1, 3))
    if isinstance(vae, LabelledVAE):
        figures |= _class_figures(vae, x, line) if are_images else {}
    elif isinstance(vae, ConditionalVAE):
        context = None if vae.given is not None or test.labels is None else test.labels.to(like.device)
        figures |= {"completions": completions(vae, x, context, caption=line)} if are_images else {}
    else:
        figures |= _image_figures(vae, x, line) if are_images else {}
        figures |= _latent_figures(vae, x, test.labels, line)
    if classes is not None:
        figures["confusion"] = confusion_matrix(classes, caption=classes.caption())
    if result is not None:
        figures["log_likelihood"] = log_likelihood_histogram(result, caption=result.caption())
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [save_png(figure, Path(folder) / f"{name}.png") for name, figure in figures.items()]


def _model_entries(vae: VAE | ConditionalVAE | LabelledVAE, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Likelihood, guide, latent dimensions, and epoch and beta of the last record."""
    guide = vae.guide.guide if isinstance(vae, LabelledVAE) else vae.guide
    entries = {"likelihood": type(vae.likelihood).__name__, "guide": type(guide).__name__, "latent_dim": vae.latent_dim}
    last = history[-1] if history else {}
    beta = {} if last.get("beta", 1.0) == 1.0 else {"beta": last["beta"]}
    return {**entries, **beta, **({"epoch": last["epoch"]} if "epoch" in last else {})}


def save_png(figure: Figure, path: Path) -> Path:
    """Write a figure, atomically; an existing file is replaced."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue(), overwrite=True)
    return path


def _image_figures(vae: VAE, x: Tensor, line: str) -> dict[str, Figure]:
    figures = {"reconstructions": reconstructions(vae, x, caption=line), "samples": samples(vae, caption=line)}
    planar = vae.latent_dim == 2 and isinstance(vae.prior, StandardNormalPrior)  # the grid has its quantiles
    return figures | ({"manifold": manifold(vae, caption=line)} if planar else {})


def _latent_figures(vae: VAE, x: Tensor, labels: Tensor | None, line: str) -> dict[str, Figure]:
    with evaluating(vae), isolated_rng(0):
        units = latent_diagnostics(vae, x)
    return {
        "latents": latent_scatter(units.means, labels, caption=line),
        "active_units": active_units(units, caption=line),
    }


def _class_figures(vae: LabelledVAE, x: Tensor, line: str) -> dict[str, Figure]:
    return {"analogies": analogies(vae, x, caption=line), "class_samples": class_samples(vae, caption=line)}
