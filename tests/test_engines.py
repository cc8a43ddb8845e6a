"""Every engine computes Pyro's numbers, for every model, guide and objective of the package and for others."""

from __future__ import annotations

import inspect
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import nn

from pyro_vae import VAE, fit, objectives
from pyro_vae import guides as guide_folder
from pyro_vae import likelihoods as likelihood_folder
from pyro_vae import priors as prior_folder
from pyro_vae._core.distributed import Ranks
from pyro_vae._core.precision import NetworkPrecision
from pyro_vae._core.recording import Recorded
from pyro_vae.data.batches import Batch
from pyro_vae.guides import AuxiliaryGuide, CategoricalGuide, DiagonalNormalGuide, IAFGuide, SemiAmortizedGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.networks import MLP, ConvDecoder, ConvEncoder, GatedMLP
from pyro_vae.objectives import BetaELBO, LinearWarmUp, Objective
from pyro_vae.priors import CategoricalPrior, StandardNormalPrior
from pyro_vae.training import CompiledEngine, CudaGraphEngine, LossFunction, Step, build_engine
from pyro_vae.training.engines import select as choice
from pyro_vae.training.engines.select import MIN_COMPILED_STEPS, resolve_engine
from pyro_vae.training.engines.update import Update
from tests import objective_references as definitions
from tests.test_contracts import CONVENTIONS, DATA_SHAPE, SPECIAL, B, L, build, concrete, names, public

# The Pyro objective that equals each objective at its default weights.
REFERENCES = {
    "ELBO": Trace_ELBO,
    "BetaELBO": Trace_ELBO,
    "MeanFieldELBO": TraceMeanField_ELBO,
    "BetaMeanFieldELBO": TraceMeanField_ELBO,
    "TraceEnumELBO": partial(TraceEnum_ELBO, max_plate_nesting=1),
    "EnumeratedELBO": partial(TraceEnum_ELBO, max_plate_nesting=1),
}
# The others by their definitions.
DEFINITIONS = {
    "BetaTC": definitions.beta_tc,
    "DoublyReparameterized": definitions.doubly_reparameterized,
    "FactorVAE": partial(definitions.info_vae, alpha=0.0, weight=1.0),  # the ELBO, with gamma=0
    "FreeBits": definitions.free_bits,
    "IWAE": definitions.iwae,
    "InfoVAE": definitions.info_vae,
    "MIWAE": definitions.miwae,
    "Renyi": definitions.renyi,
    "ReweightedWakeSleep": definitions.reweighted_wake_sleep,
    "ScoreFunction": definitions.score_function,
    "StickingTheLanding": definitions.sticking_the_landing,
    "VIMCO": definitions.vimco,
    "WakeSleep": definitions.wake_sleep,
}
APART = {"DoublyReparameterized", "ScoreFunction", "StickingTheLanding"}
OPTIONS = {"BetaTC": {"num_data": 100}, "FactorVAE": {"gamma": 0.0}}
CLASSES = filter(inspect.isclass, public(objectives))
OBJECTIVES = [cls for cls in CLASSES if issubclass(cls, Objective) and cls is not Objective and cls.score is None]
FOLDERS = (prior_folder, likelihood_folder, guide_folder)
PLAIN = (StandardNormalPrior, BernoulliLikelihood, DiagonalNormalGuide)
# Neither of the two goes without the other.
CATEGORICAL = (CategoricalPrior, BernoulliLikelihood, CategoricalGuide)
# Every class once, the others plain: what a class does when it is recorded does not depend on its neighbours.
PIECES = [PLAIN, CATEGORICAL] + [
    (*PLAIN[:i], cls, *PLAIN[i + 1 :])
    for i in range(3)
    for cls in concrete(FOLDERS[i])
    if cls not in (PLAIN[i], CATEGORICAL[i])
    and not getattr(cls, "conditional", False)  # that of a ConditionalVAE
    and not getattr(cls, "implicit", False)  # see test_learned_losses
    and not getattr(cls, "deterministic", False)  # whose model cannot be sampled
]


def reference(cls: type[Objective], num_particles: int):
    if cls.__name__ in DEFINITIONS:
        return definitions.Definition(DEFINITIONS[cls.__name__], num_particles)
    if cls.__name__ not in REFERENCES:  # the engines at least agree with each other
        return cls(num_particles=num_particles)
    return REFERENCES[cls.__name__](num_particles=num_particles, vectorize_particles=num_particles > 1)


