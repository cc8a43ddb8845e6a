"""Autoregressive distributions, likelihoods and models: normalised, sampled exactly, trained, evaluated exactly."""

import math
from functools import partial

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

from pyro_vae import VAE, HierarchicalVAE, fit, log_likelihood
from pyro_vae.compression import codelength, compress, decompress
from pyro_vae.distributions import Autoregressive, mean_or_sample
from pyro_vae.evaluation import latent_diagnostics
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import (
    AutoregressiveLikelihood,
    BernoulliLikelihood,
    CategoricalLikelihood,
    DiscretizedLogisticLikelihood,
    MixtureOfLogisticsLikelihood,
)
from pyro_vae.models import AutoregressiveModel, TopDownGuide
from pyro_vae.networks import (
    MLP,
    ContextNetwork,
    DiagonalLSTM,
    GatedPixelCNN,
    MaskedMLP,
    MultiScale,
    PixelAttention,
    PixelCNN,
    PixelCNNPlusPlus,
    RowLSTM,
)
from pyro_vae.priors import StandardNormalPrior, VampPrior
from tests.test_causal_networks import CAUSAL, factory

each = pytest.mark.parametrize("cls", CAUSAL, ids=lambda c: c.__name__)
CATEGORICAL = partial(CategoricalLikelihood, levels=4)
LOGISTIC, MIXTURE = (partial(MixtureOfLogisticsLikelihood, levels=4, num_components=k) for k in (1, 3))
# base, levels, data_shape: all data are few enough to be listed
BASES = [
    (BernoulliLikelihood, 2, (1, 3, 3)),
    (CATEGORICAL, 4, (1, 2, 2)),
    (CATEGORICAL, 4, (2, 1, 2)),
    (LOGISTIC, 4, (1, 2, 2)),
    (MIXTURE, 4, (2, 2, 1)),
]
bases = pytest.mark.parametrize(
    ("base", "levels", "shape"), BASES, ids=["bernoulli", "categorical", "channels", "logistic", "mixture"]
)


def model(cls, shape, base=BernoulliLikelihood, **options):
    """A model with a small network, whose weights are moved far enough for its conditionals to differ."""
    m = AutoregressiveModel(shape, net=factory(cls), base=base, **options)
    with torch.no_grad():
        for p in m.parameters():
            p.add_(0.1 * torch.randn_like(p))
    m.base.offset.fill_(0.5)
    return m


def every(levels, shape):
    values = torch.arange(levels) / (levels - 1)
    return torch.cartesian_prod(*[values] * math.prod(shape)).reshape(-1, *shape)


@bases
@each
def test_the_probabilities_of_all_data_add_up_to_one(cls, base, levels, shape):
    m, x = model(cls, shape, base), every(levels, shape)
    with torch.no_grad():
        log_prob = m.log_prob(x)
    assert len(x) == levels ** math.prod(shape)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert log_prob.max() < math.log(0.9)  # not one datum alone
    joint = log_prob.exp().reshape(-1, levels)  # (all but the last entry, the last entry)
    assert (joint - joint.sum(1, keepdim=True) * joint.sum(0)).abs().max() > 1e-6  # the entries depend on each other


@bases
@each
def test_cached_samples_are_those_of_full_passes(cls, base, levels, shape):
    m = model(cls, shape, base, context_shape=(3,))
    for dtype in (torch.float64, torch.float32):
        p = m.to(dtype).distribution(torch.randn(2, 5, 3, dtype=dtype))
        samples = []
        for cached in (True, False):
            torch.manual_seed(1)
            samples.append(p.complete(torch.zeros(4, 2, 5, *shape, dtype=dtype), 0, cached=cached))
        assert torch.equal(*samples)
        assert samples[0].unique().numel() > 1
        torch.manual_seed(1)
        assert torch.equal(p.sample((4,)), samples[0])


@pytest.mark.parametrize("base", [BernoulliLikelihood, partial(CategoricalLikelihood, levels=2)])
def test_samples_have_their_probabilities(base):
    n, x = 20_000, every(2, (1, 2, 2))
    m = model(GatedPixelCNN, (1, 2, 2), base)
    m.base.offset.copy_(torch.randn(1, 2, 2))
    probability = m.log_prob(x).exp()
    index = (m.sample(n).flatten(1).long() @ torch.tensor([8, 4, 2, 1])).bincount(minlength=16)
    z = (index / n - probability) / (probability * (1 - probability) / n).sqrt()
    assert z.abs().max() < 4.5


