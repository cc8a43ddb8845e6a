"""Which rows of a program belong to which datum: of its arguments, of its plate, of a guide's parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._core.axes import Axes, candidates
from pyro_vae._core.checks import refusal
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.owners import Owners
from pyro_vae._core.param_store import unregistered
from pyro_vae._core.traces import frames, latents, observations, order_of, within, without_plates
from pyro_vae._core.types import Program

if TYPE_CHECKING:
    from pyro_vae._core.pair import Pair


def find_axes(pair: Pair, plate: Any) -> Axes | None:
    """Where the data are in the arguments, verified by a run on two of them; None if nowhere."""
    size = pair.size(plate)
    rows = torch.tensor([size - 1, 0] if size > 1 else [0, 0])
    layout = pair.layout((plate.dim,))
    with torch.no_grad():
        whole = layout.sum(1, within(pair.model_trace, plate)).expand(1, size)
    for axes in candidates(pair.args, pair.kwargs, size):
        try:
            part = _rows(pair, axes, plate, rows)
        except Exception:  # not the right dimensions
            continue
        if agree(part, whole[:, rows]):
            return axes
    return None


def rows_follow(pair: Pair, plate: Any, axes: Axes) -> bool:
    """Whether the model's densities and scales move with the arguments: not if it holds data of its own.

    True if that cannot be told, for a model that is random itself.
    """
    size = pair.size(plate)
    with pair.quietly():
        there, again, back = (
            _whole(pair, plate, axes, torch.arange(size).flip(0) if k == 2 else None) for k in range(3)
        )
    return not agree(again, there) or agree(back, there.flip(1))


def _whole(pair: Pair, plate: Any, axes: Axes, rows: Tensor | None) -> Tensor:
    """Scaled log-probabilities of the model for all data in some order, at their latents, ``(1, B)``."""
    part, args = pair.model_trace, pair.args
    if rows is not None:
        part, args = _latents_of(pair, plate, rows), axes.take(pair.args, rows)
    trace = poutine.trace(poutine.replay(pair.model, trace=part)).get_trace(*args, **pair.kwargs)
    layout = pair.layout((plate.dim,))
    values = [layout.per_datum(1, s, layout.log_prob(s) * s["scale"]) for s in within(trace, plate)]
    return sum(values[1:], values[0])


def _latents_of(pair: Pair, plate: Any, rows: Tensor) -> Trace:
    """The latents of some of the data."""
    part = without_plates(pair.model_trace)
    for site in (site for site in within(part, plate) if not site["is_observed"]):
        place = site["value"].dim() - site["fn"].event_dim + plate.dim
        value = site["value"].index_select(place, rows.to(site["value"].device))
        part.nodes[site["name"]] = {**site, "value": value}
    return part


def _rows(pair: Pair, axes: Axes, plate: Any, rows: Tensor) -> Tensor:
    """Log-probabilities of the model for some of the data, at their latents, ``(1, 2)``."""
    model = poutine.replay(pair.model, trace=_latents_of(pair, plate, rows))
    with pair.quietly():
        trace = poutine.trace(model).get_trace(*axes.take(pair.args, rows), **pair.kwargs)
        return pair.layout((plate.dim,)).sum(1, within(trace, plate))


def row_order(pair: Pair, plate: Any) -> Tensor | None:
    """The data that the rows of a plate belong to, if these are not in the order of the arguments.

    A plate that is given its subsample either takes the data at these indices or has them in that order already:
    which of the two is seen from what changes if one datum is replaced.

    Raises:
        ValueError: the order is another at every run, or the data are not among the arguments.
    """
    order = order_of(pair.guide_traces[0], plate.name)
    if order is None:
        return None
    with pair.quietly():
        again = poutine.trace(pair.guides[0]).get_trace(*pair.args, **pair.kwargs)
    axes = next(candidates(pair.args, pair.kwargs, pair.size(plate)), None)
    repeated = order_of(again, plate.name)
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
    """Whether an autoguide that has not run yet would make parameters for each datum."""
    owners = Owners(model=model, guide=guide)
    parts = [part for owner in owners.modules.values() for part in owner.modules() if isinstance(part, AutoGuide)]
    if not any(part.prototype_trace is None for part in parts):
        return False
    with owners.unchanged(), owners.evaluating(), isolated_rng(), unregistered(), poutine.block():
        trace = poutine.trace(model).get_trace(*args)
    observed = [frames(site) for site in observations(trace)]
    shared = set.intersection(*map(set, observed)) if observed else set()
    return any(shared & set(frames(site)) for site in latents(trace))


def is_local(pair: Pair) -> bool:
    """Whether the guide has parameters for each datum of the batch by itself, so that it knows no other data."""
    plate = pair.data_plate()
    if plate is None or not latents(pair.guide_traces[0]) or pair.enum_dim is not None:
        return False
    modules = [part for owner in pair.owners.modules.values() for part in owner.modules()]
    if any(isinstance(part, AutoGuide) for part in modules):
        return any(plate.name in frames(site) for site in latents(pair.model_trace))
    size = pair.size(plate)
    return size > 1 and any(_is_of_rows(*found) for found in _row_gradients(pair, plate, size))


def _row_gradients(pair: Pair, plate: Any, size: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Gradients of the guide's density of the first and of the last datum, for dimensions as long as the batch."""
    with pair.quietly(), torch.enable_grad():
        trace = poutine.trace(pair.guides[0]).get_trace(*pair.args, **pair.kwargs)
        inside = [site for site in within(trace, plate) if not site["is_observed"]]
        density = pair.layout((plate.dim,)).sum(1, inside)
        named = [s["value"].unconstrained() for s in trace.nodes.values() if s["type"] == "param"]
        tensors = [t for t in {id(p): p for p in (*named, *pair.owners.parameters())}.values() if t.requires_grad]
        tensors = [t for t in tensors if size in t.shape]
        if not tensors or not density.requires_grad:
            return
        rows = [
            torch.autograd.grad(density[0, k], tensors, allow_unused=True, retain_graph=True) for k in (0, size - 1)
        ]
    for first, last in zip(*rows, strict=True):
        for place in () if first is None or last is None else range(first.dim()):
            if first.shape[place] == size:
                yield first, last, place


def _is_of_rows(first: Tensor, last: Tensor, place: int) -> bool:
    """Whether each gradient is in the row of its own datum alone."""
    touched = [[i for i, row in enumerate(g.movedim(place, 0)) if bool((row != 0).any())] for g in (first, last)]
    return touched == [[0], [len(first.movedim(place, 0)) - 1]]


def agree(found: Tensor, wanted: Tensor) -> bool:
    """Whether two computations of the same log-probabilities differ by rounding alone."""
    if found.shape != wanted.shape:
        return False
    exact = torch.finfo(wanted.dtype).eps ** 0.5 if wanted.is_floating_point() else 0.0
    return torch.allclose(found, wanted, rtol=exact, atol=exact, equal_nan=True)
