"""Likelihoods of counts and of tables: exact densities at every size, quadrature, size factors, every model."""

import itertools
import math
from functools import partial

import mpmath
import numpy as np
import pyro
import pytest
import torch
from pyro.distributions import Normal
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae import VAE, fit, log_likelihood
from pyro_vae.distributions import LogMeanNegativeBinomial, LogMeanPoisson
from pyro_vae.guides import DiagonalNormalGuide, HMCGuide, SemiAmortizedGuide
from pyro_vae.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    MixedLikelihood,
    NegativeBinomialLikelihood,
    NormalLikelihood,
    OrdinalLikelihood,
    PoissonLikelihood,
    StudentTLikelihood,
    ZeroInflatedNegativeBinomialLikelihood,
)
from pyro_vae.models import BottomUpGuide, HierarchicalVAE
from pyro_vae.models.build import build_semi_supervised
from pyro_vae.networks import MLP, ContextNetwork
from pyro_vae.objectives import ELBO, EnumeratedELBO
from pyro_vae.priors import StandardNormalPrior
from tests.test_likelihoods import Zero

COUNTS = [0.0, 1.0, 2.0, 7.0, 16.0, 17.0, 300.0, 1e4, 999_000.0, 1e6]
MEANS = [1e-6, 1e-3, 0.4, 5.0, 310.0, 1e4, 999_500.0, 1e6]
DISPERSIONS = [3.1e-7, 1e-3, 0.3, 2.0, 15.9, 300.0, 1e5, 3.2e6]  # inverse
linear = partial(MLP, hidden=())
small = partial(MLP, hidden=(5,))


def exact(x, log_mean, log_r=None):
    with mpmath.workdps(60):
        x, log_mean = mpmath.mpf(x), mpmath.mpf(log_mean)
        mean = mpmath.exp(log_mean)
        if log_r is None:
            return float(x * log_mean - mean - mpmath.loggamma(x + 1))
        r = mpmath.exp(mpmath.mpf(log_r))
        ways = mpmath.loggamma(x + r) - mpmath.loggamma(r) - mpmath.loggamma(x + 1)
        return float(ways + r * mpmath.log(r / (r + mean)) + x * mpmath.log(mean / (r + mean)))


def table(dtype):
    """All combinations of counts, log means and log inverse dispersions, as float64 numbers of that precision."""
    rows = torch.tensor(list(itertools.product(COUNTS, MEANS, DISPERSIONS)))
    return rows[:, 0].to(dtype), rows[:, 1].log().to(dtype), rows[:, 2].log().to(dtype)


def table_of(cls, dtype):
    x, *parameters = table(dtype)
    return x, parameters[: len(cls.arg_constraints)]


distributions = pytest.mark.parametrize("cls", [LogMeanPoisson, LogMeanNegativeBinomial])


@distributions
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 5e-4)])
def test_counts_are_their_formulas_in_sixty_digits(cls, dtype, tolerance):
    x, parameters = table_of(cls, dtype)
    rows = np.unique(torch.stack([x, *parameters], -1).double().numpy(), axis=0)
    expected = np.array([exact(*row) for row in rows])
    actual = cls(*torch.as_tensor(rows[:, 1:]).to(dtype).unbind(-1)).log_prob(torch.as_tensor(rows[:, 0]).to(dtype))
    assert actual.dtype == dtype
    # In nats for counts that can occur, relative for those that cannot.
    error = np.abs(actual.double().numpy() - expected) / np.maximum(1, np.abs(expected) / 100)
    assert error.max() < tolerance


@distributions
def test_gradients_of_counts_are_exact(cls):
    parameters = [torch.randn(9, requires_grad=True) for _ in cls.arg_constraints]
    x = torch.tensor([0.0, 0.0, 1.0, 1.0, 2.0, 5.0, 16.0, 17.0, 60.0])
    assert torch.autograd.gradcheck(lambda *p: cls(*p).log_prob(x), parameters)
    assert torch.autograd.gradgradcheck(lambda *p: cls(*p).log_prob(x), parameters)


@distributions
def test_gradients_of_counts_in_float32_are_near_and_finite_far_away(cls):
    gradients = []
    for dtype in (torch.float32, torch.float64):
        x, parameters = table_of(cls, torch.float32)
        parameters = [p.to(dtype).requires_grad_() for p in parameters]
        log_prob = cls(*parameters).log_prob(x.to(dtype))
        gradients.append([g.double() for g in torch.autograd.grad(log_prob.sum(), parameters)])
        far = [torch.tensor([-30.0, -15.0, 15.0, 30.0], dtype=dtype).requires_grad_() for _ in parameters]
        log_prob = cls(*far).log_prob(torch.tensor([0.0, 1.0, 1e7], dtype=dtype).unsqueeze(-1))
        assert log_prob.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(log_prob.sum(), far))
    for single, double in zip(*gradients, strict=True):
        # The typical size of a gradient is the standard deviation of a count, here up to 1000.
        assert ((single - double).abs() / double.abs().clamp_min(1000)).max() < 1e-3


