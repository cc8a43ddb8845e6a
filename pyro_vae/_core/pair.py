"""Examination of a Pyro model and its guides on one batch.

The signature of a Pyro program does not show its sites, its plate over the data, the batch dimension of its arguments
or the modules that own its parameters. :class:`Pair` runs the programs once on a batch, in eval mode and without side
effects, and reads these properties from their traces. Evaluation, objectives and training all use it, so that the rules
are the same everywhere. Properties that traces do not show are determined by further runs: the rows of each datum in
:mod:`pyro_vae._core.rows`, and the mode of running several samples in :mod:`pyro_vae._core.modes`.
"""

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

from pyro_vae._core.auxiliary import determining_sites, observed_outside
from pyro_vae._core.axes import Axes, candidates
from pyro_vae._core.contexts import exactly, isolated_rng
from pyro_vae._core.failures import program_errors, unusable
from pyro_vae._core.layout import Layout, Mode
from pyro_vae._core.masks import is_masked, unmasked
from pyro_vae._core.owners import Owners
from pyro_vae._core.param_store import unregistered
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
    """A model and its guides, examined on one batch.

    Args:
        owner: name that messages begin with.
        model: Pyro model.
        guides: Pyro guides; properties that only one guide can have are those of the first.
        args: arguments of all programs.
        kwargs: keyword arguments of all programs.
        owners: the programs' modules, if known.
        enum_dim: for programs that only run enumerated: the first dimension of enumerated sites, negative.

    Raises:
        ValueError: a program cannot run on the batch; the cause is chained.

    Attributes:
        owners: the programs' modules.
        model_trace: of the model, at the first guide's latents.
        guide_traces: of the guides.
        outside: observed sites of the guides that are not terms of their densities.
        following: auxiliary sites that determine latents one to one, as in Pyro's autoguides.
        axes: verified batch dimensions of the arguments by plate, filled by :func:`~pyro_vae._core.rows.verified_axes`.
        blocks: for latents that a guide samples as one vector for all data: the datum that each entry belongs to.
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
        self.owners = owners or Owners(model=model, **{f"guide{i or ''}": g for i, g in enumerate(self.guides)})
        if self.owners.names_functions:
            self._adopt_modules_of_functions()
        with self.quietly(validate=is_validation_enabled()), SupportCheck(owner):
            self.guide_traces, self.model_trace = self._run()
            pairs = list(zip(self.guides, self.guide_traces, strict=True))
            outside = [observed_outside(guide, trace, args, self.kwargs) for guide, trace in pairs]
            modules = list(self.owners.modules.values())
            following = [determining_sites(owner, guide, trace, modules, args, self.kwargs) for guide, trace in pairs]
        self.outside: frozenset[str] = frozenset().union(*outside)
        self.following: frozenset[str] = frozenset().union(*following)
        self.blocks: dict[str, Tensor] = {}
        for trace in self.guide_traces:
            self._find_blocks(trace)
        self.axes: dict[str, Axes | None] = {}

    @contextmanager
    def quietly(self, *, validate: bool = False) -> Iterator[None]:
        """Context without side effects: modules, random state, parameter store and outer handlers stay unchanged."""
        quiet = self.owners.unchanged(), self.owners.evaluating(), isolated_rng(validate=validate), unregistered()
        with ExitStack() as stack:
            for context in (*quiet, exactly(), poutine.block()):
                stack.enter_context(context)
            yield

    def _adopt_modules_of_functions(self) -> None:
        """Add to the owners the modules whose parameters functions use without calling the modules."""
        with self.quietly(), SupportCheck(self.owner), torch.enable_grad():
            guide_traces, model_trace = self._run()
            with program_errors(self.owner, self.args, *self.guides):
                values = [s["fn"].log_prob(s["value"]) for trace in (*guide_traces, model_trace) for s in sites(trace)]
            total = sum((value.sum() for value in values), torch.zeros(()))
            self.owners.adopt(leaves(total))

    def _run(self) -> tuple[list[Trace], Trace]:
        """Traces of the guides, and of the model at the first guide's latents."""
        guide_traces = [self._trace("guide", guide, None) for guide in self.guides]
        return guide_traces, self._trace("model", self.model, guide_traces[0])

    def _trace(self, role: str, program: Program, at: Trace | None) -> Trace:
        try:
            program = program if at is None else poutine.replay(program, trace=at)
            program = program if self.enum_dim is None else poutine.enum(program, self.enum_dim)
            return poutine.trace(program).get_trace(*self.args, **self.kwargs)
        except Exception as error:
            raise unusable(self.owner, role, (self.model, *self.guides), self.args, error) from error

    @property
    def traces(self) -> list[Trace]:
        """Traces of the model and of all guides."""
        return [self.model_trace, *self.guide_traces]

    @property
    def depth(self) -> int:
        """Number of batch dimensions that the plates occupy."""
        return depth_of(*self.traces)

    def plates(self) -> dict[str, list[Any]]:
        """The plates that contain every site, by name, with the frame of each site.

        Raises:
            ValueError: no plate contains every site.
        """
        return shared_plates(self.owner, *self.traces, skipped=self.blocks)

    def layout(self, dims: tuple[int, ...], mode: Mode = "looped", axis: int = 0) -> Layout:
        """Positions of samples and data in the programs' shapes, for one mode of running them."""
        return Layout(self.owner, self.depth, dims, mode, axis, self.outside, self.blocks)

    def depths(self) -> dict[str, int]:
        """Number of batch dimensions of each latent value in a run for one sample."""
        latent = (site for trace in reversed(self.traces) for site in latents(trace))
        return {site["name"]: site["value"].dim() - site["fn"].event_dim for site in latent}

    def size(self, plate: Any) -> int:
        """Number of data in a plate, given as a frame."""
        return max(plate_size(site, plate.dim) for trace in self.traces for site in within(trace, plate))

    def data_plate(self) -> Any:
        """The plate over the data, as a frame; None without a vectorised plate.

        Among the plates that contain all observed sites, those with the most latent sites; among these, the outermost
        one whose size is that of a dimension of an argument.
        """
        observed = [frames(s) for s in observations(self.model_trace) if not isinstance(s["fn"], Unit)]
        shared = [name for name in observed[0] if all(name in stack for stack in observed)] if observed else []
        stacks = [frames(site) for site in latents(self.model_trace)]
        most = max((sum(name in stack for stack in stacks) for name in shared), default=0)
        plates = [observed[0][name] for name in shared if sum(name in stack for stack in stacks) == most]
        sized = [p for p in plates if next(candidates(self.args, self.kwargs, self.size(p)), None) is not None]
        return next(iter([*sized, *plates]), None)

    def sequential(self) -> int | None:
        """Size of the outermost sequential plate around an observed site; None without one."""
        stacks = [s["cond_indep_stack"] for s in observations(self.model_trace)]
        return next((frame.size for stack in stacks for frame in stack if not frame.vectorized), None)

    def num_values(self, plate: Any) -> int:
        """Number of observed values of a datum; masked sites count only if every observed site is masked."""
        observed = [s for s in observations(self.model_trace) if not isinstance(unmasked(s["fn"])[0], Unit | Delta)]
        always = [site for site in observed if not is_masked(site)]
        return sum(_values_per_datum(site, plate) for site in always or observed)

    @property
    def discrete(self) -> bool:
        """Whether every observed site is discrete, so that log-likelihoods are those of probabilities."""
        return all(_is_discrete(s["fn"]) for s in observations(self.model_trace) if not isinstance(s["fn"], Unit))

    def _find_blocks(self, trace: Trace) -> None:
        for module in self.owners.submodules():
            name = f"_{getattr(module, '_pyro_name', '')}_latent"
            if isinstance(module, AutoContinuous) and name in trace.nodes:
                with suppress(ValueError):  # latents without a data plate
                    self.blocks[name] = self._datum_of_entries(module)

    def _datum_of_entries(self, guide: AutoContinuous) -> Tensor:
        """The datum that each entry of an autoguide's latent vector belongs to."""
        shared = shared_plates(self.owner, self.model_trace)
        dim = next(iter(shared.values()))[0].dim
        datum_of = torch.full((guide.latent_dim,), -1)
        for site, entries in guide._unpack_latent(torch.arange(guide.latent_dim)):
            shape = guide._unconstrained_shapes[site["name"]]
            plate = dim + len(shape) - site["fn"].event_dim - (len(shape) - site["value"].dim())
            datum = torch.arange(shape[plate]).reshape(-1, *[1] * (len(shape) - plate - 1)).expand(shape)
            datum_of[entries.reshape(-1)] = datum.reshape(-1)
        return datum_of


def _values_per_datum(site: Any, plate: Any) -> int:
    shape = list(site["value"].shape)
    event_dim = site["fn"].event_dim
    if plate is not None and len(shape) - event_dim + plate.dim >= 0:
        shape.pop(len(shape) - event_dim + plate.dim)
    size = math.prod(site["fn"].event_shape)
    return math.prod(shape) - size + int(getattr(site["fn"], "num_entries", size))  # given entries are not scored


def _is_discrete(distribution: Any) -> bool:
    try:
        return bool(distribution.support.is_discrete)
    except NotImplementedError:
        return False
