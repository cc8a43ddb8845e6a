"""Outlier scores: closed forms, false alarms, combinations, refusals, and the doors of the command line and sklearn."""

from __future__ import annotations

import math
import warnings
import zlib
from dataclasses import replace
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from pyro.distributions import Normal
from scipy.stats import betabinom
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from pyro_vae.data import Digits, ImageSet
from pyro_vae.evaluation import (
    OutlierDetector,
    conformal_p_values,
    detection,
    false_alarm_interval,
    log_likelihood,
    outliers,
)
from pyro_vae.evaluation.outlier_rules import Rule
from pyro_vae.evaluation.outlier_scores import COMBINED, scores_of
from pyro_vae.evaluation.outlier_statistics import UpperLayers, complexity
from pyro_vae.experiments.outlier_data import KINDS, made_outliers
from pyro_vae.features import VAEOutlierDetector, VAETransformer
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood, NormalLikelihood
from pyro_vae.models import BottomUpGuide, HierarchicalVAE, TopDownGuide
from pyro_vae.models.build import build_vae
from pyro_vae.networks import MLP, ContextNetwork
from pyro_vae.plotting import result_figure
from pyro_vae.priors import StandardNormalPrior
from tests.linear_gaussian import LinearGaussian
from tests.mixture_of_linear_gaussians import MixtureOfLinearGaussians


def too_few(estimator):
    """Checks of scikit-learn that fit fewer data than can be held out."""
    return {"check_estimators_nan_inf": "fits 5 data"}


