"""Programs of the kinds that are published do what Pyro itself makes of them: training, and log-weights per datum."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.optim import SGD

from pyro_vae import fit
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

    Those that Pyro knows have its names; others, trained by an optimizer of torch's, are numbered. The first run is
    for Pyro: it looks for the plates and makes the parameters that are made at the first call, and may draw more
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
    """The tensors that the loss has a gradient by, in the order of the graph."""
    nodes, seen = [loss.grad_fn], {}
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen[node] = getattr(node, "variable", None)
            nodes.extend(parent for parent, _ in node.next_functions)
    return [leaf for leaf in seen.values() if leaf is not None]


def _gradients(loss: Tensor, parameters: dict[str, Tensor]) -> dict[str, Tensor | None]:
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, found, strict=True))


def _equal(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, Tensor):
        return torch.equal(mine, theirs)
    if isinstance(mine, tuple | list):  # a PackedSequence too
        return len(mine) == len(theirs) and all(map(_equal, mine, theirs))
    return all(_equal(mine[key], theirs[key]) for key in mine) if isinstance(mine, dict) else mine == theirs


# The table itself


def test_names_are_unique() -> None:
    names = [pair.name for pair in PAIRS]
    assert len(set(names)) == len(names) == 41
    assert sum(pair.build().global_latents for pair in PAIRS) == 4


@EVERY_PAIR
def test_a_pair_is_built_anew_with_the_same_numbers(pair: PyroPair) -> None:
    results = []
    for _ in range(2):
        pyro.clear_param_store()
        torch.rand(3)  # the generator is somewhere else each time
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
    """However the programs are written, their parameters are found and moved against Pyro's gradient per datum."""
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
#
# HERE: for every pair without global latents, log_weights against a loop of draws one by one at the same latents; and
# the refusal of every pair with global latents.