@pytest.mark.parametrize("cls", [MaskedMLP, PixelCNN])
def test_completions_have_their_conditional_probabilities(cls):
    n, x = 20_000, every(2, (1, 2, 2))
    m = model(cls, (1, 2, 2))
    joint = m.log_prob(x).exp().reshape(4, 4)  # (first row, second row)
    conditional = joint[2] / joint[2].sum()
    images = m.complete(torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]).expand(n, 1, 2, 2), 1)
    assert torch.equal(images[:, :, 0], torch.tensor([1.0, 0.0]).expand(n, 1, 2))
    index = (images[:, 0, 1].long() @ torch.tensor([2, 1])).bincount(minlength=4)
    z = (index / n - conditional) / (conditional * (1 - conditional) / n).sqrt()
    assert z.abs().max() < 4.5


def test_known_sites_are_kept_in_any_order():
    m = AutoregressiveModel((1, 3, 3), net=partial(MaskedMLP, order=torch.randperm(9).tolist()))
    x = torch.full((7, 1, 3, 3), 0.5)
    for cached in (True, False):
        torch.manual_seed(2)
        y = m.distribution().complete(x, 4, cached=cached).flatten(1)
        assert (y[:, m.net.order[:4]] == 0.5).all()
        assert (y[:, m.net.order[4:]] != 0.5).all()
    assert (x == 0.5).all()


def test_data_that_are_no_images_have_autoregressive_models():
    m = model(MaskedMLP, (3,), CATEGORICAL)
    assert m.log_prob(every(4, (3,))).exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert m.log_prob(m.sample(5)).shape == (5,)


def test_autoregressive_expands_and_broadcasts():
    m = model(PixelCNN, (1, 2, 3), context_shape=(2,))
    context, x = torch.randn(3, 4, 2), torch.randint(2, (4, 1, 2, 3)).double()
    p = m.distribution(context)
    assert (p.batch_shape, p.event_shape) == ((3, 4), (1, 2, 3))
    expected = torch.stack([torch.stack([m.log_prob(x[j], context[i, j]) for j in range(4)]) for i in range(3)])
    torch.testing.assert_close(p.log_prob(x), expected, rtol=1e-12, atol=1e-12)
    wide = p.expand((5, 3, 4))
    assert type(wide) is Autoregressive
    torch.testing.assert_close(wide.log_prob(x), expected.expand(5, 3, 4), rtol=1e-12, atol=1e-12)
    assert wide.sample((2,)).shape == (2, 5, 3, 4, 1, 2, 3)
    with pytest.raises(ValueError, match="support"):
        p.log_prob(x + 0.5)
    with pytest.raises(NotImplementedError, match="the mean has no closed form"):
        _ = p.mean
    assert mean_or_sample(p).shape == (3, 4, 1, 2, 3)
    with pytest.raises(ValueError, match=r"^Autoregressive: offset must have shape \(1, 2, 3\), got \(2, 3\)"):
        Autoregressive(m.net, m.base.distribution, context, torch.zeros(2, 3))


# ---------------------------------------------------------------- the model


