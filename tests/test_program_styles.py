"""One pair in every style in which Pyro programs are written: training, resumption, objectives and evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import pyro
import pytest
import torch
from pyro.distributions import Normal
from torch import Tensor
from torch.optim import SGD, Adam

from pyro_vae import annealed_log_likelihood, fit, inference_gaps, log_likelihood, log_weights, objectives
from pyro_vae.data.batches import Batches
from pyro_vae.evaluation import Result
from tests.linear_styles import MODULE, STYLES, Style, Written, data, log_evidence

EVERY_STYLE = pytest.mark.parametrize("style", STYLES, ids=repr)
MODULAR = pytest.mark.parametrize("style", [style for style in STYLES if style.modular], ids=repr)
OFF = {"inflate": 1.4, "shift": 0.3}  # a guide that is not the posterior
ONCE: dict[str, Any] = {"epochs": 1, "batch_size": 8, "optimizer": partial(SGD, lr=0.1), "seed": 4, "engine": "eager"}


def _close(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and bool((found - wanted).abs().max() < 1e-9)


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


@EVERY_STYLE
@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_one_step_moves_every_parameter_along_its_gradient(style: Style, engine: str, uncompiled: None) -> None:
    x = data()
    pair = style.build(**OFF)
    fit(pair.model, pair.guide, x, **(ONCE | {"engine": engine}))
    wanted = _hand_written_step(x, rate=0.1, seed=4)
    found = pair.tensors()
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert _close(found[name].detach(), wanted[name]), name


@MODULAR
def test_running_statistics_and_dropout_in_training_are_those_of_the_modules(style: Style) -> None:
    x, found = data(), []
    for each in (MODULE, style):
        pair = each.build(noisy=True, **OFF)
        fit(pair.model, pair.guide, x, **(ONCE | {"epochs": 3, "batch_size": 4}))
        found.append(pair)
        assert not any(part.training for module in pair.modules for part in module.modules())
    reference, mine = (list(pair.snapshot().values()) for pair in found)
    assert len(mine) == len(reference) == 9  # six parameters, three statistics
    assert all(_close(a, b) for a, b in zip(mine, reference, strict=True))
    assert any(bool((b != 0).any()) for module in found[1].modules for b in module.buffers())


def _train(pair: Written, run: Any, epochs: int, **options: Any) -> None:
    adam = partial(Adam, lr=1e-2)
    fit(pair.model, pair.guide, data(), epochs=epochs, batch_size=4, optimizer=adam, run=run, engine="eager", **options)


@EVERY_STYLE
def test_a_resumed_training_has_the_bits_of_an_uninterrupted_one(style: Style, tmp_path) -> None:
    whole = style.build(noisy=True, **OFF)
    _train(whole, tmp_path / "whole", 4)
    wanted = whole.snapshot()
    pyro.clear_param_store()
    _train(style.build(noisy=True, **OFF), tmp_path / "parts", 2)
    pyro.clear_param_store()
    resumed = style.build(noisy=True)  # from other numbers: those of the run folder replace them
    _train(resumed, tmp_path / "parts", 4, resume=True)
    found = resumed.snapshot()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@MODULAR
def test_a_checkpoint_holds_the_buffers(style: Style, tmp_path) -> None:
    pair = style.build(noisy=True, **OFF)
    _train(pair, tmp_path / "run", 1)
    saved = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["weights"]
    for kind in ("running_mean", "running_var", "num_batches_tracked"):
        (mine,) = [b for module in pair.modules for name, b in module.named_buffers() if name.endswith(kind)]
        (stored,) = [t for name, t in saved.items() if name.endswith(kind)]
        assert torch.equal(stored, mine)
    assert len(saved) == 9
