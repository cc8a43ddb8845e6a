"""Choice of the mode in which a model and a guide run for K samples of each datum.

A program that is written for one batch may be wrong, or fail, with a particle dimension on the left: for example with
``softmax(dim=1)``, ``view(-1, C, H, W)`` or batch normalisation. This cannot be decided from the program's code, so it
is tested: on one batch the densities of vectorised, then of flattened runs are compared with those of K separate runs
at the same latents. The first pair of modes of guide and model that agrees is used; if none does, both are looped. The
protocol of a result stores the mode of the model under the key ``way``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import TransformedDistribution
from torch.utils._pytree import tree_flatten

from pyro_vae._core.axes import Axes
from pyro_vae._core.layout import Layout, Mode
from pyro_vae._core.masks import is_masked
from pyro_vae._core.owners import perturbed
from pyro_vae._core.pair import Pair
from pyro_vae._core.param_store import no_registration
from pyro_vae._core.rows import agree, verified_axes
from pyro_vae._core.runs import run, stack_latents, unstack_latents
from pyro_vae._core.traces import latents, sites
from pyro_vae._core.types import Program

_LOG = logging.getLogger("pyro_vae")


@dataclass(frozen=True)
class Runs:
    """Runs guides in one mode, and a model in the same or another mode, for K samples of each datum.

    Attributes:
        model: the Pyro model.
        guide_layout: layout of the shapes in runs of the guides, which includes their mode.
        model_layout: the same for the model.
        axes: batch dimensions of the arguments, which flattened programs need.
        depths: number of batch dimensions of each latent value in a run for one sample.
    """

    model: Program
    guide_layout: Layout
    model_layout: Layout
    axes: Axes | None
    depths: Mapping[str, int]

    @property
    def mode(self) -> Mode:
        """The mode of the model, for protocols."""
        return self.model_layout.mode

    def single(self) -> Runs:
        """These runs in looped mode, which for K = 1 is one run of the unchanged programs."""
        guide, model = (replace(layout, mode="looped") for layout in (self.guide_layout, self.model_layout))
        return replace(self, guide_layout=guide, model_layout=model)

    def run_guide(self, guide: Program, num: int, args: Any, kwargs: Any, *, at: Trace | None = None) -> list[Trace]:
        """Run a guide, at latents ``(K, *plates, *event)`` if a trace of them is passed."""
        replayed = None if at is None else unstack_latents(at, self.guide_layout, num, self.depths)
        return run(guide, self.guide_layout, self.axes, num, args, kwargs, at=replayed)

    def run_model(self, latent: Trace, num: int, args: Any, kwargs: Any, *, enum: bool = False) -> list[Trace]:
        """Run the model at latents ``(K, *plates, *event)``."""
        replayed = unstack_latents(latent, self.model_layout, num, self.depths)
        return run(self.model, self.model_layout, self.axes, num, args, kwargs, at=replayed, enum=enum)

    def stack(self, guide_traces: Sequence[Trace], num: int) -> Trace:
        """One trace of a guide's latents, ``(K, *plates, *event)``."""
        return stack_latents(guide_traces, self.guide_layout, num)

    def for_model(self, guide_traces: Sequence[Trace], num: int) -> Sequence[Trace]:
        """A guide's traces in the form that the model can be replayed against."""
        if self.guide_layout.mode == self.model_layout.mode:
            return guide_traces
        return unstack_latents(self.stack(guide_traces, num), self.model_layout, num, self.depths)

    def log_guide(self, guide_traces: Sequence[Trace], num: int, model_traces: Sequence[Trace] = ()) -> Tensor:
        """Log-density of a guide's samples, ``(K, B)``, including auxiliary variables and their reverse models.

        Sites that a trace of the model masks are masked in the guide too.
        """
        layout, num_each = self.guide_layout, num // len(guide_traces)
        models = list(model_traces) or [None] * len(guide_traces)
        pairs = zip(guide_traces, models, strict=True)
        return joined([layout.sum(num_each, layout.density(trace), model) for trace, model in pairs])


Densities = Callable[[Runs, Trace, int], Tensor]


def choose(
    pair: Pair,
    plates: Sequence[Any],
    densities: Densities,
    *,
    together: bool = False,
    weights_change: bool = False,
) -> Runs:
    """Runs in the first pair of modes that gives the densities of K separate runs at the same latents; else looped.

    Args:
        pair: the programs on a batch.
        plates: those over the data, as frames.
        densities: function of runs, latents ``(K, *plates, *event)`` and K that returns the model's log-densities,
            ``(K, B)`` or a stack of such terms.
        together: whether model and guide must run in the same mode.
        weights_change: whether the choice must hold for other weights too: the comparison is then repeated at perturbed
            weights, because a layer that is initialised at zero or as the identity has the same output in every mode.
    """
    axis, axes = _batch_axes(pair, plates)
    dims = tuple(plate.dim for plate in plates)
    # The density of a masked sample depends on the model's mask, whose shape depends on the model's mode.
    together = together or any(is_masked(site) for trace in pair.guide_traces for site in latents(trace))
    looped = _runs(pair, dims, ("looped", "looped"), axis, None)
    with pair.quietly():
        for modes in _modes(together, axes is not None):
            runs = _runs(pair, dims, modes, axis, axes if "flattened" in modes else None)
            if not _is_right(pair, runs, looped, densities):
                continue
            with perturbed(pair.owners) if weights_change else nullcontext():
                if not weights_change or _is_right(pair, runs, looped, densities):
                    _log_mode(pair.owner, runs.mode)
                    return runs
    _log_mode(pair.owner, looped.mode)
    return looped


