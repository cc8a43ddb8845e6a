"""Training with Pyro's own ``SVI.step``, and with hand-written torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyro
import torch
from programs import Factory, Pair
from pyro.infer import SVI
from timing import Candidate
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import Adam, Optimizer

from pyro_vae._core.contexts import validating

LR = 1e-3


def restarter(parameters: Sequence[Tensor], optimizers: Callable[[], Iterable[Any]]) -> Callable[[], None]:
    """A function that resets the parameters to their present values, and the optimizers' moments to 0, in place."""
    initial = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def reset() -> None:
        for parameter, value in zip(parameters, initial, strict=True):
            parameter.copy_(value)
        for optimizer in optimizers():
            for state in optimizer.state.values():
                for value in state.values():
                    if isinstance(value, Tensor):
                        value.zero_()

    return reset


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def svi(name: str, pair: Pair, pool: Tensor, loss: Factory, *, validate: bool) -> Candidate:
    """Pyro's ``SVI.step`` with ``pyro.optim.Adam``."""
    pair, batches = copy.deepcopy(pair), pool.unbind()
    optimizer = pyro.optim.Adam({"lr": LR})
    program = SVI(pair.model, pair.guide, optimizer, loss())

    def step(x: Tensor) -> float:
        with validating(validate):
            return program.step(x)

    def run(steps: range) -> list[float]:
        losses = [step(batches[i % len(batches)]) for i in steps]
        wait(pool.device)
        return losses

    return Candidate(name, run, restarter(pair.parameters(), lambda: optimizer.optim_objs.values()), step=step)


def by_hand(name: str, pair: Pair, pool: Tensor, compile: Callable[..., Any] | None = None) -> Candidate | None:
    """The same training without Pyro, for VAEs with a diagonal normal guide and Bernoulli pixels."""
    if pair.name not in ("mlp", "conv"):
        return None
    pair, batches = copy.deepcopy(pair), pool.unbind()
    encoder, decoder = pair.guide.net.layers, pair.model.likelihood.net.layers
    optimizer = Adam(pair.parameters(), lr=LR, fused=True)

    def loss(x: Tensor) -> Tensor:
        loc, log_scale = encoder(x).chunk(2, -1)
        noise = torch.randn_like(loc)
        z = loc + log_scale.exp() * noise
        log_ratio = (log_scale + 0.5 * (noise**2 - z**2)).sum()  # log p(z) - log q(z | x)
        return binary_cross_entropy_with_logits(decoder(z).view_as(x), x, reduction="sum") - log_ratio

    step = stepper(compile(loss) if compile else loss, optimizer)

    def run(steps: range) -> list[Tensor]:
        losses = [step(batches[i % len(batches)]) for i in steps]
        wait(pool.device)
        return losses

    reset = restarter(pair.parameters(), lambda: [optimizer])
    return Candidate(name, run, reset, seeded=compile is None, step=step)


def stepper(loss: Callable[[Tensor], Tensor], optimizer: Optimizer) -> Callable[[Tensor], Tensor]:
    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss(x)
        (value / len(x)).backward()
        optimizer.step()
        return value.detach().clone()  # under CUDA graphs the next replay overwrites the loss

    return step
