"""One pair written in every style of Pyro programs: training, resumption, objectives and evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import (
    BetaBinomial,
    Binomial,
    Delta,
    Dirichlet,
    DirichletMultinomial,
    Gamma,
    GammaPoisson,
    Multinomial,
    Normal,
    Poisson,
    Uniform,
)
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    init_to_median,
)
from torch import Tensor
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import MultiStepLR

from pyro_vae import annealed_log_likelihood, fit, inference_gaps, log_likelihood, log_weights, objectives
from pyro_vae._core.owners import Owners
from pyro_vae.data.batches import Batches
from pyro_vae.evaluation import ImportanceWeights, Result
from pyro_vae.training.compatibility import data_axes, examine
from tests.awkward_programs import (
    AWKWARD,
    BATCH,
    LATENT_DIM,
    Awkward,
    Chain,
    Conditional,
    Counts,
    Dictionary,
    OneDatum,
    Recurrent,
    Softmax,
    Table,
    TimeMajor,
    WideNorm,
    depends_on_dims,
)
from tests.linear_styles import (
    MODULE,
    STYLES,
    Decoder,
    Encoder,
    Style,
    Written,
    data,
    guide_of,
    log_evidence,
    model_of,
    numbers,
)

pytestmark = pytest.mark.slow  # a minute for 823 cases; test_pyro_programs and test_modes are the fast ones

EVERY_STYLE = pytest.mark.parametrize("style", STYLES, ids=repr)
MODULAR = pytest.mark.parametrize("style", [style for style in STYLES if style.modular], ids=repr)
OFF = {"inflate": 1.4, "shift": 0.3}  # a guide that is not the posterior
ONCE: dict[str, Any] = {"epochs": 1, "batch_size": 8, "optimizer": partial(SGD, lr=0.1), "seed": 4, "engine": "eager"}


def _close(value: Tensor, expected: Tensor) -> bool:
    return value.shape == expected.shape and bool((value - expected).abs().max() < 1e-9)


# Training


def _hand_written_step(x: Tensor, *, rate: float, seed: int) -> dict[str, Tensor]:
    """The parameters after one step on minus the ELBO per datum, in plain torch."""
    parameters = {k: t.requires_grad_() for k, t in MODULE.build(**OFF).snapshot().items()}
    weight, bias, log_sigma, gain, offset, log_scale = parameters.values()
    order = next(Batches(x, len(x), shuffle_seed=seed).epoch()).args[0]
    q = Normal(order @ gain.T + offset, log_scale.exp())
    torch.manual_seed(seed)
    z = q.rsample()
    log_joint = Normal(z @ weight.T + bias, log_sigma.exp()).log_prob(order).sum() + Normal(0.0, 1.0).log_prob(z).sum()
    gradients = torch.autograd.grad((q.log_prob(z).sum() - log_joint) / len(x), list(parameters.values()))
    return {k: p.detach() - rate * g for (k, p), g in zip(parameters.items(), gradients, strict=True)}


RECORDED = [
    "module",
    "closure",
    "globals",
    "pyro-param",
    "bare-tensors",
    "masked-rows",
    "wrapped-twice",
    "object-method",
]


@pytest.mark.parametrize(
    ("style", "engine"),
    [*((style, "eager") for style in STYLES), *((style, "compiled") for style in STYLES if style.name in RECORDED)],
    ids=str,
)
def test_one_step_moves_every_parameter_along_its_gradient(style: Style, engine: str, uncompiled: None) -> None:
    x = data()
    pair = style.build(**OFF)
    fit(pair.model, pair.guide, x, **(ONCE | {"engine": engine}))
    expected = _hand_written_step(x, rate=0.1, seed=4)
    values = pair.tensors()
    assert values.keys() == expected.keys()
    for name in expected:
        assert _close(values[name].detach(), expected[name]), name


@MODULAR
def test_running_statistics_and_dropout_in_training_are_those_of_the_modules(style: Style) -> None:
    x, pairs = data(), []
    for each in (MODULE, style):
        pair = each.build(noisy=True, **OFF)
        fit(pair.model, pair.guide, x, **(ONCE | {"epochs": 3, "batch_size": 4}))
        pairs.append(pair)
        assert not any(part.training for module in pair.modules for part in module.modules())
    reference, values = (list(pair.snapshot().values()) for pair in pairs)
    assert len(values) == len(reference) == 9  # six parameters, three statistics
    assert all(_close(a, b) for a, b in zip(values, reference, strict=True))
    assert any(bool((b != 0).any()) for module in pairs[1].modules for b in module.buffers())


def test_pairs_whose_modules_share_names_train_and_evaluate_separately() -> None:
    """``pyro.module`` keeps the first module that it receives under a name until the process ends."""
    x, closure = data(), next(style for style in STYLES if style.name == "closure")
    first, second = closure.build(), closure.build(**OFF)
    assert _close(log_likelihood(first.model, first.guide, x, num_samples=3).log_likelihood, log_evidence(x))
    fit(first.model, first.guide, x, **ONCE)
    trained = first.snapshot()
    fit(second.model, second.guide, x, **ONCE)
    expected = _hand_written_step(x, rate=0.1, seed=4)
    assert all(_close(tensor.detach(), expected[name]) for name, tensor in second.tensors().items())
    assert all(torch.equal(tensor, trained[name]) for name, tensor in first.snapshot().items())
    third = closure.build()
    assert _close(log_likelihood(third.model, third.guide, x, num_samples=3).log_likelihood, log_evidence(x))


def _train(pair: Written, run: Any, epochs: int, **options: Any) -> None:
    adam = partial(Adam, lr=1e-2)
    fit(pair.model, pair.guide, data(), epochs=epochs, batch_size=4, optimizer=adam, run=run, engine="eager", **options)


@EVERY_STYLE
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(style: Style, tmp_path) -> None:
    whole = style.build(noisy=True, **OFF)
    _train(whole, tmp_path / "whole", 4)
    expected = whole.snapshot()
    pyro.clear_param_store()
    _train(style.build(noisy=True, **OFF), tmp_path / "parts", 2)
    pyro.clear_param_store()
    resumed = style.build(noisy=True)  # from other numbers: those of the run folder replace them
    _train(resumed, tmp_path / "parts", 4, resume=True)
    values = resumed.snapshot()
    assert all(torch.equal(values[name], expected[name]) for name in expected)


@MODULAR
def test_a_checkpoint_holds_the_buffers(style: Style, tmp_path) -> None:
    pair = style.build(noisy=True, **OFF)
    _train(pair, tmp_path / "run", 1)
    saved = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["weights"]
    for kind in ("running_mean", "running_var", "num_batches_tracked"):
        (buffer,) = [b for module in pair.modules for name, b in module.named_buffers() if name.endswith(kind)]
        stored = [t for name, t in saved.items() if name.endswith(kind)]
        assert stored  # twice, if both programs have the module
        assert all(torch.equal(tensor, buffer) for tensor in stored)


def test_parameters_in_another_layout_of_memory_are_trained_once(tmp_path) -> None:
    """Pyro keeps contiguous copies of the parameters, on which the loss does not depend."""
    x, closure = data(), next(style for style in STYLES if style.name == "closure")
    pair = closure.build(**OFF)
    layer = pair.modules[0].linear
    layer.weight = torch.nn.Parameter(layer.weight.detach().T.contiguous().T)
    fit(pair.model, pair.guide, x, run=tmp_path / "run", **ONCE)
    expected = _hand_written_step(x, rate=0.1, seed=4)
    assert all(_close(tensor.detach(), expected[name]) for name, tensor in pair.tensors().items())
    assert len(torch.load(tmp_path / "run" / "state.pt", weights_only=True)["weights"]) == 6


# Objectives

FAMILIES: dict[str, Callable[[], Any]] = {
    "ELBO": partial(objectives.ELBO, num_particles=2),
    "MeanFieldELBO": objectives.MeanFieldELBO,
    "BetaELBO": partial(objectives.BetaELBO, beta=0.3, reconstruction_weight=0.7),
    "IWAE": partial(objectives.IWAE, num_particles=3),
    "MIWAE": partial(objectives.MIWAE, num_particles=2, num_batches=2),
    "Renyi": partial(objectives.Renyi, alpha=0.5, num_particles=3),
    "StickingTheLanding": partial(objectives.StickingTheLanding, num_particles=3),
    "DoublyReparameterized": partial(objectives.DoublyReparameterized, num_particles=3),
    "ScoreFunction": partial(objectives.ScoreFunction, num_particles=2),
    "VIMCO": partial(objectives.VIMCO, num_particles=3),
    "ReweightedWakeSleep": partial(objectives.ReweightedWakeSleep, num_particles=3, guide_phase="both"),
    "WakeSleep": partial(objectives.WakeSleep, num_particles=2),
    "FreeBits": partial(objectives.FreeBits, nats=0.5, num_particles=2),
    "EnumeratedELBO": partial(objectives.EnumeratedELBO, num_particles=2),
    "BetaTC": partial(objectives.BetaTC, num_particles=2),
    "FactorVAE": partial(objectives.FactorVAE, hidden=(4,), num_particles=2),
    "InfoVAE": partial(objectives.InfoVAE, num_particles=2),
}
PER_DATUM = sorted(set(FAMILIES) - {"ELBO", "MeanFieldELBO", "BetaELBO"})
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
HOLDING = ("StickingTheLanding", "DoublyReparameterized")  # these hold the parameters of q constant


def _loss(family: str, pair: Written, x: Tensor, *, seed: int = 5) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Loss and gradient at a seed."""
    objective = FAMILIES[family]()
    torch.manual_seed(7)
    objective.differentiable_loss(pair.model, pair.guide, x)  # an objective detects the plates at its first call
    torch.manual_seed(seed)
    loss = objective.differentiable_loss(pair.model, pair.guide, x)
    tensors = pair.tensors()
    gradients = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True)
    return loss.detach(), dict(zip(tensors, gradients, strict=True))


