"""Learned losses: implicit guides, VAE/GAN, GANs and perceptual distances, by hand, resumed, compiled and refused."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal
from torch.nn.functional import logsigmoid, softplus

from pyro_vae import VAE, annealed_log_likelihood, compression, fit, inference_gaps, latents, log_likelihood, sandwich
from pyro_vae.evaluation import distorted_images, latent_diagnostics
from pyro_vae.evaluation.image_distortions import DISTORTIONS, _distorted
from pyro_vae.guides import DiagonalNormalGuide, ImplicitGuide
from pyro_vae.likelihoods import BernoulliLikelihood, ImplicitLikelihood, NormalLikelihood
from pyro_vae.models import ImplicitModel
from pyro_vae.networks import MLP
from pyro_vae.objectives import (
    AdversarialELBO,
    AdversarialReconstruction,
    AdversarialSamples,
    PerceptualReconstruction,
    RatioNetwork,
    RatioTraining,
)
from pyro_vae.objectives.perceptual import feature_log_prob
from pyro_vae.priors import StandardNormalPrior
from pyro_vae.training import RunFolder
from pyro_vae.training.state import EpochMeter

SMALL = partial(MLP, hidden=(6,))
X = torch.rand(40, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def implicit_vae() -> VAE:
    """An implicit guide for a model with a density."""
    likelihood = NormalLikelihood(2, (5,), net=SMALL, scale=0.5)
    return VAE(StandardNormalPrior(2), likelihood, ImplicitGuide((5,), 2, noise_dim=3, net=SMALL, hidden=(6, 6)))


def vae_gan() -> VAE:
    """A generator with an encoder."""
    likelihood = ImplicitLikelihood(2, (5,), net=SMALL)
    return VAE(StandardNormalPrior(2), likelihood, DiagonalNormalGuide((5,), 2, net=SMALL))


def gan() -> ImplicitModel:
    """A generator without an encoder."""
    return ImplicitModel(StandardNormalPrior(2), ImplicitLikelihood(2, (5,), net=SMALL))


CASES: dict[str, tuple[Any, Any]] = {
    "AVB": (implicit_vae, partial(AdversarialELBO, ratio=SMALL, num_particles=2, ratio_steps=2, lr=1e-2)),
    "VAE/GAN": (vae_gan, partial(AdversarialReconstruction, discriminator=SMALL, gamma=3.0, lr=1e-2)),
    "GAN": (gan, partial(AdversarialSamples, discriminator=SMALL, num_particles=2, lr=1e-2)),
}
cases = pytest.mark.parametrize("case", CASES)


def trained(case: str, engine: str = "eager", **options: Any) -> tuple[VAE, list[Tensor]]:
    """A VAE and the objective's tensors after some epochs of two batches."""
    torch.manual_seed(5)
    build, make = CASES[case]
    vae, objective = build(), make()
    options = {
        "epochs": 4,
        "batch_size": 20,
        "engine": engine,
        "optimizer": partial(torch.optim.Adam, lr=1e-2),
    } | options
    fit(vae.model, vae.guide, X, objective=objective, **options)
    return vae, objective.trained(vae.model, vae.guide, X)


def tensors(result: tuple[VAE, list[Tensor]]) -> list[Tensor]:
    return [*result[0].state_dict().values(), *result[1]]


# ---------------------------------------------------------------- implicit guides


def test_the_estimate_of_the_elbo_and_its_gradient() -> None:
    vae, objective = implicit_vae(), AdversarialELBO(ratio=SMALL)
    objective.trained(vae.model, vae.guide, X)
    network, parameters = objective.ratio.network, list(vae.parameters())
    torch.manual_seed(4)
    loss = objective.differentiable_loss(vae.model, vae.guide, X)
    gradients = torch.autograd.grad(loss, parameters)
    torch.manual_seed(4)
    q = vae.guide.posterior(X)
    z = q.rsample()
    points = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    values = torch.stack([vae.guide.net(X, point.expand(40, 3)) for point in points]).detach()  # (64, B, L)
    loc, covariance = values.mean(0), torch.stack([v.T.cov() for v in values.unbind(1)]) + 1e-6 * torch.eye(2)
    standardized = (torch.linalg.cholesky(covariance).inverse() @ (z - loc)[:, :, None]).squeeze(-1)
    log_q = network(torch.cat([X, standardized], -1)) + MultivariateNormal(loc, covariance).log_prob(z)
    expected = (log_q - StandardNormalPrior(2)().log_prob(z) - vae.likelihood(z).log_prob(X)).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for one, two in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-10)
    pairs, others = objective._sides(objective._samples)
    torch.testing.assert_close(pairs, torch.cat([X, standardized.detach()], -1))
    assert torch.equal(others[:, :5], X)
    assert abs(others[:, 5:].std() - 1) < 4.5 / math.sqrt(2 * 80)


