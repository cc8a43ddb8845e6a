"""The VAE's Pyro interface (sites, plates, Predictive, relations) and torch interface (encode, decode, sample)."""

import copy
import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.inspect import get_model_relations
from pyro.optim import Adam
from torch import nn

from pyro_vae import VAE
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood, DiscretizedLogisticLikelihood, NormalLikelihood
from pyro_vae.models import GenerativeModel
from pyro_vae.networks import MLP
from pyro_vae.priors import StandardNormalPrior

B, K, L, DATA_SHAPE = 4, 5, 3, (1, 3, 2)


def net(in_shape, out_shape):
    return MLP(in_shape, out_shape, hidden=(6,))


def build(likelihood=BernoulliLikelihood, **kwargs):
    guide = DiagonalNormalGuide(DATA_SHAPE, L, net=net)
    return VAE(StandardNormalPrior(L), likelihood(L, DATA_SHAPE, net=net, **kwargs), guide)


@pytest.fixture
def vae():
    return build()


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((B, *DATA_SHAPE), 0.5))


def sites(trace):
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample" and name != "data"}


# ---------------------------------------------------------------- sites and plates


def test_model_sites(vae, x):
    trace = poutine.trace(vae.model).get_trace(x)
    assert list(sites(trace)) == ["z", "x"]
    assert trace.nodes["z"]["value"].shape == (B, L)
    assert trace.nodes["x"]["value"] is x
    assert [trace.nodes[name]["is_observed"] for name in ("z", "x")] == [False, True]
    assert trace.nodes["_RETURN"]["value"] is x


def test_guide_sites(vae, x):
    trace = poutine.trace(vae.guide).get_trace(x)
    assert list(sites(trace)) == ["z"]
    assert trace.nodes["z"]["value"].shape == (B, L)
    assert trace.nodes["_RETURN"]["value"] is trace.nodes["z"]["value"]


@pytest.mark.parametrize("program", ["model", "guide"])
def test_every_site_is_in_the_plate_of_the_data(vae, x, program):
    trace = poutine.trace(getattr(vae, program)).get_trace(x)
    for site in sites(trace).values():
        (frame,) = site["cond_indep_stack"]
        assert (frame.name, frame.dim, frame.size, frame.vectorized) == ("data", -1, B, True)


def test_the_joint_is_prior_times_likelihood(vae, x):
    trace = poutine.trace(vae.model).get_trace(x)
    trace.compute_log_prob()
    z = trace.nodes["z"]["value"]
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], vae.prior().log_prob(z), rtol=1e-13, atol=0)
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], vae.likelihood(z).log_prob(x), rtol=1e-13, atol=0)
    assert trace.nodes["z"]["log_prob"].shape == trace.nodes["x"]["log_prob"].shape == (B,)


def test_the_guide_samples_its_posterior(vae, x):
    trace = poutine.trace(vae.guide).get_trace(x)
    trace.compute_log_prob()
    z = trace.nodes["z"]["value"]
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], vae.encode(x).log_prob(z), rtol=1e-13, atol=0)


def test_a_vectorized_plate_of_particles(vae, x):
    def particles(program):
        with pyro.plate("particles", K, dim=-2):
            return program(x)

    guide_trace = poutine.trace(particles).get_trace(vae.guide)
    guide_trace.compute_log_prob()
    assert guide_trace.nodes["z"]["value"].shape == (K, B, L)
    assert guide_trace.nodes["z"]["log_prob"].shape == (K, B)
    assert guide_trace.nodes["z"]["value"].unique().numel() == K * B * L
    model_trace = poutine.trace(poutine.replay(lambda: particles(vae.model), guide_trace)).get_trace()
    model_trace.compute_log_prob()
    assert model_trace.nodes["z"]["value"] is guide_trace.nodes["z"]["value"]
    assert model_trace.nodes["x"]["log_prob"].shape == (K, B)


def test_the_prior_is_drawn_per_particle_and_datum(vae, x):
    with pyro.plate("particles", K, dim=-2):
        trace = poutine.trace(vae.model).get_trace(x)
    assert trace.nodes["z"]["value"].unique().numel() == K * B * L


