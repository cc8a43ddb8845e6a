"""Which engine runs the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae._core.axes import Axes, leading
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.distributed import Ranks
from pyro_vae._core.owners import Owners
from pyro_vae._core.precision import Precision
from pyro_vae._core.shared_random import find_rows
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Batch
from pyro_vae.evaluation import ImportanceWeights
from pyro_vae.training.compatibility import data_axes, examine
from pyro_vae.training.engines.base import EagerEngine, Engine, restore
from pyro_vae.training.engines.compiled import CompiledEngine
from pyro_vae.training.engines.cuda_graph import CudaGraphEngine
from pyro_vae.training.loss import LossFunction, check_objective
from pyro_vae.training.parameters import check_optimizer

EngineName = Literal["auto", "eager", "compiled", "cuda-graph"]
ENGINES: tuple[str, ...] = get_args(EngineName)
WORTH_COMPILING = 10_000
"""Steps from which compiling for a CPU, about ten seconds, pays: a step saves one to four milliseconds."""


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
    precision: Precision = "fp32",
    planned_steps: int | None = None,
    ranks: Ranks | None = None,
    owners: Owners | None = None,
    watch: Any = None,
    axes: Axes | None = None,
) -> Engine:
    """The engine of a name, ready to step; one that cannot record the programs is replaced by the eager one.

    Args:
        name: ``"eager"``, ``"compiled"``, ``"cuda-graph"``; or ``"auto"``, the fastest for the device and the number of
            steps.
        objective: any Pyro ELBO with ``differentiable_loss``.
        model: Pyro model.
        guide: Pyro guide.
        optimizer: over ``parameters``.
        parameters: what is trained.
        args: a batch of the usual shape, which the programs are recorded with.
        clip_norm: largest norm of the whole gradient; None for no limit.
        precision: of the networks: ``"fp32"``, or ``"bf16"`` for products in bfloat16.
        planned_steps: how many steps will be taken, which ``"auto"`` goes by; None for many.
        ranks: the processes that share every batch.
        owners: the programs' modules, if they are known.
        watch: what looks at each run of the programs; see :class:`~pyro_vae.training.loss.LossFunction`.
        axes: where the data are in the arguments, if it is known.

    Raises:
        ValueError: no such engine, or none for this device; programs that several processes cannot share; an objective
            without ``differentiable_loss``; an optimizer that is not torch's.

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
    ranks, parameters = ranks or Ranks(), list(parameters)
    check_objective(objective)
    _check_arguments(parameters, args, optimizer)
    if owners is None:
        pair = examine(objective, model, guide, args, Owners(model=model, guide=guide))
        owners, axes = pair.owners, data_axes(pair)
    others = [t for t in owners.tensors() if all(t is not p for p in parameters)]  # frozen ones, and buffers
    problem = LossFunction(objective, model, guide, parameters, others, precision, axes, owners, watch)
    chosen = resolve_engine(name, parameters[0].device, planned_steps, ranks)
    batch = Batch(args, ranks=ranks, axes=axes)
    with isolated_rng():
        if not ranks.alone:
            problem = _shared(problem, args)
        if chosen == "cuda-graph":
            engine = CudaGraphEngine(problem, optimizer, batch, clip_norm=clip_norm)
            if engine.records:
                return engine
        elif chosen == "compiled":
            return CompiledEngine(problem, optimizer, batch, clip_norm=clip_norm, ranks=ranks)
        if objective.vectorize_particles and objective.max_plate_nesting == float("inf"):
            _warm_up(problem, args)
    return EagerEngine(problem, optimizer, clip_norm=clip_norm, ranks=ranks)


def _warm_up(problem: LossFunction, args: tuple[Any, ...]) -> None:
    """One evaluation without a trace: at its first, Pyro draws more to look for the plates; recording does this too."""
    before = [buffer.clone() for buffer in problem.buffers]
    problem.gradients(*args, flag=False)
    restore(problem.buffers, before)


def _check_arguments(parameters: list[Tensor], args: Any, optimizer: Any) -> None:
    if not parameters:
        raise ValueError("build_engine: parameters must not be empty, got none. Pass list(module.parameters()).")
    if not isinstance(args, tuple):
        raise ValueError(
            f"build_engine: args must be the tuple of a batch's arguments, got a {type(args).__name__}. Pass (x,)."
        )
    check_optimizer(optimizer)


def _shared(problem: LossFunction, args: tuple[Any, ...]) -> LossFunction:
    """The problem with what it takes to share its batches among processes.

    Raises:
        ValueError: the loss is not a sum over the data, or depends on statistics of the batch.
    """
    ImportanceWeights(problem.model, problem.guide, args)  # refuses sites that are outside the plate of the data
    before = [buffer.clone() for buffer in problem.buffers]
    problem.gradients(*args, flag=False)
    changed = any(not torch.equal(a, b) for a, b in zip(problem.buffers, before, strict=True))
    restore(problem.buffers, before)
    if changed:
        raise ValueError(
            "ranks: programs must not keep statistics of their batches, got buffers that a step changes (batch "
            "normalization?). Use another normalization, or train in one process."
        )
    return replace(problem, rows=find_rows(problem.gradients, args, problem.axes or leading(args)))


def resolve_engine(
    name: EngineName, device: torch.device, planned_steps: int | None = None, ranks: Ranks | None = None
) -> EngineName:
    """The engine that ``"auto"`` is on a device, for so many steps; another name is itself.

    Raises:
        ValueError: no such engine, or a CUDA graph on another device.
    """
    if name not in ENGINES:
        raise ValueError(f"engine: must be one of {', '.join(ENGINES)}, got engine={name!r}. Use 'auto'.")
    if name == "cuda-graph" and device.type != "cuda":
        raise ValueError(f"engine: 'cuda-graph' must have parameters on a GPU, got {device}. Use engine='compiled'.")
    alone = ranks is None or ranks.alone
    if name == "cuda-graph" and not alone:
        raise ValueError("engine: 'cuda-graph' must run in one process, got several. Use engine='compiled'.")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "cuda-graph" if alone else "compiled"
    return "compiled" if planned_steps is None or planned_steps >= WORTH_COMPILING else "eager"