class Square(nn.Module):
    """The decoder z^2, under which the posterior has two modes."""

    def forward(self, z: Tensor) -> Tensor:
        return z.square()


GRID, SIGMA = torch.linspace(-5, 5, 4001, dtype=torch.float64), 0.6
STEP = float(GRID[1] - GRID[0])


def joint(x: float) -> Tensor:
    """log p(x, z) on the grid."""
    return Normal(0.0, 1.0).log_prob(GRID) + Normal(GRID.square(), SIGMA).log_prob(torch.as_tensor(x))


def kl_of_samples(z: Tensor, x: float, num_bins: int = 200) -> float:
    """KL of the distribution of z to the posterior, both by their masses in bins of width 0.05, in nats."""
    q = torch.histogram(z, torch.linspace(-5, 5, num_bins + 1)).hist / len(z)
    bins = ((GRID + 5) / 10 * num_bins).long().clamp(max=num_bins - 1)
    p = torch.zeros(num_bins).index_add(0, bins, (joint(x) - joint(x).logsumexp(0)).exp())
    return float((q[q > 0] * (q / p)[q > 0].log()).sum())


def kl_of_best_normal(x: float) -> float:
    """The smallest KL of a normal distribution to the posterior, by quadrature over a grid of its parameters."""
    loc, scale = torch.linspace(0, 1.5, 31)[:, None, None], torch.linspace(0.15, 1.2, 43)[None, :, None]
    log_q = Normal(loc, scale).log_prob(GRID)
    log_p = joint(x) - joint(x).logsumexp(0) - math.log(STEP)
    return float(((log_q.exp() * (log_q - log_p)).sum(-1) * STEP).min())


@pytest.mark.slow
def test_a_posterior_with_two_modes_is_found_that_no_normal_distribution_fits() -> None:
    torch.manual_seed(0)
    guide = ImplicitGuide((1,), 1, noise_dim=2, net=partial(MLP, hidden=()), hidden=(32, 32))
    vae = VAE(StandardNormalPrior(1), NormalLikelihood(1, (1,), net=Square(), scale=SIGMA), guide)
    ratio = partial(MLP, hidden=(64, 64), activation="silu")
    objective, x = AdversarialELBO(num_particles=256, ratio=ratio, lr=5e-3, ratio_steps=2), torch.tensor([[1.0]])
    adam, claims = torch.optim.Adam(guide.parameters(), lr=3e-3, betas=(0.9, 0.99)), []
    for step in range(900):
        share = min(1.0, 2 - step / 450)
        loss = objective.differentiable_loss(vae.model, guide, x)
        adam.param_groups[0]["lr"], objective.ratio.lr = 3e-3 * share, 5e-3 * share
        adam.zero_grad()
        loss.backward()
        adam.step()
        objective.update()
        claims.append(-loss.item())
    with torch.no_grad():
        kl = kl_of_samples(guide.posterior(x).sample((200_000,)).flatten(), 1.0)
    assert kl < 0.02
    assert kl_of_best_normal(1.0) > 0.3
    evidence = float(joint(1.0).logsumexp(0)) + math.log(STEP)
    claim = torch.tensor(claims[-100:]).mean()
    assert abs(claim - (evidence - kl)) < 0.03  # the bias of the ratio


# ---------------------------------------------------------------- generators


