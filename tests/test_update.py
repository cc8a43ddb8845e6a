"""Adam's update as tensor operations takes the steps of torch's optimizers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import get_total_norm
from torch.optim import SGD, Adam, AdamW
from torch.optim.optimizer import register_optimizer_step_post_hook

from pyro_vae.training.average import WeightAverage
from pyro_vae.training.engines.update import Update
from pyro_vae.training.loss import Gradients


def _parameters() -> list[nn.Parameter]:
    torch.manual_seed(5)
    return [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(5))]


def _gradients(gradients: list[torch.Tensor | None], *, finite: bool = True) -> Gradients:
    norm = get_total_norm([g for g in gradients if g is not None])
    return Gradients(torch.tensor(0.0), None, gradients, norm, torch.tensor(finite))


def _take(update: Update, total: Gradients, step: int) -> None:
    """A step as a recording takes it, if it can."""
    if not update.recordable:
        update(total, update.weight(step))
        return
    update.adopt_state()
    update.record(total, torch.tensor(update.numbers(step), dtype=torch.float64))


def _state(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> list[torch.Tensor]:
    return [*parameters, *(optimizer.state[p][name] for p in parameters for name in ("step", "exp_avg", "exp_avg_sq"))]


def _other(optimizer: torch.optim.Optimizer) -> dict:
    """A state as it would come from a checkpoint."""
    state = copy.deepcopy(optimizer.state_dict())
    for values in state["state"].values():
        values["exp_avg"] += 1
    return state


CHANGES = {  # possible changes of an optimizer between two steps
    "nothing": lambda optimizer: None,
    "another state": lambda optimizer: optimizer.load_state_dict(_other(optimizer)),
    "other numbers": lambda optimizer: optimizer.param_groups[0].update(
        lr=1e-3, weight_decay=0.3, betas=(0.5, 0.9), eps=0.1
    ),
    "a rate that is a tensor": lambda optimizer: optimizer.param_groups[0].update(lr=torch.tensor(1e-3)),
    "maximize": lambda optimizer: optimizer.param_groups[0].update(weight_decay=0.0, maximize=True),
    "a hook": lambda optimizer: optimizer.register_step_pre_hook(lambda o, *_: o.param_groups[0].update(lr=0.5)),
    "no state": lambda optimizer: optimizer.state.clear(),
    "no state of one parameter": lambda optimizer: optimizer.state.pop(optimizer.param_groups[1]["params"][0]),
    "another group": lambda optimizer: optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "lr": 1.0}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_recorded_steps_equal_the_optimizer_s(kind, change) -> None:
    results = []
    for by_update in (True, False):
        parameters = _parameters()
        optimizer = kind([{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.05}], lr=0.1, weight_decay=0.1)
        update = Update(optimizer, parameters)
        update.state()
        for number in range(8):
            if number == 4:
                change(optimizer)
            gradients: list = [torch.randn(4, 3), torch.randn(5) if number != 2 else None]
            if by_update:
                _take(update, _gradients(gradients), number)
            else:
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                optimizer.step()
        results.append(_state(optimizer, parameters))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-12, atol=1e-12, check_dtype=False)


def test_recorded_steps_clip_skip_and_average_as_others_do() -> None:
    """Against the same steps by torch's optimizer, which is never recorded if it has a hook."""
    results = []
    for recorded in (True, False):
        parameters = _parameters()
        average = WeightAverage(0.6, {"a": parameters[0], "b": parameters[1]})
        optimizer = Adam(parameters, lr=0.1)
        if not recorded:
            optimizer.register_step_pre_hook(lambda *_: None)
        update = Update(optimizer, parameters, clip_norm=1.0, skip_norm=6.0, average=average)
        update.state()
        assert update.recordable == recorded
        sizes = [0.1, 1.0, 9.0, 1.0, 0.3]
        for number, size in enumerate(sizes):
            total = _gradients([size * torch.randn(4, 3), size * torch.randn(5)])
            assert update.skips(float(total.norm)) == (size == 9.0)
            if recorded or not update.skips(float(total.norm)):
                _take(update, total, number)
        results.append([*_state(optimizer, parameters), *average.tensors.values()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-12, atol=1e-12)


def test_a_step_that_is_not_finite_or_not_to_be_applied_changes_nothing() -> None:
    parameters = _parameters()
    average = WeightAverage(0.6, {"a": parameters[0], "b": parameters[1]})
    update = Update(Adam(parameters, lr=0.1), parameters, average=average)
    update.state()
    _take(update, _gradients([torch.randn(4, 3), torch.randn(5)]), 0)
    before = [t.clone() for t in (*_state(update.optimizer, parameters), *average.tensors.values())]
    bad = torch.full((5,), torch.nan)
    _take(update, _gradients([torch.randn(4, 3), bad], finite=False), 1)
    numbers = torch.tensor([0.0, *update.numbers(1)[1:]], dtype=torch.float64)
    update.record(_gradients([torch.randn(4, 3), torch.randn(5)]), numbers)
    assert all(map(torch.equal, before, (*_state(update.optimizer, parameters), *average.tensors.values())))


def test_other_optimizers_are_not_recorded() -> None:
    class Mine(Adam):
        """A subclass may do anything."""

    parameters = _parameters()
    assert not Update(SGD(parameters), parameters).recordable
    assert not Update(Mine(parameters), parameters).recordable
    assert not Update(Adam(parameters, amsgrad=True), parameters).recordable
    assert not Update(Adam(parameters[:1]), parameters).recordable
    assert Update(AdamW(parameters), parameters).recordable


def test_hooks_of_all_optimizers_are_honoured() -> None:
    parameters = _parameters()
    update = Update(Adam(parameters), parameters)
    assert update.recordable
    hook = register_optimizer_step_post_hook(lambda *_: None)
    assert not update.recordable
    hook.remove()
    assert update.recordable


def test_a_parameter_without_gradient_does_not_change() -> None:
    parameters = _parameters()
    update = Update(Adam(parameters, lr=0.1, weight_decay=1.0), parameters)
    update.state()
    before = parameters[1].detach().clone()
    for number in range(3):
        _take(update, _gradients([torch.ones(4, 3), None]), number)
    assert torch.equal(parameters[1], before)
    assert float(update.optimizer.state[parameters[1]]["step"]) == 0


def test_the_average_follows_its_definition() -> None:
    parameter = nn.Parameter(torch.tensor(0.0))
    average = WeightAverage(0.3, {"loc": parameter})
    update = Update(SGD([parameter], lr=1.0), [parameter], average=average)
    expected = 0.0
    for step in range(9):
        update(_gradients([torch.tensor(-1.0)]), update.weight(step))
        decay = min(0.3, (2 + step) / (11 + step))
        expected = decay * expected + (1 - decay) * (step + 1)
        assert float(average.tensors["loc"]) == pytest.approx(expected, rel=1e-12)