@pytest.mark.parametrize(("mean", "r"), [(0.2, 0.05), (3.0, 1.0), (40.0, 1e6), (7.0, 20.0)])
def test_negative_binomial_draws_have_their_probabilities_which_sum_to_one(mean, r):
    n = 200_000
    p = LogMeanNegativeBinomial(torch.tensor(mean).log(), torch.tensor(r).log(), validate_args=True)
    x = torch.arange(3000.0)
    probability = p.log_prob(x).exp()
    assert probability.sum().item() == pytest.approx(1, abs=1e-9)
    assert (probability * x).sum().item() == pytest.approx(p.mean.item(), rel=1e-9)
    assert (probability * (x - p.mean).square()).sum().item() == pytest.approx(p.variance.item(), rel=1e-9)
    draws = p.sample((n,))
    likely = x[probability > 1e-4]
    frequency = (draws[:, None] == likely).double().mean(0)
    error = (probability[probability > 1e-4] * (1 - probability[probability > 1e-4]) / n).sqrt()
    assert ((frequency - probability[probability > 1e-4]) / error).abs().max() < 4.5


def test_zero_inflation_adds_zeros_to_the_counts():
    likelihood = ZeroInflatedNegativeBinomialLikelihood(2, (3,), dispersion="network")
    assert likelihood.net.out_shape == (3, 3)
    z, x = torch.randn(6, 2), torch.arange(6.0).unsqueeze(-1).expand(6, 3)
    log_mean, gate, raw = likelihood.net(z).unbind(1)
    zero = (gate - 2).sigmoid()
    r, mean = (15 * (raw / 15).tanh()).exp(), log_mean.exp() * (1 + math.exp(-2))
    counts = stats.nbinom(r.detach().numpy(), (r / (r + mean)).detach().numpy()).pmf(x.numpy())
    expected = zero.detach().numpy() * (x.numpy() == 0) + (1 - zero.detach().numpy()) * counts
    np.testing.assert_allclose(likelihood(z).log_prob(x).detach(), np.log(expected).sum(-1), rtol=1e-9)
    torch.testing.assert_close(likelihood(z).mean, (1 - zero) * mean, rtol=1e-12, atol=0)


COUNT_LIKELIHOODS = [PoissonLikelihood, NegativeBinomialLikelihood, ZeroInflatedNegativeBinomialLikelihood]
counts = pytest.mark.parametrize("cls", COUNT_LIKELIHOODS)


@counts
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_count_likelihoods_are_finite_for_any_output(cls, dtype):
    likelihood = cls(2, (1, 2, 2), net=linear).to(dtype)
    for size in (1.0, 1e2, 1e6):
        z = (size * torch.randn(50, 2)).to(dtype).requires_grad_()
        for value in (0.0, 1.0, 1e6):
            log_prob = likelihood(z).log_prob(torch.full((1, 2, 2), value, dtype=dtype))
            assert log_prob.isfinite().all()
            gradients = torch.autograd.grad(log_prob.sum(), [z, *likelihood.parameters()])
            assert all(g.isfinite().all() for g in gradients)
        likelihood(z).log_prob(likelihood(z).sample())  # validation is on: within the support


@counts
@pytest.mark.parametrize("value", [0.5, -1.0, float("inf")])
def test_what_is_not_a_count_is_refused_by_name(cls, value):
    vae = VAE(StandardNormalPrior(1), cls(1, (3,), net=linear), DiagonalNormalGuide((3,), 1, net=small))
    x = torch.ones(5, 3)
    x[2, 1] = value
    with pytest.raises(ValueError, match=r"data must lie in the support of site 'x'.*NonNegativeIntegers.*datum 2"):
        log_likelihood(vae.model, vae.guide, x, num_samples=2)
    assert not vae.decode(torch.zeros(1)).support.check(torch.tensor([0.0, 1.0, float("nan")]))