def test_the_three_losses_of_the_vae_gan() -> None:
    gamma, weight, vae = 3.0, 2.0, vae_gan()
    objective = AdversarialReconstruction(discriminator=SMALL, gamma=gamma, kl_weight=weight)
    objective.trained(vae.model, vae.guide, X)
    d, encoder, decoder = objective.discriminator, list(vae.guide.parameters()), list(vae.likelihood.parameters())
    torch.manual_seed(4)
    loss = objective.differentiable_loss(vae.model, vae.guide, X)
    of_encoder, of_decoder = (torch.autograd.grad(loss, p, retain_graph=True) for p in (encoder, decoder))
    torch.manual_seed(4)
    q = vae.encode(X)
    z = q.rsample()
    x_tilde, x_p = vae.decode(z).mean, vae.decode(StandardNormalPrior(2)().sample((40,))).mean
    hidden = nn.Sequential(*list(d.net.layers)[:-1])  # all but the last layer
    variance = torch.maximum(hidden(X).var(0, unbiased=False).mean(), 0.01 * hidden(X).square().mean()).detach()
    llike = 0.5 * (hidden(X) - hidden(x_tilde)).square().sum() / variance
    prior = (q.log_prob(z) - StandardNormalPrior(2)().log_prob(z)).sum()
    deceived = sum(logsigmoid(d(images)).sum() for images in (x_tilde, x_p))
    assert loss.item() == pytest.approx((llike + weight * prior - deceived).item(), rel=1e-9)
    expected = torch.autograd.grad(llike + weight * prior, encoder, retain_graph=True)
    for one, two in zip(of_encoder, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-10)
    expected = torch.autograd.grad(gamma * llike - deceived, decoder, retain_graph=True)
    for one, two in zip(of_decoder, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-10)
    terms = softplus(-d(X)).mean() + softplus(d(x_tilde)).mean() + softplus(d(x_p)).mean()
    assert float(objective.update()) == pytest.approx(terms.item(), rel=1e-9)
    numbers = objective.numbers()
    assert numbers["feature_distance"] == pytest.approx(llike.item() / 40, rel=1e-9)
    assert numbers["rate"] == pytest.approx(prior.item() / 40, rel=1e-9)
    spread = x_p.var(0, unbiased=False).mean() / X.var(0, unbiased=False).mean()
    assert numbers["spread"] == pytest.approx(spread.item(), rel=1e-9)


def test_features_of_a_single_image_have_no_variance() -> None:
    q, x = vae_gan().likelihood(torch.zeros(1, 2)), X[:1]
    expected = -(x - q.mean).square().sum(-1) / (2 * 0.01 * x.square().mean())
    torch.testing.assert_close(feature_log_prob(lambda images: images, q, x), expected)


def test_the_losses_of_a_gan_and_of_fixed_features() -> None:
    model, objective = gan(), AdversarialSamples(discriminator=SMALL)
    objective.trained(model.model, model.guide, X)
    torch.manual_seed(4)
    loss = objective.differentiable_loss(model.model, model.guide, X)
    torch.manual_seed(4)
    images = model.decode(StandardNormalPrior(2)().expand((40,)).sample()).mean
    assert loss.item() == pytest.approx(-logsigmoid(objective.discriminator(images)).sum().item(), rel=1e-9)
    d = objective.discriminator
    expected = softplus(-d(X)).mean() + softplus(d(images)).mean()
    assert float(objective.update()) == pytest.approx(expected.item(), rel=1e-9)
    vae, features = vae_gan(), nn.Linear(5, 3)
    loss = PerceptualReconstruction(features, scale=0.5, beta=2.0).differentiable_loss
    torch.manual_seed(4)
    value = loss(vae.model, vae.guide, X)
    torch.manual_seed(4)
    q = vae.encode(X)
    z = q.rsample()
    distance = (features(X) - features(vae.decode(z).mean)).square().sum() / (2 * 0.5**2)
    assert value.item() == pytest.approx(
        (distance + 2 * (q.log_prob(z) - StandardNormalPrior(2)().log_prob(z)).sum()).item(), rel=1e-9
    )
    assert not any(p.requires_grad for p in features.parameters())


def test_the_ratio_takes_its_steps_after_each_batch() -> None:
    vae, make = implicit_vae(), CASES["AVB"][1]
    objective = make()
    fit(vae.model, vae.guide, X, epochs=3, batch_size=20, objective=objective, engine="eager", progress=False)
    assert objective.ratio.num_steps == 3 * 2 * 2  # epochs, batches, steps


def test_the_weight_of_the_second_density() -> None:
    network = RatioNetwork((2,))
    p, q = torch.randn(6, 2), torch.randn(12, 2)
    expected = softplus(-network(p)).mean() + 2 * softplus(network(q)).mean()
    assert RatioTraining(network, weight=2.0).step(p, q).item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_collapse_is_named() -> None:
    vae, objective = vae_gan(), AdversarialReconstruction(discriminator=SMALL)
    with torch.no_grad():
        for parameter in vae.likelihood.parameters():
            parameter.zero_()
    options = {"epochs": 2, "batch_size": 40, "optimizer": partial(torch.optim.SGD, lr=1e-12), "engine": "eager"}
    result = fit(vae.model, vae.guide, X, objective=objective, **options)  # initial weights are not judged
    assert result.history[-1]["spread"] < 0.01
    objective.ratio._count.fill_(1000)
    with pytest.warns(UserWarning, match=r"^AdversarialReconstruction: samples must vary as the data do, got 0.0%"):
        objective.numbers()


