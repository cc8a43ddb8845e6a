"""The tensors of a model and a guide that are trained, saved and resumed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor
from torch.optim import LBFGS, Optimizer
from torch.utils._pytree import tree_flatten

from pyro_vae._core.checks import refusal, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.failures import program_errors
from pyro_vae._core.owners import Owners
from pyro_vae._core.support import SupportCheck
from pyro_vae._core.types import Program
from pyro_vae._core.watch import leaves
from pyro_vae.objectives import Objective
from pyro_vae.training.compatibility import check_pair, examine

OptimizerFactory = Callable[[Any], Optimizer]


class ParameterSet:
    """Parameters and buffers of a model and a guide.

    These are the parameters of the modules that the programs use, those declared by ``pyro.param``, and tensors in
    variables of the programs' functions. The programs are run on a batch, validated and without side effects; this
    also creates parameters that are created at the first call.

    Args:
        objective: the training objective.
        model: Pyro model.
        guide: Pyro guide.
        args: a batch.

    Raises:
        ValueError: there are no parameters; or the loss depends on a tensor that requires a gradient and has no name.

    Attributes:
        pair: the programs as examined on the batch.
        modules: modules whose tensors are saved, by name.
        tensors: the trained parameters, by name.
        stored: those among them that no module holds, by name.
        objective_state: tensors that the objective trains itself.
    """

    def __init__(self, objective: ELBO, model: Program, guide: Program, args: tuple[Any, ...]) -> None:
        if isinstance(objective, Objective):
            objective.reset()
        self.owners = Owners(model=model, guide=guide)
        self.pair = examine(objective, model, guide, args, self.owners)
        check_pair(objective, self.pair)
        named, others = self._captured(objective, model, guide, args)
        self.modules = self.owners.kept()
        self.tensors: dict[str, Tensor] = {}
        self._add({name: p for name, p in self.owners.named_parameters().items() if p.requires_grad})
        self.stored = self._add({f"param_store.{k}": p for k, p in named.items()})
        known = {id(p) for p in self.tensors.values()} | {id(x) for x in tree_flatten(args)[0]}
        others = [tensor for tensor in others if id(tensor) not in known]
        if others:  # tensors that only one run creates serve gradients that the programs take themselves
            again = {id(tensor) for tensor in _capture(objective, model, guide, args, self.owners)[1]}
            others = [tensor for tensor in others if id(tensor) in again]
        self.stored |= self._add(self._variables(others))
        advice = "Set requires_grad, or pass nn.Modules"
        require(bool(self.tensors), "fit", "model or guide must have parameters to train", "no parameters", advice)
        self.objective_state = objective.trained(model, guide, *args) if isinstance(objective, Objective) else []
        self._idle: set[str] = set()

    def _captured(
        self, objective: ELBO, model: Program, guide: Program, args: tuple[Any, ...]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Parameters that the programs declare, by name, and all tensors that the loss depends on.

        Tensors of other modules in the store are removed from it: ``pyro.module`` keeps the first module registered
        under a name.
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
        """Tensors that the loss depends on and neither a module nor the store holds, by the name of their variable."""
        variables = {}
        for tensor in reached:
            name = self.owners.name_of(tensor)
            if name is None:
                rule = "every tensor that the loss depends on and that requires a gradient must be a parameter"
                advice = "Store it in a module or in pyro.param, or detach it"
                raise refusal("fit", rule, f"one of shape {tuple(tensor.shape)}", advice)
            variables[f"variable.{name}"] = tensor
        return variables

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(iter(self.tensors.values())).device

    def await_gradients(self) -> None:
        """Start to record which parameters receive a gradient."""
        self._idle = set(self.tensors)

    def notice_gradients(self, reached: Sequence[bool]) -> None:
        """Record which parameters, in the order of ``tensors``, received a gradient in the last step."""
        if self._idle:
            self._idle -= {name for name, flag in zip(self.tensors, reached, strict=True) if flag}

    def warn_idle(self) -> None:
        """Warn once of the parameters that received no gradient so far."""
        if self._idle:
            names = sorted(self._idle)
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            warnings.warn(
                f"fit: {len(names)} parameters got no gradient in the first epoch: {shown}. The loss does not depend "
                "on them; freeze them (requires_grad=False) if that is intended.",
                stacklevel=2,
            )
        self._idle = set()

    def check_same(self) -> None:
        """Raise if a parameter was frozen or released since the training began.

        Raises:
            ValueError: naming one.
        """
        trained = {id(p) for p in self.tensors.values()}
        for name, parameter in self.owners.named_parameters().items():
            if parameter.requires_grad != (id(parameter) in trained):
                change = "released" if parameter.requires_grad else "frozen"
                rule, advice = "trained parameters must not change during a training", "Call fit once for each stage"
                raise refusal("fit", rule, f"{name}, which was {change}", advice)

    def buffers(self) -> list[Tensor]:
        """Tensors other than parameters that a step may change, such as running statistics."""
        buffers = [b for module in self.modules.values() for b in module.buffers()]
        return list({id(b): b for b in (*buffers, *self.objective_state)}.values())

    def _add(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        known = {id(p) for p in self.tensors.values()}
        new = {name: p for name, p in tensors.items() if id(p) not in known}
        self.tensors.update(new)
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
        tensors = self.weights()
        wrong = sorted(set(tensors) ^ set(weights))
        wrong = wrong or sorted(name for name, tensor in tensors.items() if tensor.shape != weights[name].shape)
        if wrong:
            rule = "the saved weights must be those of this model and guide"
            raise refusal("fit", rule, f"a mismatch at {wrong[0]!r}", "Resume with the model of the run")
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(weights[name])


def _capture(
    objective: ELBO, model: Program, guide: Program, args: tuple[Any, ...], owners: Owners
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Run the loss once, validated; return the declared parameters and the tensors that its gradient reaches."""
    capture = poutine.trace(param_only=True)
    with program_errors("fit", args, model, guide), owners.unchanged(), owners.evaluating(), torch.enable_grad():
        with isolated_rng(validate=True), SupportCheck("fit"), capture:
            loss = objective.differentiable_loss(model, guide, *args)
        reached = list(leaves(loss)) if isinstance(loss, Tensor) else []
    return {name: site["value"].unconstrained() for name, site in capture.trace.nodes.items()}, reached


def check_optimizer(optimizer: Any) -> None:
    """Require an optimizer of torch, not of Pyro.

    Raises:
        ValueError: naming its class.
    """
    is_torch, advice = isinstance(optimizer, Optimizer), "Pass for example partial(torch.optim.Adam, lr=1e-3)"
    require(is_torch, "fit", "the optimizer must be one of torch.optim", f"a {type(optimizer).__name__}", advice)


def build_optimizer(factory: OptimizerFactory, parameters: list[Tensor]) -> Optimizer:
    """Build the optimizer, with torch's fused kernels if it has them and the factory does not choose otherwise.

    A small VAE has many small tensors, over which the unfused optimizers loop.

    Raises:
        ValueError: it is not an optimizer of torch, or needs a closure.
    """
    optimizer = factory(parameters)
    check_optimizer(optimizer)
    require(not isinstance(optimizer, LBFGS), "fit", "the optimizer must not need a closure", "LBFGS", "Use Adam")
    undecided = all(optimizer.defaults.get(k, False) in (None, False) for k in ("foreach", "differentiable"))
    if "fused" in optimizer.defaults and optimizer.defaults["fused"] is None and undecided:
        for group in optimizer.param_groups:
            group["fused"] = True
    return optimizer
