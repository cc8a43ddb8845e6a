"""Programs in published styles: training and log-weights per datum agree with Pyro itself."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor
from torch.optim import SGD

from pyro_vae import fit
from pyro_vae.evaluation import ImportanceWeights
from tests.programs.pair import Batch, Built
from tests.programs.table import PAIRS, PyroPair

EVERY_PAIR = pytest.mark.parametrize("pair", PAIRS, ids=repr)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not define `arg_constraints`"),  # of zuko's flows
    pytest.mark.filterwarnings("ignore:.*got no gradient in the first epoch"),  # a batch without labels, for one
]
EVERY_BATCH = pytest.mark.parametrize("number", [0, 1])
RATE = 1e-3


def _pyro_loss(program: Built, batch: Batch, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """Pyro's own loss at a seed, a sum over the data, and all parameters that it depends on, unconstrained.

    Those in Pyro's store have its names; others, trained by an optimizer of torch's, are numbered. The first run is
    for Pyro: it detects the plates and creates the parameters that are created at the first call, and may draw more
    random numbers for that.
    """
    objective = program.objective()
    with torch.random.fork_rng(devices=[]):
        objective.differentiable_loss(program.model, program.guide, *batch)
    pyro.set_rng_seed(seed)
    with poutine.trace(param_only=True) as capture:
        loss = objective.differentiable_loss(program.model, program.guide, *batch)
    parameters = {name: site["value"].unconstrained() for name, site in capture.trace.nodes.items()}
    known = {id(p) for p in parameters.values()}
    others = [leaf for leaf in _leaves(loss) if id(leaf) not in known]
    return loss, parameters | {f"leaf {number}": leaf for number, leaf in enumerate(others)}


def _leaves(loss: Tensor) -> list[Tensor]:
    """The leaves of the loss, in the order of the graph."""
    nodes, visited = [loss.grad_fn], {}
    while nodes:
        node = nodes.pop()
        if node is not None and node not in visited:
            visited[node] = getattr(node, "variable", None)
            nodes.extend(parent for parent, _ in node.next_functions)
    return [leaf for leaf in visited.values() if leaf is not None]


def _gradients(loss: Tensor, parameters: dict[str, Tensor]) -> dict[str, Tensor | None]:
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, gradients, strict=True))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, tuple | list):  # a PackedSequence too
        return len(a) == len(b) and all(map(_equal, a, b))
    return all(_equal(a[key], b[key]) for key in a) if isinstance(a, dict) else a == b


# The table itself


def test_names_are_unique() -> None:
    names = [pair.name for pair in PAIRS]
    assert len(set(names)) == len(names) == 41
    assert sum(pair.build().global_latents for pair in PAIRS) == 4


@EVERY_PAIR
def test_building_a_pair_again_gives_the_same_numbers(pair: PyroPair) -> None:
    results = []
    for _ in range(2):
        pyro.clear_param_store()
        torch.rand(3)  # the generator's state differs each time
        program = pair.build()
        assert _equal(program.args, program.batches[0])
        loss, parameters = _pyro_loss(program, program.args)
        results.append((program, float(loss.detach()), parameters))
    (first, loss, parameters), (second, again, others) = results
    assert _equal(first.batches, second.batches)
    assert loss == again
    assert parameters.keys() == others.keys()
    assert all(torch.equal(parameters[k], others[k]) and parameters[k] is not others[k] for k in parameters)


@EVERY_BATCH
@EVERY_PAIR
def test_the_published_objective_is_finite_and_trains_the_parameters(pair: PyroPair, number: int) -> None:
    program = pair.build()
    loss, parameters = _pyro_loss(program, program.batches[number])
    gradients = _gradients(loss, parameters)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in gradients.values() if g is not None)
    moved = {name for name, g in gradients.items() if g is not None and g.abs().max() > 1e-12}
    assert moved
    if number == 0:
        assert {name for name in parameters if name.endswith(program.idle)} == parameters.keys() - moved


@EVERY_PAIR
def test_the_programs_run_in_single_precision(pair: PyroPair, single_precision: None) -> None:
    program = pair.build()
    loss, parameters = _pyro_loss(program, program.args)
    assert torch.isfinite(loss)
    assert {p.dtype for p in parameters.values()} == {torch.float32}


# Training


def _fitted(program: Built, number: int) -> float:
    """The loss of the first step of ``fit`` on one of the batches, per datum."""
    result = fit(
        program.model,
        program.guide,
        [program.batches[number]],
        epochs=1,
        objective=program.objective(),
        optimizer=partial(SGD, lr=RATE),
        seed=0,
        engine="eager",
        progress=False,
    )
    return result.history[0]["loss"]


@pytest.mark.slow
@EVERY_BATCH
@EVERY_PAIR
def test_the_first_loss_of_fit_is_pyros_per_datum(pair: PyroPair, number: int) -> None:
    reference = pair.build()
    batch = reference.batches[number]
    expected = _pyro_loss(reference, batch)[0].detach() / reference.num_data(*batch)
    pyro.clear_param_store()
    assert _fitted(pair.build(), number) == pytest.approx(float(expected), rel=1e-9, abs=1e-9)


@EVERY_BATCH
@EVERY_PAIR
def test_the_first_step_of_fit_is_pyros(pair: PyroPair, number: int) -> None:
    """For every style of program, its parameters are trained with Pyro's gradient per datum."""
    reference = pair.build()
    batch = reference.batches[number]
    loss, before = _pyro_loss(reference, batch)
    steps = {
        k: 0.0 if g is None else RATE / reference.num_data(*batch) * g for k, g in _gradients(loss, before).items()
    }
    pyro.clear_param_store()
    program = pair.build()
    _fitted(program, number)
    after = _pyro_loss(program, batch)[1]
    assert after.keys() == before.keys()
    for name in before:
        torch.testing.assert_close(after[name], before[name] - steps[name], rtol=0, atol=1e-9, msg=name)


