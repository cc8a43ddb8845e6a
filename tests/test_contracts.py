"""Contract of every network, prior, likelihood and guide: all classes in the ``__all__`` of their folders are tested.

A class is built by its folder's convention (``CONVENTIONS``); one that needs other arguments has a line in ``SPECIAL``.
"""

import copy
import inspect
import math
import re
import typing
from dataclasses import is_dataclass
from functools import partial

import pyro
import pytest
import torch
from pyro import poutine
from safetensors.torch import load, save
from torch import nn

import pyro_vae
from pyro_vae import data, evaluation, guides, latents, likelihoods, models, networks, objectives, priors, training
from pyro_vae.distributions import AugmentedPosterior, Autoregressive, Implicit, mean_or_sample, scored_by
from pyro_vae.evaluation.marginals import marginal_distributions

K, B, L = 3, 4, 5
DATA_SHAPE = (1, 7, 5)
BATCHES = [(), (B,), (K, B)]


def small(in_shape, out_shape):
    return networks.MLP(in_shape, out_shape, hidden=(6,))


def log_joint(x, z):
    """Joint density log p(x, z), up to a constant and not quadratic in z, for guides that need the model."""
    return -(z - x.flatten(-3)[..., :L]).square().sum(-1) - 0.1 * z.pow(4).sum(-1)


def attached(guide):
    guide.attach(log_joint)
    return guide


def mixed_parts():
    """Columns of three kinds, in a shuffled order."""
    codes = partial(likelihoods.CategoricalLikelihood, levels=2, codes=True)
    kinds = [likelihoods.NormalLikelihood, codes, likelihoods.PoissonLikelihood]
    columns = [(11 * i) % math.prod(DATA_SHAPE) for i in range(math.prod(DATA_SHAPE))]
    return [(columns[i :: len(kinds)], kind) for i, kind in enumerate(kinds)]


SHAPES = {"in_shape": (3, 2), "out_shape": (2, 4)}
CONVENTIONS = {
    networks: lambda cls: cls(*(DATA_SHAPE if name in cls.images else shape for name, shape in SHAPES.items())),
    priors: lambda cls: cls(L),
    likelihoods: lambda cls: cls(L, DATA_SHAPE, net=small),
    guides: lambda cls: cls(DATA_SHAPE, L, net=small),
}
BASES = {
    networks: networks.Network,
    priors: priors.Prior,
    likelihoods: likelihoods.Likelihood,
    guides: guides.Guide,
}
SPECIAL = {
    "AutoregressiveLikelihood": lambda: likelihoods.AutoregressiveLikelihood(
        L, DATA_SHAPE, net=partial(networks.GatedPixelCNN, channels=4, num_layers=2), decoder=small
    ),
    "ConditionalPrior": lambda: priors.ConditionalPrior(guides.DiagonalNormalGuide(DATA_SHAPE, L, net=small)),
    "VampPrior": lambda: priors.VampPrior(guides.DiagonalNormalGuide(DATA_SHAPE, L, net=small), num_components=3),
    "OrdinalLikelihood": lambda: likelihoods.OrdinalLikelihood(L, DATA_SHAPE, levels=4, net=small),
    "MixedLikelihood": lambda: likelihoods.MixedLikelihood(L, DATA_SHAPE, parts=mixed_parts(), net=small),
    "HMCGuide": lambda: attached(guides.HMCGuide(DATA_SHAPE, L, num_steps=2, tempering=True, net=small, hidden=(6,))),
    "SemiAmortizedGuide": lambda: attached(
        guides.SemiAmortizedGuide(DATA_SHAPE, L, guide=partial(guides.DiagonalNormalGuide, net=small), num_steps=2)
    ),
}


@pytest.fixture(autouse=True)
def scored():
    """Give classes without a density the score of an objective in its place."""

    def score(p, value):
        distance = value - (p.mean + 0.1 if p.has_mean else 0.0)
        return -distance.square().flatten(-len(p.event_shape)).sum(-1)

    with scored_by(score):
        yield


