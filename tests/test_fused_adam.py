"""Direct calls of torch's fused kernels take the optimizer's steps."""

import warnings

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_vae.training.engines.fused_adam import Update


def _run(optimizer, parameters, steps, update, schedule):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator)
        update([p.grad for p in parameters])
        schedule.step()


@pytest.mark.parametrize("cls", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}])
@pytest.mark.parametrize("fused", [True, False])
def test_steps_equal_the_optimizer_s(cls, options, fused):
    if cls is not torch.optim.RMSprop:
        options = {**options, "fused": fused}
    results = []
    for short in (True, False):
        torch.manual_seed(0)
        parameters = [torch.randn(4, 3), torch.randn(5)]
        optimizer = cls(parameters, lr=0.1, **options)
        update = Update(optimizer, parameters) if short else lambda _, optimizer=optimizer: optimizer.step()
        schedule = CosineAnnealingLR(optimizer, 20)
        _run(optimizer, parameters, 6, update, schedule)
        state = optimizer.state_dict()
        optimizer.load_state_dict(
            {**state, "state": {k: {n: t.clone() for n, t in s.items()} for k, s in state["state"].items()}}
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _run(optimizer, parameters, 6, update, schedule)  # with another state than was gathered
        results.append([*parameters, *(t for s in optimizer.state_dict()["state"].values() for t in s.values())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert len(results[0]) >= 2


def test_the_kernel_is_called_and_hooks_are_honoured(monkeypatch):
    parameters = [torch.randn(4, 3)]
    optimizer = torch.optim.Adam(parameters, fused=True)
    update, calls = Update(optimizer, parameters), []
    step = optimizer.step
    monkeypatch.setattr(optimizer, "step", lambda: calls.append("step") or step())
    parameters[0].grad = torch.ones(4, 3)
    for _ in range(3):
        update([parameters[0].grad])
    assert calls == ["step"]  # the first; the others went straight to the kernel
    optimizer.register_step_post_hook(lambda *args: calls.append("hook"))
    update([parameters[0].grad])
    assert calls == ["step", "step", "hook"]
    assert float(optimizer.state[parameters[0]]["step"]) == 4


def test_a_parameter_without_gradient_does_not_change():
    parameters = [torch.ones(3), torch.ones(2)]
    update = Update(torch.optim.Adam(parameters, fused=True), parameters)
    parameters[0].grad = torch.ones(3)
    for _ in range(3):
        update([parameters[0].grad, None])
    assert torch.equal(parameters[1], torch.ones(2))
    assert (parameters[0] < 1).all()
