"""Another guide for a trained model: the model does not change, and the guide reaches the posterior."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from pyro_vae import VAE, log_likelihood, refit_guide
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.networks import MLP
from pyro_vae.priors import StandardNormalPrior, VampPrior
from tests.linear_gaussian import LinearGaussian
from tests.test_hierarchical import chain, exact_guide

linear = partial(MLP, hidden=())
adam = partial(torch.optim.Adam, lr=5e-2)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.usefixtures("uncompiled")
def test_a_refitted_guide_reaches_the_posterior_and_the_model_does_not_change(exact: LinearGaussian, engine) -> None:
    x = exact.data(200)
    before = copy.deepcopy(exact.vae.state_dict())
    exact.vae.likelihood.eval()
    guide = DiagonalNormalGuide((7,), 3, net=linear)
    schedule = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=800)
    options = {"epochs": 800, "batch_size": 200, "optimizer": adam, "lr_schedule": schedule, "progress": False}
    vae, result = refit_guide(exact.vae, guide, x, engine=engine, **options)
    assert len(result.history) == 800
    assert vae.guide is guide
    assert vae.likelihood is exact.vae.likelihood
    assert all(torch.equal(tensor, before[name]) for name, tensor in exact.vae.state_dict().items())
    assert all(p.requires_grad for p in vae.parameters())
    assert not vae.likelihood.training
    gap = exact.log_prob(x) - log_likelihood(vae.model, vae.guide, x, num_samples=200).elbo
    assert gap.mean() < 0.05


def test_a_frozen_model_is_evaluated_without_dropout_and_restored() -> None:
    net = partial(MLP, hidden=(6,), dropout=0.5)
    vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,), net=net), DiagonalNormalGuide((5,), 2)).train()
    vae.likelihood.net.layers[0].weight.requires_grad_(False)
    modes = []
    vae.likelihood.register_forward_hook(lambda module, *_: modes.append(module.training))
    guide = DiagonalNormalGuide((5,), 2, net=net)
    guide.register_forward_hook(lambda module, *_: modes.append(("guide", module.training)))
    refit_guide(vae, guide, torch.ones(8, 5), epochs=1, batch_size=4, progress=False, engine="eager")
    assert True not in modes
    assert False in modes
    assert ("guide", True) in modes
    assert vae.likelihood.training
    assert not vae.likelihood.net.layers[0].weight.requires_grad
    assert vae.likelihood.net.layers[0].bias.requires_grad


def test_an_interrupted_refit_leaves_the_model_trainable() -> None:
    vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
    with pytest.raises(ValueError, match=r"^fit: epochs must be"):
        refit_guide(vae, DiagonalNormalGuide((5,), 2), torch.ones(8, 5), epochs=0)
    assert all(p.requires_grad for p in vae.parameters())


def test_a_prior_through_the_old_guide_preserves_it() -> None:
    guide = DiagonalNormalGuide((5,), 2)
    vae = VAE(VampPrior(guide, num_components=4), BernoulliLikelihood(2, (5,)), guide)
    z = torch.randn(6, 2)
    before = vae.prior().log_prob(z)
    with pytest.raises(ValueError, match=r"^refit_guide: the guide must not share parameters with the model"):
        refit_guide(vae, guide, torch.ones(8, 5))
    other, _ = refit_guide(vae, DiagonalNormalGuide((5,), 2), torch.ones(8, 5), epochs=2, batch_size=4, progress=False)
    assert torch.equal(other.prior().log_prob(z), before)


@pytest.mark.filterwarnings("ignore:.*got no gradient")  # the guide has a context network for its top layer, too
def test_layers_are_refitted() -> None:
    vae = chain(exact_guide("bottom-up"))
    other, _ = refit_guide(vae, exact_guide("top-down"), vae.sample(8), epochs=1, batch_size=4, progress=False)
    assert other.model.likelihood is vae.model.likelihood


def test_a_guide_of_other_data_raises() -> None:
    vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
    with pytest.raises(ValueError, match=r"^VAE: likelihood and guide must share data_shape"):
        refit_guide(vae, DiagonalNormalGuide((6,), 2), torch.ones(8, 5))