def test_without_data_the_model_samples_them(vae):
    trace = poutine.trace(vae.model).get_trace(batch_size=7)
    assert not trace.nodes["x"]["is_observed"]
    assert trace.nodes["_RETURN"]["value"].shape == (7, *DATA_SHAPE)
    assert vae.model().shape == (1, *DATA_SHAPE)


def test_condition_is_the_same_as_passing_data(vae, x):
    z = torch.randn(B, L)
    conditioned = poutine.condition(vae.model, data={"x": x, "z": z})
    expected = poutine.condition(vae.model, data={"z": z})
    one = poutine.trace(conditioned).get_trace(batch_size=B).log_prob_sum()
    two = poutine.trace(expected).get_trace(x).log_prob_sum()
    torch.testing.assert_close(one, two, rtol=0, atol=0)


# ---------------------------------------------------------------- Predictive and relations


@pytest.mark.parametrize("parallel", [False, True])
def test_prior_predictive(vae, parallel):
    draws = Predictive(vae.model, num_samples=K, parallel=parallel)(batch_size=B)
    assert draws["z"].shape[0] == draws["x"].shape[0] == K
    assert draws["z"].shape[-2:] == (B, L)
    assert draws["x"].shape[-4:] == (B, *DATA_SHAPE)
    assert draws["z"].numel() == draws["z"].unique().numel() == K * B * L
    assert set(draws["x"].unique().tolist()) == {0.0, 1.0}


def test_prior_predictive_of_one_datum(vae):
    assert Predictive(vae.model, num_samples=K)(None)["x"].shape == (K, 1, *DATA_SHAPE)


@pytest.mark.parametrize("parallel", [False, True])
def test_posterior_draws(vae, x, parallel):
    predictive = Predictive(vae.model, guide=vae.guide, num_samples=K, parallel=parallel, return_sites=["z", "x"])
    draws = predictive(x)
    assert draws["z"].shape == (K, B, L)
    assert draws["x"].shape == (K, B, *DATA_SHAPE)
    assert all(torch.equal(copy_of_x, x) for copy_of_x in draws["x"])


@pytest.mark.parametrize("parallel", [False, True])
def test_posterior_predictive(x, parallel):
    vae = build(NormalLikelihood)
    draws = Predictive(poutine.uncondition(vae.model), guide=vae.guide, num_samples=K, parallel=parallel)(x)
    assert draws["x"].shape == (K, B, *DATA_SHAPE)
    assert draws["x"].unique().numel() == draws["x"].numel()


def test_relations(vae, x):
    relations = get_model_relations(vae.model, model_args=(x,))
    assert relations["sample_sample"] == {"z": [], "x": ["z"]}
    assert relations["plate_sample"] == {"data": ["z", "x"]}
    assert relations["observed"] == ["x"]
    assert relations["sample_dist"] == {"z": "Normal", "x": "Bernoulli"}


def test_render(vae, x):
    pytest.importorskip("graphviz", reason="pyro.render_model needs the graphviz package")
    source = pyro.render_model(vae.model, model_args=(x,)).source
    assert "z -> x" in source


# ---------------------------------------------------------------- modules


def test_model_and_guide_are_modules_and_hold_every_parameter(vae):
    assert isinstance(vae.model, nn.Module)
    assert isinstance(vae.guide, nn.Module)
    everything = {id(p) for p in vae.parameters()}
    assert {id(p) for p in Trace_ELBO()(vae.model, vae.guide).parameters()} == everything
    pieces = (vae.prior, vae.likelihood, vae.guide)
    assert {id(p) for piece in pieces for p in piece.parameters()} == everything


def test_the_components_are_the_arguments():
    prior, likelihood = StandardNormalPrior(L), NormalLikelihood(L, DATA_SHAPE)
    guide = DiagonalNormalGuide(DATA_SHAPE, L)
    vae = VAE(prior, likelihood, guide)
    assert vae.prior is prior
    assert vae.likelihood is likelihood
    assert vae.guide is guide
    assert isinstance(vae.model, GenerativeModel)
    assert (vae.latent_dim, vae.data_shape) == (L, DATA_SHAPE)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("likelihood", [BernoulliLikelihood, NormalLikelihood, DiscretizedLogisticLikelihood])