@pytest.fixture(scope="module")
def images():
    """Binary images, each pixel of which repeats the one above with probability 0.9."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.rand(200, 1, 4, generator=generator) < 0.5]
    for _ in range(3):
        rows.append(rows[-1] ^ (torch.rand(200, 1, 4, generator=generator) < 0.1))
    return torch.stack(rows, 2)


@pytest.mark.usefixtures("uncompiled")
def test_every_engine_trains_it_and_its_log_likelihood_is_exact(images):
    x, results = images.double(), {}
    for engine in ("eager", "compiled"):
        torch.manual_seed(3)
        m = AutoregressiveModel((1, 4, 4), net=partial(GatedPixelCNN, channels=8, num_layers=2))
        before = m.log_prob(x).mean()
        adam = partial(torch.optim.Adam, lr=1e-2)
        fit(m.model, m.guide, x, epochs=8, batch_size=50, optimizer=adam, engine=engine, progress=False)
        results[engine] = m.log_prob(x)
        assert results[engine].mean() > before + 2
    torch.testing.assert_close(results["eager"], results["compiled"], rtol=1e-6, atol=1e-6)
    result = log_likelihood(m.model, m.guide, x)
    torch.testing.assert_close(result.log_likelihood, results["compiled"], rtol=1e-12, atol=1e-12)
    protocol = {key: result.protocol[key] for key in ("estimator", "num_samples", "proposal")}
    assert protocol == {"estimator": "exact", "num_samples": 1, "proposal": "none"}
    assert result.monte_carlo_error() == 0
    assert "exact: there are no latent variables" in str(result)
    assert "samples" not in result.caption()


def test_the_entropy_rate_of_the_images_is_reached(images):
    """16 entries: 4 fair coins, and 12 that repeat another with probability 0.9."""
    x = images.double()
    m = AutoregressiveModel((1, 4, 4), net=partial(MaskedMLP, hidden=()))
    adam = partial(torch.optim.Adam, lr=5e-2)
    fit(m.model, m.guide, x, epochs=40, batch_size=50, optimizer=adam, engine="eager", progress=False)
    repeats = (x[:, :, 1:] == x[:, :, :-1]).double().mean()
    empirical = 4 * math.log(0.5) + 12 * (repeats * repeats.log() + (1 - repeats) * (1 - repeats).log())
    assert empirical < m.log_prob(x).mean() < empirical + 1  # 136 parameters fit 200 images a little better


def test_svi_trains_it(images):
    m = AutoregressiveModel((1, 4, 4), net=partial(PixelCNN, channels=4, num_layers=1))
    before = [p.clone() for p in m.parameters()]
    svi = SVI(m.model, m.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    loss = svi.step(images.double())
    assert math.isfinite(loss)
    assert not any(torch.equal(p, q) for p, q in zip(m.parameters(), before, strict=True))


def test_a_class_is_a_context(images):
    x, y = images.double(), torch.nn.functional.one_hot(images[:, 0, 0, 0].long(), 2).double()
    m = AutoregressiveModel((1, 4, 4), net=partial(MaskedMLP, hidden=()), context_shape=(2,))
    fit(m.model, m.guide, [(x, y)], epochs=200, optimizer=partial(torch.optim.Adam, lr=5e-2), progress=False)
    corner = m.sample(100, torch.eye(2))[..., 0, 0, 0]  # (100, 2)
    assert corner[:, 1].mean() - corner[:, 0].mean() > 0.8


# ---------------------------------------------------------------- the likelihood


def test_the_likelihood_of_a_latent_is_normalised_and_depends_on_it():
    net = partial(GatedPixelCNN, channels=8, num_layers=1)
    likelihood = AutoregressiveLikelihood(2, (1, 2, 2), net=net, decoder=partial(MLP, hidden=(5,)))
    z = torch.randn(3, 1, 2)
    log_prob = likelihood(z).log_prob(every(2, (1, 2, 2)))  # (3, 16)
    torch.testing.assert_close(log_prob.logsumexp(1), torch.zeros(3), rtol=0, atol=1e-9)
    assert (log_prob[0] - log_prob[1]).abs().max() > 1e-4


def test_a_pixel_vae_has_the_likelihood_of_its_samples_of_z(images):
    x = images[:20].double()
    net = partial(GatedPixelCNN, channels=4, num_layers=1)
    p_x = AutoregressiveLikelihood(2, (1, 4, 4), net=net, receptive_field=1).initialise_mean(x.mean(0))
    vae = VAE(StandardNormalPrior(2), p_x, DiagonalNormalGuide((1, 4, 4), 2))
    assert p_x.base.net.receptive_field == 1
    assert p_x.offset.any()
    grid = torch.cartesian_prod(*[torch.linspace(-6, 6, 61)] * 2).unsqueeze(1)  # (3721, 1, 2)
    with torch.no_grad():
        joint = StandardNormalPrior(2)().log_prob(grid) + vae.decode(grid).log_prob(x)
    exact = joint.logsumexp(0) + 2 * math.log(0.2)
    result = log_likelihood(vae.model, vae.guide, x, num_samples=500)
    assert ((result.log_likelihood - exact) / result.standard_error).abs().max() < 4.5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: AutoregressiveModel((1, 4, 4), base=DiscretizedLogisticLikelihood),
            "Autoregressive: base must be a likelihood of independent sites, got DiscretizedLogisticLikelihood. Use",
        ),
        (lambda: AutoregressiveModel((1, 4, 4), net=MLP), "Autoregressive: net must be a CausalNetwork, got MLP. Use"),
        (
            lambda: AutoregressiveLikelihood(2, (1, 4, 4), net=PixelAttention, receptive_field=3),
            "Autoregressive: receptive_field needs a network that has one, got PixelAttention. Use PixelCNN",
        ),
        (
            lambda: AutoregressiveLikelihood(2, (1, 4, 4), features=0),
            "AutoregressiveLikelihood: features must be at least 1, got features=0",
        ),
        (
            lambda: AutoregressiveModel((1, 4, 4)).complete(torch.zeros(1, 4, 4), 5),
            "AutoregressiveModel: num_rows must be a number of rows of an image, got num_rows=5",
        ),
        (
            lambda: AutoregressiveModel((3,), net=MaskedMLP).complete(torch.zeros(3), 1),
            "AutoregressiveModel: num_rows must be a number of rows of an image, got num_rows=1",
        ),
        (
            lambda: AutoregressiveModel((1, 2, 2), net=partial(MaskedMLP, order=[3, 2, 1, 0])).complete(
                torch.zeros(1, 2, 2), 1
            ),
            "AutoregressiveModel: the order of the network must be that of the rows, got another permutation",
        ),
        (
            lambda: log_likelihood(*_programs(), torch.rand(5, 1, 4, 4)),
            "log_likelihood: data must lie in the support of site 'x'",
        ),
    ],
)
def test_bad_arguments_raise_one_line(build, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        build()
    assert "\n" not in str(caught.value)


def _programs():
    m = AutoregressiveModel((1, 4, 4), net=MaskedMLP)
    return m.model, m.guide


# ---------------------------------------------------------------- two layers of latents, and compression


@pytest.fixture(scope="module")
def pixel_hvae(images):
    """A PixelHVAE whose top layer has a VampPrior, trained a little."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    x, shape, net = images.double(), (1, 4, 4), partial(MLP, hidden=(10,))
    top = DiagonalNormalGuide(shape, 1, net=net)
    guide = TopDownGuide([DiagonalNormalGuide(shape, 1, net=partial(ContextNetwork, context_dim=1, net=net)), top])
    prior = VampPrior(top, num_components=5).initialise_pseudo_inputs(x[:5])
    p_x = AutoregressiveLikelihood(
        2, shape, net=partial(GatedPixelCNN, channels=4, num_layers=1), receptive_field=1, decoder=net
    )
    vae = HierarchicalVAE(prior, [DiagonalNormalGuide((1,), 1, net=net)], p_x, guide, skip=True)
    before = [p.clone() for p in vae.parameters()]
    adam = partial(torch.optim.Adam, lr=1e-2)
    result = fit(vae.model, vae.guide, x, epochs=5, batch_size=50, optimizer=adam, engine="eager", progress=False)
    assert not any(torch.equal(p, q) for p, q in zip(vae.parameters(), before, strict=True))
    assert result.history[-1]["elbo"] > result.history[0]["elbo"] + 0.1
    return vae


