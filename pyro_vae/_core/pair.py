"""What a Pyro model and guide are, found out by running them once on a batch; everything else asks here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta, Unit
from pyro.infer.autoguide import AutoContinuous
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._core.auxiliary import observed_outside, sources
from pyro_vae._core.axes import Axes, candidates, is_ambiguous
from pyro_vae._core.contexts import exactly, isolated_rng
from pyro_vae._core.failures import one_line, unusable
from pyro_vae._core.layout import Layout, Mode
from pyro_vae._core.masks import is_masked, unmasked
from pyro_vae._core.owners import Owners
from pyro_vae._core.param_store import unregistered
from pyro_vae._core.rows import find_axes
from pyro_vae._core.support import SupportCheck
from pyro_vae._core.traces import (
    depth_of,
    frames,
    latents,
    observations,
    plate_size,
    shared_plates,
    sites,
    within,
)
from pyro_vae._core.types import Program
from pyro_vae._core.watch import leaves


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
        self._axes: list[Axes | None] = []

    @contextmanager
    def quietly(self, *, validate: bool = False) -> Iterator[None]:
        quiet = self.owners.unchanged(), self.owners.evaluating(), isolated_rng(validate=validate), unregistered()
        with ExitStack() as stack:
            for context in (*quiet, exactly(), poutine.block()):
                stack.enter_context(context)
            yield

    def _adopt(self, enum_dim: int | None) -> None:
        """Add to the owners the modules whose parameters functions use without calling the modules."""
        with self.quietly(), SupportCheck(self.owner), torch.enable_grad():
            guides = [self._traced("guide", guide, None, enum_dim) for guide in self.guides]
            traces = [*guides, self._traced("model", self.model, guides[0], enum_dim)]
            with one_line(self.owner, self.args, *self.guides):
                values = [site["fn"].log_prob(site["value"]) for trace in traces for site in sites(trace)]
            whole = sum((value.sum() for value in values), torch.zeros(()))
            self.owners.adopt(leaves(whole))

    def _traced(self, role: str, program: Program, at: Trace | None, enum_dim: int | None) -> Trace:
        try:
            program = program if at is None else poutine.replay(program, trace=at)
            program = program if enum_dim is None else poutine.enum(program, enum_dim)
            return poutine.trace(program).get_trace(*self.args, **self.kwargs)
        except Exception as error:
            raise unusable(self.owner, role, (self.model, *self.guides), self.args, error) from error

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
        return max(plate_size(site, plate.dim) for trace in self.traces for site in within(trace, plate))

    def data_plate(self) -> Any:
        """The plate of the data as a frame: that of the observed sites which most latents are in; None without one.

        Of several the outermost whose size is that of an argument's dimension.
        """
        observed = [frames(s) for s in observations(self.model_trace) if not isinstance(s["fn"], Unit)]
        shared = [name for name in observed[0] if all(name in stack for stack in observed)] if observed else []
        stacks = [frames(site) for site in latents(self.model_trace)]
        most = max((sum(name in stack for stack in stacks) for name in shared), default=0)
        plates = [observed[0][name] for name in shared if sum(name in stack for stack in stacks) == most]
        sized = [p for p in plates if next(candidates(self.args, self.kwargs, self.size(p)), None) is not None]
        return next(iter([*sized, *plates]), None)

    def sequential(self) -> int | None:
        """Size of the outermost plate that runs one by one; None without one."""
        stacks = [s["cond_indep_stack"] for s in observations(self.model_trace)]
        found = (frame.size for stack in stacks for frame in stack if not frame.vectorized)
        return next(found, None)

    def num_values(self, plate: Any) -> int:
        """Number of observed values of a datum of a plate; sites with a mask count only if all have one."""
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
        if not self._axes:
            self._axes.append(None if self.enum_dim is not None else find_axes(self, plate))
        return self._axes[0]

    def axes_of(self, size: int, plate: Any) -> Axes | None:
        """The first dimensions of a size; verified if other ones are possible and a plate has that size."""
        if plate is not None and size == self.size(plate) and is_ambiguous(self.args, self.kwargs, size):
            verified = self.axes(plate)
            if verified is not None:
                return verified
        return next(candidates(self.args, self.kwargs, size), None)

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


def _named(name: str, number: int) -> str:
    return name if number == 0 else f"{name}{number}"


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
