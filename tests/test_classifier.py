"""Error, scores and calibration of class probabilities, against independent computations."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from sklearn import metrics
from torch import Tensor, nn

from pyro_vae import data
from pyro_vae.evaluation import Classification, Result, classification, mean_interval, reliability
from tests.mixture_of_linear_gaussians import MixtureOfLinearGaussians


def drawn(num: int = 500, classes: int = 4, *, sharpen: float = 1.0) -> tuple[Tensor, Tensor]:
    """Probabilities and labels sampled from them; sharpening makes the probabilities overconfident."""
    logits = 1.5 * torch.randn(num, classes)
    y = torch.distributions.Categorical(logits=logits).sample()
    return (sharpen * logits).softmax(-1), y


# scores


def test_the_scores_are_those_of_scikit_learn() -> None:
    p, y = drawn()
    result = classification(p, labels=y)
    assert result.accuracy == pytest.approx(metrics.accuracy_score(y, p.argmax(-1)))
    assert result.error_rate == pytest.approx(100 - 100 * metrics.accuracy_score(y, p.argmax(-1)))
    assert result.mean("cross_entropy") == pytest.approx(metrics.log_loss(y, p))
    assert torch.equal(result.confusion(), torch.tensor(metrics.confusion_matrix(y, p.argmax(-1))))
    each = [metrics.brier_score_loss(y == c, p[:, c]) for c in range(4)]
    assert result.mean("brier") == pytest.approx(sum(each))


def test_the_errors_of_the_means() -> None:
    p, y = drawn()
    result = classification(p, labels=y)
    rate = result.error_rate / 100
    assert result.sampling_error("error") == pytest.approx(100 * math.sqrt(rate * (1 - rate) / 499))
    assert result.sampling_error("brier") == pytest.approx(float(result.brier.std()) / math.sqrt(500))
    other = classification(drawn()[0], labels=y)
    assert result.gain(other, "error")[0] == pytest.approx(result.error_rate - other.error_rate)


def test_a_class_of_probability_zero_has_infinite_cross_entropy() -> None:
    result = classification(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), labels=torch.tensor([1, 1]))
    assert result.cross_entropy.tolist() == [math.inf, pytest.approx(math.log(2))]
    assert result.brier.tolist() == [2.0, 0.5]
    assert result.predictions.tolist() == [0, 0]
    assert result.confusion().tolist() == [[0, 0], [2, 0]]


# calibration


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_the_calibration_error_is_guos(num_bins: int) -> None:
    p, y = drawn(sharpen=2.0)
    confidence, right = p.max(-1)
    expected, largest = 0.0, 0.0
    for m in range(num_bins):
        inside = [i for i, c in enumerate(confidence.tolist()) if m / num_bins < c <= (m + 1) / num_bins]
        if inside:
            gap = abs(sum(float(right[i] == y[i]) - float(confidence[i]) for i in inside)) / len(inside)
            expected, largest = expected + len(inside) / 500 * gap, max(largest, gap)
    bins = classification(p, labels=y, num_bins=num_bins).reliability()
    assert bins.error == pytest.approx(expected, abs=1e-12)
    assert bins.largest_error == pytest.approx(largest, abs=1e-12)
    assert bins.counts.sum() == 500
    assert len(bins.counts) == len(bins.edges) - 1 == num_bins


def test_bins_hold_their_upper_limit() -> None:
    bins = reliability(torch.tensor([0.25, 0.5, 0.75, 1.0]), torch.ones(4), num_bins=4)
    assert bins.counts.tolist() == [1.0, 1.0, 1.0, 1.0]
    assert bins.confidence.tolist() == [0.25, 0.5, 0.75, 1.0]


def test_bins_of_equal_mass() -> None:
    p, y = drawn(103, sharpen=3.0)
    result = classification(p, labels=y)
    bins = result.reliability(num_bins=10, equal_mass=True)
    assert sorted(bins.counts.tolist()) == [10.0] * 7 + [11.0] * 3
    chunks = [torch.arange(103)[torch.arange(103) * 10 // 103 == b] for b in range(10)]
    order = result.confidence.argsort()
    hits = (result.error == 0).double()
    expected = sum(len(c) / 103 * (hits[order[c]].mean() - result.confidence[order[c]].mean()).abs() for c in chunks)
    assert bins.error == pytest.approx(float(expected), abs=1e-12)
    assert bins.edges[0] == result.confidence.min()
    assert bins.edges[-1] == result.confidence.max()
    assert (bins.edges.diff() >= 0).all()


def test_one_bin_is_the_gap_between_confidence_and_accuracy() -> None:
    p, y = drawn(sharpen=2.0)
    result = classification(p, labels=y)
    gap = abs(float(result.confidence.mean()) - result.accuracy)
    assert result.reliability(num_bins=1).error == pytest.approx(gap)
    assert result.reliability(num_bins=1, equal_mass=True).error == pytest.approx(gap)


def test_the_floor_is_the_mean_error_of_calibrated_classifiers() -> None:
    p, _ = drawn(2000)
    errors = [
        classification(p, labels=torch.distributions.Categorical(p).sample()).reliability().error for _ in range(200)
    ]
    estimates = torch.tensor(errors)
    floor = classification(p, labels=torch.zeros(2000, dtype=torch.int64)).reliability().floor
    assert floor > 0.005
    assert abs(float(estimates.mean()) - floor) < 4.5 * float(estimates.std()) / math.sqrt(200)
    sharp, y = drawn(2000, sharpen=3.0)
    assert classification(sharp, labels=y).reliability().error > 5 * floor


# inputs


def test_the_exact_classifier_of_a_mixture() -> None:
    case = MixtureOfLinearGaussians()
    x, y = case.data(200)
    exact = case.class_posterior(x)
    for result in (
        classification(case.vae, x, y),
        classification(case.vae, data.ImageSet(x, y), batch_size=30),
        classification(case.vae, data.ImageSet(x, y, paired=True)),
        classification(case.vae, [(x[:50], y[:50]), (x[50:], y[50:])]),
        classification(case.vae, [x[:50], x[50:]], y),
        classification(exact, data.ImageSet(x, y)),
    ):
        assert (result.probabilities - exact).abs().max() < 1e-12
        assert torch.equal(result.labels, y)
        assert not result.probabilities.requires_grad


class ModeDependent(nn.Module):
    """Predict class 1 with certainty in train mode, and class 0 in eval mode."""

    def classify(self, x: Tensor) -> Tensor:
        torch.rand(1)  # the global random state must not change
        return torch.tensor([0.0, 1.0] if self.training else [1.0, 0.0]).expand(len(x), 2)


def test_it_runs_in_eval_mode_and_restores_the_mode() -> None:
    classifier = ModeDependent()
    before = torch.get_rng_state()
    result = classification(classifier, torch.ones(5, 2), torch.zeros(5, dtype=torch.int64))
    assert result.error_rate == 0
    assert classifier.training
    assert torch.equal(before, torch.get_rng_state())


def test_binary_images_are_drawn_by_the_seed() -> None:
    case = MixtureOfLinearGaussians()
    images = data.ImageSet(torch.full((20, 5), 8, dtype=torch.uint8), torch.zeros(20).long(), 16, dynamic=True)
    first, again, other = (classification(case.vae, images, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.probabilities, again.probabilities)
    assert not torch.equal(first.probabilities, other.probabilities)


# the result


def test_it_is_saved_with_its_protocol(tmp_path) -> None:
    p, y = drawn()
    result = classification(p, labels=y, num_bins=12, protocol={"data": "drawn"})
    assert result.protocol == {"data": "drawn", "num_bins": 12, "num_data": 500, "num_classes": 4}
    result.save(tmp_path / "found.json")
    loaded = Result.load(tmp_path / "found.json")
    assert isinstance(loaded, Classification)
    assert loaded.summary() == result.summary()
    summary = result.summary()
    assert summary["error"] == {"mean": result.error_rate, "sampling_error": result.sampling_error("error")}
    assert summary["expected_calibration_error"] == result.reliability(num_bins=12).error
    wrong = int((result.error > 0).sum())
    assert f"error              {wrong / 5:.2f} +- " in str(result)
    assert f"({wrong} of 500)" in str(result)
    assert "in 12 bins" in str(result)


# errors

HALF = torch.full((3, 2), 0.5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "labels must be known, got labels=None"),
        ([0, -1, -1], r"labels must be known for all data that are evaluated, got 2 of 3 missing \(-1\)"),
        ([0, 1, 2], r"labels must lie in 0\.\.1, got 0\.\.2"),
        ([0, 1, -2], r"labels must lie in 0\.\.1, got -2\.\.1"),
        ([0, 1], r"labels must have shape \(3,\), got \(2,\)"),
        ([0.0, 1.0, 0.0], r"labels must be int64, got torch\.float64"),
    ],
)
def test_labels_must_be_classes(labels: list[float] | None, message: str) -> None:
    with pytest.raises(ValueError, match=f"^classification: {message}"):
        classification(HALF, labels=None if labels is None else torch.tensor(labels))


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (torch.rand(3), r"must be \(N, C\)"),
        (torch.ones(3, 1), r"must be \(N, C\)"),
        (torch.ones(0, 2), r"must be \(N, C\)"),
        (torch.tensor([[0.5, 0.5], [0.7, 0.7], [0.5, 0.5]]), r"sum to 1, got row 1 with sum 1\.4"),
        (torch.tensor([[0.5, 0.5], [0.5, 0.5], [1.5, -0.5]]), r"got row 2 with sum 1 and minimum -0\.5"),
        (torch.tensor([[torch.nan, 0.5], [0.5, 0.5], [0.5, 0.5]]), "got row 0"),
    ],
)
def test_probabilities_must_be_valid(probabilities: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"^classification: probabilities .*{message}"):
        classification(probabilities, labels=torch.zeros(3, dtype=torch.int64))


def test_data_and_bins_are_required() -> None:
    with pytest.raises(ValueError, match="data must be given to a classifier, got None"):
        classification(ModeDependent(), labels=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="num_bins must be at least 1, got num_bins=0"):
        classification(HALF, labels=torch.tensor([0, 1, 1]), num_bins=0)
    with pytest.raises(ValueError, match=r"at most the number of data for .*, got num_bins=4 for 3 data"):
        classification(HALF, labels=torch.tensor([0, 1, 1])).reliability(num_bins=4, equal_mass=True)


# over repetitions


def test_the_interval_is_students() -> None:
    errors = [4.1, 3.7, 5.2, 4.4, 3.9, 4.8, 4.0, 4.3, 5.0, 4.6]
    interval = mean_interval(errors)
    low, high = stats.t.interval(0.95, 9, loc=interval.mean, scale=stats.sem(errors))
    assert interval.interval == pytest.approx((low, high))
    assert interval.mean == pytest.approx(4.4)
    assert interval.standard_deviation == pytest.approx(float(torch.tensor(errors).std()))
    assert str(interval) == "4.40 +- 0.35 (95% interval over 10 draws)"
    wide = mean_interval(errors, level=0.99)
    assert wide.interval == pytest.approx(stats.t.interval(0.99, 9, loc=4.4, scale=stats.sem(errors)))


def test_the_interval_has_its_nominal_coverage() -> None:
    draws = torch.randn(2000, 4).tolist()
    covered = sum(abs(interval.mean) < interval.margin for interval in map(mean_interval, draws))
    assert abs(covered - 1900) < 4.5 * math.sqrt(2000 * 0.95 * 0.05)


def test_one_draw_has_no_interval() -> None:
    interval = mean_interval([4.25])
    assert (interval.mean, interval.num_draws) == (4.25, 1)
    assert math.isnan(interval.margin)
    assert str(interval) == "4.25 (1 draw)"


@pytest.mark.parametrize("errors", [[], [1.0, math.nan]])
def test_errors_must_be_numbers(errors: list[float]) -> None:
    with pytest.raises(
        ValueError,
        match=r"^mean_interval: errors must be (finite, at least one|.* a number), got errors=",
    ):
        mean_interval(errors)


def test_the_level_is_a_probability() -> None:
    with pytest.raises(ValueError, match="level must be between 0 and 1, got level=95"):
        mean_interval([1.0, 2.0], level=95)
