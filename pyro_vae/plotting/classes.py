"""Figures of a classifier: whether its confidence can be believed, what it takes for what, where the classes lie."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from pyro_vae.evaluation import Classification
from pyro_vae.plotting.panels import PALETTE, need, page

_MARKERS = "os^Dv*<>PX"
_LEGIBLE = 16  # classes up to which counts are printed into the confusion matrix


def reliability_diagram(
    result: Classification, *, num_bins: int | None = None, equal_mass: bool = False, caption: str = ""
) -> Figure:
    """Accuracy against confidence, bin by bin; below it how many data there are of each confidence.

    On the diagonal the classifier is right as often as it says, below it it is too sure. Error bars hold the accuracy
    with a probability of about 68%, also where all or none of few data are right. The calibration error (ECE) stands in
    the caption, with what it would be on average of a calibrated classifier, for so many data.

    Args:
        result: from :func:`~pyro_vae.evaluation.classification`.
        num_bins: number of bins; by default the result's.
        equal_mass: bins of equally many data instead of equal width.

    References:
        On calibration of modern neural networks (Guo et al., 2017), figure 1. https://arxiv.org/abs/1706.04599
        Probable inference, the law of succession, and statistical inference (Wilson, 1927): the error bars.
        https://doi.org/10.1080/01621459.1927.10502953

    Example:
        >>> from pyro_vae.evaluation import classification
        >>> found = classification(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), labels=torch.tensor([0, 1]))
        >>> [ax.get_ylabel() for ax in reliability_diagram(found).axes]
        ['Accuracy', 'Number of data']
    """
    bins = result.reliability(num_bins=num_bins, equal_mass=equal_mass)
    line = f"ECE {bins.error:.4f} in {len(bins.counts)} bins ({bins.floor:.4f} on average if calibrated)."
    even, there = result.reliability(num_bins=num_bins), bins.counts > 0
    points = bins.confidence[there], bins.accuracy[there]
    errors = _score_interval(points[1], bins.counts[there]).numpy()
    with page(3.6, f"{line} {caption}".strip(), rows=2) as (figure, (top, below)):
        _bars(top, bins.edges, bins.accuracy, PALETTE[4], label="bins")
        top.errorbar(*(p.numpy() for p in points), errors, fmt="o", ms=2.5, color=PALETTE[0], label="at their mean")
        top.plot([0, 1], [0, 1], ls="--", color=PALETTE[7], lw=0.8, label="calibrated")
        top.set(ylabel="Accuracy", xlim=(0, 1), ylim=(0, 1.03))
        figure.legend(*top.get_legend_handles_labels(), loc="outside upper center", ncols=3)
        _bars(below, even.edges, even.counts, PALETTE[8])
        means = {"accuracy": (result.accuracy, "-"), "mean confidence": (float(result.confidence.mean()), "--")}
        for name, (value, style) in means.items():
            below.axvline(value, color=PALETTE[3], ls=style, lw=0.9, label=f"{name} {value:.3f}")
        below.set(xlabel="Confidence: probability of the predicted class", ylabel="Number of data")
        below.legend(loc="best")
        figure.align_ylabels([top, below])
    return figure


def confusion_matrix(result: Classification, *, names: list[str] | None = None, caption: str = "") -> Figure:
    """How many data of each true class were taken for which; the colour is that of the errors alone.

    Args:
        result: from :func:`~pyro_vae.evaluation.classification`.
        names: of the classes; by default their numbers.

    Raises:
        ValueError: as many names as classes are needed.
    """
    counts, num = result.confusion(), result.num_classes
    names = [str(c) for c in range(num)] if names is None else list(names)
    need(len(names) == num, f"confusion_matrix: names must be {num}, one per class, got {len(names)}. Name all.")
    errors = counts.double().fill_diagonal_(0)
    with page(3.3, caption) as (figure, (ax,)):
        # The upper half of the map would hide the counts.
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
    """The classes in the plane, by t-SNE: who is near whom among the features; distances mean little beyond that.

    Every class has a colour, a marker, and its name where most of its points are.

    Args:
        features: ``(N, F)``: latent features, posterior means, or a classifier's logits.
        labels: ``(N,)``, int64, the classes; -1, unknown, is grey.
        names: of the classes; by default their numbers.
        num: points that are drawn at most, chosen by the seed: t-SNE's time grows faster than their number.
        perplexity: about how many neighbours a point has.
        seed: of the choice and of t-SNE.

    Raises:
        ValueError: other shapes, too few points, a feature that is not finite, or fewer names than classes.

    References:
        Visualizing data using t-SNE (van der Maaten and Hinton, 2008). https://jmlr.org/papers/v9/vandermaaten08a.html
    """
    got = f"got features={tuple(features.shape)}, labels={tuple(labels.shape)}, perplexity={perplexity}"
    fits = features.ndim == 2 and labels.shape == features.shape[:1] and 0 < perplexity < min(num, len(features))
    need(fits, f"class_embedding: features must be (N, F), N > perplexity, with labels (N,), {got}. Use more points.")
    need(bool(features.isfinite().all()), "class_embedding: features must be finite, got others. Check the model.")
    classes = [int(c) for c in labels.unique().tolist()]
    names = [str(c) for c in range(max(classes) + 1)] if names is None else list(names)
    need(len(names) > max(classes), f"class_embedding: names must be of all classes, got {len(names)}. Name all.")
    chosen = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:num]
    points, found = _tsne(features.detach().cpu()[chosen], perplexity, seed), labels.cpu()[chosen]
    size = max(5.0, min(14.0, 4000 / len(points)))
    with page(3.2, caption) as (figure, (ax,)):
        for c in classes:
            _draw_class(ax, points[found == c], c, "" if c < 0 else names[c], size)
        ax.set(xlabel="t-SNE dimension 1 (no unit)", ylabel="t-SNE dimension 2 (no unit)", xticks=[], yticks=[])
        ax.set_aspect("equal", adjustable="datalim")
    return figure


def _bars(ax: Axes, edges: Tensor, heights: Tensor, color: str, **how: Any) -> None:
    width, look = edges.diff().numpy(), {"edgecolor": "white", "linewidth": 0.4}
    ax.bar(edges[:-1].numpy(), heights.numpy(), width, align="edge", color=color, **look, **how)


def _score_interval(share: Tensor, num: Tensor) -> Tensor:
    """How far below and above a share of so many its score interval reaches, ``(2, M)``, at one standard deviation."""
    centre = (share + 1 / (2 * num)) / (1 + 1 / num)
    half = (share * (1 - share) / num + 1 / (2 * num) ** 2).sqrt() / (1 + 1 / num)
    return torch.stack([share - centre + half, centre + half - share]).clamp_min(0)


def _tsne(features: Tensor, perplexity: float, seed: int) -> Tensor:
    """``(N, 2)``; from the principal components on, so that the picture is the same for the same seed."""
    from sklearn.manifold import TSNE

    settings = TSNE(2, perplexity=perplexity, init="pca" if features.shape[1] > 1 else "random", random_state=seed)
    return torch.from_numpy(settings.fit_transform(features.double().numpy())).double()


def _draw_class(ax: Axes, points: Tensor, c: int, name: str, size: float) -> None:
    """Its points, and its name at the densest of them."""
    if not len(points):
        return
    look = {"c": PALETTE[8], "marker": ".", "alpha": 0.4, "zorder": 1}
    if c >= 0:
        look = {"c": PALETTE[c % len(PALETTE)], "marker": _MARKERS[(c + c // 10) % 10], "alpha": 0.8}
    ax.scatter(*points.T.numpy(), s=size, linewidths=0, **look)
    distances = torch.cdist(points, points)
    width = distances.median().clamp_min(1e-9) / 4
    place = points[(-((distances / width) ** 2) / 2).exp().sum(-1).argmax()].tolist()
    halo = [withStroke(linewidth=2, foreground="white")]
    ax.text(*place, name, ha="center", va="center", size=9, weight="bold", path_effects=halo, zorder=5)
