"""The deterministic guide: an autoencoder as the limit of a VAE, and densities of its codes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Adam

from pyro_vae import VAE, fit, latent_diagnostics, log_likelihood
from pyro_vae.cli.main import main
from pyro_vae.evaluation import posterior_predictive_check, simulation_based_calibration
from pyro_vae.guides import DeltaGuide
from pyro_vae.likelihoods import BernoulliLikelihood, LaplaceLikelihood, NormalLikelihood
from pyro_vae.models import MixtureModel, NormalComponents
from pyro_vae.networks import MLP, NoisyNetwork
from pyro_vae.objectives import IWAE, BetaELBO
from pyro_vae.priors import (
    CategoricalPrior,
    FlowPrior,
    LaplacePrior,
    MixtureOfNormalsPrior,
    StandardNormalPrior,
    VampPrior,
)
from pyro_vae.training import fit_em, fit_latent_density
from tests.linear_gaussian import LinearGaussian

small = partial(MLP, hidden=(6,))


def autoencoder(prior: Any = StandardNormalPrior, likelihood: Any = None, net: Any = small) -> VAE:
    likelihood = (likelihood or partial(NormalLikelihood, scale=0.5**0.5))(2, (5,), net=small)
    return VAE(prior(2), likelihood, DeltaGuide((5,), 2, net=net))


def parts(vae: VAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and decoded means."""
    z = vae.guide.net(x)
    return z, vae.likelihood(z).mean


# Loss per batch by hand, up to a constant: the reconstruction error and the penalty of the code.
LOSSES: dict[str, Any] = {
    "L2": (autoencoder, 0.0, lambda x, mean, z: (x - mean).square().sum()),
    "L1": (
        partial(autoencoder, likelihood=partial(LaplaceLikelihood, scale=1.0)),
        0.0,
        lambda x, mean, z: (x - mean).abs().sum(),
    ),
    "L2 penalty": (autoencoder, 3.0, lambda x, mean, z: (x - mean).square().sum() + 1.5 * z.square().sum()),
    "sparse": (
        partial(autoencoder, LaplacePrior),
        3.0,
        lambda x, mean, z: (x - mean).square().sum() + 3 * z.abs().sum(),
    ),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_the_objective_is_the_loss_of_an_autoencoder(kind: str) -> None:
    build, beta, by_hand = LOSSES[kind]
    vae, x = build(), torch.randn(7, 5)
    loss = BetaELBO(beta=beta).differentiable_loss(vae.model, vae.guide, x)
    z, mean = parts(vae, x)
    ours = torch.autograd.grad(loss, list(vae.parameters()))
    theirs = torch.autograd.grad(by_hand(x, mean, z), list(vae.parameters()))
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def test_principal_components_are_the_optimum_of_the_linear_autoencoder() -> None:
    x = torch.randn(60, 5) @ torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.3, 0.2]))
    x = x - x.mean(0)
    linear = partial(MLP, hidden=())
    vae = VAE(StandardNormalPrior(2), NormalLikelihood(2, (5,), net=linear, scale=1.0), DeltaGuide((5,), 2, net=linear))
    _, values, vectors = torch.linalg.svd(x, full_matrices=False)
    encoder, decoder = vae.guide.net.layers[0], vae.likelihood.net.layers[0]
    with torch.no_grad():
        encoder.weight.copy_(vectors[:2])
        decoder.weight.copy_(vectors[:2].mT)
        encoder.bias.zero_()
        decoder.bias.zero_()
    rest = values[2:].square().sum()
    torch.testing.assert_close((vae.reconstruct(x) - x).square().sum(), rest)
    loss = BetaELBO(beta=0.0).differentiable_loss(vae.model, vae.guide, x)
    assert max(float(g.abs().max()) for g in torch.autograd.grad(loss, list(vae.parameters()))) < 1e-9


def test_noise_is_added_in_training_to_what_the_encoder_sees() -> None:
    vae, x = autoencoder(net=partial(NoisyNetwork, net=small, noise=0.5)), torch.randn(3000, 5)
    assert not torch.equal(vae.encode(x).mean, vae.encode(x).mean)
    seen: list[Tensor] = []
    vae.guide.net.net.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    vae.encode(x)
    noise = seen[0] - x
    assert abs(noise.std() / 0.5 - 1) * (2 * noise.numel()) ** 0.5 < 4.5
    vae.eval()
    assert torch.equal(vae.encode(x).mean, vae.guide.net.net(x))


