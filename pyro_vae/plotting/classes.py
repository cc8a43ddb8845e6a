"""Figures of a classifier: reliability, confusion, entropy of the class posterior, embedding of the classes."""

from __future__ import annotations

import math
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from pyro_vae._core.checks import check_arguments, require
from pyro_vae.evaluation import Classification, ClassPosterior
from pyro_vae.plotting.panels import PALETTE, number, page
from pyro_vae.plotting.registry import result_figure

_MARKERS = "os^Dv*<>PX"
_LEGIBLE = 16  # largest number of classes whose counts are printed in the confusion matrix


@result_figure.register(Classification)
def reliability_diagram(
    result: Classification, *, num_bins: int | None = None, equal_mass: bool = False, caption: str = ""
) -> Figure:
    """Accuracy against confidence in bins; below it, the number of examples in each bin of confidence.

    A calibrated classifier lies on the diagonal, an overconfident one below it. Error bars are Wilson score intervals
    of one standard deviation, valid also for accuracies of 0 or 1 in small bins. The caption states the expected
    calibration error (ECE), and its mean for a calibrated classifier on as many examples.

    Args:
        result: from :func:`~pyro_vae.evaluation.classification`.
        num_bins: number of bins; by default the result's.
        equal_mass: use bins of equally many examples instead of equal width.
        caption: printed below.

    References:
        On calibration of modern neural networks (Guo et al., 2017), figure 1. https://arxiv.org/abs/1706.04599
        Probable inference, the law of succession, and statistical inference (Wilson, 1927): the error bars.
        https://doi.org/10.1080/01621459.1927.10502953

    Example:
        >>> from pyro_vae.evaluation import classification
        >>> result = classification(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), labels=torch.tensor([0, 1]))
        >>> [ax.get_ylabel() for ax in reliability_diagram(result).axes]
        ['Accuracy', 'Number of examples']
    """
    check_arguments(reliability_diagram, locals())
    bins = result.reliability(num_bins=num_bins, equal_mass=equal_mass)
    line = f"ECE {bins.error:.4f} in {len(bins.counts)} bins ({bins.floor:.4f} on average if calibrated)."
    even, filled = result.reliability(num_bins=num_bins), bins.counts > 0
    points = bins.confidence[filled], bins.accuracy[filled]
    errors = _score_interval(points[1], bins.counts[filled]).numpy()
    with page(3.6, f"{line} {caption}".strip(), rows=2) as (figure, (top, below)):
        _bars(top, bins.edges, bins.accuracy, PALETTE[4], label="bins")
        marker: dict[str, Any] = {"fmt": "o", "ms": 2.5, "color": PALETTE[0], "label": "at mean confidence"}
        top.errorbar(*(p.numpy() for p in points), errors, **marker)
        top.plot([0, 1], [0, 1], ls="--", color=PALETTE[7], lw=0.8, label="calibrated")
        top.set(ylabel="Accuracy", xlim=(0, 1), ylim=(0, 1.03))
        figure.legend(*top.get_legend_handles_labels(), loc="outside upper center", ncols=3)
        _bars(below, even.edges, even.counts, PALETTE[8])
        means = {"accuracy": (result.accuracy, "-"), "mean confidence": (float(result.confidence.mean()), "--")}
        for name, (value, style) in means.items():
            below.axvline(value, color=PALETTE[3], ls=style, lw=0.9, label=f"{name} {value:.3f}")
        below.set(xlabel="Confidence: probability of the predicted class", ylabel="Number of examples")
        below.legend(loc="best")
        figure.align_ylabels([top, below])
    return figure


