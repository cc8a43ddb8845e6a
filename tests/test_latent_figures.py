"""Figures of latents in use show what was computed: images, frames, labels, ellipses."""

from __future__ import annotations

import math

import pytest
import torch
from matplotlib.offsetbox import AnnotationBbox
from matplotlib.patches import Ellipse

from pyro_vae import VAE, latents
from pyro_vae import plotting as plots
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.plotting import PALETTE
from pyro_vae.priors import StandardNormalPrior
from tests.linear_gaussian import LinearGaussian
from tests.test_plotting import is_whole, make_vae, pixels

X = torch.rand(30, 1, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def tile(figure, row, column):
    """An image of a mosaic of 4 x 6 pixels with 1 pixel between."""
    return pixels(figure)[1 + 5 * row : 5 + 5 * row, 1 + 7 * column : 7 + 7 * column, 0]


def frames(figure, color):
    """(row, column) of the frames of a colour."""
    corners = [p.get_xy() for p in figure.axes[0].patches if p.get_edgecolor()[:3] == rgb(color)]
    return sorted((round(y / 5), round(x / 7)) for x, y in corners)


def rgb(color):
    return tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))


def ticks(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def test_interpolations_are_rows_with_fractions_below() -> None:
    result = latents.interpolate(make_vae(), X[:3], X[3:6], num=9)
    figure = plots.interpolation_grid(result, caption="Noise")
    ax = figure.axes[0]
    assert ticks(ax.xaxis) == ["0", "0.25", "0.5", "0.75", "1"]
    assert ax.get_xlabel() == "Fraction of the way from a to b (path: lerp)"
    torch.testing.assert_close(tile(figure, 2, 8), result.means[2, 8, 0])
    assert is_whole(figure)


def test_a_traversal_has_a_row_for_each_dimension() -> None:
    result = latents.traverse(make_vae(3), X[:2], X, dims=[2, 0], num=5)
    figure = plots.traversal_strip(result, datum=1)
    ax = figure.axes[0]
    assert ticks(ax.yaxis) == [f"$z_{{{j}}}$, KL\n{kl:.2f} nats" for j, kl in zip((3, 1), result.kl, strict=True)]
    assert ticks(ax.xaxis) == ["1", "25.5", "50", "74.5", "99"]
    torch.testing.assert_close(tile(figure, 1, 4), result.means[1, 1, 4, 0])
    assert is_whole(figure)


def test_a_j_diagram_has_the_data_beside_their_corners_and_the_analogy_opposite() -> None:
    vae, (a, b, c) = make_vae(), (X[[i]] for i in range(3))
    figure = plots.j_diagram(vae, a, b, c, num=4)
    for x, row, corner, beside in ((a, 0, 1, 0), (b, 0, 4, 5), (c, 3, 1, 0)):
        torch.testing.assert_close(tile(figure, row, corner), latents.reconstruct(vae, x).means[0, 0])
        torch.testing.assert_close(tile(figure, row, beside), x[0, 0])
    torch.testing.assert_close(tile(figure, 3, 4), latents.analogy(vae, a, b, c).means[0, 0])
    top = latents.interpolate(vae, a, b, num=4, path="slerp").means[0, :, 0]
    torch.testing.assert_close(tile(figure, 0, 2), top[1])
    assert frames(figure, PALETTE[0]) == [(0, 1), (0, 4), (3, 1)]
    assert frames(figure, PALETTE[1]) == [(3, 4)]
    assert [text.get_text() for text in figure.axes[0].texts][:3] == ["a", "b", "c"]
    assert is_whole(figure)
    with pytest.raises(ValueError, match=r"^j_diagram: a, b and c must be one datum each"):
        plots.j_diagram(vae, X[:2], b, c)


def test_a_mine_grid_shows_every_neighbour_once() -> None:
    vae = make_vae()
    figure = plots.mine_grid(vae, X, rows=2, columns=3, between=1)
    places = [(row, column) for row in (0, 2) for column in (0, 2, 4)]
    assert frames(figure, PALETTE[0]) == places
    neighbours = latents.nearest(vae, X[:1], X, num=6).indices[0]
    means = latents.reconstruct(vae, X[neighbours]).means[:, 0]
    shown = torch.stack([tile(figure, *place) for place in places])
    distances = torch.cdist(shown.flatten(1), means.flatten(1))
    assert sorted(distances.argmin(1).tolist()) == list(range(6))
    assert distances.amin(1).max() < 1e-6
    assert is_whole(figure)


def test_the_midpoint_lies_between_two_posteriors() -> None:
    vae = make_vae(5)
    figure = plots.posterior_midpoint(vae, X[:1], X[1:2])
    (ax,) = figure.axes
    z = vae.encode(X[:2]).mean
    distance = float((z[0] - z[1]).detach().norm())
    assert ax.lines[0].get_xdata()[0] == pytest.approx(distance / 2)
    images = [artist for artist in ax.artists if isinstance(artist, AnnotationBbox)]
    assert [box.xy[0] for box in images] == pytest.approx([distance * i / 4 for i in range(5)])
    middle = torch.tensor(images[2].offsetbox.get_data())[..., 0]
    torch.testing.assert_close(middle, vae.decode(z.mean(0)).mean[0].detach())
    assert is_whole(figure)
    with pytest.raises(ValueError, match=r"^posterior_midpoint: a and b must have distinct posterior means"):
        plots.posterior_midpoint(vae, X[:1], X[:1])


def test_projected_posteriors_have_the_exact_spread() -> None:
    case = LinearGaussian(2, 16)
    # the same data as images of 4 x 4 pixels
    guide = DiagonalNormalGuide((4, 4), 2, net=lambda *_: torch.nn.Sequential(torch.nn.Flatten(), case.vae.guide.net))
    vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (4, 4)), guide)
    x = case.data(2).reshape(2, 4, 4)
    (ax,) = plots.posterior_midpoint(vae, x[:1], x[1:]).axes
    means = case.posterior_mean(x.flatten(1))
    direction = (means[1] - means[0]) / (means[1] - means[0]).norm()
    spread = float((direction.square() * case.posterior_variance()).sum().sqrt())
    bars = [p for p in ax.patches if p.get_height() > 0 and p.get_facecolor()[:3] == rgb(PALETTE[0])]
    centres = torch.tensor([p.get_x() + p.get_width() / 2 for p in bars])
    weights = torch.tensor([p.get_height() * p.get_width() for p in bars])
    measured = float(((centres.square() * weights).sum() - (centres * weights).sum() ** 2).sqrt())
    assert measured / spread - 1 == pytest.approx(0, abs=4.5 / math.sqrt(2 * 4000) + 0.01)  # 0.01: bins