def component(cls):
    """One of the class; of repeated flows two, since the graph of each is as long as that of the first."""
    if "num_flows" not in inspect.signature(cls).parameters or cls.__name__ in SPECIAL:
        return build(cls)
    return CONVENTIONS[next(folder for folder in FOLDERS if cls in concrete(folder))](partial(cls, num_flows=2))


def engine_of(name, objective, model, guide, args, **options):
    owners = [getattr(program, "__self__", program) for program in (model, guide)]
    parameters = list({id(p): p for owner in owners for p in owner.parameters()}.values())
    optimizer = options.pop("optimizer", torch.optim.SGD)(parameters, lr=1e-2)
    engine = build_engine(name, objective, model, guide, optimizer, parameters, args=args, **options)
    assert engine.name == name
    return engine


def assert_agrees(engine, reference, args) -> None:
    for seed in (0, 1):
        agreement = engine.check_against(reference, args, seed=seed)
        assert agreement.loss < 1e-9
        assert agreement.gradient < 1e-8


def vae_of(net=partial(MLP, hidden=(6,)), dim=5, likelihood=BernoulliLikelihood) -> VAE:  # noqa: B008
    return VAE(StandardNormalPrior(2), likelihood(2, (dim,), net=net), DiagonalNormalGuide((dim,), 2, net=net))


def has_kl(vae, x) -> bool:
    try:
        torch.distributions.kl_divergence(vae.encode(x), vae.prior())
    except NotImplementedError:
        return False
    return True


# ---------------------------------------------------------------- agreement


def test_the_references_are_of_objectives() -> None:
    assert {cls.__name__ for cls in OBJECTIVES} >= REFERENCES.keys() | DEFINITIONS.keys()


# Losses that differ in kind and with them what is recorded of a component: its draws and densities, its closed-form KL,
# its sums. The Beta objectives at their default weights and EnumeratedELBO are recorded from the same densities.
KINDS = [(objectives.ELBO, 3), (objectives.BetaMeanFieldELBO, 3)]


def is_case(pieces, cls, num: int) -> bool:
    if pieces is PLAIN:
        return True
    if cls.__name__ in REFERENCES:
        return (cls, num) in KINDS or (pieces is CATEGORICAL and num == 3)
    # Of the others, those whose gradient treats draws and densities of the guide apart: one for every guide, the others
    # for a guide with an inverse to compute and one with a second variable. Their definitions run the guide twice, and
    # that with local steps is another one then.
    apart = cls is objectives.StickingTheLanding or (cls.__name__ in APART and pieces[2] in (IAFGuide, AuxiliaryGuide))
    return num == 3 and apart and pieces[2] not in (PLAIN[2], SemiAmortizedGuide)


CASES = [
    pytest.param(pieces, cls, num, marks=[] if pieces is PLAIN and num > 1 else pytest.mark.slow)
    for cls in OBJECTIVES
    for pieces in PIECES
    for num in (1, 3)
    if is_case(pieces, cls, num)
]


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    ("pieces", "objective", "num_particles"),
    CASES,
    ids=lambda c: "-".join(map(names, c)) if isinstance(c, tuple) else None,
)
def test_every_model_guide_and_objective_agrees_with_its_definition(pieces, objective, num_particles) -> None:
    vae = VAE(*map(component, pieces))
    x = vae.sample(B)
    if objective.analytic_kl and not has_kl(vae, x):
        with pytest.raises(ValueError, match=r"^MeanFieldELBO: .* Use ELBO"):
            objective().differentiable_loss(vae.model, vae.guide, x)
        return
    if vae.guide.infer.get("enumerate") and objective.__name__ in DEFINITIONS:
        with pytest.raises(ValueError, match=rf"^{objective.__name__}: the guide must sample .* Use EnumeratedELBO"):
            objective().differentiable_loss(vae.model, vae.guide, x)
        return
    num_particles = max(num_particles, objective.min_particles)
    for name in ("eager", "compiled"):
        elbo = objective(num_particles=num_particles, **OPTIONS.get(objective.__name__, {}))
        engine = engine_of(name, elbo, vae.model, vae.guide, (x,))
        assert_agrees(engine, reference(objective, num_particles), (x,))


NETWORKS = {
    "MLP": (partial(MLP, hidden=(6,), dropout=0.3), partial(MLP, hidden=(6,), dropout=0.3)),
    "GatedMLP": (partial(GatedMLP, hidden=(6,), dropout=0.3), partial(GatedMLP, hidden=(6,), dropout=0.3)),
    "conv": (partial(ConvEncoder, channels=(2, 3)), partial(ConvDecoder, channels=(3, 2))),
}