@cache
def _reference(family: str) -> tuple[Tensor, dict[str, Tensor | None]]:
    return _loss(family, MODULE.build(**OFF), data())


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"MeanFieldELBO", "BetaTC", "FactorVAE", "InfoVAE"}))
@EVERY_STYLE
def test_losses_and_gradients_do_not_depend_on_the_style(style: Style, family: str) -> None:
    pair, (expected, gradients) = style.build(**OFF), _reference(family)
    if "bare" in style.traits and family in HOLDING:
        with pytest.raises(ValueError, match=rf"^{family}: "):
            _loss(family, pair, data())
        return
    loss, computed = _loss(family, pair, data())
    assert _close(loss, expected)
    for name, gradient in gradients.items():
        value = computed[name]
        assert (value is None) == (gradient is None), name
        assert value is None or _close(value, gradient), name


@pytest.mark.parametrize("family", ["MeanFieldELBO", "BetaTC", "FactorVAE", "InfoVAE"])
def test_a_mask_of_true_changes_nothing(family: str) -> None:
    (style,) = [style for style in STYLES if style.name == "wrapped-twice"]
    assert _close(_loss(family, style.build(**OFF), data())[0], _reference(family)[0])


BOUNDS = sorted(set(FAMILIES) - {"MeanFieldELBO", "BetaELBO", "FreeBits", "BetaTC", "FactorVAE", "InfoVAE"})


@EVERY_STYLE
def test_at_the_exact_posterior_every_bound_is_the_evidence(style: Style) -> None:
    x, pair = data(), style.build()
    for family in (f for f in BOUNDS if "bare" not in style.traits or f not in HOLDING):
        loss, gradients = _loss(family, pair, x)
        assert float(loss) == pytest.approx(-float(log_evidence(x).sum()), abs=1e-9), family
        if family in HOLDING:
            for name in ("gain", "offset", "log_scale"):
                gradient = gradients[name]
                assert gradient is not None, (family, name)
                assert gradient.abs().max() < 1e-9, (family, name)


