"""Running a Pyro program for K draws of each datum, in one of three ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace

from pyro_vae._core.axes import Axes
from pyro_vae._core.layout import Layout
from pyro_vae._core.traces import latents, without_plates
from pyro_vae._core.types import Program


def run(
    program: Program,
    layout: Layout,
    axes: Axes | None,
    num: int,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    at: Sequence[Trace] | None = None,
    enum: bool = False,
) -> list[Trace]:
    """The traces of a program's runs for K draws of each datum: one, or K if they are looped.

    Args:
        program: a Pyro program.
        layout: how it runs.
        axes: where the data are in the arguments; needed if it runs flattened.
        num: number of draws K.
        args: of the program.
        kwargs: of the program.
        at: traces whose latents the runs take, one for each run; None to draw them.
        enum: whether sites that ask for it are enumerated, in dimensions before all others.
    """
    repeated = within_plate(program, num, layout) if layout.in_front else program
    if layout.mode == "flattened" and num > 1:
        if axes is None:
            raise ValueError(f"{layout.owner}: the data must be arguments of the programs, to be repeated.")
        args, kwargs = axes.repeat_all(args, dict(kwargs), num)
    traces = []
    for number in range(num if layout.mode == "looped" else 1):
        single = repeated if at is None else poutine.replay(repeated, trace=at[number])
        single = poutine.enum(single, layout.free_dim) if enum else single
        traces.append(poutine.trace(single).get_trace(*args, **kwargs))
    return traces


def within_plate(program: Program, num: int, layout: Layout) -> Program:
    """The program within a plate of K draws, before all of its own."""
    return pyro.plate("num_particles_vectorized", num, dim=-layout.depth - 1)(program)


def in_front(traces: Sequence[Trace], layout: Layout, num: int) -> Trace:
    """One trace whose latents are ``(K, *plates, *event)``; of vectorised runs it is their own."""
    if layout.in_front:
        return traces[0]
    whole = traces[0].copy()
    for site in latents(whole):
        values = [_front(trace.nodes[site["name"]], layout, num // len(traces)) for trace in traces]
        whole.nodes[site["name"]] = {**site, "value": torch.cat(values)}
    return whole


def placed(trace: Trace, layout: Layout, num: int, depths: Mapping[str, int]) -> list[Trace]:
    """Latents ``(K, *plates, *event)`` as the runs of a program take them.

    Args:
        trace: with the latents.
        layout: how the program runs.
        num: number of draws K.
        depths: number of plate dimensions of each site's value where the program runs by itself.
    """
    if layout.in_front:
        return [trace]
    chunks = range(num) if layout.mode == "looped" else [slice(None)]
    return [_chunk(trace, layout, [k] if isinstance(k, int) else k, depths) for k in chunks]


def _chunk(trace: Trace, layout: Layout, rows: Any, depths: Mapping[str, int]) -> Trace:
    part = without_plates(trace) if layout.mode == "flattened" else trace.copy()
    for site in latents(trace):
        name, value = site["name"], site["value"][rows]
        if name in layout.blocks:
            value = value.reshape(value.shape[-1:])
        elif name in depths:
            value = layout.from_front(site, value, depths[name])
        part.nodes[name] = {**site, "value": value}
    return part


def _front(site: Any, layout: Layout, num: int) -> Any:
    if site["name"] in layout.blocks:
        return site["value"].reshape(num, *[1] * layout.depth, -1)
    return layout.to_front(num, site)