def of_networks(kind: str) -> VAE:
    encoder, decoder = NETWORKS[kind]
    likelihood = BernoulliLikelihood(L, DATA_SHAPE, net=decoder)
    return VAE(StandardNormalPrior(L), likelihood, DiagonalNormalGuide(DATA_SHAPE, L, net=encoder)).train()


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_network_agrees_with_pyro_dropout_included(kind, num_particles) -> None:
    vae, x = of_networks(kind), torch.rand(B, *DATA_SHAPE).bernoulli()
    engine = engine_of("compiled", objectives.ELBO(num_particles=num_particles), vae.model, vae.guide, (x,))
    assert_agrees(engine, reference(objectives.ELBO, num_particles), (x,))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "objective", "num_particles"),
    [("conv", objectives.MeanFieldELBO, 3)],
)
def test_compiled_code_agrees_with_pyro(kind, objective, num_particles) -> None:
    vae, x = of_networks(kind), torch.rand(B, *DATA_SHAPE).bernoulli()
    engine = engine_of("compiled", objective(num_particles=num_particles), vae.model, vae.guide, (x,))
    assert_agrees(engine, reference(objective, num_particles), (x,))


@pytest.mark.usefixtures("uncompiled")
def test_a_difference_is_found_and_finding_it_leaves_no_trace() -> None:
    vae, x = vae_of(Normalized), torch.rand(7, 5).bernoulli()
    engine = engine_of("compiled", objectives.ELBO(), vae.model, vae.guide, (x,))
    buffers, random = [b.clone() for b in vae.buffers()], torch.get_rng_state()
    agreement = engine.check_against(TraceMeanField_ELBO(), (x,))
    assert agreement.loss > 1e-4
    assert agreement.gradient > 1e-3
    assert engine.check_against(Trace_ELBO(), (x,)).gradient < 1e-9
    assert all(map(torch.equal, vae.buffers(), buffers))
    assert torch.equal(torch.get_rng_state(), random)
    assert len(pyro.get_param_store()) == 0
    vae.guide.extra = nn.Parameter(torch.zeros(2))
    engine = engine_of("compiled", objectives.ELBO(), vae.model, vae.guide, (x,))
    assert engine.check_against(Trace_ELBO(), (x,)).gradient < 1e-9, "a parameter that takes no part"
    gradients = engine.gradients
    engine.gradients = lambda args: (result := gradients(args))._replace(gradients=[None, *result.gradients[1:]])
    assert engine.check_against(Trace_ELBO(), (x,)).gradient == float("inf")


class Normalized(nn.Module):
    """A network factory with batch normalization."""

    def __init__(self, in_shape, out_shape) -> None:
        super().__init__()
        self.norm, self.net = nn.BatchNorm1d(in_shape[0]), MLP(in_shape, out_shape, hidden=(6,))

    def forward(self, x):
        return self.net(self.norm(x))


class Weighted:
    """-(w log p(x | z) + beta (log p(z) - log q(z | x))) of one draw by its definition."""

    def __init__(self, beta: float, weight: float = 1.0) -> None:
        self.beta, self.weight = beta, weight

    def differentiable_loss(self, model, guide, *args):
        q = poutine.trace(guide).get_trace(*args)
        p = poutine.trace(poutine.replay(model, trace=q)).get_trace(*args)
        log_q, log_p, log_x = (
            trace.nodes[name]["fn"].log_prob(trace.nodes[name]["value"]).sum()
            for trace, name in ((q, "z"), (p, "z"), (p, "x"))
        )
        return -self.weight * log_x + self.beta * (log_q - log_p)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", ["eager", "compiled"])
def test_one_recording_follows_beta_from_step_to_step(name) -> None:
    vae, x = vae_of(), torch.rand(7, 5).bernoulli()
    objective = BetaELBO(beta=LinearWarmUp(4, start=0.5, end=2.5, unit="steps"), reconstruction_weight=3.0)
    engine = engine_of(name, objective, vae.model, vae.guide, (x,))
    for number in range(6):
        beta = 0.5 + 2 * min(1.0, number / 4)
        objective.set_progress(number, 0.0)
        assert_agrees(engine, Weighted(beta, 3.0), (x,))
        torch.manual_seed(number)
        expected = Weighted(beta, 3.0).differentiable_loss(vae.model, vae.guide, x)
        torch.manual_seed(number)
        result = engine.run([Step([Batch((x,))], progress=(number, 0.0))])[0]
        assert result.loss == pytest.approx(expected.item(), rel=1e-12)
        assert result.loss == pytest.approx(beta * result.kl - 3 * result.reconstruction, rel=1e-12)