# Evaluations

FEW: dict[str, Any] = {"num_distributions": 3, "num_chains": 2, "num_steps": 1, "engine": "eager"}
GAPS: dict[str, Any] = {"num_samples": 10, "num_steps": 2, "num_particles": 2, "lr": 1e-3}
EVALUATIONS: dict[str, Callable[..., Result]] = {
    "log_likelihood": partial(log_likelihood, num_samples=30, chunk_size=11, batch_size=4),
    "prior": partial(log_likelihood, num_samples=30, batch_size=4, proposal="prior"),
    "ais": partial(annealed_log_likelihood, **FEW),
    "ais-from-guide": partial(annealed_log_likelihood, start="guide", **FEW),
    "gaps": partial(inference_gaps, **GAPS),
}
EVERY_EVALUATION = pytest.mark.parametrize("name", EVALUATIONS)


@contextmanager
def _unchanged_state(pair: Written) -> Iterator[None]:
    """Context that asserts that random state, modes, tensors and Pyro's store stay unchanged."""

    def state() -> tuple[Tensor, dict[str, Tensor], list[bool], dict[str, int]]:
        modes = [part.training for module in pair.modules for part in module.modules()]
        entries = {name: id(tensor) for name, tensor in pyro.get_param_store().named_parameters()}
        return torch.get_rng_state(), pair.snapshot(), modes, entries

    random, tensors, modes, entries = state()
    yield
    now_random, now_tensors, now_modes, now_entries = state()
    assert now_modes == modes
    assert all(torch.equal(now_tensors[name], tensor) for name, tensor in tensors.items())
    assert torch.equal(now_random, random)
    assert now_entries == entries


def _noisy(style: Style, **options: Any) -> Written:
    """With dropout and batch normalization in train mode, and one part in eval mode."""
    pair = style.build(noisy=True, **options)
    for module in pair.modules:
        module.train()
    if pair.modules:
        next(pair.modules[0].children()).eval()
    return pair


@cache
def _reference_result(name: str) -> dict[str, Tensor]:
    pair = _noisy(MODULE, **OFF)
    return EVALUATIONS[name](pair.model, pair.guide, data(5), seed=2).tensors()


def _raises(style: Style, name: str) -> bool:
    return name == "gaps" and "function" in style.traits


@EVERY_EVALUATION
@EVERY_STYLE
def test_evaluations_do_not_depend_on_the_style_or_change_state(style: Style, name: str) -> None:
    pair = _noisy(style, **OFF)
    with _unchanged_state(pair):
        if _raises(style, name):
            message = r"^inference_gaps: the guide must be a module whose parameters .*, got a function"
            with pytest.raises(ValueError, match=message):
                EVALUATIONS[name](pair.model, pair.guide, data(5), seed=2)
            return
        values = EVALUATIONS[name](pair.model, pair.guide, data(5), seed=2).tensors()
    expected = _reference_result(name)
    for key in expected:
        torch.testing.assert_close(
            values[key], expected[key], rtol=0, atol=1e-9, equal_nan=True, msg=lambda m, key=key: f"{key}: {m}"
        )


@EVERY_STYLE
def test_with_the_exact_posterior_evaluations_are_the_evidence(style: Style) -> None:
    x, pair = data(5), _noisy(style)
    expected = log_evidence(x)
    for name, columns in {
        "log_likelihood": ("log_likelihood", "elbo"),
        "ais-from-guide": ("log_likelihood", "mean_log_weight"),
        "gaps": ("elbo",),
    }.items():
        if not _raises(style, name):
            result = EVALUATIONS[name](pair.model, pair.guide, x)
            for column in columns:
                assert _close(getattr(result, column), expected), (name, column)
            assert result.protocol.get("way", "vectorised") == "vectorised"
    quiet = style.build()
    weights = log_weights(quiet.model, quiet.guide, x, num_samples=3)
    assert _close(weights.detach(), expected.expand(3, 5))


# Programs that cannot take a particle dimension

EVERY_PROGRAM = pytest.mark.parametrize("kind", AWKWARD)
WITH_CLOSED_FORM = pytest.mark.parametrize("kind", [kind for kind in AWKWARD if kind.affine])
NUM = 3


def _awkward(kind: type[Awkward], *, exact: bool = False) -> tuple[Awkward, list[tuple[Any, ...]]]:
    """The program in eval mode, with two batches."""
    program = kind().eval()
    if exact:
        program.set_exact()
    return program, [program.batch(size) for size in program.sizes]


class _Draws:
    """Separate runs in plain torch: log p(x, z) and log q(z | x), through the samples and at detached ones, (K, B)."""

    def __init__(self, program: Awkward, args: tuple[Any, ...], seed: int) -> None:
        torch.manual_seed(seed)
        size = NUM, len(program.observed(*args)), LATENT_DIM
        widths = [1, 1] if isinstance(program, Chain) else [LATENT_DIM]
        noise = torch.cat([torch.normal(torch.zeros(*size[:2], w), torch.ones(*size[:2], w)) for w in widths], -1)
        z = [program.draw(each, *args) for each in noise]
        self.joint = torch.stack([program.log_joint(each, *args) for each in z])
        self.guide = torch.stack([program.log_guide(each, *args) for each in z])
        self.joint_at = torch.stack([program.log_joint(each.detach(), *args) for each in z])
        self.guide_at = torch.stack([program.log_guide(each.detach(), *args) for each in z])
        self.weight = self.joint - self.guide
        self.bound = self.weight.logsumexp(0) - math.log(NUM)
        self.share = self.weight.detach().softmax(0)