REFUSED = [
    (
        lambda vae, x: vae.sample(3),
        "VAE: an autoencoder has no distribution of z to sample from, got guide=DeltaGuide. Fit",
    ),
    (
        lambda vae, x: log_likelihood(vae.model, vae.guide, x),
        "log_likelihood: the guide must have densities, got a Delta",
    ),
    (
        lambda vae, x: simulation_based_calibration(vae),
        "simulation_based_calibration: the guide must not be deterministic, got guide=DeltaGuide. Use a Diag",
    ),
    (
        lambda vae, x: posterior_predictive_check(vae, x),
        "posterior_predictive_check: the guide must not be deterministic, got guide=DeltaGuide.",
    ),
    (
        lambda vae, x: posterior_predictive_check(vae, x, source="prior"),
        "posterior_predictive_check: an autoencoder has no distribution of z to sample from",
    ),
    (lambda vae, x: IWAE(num_particles=2).loss(vae.model, vae.guide, x), "IWAE: the guide must have densities, got"),
    (lambda vae, x: fit(vae.model, vae.guide, x, epochs=1, batch_size=7, validation=x), "fit: the guide must have"),
    (
        lambda vae, x: fit_latent_density(vae, x, density=StandardNormalPrior),
        "fit_latent_density: density must build a",
    ),
    (lambda vae, x: fit_latent_density(vae, x, density=CategoricalPrior), "fit_latent_density: density must build a"),
    (lambda vae, x: fit_latent_density(vae, x, density=VampPrior), "fit_latent_density: density must build a"),
    (lambda vae, x: fit_latent_density(vae, x * torch.nan), "fit_latent_density: data must be numbers, got NaN"),
    (
        lambda vae, x: fit_latent_density(vae, x),
        "fit_em: there must be at least as many data as components, got 7 and 10",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=lambda v: "" if callable(v) else v[:40])
def test_numbers_that_need_a_density_of_q_are_refused(call: Any, message: str) -> None:
    vae = autoencoder()
    with pytest.raises(ValueError) as error:  # noqa: PT011
        call(vae, torch.randn(7, 5))
    assert str(error.value).startswith(message)


def test_a_vamp_prior_needs_a_guide_with_a_density() -> None:
    guide = DeltaGuide((5,), 2, net=small)
    with pytest.raises(ValueError, match=r"^VAE: the guide of a VampPrior must not be deterministic, got guide=DeltaG"):
        VAE(VampPrior(guide, num_components=2), BernoulliLikelihood(2, (5,)), guide)


def test_diagnostics_have_no_terms_of_the_density() -> None:
    result = latent_diagnostics(autoencoder(), torch.randn(20, 5))
    assert result.available == ["reconstruction"]
    assert "density" in result.protocol["unavailable"]["elbo"]


def test_the_density_of_the_codes_is_that_of_a_mixture_by_em() -> None:
    vae, x = autoencoder(), torch.randn(60, 5)
    sampled = fit_latent_density(vae, x, density=partial(MixtureOfNormalsPrior, num_components=3))
    z = vae.encode(x).mean.detach()
    mixture = MixtureModel(NormalComponents((2,), 3, covariance="diagonal"))
    fit_em(mixture, z)
    torch.testing.assert_close(sampled.prior().log_prob(z), mixture.log_prob(z), rtol=1e-9, atol=1e-9)
    assert sampled.likelihood is vae.likelihood
    assert sampled.guide is vae.guide
    assert sampled.sample(4).shape == (4, 5)
    with pytest.raises(ValueError, match="no distribution of z"):
        vae.sample(1)


def test_a_flow_is_fitted_to_the_codes_by_gradient_steps() -> None:
    vae, x = autoencoder(), torch.randn(60, 5)
    density: Any = partial(FlowPrior, num_flows=2, hidden=(8,))
    options: dict[str, Any] = {"density": density, "engine": "eager", "optimizer": partial(Adam, lr=0.02)}
    first, last = (fit_latent_density(vae, x, epochs=epochs, **options) for epochs in (1, 40))
    z = vae.encode(x).mean.detach()
    assert last.prior().log_prob(z).mean() > first.prior().log_prob(z).mean() + 0.1
    assert last.sample(2).shape == (2, 5)


def test_a_vae_gets_its_aggregate_posterior_as_prior(exact: LinearGaussian) -> None:
    """Of a linear-Gaussian model at the optimum: the codes are those of the standard normal."""
    x = exact.data(3000)
    vae = fit_latent_density(exact.vae, x, density=partial(MixtureOfNormalsPrior, num_components=1))
    scale = vae.prior().scales[0]
    assert (vae.prior().locs[0].abs() * len(x) ** 0.5).max() < 4.5
    assert ((scale.square() - 1).abs() * (len(x) / 2) ** 0.5).max() < 4.5


@pytest.mark.usefixtures("single_precision")
def test_the_command_line_trains_an_autoencoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "ae"
    options = "--guide DeltaGuide --objective BetaELBO --objective.beta 0 --latent_dim 2 --epochs 1 --device cpu"
    assert main(["train", *options.split(), "--engine", "eager", "--out", str(run)]) == 0
    figures = {path.name for path in (run / "figures").glob("*.png")}
    assert "reconstructions.png" in figures
    assert not figures & {"samples.png", "manifold.png", "log_likelihood.png"}
    capsys.readouterr()
    assert main(["sample", str(run)]) != 0
    assert "no distribution of z to sample from" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--method", "diagnostics", "--num_data", "50"]) == 0
    assert {path.name.split("-")[0] for path in run.glob("*.json")} == {"diagnostics"}
    for several in (["--seeds", "0", "1"], ["--betas", "0", "1"]):
        assert main(["train", "--guide", "DeltaGuide", "--out", str(tmp_path / "several"), *several]) == 2
        message = f"{several[0]}: must come with a model that has a log-likelihood, got DeltaGuide."
        assert capsys.readouterr().err.startswith(message)
    assert [path.name for path in tmp_path.iterdir()] == ["ae"]
