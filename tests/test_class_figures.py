"""Figures of classes show the numbers of the result and of the model."""

from __future__ import annotations

import io
from functools import partial

import matplotlib
import pytest
import torch
from matplotlib.patches import Rectangle
from torch import Tensor

from pyro_vae import SemiSupervisedVAE
from pyro_vae import plotting as plots
from pyro_vae.evaluation import Classification, classification
from pyro_vae.guides import CategoricalGuide, DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.networks import ContextNetwork
from pyro_vae.priors import StandardNormalPrior

SETTINGS = dict(matplotlib.rcParams)


def make_vae(data_shape: tuple[int, ...] = (1, 4, 6), classes: int = 3, **guide: object) -> SemiSupervisedVAE:
    net = partial(ContextNetwork, context_dim=classes, hidden=(9,))
    pieces = BernoulliLikelihood(2, data_shape, net=net), DiagonalNormalGuide(data_shape, 2, net=net, **guide)
    return SemiSupervisedVAE(StandardNormalPrior(2), *pieces, CategoricalGuide(data_shape, classes))


def make_result(num: int = 300, classes: int = 4) -> Classification:
    logits = 1.5 * torch.randn(num, classes)
    y = torch.distributions.Categorical(logits=logits).sample()
    return classification((2 * logits).softmax(-1), labels=y)


def make_clusters() -> tuple[Tensor, Tensor]:
    y = torch.arange(80) % 4 - 1  # a quarter is unknown
    return 8 * torch.eye(4)[y] + torch.randn(80, 4), y


def cell(figure, row: int, column: int, height: int = 4, width: int = 6) -> Tensor:
    """The image at a place of the grid; one pixel is between images."""
    mosaic = torch.tensor(figure.axes[0].images[0].get_array())[..., 0]
    top, left = 1 + row * (height + 1), 1 + column * (width + 1)
    return mosaic[top : top + height, left : left + width]


# reliability


@pytest.mark.parametrize("equal_mass", [False, True])
def test_bars_are_the_bins(equal_mass: bool) -> None:
    result = make_result()
    bins = result.reliability(num_bins=8, equal_mass=equal_mass)
    top, below = plots.reliability_diagram(result, num_bins=8, equal_mass=equal_mass).axes
    filled = (bins.counts > 0).tolist()
    bars = [bar for bar, has_data in zip(top.patches, filled, strict=True) if has_data]
    assert [bar.get_height() for bar in bars] == pytest.approx(bins.accuracy[bins.counts > 0].tolist())
    assert [bar.get_x() for bar in top.patches] == pytest.approx(bins.edges[:-1].tolist())
    assert [bar.get_width() for bar in top.patches] == pytest.approx(bins.edges.diff().tolist())
    assert [bar.get_width() for bar in below.patches] == pytest.approx([1 / 8] * 8)  # in any case
    assert [bar.get_height() for bar in below.patches] == result.reliability(num_bins=8).counts.tolist()
    assert [line.get_xdata()[0] for line in below.lines] == [result.accuracy, float(result.confidence.mean())]


def test_the_calibration_error_is_in_the_caption() -> None:
    result = make_result()
    figure = plots.reliability_diagram(result, caption="Simulated")
    bins = result.reliability()
    caption = " ".join(figure.get_supxlabel().split())
    assert caption == f"ECE {bins.error:.4f} in 15 bins ({bins.floor:.4f} on average if calibrated). Simulated"


def test_few_data_have_wide_error_bars() -> None:
    result = classification(
        torch.tensor([[0.9, 0.1]] * 4 + [[0.7, 0.3]] * 4), labels=torch.tensor([0] * 4 + [0, 0, 1, 1])
    )
    top = plots.reliability_diagram(result, num_bins=4).axes[0]
    segments = next(c for c in top.containers if hasattr(c, "lines")).lines[2][0].get_segments()
    # n = 4, z = 1: the roots of (p - s)^2 = p (1 - p) / 4 are 0.8 and 1 for s = 1, (1 -+ sqrt(0.2)) / 2 for s = 1 / 2.
    assert [s[:, 1].tolist() for s in segments] == [
        pytest.approx([(1 - 0.2**0.5) / 2, (1 + 0.2**0.5) / 2]),
        pytest.approx([0.8, 1.0]),
    ]
    assert [s[0, 0] for s in segments] == pytest.approx([0.7, 0.9])


