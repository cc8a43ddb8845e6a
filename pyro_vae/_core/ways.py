"""Which way a pair runs for K draws of each datum: the first that agrees with draws one by one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.utils._pytree import tree_flatten

from pyro_vae._core.axes import Axes
from pyro_vae._core.layout import Layout, Mode
from pyro_vae._core.masks import is_masked
from pyro_vae._core.owners import perturbed
from pyro_vae._core.pair import Pair
from pyro_vae._core.param_store import no_registration
from pyro_vae._core.rows import agree
from pyro_vae._core.runs import in_front, placed, run
from pyro_vae._core.traces import latents, sites
from pyro_vae._core.types import Program

_LOG = logging.getLogger("pyro_vae")


@dataclass(frozen=True)
class Runs:
    """Runs a model and a guide for K draws of each datum.

    Attributes:
        model: the Pyro model.
        guide_layout: how guides run.
        model_layout: how the model runs.
        axes: where the data are in the arguments; needed to run flattened.
        depths: number of plate dimensions of each latent value, as the programs run by themselves.
    """

    model: Program
    guide_layout: Layout
    model_layout: Layout
    axes: Axes | None
    depths: Mapping[str, int]

    @property
    def way(self) -> Mode:
        """What it is called in protocols: that of the model."""
        return self.model_layout.mode

    def single(self) -> Runs:
        """The programs as they are, for one draw."""
        guide, model = (replace(layout, mode="looped") for layout in (self.guide_layout, self.model_layout))
        return replace(self, guide_layout=guide, model_layout=model)

    def guide(self, guide: Program, num: int, args: Any, kwargs: Any, *, at: Trace | None = None) -> list[Trace]:
        """The guide's runs, at latents ``(K, *plates, *event)`` if these are given."""
        replayed = None if at is None else placed(at, self.guide_layout, num, self.depths)
        return run(guide, self.guide_layout, self.axes, num, args, kwargs, at=replayed)

    def in_front(self, traces: Sequence[Trace], num: int) -> Trace:
        """One trace of a guide's runs, its latents ``(K, *plates, *event)``."""
        return in_front(traces, self.guide_layout, num)

    def at(self, traces: Sequence[Trace], num: int) -> Sequence[Trace]:
        """A guide's runs as the model's take their latents."""
        if self.guide_layout.mode == self.model_layout.mode:
            return traces
        return placed(self.in_front(traces, num), self.model_layout, num, self.depths)

    def model_at(self, latent: Trace, num: int, args: Any, kwargs: Any, *, enum: bool = False) -> list[Trace]:
        """The model's runs at latents ``(K, *plates, *event)``."""
        replayed = placed(latent, self.model_layout, num, self.depths)
        return run(self.model, self.model_layout, self.axes, num, args, kwargs, at=replayed, enum=enum)

    def log_guide(self, traces: Sequence[Trace], num: int, model_traces: Sequence[Trace] = ()) -> Tensor:
        """Log-density of a guide's draws, ``(K, B)``, auxiliary variables and their reverse models included."""
        layout, each = self.guide_layout, num // len(traces)
        masks = list(model_traces) or [None] * len(traces)
        pairs = zip(traces, masks, strict=True)
        return joined([layout.sum(each, layout.density(trace), model) for trace, model in pairs])


Densities = Callable[[Runs, Trace, int], Tensor]


def choose(
    pair: Pair,
    plates: Sequence[Any],
    densities: Densities,
    *,
    together: bool = False,
    weights_change: bool = False,
) -> Runs:
    """The first way of running that gives the densities of draws one by one, at the same latents.

    Args:
        pair: the programs on a batch.
        plates: those of the data, as frames.
        densities: of the model, ``(K, B)`` in any order of parts, for runs, latents ``(K, *plates, *event)`` and K.
        together: whether model and guide have to run in one way.
        weights_change: whether the choice has to hold for other weights too: it is then made at perturbed ones as well,
            since layers that start at zero or as the identity hide what they do.
    """
    axis, axes = _axis(pair, plates)
    dims = tuple(plate.dim for plate in plates)
    # The density of a masked draw depends on the model's mask, which has the shapes of the model's way.
    together = together or any(is_masked(site) for trace in pair.guide_traces for site in latents(trace))
    single = _runs(pair, dims, ("looped", "looped"), axis, None)
    with pair.quietly():
        for modes in _ways(together, axes is not None):
            runs = _runs(pair, dims, modes, axis, axes if "flattened" in modes else None)
            if not _is_right(pair, runs, single, densities):
                continue
            with perturbed(pair.owners) if weights_change else nullcontext():
                if not weights_change or _is_right(pair, runs, single, densities):
                    _report(pair.owner, runs.way)
                    return runs
    _report(pair.owner, single.way)
    return single