def public(folder):
    """The classes and functions of ``__all__``, without type aliases."""
    items = [getattr(folder, name) for name in folder.__all__]
    return [f for f in items if (inspect.isclass(f) or inspect.isfunction(f)) and typing.get_origin(f) is None]


def concrete(folder):
    classes = [c for c in public(folder) if inspect.isclass(c) and not inspect.isabstract(c)]
    return [c for c in classes if issubclass(c, BASES[folder])]


def build(cls):
    """One instance of any class of the four folders."""
    folder = next(folder for folder in CONVENTIONS if cls in concrete(folder))
    return SPECIAL[cls.__name__]() if cls.__name__ in SPECIAL else CONVENTIONS[folder](cls)


def names(item):
    return item.__name__ if hasattr(item, "__name__") else None


def each(*folders):
    classes = [cls for folder in folders for cls in concrete(folder)]
    return pytest.mark.parametrize("cls", classes, ids=names)


batches = pytest.mark.parametrize("batch", BATCHES, ids=str)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def like(module, *shape):
    """Standard normal numbers with the dtype and device of the module."""
    anchor = next(iter((*module.parameters(), *module.buffers())), torch.zeros(()))
    return torch.randn(shape).to(anchor)


def prior_of(module):
    """p(z), or p(z | c) for one context."""
    return module(like(module, *module.context_shape)) if module.conditional else module()


def outputs(module):
    """Everything a component computes from seeded inputs, one tensor per kind of output."""
    torch.manual_seed(7)
    if isinstance(module, networks.Network):
        return [module(like(module, B, *module.in_shape))]
    if isinstance(module, priors.Prior):
        p = prior_of(module)
        z = p.sample((B,))
        return [z, p.log_prob(z)]
    if isinstance(module, likelihoods.Likelihood):
        p = module(like(module, B, L))
        x = p.sample()
        return [x, mean_or_sample(p), p.log_prob(x)]
    return list(drawn(module.posterior(like(module, B, *DATA_SHAPE))))


def drawn(q, shape=()):
    """A draw of a posterior and its log density; with an auxiliary variable that of its Pyro program."""
    if isinstance(q, AugmentedPosterior):
        q = AugmentedPosterior(q.joint.expand((*shape, *q.batch_shape)), q.latent_dim, q.reverse)
        trace = poutine.trace(q.program).get_trace("z")
        trace.compute_log_prob()
        sites = [site for site in trace.nodes.values() if site["type"] == "sample"]
        assert [site["name"] for site in sites] == ["z_joint", "z", "z_reverse"]
        return trace.nodes["z"]["value"], sum(site["log_prob"] for site in sites)
    z = (q.rsample if q.has_rsample else q.sample)(shape)
    return z, q.log_prob(z)


def perturb(module):
    """Move the whole saved state away from where a fresh instance starts."""
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.rand_like(tensor))
    return module


def same(one, two):
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


# ---------------------------------------------------------------- all four folders


@pytest.mark.parametrize("folder", CONVENTIONS, ids=names)
def test_every_class_can_be_built(folder):
    assert concrete(folder)
    for cls in concrete(folder):
        try:
            assert isinstance(build(cls), cls)
        except Exception as error:
            pytest.fail(
                f"{cls.__name__} is not built by the convention of {folder.__name__}: add it to SPECIAL ({error})"
            )


def test_the_tables_name_only_classes_that_exist():
    existing = {cls.__name__ for folder in CONVENTIONS for cls in concrete(folder)}
    assert SPECIAL.keys() <= existing


@each(*CONVENTIONS)
def test_it_has_one_base_class_and_its_suffix(cls):
    bases = (networks.Network, priors.Prior, likelihoods.Likelihood, guides.Guide)
    assert sum(issubclass(cls, base) for base in bases) == 1
    if not issubclass(cls, networks.Network):
        base = next(base for base in bases if issubclass(cls, base))
        assert cls.__name__.endswith(base.__name__)