@counts
def test_size_factors_multiply_the_means(cls):
    plain, sized = (cls(2, (1, 2, 3), net=small, size_factor=flag) for flag in (False, True))
    sized.load_state_dict(plain.state_dict())
    z, size = torch.randn(4, 2), torch.tensor([[1.0], [0.1], [3.0], [100.0]])
    torch.testing.assert_close(sized(z, size.log()).mean, size.reshape(4, 1, 1, 1) * plain(z).mean)
    assert sized(z, size.log().expand(5, 4, 1)).batch_shape == (5, 4)
    for context in ((), (size[:, 0].log(),)):
        with pytest.raises(
            ValueError, match=rf"^{cls.__name__}: a call must end in the log size factors \(\*batch, 1\)"
        ):
            sized(z, *context)


def test_dispersions_are_shared_as_asked():
    shapes = {"global": (), "pixel": (2, 3)}
    for dispersion, shape in shapes.items():
        likelihood = NegativeBinomialLikelihood(2, (2, 3), dispersion=dispersion)
        assert likelihood.log_inverse_dispersion.raw.shape == shape
        nn.init.constant_(likelihood.log_inverse_dispersion.raw, 1e9)
        assert likelihood(torch.zeros(2)).base_dist.log_inverse_dispersion.tolist() == [[15.0] * 3] * 2
        nn.init.constant_(likelihood.log_inverse_dispersion.raw, -0.2)
        expected = torch.full((2, 3), 15 * math.tanh(-0.2))
        torch.testing.assert_close(likelihood(torch.zeros(2)).base_dist.log_inverse_dispersion, expected)
    assert NegativeBinomialLikelihood(2, (3, 4, 5), dispersion="network").net.out_shape == (6, 4, 5)
    with pytest.raises(ValueError, match=r"^NegativeBinomialLikelihood: dispersion must be one of 'global', 'pixel'"):
        NegativeBinomialLikelihood(2, (3,), dispersion="gene")


# ---------------------------------------------------------------- Student t


def test_student_t_equals_scipy():
    for df in ("global", 3.5):
        likelihood = StudentTLikelihood(2, (3, 2), scale="pixel", df=df)
        z, x = torch.randn(5, 2), 10 * torch.randn(5, 3, 2)
        if df == "global":
            nn.init.constant_(likelihood.raw_df, 0.7)
        df = likelihood.df().detach().item()
        scale = (0.01 + likelihood.log_scale.exp()).detach().numpy()
        expected = stats.t(df, likelihood.net(z).detach().numpy(), scale).logpdf(x.numpy()).sum((1, 2))
        np.testing.assert_allclose(likelihood(z).log_prob(x).detach(), expected, rtol=1e-12)
    assert StudentTLikelihood(2, (3,)).df().detach().item() == 5


@pytest.mark.parametrize("df", [1.0, 0.0, float("nan"), float("inf")])
def test_student_t_without_a_mean_is_refused(df):
    with pytest.raises(
        ValueError, match=rf"^StudentTLikelihood: df must be (finite and above 1|.* a number), got df={df}\.$"
    ):
        StudentTLikelihood(2, (3,), df=df)


# ---------------------------------------------------------------- class codes and ordinal


def test_codes_are_the_levels_times_their_number():
    levels, codes = (CategoricalLikelihood(2, (3,), levels=5, codes=flag, net=small) for flag in (False, True))
    codes.load_state_dict(levels.state_dict())
    z = torch.randn(4, 2)
    x = codes(z).sample((100,))
    assert x.unique().tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(codes(z).log_prob(x), levels(z).log_prob(x / 4))
    torch.testing.assert_close(codes(z).mean, 4 * levels(z).mean)
    torch.testing.assert_close(codes(z).expand((2, 4)).log_prob(x[:2]), codes(z).log_prob(x[:2]))
    for value in (0.25, 5.0, -1.0):
        with pytest.raises(ValueError, match="support"):
            codes(z).log_prob(torch.full((3,), value))


@pytest.mark.parametrize("levels", [2, 3, 7])
def test_ordinal_probabilities_are_differences_of_sigmoids(levels):
    likelihood = OrdinalLikelihood(2, (3,), levels=levels, net=small)
    nn.init.normal_(likelihood.raw_gaps)
    z = 3 * torch.randn(4, 2)
    f, c = likelihood.net(z), likelihood.cutpoints()  # (4, 3), (levels - 1, 3)
    above = torch.cat([torch.ones(4, 1, 3), (f.unsqueeze(1) - c).sigmoid(), torch.zeros(4, 1, 3)], 1)
    x = torch.arange(levels * 1.0).reshape(-1, 1, 1).expand(levels, 4, 3)
    expected = (above[:, :-1] - above[:, 1:]).log().movedim(1, 0).sum(-1)
    torch.testing.assert_close(likelihood(z).log_prob(x), expected, rtol=1e-9, atol=1e-9)
    far = likelihood.float()(1e6 * z.float()).log_prob(x.float())
    assert far.isfinite().all()