def _report(owner: str, way: Mode) -> None:
    """One line if the way is not the first; the last is as much slower as there are draws."""
    if way != "vectorised":
        level = logging.WARNING if way == "looped" else logging.INFO
        _LOG.log(level, "%s: the draws of a datum run %s, since the programs take no dimension in front.", owner, way)


def _is_right(pair: Pair, runs: Runs, single: Runs, densities: Densities) -> bool:
    """Whether the densities are those of draws one by one, at the same latents."""
    num = _num_draws(pair)
    draws = [single.guide(guide, num, pair.args, pair.kwargs) for guide in pair.guides]
    latent = [single.in_front(traces, num) for traces in draws]
    wanted = densities(single, latent[0], num)
    try:
        return _guides_agree(pair, runs, single, draws, latent) and agree(densities(runs, latent[0], num), wanted)
    except Exception:  # a program that cannot run in this way
        return False


def _num_draws(pair: Pair) -> int:
    """A number of draws that is the size of nothing else, so that no dimension is mistaken for another."""
    values = [s["value"] for trace in pair.traces for s in sites(trace) if isinstance(s["value"], Tensor)]
    tensors = [x for x in tree_flatten((pair.args, pair.kwargs))[0] if isinstance(x, Tensor)]
    taken = {size for tensor in (*values, *tensors) for size in tensor.shape}
    return next(num for num in range(2, len(taken) + 3) if num not in taken)


def takes_plate(owner: str, model: Program, guide: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the programs run right within a plate of draws, so that several need one run; else they are looped."""

    def densities(runs: Runs, latent: Trace, num: int) -> Tensor:
        traces = runs.model_at(latent, num, pair.args, pair.kwargs)
        return joined([runs.model_layout.sum(num // len(traces), sites(trace)) for trace in traces])

    try:
        with no_registration():
            pair = Pair(owner, model, [guide], args, kwargs)
            plates = sorted((found[0] for found in pair.plates().values()), key=lambda plate: plate.dim)
            chosen = choose(pair, plates, densities, together=True, weights_change=True)
    except ValueError:  # latents of all data, for one: nothing to compare datum by datum
        return False
    return chosen.way == "vectorised"


def one_draw(pair: Pair, plates: Sequence[Any]) -> Runs:
    """For K = 1 the programs run as they are."""
    return _runs(pair, tuple(plate.dim for plate in plates), ("looped", "looped"), 0, None)


def _axis(pair: Pair, plates: Sequence[Any]) -> tuple[int, Axes | None]:
    for axis, plate in enumerate(plates):
        axes = pair.axes(plate)
        if axes is not None:
            return axis, axes
    return 0, None


def _ways(together: bool, flattens: bool) -> list[tuple[Mode, Mode]]:
    ways: list[tuple[Mode, Mode]] = [("vectorised", "vectorised")]
    if flattens:
        ways += [("flattened", "flattened")] if together else [("vectorised", "flattened"), ("flattened", "flattened")]
    return ways


def _runs(pair: Pair, dims: tuple[int, ...], modes: tuple[Mode, Mode], axis: int, axes: Axes | None) -> Runs:
    guide, model = (pair.layout(dims, mode, axis) for mode in modes)
    return Runs(pair.model, guide, model, axes, pair.depths())


def _guides_agree(pair: Pair, runs: Runs, single: Runs, draws: Sequence[list[Trace]], latent: Sequence[Trace]) -> bool:
    """Whether each guide has the density of draws one by one, if it can be asked for at latents drawn elsewhere."""
    num = _num_draws(pair)
    for guide, own, values in zip(pair.guides, draws, latent, strict=True):
        wanted = single.log_guide(own, num)
        # Drawn before the draws' dimension is seen; or by a map from auxiliary sites, which rounding would take apart.
        alone = runs.guide_layout.in_front and (len(latents(values)) == 1 or bool(pair.following))
        if not alone and _known(single, guide, values, wanted, pair):
            found = runs.log_guide(runs.guide(guide, num, pair.args, pair.kwargs, at=values), num)
            if not agree(found, wanted):
                return False
        else:
            runs.guide(guide, num, pair.args, pair.kwargs)  # it has to run at least
    return True


def _known(single: Runs, guide: Program, values: Trace, wanted: Tensor, pair: Pair) -> bool:
    """Whether the guide's density can be asked for at latents that it did not just draw, and is no estimate itself."""
    try:
        num = _num_draws(pair)
        again = single.log_guide(single.guide(guide, num, pair.args, pair.kwargs, at=values), num)
    except Exception:  # a flow without an inverse, say
        return False
    return agree(again, wanted)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The draws of several runs as one; without sites each is 0."""
    return torch.cat(list(parts)) if len(parts) > 1 and parts[0].dim() else parts[0]
