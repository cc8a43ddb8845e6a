"""All figures of a run."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae._core.checks import check_arguments, check_choice
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.files import write_atomically
from pyro_vae._core.owners import evaluating
from pyro_vae.data import Splits
from pyro_vae.evaluation import Classification, LogLikelihood, latent_diagnostics
from pyro_vae.evaluation.caption import caption_of
from pyro_vae.models import VAE, AutoregressiveModel, ConditionalVAE, ImplicitModel, LabelledVAE
from pyro_vae.models.vae import is_autoencoder
from pyro_vae.plotting.bounds import log_likelihood_histogram
from pyro_vae.plotting.class_images import analogies, class_samples
from pyro_vae.plotting.classes import confusion_matrix
from pyro_vae.plotting.conditional import class_context, completions
from pyro_vae.plotting.images import manifold, reconstructions, samples
from pyro_vae.plotting.latents import active_units, latent_scatter
from pyro_vae.plotting.panels import remove_caption
from pyro_vae.plotting.training import training_curves
from pyro_vae.priors import StandardNormalPrior

_MAX_IMAGES = 10_000  # of the test split in the latent figures: more points are illegible


def save_figures(
    folder: str | Path,
    vae: VAE | ConditionalVAE | LabelledVAE | AutoregressiveModel,
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
    figures = run_figures(vae, splits, history, result=result, classes=classes, caption=caption)
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [save_png(figure, Path(folder) / f"{name}.png") for name, figure in figures.items()]


def run_figures(
    vae: VAE | ConditionalVAE | LabelledVAE | AutoregressiveModel,
    splits: Splits,
    history: Sequence[Mapping[str, Any]],
    *,
    result: LogLikelihood | None = None,
    classes: Classification | None = None,
    caption: str = "",
) -> dict[str, Figure]:
    """Draw every figure that the data permit, by name; the arguments are those of :func:`save_figures`."""
    line = caption or caption_of({**splits.protocol, **_model_entries(vae, history)})
    like, test = next(vae.parameters()), splits.test.subset(slice(_MAX_IMAGES))
    x = test.to(like.device).batch(slice(None), dtype=like.dtype)
    figures = {"training_curves": training_curves(history, caption=line)} if history else {}
    names = list(splits.train.classes) or None
    are_images = len(x.shape) == 3 or (len(x.shape) == 4 and x.shape[1] in (1, 3))
    if isinstance(vae, LabelledVAE):
        figures |= _class_figures(vae, x, names, line) if are_images else {}
    elif isinstance(vae, ConditionalVAE):
        context = class_context(vae, test.labels)
        figures |= {"completions": completions(vae, x, context, caption=line)} if are_images else {}
    elif isinstance(vae, AutoregressiveModel):
        context = class_context(vae, test.labels)
        each = None if context is None else torch.arange(vae.context_shape[0], device=like.device)
        figures |= {"samples": samples(vae, context=each, caption=line)} if are_images else {}
        figures |= {"completions": completions(vae, x, context, caption=line)} if are_images and vae.by_rows else {}
    else:
        figures |= _image_figures(vae, x, line) if are_images else {}
        has_density = not (vae.guide.implicit or vae.likelihood.implicit)
        figures |= _latent_figures(vae, x, test.labels, names, line) if has_density else {}
    if classes is not None:
        figures["confusion"] = confusion_matrix(classes, names=names, caption=classes.caption())
    if result is not None:
        figures["log_likelihood"] = log_likelihood_histogram(result, caption=result.caption())
    return figures


def _model_entries(vae: Any, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Likelihood, guide, latent dimensions, and epoch and beta of the last record."""
    if isinstance(vae, AutoregressiveModel):
        entries: dict[str, Any] = {"likelihood": type(vae.base).__name__, "net": type(vae.net).__name__}
    else:
        guide = vae.guide.guide if isinstance(vae, LabelledVAE) else vae.guide
        entries = {"likelihood": type(vae.likelihood).__name__, "guide": type(guide).__name__}
        entries["latent_dim"] = vae.latent_dim
    last = history[-1] if history else {}
    beta = {} if last.get("beta", 1.0) == 1.0 else {"beta": last["beta"]}
    return {**entries, **beta, **({"epoch": last["epoch"]} if "epoch" in last else {})}


def save_png(figure: Figure, path: Path) -> Path:
    """Write a figure, atomically; an existing file is replaced."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue(), overwrite=True)
    return path


def save_for_paper(figure: Figure, path: str | Path, *, dpi: int = 300) -> list[Path]:
    """Write a figure without its caption, and the caption to a text file beside it; existing files are replaced.

    Fonts are embedded as TrueType in a PDF, and the same figure gives the same bytes.

    Args:
        figure: of this package, whose caption is its label below; it is changed.
        path: a ``.pdf``, ``.svg`` or ``.png``.
        dpi: pixels per inch of images within the figure, and of a PNG.

    Returns:
        Both files; the figure alone if it has no caption.

    Raises:
        ValueError: the file name has another ending, or ``dpi`` is not positive.
    """
    check_arguments(save_for_paper, locals(), dpi=1)
    path, date = Path(path), {".pdf": "CreationDate", ".svg": "Date", ".png": "Software"}
    check_choice("save_for_paper", "the suffix of path", path.suffix, tuple(date))
    caption = remove_caption(figure)
    buffer = io.BytesIO()
    with rc_context({"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": path.stem}):
        figure.savefig(buffer, format=path.suffix[1:], dpi=dpi, metadata={date[path.suffix]: None})
    write_atomically(path, buffer.getvalue(), overwrite=True)
    if not caption:
        return [path]
    text = path.with_suffix(".txt")
    write_atomically(text, f"{caption}\n".encode(), overwrite=True)
    return [path, text]


def _image_figures(vae: VAE, x: Tensor, line: str) -> dict[str, Figure]:
    figures = {} if isinstance(vae, ImplicitModel) else {"reconstructions": reconstructions(vae, x, caption=line)}
    if is_autoencoder(vae):
        return figures
    figures["samples"] = samples(vae, caption=line)
    planar = vae.latent_dim == 2 and isinstance(vae.prior, StandardNormalPrior)  # the grid has its quantiles
    return figures | ({"manifold": manifold(vae, caption=line)} if planar else {})


def _latent_figures(
    vae: VAE, x: Tensor, labels: Tensor | None, names: list[str] | None, line: str
) -> dict[str, Figure]:
    with evaluating(vae), isolated_rng(0):
        units = latent_diagnostics(vae, x)
    return {
        "latents": latent_scatter(units.means, labels, names=names, caption=line),
        "active_units": active_units(units, caption=line),
    }


def _class_figures(vae: LabelledVAE, x: Tensor, names: list[str] | None, line: str) -> dict[str, Figure]:
    options: dict[str, Any] = {"names": names, "caption": line}
    return {"analogies": analogies(vae, x, **options), "class_samples": class_samples(vae, **options)}
