"""The tensors of a model and a guide: what is trained, saved and resumed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_flatten

from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.failures import one_line
from pyro_vae._core.owners import Owners
from pyro_vae._core.support import SupportCheck
from pyro_vae._core.types import Program
from pyro_vae._core.watch import leaves
from pyro_vae.training.compatibility import check_pair, examine

OptimizerFactory = Callable[[Any], Optimizer]


class ParameterSet:
    """Parameters and buffers of a model and a guide, however they are written.

    These are the parameters of the modules that the programs use, what they declare with ``pyro.param``, and tensors in
    variables of their functions. The programs are run on a batch, validated and with nothing outside noticing, which
    also makes parameters that are created at the first call.

    Args:
        objective: the objective they will be trained with.
        model: Pyro model.
        guide: Pyro guide.
        args: a batch.

    Raises:
        ValueError: there is nothing to train; or the loss depends on a tensor that requires a gradient and that no
            parameter is known by.

    Attributes:
        pair: the programs as examined on the batch.
        modules: whose tensors are saved, by name.
        parameters: by name.
    """

    def __init__(self, objective: ELBO, model: Program, guide: Program, args: tuple[Any, ...]) -> None:
        self.owners = Owners(model=model, guide=guide)
        self.pair = examine(objective, model, guide, args, self.owners)
        check_pair(objective, self.pair)
        named, others = self._captured(objective, model, guide, args)
        self.modules = self.owners.kept()
        self.parameters: dict[str, Tensor] = {}
        self._add({name: p for name, p in self.owners.named_parameters().items() if p.requires_grad})
        self.stored = self._add({f"param_store.{k}": p for k, p in named.items()})
        known = {id(p) for p in self.parameters.values()} | {id(x) for x in tree_flatten(args)[0]}
        others = [tensor for tensor in others if id(tensor) not in known]
        if others:  # those of one run alone are its own, for gradients that the programs take themselves
            again = {id(tensor) for tensor in _capture(objective, model, guide, args, self.owners)[1]}
            others = [tensor for tensor in others if id(tensor) in again]
        self.stored |= self._add(self._variables(others))
        if not self.parameters:
            raise ValueError(
                "fit: model or guide must have parameters to train, got none. Set requires_grad, or pass nn.Modules."
            )
        self._idle: set[str] = set()

    def _captured(
        self, objective: ELBO, model: Program, guide: Program, args: tuple[Any, ...]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """What the programs ask of Pyro's parameter store, and all that the loss depends on.

        Tensors that other modules left in the store are removed from it: ``pyro.module`` keeps the first module that it
        sees under a name.
        """
        named, reached = _capture(objective, model, guide, args, self.owners)
        held = {id(p) for p in self.owners.parameters()}
        stale = [name for name, p in named.items() if held and "$$$" in name and id(p) not in held]
        for name in stale:
            del pyro.get_param_store()[name]
        if stale:
            named, reached = _capture(objective, model, guide, args, self.owners)
        copies = {name for name in stale if id(named.get(name)) not in held}  # of tensors that are not contiguous
        return {name: p for name, p in named.items() if name not in copies}, reached

    def _variables(self, reached: list[Tensor]) -> dict[str, Tensor]:
        """Tensors that the loss depends on and that neither a module nor the store holds, by their variables' names."""
        found = {}
        for tensor in reached:
            name = self.owners.name_of(tensor)
            if name is None:
                raise ValueError(
                    "fit: every tensor that the loss depends on and that requires a gradient must be a parameter, got "
                    f"one of shape {tuple(tensor.shape)}. Keep it in a module or in pyro.param, or detach it."
                )
            found[f"variable.{name}"] = tensor
        return found

    def await_gradients(self) -> None:
        """Note, from the first step on, which parameters get a gradient."""
        self._idle = set(self.parameters)

    def notice_gradients(self) -> None:
        """Take note of the parameters that the last step gave a gradient."""
        if self._idle:
            self._idle -= {name for name in self._idle if self.parameters[name].grad is not None}

    def warn_idle(self) -> None:
        """Name the parameters that got no gradient in any step so far, once."""
        if self._idle:
            names = sorted(self._idle)
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            warnings.warn(
                f"fit: {len(names)} parameters got no gradient in the first epoch: {shown}. The loss does not depend "
                "on them; freeze them (requires_grad=False) if that is meant.",
                stacklevel=2,
            )
        self._idle = set()

    def check_same(self) -> None:
        """Refuse parameters that were frozen or released since the training began.

        Raises:
            ValueError: naming one.
        """
        mine = {id(p) for p in self.parameters.values()}
        for name, parameter in self.owners.named_parameters().items():
            if parameter.requires_grad != (id(parameter) in mine):
                done = "released" if parameter.requires_grad else "frozen"
                raise ValueError(
                    f"fit: what is trained must not change during a training, got {name}, which was {done} meanwhile. "
                    "Call fit once for each stage."
                )

    def buffers(self) -> list[Tensor]:
        """What a step may change besides the parameters, such as running statistics."""
        return list({id(b): b for module in self.modules.values() for b in module.buffers()}.values())

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


def _capture(
    objective: ELBO, model: Program, guide: Program, args: tuple[Any, ...], owners: Owners
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Run the loss once, validated: what it took from the store, and the tensors that its gradient reaches."""
    capture = poutine.trace(param_only=True)
    quiet = (
        owners.unchanged(),
        owners.evaluating(),
        torch.enable_grad(),
        isolated_rng(validate=True),
        SupportCheck("fit"),
    )
    with ExitStack() as stack:
        for context in (one_line("fit", args, model, guide), *quiet):
            stack.enter_context(context)
        with capture:
            loss = objective.differentiable_loss(model, guide, *args)
        reached = list(leaves(loss)) if isinstance(loss, Tensor) else []
    return {name: site["value"].unconstrained() for name, site in capture.trace.nodes.items()}, reached


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
