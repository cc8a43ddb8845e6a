"""Figures of bounds show the right numbers and raise on results without bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pyro_vae import plotting
from pyro_vae.evaluation import AccurateLogLikelihood, AnnealedLogLikelihood, LogLikelihood, Result
from pyro_vae.evaluation.bidirectional import Sandwich
from pyro_vae.evaluation.harmonic import HarmonicLogLikelihood
from tests.test_plotting import is_whole, untouched  # noqa: F401  # a fixture

pytestmark = pytest.mark.usefixtures("untouched")
NO_FIGURE = plotting.result_figure.dispatch(object)
LONG = (
    "Digits, dynamic binarization, BernoulliLikelihood, 1350 training examples, 200 samples, seed 0, test split, "
    "99 data"
)


def importance(num: int = 6, **changes: Any) -> LogLikelihood:
    steps = torch.tensor([-3.0, -2.0, -1.5, -1.4])
    wiggle = torch.arange(4.0 * num).reshape(num, 4).sin()
    curve = torch.linspace(-90, -80, num)[:, None] + steps + 0.1 * wiggle
    names = ("effective_sample_size", "elbo", "distortion", "rate")
    rest = {name: torch.ones(num) for name in names}
    values = {"log_likelihood": curve[:, -1], "standard_error": torch.full((num,), 0.1), "curve": curve}
    values |= {"pareto_k": torch.linspace(0.1, 0.9, num), **rest}
    return LogLikelihood(**{**values, **changes}, protocol={"num_samples": 6})


def annealed(num_distributions: int, base: LogLikelihood, shift: float) -> AnnealedLogLikelihood:
    num = len(base)
    bound = base.log_likelihood + shift
    rest = [torch.full((num,), 0.2), torch.ones(num), bound - 0.5, torch.linspace(0.5, 1, num), torch.ones(num, 4)]
    return AnnealedLogLikelihood(bound, *rest, protocol={"num_distributions": num_distributions})


def test_the_curve_is_the_mean_bound_at_each_number_of_samples() -> None:
    result = importance()
    figure = plotting.bound_curve(result, caption=LONG)
    (ax,) = figure.axes
    assert ax.get_xscale() == "log"
    assert list(ax.lines[0].get_xdata()) == [1, 2, 4, 6]
    assert result.curve is not None
    assert list(ax.lines[0].get_ydata()) == pytest.approx(result.curve.mean(0).tolist())
    assert ax.get_title() == "2 of 6 examples have Pareto k > 0.7"
    assert is_whole(figure)


def test_the_band_is_the_standard_error_of_the_remaining_gain() -> None:
    result = importance()
    assert result.curve is not None
    (band,) = plotting.bound_curve(result).axes[0].collections[:1]
    difference = result.curve[:, 0] - result.curve[:, -1]
    half = float(difference.std() / 6**0.5)
    heights = band.get_paths()[0].vertices[:, 1]
    at_one = [y for x, y in band.get_paths()[0].vertices.tolist() if x == 1]
    assert max(at_one) - min(at_one) == pytest.approx(2 * half)
    assert len(heights) > 4


def test_a_result_without_a_curve_raises() -> None:
    with pytest.raises(ValueError, match="bound_curve: result must have a curve, got None"):
        plotting.bound_curve(importance(curve=None))


def test_pareto_shapes_count_every_datum_and_unknown_ones_raise() -> None:
    figure = plotting.pareto_shapes(importance(), caption=LONG)
    assert sum(patch.get_height() for patch in figure.axes[0].patches) == 6
    assert is_whole(figure)
    with pytest.raises(ValueError, match="pareto_shapes: result must have finite Pareto k"):
        plotting.pareto_shapes(importance(pareto_k=torch.full((6,), torch.nan)))


def test_annealed_bounds_are_sorted_and_have_monte_carlo_errors() -> None:
    base = importance()
    results = [annealed(1000, base, 0.3), annealed(100, base, 0.1)]
    figure = plotting.annealed_bounds(results, importance=base, caption=LONG)
    (ax,) = figure.axes
    line = ax.containers[0]
    assert list(line[0].get_xdata()) == [100, 1000]
    assert list(line[0].get_ydata()) == pytest.approx([base.mean() + 0.1, base.mean() + 0.3])
    low, high = line[2][0].get_segments()[0][:, 1]
    assert high - low == pytest.approx(2 * 0.2 / 6**0.5)
    assert is_whole(figure)
    with pytest.raises(ValueError, match="must be of the same data"):
        plotting.annealed_bounds(results, importance=importance(5))
    with pytest.raises(ValueError, match="results must not be empty"):
        plotting.annealed_bounds([])


def test_differences_are_annealed_minus_importance() -> None:
    base = importance()
    figure = plotting.bound_differences(annealed(100, base, 0.25), base, caption=LONG)
    (ax,) = figure.axes
    heights = [y for container in ax.containers for y in container[0].get_ydata()]
    assert heights == pytest.approx([0.25] * 6)
    assert ax.get_title().startswith("mean +0.250")
    assert is_whole(figure)
    with pytest.raises(ValueError, match="bound_differences: both must be of the same data"):
        plotting.bound_differences(annealed(100, base, 0.0), importance(5))


def test_chains_show_the_gain_of_averaging_and_the_acceptance() -> None:
    figure = plotting.annealed_chains(annealed(100, importance(), 0.0), caption=LONG)
    gain, acceptance = figure.axes
    assert list(gain.lines[0].get_ydata()) == pytest.approx([0.5] * 6)
    assert list(acceptance.lines[0].get_ydata()) == pytest.approx(torch.linspace(0.5, 1, 6).tolist())
    assert is_whole(figure)


def test_a_sandwich_is_sorted_and_shows_its_gap() -> None:
    lower = torch.tensor([-80.0, -90.0, -85.0])
    upper, errors = lower + torch.tensor([0.5, 1.0, 1.5]), torch.full((3,), 0.3)
    figure = plotting.sandwich_bounds(Sandwich(lower, upper, errors, errors, torch.ones(3)), caption=LONG)
    bounds, widths = figure.axes
    assert list(bounds.lines[0].get_ydata()) == [-89.0, -83.5, -79.5]
    assert list(bounds.lines[1].get_ydata()) == [-90.0, -85.0, -80.0]
    assert list(widths.containers[0][0].get_ydata()) == [1.0, 1.5, 0.5]
    assert bounds.get_title() == f"gap 1.000 \N{PLUS-MINUS SIGN} {0.5 / 3**0.5:.3f} nats, mean of 3"
    assert is_whole(figure)


def test_harmonic_estimates_show_their_diagnostics() -> None:
    bound = torch.tensor([-3.0, -1.0, -2.0])
    result = HarmonicLogLikelihood(bound, torch.full((3,), 0.3), bound + 3.5, bound + 4, torch.ones(3))
    figure = plotting.harmonic_reliability(result, caption=LONG)
    r_hat, k = figure.axes
    assert list(r_hat.lines[0].get_ydata()) == [1.0, 2.0, 3.0]
    assert list(k.lines[0].get_ydata()) == [0.5, 1.5, 2.5]
    assert [ax.lines[1].get_ydata()[0] for ax in (r_hat, k)] == [1.05, 0.7]
    assert is_whole(figure)


def test_the_tried_estimators_are_drawn_with_their_gaps() -> None:
    tried = [
        {"estimator": "importance, guide, 1,024 samples", "gap": 2.5, "error": 0.5, "outcome": ""},
        {"estimator": "importance, guide, 4,096 samples", "gap": None, "error": None, "outcome": "fails"},
        {"estimator": "importance, optimised, 256 samples", "gap": 0.02, "error": 0.01, "outcome": ""},
    ]
    numbers = [torch.zeros(5)] * 3
    protocol = {"accuracy": 0.1, "num_samples": 256, "tried": tried}
    bounds = torch.zeros(4), torch.full((4,), 0.02)
    result = AccurateLogLikelihood(*numbers, torch.zeros(5, 4), *bounds, protocol=protocol)
    figure = plotting.result_figure(result, caption=LONG)
    (ax,) = figure.axes
    labels = [label.get_text().replace("\n", " ") for label in ax.get_yticklabels()]
    assert labels == [tried[0]["estimator"], tried[2]["estimator"]]
    assert [float(bar.lines[0].get_xdata()[0]) for bar in ax.containers] == [2.5, 0.02]
    faces = [bar.lines[0].get_markerfacecolor() for bar in ax.containers]
    assert faces == ["white", plotting.PALETTE[0]]  # the last is confirmed
    assert is_whole(figure)


def test_every_kind_of_result_has_its_figure() -> None:
    kinds = [kind for kind in Result.__subclasses__() if kind.__module__.startswith("pyro_vae.")]
    assert [kind for kind in kinds if plotting.result_figure.dispatch(kind) is NO_FIGURE] == []
    assert plotting.result_figure(importance()).axes[0].get_xlabel() == "Importance samples K"


def test_a_caption_has_the_phrases_of_its_kind_of_result() -> None:
    protocol = {"binarize": "none", "num_samples": 9, "split": "test", "dtype": "float32"}
    assert replace(importance(), protocol=protocol).caption() == "no binarization, 9 importance samples, test split"
    assert plotting.caption_of(protocol) == "no binarization, 9 samples, test split"