def _by_hand(family: str, draws: _Draws) -> tuple[Tensor, Tensor]:
    """Loss, and the surrogate that its gradient is taken of."""
    path = draws.weight + draws.guide_at - draws.joint_at
    if family == "IWAE":
        return -draws.bound.sum(), -draws.bound.sum()
    if family == "StickingTheLanding":
        value = (draws.weight + draws.guide_at).mean(0).sum()
        return -draws.weight.mean(0).sum(), -value
    if family == "DoublyReparameterized":
        return -draws.bound.sum(), -(draws.share * draws.joint_at + draws.share**2 * path).sum()
    fixed, surrogate = draws.weight.detach(), (draws.share * (draws.joint_at - draws.guide_at)).sum(0)
    for k in range(NUM):
        others = torch.cat([fixed[:k], fixed[k + 1 :]])
        without = torch.cat([others, others.mean(0, keepdim=True)]).logsumexp(0) - math.log(NUM)
        surrogate = surrogate + (draws.bound.detach() - without) * draws.guide_at[k]
    return -draws.bound.sum(), -surrogate.sum()


@pytest.mark.parametrize("family", ["IWAE", "VIMCO", "StickingTheLanding", "DoublyReparameterized"])
@EVERY_PROGRAM
def test_objectives_with_particles_agree_with_draws_one_by_one(kind: type[Awkward], family: str) -> None:
    program, batches = _awkward(kind)
    objective, parameters = getattr(objectives, family)(num_particles=NUM), list(program.parameters())
    for args in batches:
        torch.manual_seed(5)
        loss = objective.differentiable_loss(program.model, program.guide, *args)
        expected, surrogate = _by_hand(family, _Draws(program, args, seed=5))
        assert _close(loss.detach(), expected.detach())
        gradients = [torch.autograd.grad(value, parameters, allow_unused=True) for value in (loss, surrogate)]
        for a, b in zip(*gradients, strict=True):
            assert (a is None) == (b is None)
            assert a is None or _close(a, b)


def test_tracing_the_programs_preserves_the_graph_of_an_earlier_loss() -> None:
    """Batch normalization in eval mode keeps its statistics for the backward pass."""
    program, (args, _) = _awkward(WideNorm)
    first = objectives.ELBO().differentiable_loss(program.model, program.guide, *args)
    second = objectives.IWAE(num_particles=NUM).differentiable_loss(program.model, program.guide, *args)
    (first + second).backward()


@EVERY_PROGRAM
def test_log_weights_agree_with_draws_one_by_one(kind: type[Awkward]) -> None:
    program, batches = _awkward(kind)
    for args in batches:
        draws = _Draws(program, args, seed=5)
        torch.manual_seed(5)
        assert _close(log_weights(program.model, program.guide, args, NUM).detach(), draws.weight.detach())


@WITH_CLOSED_FORM
def test_the_exact_posterior_gives_the_evidence_however_a_program_runs(kind: type[Awkward]) -> None:
    program, batches = _awkward(kind, exact=True)
    expected = torch.cat([program.log_evidence(*args) for args in batches])
    for name in ("log_likelihood", "ais-from-guide"):
        options = {"num_samples": 7, "chunk_size": 4} if name == "log_likelihood" else FEW | {"start": "guide"}
        evaluate: Any = log_likelihood if name == "log_likelihood" else annealed_log_likelihood
        result = evaluate(program.model, program.guide, batches, **options)
        assert _close(result.log_likelihood, expected), name
        assert result.protocol.get("way", "vectorised") == program.way, name


@pytest.mark.parametrize("kind", [TimeMajor, Dictionary, Conditional, Table, OneDatum])
def test_gaps_of_the_exact_posterior_however_a_program_runs(kind: type[Awkward]) -> None:
    program, batches = _awkward(kind, exact=True)
    result = inference_gaps(program.model, program.guide, batches, **GAPS)
    assert _close(result.elbo, torch.cat([program.log_evidence(*args) for args in batches]))


@pytest.mark.parametrize("kind", [Counts, Recurrent])
def test_log_likelihood_without_a_closed_form_is_that_of_draws_one_by_one(kind: type[Awkward]) -> None:
    program, (args, _) = _awkward(kind)
    num = 400
    with torch.no_grad():
        z = [program.draw(torch.randn(BATCH, LATENT_DIM), *args) for _ in range(num)]
        weights = torch.stack([program.log_joint(each, *args) - program.log_guide(each, *args) for each in z])
    bound = weights.logsumexp(0) - math.log(num)
    error = (weights - bound).exp().std(0) / math.sqrt(num)
    result = log_likelihood(program.model, program.guide, [args], num_samples=num)
    assert ((result.log_likelihood - bound).abs() < 4.5 * torch.hypot(error, result.standard_error)).all()
    assert result.protocol["way"] == "flattened"


@pytest.mark.parametrize("family", ["ELBO-1", "ELBO-3", "IWAE-3", "StickingTheLanding-3"])
@WITH_CLOSED_FORM
def test_fit_and_its_validation_count_the_data(kind: type[Awkward], family: str) -> None:
    """At the exact posterior the loss per datum is the mean of minus log p(x), for any order of dimensions."""
    program, batches = _awkward(kind, exact=True)
    name, num = family.split("-")
    truth = [program.log_evidence(*args) for args in batches]
    if isinstance(program, WideNorm):  # in train mode it is another model
        for parameter in program.norm.parameters():
            parameter.requires_grad_(False)
        program.norm.train = lambda mode=True: program.norm  # type: ignore[method-assign]
    record = fit(
        program.model,
        program.guide,
        batches,
        epochs=1,
        objective=getattr(objectives, name)(num_particles=int(num)),
        optimizer=partial(SGD, lr=1e-300),
        validation=batches[::-1],
        engine="eager",
    ).history[0]
    assert record["loss"] == pytest.approx(-float(torch.cat(truth).mean()), abs=1e-9)
    assert record["validation_elbo"] == pytest.approx(float(torch.cat(truth[::-1]).mean()), abs=1e-9)