def closed_forms(case: LinearGaussian, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """log p, rate and distortion under the exact posterior N(m, V)."""
    m, v = case.posterior_mean(x), case.posterior_variance()
    rate = 0.5 * (m.square() + v - 1 - v.log()).sum(-1)
    squares = (x - case.bias - m @ case.weight.T).square().sum(-1) + (case.weight.square().sum(0) * v).sum()
    distortion = 0.5 * squares / case.scale**2 + len(case.bias) * math.log(case.scale * math.sqrt(2 * math.pi))
    return {"log_likelihood": case.log_prob(x), "rate": rate, "distortion": distortion}


def test_the_scores_of_a_linear_gaussian_model_are_their_closed_forms(exact):
    x, reference, other = exact.data(60), exact.data(60), LinearGaussian(scale=0.7)
    pair = other.vae.model, other.vae.guide
    detector = OutlierDetector(exact.vae.model, exact.vae.guide, reference, background=pair, ensemble=[pair])
    result, truth = detector(x), closed_forms(exact, x)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fitted = torch.randperm(60)[:20]
    both = torch.stack([exact.log_prob(x), other.log_prob(x)])
    expected = {
        "log_likelihood": -truth["log_likelihood"],
        "typicality": (truth["log_likelihood"] - exact.log_prob(reference)[fitted].mean()).abs(),
        "background": other.log_prob(x) - exact.log_prob(x),
        "waic": both.var(0) - both.mean(0),
    }
    for name, values in expected.items():
        assert (result.score(name) - values).abs().max() < 1e-9, name
    many = OutlierDetector(exact.vae.model, exact.vae.guide, reference, num_samples=4000)
    values = many.statistics(x)
    for name in ("rate", "distortion"):
        error = (values[name] - truth[name]).abs()
        assert error.max() < 0.2, name  # standard error at most 0.03
        assert error.mean() < 0.05, name


def test_every_score_is_larger_for_stranger_data():
    values = {"log_likelihood": -9, "rate": 3, "distortion": 7, "complexity": 2, "regret": 5, "background": -4}
    values |= {"ensemble_mean": -8, "ensemble_variance": 6, "elbo": -10, "upper_layers": -12}
    center = {"log_likelihood": -6.0, "rate": 4.0}
    scores = scores_of({name: torch.tensor([float(value)]) for name, value in values.items()}, center)
    expected = {"log_likelihood": 9, "typicality": 3, "rate": 1, "distortion": 7, "complexity": 7, "regret": 5}
    assert {name: float(score) for name, score in scores.items()} == {
        **expected,
        "background": 5,
        "waic": 14,
        "layers": 2,
    }


def test_likelihood_regret_is_the_gap_to_the_exact_posterior():
    case = LinearGaussian(shift=0.5)  # KL(q || posterior) of a shifted guide, which the optimisation closes
    x = case.data(40)
    detector = OutlierDetector(case.vae.model, case.vae.guide, case.data(30), regret_steps=300)
    gap = (0.5**2 / case.posterior_variance() / 2).sum()
    regret = detector(x).score("regret")
    assert (regret.mean() - gap).abs() < 0.05 * gap
    assert OutlierDetector(case.vae.model, case.vae.guide, case.data(30)).names.count("regret") == 0


def test_false_alarms_keep_their_rate_for_every_score_and_rule(exact):
    num = 300
    for rule, splits in {"density": 20, "svm": 4, "mean": 4, "largest": 4}.items():
        counts = torch.zeros(2, 5)
        for split in range(splits):
            detector = OutlierDetector(
                exact.vae.model, exact.vae.guide, exact.data(300), combination=rule, num_samples=2, seed=split
            )
            p = detector(exact.data(num)).p_values
            counts += torch.stack([(p <= level).double().sum(0) for level in (0.01, 0.05)])
        for level, count in zip((0.01, 0.05), counts, strict=True):
            rank = math.floor(level * 201)  # of 200 calibration data: the rate of one split is Beta(rank, 201 - rank)
            spread = betabinom(num, rank, 201 - rank).std() * math.sqrt(splits)
            assert ((count - splits * num * rank / 201).abs() < 4.5 * spread).all(), (rule, level, count)


def test_p_values_are_ranks_and_count_ties_and_missing_scores_as_strange():
    calibration = torch.tensor([1.0, 2.0, 2.0, 3.0])
    scores = torch.tensor([0.0, 2.0, 3.5, torch.nan, torch.inf])
    assert torch.equal(conformal_p_values(scores, calibration) * 5, torch.tensor([5.0, 4, 1, 1, 1]))
    with pytest.raises(ValueError, match="calibration must not be empty, got 0 data"):
        conformal_p_values(scores, calibration[:0])


@pytest.mark.parametrize(("m", "level"), [(200, 0.01), (133, 0.05)])
def test_the_interval_of_false_alarms_covers_their_rates(m, level):
    low, high = false_alarm_interval(level, m)
    calibration = torch.rand(4000, m).sort(descending=True).values  # of scores that are uniform over the data
    rates = 1 - calibration[:, math.floor(level * (m + 1)) - 1]  # of data with p <= level
    for bound in (rates < low, rates > high):
        assert abs(float(bound.double().mean()) - 0.025) < 4.5 * math.sqrt(0.025 * 0.975 / 4000)
    first = conformal_p_values(torch.tensor([1 - float(rates[0]) + 1e-9, 1 - float(rates[0]) - 1e-9]), calibration[0])
    assert (first <= level).tolist() == [True, False]
    assert false_alarm_interval(0.001, m) == (0, 0)
    closed = tuple(1 - share ** (1 / 150) for share in (0.975, 0.025))  # k = 1: the largest of 150 scores
    assert false_alarm_interval(0.01, 150) == pytest.approx(closed, rel=1e-9)
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\), got level=1"):
        false_alarm_interval(1.0, m)


def test_the_area_under_the_curve_is_scikit_learn_s_with_ties():
    inner, outer = torch.randn(80).round(decimals=1), (torch.randn(50) + 1).round(decimals=1)
    result = detection(inner, outer)
    labels = np.repeat([0, 1], [80, 50])
    assert abs(result.auroc - roc_auc_score(labels, torch.cat([inner, outer]).numpy())) < 1e-12
    assert result.interval[0] < result.auroc < result.interval[1]
    threshold = outer.sort().values[2]  # 48 of 50 outliers are at least this
    assert result.fpr == float((inner >= threshold).double().mean())
    exact = detection(torch.tensor([0.5, 1.5, 2.5, 3.5]), torch.arange(1.0, 21))  # 19 of 20 outliers are at least 2
    assert exact.fpr == 0.5


def test_the_density_is_that_of_whitened_kernels():
    statistics = torch.randn(400, 2) @ torch.tensor([[3.0, 0.0], [2.9, 0.1]])
    rule = Rule("density", statistics, statistics)
    center, covariance = statistics.mean(0), torch.cov(statistics.T) * 400 ** (-2 / 6)
    kernels = torch.distributions.MultivariateNormal(statistics, covariance)
    points = torch.stack([center, center + torch.tensor([3.0, -3.0])])
    log_density = kernels.log_prob(points.unsqueeze(1)).logsumexp(1) - math.log(400)
    difference = rule(points, points) + log_density
    assert (difference - difference[0]).abs().max() < 1e-6 * log_density.abs().max()
    assert rule(points, points)[1] > rule(points, points)[0] + 100  # against the correlation
    assert rule(torch.tensor([[torch.nan, 0.0]]), points[:1]).isinf()


