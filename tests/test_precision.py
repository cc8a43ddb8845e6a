"""Networks in bfloat16: the user learns if it is slower, and estimates stay near those in float32."""

from __future__ import annotations

import time

import pytest
import torch

from pyro_vae import VAE, fit, log_likelihood
from pyro_vae._core import precision
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.priors import StandardNormalPrior


def vae_of(dim: int) -> VAE:
    return VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (dim,)), DiagonalNormalGuide((dim,), 2))


@pytest.mark.filterwarnings("default:.*precision='bf16' will be slower:UserWarning")
@pytest.mark.parametrize(("value", "warns"), [("bf16", True), ("fp32", False)])
def test_slow_bfloat16_products_are_announced(value: str, warns: bool, recwarn, monkeypatch) -> None:
    vae, x = vae_of(6), torch.ones(4, 6)
    for ratio in (0.5, 2.0):
        monkeypatch.setattr(precision, "relative_time", lambda ratio=ratio: ratio)
        fit(vae.model, vae.guide, x, epochs=1, batch_size=4, precision=value, engine="eager")
        log_likelihood(vae.model, vae.guide, x, num_samples=2, precision=value)
    messages = [str(warning.message) for warning in recwarn]
    end = "slower than 'fp32': on this processor products in bfloat16 take 2.0 times as long."
    expected = [f"{owner}: precision='bf16' will be {end}" for owner in ("fit", "log_likelihood")]
    assert messages == (expected if warns else [])


def test_the_relative_time_is_that_of_bfloat16(monkeypatch) -> None:
    seconds = {torch.bfloat16: 6e-3, torch.float32: 2e-3}
    monkeypatch.setattr(torch, "mm", lambda a, b: time.sleep(seconds[a.dtype]))
    assert 2.0 < precision.relative_time.__wrapped__(size=2) < 4.0


@pytest.mark.usefixtures("single_precision")
def test_the_log_likelihood_is_near_that_in_float32() -> None:
    vae, x = vae_of(200), torch.rand(100, 200).bernoulli()
    fit(vae.model, vae.guide, x, epochs=2, batch_size=20, engine="eager")
    high, low = [
        log_likelihood(vae.model, vae.guide, x, num_samples=50, precision=p).log_likelihood for p in ("fp32", "bf16")
    ]
    assert (low - high).abs().max() > 0
    assert (low - high).mean().abs() < 0.02
