"""What is examined does not depend on the precision that networks were asked for, and says how programs run."""

from __future__ import annotations

import logging
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import MLP, VAE, BernoulliLikelihood, DiagonalNormalGuide, StandardNormalPrior, log_likelihood


def test_bfloat16_rounding_does_not_decide_how_programs_run(single_precision: None) -> None:
    net = partial(MLP, hidden=(200, 200))
    vae = VAE(
        StandardNormalPrior(20), BernoulliLikelihood(20, (784,), net=net), DiagonalNormalGuide((784,), 20, net=net)
    )
    x = (torch.rand(20, 784) < 0.3).float()
    result = log_likelihood(vae.model, vae.guide, x, num_samples=20, precision="bf16")
    assert "way" not in result.protocol


class Rows(nn.Module):
    """A decoder that takes a matrix alone, or a vector alone."""

    def __init__(self, flattens: bool) -> None:
        super().__init__()
        self.flattens, self.encode, self.weight = flattens, nn.Linear(3, 4), nn.Parameter(torch.randn(2, 3))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            if not self.flattens and len(z) != 5:
                raise RuntimeError("five data, neither more nor fewer")
            pyro.sample("x", dist.Normal(torch.mm(z, self.weight), 1.0).to_event(1), obs=x)

    def guide(self, x):
        loc, log_scale = self.encode(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


@pytest.mark.parametrize(("flattens", "way", "level"), [(True, "flattened", "INFO"), (False, "looped", "WARNING")])
def test_the_way_is_in_the_protocol_and_in_one_line_of_the_log(
    flattens: bool, way: str, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    pair, x = Rows(flattens), torch.randn(5, 3)
    with caplog.at_level(logging.INFO, logger="pyro_vae"):
        result = log_likelihood(pair.model, pair.guide, x, num_samples=400)
    assert result.protocol["way"] == way
    assert [(record.levelname, way in record.message) for record in caplog.records] == [(level, True)]
    exact = dist.MultivariateNormal(torch.zeros(3), pair.weight.T @ pair.weight + torch.eye(3)).log_prob(x)
    assert ((result.log_likelihood - exact) / result.standard_error).abs().max() < 4.5