def test_the_density_of_whitened_statistics_integrates_to_one():
    statistics = torch.randn(30, 1, dtype=torch.float64) * 7 + 3
    u = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    points = statistics.mean(0) + u.unsqueeze(-1) * statistics.std(0)
    density = (-Rule("density", statistics, statistics)(points, points)).exp()
    assert torch.trapezoid(density, u) == pytest.approx(1, abs=1e-9)


def test_mean_and_largest_are_those_of_standardized_scores():
    scores = torch.tensor([[0.0, 0.0], [2.0, 20.0]], dtype=torch.float64)  # mean 1 and 10, std sqrt(2) and 10 sqrt(2)
    rules = {kind: Rule(kind, scores, scores)(scores[:1], torch.tensor([[1.0, 30.0]])) for kind in ("mean", "largest")}
    assert float(rules["largest"]) == pytest.approx(2**0.5)
    assert float(rules["mean"]) == pytest.approx(2**-0.5)


def test_a_tie_counts_one_half_and_the_false_positives_are_those_of_95_percent():
    outliers = torch.arange(1.0, 41.0)  # 38 of 40 reach 3
    result = detection(torch.tensor([2.5, 3.0, 99.0]), outliers)
    assert result.fpr == pytest.approx(2 / 3)
    assert result.auroc == pytest.approx((38 + 37.5 + 0) / 3 / 40)


def test_complexity_is_the_shortest_code():
    noise = torch.rand(1, 1, 28, 28)
    stripes = torch.linspace(0, 1, 28).expand(1, 1, 28, 28)
    lengths = [float(complexity(x)) for x in (torch.zeros(1, 1, 28, 28), stripes, noise)]
    assert lengths == sorted(lengths)
    assert lengths[1] < lengths[2] / 5
    assert lengths[2] >= 784 * math.log(255) - 100  # noise has no shorter code
    assert complexity(torch.tensor([[300, 70000, -5]])) > 0
    walks = torch.randint(0, 4, (1, 1, 28, 28)).cumsum(-1).expand(2, 1, 28, 28).clone()
    walks[1] = walks[0].mT  # of which "sub" and "up" have short codes
    plain = 8 * math.log(2) * len(zlib.compress(walks[0].to(torch.uint8).numpy().tobytes(), 9))
    assert (complexity(walks / 255.0) < 0.6 * plain).all()
    flags = torch.randint(0, 2, (3, 4, 4))
    for large in (torch.full((1, 4, 4), 300), torch.full((1, 4, 4), 1.5)):  # other data of the batch have no effect
        kind = flags.to(large.dtype)
        assert torch.equal(complexity(torch.cat([kind, large]))[:3], complexity(kind))
    assert complexity(flags[:, 0, 0]).shape == (3,)


def layered(kind):
    below = partial(ContextNetwork, context_dim=2)
    if kind is TopDownGuide:
        guide = TopDownGuide([DiagonalNormalGuide((6,), 3, net=below), DiagonalNormalGuide((6,), 2)])
    else:
        guide = BottomUpGuide([DiagonalNormalGuide((6,), 3), DiagonalNormalGuide((3,), 2)])
    return HierarchicalVAE(StandardNormalPrior(2), [DiagonalNormalGuide((2,), 3)], BernoulliLikelihood(3, (6,)), guide)


def test_the_upper_layers_of_a_hierarchy_give_a_bound():
    vae = layered(TopDownGuide)
    trace = pyro.poutine.trace(UpperLayers(vae.model, vae.guide)).get_trace(torch.ones(4, 6))
    assert {name for name in trace.nodes if name.startswith("z")} == {"z1", "z2"}
    z2 = trace.nodes["z2"]
    assert torch.equal(trace.nodes["z1"]["fn"].mean, vae.model.conditionals[0].posterior(z2["value"]).mean)
    assert torch.equal(z2["fn"].mean, vae.guide.layers[1].posterior(torch.ones(4, 6)).mean)
    assert "layers" in outliers(vae.model, vae.guide, torch.ones(4, 6), reference=vae.sample(30)).names
    other = layered(BottomUpGuide)
    result = outliers(other.model, other.guide, torch.ones(4, 6), reference=other.sample(30))
    assert "upper layers first" in result.protocol["unavailable"]["layers"]