@pytest.mark.parametrize("num_particles", [1, 3])
def test_gradients_reach_every_parameter(elbo, likelihood, num_particles, x):
    vae = build(likelihood)
    elbo(num_particles=num_particles, vectorize_particles=True, max_plate_nesting=1)(vae.model, vae.guide)(x).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in vae.parameters())


def test_state_dict_moves_to_another_vae(vae, x):
    other = build()
    other.load_state_dict(vae.state_dict())
    assert torch.equal(other.encode(x).mean, vae.encode(x).mean)
    z = torch.randn(B, L)
    assert torch.equal(other.decode(z).mean, vae.decode(z).mean)


def test_a_vae_has_no_additional_state(vae):
    keys = [*(f"model.{key}" for key in vae.model.state_dict()), *(f"guide.{key}" for key in vae.guide.state_dict())]
    assert list(vae.state_dict()) == keys


# ---------------------------------------------------------------- with_guide


def test_with_guide_shares_the_model_and_nothing_else(vae, x):
    guide = DiagonalNormalGuide(DATA_SHAPE, L, net=net)
    swapped = vae.with_guide(guide)
    assert swapped is not vae
    assert swapped.guide is guide
    assert vae.guide is not guide
    state, swapped_state = vae.model.state_dict(), swapped.model.state_dict()
    assert state.keys() == swapped_state.keys()
    assert all(state[key].data_ptr() == swapped_state[key].data_ptr() for key in state)
    pointers = {tensor.data_ptr() for tensor in vae.guide.state_dict().values()}
    assert not pointers & {tensor.data_ptr() for tensor in guide.state_dict().values()}


def test_with_guide_follows_later_steps_of_the_model(vae):
    swapped = vae.with_guide(DiagonalNormalGuide(DATA_SHAPE, L, net=net))
    with torch.no_grad():
        vae.likelihood.offset.add_(1.0)
        next(vae.likelihood.parameters()).add_(1.0)
    z = torch.randn(B, L)
    assert torch.equal(vae.decode(z).mean, swapped.decode(z).mean)


def test_with_guide_raises_on_another_shape(vae):
    with pytest.raises(ValueError, match=r"^VAE: likelihood and guide must share data_shape"):
        vae.with_guide(DiagonalNormalGuide((7,), L))
    with pytest.raises(ValueError, match=r"^VAE: prior, likelihood and guide must share latent_dim"):
        vae.with_guide(DiagonalNormalGuide(DATA_SHAPE, L + 1))


# ---------------------------------------------------------------- encode, decode, sample, reconstruct


@pytest.mark.parametrize("batch", [(), (B,), (K, B)])
def test_shapes(vae, batch):
    x, z = torch.zeros(*batch, *DATA_SHAPE), torch.zeros(*batch, L)
    q, p = vae.encode(x), vae.decode(z)
    assert (q.batch_shape, q.event_shape) == (batch, (L,))
    assert (p.batch_shape, p.event_shape) == (batch, DATA_SHAPE)
    assert vae.reconstruct(x).shape == (*batch, *DATA_SHAPE)


def test_encode_and_decode_are_guide_and_likelihood(vae, x):
    z = torch.randn(B, L)
    assert torch.equal(vae.encode(x).mean, vae.guide.posterior(x).mean)
    assert torch.equal(vae.decode(z).mean, vae.likelihood(z).mean)


def test_encode_preserves_the_gradient(vae, x):
    vae.decode(vae.encode(x).rsample()).log_prob(x).sum().backward()
    assert all(p.grad is not None for p in vae.parameters())


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("likelihood", [BernoulliLikelihood, NormalLikelihood, DiscretizedLogisticLikelihood])
def test_sample_is_ancestral(likelihood, mean):
    vae = build(likelihood)
    torch.manual_seed(3)
    draws = vae.sample(7, mean=mean)
    torch.manual_seed(3)
    p = vae.decode(vae.prior().sample((7,)))
    assert torch.equal(draws, p.mean if mean else p.sample())
    assert draws.shape == (7, *DATA_SHAPE)
    assert not draws.requires_grad


def test_one_sample_by_default(vae):
    assert vae.sample().shape == (1, *DATA_SHAPE)
    assert set(vae.sample(20).unique().tolist()) == {0.0, 1.0}