# ---------------------------------------------------------------- mixed columns

PARTS = [
    ([4, 0], NormalLikelihood),
    ([2], partial(CategoricalLikelihood, levels=3, codes=True)),
    ([1, 5], NegativeBinomialLikelihood),
    ([3], BernoulliLikelihood),
]
mixed = partial(MixedLikelihood, parts=PARTS)


def test_mixed_columns_are_the_product_of_their_likelihoods():
    likelihood = mixed(2, (6,), net=small).initialise_mean(torch.tensor([0.3, 4.0, 1.2, 0.9, -2.0, 0.1]))
    z = torch.randn(7, 2)
    x = likelihood(z).sample()
    outputs, expected = likelihood.net(z), 0
    first = 0
    for (columns, cls), part in zip(PARTS, likelihood.parts, strict=True):
        size = part.net.out_size
        output = outputs[:, first : first + size]
        first += size
        alone = cls(2, (len(columns),), net=lambda i, o, output=output: _Constant(output.reshape(7, *o)))
        alone.load_state_dict(part.state_dict())
        expected = expected + alone(z).log_prob(x[:, columns])
        torch.testing.assert_close(likelihood(z).mean[:, columns], alone(z).mean)
    assert first == outputs.shape[1] == 2 + 3 + 2 + 1
    torch.testing.assert_close(likelihood(z).log_prob(x), expected, rtol=1e-12, atol=0)


class _Constant(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, z):
        return self.output


def test_a_column_outside_its_support_is_named():
    likelihood = mixed(2, (6,), net=small)
    support = likelihood(torch.zeros(2)).support
    assert "columns [2]: IntegerInterval(lower_bound=0, upper_bound=2); columns [1, 5]: NonNeg" in str(support)
    assert not support.is_discrete  # a density
    assert MixedLikelihood(2, (2,), parts=[([0, 1], PoissonLikelihood)])(torch.zeros(2)).support.is_discrete
    x = likelihood(torch.zeros(4, 2)).sample()
    x[1, 3] = 2.0
    assert support.check(x).tolist() == [True, False, True, True]
    with pytest.raises(ValueError, match="support"):
        likelihood(torch.zeros(4, 2)).log_prob(x)


@pytest.mark.parametrize("columns", [[[0, 1], [1, 2]], [[0], [2]], [[0, 1, 2], []], [[0, 1], [3]]])
def test_columns_of_mixed_data_belong_to_one_part_each(columns):
    with pytest.raises(ValueError, match=r"^MixedLikelihood: each of the columns 0 to 2 must belong to one part, got"):
        MixedLikelihood(2, (3,), parts=[(group, NormalLikelihood) for group in columns])
    sized = [([0, 1, 2], partial(PoissonLikelihood, size_factor=True))]
    with pytest.raises(ValueError, match=r"^MixedLikelihood: parts must have no size factors, got \['PoissonLike"):
        MixedLikelihood(2, (3,), parts=sized)


# ---------------------------------------------------------------- quadrature in one latent dimension

LATENTS = torch.arange(-8, 8, 0.01, dtype=torch.float64).unsqueeze(-1)
ONE_LATENT = {
    "poisson": PoissonLikelihood,
    "negative binomial": NegativeBinomialLikelihood,
    "zero-inflated": ZeroInflatedNegativeBinomialLikelihood,
    "sizes": partial(NegativeBinomialLikelihood, size_factor=True),
    "student t": StudentTLikelihood,
    "ordinal": partial(OrdinalLikelihood, levels=4),
    "mixed": mixed,
}