def test_the_bound_of_the_upper_layers_is_its_closed_form():
    a, b, t, s = 0.8, 1.5, 0.6, 0.7  # z1 | z2 ~ N(a z2, t^2), x | z1 ~ N(b z1, s^2)
    v = 1 / (1 + (a * b) ** 2 / (b**2 * t**2 + s**2))  # of z2 | x

    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", Normal(0.0, 1.0))
            z1 = pyro.sample("z1", Normal(a * z2, t))
            pyro.sample("x", Normal(b * z1, s), obs=x)

    def guide(x):
        precision = b**2 / s**2 + 1 / t**2
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", Normal(v * a * b * x / (b**2 * t**2 + s**2), v**0.5))
            pyro.sample("z1", Normal((b * x / s**2 + a * z2 / t**2) / precision, precision**-0.5))

    x = torch.full((300,), 1.3)
    m = v * a * b * 1.3 / (b**2 * t**2 + s**2)
    square = (1.3 - a * b * m) ** 2 + b**2 * (a**2 * v + t**2)
    closed = -0.5 * (math.log(2 * math.pi * s**2) + square / s**2 + v + m**2 - 1 - math.log(v))
    bounds = log_likelihood(model, UpperLayers(model, guide), x, num_samples=50).elbo
    assert abs(float(bounds.mean()) - closed) < 4.5 * float(bounds.std()) / 300**0.5
    exact = Normal(0.0, math.sqrt((a * b) ** 2 + (b * t) ** 2 + s**2)).log_prob(x)
    assert (log_likelihood(model, guide, x, num_samples=2).elbo - exact).abs().max() < 1e-9


def test_foreign_programs_get_what_makes_sense_and_reasons_for_the_rest():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Normal(0.0, 1.0))
            pyro.sample("x", Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(x / 2, math.sqrt(0.5)))

    result = outliers(model, guide, torch.tensor([0.0, 9.0]), reference=torch.randn(90) * 2**0.5, regret_steps=3)
    assert result.names == ["log_likelihood", "typicality", "rate", "distortion", COMBINED]
    assert result.p_value().tolist()[1] == 1 / 61
    assert "got a function" in result.protocol["unavailable"]["regret"]
    assert "continuous" in result.protocol["unavailable"]["complexity"]
    with pytest.raises(ValueError, match="got a function"):
        result.score("regret")
    with pytest.raises(ValueError, match="waic: it needs ensemble"):
        result.score("waic")


def test_a_model_without_latents_gives_the_reason_for_each_missing_score():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", Normal(0.0, 1.0), obs=x)

    other, reference = LinearGaussian().vae, torch.randn(30)
    options = {"regret_steps": 2, "ensemble": [(other.model, other.guide)]}
    result = outliers(model, lambda x: None, torch.zeros(3), reference=reference, **options)
    assert result.names == ["log_likelihood", "typicality", COMBINED]
    for name in ("rate", "distortion", "regret"):
        with pytest.raises(ValueError, match=f"{name}: the model has no latent variables"):
            result.score(name)
    with pytest.raises(ValueError, match="waic: MLP: the input must end in"):
        result.score("waic")