def test_ellipses_have_two_standard_deviations() -> None:
    case, other = LinearGaussian(2, 7), LinearGaussian(2, 7, inflate=1.5)
    x = case.data(12)
    figure = plots.posterior_ellipses({"exact": case.vae, "wide": other.vae}, x, torch.arange(12) % 3)
    assert [ax.get_title() for ax in figure.axes] == ["exact", "wide"]
    means, scale = case.posterior_mean(x), case.posterior_variance().sqrt()
    for ax, factor in zip(figure.axes, (1.0, 1.5), strict=True):
        *ellipses, circle = [patch for patch in ax.patches if isinstance(patch, Ellipse)]
        assert (circle.width, circle.height, circle.center) == (4.0, 4.0, (0, 0))
        for ellipse, mean in zip(ellipses, means, strict=True):
            assert torch.tensor(ellipse.center).sub(mean).abs().max() < 4.5 * factor * scale.max() / math.sqrt(4000)
            axes = torch.tensor([ellipse.width, ellipse.height]).sort().values / (4 * factor * scale.sort().values)
            assert (axes - 1).abs().max() < 4.5 / math.sqrt(2 * 4000)
        assert len({ellipse.get_facecolor() for ellipse in ellipses}) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0", "1", "2"]
    assert is_whole(figure)
    four = plots.posterior_ellipses(dict.fromkeys("abcd", case.vae), x)
    assert [ax.get_title() for ax in four.axes] == ["a", "b", "c", "d", "", ""]  # two rows of three
    assert [ax.axison for ax in four.axes] == [True] * 4 + [False] * 2
    with pytest.raises(ValueError, match=r"^posterior_ellipses: the latent must have 2 dimensions, got 3"):
        plots.posterior_ellipses({"three": LinearGaussian(3, 7).vae}, x)


def test_an_ellipse_leans_as_the_posterior_does() -> None:
    case = LinearGaussian(2, 7, correlated=True)
    (ax,) = plots.posterior_ellipses({"": case.vae}, case.data(1)).axes
    ellipse = ax.patches[0]
    values, vectors = torch.linalg.eigh(case.posterior_covariance())
    angle = math.degrees(math.atan2(vectors[1, 1], vectors[0, 1]))
    assert abs((ellipse.angle - angle + 90) % 180 - 90) < 5
    assert ellipse.width == pytest.approx(4 * float(values[1].sqrt()), rel=4.5 / math.sqrt(2 * 4000))