@pytest.mark.parametrize("name", ONE_LATENT)
def test_the_log_likelihood_is_the_integral(name):
    """By the trapezoidal rule, exact for smooth integrands, and with a guide 1.5 times as wide as the posterior."""
    likelihood = ONE_LATENT[name](1, (6,), net=small)
    likelihood.offset.fill_(0.5)
    context = (torch.tensor([[-2.0], [0.0], [1.0], [3.0]]),) if name == "sizes" else ()
    x = likelihood(torch.randn(4, 1), *context).sample()
    with torch.no_grad():
        repeated = (c.expand(len(LATENTS), 4, 1) for c in context)
        z = LATENTS.unsqueeze(1)  # (nodes, 1, 1)
        log_joint = likelihood(z.expand(-1, 4, 1), *repeated).log_prob(x) + Normal(0.0, 1.0).log_prob(z).squeeze(-1)
    expected = log_joint.logsumexp(0) + math.log(0.01)
    posterior = log_joint.softmax(0)  # (nodes, 4)
    loc = (posterior * LATENTS).sum(0).unsqueeze(-1)
    scale = 1.5 * ((posterior * (LATENTS - loc.T).square()).sum(0).unsqueeze(-1)).sqrt()
    vae = VAE(StandardNormalPrior(1), likelihood, DiagonalNormalGuide((6,), 1, net=small))

    def guide(x, *context):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(loc, scale).to_event(1))

    data = DataLoader(TensorDataset(x, *context), batch_size=4) if context else x
    result = log_likelihood(vae.model, guide, data, num_samples=12_000, batch_size=4)
    z = (result.log_likelihood + result.standard_error.square() / 2 - expected) / result.standard_error
    assert z.abs().max() < 4.5
    assert (result.log_likelihood - expected).abs().max() < 0.02
    assert result.protocol["discrete"] == (name not in ("student t", "mixed"))


# ---------------------------------------------------------------- models and guides


def test_a_vae_is_trained_with_size_factors():
    likelihood = NegativeBinomialLikelihood(2, (6,), net=small, size_factor=True)
    encoder = partial(ContextNetwork, context_dim=1, net=small, hidden=(5,))
    vae = VAE(StandardNormalPrior(2), likelihood, DiagonalNormalGuide((6,), 2, net=encoder))
    x = torch.poisson(torch.full((40, 6), 20.0) * torch.rand(40, 1))
    data = DataLoader(TensorDataset(x, x.sum(-1, keepdim=True).log()), batch_size=20)
    history = fit(vae.model, vae.guide, data, epochs=8, optimizer=partial(torch.optim.Adam, lr=0.02)).history
    assert history[-1]["elbo"] > history[0]["elbo"] + 1
    assert vae.model(None, torch.zeros(3, 1), batch_size=3).shape == (3, 6)
    plain = DiagonalNormalGuide((6,), 2, net=small)  # with a network of x alone
    unsized = VAE(StandardNormalPrior(2), PoissonLikelihood(2, (6,), net=small), plain)
    for model in (vae.model, unsized.model):
        with pytest.raises(
            ValueError, match=r"^fit: a batch must hold the arguments that the \w+ takes, got \(\(20, 6\)"
        ):
            fit(model, plain, data, epochs=1)


@pytest.mark.parametrize("cls", [*COUNT_LIKELIHOODS, StudentTLikelihood, mixed])
def test_every_model_and_guide_takes_them(cls):
    likelihood = partial(cls, net=small)
    prior, x = StandardNormalPrior(2), likelihood(2, (6,))(torch.zeros(5, 2)).sample()
    vae = VAE(prior, likelihood(2, (6,)), DiagonalNormalGuide((6,), 2, net=small))
    semi = SemiAmortizedGuide((6,), 2, guide=partial(DiagonalNormalGuide, net=small), num_steps=1)
    pairs = [(vae.with_guide(guide), ELBO(), (x,)) for guide in (HMCGuide((6,), 2, net=small), semi)]
    layers = [DiagonalNormalGuide((6,), 3, net=small), DiagonalNormalGuide((3,), 2, net=small)]
    below = [DiagonalNormalGuide((2,), 3, net=small)]
    pairs.append((HierarchicalVAE(prior, below, likelihood(3, (6,)), BottomUpGuide(layers)), ELBO(), (x,)))
    guide = partial(DiagonalNormalGuide, net=small)
    m2 = build_semi_supervised((6,), 2, 3, StandardNormalPrior, likelihood, guide, classification_weight=1.0)
    pairs.append((m2, EnumeratedELBO(), (x, torch.tensor([0, -1, 2, -1, 1]))))
    for model, objective, batch in pairs:
        parameters = [p for p in model.model.parameters() if p.requires_grad]
        loss = objective.differentiable_loss(model.model, model.guide, *batch)
        gradients = torch.autograd.grad(loss, parameters)
        assert all(g.isfinite().all() for g in gradients), type(model)
        assert all(g.any() for g in gradients), type(model)


def test_initial_means_of_counts_are_exact():
    mean = torch.tensor([0.0, 1e-5, 0.3, 40.0, 1e6])
    for cls in COUNT_LIKELIHOODS:
        p = cls(2, (5,), net=Zero).initialise_mean(mean)(torch.zeros(2))
        torch.testing.assert_close(p.mean, mean.clamp_min(1e-6), rtol=1e-12, atol=0)