def test_bad_input_is_refused_in_one_line(exact):
    x, call = exact.data(20), partial(outliers, exact.vae.model, exact.vae.guide)
    for data, options, message in [
        (x, {}, "outliers: reference must be given, got reference=None. Pass held-out data"),
        (x, {"reference": x[:9]}, "outliers: reference must hold at least 10 data, got 9. Hold out more"),
        (x[:0], {"reference": x}, "data must not be empty"),
        (x[:, :3], {"reference": x}, r"must have the shape and kind of the reference, got \(3,\) of real numbers"),
        (x.long(), {"reference": x}, r"got \(7,\) of integers and a reference \(7,\) of real numbers"),
        (x, {"reference": x + 1, "combination": "density of"}, "combination must be one of 'density', 'svm'"),
        (x, {"reference": x + 1, "regret_steps": 0}, "regret_steps must be at least 1, got regret_steps=0"),
        (x, {"reference": x[:, :3]}, "outliers|must"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            call(data, **options)
        assert "\n" not in str(error.value)
    with pytest.warns(UserWarning, match="data and reference are the same"):
        call(x[:10], reference=x)


def test_classify_rejects_what_the_detector_rejects():
    case = MixtureOfLinearGaussians()
    x = torch.cat([case.vae.sample(20), torch.full((3, *case.vae.data_shape), 50.0)])
    detector = OutlierDetector(case.vae.model, case.vae.guide, case.vae.sample(200))
    before = case.vae.classify(x)
    after = case.vae.classify(x, reject=detector.rejects(0.01))
    rejected = after.isnan().all(-1)
    assert rejected[20:].all()
    assert torch.equal(rejected, detector(x).p_value() <= 0.01)
    assert torch.equal(after[~rejected], before[~rejected])
    with pytest.raises(ValueError, match=r"level must be at least 0\.0074"):
        detector.rejects(0.001)
    with pytest.raises(ValueError, match=r"reject must be a function of the data, got reject=0\.01\. Pass OutlierDet"):
        case.vae.classify(x, reject=0.01)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [VAEOutlierDetector(VAETransformer(2, epochs=1), level=0.2, holdout=0.8, num_samples=2)],
    expected_failed_checks=too_few,
)
def test_scikit_learn_s_checks(estimator, check):
    check(estimator)


def test_the_estimator_of_scikit_learn_keeps_its_rate(exact):
    transformer = VAETransformer(3, vae=exact.vae)
    X = exact.data(500).numpy()
    detector = VAEOutlierDetector(transformer, level=0.05).fit(X)
    new = exact.data(600).numpy()
    outside = detector.predict(new) == -1
    assert np.array_equal(outside, detector.p_values(new) <= 0.05)
    assert np.array_equal(outside, detector.decision_function(new) < 0)
    rank, m = math.floor(0.05 * 135), 134  # a third of the 200 held out fits the rule
    assert abs(outside.sum() - 600 * rank / (m + 1)) < 4.5 * betabinom(600, rank, m + 1 - rank).std()
    early = VAEOutlierDetector(transformer, level=0.001)
    with pytest.raises(ValueError, match=r"level must be at least 0\.00741, .*, got level=0\.001\. Pass more data"):
        early.fit(X)
    assert not hasattr(early, "vae_")  # refused before the training
    with pytest.raises(ValueError, match="holdout must be between 0 and 1, got holdout=2"):
        VAEOutlierDetector(transformer, holdout=2.0).fit(X)


def test_made_outliers_are_as_described():
    images = Digits(binarize="none").load().test
    made = {kind: made_outliers(kind, images).images for kind in KINDS}
    assert torch.equal(made["inverted"] + images.images, torch.full_like(images.images, 16))
    assert torch.equal(made["rotated"].rot90(-1, (-2, -1)), images.images)
    assert (made["constant"] == made["constant"][..., :1, :1]).all()
    assert len(made["noise"].unique()) == 17
    with pytest.raises(ValueError, match="images to rotate must be square"):
        made_outliers("rotated", ImageSet(torch.zeros(2, 1, 2, 3, dtype=torch.uint8)))


def test_the_figure_shows_every_score_and_the_curves(exact):
    x = exact.data(30)
    result = outliers(exact.vae.model, exact.vae.guide, x, reference=exact.data(60), against=x + 5)
    axes = result_figure(result).axes
    assert [ax.get_xlabel() for ax in axes[4:6]] == ["combined (nats)", "Share of data detected"]
    assert axes[6].get_legend().get_texts()[-1].get_text() == "combined 1.000 [1.000, 1.000], 0.0%"
    assert "1.0000 [1.0000, 1.0000], FPR at 95% 0.0%" in str(result)
    assert result.detection(COMBINED).auroc == 1
    infinite = replace(result, against=torch.full_like(result.scores, torch.inf))
    for curve in result_figure(infinite).axes[5].lines:
        assert curve.get_ydata()[1] == 1  # all are detected at the first threshold
    assert result.strangest(1).item() == result.score().argmax()
    assert "no p-value is below 0.0244, 1 / (40 calibration data + 1): use a larger reference" in str(result)


def test_the_model_is_left_as_it_was(exact):
    vae = build_vae((4,), 2, StandardNormalPrior, partial(NormalLikelihood, net=MLP), DiagonalNormalGuide)
    before, state = {k: v.clone() for k, v in vae.state_dict().items()}, torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outliers(vae.model, vae.guide, torch.zeros(3, 4), reference=torch.ones(12, 4), regret_steps=2)
    assert vae.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in vae.state_dict().items())
