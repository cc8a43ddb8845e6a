"""What a Pyro model and guide are, found out by running them once on a batch; everything else asks here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta, Unit
from pyro.infer.autoguide import AutoContinuous, AutoGuide
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from torch import Tensor
from torch.utils._pytree import tree_flatten

from pyro_vae._core.auxiliary import observed_outside, sources
from pyro_vae._core.axes import Axes, candidates, is_ambiguous
from pyro_vae._core.contexts import isolated
from pyro_vae._core.masks import is_masked, unmasked
from pyro_vae._core.owners import Owners
from pyro_vae._core.support import OneLineError, SupportCheck, outside
from pyro_vae._core.traces import (
    Layout,
    Mode,
    depth_of,
    frames,
    latents,
    observations,
    order_of,
    plate_size,
    refusal,
    shared_plates,
    sites,
    without_plates,
)
from pyro_vae._core.watch import leaves

Program = Callable[..., Any]


class Pair:
    """A model and its guides as found on one batch. The programs run in eval mode and nothing outside notices.

    Args:
        owner: name to begin messages with.
        model: Pyro model.
        guides: Pyro guides, of which the first stands for all where there can be one alone.
        args: what all are called with.
        kwargs: the same by keyword.
        owners: of the programs, if they are known.
        enum_dim: for programs that run only enumerated: the first dimension of enumerated sites, negative.

    Raises:
        ValueError: a program cannot be run on the batch; the cause is chained.

    Attributes:
        owners: the modules of the programs.
        model_trace: of the model at the first guide's latents.
        guide_traces: of the guides.
        outside: observed sites of the guides that are no part of their densities.
        following: auxiliary sites that latents follow from one to one, as in Pyro's autoguides.
        blocks: for latents that a guide draws as one vector for all data: the datum of each entry.
    """

    def __init__(
        self,
        owner: str,
        model: Program,
        guides: Sequence[Program],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
        *,
        owners: Owners | None = None,
        enum_dim: int | None = None,
    ) -> None:
        self.owner, self.model, self.guides = owner, model, tuple(guides)
        self.args, self.kwargs, self.enum_dim = args, dict(kwargs or {}), enum_dim
        self.owners = owners or Owners(model=model, **{_named("guide", i): g for i, g in enumerate(self.guides)})
        if self.owners.names_functions:
            self._adopt(enum_dim)
        with self.quietly(validate=is_validation_enabled()), SupportCheck(owner):
            self.guide_traces = [self._traced("guide", guide, None, enum_dim) for guide in self.guides]
            self.model_trace = self._traced("model", model, self.guide_traces[0], enum_dim)
            pairs = list(zip(self.guides, self.guide_traces, strict=True))
            outside = [observed_outside(guide, trace, args, self.kwargs) for guide, trace in pairs]
            modules = list(self.owners.modules.values())
            following = [sources(owner, guide, trace, modules, args, self.kwargs) for guide, trace in pairs]
        self.outside: frozenset[str] = frozenset().union(*outside)
        self.following: frozenset[str] = frozenset().union(*following)
        self.blocks: dict[str, Tensor] = {}
        for trace in self.guide_traces:
            self._find_blocks(trace)
        self._axes: Axes | bool | None = False

    @contextmanager
    def quietly(self, *, validate: bool = False) -> Iterator[None]:
        with self.owners.unchanged(), self.owners.evaluating(), isolated(validate=validate), poutine.block():
            yield

    def _adopt(self, enum_dim: int | None) -> None:
        """Add to the owners the modules whose parameters functions use without calling the modules."""
        with self.quietly(), SupportCheck(self.owner), torch.enable_grad():
            guides = [self._traced("guide", guide, None, enum_dim) for guide in self.guides]
            traces = [*guides, self._traced("model", self.model, guides[0], enum_dim)]
            values = [site["fn"].log_prob(site["value"]) for trace in traces for site in sites(trace)]
            whole = sum((value.sum() for value in values), torch.zeros(()))
            self.owners.adopt(leaves(whole))

    def _traced(self, role: str, program: Program, at: Trace | None, enum_dim: int | None) -> Trace:
        try:
            program = program if at is None else poutine.replay(program, trace=at)
            program = program if enum_dim is None else poutine.enum(program, enum_dim)
            return poutine.trace(program).get_trace(*self.args, **self.kwargs)
        except Exception as error:
            raise unusable(self.owner, role, program, self.args, error) from error

    @property
    def traces(self) -> list[Trace]:
        """Of the model and of all guides."""
        return [self.model_trace, *self.guide_traces]

    @property
    def depth(self) -> int:
        """Number of dimensions that the plates take."""
        return depth_of(*self.traces)

    def plates(self) -> dict[str, list[Any]]:
        """The plates that every site is within, with their frames.

        Raises:
            ValueError: there is none.
        """
        return shared_plates(self.owner, *self.traces, skipped=self.blocks)

    def layout(self, dims: tuple[int, ...], mode: Mode = "looped", axis: int = 0) -> Layout:
        """Where the data are in the shapes of the programs in one way of running them."""
        return Layout(self.owner, self.depth, dims, mode, axis, self.outside, self.blocks)

    def depths(self) -> dict[str, int]:
        """Number of plate dimensions of each latent value, as the programs run by themselves."""
        found = (site for trace in reversed(self.traces) for site in latents(trace))
        return {site["name"]: site["value"].dim() - site["fn"].event_dim for site in found}

    def size(self, plate: Any) -> int:
        """Number of data in a plate, given as a frame."""
        return max(plate_size(site, plate.dim) for trace in self.traces for site in _within(trace, plate))

    def row_order(self, plate: Any) -> Tensor | None:
        """The data that the rows of a plate belong to, if these are not in the order of the arguments.

        A plate that is given its subsample either takes the data at these indices or has them in that order already:
        which of the two, is seen by what changes if one datum is replaced.

        Raises:
            ValueError: the order is another at every run, or the data are not among the arguments.
        """
        order = order_of(self.guide_traces[0], plate.name)
        if order is None:
            return None
        with self.quietly():
            again = poutine.trace(self.guides[0]).get_trace(*self.args, **self.kwargs)
        axes = next(candidates(self.args, self.kwargs, self.size(plate)), None)
        repeated = order_of(again, plate.name)
        if axes is None or repeated is None or not torch.equal(repeated, order):
            rule, what = (
                "a plate that is given a subsample must have the same one at every run",
                f"plate {plate.name!r}",
            )
            raise refusal(self.owner, rule, what, "Pass the data in the order of the plate")
        moved = int((order != torch.arange(len(order), device=order.device)).nonzero()[0])
        layout, rows = self.layout((plate.dim,)), torch.arange(len(order))
        model = poutine.replay(self.model, trace=self.model_trace)
        rows[moved] = order[moved].cpu()
        with self.quietly():
            trace = poutine.trace(model).get_trace(*axes.take(self.args, rows), **self.kwargs)
            new, old = (layout.sum(1, _within(t, plate)) for t in (trace, self.model_trace))
            changed = new != old
        return None if bool(changed[0, moved]) else order

    def is_local(self) -> bool:
        """Whether the guide has parameters for each datum of the batch by itself, so that it knows no other data."""
        plate = self.data_plate()
        if plate is None or not latents(self.guide_traces[0]) or self.enum_dim is not None:
            return False
        modules = [part for owner in self.owners.modules.values() for part in owner.modules()]
        if any(isinstance(part, AutoGuide) for part in modules):
            return any(plate.name in frames(site) for site in latents(self.model_trace))
        size = self.size(plate)
        return size > 1 and any(self._is_of_rows(*found) for found in self._row_gradients(plate, size))

    def _row_gradients(self, plate: Any, size: int) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Gradients of the guide's density of the first and of the last datum, for dimensions as long as the batch."""
        guide = poutine.replay(self.guides[0], trace=self.guide_traces[0])
        with self.quietly(), torch.enable_grad():
            trace = poutine.trace(guide).get_trace(*self.args, **self.kwargs)
            inside = [site for site in _within(trace, plate) if not site["is_observed"]]
            density = self.layout((plate.dim,)).sum(1, inside)
            named = [s["value"].unconstrained() for s in trace.nodes.values() if s["type"] == "param"]
            tensors = [t for t in {id(p): p for p in (*named, *self.owners.parameters())}.values() if t.requires_grad]
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

    @staticmethod
    def _is_of_rows(first: Tensor, last: Tensor, place: int) -> bool:
        """Whether each gradient is in the row of its own datum alone."""
        touched = [[i for i, row in enumerate(g.movedim(place, 0)) if bool((row != 0).any())] for g in (first, last)]
        return touched == [[0], [len(first.movedim(place, 0)) - 1]]

    def data_plate(self) -> Any:
        """The plate of the data as a frame: that of the observed sites which most latents are in; None without one."""
        observed = [frames(s) for s in observations(self.model_trace) if not isinstance(s["fn"], Unit)]
        shared = set.intersection(*map(set, observed)) if observed else set()
        within = [frames(site) for site in latents(self.model_trace)]
        most = sorted(shared, key=lambda name: (-sum(name in stack for stack in within), observed[0][name].dim))
        return observed[0][most[0]] if most else None

    def sequential(self) -> int | None:
        """Size of the outermost plate that runs one by one; None without one."""
        stacks = [s["cond_indep_stack"] for s in observations(self.model_trace)]
        found = (frame.size for stack in stacks for frame in stack if not frame.vectorized)
        return next(found, None)

    @property
    def num_values(self) -> int:
        """Number of observed values of a datum; sites with a mask count only if all have one."""
        plate = self.data_plate()
        observed = [s for s in observations(self.model_trace) if not isinstance(unmasked(s["fn"])[0], Unit | Delta)]
        always = [site for site in observed if not is_masked(site)]
        return sum(_per_datum(site, plate) for site in always or observed)

    @property
    def discrete(self) -> bool:
        """Whether every observed site is discrete, so that log-likelihoods are those of probabilities."""
        return all(_is_discrete(s["fn"]) for s in observations(self.model_trace) if not isinstance(s["fn"], Unit))

    def axes(self, plate: Any) -> Axes | None:
        """Where the data are in the arguments, verified by a run on two of them; None if nowhere.

        Args:
            plate: that of the data, as a frame.
        """
        if self._axes is False or self._axes is True:
            self._axes = None if self.enum_dim is not None else self._find_axes(plate)
        return self._axes

    def axes_of(self, size: int, plate: Any) -> Axes | None:
        """The first dimensions of a size; verified if other ones are possible and a plate has that size."""
        if plate is not None and size == self.size(plate) and is_ambiguous(self.args, self.kwargs, size):
            verified = self.axes(plate)
            if verified is not None:
                return verified
        return next(candidates(self.args, self.kwargs, size), None)

    def _find_axes(self, plate: Any) -> Axes | None:
        size = self.size(plate)
        rows = torch.tensor([size - 1, 0] if size > 1 else [0, 0])
        layout = self.layout((plate.dim,))
        with torch.no_grad():
            whole = layout.sum(1, _within(self.model_trace, plate)).expand(1, size)
        for axes in candidates(self.args, self.kwargs, size):
            try:
                part = self._rows(axes, plate, rows)
            except Exception:  # not the right dimensions
                continue
            if agree(part, whole[:, rows]):
                return axes
        return None

    def _rows(self, axes: Axes, plate: Any, rows: Tensor) -> Tensor:
        """Log-probabilities of the model for some of the data, at their latents, ``(1, 2)``."""
        part = without_plates(self.model_trace)
        for site in (site for site in _within(part, plate) if not site["is_observed"]):
            place = site["value"].dim() - site["fn"].event_dim + plate.dim
            value = site["value"].index_select(place, rows.to(site["value"].device))
            part.nodes[site["name"]] = {**site, "value": value}
        model = poutine.replay(self.model, trace=part)
        with self.quietly():
            trace = poutine.trace(model).get_trace(*axes.take(self.args, rows), **self.kwargs)
            return self.layout((plate.dim,)).sum(1, _within(trace, plate))

    def _find_blocks(self, trace: Trace) -> None:
        """Which datum every entry of an autoguide's vector belongs to."""
        for module in (part for owner in self.owners.modules.values() for part in owner.modules()):
            name = f"_{getattr(module, '_pyro_name', '')}_latent"
            if isinstance(module, AutoContinuous) and name in trace.nodes:
                with suppress(ValueError):  # latents of no datum
                    self.blocks[name] = self._entries(module)

    def _entries(self, guide: AutoContinuous) -> Tensor:
        shared = shared_plates(self.owner, self.model_trace)
        dim = next(iter(shared.values()))[0].dim
        index = torch.full((guide.latent_dim,), -1)
        for site, where in guide._unpack_latent(torch.arange(guide.latent_dim)):
            shape = guide._unconstrained_shapes[site["name"]]
            place = dim + len(shape) - site["fn"].event_dim - (len(shape) - site["value"].dim())
            datum = torch.arange(shape[place]).reshape(-1, *[1] * (len(shape) - place - 1)).expand(shape)
            index[where.reshape(-1)] = datum.reshape(-1)
        return index