# ---------------------------------------------------------------- training


def _killed(case: str, run: Path) -> None:
    """Train until the process kills itself, within the fourth of eight steps."""
    add, calls = EpochMeter.add, []

    def killed(*args: Any) -> Any:
        calls.append(0)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return add(*args)

    EpochMeter.add = killed  # type: ignore[method-assign]
    trained(case, run=run, checkpoint_seconds=0.0)


@cases
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_a_training_that_was_killed_ends_with_the_same_bits(case: str, tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(case, tmp_path / "run"))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert RunFolder(tmp_path / "run").load_state()["progress"]["step"] == 3
    resumed, whole = trained(case, run=tmp_path / "run", resume=True), trained(case)
    assert all(map(torch.equal, tensors(whole), tensors(resumed)))
    assert RunFolder(tmp_path / "run").load_weights().keys() == whole[0].state_dict().keys()


@cases
@pytest.mark.usefixtures("uncompiled")
def test_recorded_steps_are_those_of_the_eager_engine(case: str, recwarn) -> None:
    eager, compiled = trained(case), trained(case, "compiled")
    assert not [w for w in recwarn if "engine" in str(w.message)]
    for one, two in zip(tensors(eager), tensors(compiled), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-9)


def test_validation_is_by_the_loss() -> None:
    vae, objective = implicit_vae(), AdversarialELBO(ratio=SMALL)
    options = {"epochs": 1, "batch_size": 20, "engine": "eager", "objective": objective, "validation": X[:7]}
    record = fit(vae.model, vae.guide, X, **options).history[0]
    assert math.isfinite(record["validation_loss"])
    assert "validation_elbo" not in record
    with pytest.raises(ValueError, match=r"^fit: patience requires an objective with an ELBO, got AdversarialELBO"):
        fit(vae.model, vae.guide, X, **options, patience=2)


# ---------------------------------------------------------------- what cannot be had

GUIDE = r"^ImplicitGuide: a density is required here, .* AdversarialELBO, .* annealed_log_likelihood or sandwich"
GENERATOR = r"^ImplicitLikelihood: a density is required here, .* no log-likelihood: .* sample_quality\.$"
CODER = (
    r"^compress: each distribution must be one that can be coded, got Implicit\. Fit another guide with pyro-vae refit"
)
ENCODER = r"^ImplicitModel: the model must have an encoder, got a generator alone"
FEW: dict[str, Any] = {"num_distributions": 4, "num_chains": 2}
REFUSED = {
    "ELBO of an implicit guide": (GUIDE, implicit_vae, lambda v: fit(v.model, v.guide, X, batch_size=20)),
    "log-likelihood by it": (GUIDE, implicit_vae, lambda v: log_likelihood(v.model, v.guide, X)),
    "AIS from it": (GUIDE, implicit_vae, lambda v: annealed_log_likelihood(v.model, v.guide, X, start="guide", **FEW)),
    "gaps of it": (GUIDE, implicit_vae, lambda v: inference_gaps(v.model, v.guide, X, num_samples=5, num_steps=1)),
    "code length by it": (CODER, implicit_vae, lambda v: compression.codelength(v, X)),
    "ELBO of a VAE/GAN": (GENERATOR, vae_gan, lambda v: fit(v.model, v.guide, X, batch_size=20)),
    "its log-likelihood": (GENERATOR, vae_gan, lambda v: log_likelihood(v.model, v.guide, X)),
    "AIS of a GAN": (GENERATOR, gan, lambda m: annealed_log_likelihood(m.model, m.guide, X, **FEW)),
    "sandwich of a GAN": (GENERATOR, gan, lambda m: sandwich(m.model, None, X, **FEW)),
    "AVB of a VAE/GAN": (
        GENERATOR,
        vae_gan,
        lambda v: fit(v.model, v.guide, X, batch_size=20, objective=AdversarialELBO()),
    ),
    "encode without an encoder": (ENCODER, gan, lambda m: m.encode(X)),
    "reconstruct without one": (ENCODER, gan, lambda m: m.reconstruct(X)),
    "codes without one": (ENCODER, gan, lambda m: latents.reconstruct(m, X)),
    "diagnostics without one": (ENCODER, gan, lambda m: latent_diagnostics(m, X)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_a_density_or_an_encoder_is_refused(name: str) -> None:
    words, build, call = REFUSED[name]
    with pytest.raises(ValueError, match=words) as error:
        call(build())
    assert "\n" not in str(error.value)


def test_wrong_pieces_are_refused() -> None:
    dense = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
    for objective, words in (
        (
            AdversarialELBO(),
            r"^AdversarialELBO: the guide must have one site without a density, .* Use an ImplicitGuide",
        ),
        (AdversarialReconstruction(discriminator=MLP), r"^AdversarialReconstruction: .* Use an ImplicitLikelihood"),
    ):
        with pytest.raises(ValueError, match=words):
            fit(dense.model, dense.guide, X.round(), batch_size=20, objective=objective)
    with pytest.raises(ValueError, match=r"^ImplicitModel: the likelihood must have no density, got a BernoulliLike"):
        ImplicitModel(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)))
    vae = implicit_vae()
    with pytest.raises(
        ValueError, match=r"^AdversarialELBO: num_moments must exceed the number of latents, .*=2 for 2"
    ):
        fit(vae.model, vae.guide, X, batch_size=20, objective=AdversarialELBO(num_moments=2))
    with pytest.raises(ValueError, match=r"^AdversarialReconstruction: gamma must be finite and at least 0"):
        AdversarialReconstruction(gamma=-1.0)


