"""The tensors of a model and a guide: what is trained, saved and resumed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae.evaluation.support import SupportCheck
from pyro_vae.isolation import evaluating, isolated, module_of

Program = Callable[..., Any]
OptimizerFactory = Callable[[Any], Optimizer]


class Trainable:
    """Parameters and buffers of a model and a guide, modules or plain functions with ``pyro.param``.

    The programs are run once on a batch, with validation on and without moving the random state, which also makes
    parameters that are created at the first call.

    Args:
        objective: the objective they will be trained with.
        model: Pyro model.
        guide: Pyro guide.
        args: a batch.

    Raises:
        ValueError: there is nothing to train.
    """

    def __init__(self, objective: ELBO, model: Program, guide: Program, args: tuple[Any, ...]) -> None:
        owners = {"model": module_of(model), "guide": module_of(guide)}
        self.modules = {name: module for name, module in owners.items() if module is not None}
        found = self._captured(objective, model, guide, args)
        self.parameters: dict[str, Tensor] = {}
        for prefix, module in self.modules.items():
            self._add({f"{prefix}.{k}": p for k, p in module.named_parameters() if p.requires_grad})
        self.stored = self._add({f"param_store.{k}": p for k, p in found.items()})
        if not self.parameters:
            raise ValueError(
                "fit: model or guide must have parameters to train, got none. Set requires_grad, or pass nn.Modules."
            )

    def _captured(self, objective: ELBO, model: Program, guide: Program, args: tuple[Any, ...]) -> dict[str, Tensor]:
        """What the programs ask of Pyro's parameter store, without tensors that other modules left there."""
        found = _capture(objective, model, guide, args)
        own = {id(p) for m in self.modules.values() for p in m.parameters()}
        stale = [name for name, p in found.items() if self.modules and "$$$" in name and id(p) not in own]
        for name in stale:  # ``pyro.module`` keeps the first module it sees under a name
            del pyro.get_param_store()[name]
        return _capture(objective, model, guide, args) if stale else found

    def check_gradients(self) -> None:
        """After a step: refuse stored parameters that got no gradient.

        Raises:
            ValueError: the parameter store holds another module's tensors under a name used here.
        """
        for name, parameter in self.stored.items():
            if parameter.grad is None:
                raise ValueError(
                    f"fit: every parameter in Pyro's store must take part, got no gradient for {name!r}. "
                    "Another module may have used the name before: call pyro.clear_param_store() first."
                )

    def buffers(self) -> list[Tensor]:
        """What a step may change besides the parameters, such as running statistics."""
        return [buffer for module in self.modules.values() for buffer in module.buffers()]

    def _add(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        known = {id(p) for p in self.parameters.values()}
        new = {name: p for name, p in found.items() if id(p) not in known}
        self.parameters.update(new)
        return new

    def weights(self) -> dict[str, Tensor]:
        """Every parameter and buffer by name, not copied."""
        tensors = {f"{k}.{name}": t for k, m in self.modules.items() for name, t in m.state_dict().items()}
        return {**tensors, **{name: p.detach() for name, p in self.stored.items()}}

    def load(self, weights: dict[str, Tensor]) -> None:
        """Set every parameter and buffer, in place.

        Raises:
            ValueError: names or shapes are those of another model.
        """
        mine = self.weights()
        wrong = sorted(set(mine) ^ set(weights)) or sorted(k for k in mine if mine[k].shape != weights[k].shape)
        if wrong:
            raise ValueError(
                f"fit: the saved weights must be those of this model and guide, got a mismatch at {wrong[0]!r}. "
                "Resume with the model the run was made with."
            )
        with torch.no_grad():
            for name, tensor in mine.items():
                tensor.copy_(weights[name])


def _capture(objective: ELBO, model: Program, guide: Program, args: tuple[Any, ...]) -> dict[str, Tensor]:
    """Run the programs once, validated and without a trace in the random state; what they took from the store."""
    capture = poutine.trace(param_only=True)
    with evaluating(model, guide), isolated(validate=True), SupportCheck("fit"), capture:
        objective.loss(model, guide, *args)
    return {name: site["value"].unconstrained() for name, site in capture.trace.nodes.items()}


def check_optimizer(optimizer: Any) -> None:
    """Refuse what is not an optimizer of torch's.

    Raises:
        ValueError: it is one of Pyro's, say.
    """
    if not isinstance(optimizer, Optimizer):
        raise ValueError(
            f"fit: the optimizer must be one of torch.optim, got a {type(optimizer).__name__}. "
            "Pass for example partial(torch.optim.Adam, lr=1e-3)."
        )


def build_optimizer(factory: OptimizerFactory, parameters: list[Tensor]) -> Optimizer:
    """Build the optimizer, with torch's fused kernels where it has them and the factory did not choose.

    A small VAE has many small tensors, over which the unfused optimizers loop.
    """
    optimizer = factory(parameters)
    check_optimizer(optimizer)
    undecided = all(optimizer.defaults.get(k, False) in (None, False) for k in ("foreach", "differentiable"))
    if "fused" in optimizer.defaults and optimizer.defaults["fused"] is None and undecided:
        for group in optimizer.param_groups:
            group["fused"] = True
    return optimizer