@pytest.mark.usefixtures("uncompiled")
def test_fixed_weights_are_recorded() -> None:
    vae, x = vae_of(), torch.rand(7, 5).bernoulli()
    for beta, weight in ((0.0, 1.0), (4.0, 1.0), (1.0, 0.5), (1.0, 0.0)):
        engine = engine_of("compiled", BetaELBO(beta=beta, reconstruction_weight=weight), vae.model, vae.guide, (x,))
        assert_agrees(engine, Weighted(beta, weight), (x,))


# ---------------------------------------------------------------- other people's programs


class Semisupervised(nn.Module):
    """M2: a class y, enumerated where it is not observed, and a code z, in plain Pyro.

    References:
        Semi-supervised learning with deep generative models (Kingma et al., 2014). https://arxiv.org/abs/1406.5298
    """

    def __init__(self, impossible: bool) -> None:
        super().__init__()
        self.classes, self.impossible = 3, impossible
        self.decoder, self.encoder = nn.Linear(2 + 3, 5), nn.Linear(5 + 3, 4)
        self.classifier = nn.Linear(5, 3)

    def model(self, x, y=None):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(3) / 3), obs=y)
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = self.decoder(self._joined(z, y))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x, y=None):
        with pyro.plate("data", len(x)):
            if y is None:
                logits = self.classifier(x)
                if self.impossible:
                    logits = logits + torch.tensor([0.0, -torch.inf, 0.0])
                y = pyro.sample("y", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
            loc, scale = self.encoder(self._joined(x, y)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))

    def _joined(self, value, y):
        onehot = torch.eye(3)[y]
        shape = torch.broadcast_shapes(value.shape[:-1], onehot.shape[:-1])
        return torch.cat([value.expand(*shape, -1), onehot.expand(*shape, -1)], -1)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("impossible", [False, True])
@pytest.mark.parametrize("num_particles", [1, 3])
def test_an_enumerated_class_agrees_also_where_one_has_no_probability(impossible, num_particles) -> None:
    program, x = Semisupervised(impossible), torch.rand(7, 5).bernoulli()
    make = partial(
        TraceEnum_ELBO, max_plate_nesting=1, num_particles=num_particles, vectorize_particles=num_particles > 1
    )
    for args in ((x,), (x, torch.arange(7) % 3)):
        engine = engine_of("compiled", make(), program.model, program.guide, args)
        assert_agrees(engine, make(), args)
        assert bool(engine.gradients(args).finite)


@pytest.mark.slow
def test_an_enumerated_class_agrees_compiled() -> None:
    program, x = Semisupervised(True), torch.rand(7, 5).bernoulli()
    engine = engine_of("compiled", TraceEnum_ELBO(max_plate_nesting=1), program.model, program.guide, (x,))
    assert_agrees(engine, TraceEnum_ELBO(max_plate_nesting=1), (x,))


class Mixture(nn.Module):
    """A guide that samples a component, with a score-function gradient."""

    def __init__(self, component) -> None:
        super().__init__()
        self.component = component
        self.net, self.decoder = nn.Linear(5, 9), nn.Linear(2 + 3, 5)

    def model(self, x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", self.component(torch.ones(3) / 3))
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            k = torch.eye(3)[k] if k.dim() < z.dim() else k
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(torch.cat([z, k], -1))).to_event(1), obs=x)

    def guide(self, x):
        logits, locs = self.net(x).split([3, 6], -1)
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", self.component(logits=logits))
            k = torch.eye(3)[k] if k.dim() < x.dim() else k
            loc = (k.unsqueeze(-1) * locs.unflatten(-1, (3, 2))).sum(-2)
            pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("component", [dist.Categorical, dist.OneHotCategorical], ids=names)
@pytest.mark.parametrize("objective", [Trace_ELBO, objectives.ELBO], ids=names)
def test_a_site_without_reparameterization_agrees(component, objective) -> None:
    program, x = Mixture(component), torch.rand(7, 5).bernoulli()
    engine = engine_of("compiled", objective(), program.model, program.guide, (x,))
    assert_agrees(engine, Trace_ELBO(), (x,))