def test_a_pixel_hvae_has_the_likelihood_of_its_latents(pixel_hvae, images):
    """log p(x) by quadrature over (z1, z2) is what importance sampling estimates."""
    x, vae = images[:10].double(), pixel_hvae
    axis = torch.linspace(-7, 7, 71)
    z1, z2 = (z.reshape(-1, 1, 1) for z in torch.meshgrid(axis, axis, indexing="ij"))  # (5041, 1, 1)
    with torch.no_grad():
        joint = vae.model.prior().log_prob(z2) + vae.model.conditionals[0].posterior(z2).log_prob(z1)
        joint = joint + vae.model.decode([z1, z2]).log_prob(x)  # (5041, 10)
    exact = joint.logsumexp(0) + 2 * math.log(0.2)
    result = log_likelihood(vae.model, vae.guide, x, num_samples=500)
    assert ((result.log_likelihood - exact) / result.standard_error).abs().max() < 4.5
    assert result.protocol["estimator"] == "importance"
    assert vae.sample(3).shape == (3, 1, 4, 4)


def test_the_advice_on_collapse_names_the_receptive_field():
    p_x = AutoregressiveLikelihood(4, (1, 4, 4), net=partial(GatedPixelCNN, channels=4, num_layers=1))
    vae = VAE(StandardNormalPrior(4), p_x, DiagonalNormalGuide((1, 4, 4), 4))
    with torch.no_grad():
        for p in vae.guide.parameters():
            p.zero_()
    advice = latent_diagnostics(vae, torch.rand(50, 1, 4, 4).round()).advice()
    assert "collapsed" in advice
    assert "FreeBits" in advice
    assert "receptive_field" in advice


@pytest.mark.parametrize(
    ("cls", "base"),
    [
        (MaskedMLP, BernoulliLikelihood),
        (PixelCNN, CATEGORICAL),
        (GatedPixelCNN, BernoulliLikelihood),
        pytest.param(PixelCNNPlusPlus, BernoulliLikelihood, marks=pytest.mark.slow),
        (RowLSTM, BernoulliLikelihood),
        pytest.param(DiagonalLSTM, CATEGORICAL, marks=pytest.mark.slow),
        pytest.param(MultiScale, BernoulliLikelihood, marks=pytest.mark.slow),
        (PixelCNN, MIXTURE),  # the channels of a pixel share the component
    ],
)
def test_an_autoregressive_model_compresses_to_its_log_likelihood(cls, base):
    m = model(cls, (2, 1, 3), base).eval()
    x = m.sample(40)
    assert torch.equal(decompress(m, compress(m, x)), x)
    result = codelength(m, x)
    difference = result.net_bits + m.log_prob(x).detach() / math.log(2)
    assert difference.abs().mean() < 0.01
    assert difference.abs().max() < 0.1
    assert result.initial_bits.max() < 40 * 64  # a state for each of 40 stacks; no latent is popped before a datum


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AutoregressiveModel((1, 2, 2), net=PixelAttention), "networks must have an exact form, got"),
    ],
)
def test_models_that_cannot_be_coded_are_refused_in_one_line(build, message):
    m = build().eval()
    with pytest.raises(ValueError, match=f"^compress: {message}") as caught:
        compress(m, m.sample(2))
    assert "\n" not in str(caught.value)
