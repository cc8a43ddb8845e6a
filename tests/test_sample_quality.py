"""Sample quality: distances with closed forms, overlap by hand, features, the floor, refusals."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_vae import VAE, Digits, guides, likelihoods, priors
from pyro_vae.data import ImageSet
from pyro_vae.evaluation import Result, SampleQuality, sample_quality
from pyro_vae.evaluation.feature_distances import frechet_distance, kernel_distance, laplacian_energy, overlap
from pyro_vae.evaluation.image_features import ImageFeatures
from pyro_vae.evaluation.sample_metrics import QUALITIES


def test_the_frechet_distance_of_normal_samples_by_its_closed_form() -> None:
    """With commuting covariances it is |m - n|^2 + |s - t|^2, s and t the standard deviations."""
    basis = torch.linalg.qr(torch.randn(3, 3))[0]
    white = torch.randn(500, 3)
    white = (white - white.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(white.T.cov())).T
    s, t = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.3, 2.5, 1.0])
    a, b = (white * s) @ basis.T, (white * t) @ basis.T + torch.tensor([1.0, -2.0, 0.0])
    assert frechet_distance(a, b) == pytest.approx(5.0 + float((s - t).square().sum()), rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)


def test_the_kernel_distance_by_loops_and_without_bias() -> None:
    a, b = torch.randn(7, 2), torch.randn(5, 2) + 1

    def k(x, y):
        return (float(x @ y) / 2 + 1) ** 3

    within = [sum(k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j) for s in (a, b)]
    across = sum(k(x, y) for x in a for y in b)
    assert kernel_distance(a, b) == pytest.approx(within[0] / 42 + within[1] / 20 - 2 * across / 35, rel=1e-9)
    null = torch.tensor([kernel_distance(torch.randn(40, 2), torch.randn(40, 2)) for _ in range(200)])
    assert abs(null.mean()) < 4.5 * null.std() / 200**0.5


def test_the_overlap_by_hand() -> None:
    """On a line with k = 1: real 0, 1, 10 have the radii 1, 1, 9; generated 0.5, 0.6, 30 have 0.1, 0.1, 29.4."""
    real, generated = torch.tensor([[0.0], [1.0], [10.0]]), torch.tensor([[0.5], [0.6], [30.0]])
    result = overlap(real, generated, neighbours=1)
    assert result["precision"] == pytest.approx(2 / 3)
    assert result["recall"] == pytest.approx(2 / 3)  # 1 and 10 are within 29.4 of 30
    assert result["density"] == pytest.approx(4 / 3)
    assert result["coverage"] == pytest.approx(2 / 3)


def test_equal_distributions_and_lost_modes() -> None:
    torch.manual_seed(0)
    real, same = torch.randn(1500, 2), torch.randn(1500, 2)
    result = overlap(real, same)
    assert result["density"] == pytest.approx(1.0, abs=0.08)
    assert result["coverage"] == pytest.approx(1 - 2**-5, abs=0.03)
    half = overlap(real, same[same[:, 0] > 0])
    assert half["precision"] > 0.9
    assert half["recall"] < 0.7
    assert half["coverage"] < 0.75


def test_blur_lowers_the_laplacian_energy_and_a_known_image_has_its_value() -> None:
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 1.0
    assert float(laplacian_energy(image)) == pytest.approx((16 + 4) / 9)
    noise = torch.rand(3, 1, 12, 12)
    assert (laplacian_energy(torch.nn.functional.avg_pool2d(noise, 3, 1)) < 0.3 * laplacian_energy(noise)).all()


@pytest.fixture(scope="module")
def digits():
    return Digits().load()


def test_features_are_learned_from_classes_and_repeat(digits) -> None:
    one, two, other = (ImageFeatures(digits.train, num_steps=3, seed=seed).sha256 for seed in (0, 0, 1))
    assert one == two != other
    first = ImageFeatures(digits.train, num_steps=100)
    assert first.kind == "classifier"
    assert first.accuracy(digits.test) > 0.6
    assert first(digits.test.batch(slice(3))).shape == (3, 64)
    plain = ImageFeatures(ImageSet(digits.train.images, max_value=16))
    assert (plain.kind, plain.accuracy(digits.test)) == ("random", None)


def vae_of(likelihood) -> VAE:
    return VAE(priors.StandardNormalPrior(2), likelihood(2, (1, 8, 8)), guides.DiagonalNormalGuide((1, 8, 8), 2))


def test_samples_against_the_floor_and_the_file(digits, tmp_path) -> None:
    torch.manual_seed(0)
    vae, options = vae_of(likelihoods.BernoulliLikelihood), {"num_steps": 50, "num_repeats": 2}
    before = torch.get_rng_state()
    result = sample_quality(vae, digits.test, train=digits.train, **options)
    assert torch.equal(before, torch.get_rng_state())
    samples, floor = result.values.mean(0), result.floor.mean(0)
    assert samples[0] > 5 * floor[0]  # noise is far from digits
    assert samples[3] < floor[3]
    assert abs(floor[6] - 1) < 0.05
    assert samples[7] < 0.2  # the means of an untrained decoder are flat
    again = sample_quality(vae, digits.test, train=digits.train, **options)
    assert torch.equal(again.values, result.values)
    assert {"features": "classifier", "features_seed": 0}.items() <= result.protocol.items()
    result.save(tmp_path / "result.json")
    assert torch.equal(Result.load(tmp_path / "result.json").floor, result.floor)
    assert [line.split("  ")[0] for line in result.lines()[1:]] == list(QUALITIES)
    means = sample_quality(vae, digits.test, train=digits.train, mean=True, **options)
    assert torch.equal(means.values[:, 6], means.values[:, 7])


def test_refusals(digits) -> None:
    vae = vae_of(likelihoods.BernoulliLikelihood)
    flat = ImageSet(digits.test.images.flatten(1), max_value=16)
    for data, train, words in (
        (flat, flat, r"data must be images \(C, H, W\) of at least 8 x 8 pixels, got data_shape=\(64,\)"),
        (digits.test, digits.test.subset([0, 1]), "at least as many images as data, got 2 and 297"),
        (digits.test.subset(slice(4)), digits.train, "both sets must be larger than neighbours, got 4 data"),
    ):
        with pytest.raises(ValueError, match=f"^sample_quality: .*{words}"):
            sample_quality(vae, data, train=train, num_steps=2, num_repeats=2)
    with torch.no_grad():
        next(vae.likelihood.parameters()).fill_(math.nan)
    with pytest.raises(ValueError, match=r"^sample_quality: samples must be finite"):
        sample_quality(vae, digits.test, train=digits.train, num_steps=2, num_repeats=2)


def test_advice_of_random_features() -> None:
    table = torch.rand(2, len(QUALITIES))
    assert "random network" in SampleQuality(table, table, protocol={"features": "random"}).advice()
    weak = {"features": "classifier", "features_accuracy": 0.5}
    assert "50%" in SampleQuality(table, table, protocol=weak).advice()
    assert SampleQuality(table, table, protocol={**weak, "features_accuracy": 0.95}).advice() == ""