def test_a_program_that_cannot_be_recorded_says_why_once_and_runs_eagerly() -> None:
    vae, x = vae_of(), torch.rand(7, 5).bernoulli()

    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, x):
            return vae.guide(x * (1.0 if x.sum() > 0 else 2.0))

    loss = LossFunction(objectives.ELBO(), vae.model, Looking(), list(vae.parameters()))
    update = Update(torch.optim.SGD(loss.parameters, lr=0.1), loss.parameters)
    place = f"reads a tensor's value in Python (test_engines.py:{Looking.forward.__code__.co_firstlineno + 1})"
    builds = {
        "compiled": lambda: CompiledEngine(loss, update, Batch((x,))),
        "cuda-graph": lambda: CudaGraphEngine(loss, update, Batch((x,))),
    }
    engines = {}
    for name, make in builds.items():
        with pytest.warns(UserWarning, match="engine: runs eagerly, since the programs cannot be recorded") as warned:
            engines[name] = make()
        assert [place in str(w.message) for w in warned] == [True]
    assert engines["compiled"].name == "eager"
    assert_agrees(engines["compiled"], Trace_ELBO(), (x,))
    assert not engines["cuda-graph"].records


@pytest.mark.usefixtures("uncompiled")
def test_another_path_at_another_shape_falls_back_to_eager() -> None:
    vae, x = vae_of(), torch.rand(7, 5).bernoulli()

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, x):
            return vae.guide(x if len(x) > 3 else x * x.max().item())

    engine = engine_of("compiled", objectives.ELBO(), vae.model, Branching(), (x,))
    with pytest.warns(UserWarning, match="runs eagerly, since the programs cannot be recorded: the program reads"):
        assert engine.step((x[:3],)).finite
    assert engine.name == "eager"
    assert engine.step((x,)).finite


# ---------------------------------------------------------------- the choice of an engine