# confusion


def test_counts_are_printed_and_errors_coloured() -> None:
    result = make_result()
    (ax,) = plots.confusion_matrix(result, names=["ant", "bee", "cat", "dog"]).axes
    counts = result.confusion()
    printed = {(int(t.get_position()[1]), int(t.get_position()[0])): int(t.get_text()) for t in ax.texts}
    assert printed == {(r, c): int(counts[r, c]) for r in range(4) for c in range(4) if counts[r, c]}
    values = torch.tensor(ax.images[0].get_array())
    assert torch.equal(values, counts.double() * (1 - torch.eye(4)))
    assert [t.get_text() for t in ax.get_yticklabels()] == ["ant", "bee", "cat", "dog"]
    assert ax.get_title() == f"Error {result.error_rate:.2f} ± {result.sampling_error('error'):.2f} %"


def test_many_classes_have_no_printed_counts() -> None:
    (ax,) = plots.confusion_matrix(make_result(classes=40)).axes
    assert not ax.texts
    assert len(ax.get_xticks()) <= 20
    with pytest.raises(ValueError, match=r"^confusion_matrix: names must be 4, one per class, got 1"):
        plots.confusion_matrix(make_result(), names=["ant"])


# grids of images


def test_analogies_have_the_style_of_the_row_and_the_class_of_the_column() -> None:
    vae = make_vae(log_scale_bounds=(-40.0, -39.0)).train()  # a sample is the mean
    x, y = torch.rand(5, 1, 4, 6), torch.tensor([2, 0, 1, 1, 0])
    figure = plots.analogies(vae, x, y, num=4)
    z = vae.guide.guide.posterior(x[:4], torch.eye(3)[y[:4]]).mean
    for row in range(4):
        assert (cell(figure, row, 0) - x[row, 0]).abs().max() < 1e-6
        assert cell(figure, row, 1).min() == 1
        for c in range(3):
            mean = vae.likelihood(z[row], torch.eye(3)[c]).mean[0]
            assert (cell(figure, row, c + 2) - mean).abs().max() < 1e-6
    frames = [p for p in figure.axes[0].patches if isinstance(p, Rectangle)]
    assert [int(p.get_x() // 7) for p in frames] == [4, 2, 3, 3]
    assert [int(p.get_y() // 5) for p in frames] == [0, 1, 2, 3]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["$x$", "", "0", "1", "2"]
    assert vae.training


def test_the_seed_draws_the_style() -> None:
    vae, x = make_vae(), torch.rand(2, 1, 4, 6)
    first, again, other = (plots.analogies(vae, x, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(cell(first, 0, 3), cell(again, 0, 3))
    assert not torch.equal(cell(first, 0, 3), cell(other, 0, 3))


def test_unknown_classes_are_predicted() -> None:
    vae, x = make_vae(), torch.rand(6, 1, 4, 6)
    predicted = vae.classify(x).argmax(-1)
    partial_labels = torch.tensor([-1, 0, 1, 2, -1, -1])
    for labels, expected in (
        (None, predicted),
        (partial_labels, torch.where(partial_labels == -1, predicted, partial_labels)),
    ):
        figure = plots.analogies(vae, x, labels)
        assert [int(p.get_x() // 7) - 2 for p in figure.axes[0].patches] == expected.tolist()


def test_samples_have_the_style_of_the_row() -> None:
    vae = make_vae()
    figure = plots.class_samples(vae, num=4, seed=3, names=["a", "b", "c"])
    other = plots.class_samples(vae, num=4, seed=4)
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["a", "b", "c"]
    assert not torch.equal(cell(figure, 0, 0), cell(other, 0, 0))
    # All classes of a row have one z: the logits of two classes differ by as much whatever z is, for a linear decoder.
    linear = ContextNetwork((2,), (1, 4, 6), context_dim=3, hidden=(9,))
    linear.activation = torch.nn.Identity()
    vae.likelihood.net = linear
    figure = plots.class_samples(vae, num=4)
    logits = [[cell(figure, row, c).logit() for c in range(3)] for row in range(4)]
    for row in range(1, 4):
        assert (logits[row][1] - logits[row][0] - logits[0][1] + logits[0][0]).abs().max() < 1e-5
        assert (logits[row][0] - logits[0][0]).abs().max() > 1e-3


def test_images_classes_and_numbers_must_fit() -> None:
    vae, x = make_vae(), torch.rand(3, 1, 4, 6)
    with pytest.raises(ValueError, match=r"^analogies: data must be images"):
        plots.analogies(make_vae((5,)), torch.rand(3, 5))
    with pytest.raises(ValueError, match=r"^class_samples: data must be images"):
        plots.class_samples(make_vae((5,)))
    with pytest.raises(ValueError, match=r"^analogies: num must be at least 1, got num=0"):
        plots.analogies(vae, x, num=0)
    with pytest.raises(ValueError, match=r"^class_samples: num must be at least 1, got num=0"):
        plots.class_samples(vae, num=0)
    with pytest.raises(ValueError, match=r"^analogies: labels must be of all 3 images"):
        plots.analogies(vae, x, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"^analogies: names must be 3, one per class, got 1"):
        plots.analogies(vae, x, names=["a"])


# t-SNE


def points(ax) -> list[Tensor]:
    return [torch.tensor(c.get_offsets().filled()) for c in ax.collections]


def test_clusters_are_separate_and_labelled() -> None:
    x, y = make_clusters()
    (ax,) = plots.class_embedding(x, y, names=["a", "b", "c"], perplexity=10).axes
    unknown, *classes = points(ax)
    assert [len(group) for group in (unknown, *classes)] == [20, 20, 20, 20]
    assert [t.get_text() for t in ax.texts] == ["", "a", "b", "c"]
    for text, group in zip(ax.texts[1:], classes, strict=True):
        place = torch.tensor(text.get_position())
        centres = torch.stack([other.mean(0) for other in classes])
        assert torch.equal(centres[(centres - place).norm(dim=-1).argmin()], group.mean(0))
        assert (group - place).norm(dim=-1).min() == 0
    colors = {tuple(c.get_facecolor()[0][:3]) for c in ax.collections}
    assert len(colors) == 4


def test_the_seed_chooses_the_points() -> None:
    x, y = make_clusters()
    options = {"num": 50, "perplexity": 5}
    before = torch.get_rng_state()
    first, again, other = (torch.cat(points(plots.class_embedding(x, y, seed=s, **options).axes[0])) for s in (0, 0, 1))
    assert len(first) == 50
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_more_than_ten_classes_differ_by_their_marker() -> None:
    x, y = torch.randn(60, 3), torch.arange(60) % 12
    (ax,) = plots.class_embedding(x, y, perplexity=5).axes
    styles = {(tuple(c.get_facecolor()[0][:3]), c.get_paths()[0].vertices.tobytes()) for c in ax.collections}
    assert len(styles) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": torch.rand(80)}, r"features must be \(N, F\), N > perplexity, with integer labels \(N,\)"),
        ({"labels": torch.zeros(7).long()}, r"got features=\(80, 4\), labels=\(7,\)"),
        ({"perplexity": 80}, "perplexity=80"),
        ({"num": 20, "perplexity": 30}, "perplexity=30"),
        ({"features": torch.full((80, 4), torch.nan)}, "features must be finite"),
        ({"names": ["a"]}, "every class must have a name, got 1 names"),
    ],
)
def test_bad_features_raise(changes: dict[str, object], message: str) -> None:
    x, y = make_clusters()
    with pytest.raises(ValueError, match=f"^class_embedding: .*{message}"):
        plots.class_embedding(**{"features": x, "labels": y, **changes})


def test_captions_are_below_and_settings_stay() -> None:
    vae, (x, y) = make_vae(), make_clusters()
    for figure in (
        plots.confusion_matrix(make_result(), caption="Simulated"),
        plots.analogies(vae, torch.rand(3, 1, 4, 6), caption="Simulated"),
        plots.class_samples(vae, caption="Simulated"),
        plots.class_embedding(x, y, perplexity=5, caption="Simulated"),
    ):
        assert figure.get_supxlabel() == "Simulated"
        assert figure.get_size_inches()[0] == plots.WIDTH
        figure.savefig(io.BytesIO(), format="png")  # no warning: everything fits
    assert dict(matplotlib.rcParams) == SETTINGS