def agree(found: Tensor, wanted: Tensor) -> bool:
    """Whether two computations of the same log-probabilities differ by rounding alone."""
    if found.shape != wanted.shape:
        return False
    exact = torch.finfo(wanted.dtype).eps ** 0.5 if wanted.is_floating_point() else 0.0
    return torch.allclose(found, wanted, rtol=exact, atol=exact, equal_nan=True)


def unusable(owner: str, role: str, program: Program, args: tuple[Any, ...], error: Exception) -> Exception:
    """What to raise for a program that fails on a batch: one line; an error of this package as it is."""
    line = (str(error).strip().splitlines() or [""])[0][:300].rstrip(".")
    if isinstance(error, OneLineError):
        return error
    for value in (x for x in tree_flatten(args)[0] if isinstance(x, Tensor) and x.is_floating_point()):
        if bool(torch.isnan(value).any()):
            return outside(owner, "data must be finite", "NaN", torch.isnan(value))
    if isinstance(error, ValueError) and ", got " in line:
        return ValueError(f"{line}.")
    given = ", ".join(f"{tuple(a.shape)}" if isinstance(a, Tensor) else type(a).__name__ for a in args)
    if isinstance(error, TypeError) and "positional argument" in line:
        rule = f"a batch must hold the arguments that the {role} takes"
        return refusal(owner, rule, f"({given}): {line}", "Pass such batches, as [x for x, label in loader]")
    parts = (part for module in Owners(program=program).modules.values() for part in module.modules())
    auto = any(isinstance(part, AutoGuide) for part in parts)
    hint = " An autoguide has parameters for the data it was made with: pass these in one batch." if auto else ""
    what = f"{type(error).__name__} for arguments ({given}): {line}"
    return ValueError(f"{owner}: the {role} must run on a batch, got {what}.{hint}")


def _named(name: str, number: int) -> str:
    return name if number == 0 else f"{name}{number}"


def _within(trace: Trace, plate: Any) -> list[Any]:
    """The sites in a plate, given as a frame."""
    return [site for site in sites(trace) if plate.name in frames(site)]


def _per_datum(site: Any, plate: Any) -> int:
    shape = list(site["value"].shape)
    events = site["fn"].event_dim
    if plate is not None and len(shape) - events + plate.dim >= 0:
        shape.pop(len(shape) - events + plate.dim)
    return math.prod(shape)


def _is_discrete(distribution: Any) -> bool:
    try:
        return bool(distribution.support.is_discrete)
    except NotImplementedError:
        return False
