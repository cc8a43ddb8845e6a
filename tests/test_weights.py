"""Log-weights against the linear-Gaussian model, and errors for programs without weights per datum."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro.distributions import Bernoulli, Delta, Normal

from pyro_vae import log_weights
from pyro_vae.evaluation import ImportanceWeights, prior_proposal
from tests.linear_gaussian import LinearGaussian


def test_exact_posterior_gives_the_evidence_as_every_weight(exact: LinearGaussian) -> None:
    x = exact.data(6)
    weights = log_weights(exact.vae.model, exact.vae.guide, x, num_samples=9)
    assert weights.shape == (9, 6)
    assert (weights - exact.log_prob(x)).abs().max() < 1e-9


def test_weights_of_another_guide_are_those_of_the_densities() -> None:
    case = LinearGaussian(inflate=1.7, shift=0.3)
    x = case.data(4)
    torch.manual_seed(5)
    weights = log_weights(case.vae.model, case.vae.guide, x, num_samples=3)
    torch.manual_seed(5)
    q = case.vae.guide.posterior(x)
    z = q.expand((3, 4)).rsample()
    expected = Normal(0.0, 1.0).log_prob(z).sum(-1) + case.vae.decode(z).log_prob(x) - q.log_prob(z)
    assert (weights - expected).abs().max() < 1e-12


def test_prior_proposal_weighs_by_the_likelihood(exact: LinearGaussian) -> None:
    x = exact.data(4)
    torch.manual_seed(5)
    weights = log_weights(exact.vae.model, prior_proposal(exact.vae.model), x, num_samples=3)
    torch.manual_seed(5)
    z = exact.vae.prior().expand((3, 4)).sample()
    assert (weights - exact.vae.decode(z).log_prob(x)).abs().max() < 1e-12


def test_gradients_reach_model_and_guide(exact: LinearGaussian) -> None:
    log_weights(exact.vae.model, exact.vae.guide, exact.data(4), num_samples=2).sum().backward()
    assert all(p.grad is not None for p in exact.vae.parameters())


def test_scaling_is_omitted(exact: LinearGaussian) -> None:
    x = exact.data(4)
    scaled = pyro.poutine.scale(exact.vae.model, 0.25), pyro.poutine.scale(exact.vae.guide, 0.25)
    assert (log_weights(*scaled, x, num_samples=2) - exact.log_prob(x)).abs().max() < 1e-9


def test_masks_are_applied() -> None:
    unmasked = torch.tensor([True, False, True])

    def model(x):
        with pyro.plate("data", 3), pyro.poutine.mask(mask=unmasked):
            z = pyro.sample("z", Normal(0.0, 1.0))
            pyro.sample("x", Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 3), pyro.poutine.mask(mask=unmasked):
            pyro.sample("z", Normal(x / 2, 0.5**0.5))

    x = torch.randn(3)
    expected = torch.where(unmasked, Normal(0.0, 2**0.5).log_prob(x), 0.0)
    assert (log_weights(model, guide, x, num_samples=4) - expected).abs().max() < 1e-12


def _two_level(x):
    with pyro.plate("images", len(x), dim=-2):
        z = pyro.sample("z", Normal(0.0, 1.0))
        with pyro.plate("pixels", x.shape[1], dim=-1):
            u = pyro.sample("u", Normal(z, 1.0))
            pyro.sample("x", Normal(u, 1.0), obs=x)


def _two_level_guide(x):
    with pyro.plate("images", len(x), dim=-2):
        z = pyro.sample("z", Normal(x.mean(1, keepdim=True), 0.7))
        with pyro.plate("pixels", x.shape[1], dim=-1):
            pyro.sample("u", Normal((z + x) / 2, 0.5**0.5))


def test_inner_plates_are_summed_and_the_data_plate_is_detected() -> None:
    x = torch.randn(5, 3)
    torch.manual_seed(2)
    weights = log_weights(_two_level, _two_level_guide, x, num_samples=4)
    torch.manual_seed(2)
    q = Normal(x.mean(1, keepdim=True), 0.7)
    z = q.expand((4, 5, 1)).sample()  # the exact conditional of u given z and x marginalises u
    log_x = Normal(z, 2**0.5).log_prob(x).sum(-1)
    expected = Normal(0.0, 1.0).log_prob(z)[..., 0] + log_x - q.log_prob(z)[..., 0]
    assert weights.shape == (4, 5)
    assert (weights - expected).abs().max() < 1e-9


def test_several_shared_plates_need_a_name() -> None:
    def model(x):
        with pyro.plate("a", 2, dim=-1), pyro.plate("b", 3, dim=-2):
            pyro.sample("x", Normal(pyro.sample("z", Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("a", 2, dim=-1), pyro.plate("b", 3, dim=-2):
            pyro.sample("z", Normal(x / 2, 0.5**0.5))

    x = torch.randn(3, 2)
    with pytest.raises(ValueError, match="data_plate=NAME"):
        log_weights(model, guide, x)
    exact = Normal(0.0, 2**0.5).log_prob(x)
    assert (log_weights(model, guide, x, 4, data_plate="b") - exact.sum(1)).abs().max() < 1e-9
    assert (log_weights(model, guide, x, 4, data_plate="a") - exact.sum(0)).abs().max() < 1e-9


def _guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", Normal(x, 1.0))


def _global_latent(x):
    mu = pyro.sample("mu", Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", Normal(pyro.sample("z", Normal(mu, 1.0)), 1.0), obs=x)


def _sequential(x):
    for i in pyro.plate("data", len(x)):
        pyro.sample(f"x_{i}", Normal(pyro.sample(f"z_{i}", Normal(0.0, 1.0)), 1.0), obs=x[i])


def _sequential_guide(x):
    for i in pyro.plate("data", len(x)):
        pyro.sample(f"z_{i}", Normal(x[i], 1.0))


def _subsampled(x):
    with pyro.plate("data", len(x), subsample_size=2) as i:
        pyro.sample("x", Normal(pyro.sample("z", Normal(0.0, 1.0)), 1.0), obs=x[i])


def _subsampled_guide(x):
    with pyro.plate("data", len(x), subsample_size=2) as i:
        pyro.sample("z", Normal(x[i], 1.0))


def _no_data(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", Normal(0.0, 1.0))


def _empty_guide(x):
    pass


def _global_guide(x):
    pyro.sample("mu", Normal(0.0, 1.0))
    _guide(x)


def _model(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", Normal(pyro.sample("z", Normal(0.0, 1.0)), 1.0), obs=x)


def _other_dim(x):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("x", Normal(pyro.sample("z", Normal(0.0, 1.0)), 1.0), obs=x.unsqueeze(-1))


def _column(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", Normal(pyro.sample("z", Normal(0.0, 1.0)), 1.0), obs=x.unsqueeze(-1))


def _delta_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", Delta(x / 2))


def _features(x):
    with pyro.plate("features", 3):
        pyro.sample("x", Normal(pyro.sample("z", Normal(0.0, 1.0)), 1.0), obs=x[:3])


def _features_guide(x):
    with pyro.plate("features", 3):
        pyro.sample("z", Normal(x[:3], 1.0))


def _deterministic_only(x):
    with pyro.plate("data", len(x)):
        pyro.deterministic("y", pyro.sample("z", Normal(0.0, 1.0)) * 2)


@pytest.mark.filterwarnings("ignore:.*event_dim")
@pytest.mark.parametrize(
    ("model", "guide", "reason"),
    [
        (
            _other_dim,
            _guide,
            "plate of the data must be the same for every site, got size 5 at dim -1 and",
        ),
        (_column, _guide, "sites must have the shape of their plates"),
        (_model, _delta_guide, "the guide must have densities"),
        (_features, _features_guide, "must have the length of the batch"),
        (_deterministic_only, _guide, "observed site"),
        (_global_latent, _global_guide, "within one vectorised plate"),
        (_global_latent, _guide, "every latent site"),
        (_sequential, _sequential_guide, "plates must be vectorised"),
        (_subsampled, _subsampled_guide, "must not draw a subsample"),
        (_no_data, _guide, "observed site"),
        (_model, _empty_guide, "every latent site"),
        (_model, _global_guide, "and no other"),
    ],
)
def test_programs_without_weights_per_datum_raise(model, guide, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        log_weights(model, guide, torch.randn(5))
    assert "\n" not in str(error.value)


def test_a_given_subsample_is_allowed_and_its_scale_omitted() -> None:
    def model(x):
        with pyro.plate("data", 1000, subsample=torch.arange(len(x))):
            pyro.sample("x", Normal(pyro.sample("z", Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 1000, subsample=torch.arange(len(x))):
            pyro.sample("z", Normal(x / 2, 0.5**0.5))

    x = torch.randn(5)
    assert (log_weights(model, guide, x, 3) - Normal(0.0, 2**0.5).log_prob(x)).abs().max() < 1e-12


def test_the_random_state_moves_only_by_the_draws(exact: LinearGaussian) -> None:
    x = exact.data(4)
    torch.manual_seed(7)
    log_weights(exact.vae.model, exact.vae.guide, x, 2)
    after = torch.rand(())
    torch.manual_seed(7)
    exact.vae.guide.posterior(x).expand((2, 4)).sample()
    assert torch.equal(after, torch.rand(()))


def test_an_accidental_product_of_data_and_samples_raises() -> None:
    """A (B, 1) value of a scalar site has log-probabilities (B, B), which look like (samples, data)."""
    for num_samples in (1, 5, 7):
        with (
            pytest.raises(ValueError, match="sites must have the shape of their plates"),
            pyro.validation_enabled(False),
        ):
            log_weights(_column, _guide, torch.randn(5), num_samples)


def test_deterministic_sites_do_not_enter_the_weights() -> None:
    def model(x):
        scale = pyro.deterministic("scale", torch.tensor(2.0))
        with pyro.plate("data", len(x)):
            z = pyro.deterministic("twice", scale * pyro.sample("z", Normal(0.0, 1.0)))
            pyro.sample("x", Bernoulli(logits=z), obs=x)

    x = torch.tensor([0.0, 1.0, 1.0])
    torch.manual_seed(1)
    weights = log_weights(model, prior_proposal(model), x, 4)
    torch.manual_seed(1)
    z = Normal(0.0, 1.0).expand((4, 3)).sample()
    assert torch.allclose(weights, Bernoulli(logits=2 * z).log_prob(x))
    assert ImportanceWeights(model, prior_proposal(model), (x,)).pair.discrete
    assert not ImportanceWeights(_model, _guide, (x,)).pair.discrete


def test_an_auxiliary_site_needs_a_reverse_model() -> None:
    """With q(z | x) the exact posterior through a, and an exact r(a | x, z), every weight is p(x)."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", Normal(pyro.sample("z", Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x, reverse=True):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", Normal(x / 2, 0.5), infer={"is_auxiliary": True})
            z = pyro.sample("z", Normal(a, 0.5))
            if reverse:
                log_r = Normal((z + x / 2) / 2, 0.125**0.5).log_prob(a)
                pyro.factor("reverse", -log_r, has_rsample=True)

    x = torch.randn(5)
    expected = Normal(0.0, 2**0.5).log_prob(x)
    assert (log_weights(model, guide, x, num_samples=4) - expected).abs().max() < 1e-9
    with pytest.raises(ValueError, match=r"reverse model r\(a \| x, z\), as a factor of the guide, got \['a'\]"):
        log_weights(model, lambda x: guide(x, reverse=False), x, num_samples=4)