def test_a_parameter_argument_of_the_batch_s_length_is_not_split() -> None:
    program, (args, _) = _awkward(Table)
    pair = examine(objectives.ELBO(), program.model, program.guide, args, Owners(model=program.model))
    assert data_axes(pair).dims == (None, 0)


@pytest.mark.parametrize("kind", [Softmax, TimeMajor, Chain])
def test_engines_give_the_same_numbers_however_a_program_runs(kind: type[Awkward], uncompiled: None) -> None:
    results = []
    for engine in ("eager", "compiled"):
        torch.manual_seed(0)
        program, (args, _) = _awkward(kind)
        options = ONCE | {"engine": engine, "objective": objectives.IWAE(num_particles=NUM)}
        fit(program.model, program.guide, [args], **options)
        results.append(list(program.parameters()))
    assert all(_close(a.detach(), b.detach()) for a, b in zip(*results, strict=True))


# Autoguides

AUTOGUIDES: dict[str, Callable[..., Any]] = {
    "AutoNormal": AutoNormal,
    "AutoDiagonalNormal": AutoDiagonalNormal,
    "AutoMultivariateNormal": AutoMultivariateNormal,
    "AutoLowRankMultivariateNormal": partial(AutoLowRankMultivariateNormal, rank=2),
    "AutoIAFNormal": AutoIAFNormal,
}
EVERY_AUTOGUIDE = pytest.mark.parametrize("name", AUTOGUIDES)
# A real number, a count, successes out of 4, votes (3): few observations, so that posteriors are wide.
MIXED = torch.tensor([[0.4, 1.0, 2.0, 2.0, 1.0, 2.0], [-0.7, 2.0, 1.0, 1.0, 3.0, 1.0], [0.1, 1.0, 3.0, 2.0, 2.0, 1.0]])


def _mixed_model(x: Tensor) -> None:
    """Latents on the reals, positive, bounded, and on the simplex."""
    with pyro.plate("data", len(x)):
        loc, rate = pyro.sample("loc", Normal(0.0, 1.0)), pyro.sample("rate", Gamma(3.0, 2.0))
        share = pyro.sample("share", Uniform(0.0, 1.0))
        shares = pyro.sample("shares", Dirichlet(torch.full((3,), 2.0)))
        pyro.sample("real", Normal(loc, 1.0), obs=x[:, 0])
        pyro.sample("count", Poisson(rate), obs=x[:, 1])
        pyro.sample("hits", Binomial(4, share), obs=x[:, 2])
        pyro.sample("votes", Multinomial(5, shares), obs=x[:, 3:])


def _mixed_evidence(x: Tensor) -> Tensor:
    parts = Normal(0.0, 2**0.5).log_prob(x[:, 0]), GammaPoisson(3.0, 2.0).log_prob(x[:, 1])
    rest = DirichletMultinomial(torch.full((3,), 2.0), 5).log_prob(x[:, 3:])
    return sum(parts) + BetaBinomial(1.0, 1.0, 4).log_prob(x[:, 2]) + rest


def _autoguide(name: str) -> Any:
    """Wider than the posterior of the mixed data, with nonzero values of all parameters, correlations included."""
    scale = 1.7 if name == "AutoLowRankMultivariateNormal" else 1.2  # half of its variance is diagonal
    options = {} if name == "AutoIAFNormal" else {"init_loc_fn": init_to_median, "init_scale": scale}
    guide = AUTOGUIDES[name](_mixed_model, **options)
    guide(MIXED)
    with torch.no_grad():
        for key, parameter in guide.named_parameters():
            parameter *= 0.3 if "cov_factor" in key else 1.0
            parameter += 0.05 * torch.randn_like(parameter)
    return guide


@EVERY_AUTOGUIDE
def test_the_densities_of_an_autoguide_add_up_to_pyro_s(name: str) -> None:
    guide = _autoguide(name)
    importance = ImportanceWeights(_mixed_model, guide, (MIXED,))
    with torch.no_grad():
        weights, latent = importance.sample_with_latents(NUM, (MIXED,))
        guide_trace = poutine.trace(guide).get_trace(MIXED)
        drawn = [
            k for k, site in guide_trace.nodes.items() if site["type"] == "sample" and site["infer"].get("is_auxiliary")
        ]
        for k in range(NUM):
            at = poutine.Trace()
            for key in drawn:
                value = latent.nodes[key]["value"][k].reshape(guide_trace.nodes[key]["value"].shape)
                at.add_node(key, **{**guide_trace.nodes[key], "value": value})
            q = poutine.trace(poutine.replay(guide, trace=at)).get_trace(MIXED)
            p = poutine.trace(poutine.replay(_mixed_model, trace=q)).get_trace(MIXED)
            assert _close(weights.total[k].sum(), torch.as_tensor(p.log_prob_sum() - q.log_prob_sum()))
    assert len(set(latent.nodes[drawn[0]]["value"].flatten(1)[:, 0].tolist())) == NUM


@EVERY_AUTOGUIDE
def test_an_autoguide_estimates_the_evidence(name: str) -> None:
    guide = _autoguide(name)
    result = log_likelihood(_mixed_model, guide, MIXED, num_samples=2000, chunk_size=1000)
    z = (result.log_likelihood - _mixed_evidence(MIXED)) / result.standard_error
    assert z.abs().max() < 4.5
    assert result.standard_error.max() < 0.15


@pytest.mark.parametrize("name", ["AutoNormal", "AutoDiagonalNormal"])
def test_rounding_does_not_decide_how_an_autoguide_runs(name: str) -> None:
    """Latents computed from a vector, such as points of a simplex, may differ in the last bit from run to run."""
    guide = _autoguide(name)
    for seed in range(20):
        torch.manual_seed(seed)
        assert ImportanceWeights(_mixed_model, guide, (MIXED,)).runs(NUM).mode == "vectorised"