def confusion_matrix(result: Classification, *, names: list[str] | None = None, caption: str = "") -> Figure:
    """Number of examples by true and predicted class; colours show the errors only.

    Args:
        result: from :func:`~pyro_vae.evaluation.classification`.
        names: names of the classes; by default their numbers.
        caption: printed below.

    Raises:
        ValueError: there are not as many names as classes.
    """
    check_arguments(confusion_matrix, locals())
    counts, num = result.confusion(), result.num_classes
    names = class_names("confusion_matrix", num, names)
    errors = counts.double().fill_diagonal_(0)
    with page(3.3, caption) as (figure, (ax,)):
        # Colours of the upper half of the map are too dark for the printed counts.
        ax.imshow(errors.numpy(), cmap="Oranges", vmin=0, vmax=max(1.0, 1.6 * float(errors.max())))
        for row, column in counts.nonzero().tolist() if num <= _LEGIBLE else []:
            weight = "bold" if row == column else "normal"
            ax.text(column, row, str(int(counts[row, column])), ha="center", va="center", size=6, weight=weight)
        ticks = range(0, num, max(1, num // _LEGIBLE))
        ax.set_xticks(ticks, [names[t] for t in ticks], rotation=90 if max(map(len, names)) > 3 else 0)
        ax.set_yticks(ticks, [names[t] for t in ticks])
        ax.set(xlabel="Predicted class", ylabel="True class")
        ax.set_title(f"Error {result.error_rate:.2f} \N{PLUS-MINUS SIGN} {result.sampling_error('error'):.2f} %")
        ax.spines[:].set_visible(True)
        ax.tick_params(length=0)
    return figure


@result_figure.register(ClassPosterior)
def class_entropy(result: ClassPosterior, *, caption: str = "") -> Figure:
    """Histogram of the entropy of p(y | x), between 0 and log C nats: the uncertainty of each datum's class.

    Args:
        result: from :func:`~pyro_vae.evaluation.class_posterior`.
        caption: printed below.

    Raises:
        ValueError: the class posterior is not finite.
    """
    check_arguments(class_entropy, locals())
    entropy, largest = result.entropy, math.log(result.num_classes)
    require(bool(entropy.isfinite().all()), "class_entropy", "the class posterior must be finite", "nan or inf")
    mean = float(entropy.mean())
    with page(2.1, caption) as (figure, (ax,)):
        ax.hist(entropy.numpy(), torch.linspace(0, largest, 31).tolist(), color=PALETTE[4])
        ax.axvline(mean, color=PALETTE[3], ls="--", lw=0.9, label=f"mean {number(mean, '.3f')}")
        ax.set(xlabel=r"Entropy of $p(y|x)$ (nats)", ylabel="Number of examples", xlim=(0, largest))
        figure.legend(loc="outside upper center")
    return figure


def class_embedding(
    features: Tensor,
    labels: Tensor,
    *,
    names: list[str] | None = None,
    num: int = 2000,
    perplexity: float = 30.0,
    seed: int = 0,
    caption: str = "",
) -> Figure:
    """The classes in the plane, by t-SNE, which preserves neighbourhoods but not distances.

    Every class has a colour, a marker, and its name at the densest of its points.

    Args:
        features: ``(N, F)``: latent features, posterior means, or a classifier's logits.
        labels: ``(N,)``, int64, the classes; -1, unknown, is grey.
        names: names of the classes; by default their numbers.
        num: largest number of points; a random subset of more is drawn, since t-SNE's time grows superlinearly.
        perplexity: effective number of neighbours of a point.
        seed: seed of the subset and of t-SNE.
        caption: printed below.

    Raises:
        ValueError: the shapes are others, there are too few points, a feature is not finite, or names are missing.

    References:
        Visualizing data using t-SNE (van der Maaten and Hinton, 2008). https://jmlr.org/papers/v9/vandermaaten08a.html
    """
    check_arguments(class_embedding, locals(), num=1, seed=0)
    shapes = f"features={tuple(features.shape)}, labels={tuple(labels.shape)}, perplexity={perplexity}"
    valid = features.ndim == 2 and labels.shape == features.shape[:1] and 0 < perplexity < min(num, len(features))
    valid &= not labels.is_floating_point()
    require(valid, "class_embedding", "features must be (N, F), N > perplexity, with integer labels (N,)", shapes)
    require(bool(features.isfinite().all()), "class_embedding", "features must be finite", "nan or inf")
    classes = [int(c) for c in labels.unique().tolist()]
    names = [str(c) for c in range(max(classes) + 1)] if names is None else list(names)
    require(len(names) > max(classes), "class_embedding", "every class must have a name", f"{len(names)} names")
    chosen = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:num]
    points, labels = _tsne(features.detach().cpu()[chosen], perplexity, seed), labels.cpu()[chosen]
    size = max(5.0, min(14.0, 4000 / len(points)))
    with page(3.2, caption) as (figure, (ax,)):
        for c in classes:
            _draw_class(ax, points[labels == c], c, "" if c < 0 else names[c], size)
        ax.set(xlabel="t-SNE dimension 1 (no unit)", ylabel="t-SNE dimension 2 (no unit)", xticks=[], yticks=[])
        ax.set_aspect("equal", adjustable="datalim")
    return figure


def class_names(owner: str, num: int, names: list[str] | None) -> list[str]:
    """Names of all classes, by default their numbers.

    Raises:
        ValueError: there are not as many names as classes.
    """
    names = [str(c) for c in range(num)] if names is None else list(names)
    require(len(names) == num, owner, f"names must be {num}, one per class", str(len(names)))
    return names


def _bars(ax: Axes, edges: Tensor, heights: Tensor, color: str, **options: Any) -> None:
    width, style = edges.diff().numpy(), {"edgecolor": "white", "linewidth": 0.4}
    ax.bar(edges[:-1].numpy(), heights.numpy(), width, align="edge", color=color, **style, **options)


def _score_interval(share: Tensor, num: Tensor) -> Tensor:
    """Distances from a share to the ends of its Wilson score interval, ``(2, M)``, at one standard deviation."""
    centre = (share + 1 / (2 * num)) / (1 + 1 / num)
    half = (share * (1 - share) / num + 1 / (2 * num) ** 2).sqrt() / (1 + 1 / num)
    return torch.stack([share - centre + half, centre + half - share]).clamp_min(0)


def _tsne(features: Tensor, perplexity: float, seed: int) -> Tensor:
    """``(N, 2)``; starts from the principal components, so that the same seed gives the same picture."""
    from sklearn.manifold import TSNE

    settings = TSNE(2, perplexity=perplexity, init="pca" if features.shape[1] > 1 else "random", random_state=seed)
    return torch.from_numpy(settings.fit_transform(features.double().numpy())).double()


def _draw_class(ax: Axes, points: Tensor, c: int, name: str, size: float) -> None:
    if not len(points):
        return
    style = {"c": PALETTE[8], "marker": ".", "alpha": 0.4, "zorder": 1}
    if c >= 0:
        style = {"c": PALETTE[c % len(PALETTE)], "marker": _MARKERS[(c + c // 10) % 10], "alpha": 0.8}
    ax.scatter(*points.T.numpy(), s=size, linewidths=0, **style)
    distances = torch.cdist(points, points)
    width = distances.median().clamp_min(1e-9) / 4
    place = points[(-((distances / width) ** 2) / 2).exp().sum(-1).argmax()].tolist()
    halo = [withStroke(linewidth=2, foreground="white")]
    ax.text(*place, name, ha="center", va="center", size=9, weight="bold", path_effects=halo, zorder=5)