def test_what_needs_no_density_works() -> None:
    vae = implicit_vae()
    result = annealed_log_likelihood(vae.model, vae.guide, X[:3], num_distributions=4, num_chains=2, engine="eager")
    assert result.log_likelihood.isfinite().all()
    assert latents.reconstruct(vae, X[:3]).means.shape == (3, 5)
    assert vae.reconstruct(X).shape == gan().sample(40).shape == X.shape
    assert isinstance(gan().with_guide(DiagonalNormalGuide((5,), 2)), VAE)


# ---------------------------------------------------------------- what pixel distance does


def strokes(num: int) -> Tensor:
    """Images of thin strokes at random places, ``(num, 1, 16, 16)``."""
    images = torch.zeros(num, 1, 16, 16)
    for i, (row, column) in enumerate(
        torch.randint(3, 9, (num, 2), generator=torch.Generator().manual_seed(2)).tolist()
    ):
        images[i, 0, row : row + 5, column] = 1.0
    return images


def test_pixels_prefer_a_blurred_image_to_a_shifted_one_and_features_need_not() -> None:
    x = strokes(20)
    result = distorted_images(x, lambda images: images.sum((2, 3)).sort(-1).values)  # which no shift changes
    pixels, features = result.ranks().values()
    assert pixels.index("blurred") < pixels.index("shifted")
    assert features[0] == "shifted"
    distance = result.distances["pixel distance"]
    torch.testing.assert_close(distance[:, 0], torch.full((20,), math.sqrt(10.0)))  # both strokes, apart
    assert [line.split()[0] for line in result.lines()[1:]] == list(DISTORTIONS)


def test_the_distortions_are_what_their_names_say() -> None:
    x = strokes(6)
    shifted, rotated, blurred, noisy = _distorted(x)
    assert torch.equal(shifted[..., 2:, 2:], x[..., :-2, :-2])
    torch.testing.assert_close(blurred.sum((1, 2, 3)), x.sum((1, 2, 3)), rtol=1e-3, atol=0)
    torch.testing.assert_close((noisy - x).flatten(1).norm(dim=1), (blurred - x).flatten(1).norm(dim=1))
    back = torch.nn.functional.grid_sample(
        rotated, torch.nn.functional.affine_grid(turn(-15, 6), [6, 1, 16, 16], align_corners=False), align_corners=False
    )
    assert (back - x).square().mean() < 0.5 * (rotated - x).square().mean()


def turn(degrees: float, num: int) -> Tensor:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]]).expand(num, 2, 3)


def test_the_log_likelihood_of_distorted_images_is_of_levels_of_the_model() -> None:
    x = strokes(4)
    vae = VAE(
        StandardNormalPrior(2),
        BernoulliLikelihood(2, (1, 16, 16), net=SMALL),
        DiagonalNormalGuide((1, 16, 16), 2, net=SMALL),
    )
    result = distorted_images(x, lambda images: images.flatten(1), vae=vae, num_samples=20)
    assert result.distances["loss of log p"].isfinite().all()
    assert torch.equal(result.images, result.images.round())
    with pytest.raises(ValueError, match=r"^distorted_images: images must be \(N, C, H, W\) with values in \[0, 1\]"):
        distorted_images(x - 1, lambda images: images.flatten(1))
