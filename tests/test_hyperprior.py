"""The hyperprior: its densities by scipy, files of its codes, and the rate that it saves where scales vary together."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from scipy.stats import norm

from pyro_vae import VAE
from pyro_vae.compression import compress_lossy, rate_distortion
from pyro_vae.compression.ans import Stacks
from pyro_vae.compression.lossy import decode_lossy
from pyro_vae.compression.rounded_codes import HyperTables
from pyro_vae.distributions import AuxiliaryJoint
from pyro_vae.guides import QuantizedGuide
from pyro_vae.likelihoods import NormalLikelihood
from pyro_vae.networks import MLP
from pyro_vae.priors import FactorizedPrior, HyperPrior

small, linear = partial(MLP, hidden=(6,)), partial(MLP, hidden=())


# ---------------------------------------------------------------- densities


def test_the_conditional_is_a_rounded_normal_with_its_digits_in_the_tails() -> None:
    prior = HyperPrior(5, hyper_dim=2, net=small)
    y, h = torch.randn(7, 3) * 4, torch.randn(7, 2)
    with torch.no_grad():
        loc, log_scale = (a.numpy() for a in prior.parameters_of(h))
        scale = np.exp(log_scale)
        high, low = ((y.numpy() + s - loc) / scale for s in (0.5, -0.5))
        sign = np.sign(high + low)  # the difference of two tails, not of numbers near 1
        expected = np.log(ndtr(np.where(sign > 0, -low, high)) - ndtr(np.where(sign > 0, -high, low))).sum(-1)
        log_prob = prior().log_prob(torch.cat([y, h], -1))
        torch.testing.assert_close(
            log_prob, prior.hyper().log_prob(h) + torch.from_numpy(expected), rtol=1e-9, atol=1e-9
        )
        # Far out, log(Phi(t + w) - Phi(t)) is log Phi(-|t|) of the nearer end, up to 1e-40.
        y = torch.full((1, 3), 300.0)
        tail = norm.logcdf(-(y.numpy() - 0.5 - loc[:1]) / scale[:1]).sum()
        density = prior.code_distribution(h[:1]).log_prob(y)
        assert abs(float(density) / tail - 1) < 1e-9
    assert (scale > math.exp(-2.2)).all()


def test_a_sample_has_the_scales_of_its_own_hyper_code() -> None:
    torch.manual_seed(0)
    prior, n = HyperPrior(2, net=linear), 20_000
    with torch.no_grad():
        layer = prior.net.layers[0]
        layer.weight.copy_(torch.tensor([[2.0], [0.0]]))  # loc 2 h, a constant scale
        layer.bias.copy_(torch.tensor([1.0, 0.3]))
        y, h = prior().sample((n,)).unbind(-1)
        variance = float(prior.parameters_of(torch.zeros(1))[1].exp()) ** 2 + 1 / 12
    residual = y - 2 * h - 1
    assert abs(float(residual.mean())) / math.sqrt(variance / n) < 4.5
    assert abs(float(residual.var()) / variance - 1) < 4.5 * math.sqrt(2 / n)
    assert not prior().has_rsample
    reparameterized = prior.code_distribution(torch.zeros(1))
    with pytest.raises(NotImplementedError):
        AuxiliaryJoint(prior.hyper(), lambda h: reparameterized, 1).rsample()


def test_options_of_the_hyperprior_are_checked() -> None:
    with pytest.raises(ValueError, match=r"^HyperPrior: hyper_dim must be less than latent_dim, got hyper_dim=2, la"):
        HyperPrior(2, hyper_dim=2)
    with pytest.raises(ValueError, match=r"^HyperPrior: hyper_dim must be at least 1, got"):
        HyperPrior(2, hyper_dim=0)


# ---------------------------------------------------------------- the rate


SCALES, DIM = (0.5, 8.0), 16


def scaled(num: int) -> torch.Tensor:
    """Normal vectors whose entries share one of two scales, and in the last entry which."""
    kind = torch.arange(num) % 2
    return torch.cat([torch.tensor(SCALES)[kind, None] * torch.randn(num, DIM), kind[:, None].double()], -1)


def masses(scale: float) -> np.ndarray:
    """Probabilities of a rounded normal on -100..100."""
    k = np.arange(-100, 101)
    return ndtr((k + 0.5) / scale) - ndtr((k - 0.5) / scale)


def entropy(p: np.ndarray) -> float:
    """Entropy in bits."""
    return float(-(p * np.log2(np.maximum(p, 1e-300))).sum())


def identity(prior: FactorizedPrior | HyperPrior) -> VAE:
    """A model whose codes are the rounded data."""
    dim = DIM + 1
    vae = VAE(prior, NormalLikelihood(dim, (dim,), net=linear), QuantizedGuide((dim,), dim, net=linear))
    with torch.no_grad():
        for net in (vae.guide.net, vae.likelihood.net):
            net.layers[0].weight.copy_(torch.eye(dim))
            net.layers[0].bias.zero_()
    return vae


def trained(prior: FactorizedPrior | HyperPrior, codes: torch.Tensor, steps: int, lr: float) -> VAE:
    """The model with the prior fitted to codes."""
    optimizer = torch.optim.Adam(prior.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (-prior().log_prob(codes).mean()).backward()
        optimizer.step()
        schedule.step()
    return identity(prior)


def test_the_hyperprior_reaches_the_entropy_given_the_scales_and_the_factorized_prior_that_of_the_marginals() -> None:
    torch.manual_seed(0)
    codes, x = scaled(500).round(), scaled(400)
    with_scales = 1 + DIM * sum(entropy(masses(s)) for s in SCALES) / 2
    without = 1 + DIM * entropy(sum(masses(s) for s in SCALES) / 2)
    hyper = rate_distortion(trained(HyperPrior(DIM + 1, net=linear), codes, 200, 0.3), x, chunk_size=100)
    factorized = rate_distortion(trained(FactorizedPrior(DIM + 1, init_scale=4.0), codes, 150, 0.1), x)
    assert torch.equal(hyper.squared_error, factorized.squared_error)
    for result, expected, slack in ((hyper, with_scales, 0.02), (factorized, without, 0.04)):
        error = result.sampling_error("rate")
        assert -4.5 * error < result.mean("rate") - expected < 4.5 * error + slack * expected
    saved = float((factorized.rate - hyper.rate).mean())
    assert saved > 0.8 * (without - with_scales)
    assert float((factorized.coded_bits - hyper.coded_bits).mean()) > 0.8 * (without - with_scales)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("seed", range(4))
def test_random_codes_are_restored_whatever_their_probability(seed: int) -> None:
    stream = np.random.default_rng(seed)
    torch.manual_seed(seed)
    hyper_dim, code_dim, rows, bound = (int(n) for n in stream.integers(1, (6, 12, 5, 60)))
    prior = HyperPrior(code_dim + hyper_dim, hyper_dim=hyper_dim, net=small)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(3.0)
    tables = HyperTables(prior, bound, rows)
    data = stream.integers(0, 2 * bound + 1, (20, rows, code_dim + hyper_dim))  # uniform, far from the prior
    stacks = Stacks.filled(rows, 3)
    before = stacks.content()
    for x in data:
        tables.push(stacks, x)
    assert (stacks.content() > before).all()
    for x in data[::-1]:
        np.testing.assert_array_equal(tables.pop(stacks, rows), x)
    np.testing.assert_array_equal(stacks.content(), before)


def test_the_frequencies_are_those_of_the_conditional() -> None:
    torch.manual_seed(0)
    prior, bound = HyperPrior(4, hyper_dim=2, net=small), 30
    h = torch.tensor([[3.0, -2.0]]).expand(2 * bound + 1, -1)
    k = torch.arange(-bound, bound + 1)[:, None].double().expand(-1, 2)
    tables = HyperTables(prior, bound, 2 * bound + 1)
    coder = tables._code((h + bound).numpy().astype(np.int64))
    _, frequency = coder.symbols.interval((k + bound).numpy().astype(np.int64))
    with torch.no_grad():
        p = prior.code_distribution(h).base_dist.log_prob(k).exp().numpy()
    assert np.abs(frequency[1:-1] / 2**26 - p[1:-1]).max() < 2e-3  # loc and log scale have 12 fractional bits
    assert (frequency.sum(0) == 2**26).all()


def test_a_float32_model_and_one_in_training_mode_write_the_same_file() -> None:
    torch.manual_seed(0)
    dropped = partial(MLP, hidden=(6,), dropout=0.5)
    prior = HyperPrior(6, hyper_dim=2, net=dropped)
    vae = VAE(prior, NormalLikelihood(6, (6,), net=linear), QuantizedGuide((6,), 6, net=linear)).float()
    x = torch.randn(50, 6, dtype=torch.float32)
    contents = [compress_lossy(model, x) for model in (vae.eval(), vae.train())]
    assert contents[0] == contents[1]
    assert torch.equal(decode_lossy(vae, contents[0]), vae.guide.code(x).double())