def for_one_sample(pair: Pair, plates: Sequence[Any]) -> Runs:
    """Runs of the programs as they are, for K = 1."""
    return _runs(pair, tuple(plate.dim for plate in plates), ("looped", "looped"), 0, None)


def takes_plate(owner: str, model: Program, guide: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether both programs have the densities of separate runs within a plate of samples (``vectorize_particles``)."""

    def densities(runs: Runs, latent: Trace, num: int) -> Tensor:
        traces = runs.run_model(latent, num, pair.args, pair.kwargs)
        return joined([runs.model_layout.sum(num // len(traces), sites(trace)) for trace in traces])

    try:
        with no_registration():
            pair = Pair(owner, model, [guide], args, kwargs)
            plates = sorted((frames[0] for frames in pair.plates().values()), key=lambda plate: plate.dim)
            runs = choose(pair, plates, densities, together=True, weights_change=True)
    except ValueError:  # no density per datum to compare, for example with latents that all data share
        return False
    return runs.mode == "vectorised"


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Log-densities of several runs, concatenated along the samples; the scalar 0 without sites."""
    return torch.cat(list(parts)) if len(parts) > 1 and parts[0].dim() else parts[0]


def _log_mode(owner: str, mode: Mode) -> None:
    """Log a mode other than vectorised; a warning for a looped model, which is K times as slow."""
    if mode != "vectorised":
        level = logging.WARNING if mode == "looped" else logging.INFO
        _LOG.log(
            level, "%s: the model runs %s, because no faster mode gave the densities of separate runs.", owner, mode
        )


def _batch_axes(pair: Pair, plates: Sequence[Any]) -> tuple[int, Axes | None]:
    """Index of the first plate whose data are arguments, and their batch dimensions; (0, None) without such a plate."""
    for axis, plate in enumerate(plates):
        axes = verified_axes(pair, plate)
        if axes is not None:
            return axis, axes
    return 0, None


def _modes(together: bool, can_flatten: bool) -> list[tuple[Mode, Mode]]:
    """Modes of guide and model, in the order in which they are tried."""
    modes: list[tuple[Mode, Mode]] = [("vectorised", "vectorised")]
    if can_flatten:
        modes += [("flattened", "flattened")] if together else [("vectorised", "flattened"), ("flattened", "flattened")]
    return modes


def _runs(pair: Pair, dims: tuple[int, ...], modes: tuple[Mode, Mode], axis: int, axes: Axes | None) -> Runs:
    guide, model = (pair.layout(dims, mode, axis) for mode in modes)
    return Runs(pair.model, guide, model, axes, pair.depths())


def _is_right(pair: Pair, runs: Runs, looped: Runs, densities: Densities) -> bool:
    """Whether the densities of guides and model are those of looped runs, at the same latents."""
    num = _num_samples(pair)
    guide_traces = [looped.run_guide(guide, num, pair.args, pair.kwargs) for guide in pair.guides]
    latent = [looped.stack(traces, num) for traces in guide_traces]
    expected = densities(looped, latent[0], num)
    try:
        guides_agree = _guides_agree(pair, runs, looped, guide_traces, latent)
        return guides_agree and agree(densities(runs, latent[0], num), expected)
    except Exception:  # a program that cannot run in this mode
        return False


def _num_samples(pair: Pair) -> int:
    """A number of samples that no other dimension has as its size, so that no two dimensions can be confused."""
    values = [s["value"] for trace in pair.traces for s in sites(trace) if isinstance(s["value"], Tensor)]
    tensors = [x for x in tree_flatten((pair.args, pair.kwargs))[0] if isinstance(x, Tensor)]
    taken = {size for tensor in (*values, *tensors) for size in tensor.shape}
    return next(num for num in range(2, len(taken) + 3) if num not in taken)


def _guides_agree(
    pair: Pair, runs: Runs, looped: Runs, guide_traces: Sequence[list[Trace]], latent: Sequence[Trace]
) -> bool:
    """Whether each guide has the density of looped runs.

    A guide whose density cannot be evaluated at given latents only has to run.
    """
    num = _num_samples(pair)
    for guide, traces, values in zip(pair.guides, guide_traces, latent, strict=True):
        expected = looped.log_guide(traces, num)
        transformed = any(_is_transformed(site["fn"]) for site in latents(values))
        # Not compared: a single latent without transforms, whose distribution is computed from the data alone; and
        # latents that are computed from auxiliary sites, which would differ from the replayed values by rounding.
        alone = len(latents(values)) == 1 and not transformed
        skipped = runs.guide_layout.vectorised and (alone or bool(pair.following))
        if not skipped and _has_density_at(looped, guide, values, expected, pair):
            replayed = runs.run_guide(guide, num, pair.args, pair.kwargs, at=values)
            if not agree(runs.log_guide(replayed, num), expected):
                return False
        elif transformed and not skipped and runs.guide_layout.vectorised:
            return False  # transforms without an inverse cannot be compared
        else:
            runs.run_guide(guide, num, pair.args, pair.kwargs)  # only test that it runs
    return True


def _is_transformed(fn: Any) -> bool:
    """Whether samples pass through transforms, whose layers act on the particle dimension of a vectorised run."""
    while not isinstance(fn, TransformedDistribution) and hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, TransformedDistribution)


def _has_density_at(looped: Runs, guide: Program, values: Trace, expected: Tensor, pair: Pair) -> bool:
    """Whether the guide's density can be evaluated at latents that it did not just sample, and is deterministic."""
    try:
        num = _num_samples(pair)
        replayed = looped.log_guide(looped.run_guide(guide, num, pair.args, pair.kwargs, at=values), num)
    except Exception:  # for example a flow without an inverse
        return False
    return agree(replayed, expected)