@EVERY_AUTOGUIDE
def test_losses_with_an_autoguide_are_pyro_s(name: str) -> None:
    guide, losses = _autoguide(name), []
    once = [Trace_ELBO(), *(getattr(objectives, k)(num_particles=1) for k in ("IWAE", *HOLDING))]
    for objective in once:
        torch.manual_seed(5)
        losses.append(objective.differentiable_loss(_mixed_model, guide, MIXED).detach())
    assert all(_close(loss, losses[0]) for loss in losses)


def _one_normal(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("x", Normal(pyro.sample("z", Normal(0.0, 1.0)), 1.0), obs=x)


@pytest.mark.parametrize(
    ("name", "family"), [*((name, "StickingTheLanding") for name in AUTOGUIDES), ("AutoNormal", "ELBO")]
)
def test_fit_brings_an_autoguide_to_the_posterior(name: str, family: str) -> None:
    """The posterior is a normal in each of these families, so that the ELBO becomes log p(x)."""
    x = torch.tensor([1.0, -0.5, 0.3])
    guide, options = AUTOGUIDES[name](_one_normal), {"epochs": 150, "batch_size": 3, "engine": "eager"}
    schedule = partial(MultiStepLR, milestones=[80, 120], gamma=0.2)
    objective = getattr(objectives, family)()
    fit(_one_normal, guide, x, objective=objective, optimizer=partial(Adam, lr=0.1), lr_schedule=schedule, **options)
    result = log_likelihood(_one_normal, guide, x, num_samples=200)
    gap = Normal(0.0, 2**0.5).log_prob(x) - result.elbo
    assert gap.abs().max() < (0.04 if family == "StickingTheLanding" else 0.1)  # untrained: 0.28 and more


@EVERY_AUTOGUIDE
def test_an_autoguide_raises_on_part_of_its_data(name: str) -> None:
    x = torch.tensor([1.0, -0.5, 0.3, 0.8])
    guide = AUTOGUIDES[name](_one_normal)
    fit(_one_normal, guide, x, epochs=1, batch_size=4, engine="eager")
    for size, reason in {1: "must have the length of the batch", 3: "pass these in one batch"}.items():
        with pytest.raises(ValueError, match=rf"^log_likelihood: .* {reason}"):
            log_likelihood(_one_normal, guide, x, num_samples=2, batch_size=size)
    with pytest.raises(ValueError, match=r"^fit: .* pass these in one batch"):
        fit(_one_normal, guide, x, epochs=1, batch_size=2, engine="eager")


@EVERY_AUTOGUIDE
def test_the_advice_after_a_batch_that_is_too_small_can_be_followed(name: str) -> None:
    """The failed training must not have initialised the guide for the batch."""
    x = torch.tensor([1.0, -0.5, 0.3, 0.8])
    guide = AUTOGUIDES[name](_one_normal)
    with pytest.raises(ValueError, match=r"^fit: .* requires all data in one batch, .* Use batch_size=len\(data\)"):
        fit(_one_normal, guide, x, epochs=1, batch_size=2, engine="eager")
    fit(_one_normal, guide, x, epochs=1, batch_size=len(x), engine="eager")


@EVERY_AUTOGUIDE
def test_annealing_does_not_need_the_density_of_an_autoguide(name: str) -> None:
    x = torch.tensor([1.0, -0.5, 0.3])
    guide = AUTOGUIDES[name](_one_normal)
    guide(x)
    anneal = partial(annealed_log_likelihood, _one_normal, guide, x, num_distributions=20, num_chains=40, num_steps=3)
    result = anneal(engine="eager")
    z = (result.log_likelihood - Normal(0.0, 2**0.5).log_prob(x)) / result.standard_error
    assert z.abs().max() < 4.5
    with pytest.raises(ValueError, match=r"^annealed_log_likelihood: .* Use start='prior'"):
        anneal(start="guide", engine="eager")


def test_a_guide_of_points_has_no_density() -> None:
    guide, x = AutoDelta(_one_normal), torch.zeros(3)
    guide(x)
    reason = r": the guide must have densities, got a Delta at site 'z'"
    for evaluate in (log_likelihood, partial(annealed_log_likelihood, start="guide"), inference_gaps):
        with pytest.raises(ValueError, match=reason):
            evaluate(_one_normal, guide, x)
    for family in sorted(set(BOUNDS) - {"ELBO"}):
        with pytest.raises(ValueError, match=reason):
            FAMILIES[family]().differentiable_loss(_one_normal, guide, x)


def _shared_latent(x: Tensor) -> None:
    loc = pyro.sample("loc", Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", Normal(loc, 1.0), obs=x)


@pytest.mark.parametrize("name", ["AutoNormal", "AutoDiagonalNormal", "AutoMultivariateNormal", "AutoDelta"])
def test_an_autoguide_of_a_global_latent_raises(name: str) -> None:
    guide = AutoDelta(_shared_latent) if name == "AutoDelta" else AUTOGUIDES[name](_shared_latent)
    guide(torch.zeros(3))
    reason = r": every site must be within one vectorised plate over the data, got \[.*'loc'"
    with pytest.raises(ValueError, match=reason):
        log_likelihood(_shared_latent, guide, torch.zeros(3))
    with pytest.raises(ValueError, match=reason):
        objectives.IWAE().differentiable_loss(_shared_latent, guide, torch.zeros(3))


# What changes between calls


def _annealed_model(x: Tensor, beta: float) -> None:
    with pyro.plate("data", len(x)):
        with poutine.scale(scale=beta):
            z = pyro.sample("z", Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        pyro.sample("x", Normal(z.sum(-1), 1.0), obs=x)


def _annealed_guide(x: Tensor, beta: float) -> None:
    loc = pyro.param("loc", torch.tensor([0.3, 0.1]))
    with pyro.plate("data", len(x)), poutine.scale(scale=beta):
        pyro.sample("z", Normal(loc * x.unsqueeze(-1), 0.7).to_event(1))


def _numbers(num: int = 8) -> Tensor:
    return torch.linspace(-1.0, 2.0, num)


@pytest.mark.parametrize("family", PER_DATUM)
def test_a_changing_scale_raises_if_the_loss_would_be_wrong(family: str) -> None:
    objective, x = FAMILIES[family](), _numbers()
    objective.loss(_annealed_model, _annealed_guide, x, 1.0)
    with pytest.raises(ValueError, match=rf"^{family}: all sites must have one scale, .* Use ELBO or BetaELBO"):
        objective.loss(_annealed_model, _annealed_guide, x, 0.1)
    if family != "EnumeratedELBO":  # there is nothing to sum here
        with pytest.raises(ValueError, match=rf"^{family}: all sites must have one scale"):
            fit(_annealed_model, _annealed_guide, [(x, 1.0), (x, 0.1)], objective=FAMILIES[family](), **ONCE)


@pytest.mark.parametrize("family", ["ELBO", "BetaELBO"])
def test_losses_linear_in_the_scale_follow_its_changes(family: str) -> None:
    x, objective = _numbers(), getattr(objectives, family)()
    for beta in (1.0, 0.1, 0.4):
        losses = []
        for each in (objective, Trace_ELBO()):
            torch.manual_seed(5)
            losses.append(each.differentiable_loss(_annealed_model, _annealed_guide, x, beta).detach())
        assert _close(*losses)
    history = fit(_annealed_model, _annealed_guide, [(x, 1.0), (x, 0.1)], objective=objective, **ONCE).history
    assert math.isfinite(history[0]["loss"])


def _with_late_latent(x: Tensor, late: bool, place: str, *, is_model: bool) -> None:
    """A pair with a latent ``late`` that exists only if ``late`` is set: in the model alone, or in both programs."""
    with pyro.plate("data", len(x)):
        if is_model:
            z = pyro.sample("z", Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
        else:
            z = pyro.sample("z", Normal(pyro.param("slope", torch.tensor(0.4)) * x[:, :1], 0.7).to_event(1))
        if late and (is_model or place != "model"):
            z = z + pyro.sample("late", Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
        if is_model:
            loc = z + torch.tensor([0.5, -0.5])
            loc = depends_on_dims(loc) if place == "flattened" else loc
            pyro.sample("x", Normal(loc, 1.0).to_event(1), obs=x)


LATE = [partial(_with_late_latent, is_model=is_model) for is_model in (True, False)]


@EVERY_FAMILY
def test_a_late_latent_in_the_model_only_raises_by_name(family: str) -> None:
    objective, x = FAMILIES[family](), _numbers().unsqueeze(1).repeat(1, 2)
    for _ in range(2):
        objective.loss(*LATE, x, False, "model")
    with pytest.raises((ValueError, UserWarning), match="late"):  # Pyro's ELBOs warn
        objective.loss(*LATE, x, True, "model")


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"EnumeratedELBO"}))
def test_fit_raises_on_a_late_latent_in_the_model_only(family: str) -> None:
    x = _numbers().unsqueeze(1).repeat(1, 2)
    batches = [(x, False, "model"), (x, True, "model")]
    with pytest.raises(ValueError, match="late"):
        fit(*LATE, batches, objective=FAMILIES[family](), **ONCE)


SEVERAL_SITES = sorted(set(FAMILIES) - {"BetaTC", "FactorVAE", "InfoVAE"})


@pytest.mark.parametrize(
    ("family", "place"),
    [*((f, "both") for f in SEVERAL_SITES), *((f, "flattened") for f in SEVERAL_SITES if f in PER_DATUM)],
)
def test_a_late_latent_in_both_programs_is_included(family: str, place: str) -> None:
    x, losses = _numbers().unsqueeze(1).repeat(1, 2), []
    for first in (False, True):
        objective = FAMILIES[family]()
        objective.loss(*LATE, x, first, place)
        torch.manual_seed(5)
        losses.append(objective.differentiable_loss(*LATE, x, True, place).detach())
    assert _close(*losses)


class _Masked(Softmax):
    """A pair whose call decides whether both programs are masked."""

    def __init__(self, flattens: bool) -> None:
        super().__init__()
        self.flattens = flattens

    def decode(self, z: Tensor, *args: Any) -> Tensor:
        return depends_on_dims(self.decoder(z)) if self.flattens else self.decoder(z)

    def model(self, x: Tensor, masked: bool = False) -> None:
        with poutine.mask(mask=self.mask(x) if masked else True):
            super().model(x)

    def guide(self, x: Tensor, masked: bool = False) -> None:
        with poutine.mask(mask=self.mask(x) if masked else True):
            super().guide(x)

    def mask(self, x: Tensor) -> Tensor:
        return torch.arange(len(x)) % 3 > 0


@pytest.mark.parametrize("flattens", [False, True])
@pytest.mark.parametrize("family", sorted(set(BOUNDS) - {"ELBO"}))
def test_a_late_mask_is_applied(family: str, flattens: bool) -> None:
    program = _Masked(flattens)
    program.set_exact()
    (x,), objective = program.batch(BATCH), FAMILIES[family]()
    for masked in (False, True, False):
        expected = program.log_evidence(x)[program.mask(x) | (not masked)].sum()
        assert objective.loss(program.model, program.guide, x, masked) == pytest.approx(-float(expected), abs=1e-9)


def test_a_late_mask_is_applied_by_fit() -> None:
    program = _Masked(False)
    program.set_exact()
    (x,) = program.batch(BATCH)
    truth = program.log_evidence(x)
    for objective in (objectives.ELBO(), objectives.IWAE(num_particles=NUM)):
        options = ONCE | {"optimizer": partial(SGD, lr=1e-300), "objective": objective}
        record = fit(program.model, program.guide, [(x, False), (x, True)], **options).history[0]
        expected = -(truth.sum() + truth[program.mask(x)].sum()) / (2 * BATCH)
        assert record["loss"] == pytest.approx(float(expected), abs=1e-9)


# Guides whose density is not that of their samples


def _masked_draws(encoder: Encoder, x: Tensor) -> None:
    with poutine.mask(mask=torch.arange(len(x)) > 2):
        guide_of(encoder, x)


def _no_density(encoder: Encoder, x: Tensor) -> None:
    with poutine.mask(mask=False):
        guide_of(encoder, x)


def _masked_distribution(encoder: Encoder, x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", Normal(*encoder(x)).to_event(1).mask(torch.arange(len(x)) > 2))


def _masked_entries(encoder: Encoder, x: Tensor) -> None:
    loc, scale = encoder(x)
    with pyro.plate("data", len(x)):
        pyro.sample("z", Normal(loc, scale).mask(loc > 0).to_event(1))


def _with_factor(encoder: Encoder, x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.factor("loss", torch.full((len(x),), 5.0), has_rsample=False)
        pyro.sample("z", Normal(*encoder(x)).to_event(1))


def _with_factor_of_the_draws(encoder: Encoder, x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", Normal(*encoder(x)).to_event(1))
        pyro.factor("loss", 5.0 + 0.0 * z.sum(-1), has_rsample=True)


def _with_observation(encoder: Encoder, x: Tensor) -> None:
    """A regression on some of the data."""
    loc, scale = encoder(x)
    with pyro.plate("data", len(x)):
        pyro.sample("label", Normal(loc[:, 0], 1.0), obs=x[:, 0])
        pyro.sample("z", Normal(loc, scale).to_event(1))


def _with_auxiliary(encoder: Encoder, x: Tensor) -> None:
    """An auxiliary variable that z does not depend on, with its reverse model; and an observation and a loss."""
    loc, scale = encoder(x)
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", Normal(torch.zeros(len(x)), 1.0), infer={"is_auxiliary": True})
        pyro.factor("reverse", -Normal(0.0, 1.0).log_prob(a), has_rsample=True)
        pyro.sample("label", Normal(loc[:, 0], 1.0), obs=x[:, 0])
        pyro.factor("loss", torch.full((len(x),), 5.0), has_rsample=False)
        pyro.sample("z", Normal(loc, scale).to_event(1))


def _following(encoder: Encoder, x: Tensor, *, sign: float = -1.0) -> None:
    """z = loc + scale a, with the log-determinant of that map as its density for ``sign=-1``."""
    loc, scale = encoder(x)
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", Normal(torch.zeros_like(loc), 1.0).to_event(1), infer={"is_auxiliary": True})
        log_density = sign * scale.log().sum().expand(a.shape[:-1])
        pyro.sample("z", Delta(loc + scale * a, log_density=log_density, event_dim=1))


DENSITIES: dict[str, tuple[Callable[..., None], float]] = {  # with their contributions to the loss of a datum
    "masked": (_masked_draws, 0.0),
    "no-density": (_no_density, 0.0),
    "masked-distribution": (_masked_distribution, 0.0),
    "masked-entries": (_masked_entries, 0.0),
    "factor": (_with_factor, 5.0),
    "factor-of-draws": (_with_factor_of_the_draws, 5.0),
    "observation": (_with_observation, 0.0),
    "auxiliary": (_with_auxiliary, 5.0),
    "following": (_following, 0.0),
}


def _exact_pair(name: str) -> tuple[Callable[..., None], Callable[..., None], Encoder]:
    decoder, encoder = Decoder(numbers()), Encoder(numbers())
    return partial(model_of, decoder), partial(DENSITIES[name][0], encoder), encoder


@pytest.mark.parametrize("name", DENSITIES)
def test_weights_have_the_density_of_the_draws(name: str) -> None:
    model, guide, _ = _exact_pair(name)
    x = data()
    assert _close(log_weights(model, guide, x, num_samples=NUM).detach(), log_evidence(x).expand(NUM, len(x)))
    assert _close(log_likelihood(model, guide, x, num_samples=5, chunk_size=3).log_likelihood, log_evidence(x))


@pytest.mark.parametrize("family", ["IWAE", "MIWAE", "Renyi", "VIMCO", *HOLDING])
@pytest.mark.parametrize("name", DENSITIES)
def test_bounds_have_the_density_of_the_draws(name: str, family: str) -> None:
    model, guide, encoder = _exact_pair(name)
    x = data()
    if name == "following" and family in HOLDING:  # at a fixed z, the noise depends on the parameters of the map
        with pytest.raises(ValueError, match=rf"^{family}: "):
            FAMILIES[family]().differentiable_loss(model, guide, x)
        return
    loss = FAMILIES[family]().differentiable_loss(model, guide, x)
    expected = -log_evidence(x).sum() + len(x) * DENSITIES[name][1]
    assert _close(loss.detach(), expected)
    if family in HOLDING:
        for gradient in torch.autograd.grad(loss, list(encoder.parameters())):
            assert gradient.abs().max() < 1e-9


@pytest.mark.parametrize("sign", [0.0, 1.0])
def test_latents_without_the_log_determinant_of_their_map_raise(sign: float) -> None:
    model, _, encoder = _exact_pair("following")
    guide, x = partial(_following, encoder, sign=sign), data()
    for owner, run in {
        "log_weights": partial(log_weights, model, guide, x),
        "log_likelihood": partial(log_likelihood, model, guide, x),
        "IWAE": partial(objectives.IWAE().differentiable_loss, model, guide, x),
        "fit": partial(fit, model, guide, x, **ONCE),
    }.items():
        with pytest.raises(ValueError, match=rf"^{owner}: .*log-determinant .* got another at sites \['z'\]"):
            run()
