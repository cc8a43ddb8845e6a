"""Execution of a Pyro program for K samples of each datum: vectorised, flattened or looped.

The modes are those of :mod:`pyro_vae._core.layout`. A vectorised or flattened program runs once and gives one trace; a
looped one gives K traces. Latents of all modes are exchanged in one common form, a single trace whose values have the
samples first, ``(K, *plates, *event)``: :func:`stack_latents` makes it from the traces of any mode, and
:func:`unstack_latents` makes from it the traces that a program in any mode can be replayed against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._core.axes import Axes
from pyro_vae._core.checks import refusal
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
    taken: int = 0,
) -> list[Trace]:
    """Run a program for K samples of each datum and return its traces: K if it is looped, otherwise one.

    Args:
        program: a Pyro program.
        layout: the mode that it runs in.
        axes: batch dimensions of the arguments, which a flattened program needs.
        num: number of samples K.
        args: arguments of the program.
        kwargs: keyword arguments of the program.
        at: traces to replay the runs against, one for each run; None to sample latents.
        enum: enumerate the sites that ask for it, in dimensions to the left of all others.
        taken: number of these dimensions that the sites of ``at`` take.
    """
    repeated = _in_sample_plate(program, num, layout) if layout.vectorised else program
    if layout.mode == "flattened" and num > 1:
        if axes is None:
            raise refusal(layout.owner, "the data must be arguments of the programs, to be repeated", "none")
        args, kwargs = axes.repeat_all(args, dict(kwargs), num)
    traces = []
    for number in range(num if layout.mode == "looped" else 1):
        single = repeated if at is None else poutine.replay(repeated, trace=at[number])
        single = poutine.enum(single, layout.free_dim - taken) if enum else single
        traces.append(poutine.trace(single).get_trace(*args, **kwargs))
    return traces


def _in_sample_plate(program: Program, num: int, layout: Layout) -> Program:
    """The program within a plate of K samples, to the left of its own plates."""
    return pyro.plate("num_particles_vectorized", num, dim=-layout.depth - 1)(program)


def stack_latents(traces: Sequence[Trace], layout: Layout, num: int) -> Trace:
    """One trace whose latents have the shape ``(K, *plates, *event)``; a vectorised trace is returned unchanged."""
    if layout.vectorised:
        return traces[0]
    stacked = traces[0].copy()
    for site in latents(stacked):
        values = [_samples_first(trace.nodes[site["name"]], layout, num // len(traces)) for trace in traces]
        stacked.nodes[site["name"]] = {**site, "value": torch.cat(values)}
    return stacked


def _samples_first(site: Any, layout: Layout, num: int) -> Tensor:
    if site["name"] in layout.blocks:
        return site["value"].reshape(num, *[1] * layout.depth, -1)
    return layout.samples_first(num, site)


def unstack_latents(trace: Trace, layout: Layout, num: int, depths: Mapping[str, int]) -> list[Trace]:
    """The inverse of :func:`stack_latents`: a trace for each run of a program to be replayed against.

    Args:
        trace: with latents ``(K, *plates, *event)``.
        layout: the mode that the program runs in.
        num: number of samples K.
        depths: number of batch dimensions of each site's value in a run for one sample.
    """
    if layout.vectorised:
        return [trace]
    samples = [[k] for k in range(num)] if layout.mode == "looped" else [slice(None)]
    return [_of_samples(trace, layout, indices, depths) for indices in samples]


def _of_samples(trace: Trace, layout: Layout, indices: Any, depths: Mapping[str, int]) -> Trace:
    selected = without_plates(trace) if layout.mode == "flattened" else trace.copy()
    for site in latents(trace):
        name, value = site["name"], site["value"][indices]
        if name in layout.blocks:
            value = value.reshape(value.shape[-1:])
        elif name in depths:
            value = layout.samples_in_batch(value, depths[name])
        selected.nodes[name] = {**site, "value": value}
    return selected
