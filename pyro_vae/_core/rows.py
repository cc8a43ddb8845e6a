"""Which row of the arguments, of the data plate and of a guide's parameters belongs to which datum.

Several dimensions may have the size of the batch, a plate may hold the data in another order than the arguments, and a
guide may have one parameter per datum. None of this can be read from shapes, so each question is answered by further
runs: on selected, reordered or replaced data at the same latents, whose log-probabilities are compared datum by datum,
or by gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._core.axes import Axes, candidates, is_ambiguous
from pyro_vae._core.checks import refusal
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.owners import Owners
from pyro_vae._core.pair import Pair
from pyro_vae._core.param_store import unregistered
from pyro_vae._core.traces import frames, latents, observations, subsample_order, within, without_plates
from pyro_vae._core.types import Program


def verified_axes(pair: Pair, plate: Any) -> Axes | None:
    """Batch dimensions of the arguments, verified by a run on two data; None if no choice agrees.

    Args:
        pair: the examined programs.
        plate: the plate over the data, as a frame.
    """
    if plate.name not in pair.axes:
        pair.axes[plate.name] = None if pair.enum_dim is not None else _find_axes(pair, plate)
    return pair.axes[plate.name]


def axes_of(pair: Pair, size: int, plate: Any) -> Axes | None:
    """Batch dimensions of the arguments: in each tensor the leftmost dimension of length ``size``.

    If several dimensions and the plate have that length, the choice is verified by a run. None if no dimension has it.
    """
    if plate is not None and size == pair.size(plate) and is_ambiguous(pair.args, pair.kwargs, size):
        verified = verified_axes(pair, plate)
        if verified is not None:
            return verified
    return next(candidates(pair.args, pair.kwargs, size), None)


def _find_axes(pair: Pair, plate: Any) -> Axes | None:
    size = pair.size(plate)
    rows = torch.tensor([size - 1, 0] if size > 1 else [0, 0])
    layout = pair.layout((plate.dim,))
    with torch.no_grad():
        whole = layout.sum(1, within(pair.model_trace, plate)).expand(1, size)
    for axes in candidates(pair.args, pair.kwargs, size):
        try:
            part = _log_prob_of_rows(pair, axes, plate, rows)
        except Exception:  # the wrong dimensions may give any error
            continue
        if agree(part, whole[:, rows]):
            return axes
    return None


def rows_follow(pair: Pair, plate: Any, axes: Axes) -> bool:
    """Whether the model's densities are permuted with the arguments; not if it reads other values per datum.

    True for a model that is random at given latents, for which this cannot be decided.
    """
    size = pair.size(plate)
    with pair.quietly():
        first, repeated = (_scaled_log_prob(pair, plate, axes, None) for _ in range(2))
        reverse = _scaled_log_prob(pair, plate, axes, torch.arange(size).flip(0))
    return not agree(repeated, first) or agree(reverse, first.flip(1))


def _scaled_log_prob(pair: Pair, plate: Any, axes: Axes, rows: Tensor | None) -> Tensor:
    """Log-probabilities of the model times their scales, for the data in the order ``rows``, ``(1, B)``."""
    latent, args = pair.model_trace, pair.args
    if rows is not None:
        latent, args = _latents_of_rows(pair, plate, rows), axes.take(pair.args, rows)
    trace = poutine.trace(poutine.replay(pair.model, trace=latent)).get_trace(*args, **pair.kwargs)
    layout = pair.layout((plate.dim,))
    values = [layout.per_datum(1, s, layout.log_prob(s) * s["scale"]) for s in within(trace, plate)]
    return sum(values[1:], values[0])


def _log_prob_of_rows(pair: Pair, axes: Axes, plate: Any, rows: Tensor) -> Tensor:
    """Log-probabilities of the model for selected data at their latents, ``(1, len(rows))``."""
    model = poutine.replay(pair.model, trace=_latents_of_rows(pair, plate, rows))
    with pair.quietly():
        trace = poutine.trace(model).get_trace(*axes.take(pair.args, rows), **pair.kwargs)
        return pair.layout((plate.dim,)).sum(1, within(trace, plate))


def _latents_of_rows(pair: Pair, plate: Any, rows: Tensor) -> Trace:
    part = without_plates(pair.model_trace)
    for site in (site for site in within(part, plate) if not site["is_observed"]):
        dim = site["value"].dim() - site["fn"].event_dim + plate.dim
        value = site["value"].index_select(dim, rows.to(site["value"].device))
        part.nodes[site["name"]] = {**site, "value": value}
    return part


def row_order(pair: Pair, plate: Any) -> Tensor | None:
    """The datum of each row of a plate; None if the plate holds the data in the order of the arguments.

    A program with ``subsample=order`` either selects ``x[order]`` or receives data that are in this order already. To
    distinguish the two, one datum is replaced, and the row whose log-probability changes is examined.

    Raises:
        ValueError: the order changes from run to run, or the data are not among the arguments.
    """
    order = subsample_order(pair.guide_traces[0], plate.name)
    if order is None:
        return None
    with pair.quietly():
        again = poutine.trace(pair.guides[0]).get_trace(*pair.args, **pair.kwargs)
    axes = next(candidates(pair.args, pair.kwargs, pair.size(plate)), None)
    repeated = subsample_order(again, plate.name)
    if axes is None or repeated is None or not torch.equal(repeated, order):
        rule = "a plate that is given a subsample must have the same one at every run"
        raise refusal(pair.owner, rule, f"plate {plate.name!r}", "Pass the data in the order of the plate")
    moved = int((order != torch.arange(len(order), device=order.device)).nonzero()[0])
    layout, rows = pair.layout((plate.dim,)), torch.arange(len(order))
    model = poutine.replay(pair.model, trace=pair.model_trace)
    rows[moved] = order[moved].cpu()
    with pair.quietly():
        trace = poutine.trace(model).get_trace(*axes.take(pair.args, rows), **pair.kwargs)
        new, old = (layout.sum(1, within(t, plate)) for t in (trace, pair.model_trace))
        changed = new != old
    return None if bool(changed[0, moved]) else order


def makes_local(model: Program, guide: Program, args: tuple[Any, ...]) -> bool:
    """Whether an autoguide that has not run yet would create parameters for each datum."""
    owners = Owners(model=model, guide=guide)
    autoguides = [module for module in owners.submodules() if isinstance(module, AutoGuide)]
    if not any(guide.prototype_trace is None for guide in autoguides):
        return False
    with owners.unchanged(), owners.evaluating(), isolated_rng(), unregistered(), poutine.block():
        trace = poutine.trace(model).get_trace(*args)
    observed = [frames(site) for site in observations(trace)]
    shared = set.intersection(*map(set, observed)) if observed else set()
    return any(shared & set(frames(site)) for site in latents(trace))


def is_local(pair: Pair) -> bool:
    """Whether the guide has parameters for each datum of the batch, so that it cannot be evaluated on other data."""
    plate = pair.data_plate()
    if plate is None or not latents(pair.guide_traces[0]) or pair.enum_dim is not None:
        return False
    if any(isinstance(module, AutoGuide) for module in pair.owners.submodules()):
        return any(plate.name in frames(site) for site in latents(pair.model_trace))
    size = pair.size(plate)
    return size > 1 and any(_in_own_row(*gradients) for gradients in _row_gradients(pair, plate, size))


def _row_gradients(pair: Pair, plate: Any, size: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Gradients of log q of the first and of the last datum, with respect to parameters with a batch-sized dimension.

    Yields:
        Both gradients, and the index of that dimension.
    """
    with pair.quietly(), torch.enable_grad():
        trace = poutine.trace(pair.guides[0]).get_trace(*pair.args, **pair.kwargs)
        inside = [site for site in within(trace, plate) if not site["is_observed"]]
        density = pair.layout((plate.dim,)).sum(1, inside)
        stored = [s["value"].unconstrained() for s in trace.nodes.values() if s["type"] == "param"]
        tensors = [t for t in {id(p): p for p in (*stored, *pair.owners.parameters())}.values() if t.requires_grad]
        tensors = [t for t in tensors if size in t.shape]
        if not tensors or not density.requires_grad:
            return
        gradients = [
            torch.autograd.grad(density[0, k], tensors, allow_unused=True, retain_graph=True) for k in (0, size - 1)
        ]
    for first, last in zip(*gradients, strict=True):
        if first is not None and last is not None:
            yield from ((first, last, dim) for dim in range(first.dim()) if first.shape[dim] == size)


def _in_own_row(first: Tensor, last: Tensor, dim: int) -> bool:
    """Whether each gradient is nonzero only in the row of its datum."""
    nonzero = [[i for i, row in enumerate(g.movedim(dim, 0)) if bool((row != 0).any())] for g in (first, last)]
    return nonzero == [[0], [len(first.movedim(dim, 0)) - 1]]


def agree(value: Tensor, expected: Tensor) -> bool:
    """Whether two computations of the same log-probabilities differ by rounding alone."""
    if value.shape != expected.shape:
        return False
    tolerance = torch.finfo(expected.dtype).eps ** 0.5 if expected.is_floating_point() else 0.0
    return torch.allclose(value, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