def test_reconstruct_is_the_mean_at_one_draw(vae, x):
    torch.manual_seed(3)
    actual = vae.reconstruct(x)
    torch.manual_seed(3)
    assert torch.equal(actual, vae.decode(vae.encode(x).sample()).mean)
    assert not torch.equal(actual, vae.reconstruct(x))
    assert not actual.requires_grad


def test_sampling_does_not_change_the_parameter_store(vae, x):
    vae.sample(3)
    vae.reconstruct(x)
    vae.decode(vae.encode(x).rsample())
    assert len(pyro.get_param_store()) == 0


def test_sampling_preserves_the_mode(vae, x):
    for training in (True, False):
        vae.train(training)
        vae.sample(2)
        vae.reconstruct(x)
        assert all(module.training is training for module in vae.modules())


# ---------------------------------------------------------------- mismatches


@pytest.mark.parametrize("dims", [(3, 2, 2), (2, 3, 2), (2, 2, 3), (1, 2, 3)])
def test_latent_dims_must_agree(dims):
    prior, likelihood, guide = dims
    message = (
        "^VAE: prior, likelihood and guide must share latent_dim, "
        rf"got prior={prior}, likelihood={likelihood}, guide={guide}\. Build them with the same latent_dim\.$"
    )
    with pytest.raises(ValueError, match=message):
        VAE(StandardNormalPrior(prior), BernoulliLikelihood(likelihood, (5,)), DiagonalNormalGuide((5,), guide))


def test_data_shapes_must_agree():
    message = (
        r"^VAE: likelihood and guide must share data_shape, got likelihood=\(1, 6\), guide=\(6,\)\. "
        r"Build them with the same data_shape\.$"
    )
    with pytest.raises(ValueError, match=message):
        VAE(StandardNormalPrior(L), BernoulliLikelihood(L, (1, 6)), DiagonalNormalGuide((6,), L))


def test_data_of_another_shape_raise(vae):
    with pytest.raises(ValueError, match=r"^MLP: the input must end in in_shape=\(1, 3, 2\), got shape=\(4, 6\)\."):
        vae.encode(torch.zeros(B, 6))
    with pytest.raises(ValueError, match=r"^MLP: the input must end in in_shape=\(3,\), got shape=\(4, 2\)\."):
        vae.decode(torch.zeros(B, 2))


# ---------------------------------------------------------------- the diagonal normal guide


def test_the_guide_reads_loc_and_log_scale_from_its_network(vae, x):
    loc, log_scale = vae.guide.net(x).movedim(-2, 0)
    z = torch.randn(B, L)
    expected = -0.5 * (((z - loc) / log_scale.exp()) ** 2 + math.log(2 * math.pi)) - log_scale  # (B, L)
    torch.testing.assert_close(vae.encode(x).log_prob(z), expected.sum(-1), rtol=1e-12, atol=1e-12)


def test_the_guide_bounds_its_log_scale(x):
    guide = DiagonalNormalGuide(DATA_SHAPE, L, log_scale_bounds=(-3, 1))
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.mul_(100)
    log_scale = guide.posterior(x).stddev.log()
    torch.testing.assert_close(log_scale, guide.net(x).select(-2, 1).clamp(-3, 1), rtol=0, atol=1e-12)
    assert {round(v, 12) for v in log_scale.flatten().tolist()} >= {-3.0, 1.0}


@pytest.mark.parametrize("bounds", [(1.0, -3.0), (0.0, 0.0), (float("nan"), 1.0)])
def test_the_guide_raises_on_bounds_out_of_order(bounds):
    message = (
        r"^DiagonalNormalGuide: log_scale_bounds must be (\(low, high\) with low < high|.* number), got log_scale_"
    )
    with pytest.raises(ValueError, match=message):
        DiagonalNormalGuide(DATA_SHAPE, L, log_scale_bounds=bounds)


# ---------------------------------------------------------------- training by SVI


def test_svi_trains_a_copy_the_same_way(vae, x):
    """Losses depend only on the modules and the seed."""
    twin = copy.deepcopy(vae)

    def losses(v):
        torch.manual_seed(1)
        svi = SVI(v.model, v.guide, Adam({"lr": 0.01}), Trace_ELBO())
        return [svi.step(x) for _ in range(5)]

    assert losses(vae) == losses(twin)