# Log-weights

LOCAL = [pair for pair in PAIRS if not pair.build().global_latents and pair.name != "jivae"]
GLOBAL = [pair for pair in PAIRS if pair.build().global_latents]
NUM = 3


def _per_datum(trace: Trace, names: list[str], plate: Any) -> Tensor:
    """Sums of masked, unscaled log-probabilities over all plates except that of the data, ``(B,)``."""
    total: Any = 0.0
    for name in names:
        site = trace.nodes[name]
        value = site["fn"].log_prob(site["value"])
        if site["mask"] is not None:
            value = torch.where(torch.as_tensor(site["mask"]), value, 0.0)
        others = [dim for dim in range(-value.dim(), 0) if dim != plate.dim]
        total = total + (value.sum(others) if others else value)
    return total


def _names(trace: Trace, *, observed: bool) -> list[str]:
    sites = (s for s in trace.nodes.values() if s["type"] == "sample" and type(s["fn"]).__name__ != "_Subsample")
    return [s["name"] for s in sites if s["is_observed"] == observed and not s["infer"].get("_deterministic")]


def _one_draw(program: Built, args: Batch, latent: Trace, number: int, plate: Any) -> Tensor:
    """log p(x, z) - log q(z | x) of one sample, from plain runs of the programs, ``(B,)``."""
    guide = poutine.trace(program.guide).get_trace(*args)
    names = _names(guide, observed=False)
    at = guide.copy()
    for name in names:
        value = latent.nodes[name]["value"][number].reshape(guide.nodes[name]["value"].shape)
        at.nodes[name] = {**guide.nodes[name], "value": value}
    guide = poutine.trace(poutine.replay(program.guide, trace=at)).get_trace(*args)
    model = poutine.replay(program.model, trace=at)
    trace = poutine.trace(model).get_trace(*args)
    summed = [name for name in _names(trace, observed=False) if name not in names]
    weights = [_joint(model, args, trace, summed, value, plate) for value in _supports(trace, summed)]
    return torch.stack(weights).logsumexp(0) - _per_datum(guide, names, plate)


def _supports(trace: Trace, summed: list[str]) -> list[Tensor | None]:
    """The values of the discrete site that the model sums over; None without one."""
    if not summed:
        return [None]
    (name,) = summed
    return list(trace.nodes[name]["fn"].enumerate_support())


def _joint(model: Any, args: Batch, trace: Trace, summed: list[str], value: Tensor | None, plate: Any) -> Tensor:
    at = trace.copy()
    for name in summed:
        at.nodes[name] = {**trace.nodes[name], "value": value}
    replayed = poutine.trace(poutine.replay(model, trace=at)).get_trace(*args)
    return _per_datum(replayed, _names(replayed, observed=False) + _names(replayed, observed=True), plate)


@pytest.mark.slow
@EVERY_BATCH
@pytest.mark.parametrize("pair", LOCAL, ids=repr)
def test_the_log_weights_are_those_of_draws_one_by_one(pair: PyroPair, number: int) -> None:
    program = pair.build()
    args = program.batches[number]
    importance = ImportanceWeights(program.model, program.guide, args)
    with importance.pair.owners.evaluating():
        weights, latent = importance.sample_with_latents(NUM, args)
        for draw in range(NUM):
            expected = _one_draw(program, args, latent, draw, importance.plate)
            torch.testing.assert_close(weights.total[draw], expected, rtol=1e-9, atol=1e-9)
    assert weights.total.shape == (NUM, program.num_data(*args))


def test_a_program_that_runs_only_enumerated_raises_a_one_line_error() -> None:
    """The model cannot run with a sampled class."""
    (program,) = [pair.build() for pair in PAIRS if pair.name == "jivae"]
    with pytest.raises(ValueError, match=r"^log_weights: the model must run on a batch, got RuntimeError") as error:
        ImportanceWeights(program.model, program.guide, program.args)
    assert "\n" not in str(error.value)


@EVERY_BATCH
@pytest.mark.parametrize("pair", GLOBAL, ids=repr)
def test_latents_shared_by_all_data_raise_with_that_reason(pair: PyroPair, number: int) -> None:
    program = pair.build()
    with pytest.raises(ValueError, match=r"^log_weights: every site must be within one vectorised plate over the data"):
        ImportanceWeights(program.model, program.guide, program.batches[number])