@each(*CONVENTIONS)
def test_gradients_reach_every_parameter(cls):
    module = build(cls)
    torch.manual_seed(7)
    loss = sum((out.square().sum() for out in outputs(module)), torch.zeros(()))
    if loss.requires_grad:  # a prior may have nothing to learn
        loss.backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@dtypes
@each(*CONVENTIONS)
def test_outputs_follow_the_dtype(cls, dtype):
    module = build(cls).to(dtype)
    tensors = (*module.parameters(), *module.buffers())
    assert all(tensor.dtype == dtype for tensor in tensors if tensor.is_floating_point())
    for out in outputs(module):
        assert out.dtype == dtype
        assert out.isfinite().all()


@each(*CONVENTIONS)
def test_it_moves_from_float32_to_float64(cls):
    torch.set_default_dtype(torch.float32)
    module = build(cls)
    assert all(out.dtype == torch.float32 for out in outputs(module))
    assert all(out.dtype == torch.float64 for out in outputs(module.to(torch.float64)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@each(*CONVENTIONS)
def test_outputs_follow_the_device(cls):
    module = build(cls).to("cuda")
    assert all(out.device.type == "cuda" for out in outputs(module))
    assert all(out.device.type == "cpu" for out in outputs(module.to("cpu")))


@each(*CONVENTIONS)
def test_a_saved_state_is_complete(cls):
    module, other = perturb(build(cls)), build(cls)
    other.load_state_dict(load(save(module.state_dict())))
    assert same(outputs(module), outputs(other))


@each(*CONVENTIONS)
def test_a_deep_copy_is_equal_and_independent(cls):
    module = perturb(build(cls))
    before = [out.clone() for out in outputs(module)]
    twin = copy.deepcopy(module)
    assert same(outputs(twin), before)
    state, copied = ({t.data_ptr() for t in (*m.parameters(), *m.buffers())} for m in (module, twin))
    assert not state & copied
    perturb(twin)
    assert same(outputs(module), before)
    assert not list(module.parameters()) or not same(outputs(twin), before)


@each(*CONVENTIONS)
def test_evaluation_mode_is_deterministic_given_the_seed(cls):
    module = build(cls).eval()
    assert same(outputs(module), outputs(module))


# ---------------------------------------------------------------- networks


@batches
@each(networks)
def test_network_shapes(cls, batch):
    net = build(cls)
    assert net(torch.randn(*batch, *net.in_shape)).shape == (*batch, *net.out_shape)


@each(networks)
def test_network_sizes_are_the_products(cls):
    net = build(cls)
    assert (net.in_size, net.out_size) == (math.prod(net.in_shape), math.prod(net.out_shape))


@each(networks)
def test_gradients_reach_every_input(cls):
    net = build(cls).eval()
    x = torch.randn(20, *net.in_shape, requires_grad=True)
    net(x).square().sum().backward()
    assert x.grad.ne(0).any(0).all()


@each(networks)
def test_network_raises_on_another_shape(cls):
    net = build(cls)
    message = rf"^{cls.__name__}: the input must end in in_shape={re.escape(str(net.in_shape))}, got shape="
    for shape in ((B, *net.in_shape, 1), (B, *net.in_shape[:-1], net.in_shape[-1] + 1), net.in_shape[1:]):
        with pytest.raises(ValueError, match=message):
            net(torch.zeros(shape))


# ---------------------------------------------------------------- priors


@batches
@each(priors)
def test_prior_shapes(cls, batch):
    p = prior_of(build(cls))
    assert (p.batch_shape, p.event_shape) == ((), (L,))
    z = p.sample(batch)
    assert z.shape == (*batch, L)
    assert p.log_prob(z).shape == batch
    assert p.log_prob(z).isfinite().all()


@batches
@each(priors)
def test_prior_expands_in_plates(cls, batch):
    p = prior_of(build(cls)).expand(batch)
    assert p.sample().shape == (*batch, L)
    assert p.log_prob(p.sample()).shape == batch


@each(priors)
def test_the_class_attribute_of_a_prior_is_true(cls):
    assert cls.discrete == prior_of(build(cls)).support.is_discrete


@each(priors)
def test_prior_is_differentiable_in_z(cls):
    p = prior_of(build(cls))
    z = p.sample((B,)).requires_grad_()
    p.log_prob(z).sum().backward()
    assert z.grad.isfinite().all()
    assert z.grad.any()


@each(priors)
def test_prior_raises_on_zero_dimensions(cls):
    if cls.__name__ in SPECIAL:
        pytest.skip("built by arguments of its own")
    with pytest.raises(ValueError, match=rf"^{cls.__name__}: latent_dim must be at least 1, got latent_dim=0\."):
        cls(0)


# ---------------------------------------------------------------- likelihoods


@batches
@each(likelihoods)
def test_likelihood_shapes(cls, batch):
    p = build(cls)(torch.randn(*batch, L))
    assert (p.batch_shape, p.event_shape) == (batch, DATA_SHAPE)
    assert mean_or_sample(p).shape == (*batch, *DATA_SHAPE)
    x = p.sample()
    assert x.shape == (*batch, *DATA_SHAPE)
    assert p.log_prob(x).shape == batch


@batches
@each(likelihoods)
def test_log_prob_of_a_draw_is_finite(cls, batch):
    p = build(cls)(3 * torch.randn(*batch, L))
    x = p.sample((20,))  # (20, *batch, *data_shape); validation is on: the draws are in the support
    assert p.log_prob(x).shape == (20, *batch)
    assert p.log_prob(x).isfinite().all()


@each(likelihoods)
def test_likelihood_is_differentiable_in_z(cls):
    z = torch.randn(B, L, requires_grad=True)
    p = build(cls)(z)
    p.log_prob(p.sample()).sum().backward()
    assert z.grad.isfinite().all()
    assert z.grad.any(1).all()


@each(likelihoods)
def test_likelihood_draws_have_its_mean(cls):
    n = 4000
    # Moderate outputs: no pixel's draws are so skewed that their mean is not yet normal.
    p = build(cls).initialise_mean(0.3 + 0.4 * torch.rand(DATA_SHAPE))(torch.randn(L).mul(0.1))
    if not getattr(p, "has_mean", True):
        pytest.skip("the mean has no closed form")
    draws = p.sample((n,))
    if cls.implicit:
        assert torch.equal(draws, p.mean.expand_as(draws))
        return
    z = (draws.mean(0) - p.mean) / (draws.std(0) / math.sqrt(n))
    assert z.abs().max() < 4.5


@each(likelihoods)
def test_initialise_mean_starts_at_the_mean(cls):
    likelihood = build(cls)
    for net in likelihood.modules():
        if isinstance(net, (networks.Network, networks.CausalNetwork)):
            for parameter in net.parameters():
                nn.init.zeros_(parameter)
    mean = torch.rand(DATA_SHAPE)
    mean[0, 0, 0], mean[0, 0, 1] = 0.0, 1.0
    assert likelihood.initialise_mean(mean) is likelihood
    p = likelihood(torch.randn(B, L))
    if isinstance(p, Autoregressive):  # its sites are independent if the networks return 0
        p = p.base(p.net(torch.rand(DATA_SHAPE), p.context), p.offset)
    actual = p.mean  # (B, *data_shape)
    assert likelihood.mean_tolerance <= 0.08  # of the range of the data
    assert (actual - mean).abs().max() <= likelihood.mean_tolerance + 1e-6
    assert likelihood.mean_to_output(mean).isfinite().all()


@each(likelihoods)
def test_the_offset_is_a_saved_buffer(cls):
    likelihood = build(cls)
    parameters = [p.clone() for p in likelihood.parameters()]
    likelihood.initialise_mean(torch.rand(DATA_SHAPE))
    assert same(list(likelihood.parameters()), parameters)
    assert torch.equal(likelihood.state_dict()["offset"], likelihood.offset)
    assert likelihood.offset.any()


@each(likelihoods)
def test_initialise_mean_raises_on_another_shape(cls):
    message = rf"^{cls.__name__}: mean must have shape \(1, 7, 5\), got \(7, 5\)\. Pass the mean"
    with pytest.raises(ValueError, match=message):
        build(cls).initialise_mean(torch.rand(7, 5))


@each(likelihoods)
def test_likelihood_raises_on_sizes_that_are_not_positive(cls):
    if cls.__name__ in SPECIAL:
        pytest.skip("built by arguments of its own")
    for arguments in ((0, DATA_SHAPE), (L, ()), (L, (1, 0))):
        with pytest.raises(ValueError, match=rf"^{cls.__name__}: (data_shape|latent_dim) must .*, got \1="):
            cls(*arguments)


# ---------------------------------------------------------------- guides


@batches
@each(guides)
def test_posterior_shapes(cls, batch):
    q = build(cls).posterior(torch.rand(*batch, *DATA_SHAPE))
    assert (q.batch_shape, q.event_shape) == (batch, (L,))
    z, log_q = drawn(q, (6,))
    assert z.shape == (6, *batch, L)
    assert log_q.shape == (6, *batch)
    assert log_q.isfinite().all()


@each(guides)
def test_draws_are_differentiable_or_their_densities_are(cls):
    guide = build(cls)
    x = torch.rand(B, *DATA_SHAPE, requires_grad=True)
    q = guide.posterior(x)
    z, log_q = drawn(q)
    assert z.requires_grad == q.has_rsample
    (z if q.has_rsample else log_q).square().sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.flatten(1).any(1).all()
    assert any(p.grad is not None and p.grad.any() for p in guide.parameters())


@each(guides)
def test_each_datum_has_a_separate_posterior(cls):
    guide = build(cls).eval()
    x = torch.rand(B, *DATA_SHAPE)
    other = torch.cat([torch.rand(1, *DATA_SHAPE), x[1:]])
    torch.manual_seed(3)
    z, log_q = drawn(guide.posterior(x))
    torch.manual_seed(3)
    other_z, other_log_q = drawn(guide.posterior(other))
    torch.testing.assert_close(z[1:], other_z[1:], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_q[1:], other_log_q[1:], rtol=1e-12, atol=1e-12)
    points = cls.deterministic or not log_q.any()  # or the density of every box of width 1 is the same
    values = (z[:, 0], other_z[:, 0]) if points else (log_q, other_log_q)
    assert values[0][0] != values[1][0]
    assert values[0].unique().numel() == B


@each(guides)
def test_the_posterior_of_a_datum_does_not_depend_on_its_batch(cls):
    if cls.random_posterior:
        pytest.skip("a batch of another size draws other random numbers")
    guide = build(cls).eval()
    x = torch.rand(B, *DATA_SHAPE)
    z, together = drawn(guide.posterior(x))
    q = [guide.posterior(datum) for datum in x]
    if isinstance(q[0], AugmentedPosterior):  # then the density is of the pair
        q = [one.joint for one in q]
        z = guide.posterior(x).joint.sample()
        together = guide.posterior(x).joint.log_prob(z)
    alone = torch.stack([one.log_prob(code) for one, code in zip(q, z, strict=True)])
    if cls.deterministic:  # no density: the points are compared
        together, alone = z, torch.stack([one.mean for one in q])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


@each(guides)
def test_the_class_attributes_of_a_guide_are_true(cls):
    guide, x = build(cls), torch.rand(B, *DATA_SHAPE)
    q = guide.posterior(x)
    assert guide.has_density == (not (isinstance(q, AugmentedPosterior | Implicit) or guide.deterministic))
    assert guide.implicit == isinstance(q, Implicit)
    assert guide.deterministic == torch.equal(*drawn(q, (2,))[0])
    assert guide.has_marginals == (marginal_distributions(q) is not None)
    assert guide.discrete == q.support.is_discrete
    if guide.has_density:
        z, again = q.sample(), guide.posterior(x)
        assert guide.random_posterior == (not torch.equal(q.log_prob(z.clone()), again.log_prob(z.clone())))


@each(guides)
def test_guide_is_a_pyro_program(cls):
    guide, x = build(cls), torch.rand(B, *DATA_SHAPE)
    trace = poutine.trace(guide).get_trace(x)
    trace.compute_log_prob()
    site = trace.nodes["z"]
    assert site["value"].shape == (B, L)
    density = trace.nodes.get("z_joint", site)  # of z alone, or of z and an auxiliary variable
    assert density["log_prob"].shape == (B,)
    assert [frame.name for frame in site["cond_indep_stack"]] == ["data"]
    with pyro.plate("particles", K, dim=-2):
        assert guide(x).shape == (K, B, L)


@each(guides)
def test_guide_raises_on_sizes_that_are_not_positive(cls):
    if cls.__name__ in SPECIAL:
        pytest.skip("built by arguments of its own")
    for arguments in ((DATA_SHAPE, 0), ((), L), ((1, 0), L)):
        with pytest.raises(ValueError, match=rf"^{cls.__name__}: (data_shape|latent_dim) must .*, got \1="):
            cls(*arguments)


# ---------------------------------------------------------------- the public surface

FOLDERS = [networks, priors, likelihoods, guides, models, objectives, evaluation, latents, training, data]
DOCUMENTED = [(folder, item) for folder in FOLDERS for item in public(folder)]


def surface(items):
    ids = [f"{folder.__name__.removeprefix('pyro_vae.')}.{item.__name__}" for folder, item in items]
    cases = [pytest.param(item, id=name) for (_, item), name in zip(items, ids, strict=True)]
    return pytest.mark.parametrize("item", cases)


def sections(item):
    return set(re.findall(r"^ *(Args|Returns|Shape|Attributes|Raises|References|Example):$", item.__doc__ or "", re.M))


def is_record(item):
    """Whether the class is a result or an error, which users do not construct."""
    return inspect.isclass(item) and (is_dataclass(item) or issubclass(item, (tuple, Exception)))


def fields_are_described(item):
    """Whether fields are described in a section, or each by a string below it."""
    return bool(sections(item) & {"Attributes", "Args"}) or inspect.getsource(item).count('"""') >= 2 + 2 * len(
        item.__annotations__
    )


@pytest.mark.parametrize("folder", FOLDERS, ids=names)
def test_all_lists_existing_names(folder):
    assert len(set(folder.__all__)) == len(folder.__all__)
    assert all(hasattr(folder, name) for name in folder.__all__)


@pytest.mark.parametrize("folder", FOLDERS, ids=names)
def test_a_name_is_the_same_object_throughout_the_package(folder):
    for name in {*folder.__all__} & {*pyro_vae.__all__}:
        assert getattr(pyro_vae, name) is getattr(folder, name)


@surface(DOCUMENTED)
def test_the_docstring_is_complete(item):
    """Whether the docstring has a summary, arguments or returns, and references or an example."""
    assert item.__dict__.get("__doc__") if inspect.isclass(item) else item.__doc__
    assert item.__doc__.strip().splitlines()[0].endswith(".")
    if is_record(item):
        assert fields_are_described(item)
    elif not inspect.isabstract(item):
        assert sections(item) & {"Args", "Returns", "Shape"} or not inspect.signature(item).parameters
        assert sections(item) & {"Example", "References"}
