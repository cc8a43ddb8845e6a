"""The choice of an engine, of ``engine="auto"`` in particular, and its construction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae._core.axes import Axes, leading
from pyro_vae._core.checks import check_arguments, check_choice, check_positive, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.distributed import Ranks
from pyro_vae._core.owners import Owners
from pyro_vae._core.precision import Precision
from pyro_vae._core.shared_random import find_rows
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Batch
from pyro_vae.evaluation import ImportanceWeights
from pyro_vae.objectives import Objective
from pyro_vae.training.average import WeightAverage
from pyro_vae.training.compatibility import data_axes, examine
from pyro_vae.training.engines.base import Engine, restore
from pyro_vae.training.engines.compiled import CompiledEngine
from pyro_vae.training.engines.cuda_graph import CudaGraphEngine
from pyro_vae.training.engines.eager import EagerEngine
from pyro_vae.training.engines.update import Update
from pyro_vae.training.loss import LossFunction, check_objective
from pyro_vae.training.parameters import check_optimizer

EngineName = Literal["auto", "eager", "compiled", "cuda-graph"]
ENGINES: tuple[str, ...] = get_args(EngineName)
MIN_COMPILED_STEPS = 5_000
"""Planned steps from which ``"auto"`` compiles on a CPU: it takes about ten seconds and saves 1 to 4 ms a step."""


def build_engine(
    name: EngineName,
    objective: ELBO,
    model: Program,
    guide: Program,
    optimizer: Optimizer,
    parameters: Sequence[Tensor],
    *,
    args: tuple[Any, ...],
    clip_norm: float | None = None,
    skip_norm: float | None = None,
    average: WeightAverage | None = None,
    accumulate: int = 1,
    precision: Precision = "fp32",
    planned_steps: int | None = None,
    ranks: Ranks | None = None,
    owners: Owners | None = None,
    watch: Callable[..., Any] | None = None,
    axes: Axes | None = None,
) -> Engine:
    """Build an engine; if it cannot record the programs, steps run eagerly.

    Args:
        name: ``"eager"``, ``"compiled"``, ``"cuda-graph"``; or ``"auto"``, resolved by :func:`resolve_engine`.
        objective: any Pyro ELBO with ``differentiable_loss``.
        model: Pyro model.
        guide: Pyro guide.
        optimizer: a torch optimizer of ``parameters``.
        parameters: the tensors to train.
        args: a batch of the usual shape, on which the programs are recorded.
        clip_norm: largest norm of the whole gradient; None for no limit.
        skip_norm: norm of the gradient above which a step changes nothing; None for no limit.
        average: average of the weights to update with every step; None for none.
        accumulate: batches per step.
        precision: precision of the networks: ``"fp32"``, or ``"bf16"`` for products in bfloat16.
        planned_steps: number of steps to be taken, by which ``"auto"`` decides on a CPU; None for many.
        ranks: the processes that share every batch.
        owners: modules of the programs; None to find them, with ``axes``.
        watch: context around each run of the programs; see :class:`~pyro_vae.training.loss.LossFunction`.
        axes: the dimension of the data in each argument.

    Raises:
        ValueError: unknown engine, or one that the device lacks; programs that several processes cannot share; an
            objective without ``differentiable_loss``; an optimizer that is not torch's.

    Example:
        >>> import torch
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> from pyro_vae.objectives import ELBO
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> parameters, x = list(vae.parameters()), torch.ones(7, 5)
        >>> adam = torch.optim.Adam(parameters)
        >>> engine = build_engine("eager", ELBO(), vae.model, vae.guide, adam, parameters, args=(x,))
        >>> engine.step((x,)).finite
        True
    """
    check_arguments(build_engine, locals(), accumulate=1, planned_steps=1)
    check_positive("build_engine", clip_norm=clip_norm, skip_norm=skip_norm)
    ranks, parameters = ranks or Ranks(), list({id(p): p for p in parameters}.values())
    check_objective(objective)
    _check_arguments(parameters, args, optimizer)
    if owners is None:
        pair = examine(objective, model, guide, args, Owners(model=model, guide=guide))
        owners, axes = pair.owners, data_axes(pair)
    others = [t for t in owners.tensors() if all(t is not p for p in parameters)]  # frozen ones, and buffers
    others += objective.trained(model, guide, *args) if isinstance(objective, Objective) else []
    loss = LossFunction(objective, model, guide, parameters, others, precision, axes, owners, watch)
    chosen = resolve_engine(name, parameters[0].device, planned_steps, ranks)
    batch = Batch(args, axes=axes)
    update = Update(optimizer, parameters, clip_norm=clip_norm, skip_norm=skip_norm, average=average)
    with isolated_rng():
        if not ranks.alone:
            loss = _share_batches(loss, args)
        if chosen == "cuda-graph":
            engine = CudaGraphEngine(loss, update, batch, whole=accumulate == 1)
            if engine.records:
                return engine
        elif chosen == "compiled":
            return CompiledEngine(loss, update, batch, ranks=ranks, whole=accumulate == 1)
        if objective.vectorize_particles and objective.max_plate_nesting == float("inf"):
            _run_unchanged(loss, args)  # Pyro's first run draws more, to find the plates; recording runs it too
    return EagerEngine(loss, update, ranks=ranks)


def _run_unchanged(loss: LossFunction, args: tuple[Any, ...]) -> bool:
    """Run the loss once, restore its buffers, and return whether the run had left them unchanged."""
    before = [buffer.clone() for buffer in loss.buffers]
    loss.gradients(*args, flag=False)
    unchanged = all(map(torch.equal, loss.buffers, before))
    restore(loss.buffers, before)
    return unchanged


def _check_arguments(parameters: list[Tensor], args: Any, optimizer: Any) -> None:
    owner, kind = "build_engine", type(args).__name__
    require(bool(parameters), owner, "parameters must not be empty", "an empty list", "Pass list(module.parameters())")
    require(isinstance(args, tuple), owner, "args must be the tuple of a batch's arguments", f"a {kind}", "Pass (x,)")
    check_optimizer(optimizer)


def _share_batches(loss: LossFunction, args: tuple[Any, ...]) -> LossFunction:
    """The loss function for batches that several processes share.

    Raises:
        ValueError: the loss is not a sum over the data, or depends on statistics of the batch.
    """
    ImportanceWeights(loss.model, loss.guide, args)  # raises on sites outside the plate of the data
    require(
        _run_unchanged(loss, args),
        "ranks",
        "programs must not keep statistics of their batches",
        "buffers that a step changes (batch normalization?)",
        "Use another normalization, or train in one process",
    )
    return replace(loss, rows=find_rows(loss.gradients, args, loss.axes or leading(args)))


def resolve_engine(
    name: EngineName, device: torch.device, planned_steps: int | None = None, ranks: Ranks | None = None
) -> EngineName:
    """The engine that ``"auto"`` stands for on a device and for a number of steps; other names are checked.

    Raises:
        ValueError: unknown engine, or a CUDA graph without a GPU or in several processes.
    """
    check_choice("fit", "engine", name, ENGINES, "Use 'auto'")
    alone = ranks is None or ranks.alone
    if name == "cuda-graph":
        advice = "Use engine='compiled'"
        require(device.type == "cuda", "engine", "'cuda-graph' must have parameters on a GPU", device, advice)
        require(alone, "engine", "'cuda-graph' must run in one process", "several", advice)
    return name if name != "auto" else _resolve_auto(device, planned_steps, alone)


def _resolve_auto(device: torch.device, planned_steps: int | None, alone: bool) -> EngineName:
    if device.type == "cuda":
        return "cuda-graph" if alone else "compiled"
    return "compiled" if planned_steps is None or planned_steps >= MIN_COMPILED_STEPS else "eager"
