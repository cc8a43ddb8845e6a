"""Log p(x, y), log p(x) and p(y | x) by importance sampling: exact, or within their errors."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro.distributions import Categorical, MultivariateNormal, Normal
from torch import Tensor

from pyro_vae import data, log_likelihood
from pyro_vae.evaluation import ClassPosterior, Result, class_posterior, classification
from tests.mixture_of_linear_gaussians import MixtureOfLinearGaussians

SMALL = {"num_classes": 3, "num_samples": 20, "chunk_size": 7, "batch_size": 4}


def estimate(case: MixtureOfLinearGaussians, x: object, **options: object) -> ClassPosterior:
    return class_posterior(case.vae.model, case.vae.guide, x, **{**SMALL, **options})


def check_scores(z: Tensor) -> None:
    assert z.abs().max() < 4.5
    assert abs(z.std() - 1) < 4.5 / math.sqrt(2 * len(z))


def test_the_classifier_is_not_used() -> None:
    case = MixtureOfLinearGaussians(temper=0.0)
    x, _ = case.data(9)
    assert (estimate(case, x).probabilities() - case.class_posterior(x)).abs().max() < 1e-9
    assert (case.vae.classify(x) - 1 / 3).abs().max() < 1e-12


def test_a_wide_guide_is_unbiased_within_its_errors() -> None:
    case = MixtureOfLinearGaussians(inflate=1.4, shift=0.1)
    x, _ = case.data(150)
    result = estimate(case, x, num_samples=2000, chunk_size=500, batch_size=50)
    # log of an unbiased mean is biased by -Var / 2 = se^2 / 2 to second order.
    each = (result.log_joint + result.log_joint_error.square() / 2 - case.log_joint(x)) / result.log_joint_error
    check_scores(each.flatten())
    correlation = torch.corrcoef(each.T)[0, 1:].abs().max()
    assert correlation < 4.5 / math.sqrt(len(x))  # the draws of the classes are independent
    low = result.standard_error.square() / 2
    check_scores((result.log_likelihood + low - case.log_prob(x)) / result.standard_error)
    unsure = case.class_posterior(x).max(-1).values < 0.95
    assert unsure.sum() > 50
    off = (result.probabilities() - case.class_posterior(x)) / result.probability_errors()
    check_scores(off[unsure][:, 0])
    assert result.monte_carlo_error() == pytest.approx(float(result.standard_error.square().sum()) ** 0.5 / 150)


def test_log_p_of_x_agrees_with_the_log_likelihood_without_labels() -> None:
    case = MixtureOfLinearGaussians(inflate=1.2, temper=0.5)
    x, _ = case.data(60)
    summed = estimate(case, x, num_samples=1000, chunk_size=500, batch_size=60)
    drawn = log_likelihood(case.vae.model, case.vae.guide, x, num_samples=4000, chunk_size=1000, batch_size=60)
    error = math.hypot(summed.monte_carlo_error(), drawn.monte_carlo_error())
    assert abs(summed.mean() - drawn.mean()) < 4.5 * error
    sure = MixtureOfLinearGaussians(temper=0.5)
    assert estimate(sure, x).standard_error.max() < 1e-7  # y is not sampled


def test_one_class_is_the_log_likelihood_of_labelled_data() -> None:
    case = MixtureOfLinearGaussians(num_classes=2, inflate=1.2)
    x, _ = case.data(5)
    options = {"num_samples": 50, "chunk_size": 50, "batch_size": 5}
    result = estimate(case, x, num_classes=2, **options)
    pairs = [(x, torch.zeros(5, dtype=torch.int64))]
    first = log_likelihood(case.vae.model, case.vae.guide, pairs, **options)
    z = (result.log_joint[:, 0] - first.log_likelihood) / torch.hypot(
        result.log_joint_error[:, 0], first.standard_error
    )
    assert z.abs().max() < 4.5
    assert result.log_joint.shape == (5, 2)


def test_one_sample_has_no_error_and_a_class_without_weight_does_not_count() -> None:
    case = MixtureOfLinearGaussians()
    x, _ = case.data(3)
    assert estimate(case, x, num_samples=1).standard_error.isnan().all()
    impossible = torch.tensor([[-1.0, -2.0, -torch.inf]])
    error = torch.tensor([[0.3, 0.4, torch.inf]])
    result = ClassPosterior(impossible, error, torch.ones(1, 3), torch.zeros(1, 3))
    p = torch.tensor([1.0, math.exp(-1)]) / (1 + math.exp(-1))
    assert result.standard_error.item() == pytest.approx(math.hypot(0.3 * p[0], 0.4 * p[1]))
    change = float(p[0] * p[1]) * math.hypot(0.3, 0.4)  # p_0 = sigmoid(L_0 - L_1)
    assert result.probability_errors()[0].tolist() == pytest.approx([change, change, 0.0])
    assert result.entropy.item() == pytest.approx(-float((p * p.log()).sum()))


# any pair of programs


def test_a_pair_of_functions_with_observed_labels() -> None:
    x, probabilities, spread = torch.randn(6, 2), torch.tensor([0.2, 0.5, 0.3]), 0.7
    means = torch.randn(3, 2)

    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("class", Categorical(probabilities), obs=y)
            z = pyro.sample("z", Normal(0.0, 1.0).expand([2]).to_event(1))
            pyro.sample("x", Normal(means[y] + z, spread).to_event(1), obs=x)

    def guide(x: Tensor, y: Tensor) -> None:
        variance = 1 / (1 + 1 / spread**2)
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(variance * (x - means[y]) / spread**2, math.sqrt(variance)).to_event(1))

    result = class_posterior(model, guide, x, **SMALL)
    exact = MultivariateNormal(means, (1 + spread**2) * torch.eye(2)).log_prob(x.unsqueeze(1)) + probabilities.log()
    assert (result.log_joint - exact).abs().max() < 1e-9


@pytest.mark.usefixtures("uncompiled")
def test_a_recording_gives_the_same_result() -> None:
    case = MixtureOfLinearGaussians(inflate=1.3)
    x, _ = case.data(8)
    eager, recorded = (estimate(case, x, num_samples=14, engine=engine) for engine in ("eager", "compiled"))
    assert (eager.log_joint - recorded.log_joint).abs().max() < 1e-9


# data and protocol


def test_labels_of_the_data_are_ignored() -> None:
    case = MixtureOfLinearGaussians(inflate=1.3)
    x, y = case.data(8)
    plain = estimate(case, x)
    paired = data.ImageSet(x, torch.where(y == 0, -1, y), paired=True)
    for other in (paired, [(x[:4], y[:4]), (x[4:], y[4:])], [x[:4], x[4:]]):
        # Up to rounding: views of x and gathered rows have other memory layouts.
        torch.testing.assert_close(estimate(case, other).log_joint, plain.log_joint, rtol=1e-9, atol=1e-9)


def test_the_seed_decides_and_global_state_stays() -> None:
    case = MixtureOfLinearGaussians(inflate=1.3, classification_weight=5.0)
    x, _ = case.data(8)
    before = torch.get_rng_state()
    first, again, other = (estimate(case, x, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert case.vae.training
    assert torch.equal(first.log_joint, again.log_joint)
    assert not torch.equal(first.log_joint, other.log_joint)


def test_it_is_saved_with_its_protocol(tmp_path) -> None:
    case = MixtureOfLinearGaussians(inflate=1.3)
    x, y = case.data(8)
    result = estimate(case, x, num_samples=40, protocol={"data": "drawn"})
    expected = {"data": "drawn", "num_classes": 3, "num_samples": 40, "num_data": 8, "dimensions": 5}
    assert expected.items() <= result.protocol.items()
    assert result.protocol["discrete"] is False
    result.save(tmp_path / "found.json")
    loaded = Result.load(tmp_path / "found.json")
    assert isinstance(loaded, ClassPosterior)
    assert torch.equal(loaded.log_joint, result.log_joint)
    assert loaded.summary() == result.summary()
    assert result.summary()["log_likelihood"]["mean"] == pytest.approx(float(result.log_joint.logsumexp(-1).mean()))
    assert sum(result.summary()["mean_class_posterior"]) == pytest.approx(1.0)
    assert f"{result.mean():.3f} nats per datum, y summed out" in str(result)
    assert result.protocol["data"] == "drawn"
    error = classification(result.probabilities(), labels=y).error_rate
    assert error == pytest.approx(100 * float((result.log_joint.argmax(-1) != y).double().mean()))


@pytest.mark.parametrize("num_samples", [5, 100])
def test_the_tail_of_too_few_samples_is_unknown(num_samples: int) -> None:
    case = MixtureOfLinearGaussians(inflate=0.3)  # far too narrow
    x, _ = case.data(8)
    result = estimate(case, x, num_samples=num_samples)
    assert math.isnan(result.untrusted()) if num_samples < 25 else result.untrusted() > 0
    assert ("unknown" in str(result)) == (num_samples < 25)


# errors


@pytest.mark.parametrize("num_classes", [2, 4])
def test_all_classes_of_the_model_are_summed_over(num_classes: int) -> None:
    case = MixtureOfLinearGaussians()
    with pytest.raises(ValueError, match=r"num_classes must be that of the model, 3|y must be in 0\.\.2"):
        estimate(case, case.data(4)[0], num_classes=num_classes)


@pytest.mark.parametrize("name", ["num_classes", "num_samples", "batch_size", "chunk_size"])
def test_sizes_are_positive(name: str) -> None:
    case = MixtureOfLinearGaussians()
    with pytest.raises(ValueError, match=f"^class_posterior: {name} must be at least 1, got {name}=0"):
        estimate(case, case.data(4)[0], **{name: 0})


def test_an_unknown_engine_raises() -> None:
    case = MixtureOfLinearGaussians()
    with pytest.raises(ValueError, match=r"^class_posterior: engine must be one of 'auto', 'eager', 'compiled', got"):
        estimate(case, case.data(4)[0], engine="fast")
