"""The importance estimate and its result against the linear-Gaussian evidence."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_vae import VAE, data, log_likelihood
from pyro_vae._core.recording import Recorded
from pyro_vae.evaluation import LogLikelihood, Result, sampler
from pyro_vae.evaluation.pareto import pareto_k, tail_length
from pyro_vae.evaluation.sampler import use_compiled
from pyro_vae.evaluation.streaming import BUFFER_SIZE, WeightSummary
from pyro_vae.evaluation.weights import LogWeights
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.priors import StandardNormalPrior
from tests.linear_gaussian import LinearGaussian


def _estimate(case: LinearGaussian, x: torch.Tensor, **options) -> LogLikelihood:
    return log_likelihood(case.vae.model, case.vae.guide, x, **options)


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
@pytest.mark.parametrize("num_samples", [1, 20])
def test_exact_posterior_gives_the_closed_form(exact: LinearGaussian, chunk_size: int, num_samples: int) -> None:
    x = exact.data(11)
    result = _estimate(exact, x, num_samples=num_samples, chunk_size=chunk_size, batch_size=4)
    truth = exact.log_prob(x)
    assert (result.log_likelihood - truth).abs().max() < 1e-9
    assert (result.elbo - truth).abs().max() < 1e-9
    assert (result.elbo + result.rate + result.distortion).abs().max() < 1e-9
    assert (result.effective_sample_size - num_samples).abs().max() < 1e-6
    if num_samples > 1:
        assert result.standard_error.max() < 1e-7


def test_a_wide_guide_is_unbiased_within_its_standard_error() -> None:
    case = LinearGaussian(inflate=1.4, shift=0.1)
    x = case.data(200)
    result = _estimate(case, x, num_samples=2000, chunk_size=500)
    # log of an unbiased mean is biased by -Var / 2 = se^2 / 2 to second order.
    z = (result.log_likelihood + result.standard_error.square() / 2 - case.log_prob(x)) / result.standard_error
    assert z.abs().max() < 4.5
    assert abs(z.std() - 1) < 4.5 / math.sqrt(2 * len(z))
    total = (result.log_likelihood - case.log_prob(x)).mean() / result.monte_carlo_error()
    assert abs(total) < 4.5


def test_the_monte_carlo_error_is_the_spread_over_seeds() -> None:
    case = LinearGaussian(inflate=1.4)
    x = case.data(40)
    results = [_estimate(case, x, num_samples=100, chunk_size=100, seed=s) for s in range(60)]
    spread = float(torch.tensor([r.mean() for r in results]).std())
    stated = sum(r.monte_carlo_error() for r in results) / 60
    assert abs(spread / stated - 1) < 4.5 / math.sqrt(2 * 59)
    result = results[0]
    assert result.monte_carlo_error() == pytest.approx(float((result.standard_error**2).sum()) ** 0.5 / 40)


def test_the_terms_of_the_elbo_are_exact() -> None:
    case = LinearGaussian(inflate=1.4, shift=0.3)
    x = case.data(20)
    result = _estimate(case, x, num_samples=20_000, chunk_size=5000)
    q = case.vae.guide.posterior(x)
    kl = kl_divergence(q.base_dist, case.vae.prior().base_dist).sum(-1)
    mean, variance = q.mean, q.variance
    residual = (x - case.bias - mean @ case.weight.T).square().sum(-1) + variance @ case.weight.square().sum(0)
    distortion = 0.5 * residual / case.scale**2 + 3.5 * math.log(2 * math.pi * case.scale**2)
    assert (result.rate - kl).abs().max() < 4.5 * 3 / math.sqrt(20_000)
    assert (result.distortion - distortion).abs().max() < 4.5 * 6 / math.sqrt(20_000)
    gap = case.log_prob(x) - result.elbo  # KL(q || p(z | x)), known for these two normals
    scale2, shift2 = 1.4**2, 0.3**2 / case.posterior_variance()
    exact_gap = 0.5 * (3 * (scale2 - 1 - math.log(scale2)) + shift2.sum())
    assert (gap - exact_gap).abs().max() < 4.5 * 4 / math.sqrt(20_000)


def test_the_result_does_not_depend_on_the_division_into_chunks() -> None:
    weights = torch.randn(400, 5) * 3
    parts = LogWeights(weights, torch.zeros_like(weights))
    results = []
    for chunk in (1, 7, 400):
        summary = WeightSummary(400)
        for start in range(0, 400, chunk):
            summary.add(LogWeights(*(part[start : start + chunk] for part in parts)))
        results.append(summary.result())
    for name, value in results[0].items():
        assert torch.allclose(value, results[1][name], rtol=1e-12, atol=1e-12), name
        assert torch.allclose(value, results[2][name], rtol=1e-12, atol=1e-12), name


def test_the_summary_is_the_textbook_formula() -> None:
    log_w = torch.randn(300, 4)
    summary = WeightSummary(300)
    summary.add(LogWeights(log_w, torch.zeros_like(log_w)))
    result, w = summary.result(), log_w.exp()
    assert torch.allclose(result["log_likelihood"], w.mean(0).log(), atol=1e-12)
    assert torch.allclose(result["standard_error"], w.std(0) / math.sqrt(300) / w.mean(0), rtol=1e-9)
    assert torch.allclose(result["effective_sample_size"], w.sum(0) ** 2 / w.square().sum(0), rtol=1e-9)
    assert torch.allclose(result["elbo"], log_w.mean(0), atol=1e-12)


def test_enormous_and_tiny_weights_do_not_overflow() -> None:
    for offset in (-5000.0, 5000.0):
        log_w = torch.randn(50, 2) + offset
        summary = WeightSummary(50)
        summary.add(LogWeights(log_w, torch.zeros_like(log_w)))
        assert all(v.isfinite().all() for v in summary.result().values())


def test_more_samples_tighten_the_bound() -> None:
    case = LinearGaussian(inflate=0.6)
    x = case.data(300)
    means = [_estimate(case, x, num_samples=s, chunk_size=s).mean() for s in (1, 10, 100)]
    gaps = [float(case.log_prob(x).mean()) - m for m in means]
    assert gaps[0] > 2 * gaps[1] > 0
    assert gaps[1] > gaps[2] > -0.01


def test_the_naive_estimator_agrees_or_is_flagged() -> None:
    easy = LinearGaussian(latent_dim=1, dim=2, scale=1.0)
    x = easy.data(50)
    result = _estimate(easy, x, num_samples=5000, chunk_size=5000, proposal="prior")
    z = (result.log_likelihood + result.standard_error.square() / 2 - easy.log_prob(x)) / result.standard_error
    assert z.abs().max() < 4.5
    hard = LinearGaussian(latent_dim=8, dim=30, scale=0.05)
    x = hard.data(50)
    result = _estimate(hard, x, num_samples=1000, chunk_size=1000, proposal="prior")
    assert (result.effective_sample_size < 3).double().mean() > 0.5
    assert (result.pareto_k > 0.7).double().mean() > 0.9


def test_seed_decides_and_the_global_generator_stays() -> None:
    case = LinearGaussian(inflate=1.5)
    x = case.data(10)
    before = torch.get_rng_state()
    a, b, c = (_estimate(case, x, num_samples=10, seed=s) for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a.log_likelihood, b.log_likelihood)
    assert not torch.equal(a.log_likelihood, c.log_likelihood)


def test_modules_are_evaluated_without_dropout_and_their_mode_is_restored(exact: LinearGaussian) -> None:
    exact.vae.guide.net.layers.insert(0, torch.nn.Dropout(0.9))
    exact.vae.train()
    x = exact.data(5)
    assert (_estimate(exact, x, num_samples=3).log_likelihood - exact.log_prob(x)).abs().max() < 1e-9
    assert exact.vae.guide.net.layers[0].training


def test_every_kind_of_data_gives_the_same(exact: LinearGaussian) -> None:
    x = exact.data(7)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=3)
    image_set = data.ImageSet(x)
    for kind in (loader, list(x.split(2)), image_set):
        result = _estimate(exact, kind, num_samples=2)
        assert (result.log_likelihood - exact.log_prob(x)).abs().max() < 1e-9


@pytest.mark.parametrize("name", ["num_samples", "batch_size", "chunk_size"])
def test_sizes_must_be_positive(exact: LinearGaussian, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {name}=0"):
        _estimate(exact, exact.data(3), **{name: 0})


def test_empty_data_raise(exact: LinearGaussian) -> None:
    with pytest.raises(ValueError, match="data must not be empty"):
        _estimate(exact, [])
    with pytest.raises(ValueError, match="data must not be empty"):
        _estimate(exact, torch.zeros(0, 7))


def test_result_saves_loads_and_prints(exact: LinearGaussian, tmp_path) -> None:
    x = exact.data(5)
    result = _estimate(exact, x, num_samples=30, protocol={"dataset": "Linear"})
    result.save(tmp_path / "result.json")
    loaded = LogLikelihood.load(tmp_path / "result.json")
    assert loaded.protocol == result.protocol
    assert loaded.protocol["dataset"] == "Linear"
    assert torch.allclose(loaded.log_likelihood, result.log_likelihood)
    assert torch.equal(loaded.pareto_k, result.pareto_k)  # -inf, which JSON does not have
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["log_likelihood"]["mean"] == pytest.approx(float(exact.log_prob(x).mean()), abs=1e-9)
    assert content["log_likelihood"]["sampling_error"] == pytest.approx(float(exact.log_prob(x).std() / 5**0.5))
    assert f"{result.mean():.3f} nats per datum" in str(result)
    with pytest.raises(FileExistsError, match="must not exist yet"):
        result.save(tmp_path / "result.json")


def test_bits_per_dim_is_nats_over_dimensions_and_log_two(exact: LinearGaussian) -> None:
    x = exact.data(5)
    result = _estimate(exact, x, num_samples=2)
    assert result.bits_per_dim() == pytest.approx(-float(exact.log_prob(x).mean()) / 7 / math.log(2))


def test_a_datum_outside_the_support_raises_in_any_batch() -> None:
    vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (3,)), DiagonalNormalGuide((3,), 2))
    x = torch.ones(50, 3)
    x[37, 1] = 7.0
    with pytest.raises(ValueError, match=r"support of site 'x'.*datum 37"):
        log_likelihood(vae.model, vae.guide, x, num_samples=2, batch_size=10)


def test_methods_of_a_module_are_evaluated_without_dropout_too(exact: LinearGaussian) -> None:
    class Pair(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vae, self.dropout = exact.vae, torch.nn.Dropout(0.9)

        def model(self, x):
            return self.vae.model(x)

        def guide(self, x):
            return self.vae.guide(self.dropout(x))

    pair, x = Pair().train(), exact.data(5)
    result = log_likelihood(pair.model, lambda x: pair.guide(x), x, num_samples=3)
    assert (result.log_likelihood - exact.log_prob(x)).abs().max() < 1e-9
    assert pair.dropout.training


def test_rate_is_precise_despite_a_large_distortion() -> None:
    ratio = torch.tensor([[-0.34], [-0.34]], dtype=torch.float32)
    summary = WeightSummary(2)
    summary.add(LogWeights(torch.full((2, 1), -5.2e6, dtype=torch.float32), ratio))
    assert float(summary.result()["rate"]) == pytest.approx(0.34, abs=1e-6)


def test_data_of_zero_likelihood_are_reported() -> None:
    log_w = torch.full((100, 2), -torch.inf)
    log_w[3, 1] = -5.0
    summary = WeightSummary(100)
    summary.add(LogWeights(log_w, torch.zeros(100, 2)))
    result = summary.result()
    assert result["log_likelihood"].tolist() == pytest.approx([-math.inf, -5.0 - math.log(100)])
    assert result["rate"].tolist() == [0.0, 0.0]
    assert result["effective_sample_size"].tolist() == pytest.approx([0.0, 1.0])
    assert result["pareto_k"].tolist() == [math.inf, math.inf]


def test_torch_s_validation_flag_stays(exact: LinearGaussian) -> None:
    distributions = torch.distributions.Distribution
    distributions.set_default_validate_args(False)  # as importing zuko does
    try:
        _estimate(exact, exact.data(3), num_samples=2)
        assert distributions._validate_args is False
    finally:
        distributions.set_default_validate_args(True)


def test_a_gain_is_the_mean_difference_with_its_standard_error(exact: LinearGaussian) -> None:
    x = exact.data(30)
    one, other = (log_likelihood(exact.vae.model, exact.vae.guide, x[:n], num_samples=3) for n in (30, 29))
    shifted = dataclasses.replace(one, elbo=one.elbo + 0.5 + torch.linspace(-1, 1, 30))
    gain, error = shifted.gain(one, "elbo")
    assert abs(gain - 0.5) < 1e-12
    assert abs(error - float(torch.linspace(-1, 1, 30).std()) / 30**0.5) < 1e-12
    assert one.gain(one) == (0.0, 0.0)
    with pytest.raises(ValueError, match=r"^LogLikelihood: both results must be of the same data, got 30 and 29 data"):
        one.gain(other)


def test_numpy_integers_are_counts_and_seeds(exact: LinearGaussian, tmp_path) -> None:
    x = exact.data(5)
    sizes = {"num_samples": 6, "batch_size": 3, "chunk_size": 4, "seed": 2}
    expected = log_likelihood(exact.vae.model, exact.vae.guide, x, **sizes)
    sizes = {name: np.int64(size) for name, size in sizes.items()}
    result = log_likelihood(exact.vae.model, exact.vae.guide, x, **sizes)
    assert torch.equal(result.log_likelihood, expected.log_likelihood)
    result.save(tmp_path / "result.json")
    assert LogLikelihood.load(tmp_path / "result.json").protocol == expected.protocol


def test_a_file_that_is_not_json_is_named(tmp_path) -> None:
    (tmp_path / "result.json").write_text("nope")
    with pytest.raises(ValueError, match=r"^Result: the file must be JSON, got .*result\.json"):
        Result.load(tmp_path / "result.json")


def test_the_tail_is_that_of_all_chunks() -> None:
    num = 3 * BUFFER_SIZE
    log_weights = torch.randn(num, 2).double().square()
    summary = WeightSummary(num)
    for chunk in log_weights.split(BUFFER_SIZE // 2):
        summary.add(LogWeights(chunk, torch.zeros_like(chunk)))
    expected = pareto_k(log_weights.topk(tail_length(num) + 1, dim=0).values, num)
    torch.testing.assert_close(summary.result()["pareto_k"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("num_calls", "num_values", "compiles"),
    [(1_500, 20 * 50 * 64, False), (500, 20 * 50 * 784, False), (50_000, 20 * 50 * 784, True), (10_000, 50, True)],
)
def test_programs_are_compiled_if_that_saves_time(num_calls: int, num_values: int, compiles: bool) -> None:
    assert use_compiled("log_likelihood", "auto", num_calls, num_values) == compiles
    assert use_compiled("log_likelihood", "compiled", 1, 1)
    assert not use_compiled("log_likelihood", "eager", 10**9, 10**9)


@pytest.mark.parametrize(("num_data", "records"), [(200, False), (300, True)])
def test_the_work_is_that_of_all_batches_and_samples(
    num_data: int, records: bool, exact, uncompiled, monkeypatch
) -> None:
    recordings: list[int] = []
    prepare = Recorded.prepare
    monkeypatch.setattr(Recorded, "prepare", lambda self, *args: recordings.append(1) or prepare(self, *args))
    monkeypatch.setattr(sampler, "_PER_CALL", 0.0)
    # The seconds saved by 250 data: 25 batches of 10, each in 5 chunks of 4 samples of 7 values.
    monkeypatch.setattr(sampler, "COMPILATION", 25 * 5 * sampler._PER_VALUE * 10 * 4 * 7)
    _estimate(exact, exact.data(num_data), num_samples=20, batch_size=10, chunk_size=4)
    assert bool(recordings) == records
