"""Metrics of disentanglement: known values of hand-made codes, refusals, and the way from a model and Faces to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pyro_vae import VAE, Faces, guides, likelihoods, priors
from pyro_vae.evaluation import Disentanglement, Result, code_disentanglement
from pyro_vae.evaluation.code_metrics import (
    METRICS,
    as_factors,
    concentration,
    gap,
    measure,
    mutual_information,
    separability,
)
from pyro_vae.experiments.methods import METHODS
from pyro_vae.experiments.trained_model import TrainedModel

GRID = torch.cartesian_prod(torch.arange(3.0), torch.arange(4.0), torch.arange(2.0)).repeat(10, 1)  # (240, 3)
CHANCE = {"DCI informativeness": (1 / 3 + 1 / 4 + 1 / 2) / 3, "FactorVAE metric": 1 / 3, "beta-VAE metric": 1 / 3}


def values(codes, factors=GRID) -> dict[str, float]:
    table = as_factors(factors, len(codes), num_bins=20, owner="test")
    result = measure(codes.double().numpy(), table, np.random.default_rng(0), num_bins=20)[0]
    return dict(zip(METRICS, result.tolist(), strict=True))


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_perfect_and_permuted_codes_are_one_in_every_metric(order: list[int]) -> None:
    codes = GRID[:, order] * torch.tensor([1.0, -2.0, 0.5]) + 3
    assert values(codes) == pytest.approx(dict.fromkeys(METRICS, 1.0), abs=1e-6)


def test_codes_that_know_nothing_are_at_chance() -> None:
    result = values(torch.full((240, 2), 7.0))
    for name in METRICS:
        tolerance = 0.1 if name == "DCI informativeness" else 1e-6  # an accuracy on a random half
        assert result[name] == pytest.approx(CHANCE.get(name, 0.0), abs=tolerance), name


def test_codes_independent_of_the_factors_have_no_gap() -> None:
    """The whole grid of codes and factors: their mutual information is exactly 0."""
    codes = torch.arange(5.0).repeat_interleave(240)[:, None]
    grid = as_factors(GRID.repeat(5, 1).numpy(), 1200, num_bins=20, owner="test")
    information, entropies = mutual_information(codes.numpy(), grid, num_bins=20)
    assert np.abs(information).max() < 1e-12
    assert entropies == pytest.approx([math.log(3), math.log(4), math.log(2)])
    assert np.abs(separability(codes.numpy(), grid)).max() < 1e-12


def test_two_latents_for_one_factor_close_the_gap_and_keep_the_rest() -> None:
    codes = torch.cat([GRID, -GRID], 1)
    result = values(codes)
    assert result["MIG"] == pytest.approx(0.0, abs=1e-6)
    assert result["SAP"] == pytest.approx(0.0, abs=1e-6)
    assert result["DCI disentanglement"] == pytest.approx(1.0, abs=1e-6)


def test_one_latent_for_two_factors() -> None:
    """z = 2 a + b of two bits: I(z; a) = I(z; b) = log 2; a threshold gives a, and b for three of four values."""
    bits = torch.cartesian_prod(torch.arange(2.0), torch.arange(2.0)).repeat(30, 1)
    result = values(bits @ torch.tensor([[2.0], [1.0]]), bits)
    assert result["MIG"] == pytest.approx(1.0, abs=1e-6)
    assert result["FactorVAE metric"] < 0.7
    assert result["SAP"] == pytest.approx((1 + 0.5) / 2, abs=1e-6)  # accuracies 1 and 3/4, with chance at 0


def test_entropies_and_gaps_by_hand() -> None:
    assert concentration(np.eye(3)) == pytest.approx(1.0)
    assert concentration(np.ones((3, 4))) == pytest.approx(0.0)
    assert concentration(np.array([[1.0, 1.0, 0.0, 0.0]])) == pytest.approx(0.5)
    assert concentration(np.array([[3.0, 0.0], [0.5, 0.5]])) == pytest.approx(0.75)  # weighted by 3 and 1
    assert concentration(np.zeros((2, 2))) == 0.0
    assert gap(np.array([[0.2, 1.0], [0.9, 0.4], [0.5, 0.1]])) == pytest.approx([0.4, 0.6])


def test_continuous_factors_are_binned_and_correlated() -> None:
    t = np.linspace(0, 1, 400)
    other = np.random.default_rng(0).permutation(t)
    table = as_factors({"t": t, "other": other}, 400, num_bins=20, owner="test")
    assert table.discrete == [False, False]
    assert np.bincount(table.classes[:, 0]).tolist() == [20] * 20
    information, entropies = mutual_information(t[:, None] ** 2, table, num_bins=20)
    assert 0.7 < information[0, 0] / entropies[0] < 1
    assert separability(t[:, None] ** 2, table)[0, 0] == pytest.approx(np.corrcoef(t, t**2)[0, 1] ** 2)


def test_permuted_factors_and_intervals() -> None:
    torch.manual_seed(1)
    result = code_disentanglement(GRID[:120] + 0.5 * torch.randn(120, 3), GRID[:120], num_bootstrap=2)
    low, high = result.interval()[:5].T
    assert (low < result.values[:5]).all()
    assert (high > result.values[:5]).all()
    assert (result.permuted[:4] < 0.25).all()
    assert (result.values[:4] > result.permuted[:4] + 0.2).all()


def test_a_run_on_faces_and_its_file(tmp_path) -> None:
    torch.manual_seed(0)
    data, shape = Faces(count=240, size=16), (1, 16, 16)
    likelihood, guide = likelihoods.NormalLikelihood(3, shape), guides.DiagonalNormalGuide(shape, 3)
    vae, splits = VAE(priors.StandardNormalPrior(3), likelihood, guide), data.load()
    trained, method = TrainedModel(vae, splits, {"dataset": "Faces"}), METHODS["disentanglement"]
    before = torch.get_rng_state()
    (result,) = method.run(trained, {**method.defaults(), "num_bootstrap": 2})
    assert torch.equal(before, torch.get_rng_state())
    images = splits.test
    factors = {name: values[images.rows] for name, values in data.factors.items()}
    codes = vae.encode(images.batch(slice(None))).mean.detach()
    table = as_factors(factors, len(codes), num_bins=20, owner="test")
    assert np.array_equal(result.information, mutual_information(codes.double().numpy(), table, num_bins=20)[0])
    assert result.protocol["factors"] == list(factors)
    result.save(tmp_path / "result.json")
    loaded = Result.load(tmp_path / "result.json")
    assert isinstance(loaded, Disentanglement)
    assert torch.equal(loaded.values, result.values)
    assert "MIG" in str(result)


BAD = {
    "one factor": (GRID, GRID[:, :1], "at least two factors, got 1"),
    "other length": (GRID, GRID[:100], r"factors must have shape \(240,\), got \(100,\) of 'factor 0'"),
    "constant": (GRID, {"a": GRID[:, 0], "b": np.ones(240)}, "factors must vary, got 'b'"),
    "nan": (GRID, {"a": GRID[:, 0], "b": np.full(240, np.nan)}, "factors must be finite, got .* of 'b'"),
    "codes": (GRID[:, 0], GRID, r"codes must have shape \(N, L\), got \(240,\)"),
    "nan codes": (GRID * math.nan, GRID, "codes of the data must be finite"),
    "few": (GRID[:5], GRID[:5], "codes must be at least 10"),
    "vector": (GRID, GRID[:, 0], r"factors must be \(N, F\), or \(N,\) by name, got shape \(240,\)"),
}


@pytest.mark.parametrize(("codes", "factors", "words"), BAD.values(), ids=BAD)
def test_wrong_input(codes, factors, words: str) -> None:
    with pytest.raises(ValueError, match=f"^code_disentanglement: .*{words}"):
        code_disentanglement(codes, factors)


def test_classes_by_name() -> None:
    names = np.array(["left", "middle", "right"])[GRID[:, 0].long().numpy()]
    assert values(GRID, {"side": names, "b": GRID[:, 1], "c": GRID[:, 2]})["MIG"] == pytest.approx(1.0, abs=1e-6)