def test_auto_compiles_what_is_long_enough() -> None:
    cpu, cuda, two = torch.device("cpu"), torch.device("cuda"), Ranks(0, 2)
    assert resolve_engine("auto", cpu, MIN_COMPILED_STEPS - 1) == "eager"
    assert resolve_engine("auto", cpu, MIN_COMPILED_STEPS) == "compiled"
    assert resolve_engine("auto", cpu) == "compiled"
    assert resolve_engine("auto", cuda, 1) == "cuda-graph"
    assert resolve_engine("auto", cuda, 1, two) == "compiled"
    assert resolve_engine("auto", cpu, 1, two) == "eager"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "cuda-graph"}, r"^engine: 'cuda-graph' must have parameters on a GPU, got cpu\. Use engine="),
        (
            {"engine": "fast"},
            r"^fit: engine must be one of 'auto', 'eager', 'compiled', 'cuda-graph', got engine='fast'",
        ),
        ({"precision": "fp8"}, r"^fit: precision must be one of 'fp32', 'bf16', got precision='fp8'\."),
        ({"accumulate": 0}, r"^fit: accumulate must be at least 1, got accumulate=0\."),
    ],
)
def test_unavailable_engines_are_refused(options, message, tmp_path) -> None:
    vae = vae_of()
    with pytest.raises(ValueError, match=message):
        fit(vae.model, vae.guide, torch.ones(10, 5), batch_size=5, run=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(("accumulate", "threshold"), [(1, 15), (2, 9)])
def test_auto_counts_the_steps_of_the_whole_training(accumulate, threshold, monkeypatch, tmp_path) -> None:
    x, names = torch.rand(45, 5).bernoulli(), {}
    for limit in (threshold, threshold + 1):  # 5 batches, 3 epochs
        monkeypatch.setattr(choice, "MIN_COMPILED_STEPS", limit)
        vae, run = vae_of(), tmp_path / str(limit)
        fit(vae.model, vae.guide, x, epochs=3, batch_size=10, accumulate=accumulate, run=run)
        names[limit] = torch.load(run / "state.pt", weights_only=True)["identity"]["engine"]
    assert names == {threshold: "compiled", threshold + 1: "eager"}


@pytest.mark.usefixtures("uncompiled")
def test_a_parameter_that_is_listed_twice_is_updated_once() -> None:
    results = []
    for name in ("eager", "compiled"):
        torch.manual_seed(3)
        vae, x = vae_of(), torch.rand(7, 5).bernoulli()
        parameters = [*vae.parameters(), *vae.model.parameters()]
        optimizer = torch.optim.Adam(vae.parameters(), lr=0.1)
        engine = build_engine(name, objectives.ELBO(), vae.model, vae.guide, optimizer, parameters, args=(x,))
        torch.manual_seed(4)
        engine.step((x,))
        results.append([p.detach() for p in vae.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("uncompiled")
def test_the_gradients_leave_a_replaced_state_as_it_is() -> None:
    vae, x = vae_of(), torch.rand(7, 5).bernoulli()
    engine = engine_of("compiled", objectives.ELBO(), vae.model, vae.guide, (x,), optimizer=torch.optim.Adam)
    for _ in range(3):
        engine.step((x,))
    optimizer = engine.update.optimizer
    optimizer.load_state_dict(optimizer.state_dict())
    before = [t.clone() for state in optimizer.state.values() for t in state.values()]
    engine.recheck()
    engine.gradients((x,))
    assert all(map(torch.equal, before, [t for state in optimizer.state.values() for t in state.values()]))


@pytest.mark.usefixtures("uncompiled")
def test_each_shape_is_recorded_once(monkeypatch) -> None:
    vae, record, shapes = vae_of(), Recorded._record, []
    monkeypatch.setattr(
        Recorded, "_record", lambda self, args: shapes.append(tuple(args[2].shape)) or record(self, args)
    )
    fit(vae.model, vae.guide, torch.rand(45, 5).bernoulli(), epochs=4, batch_size=10, engine="compiled")
    assert shapes == [(10, 5), (5, 5)]


# ---------------------------------------------------------------- precision


@pytest.fixture
def single() -> None:
    torch.set_default_dtype(torch.float32)


LAYERS = {
    "linear": (nn.Linear(4, 3), (5, 4)),
    "conv": (nn.Conv2d(2, 3, 3, padding=1), (5, 2, 6, 6)),
    "transposed": (nn.ConvTranspose2d(2, 3, 3), (5, 2, 6, 6)),
}


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize("kind", LAYERS)
def test_layers_multiply_in_bfloat16_and_return_float32(kind) -> None:
    layer, shape = LAYERS[kind]
    layer, x = layer.to(torch.float32), torch.randn(shape)
    with NetworkPrecision("bf16"):
        low = layer(x)
    assert low.dtype == torch.float32
    assert torch.equal(low, layer.bfloat16()(x.bfloat16()).float())
    high = layer.float()(x)
    with NetworkPrecision("fp32"):
        assert torch.equal(layer(x), high)
    assert (low - high).abs().max() > 0
    with NetworkPrecision("bf16"):
        assert torch.equal(layer.double()(x.double()), layer(x.double()))
        assert layer(x.double()).dtype == torch.float64


def test_float64_is_left_alone() -> None:
    vae, x = vae_of(), torch.rand(7, 5).bernoulli()
    engine = engine_of("eager", objectives.ELBO(), vae.model, vae.guide, (x,), precision="bf16")
    assert_agrees(engine, Trace_ELBO(), (x,))


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize("name", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def test_in_bfloat16_the_loss_is_near_and_densities_stay_in_float32(name) -> None:
    vae, x = vae_of(partial(MLP, hidden=(64,)), dim=50), torch.rand(64, 50).bernoulli()
    engine = engine_of(name, objectives.ELBO(), vae.model, vae.guide, (x,), precision="bf16")
    agreement = engine.check_against(Trace_ELBO(), (x,))  # in float32
    assert 1e-7 < agreement.loss < 2**-8
    assert 1e-5 < agreement.gradient < 2**-5
    with NetworkPrecision("bf16"):
        trace = poutine.trace(vae.model).get_trace(x)
    trace.compute_log_prob()
    assert {trace.nodes[site]["log_prob"].dtype for site in ("x", "z")} == {torch.float32}
    if name == "compiled":
        eager = engine_of("eager", objectives.ELBO(), vae.model, vae.guide, (x,), precision="bf16")
        torch.manual_seed(0)
        result = engine.gradients((x,))
        torch.manual_seed(0)
        expected = eager.gradients((x,))
        torch.testing.assert_close(result.loss, expected.loss, rtol=2e-3, atol=0)
        for a, b in zip(result.gradients, expected.gradients, strict=True):
            assert (a - b).norm() < 2**-7 * b.norm()


def test_another_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^fit: precision must be one of 'fp32', 'bf16', got precision='fp16'\."):
        NetworkPrecision("fp16")
