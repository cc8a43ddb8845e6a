"""Coding of guides whose latents are coded one after the other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae._core.checks import require
from pyro_vae.compression.conditionals import Conditional, InverseFlowOnGrid, TriangularOnGrid
from pyro_vae.compression.exact import ExactFunction
from pyro_vae.compression.family import WIDTH, Family, Parameters, Sizes, grid_size, on_grid
from pyro_vae.compression.symbols import FRACTION, I64
from pyro_vae.guides import FullRankNormalGuide, IAFGuide
from pyro_vae.guides.flow import LOG_SCALE_BOUNDS
from pyro_vae.guides.iaf import LIMIT, OPEN

_LARGEST = 2**10  # of the context of a flow, which is clamped


def sequential(guide: Any, sizes: Sizes) -> Family | None:
    """The family of a guide whose parameters are the outputs of its network; None of other guides."""
    if isinstance(guide, FullRankNormalGuide):
        return _full_rank(guide, sizes)
    return _inverse_flow(guide, sizes) if isinstance(guide, IAFGuide) else None


def _full_rank(guide: Any, sizes: Sizes) -> Family:
    """The family of a full-rank normal guide, whose parameters are those of its network."""
    grid, dim, below = sizes.grid, guide.latent_dim, guide.below.cpu().numpy()

    def parameters(params: Tensor) -> dict[str, Tensor]:
        loc, log_scale, entries = params.split([dim, dim, len(below)], -1)
        return {"loc": loc, "log_scale": log_scale.clamp(*guide.log_scale_bounds), "entries": entries / dim}

    def build(p: Parameters) -> Conditional:
        matrix = np.zeros((len(p["loc"]), dim * dim), dtype=np.int64)
        matrix[:, below] = p["entries"]
        matrix = matrix.reshape(-1, dim, dim)
        return TriangularOnGrid(p["loc"], p["log_scale"], matrix, **sizes.of_latents)

    return Family(parameters, build, on_grid(grid), grid_size(grid), continuous=True)


def _inverse_flow(guide: IAFGuide, sizes: Sizes) -> Family:
    """The family of a guide of one inverse autoregressive flow; several have no order."""
    dim, advice = guide.latent_dim, "Fit one with pyro-vae refit RUN --guide IAFGuide --guide.num_flows 1"
    require(
        len(guide.mades) == 1, "compress", "an IAFGuide must have one flow", f"num_flows={len(guide.mades)}", advice
    )
    exact = ExactFunction(
        partial(_coefficients, guide.mades[0]),
        [(dim,), (guide.num_params,)],
        bits=FRACTION,
        limit=_LARGEST,
        dtype=next(guide.parameters()).dtype,
    )

    def parameters(params: Tensor) -> dict[str, Tensor]:
        loc, log_scale, context = params.split([dim, dim, guide.num_params], -1)
        return {"loc": loc, "log_scale": log_scale.clamp(*LOG_SCALE_BOUNDS), "context": context}

    def build(p: Parameters) -> Conditional:
        coefficients = _at_context(exact, np.clip(p["context"], -_LARGEST << FRACTION, _LARGEST << FRACTION))
        return InverseFlowOnGrid(p["loc"], p["log_scale"], coefficients, largest=4 * WIDTH, **sizes.of_latents)

    return Family(parameters, build, on_grid(sizes.grid), grid_size(sizes.grid), continuous=True)


def _coefficients(made: Any, y: Tensor, context: Tensor) -> dict[str, Tensor]:
    """Shift, gate and the gate's logarithm of :class:`~pyro_vae.guides.IAFGuide`."""
    m, raw = made(y, context).unbind(-2)
    s = (raw / LIMIT).tanh() * LIMIT
    return {"shift": m * ((-s - OPEN).sigmoid()), "gate": (s + OPEN).sigmoid(), "log_gate": (s + OPEN).sigmoid().log()}


def _at_context(exact: ExactFunction, context: I64) -> Callable[[I64], list[I64]]:
    def coefficients(y: I64) -> list[I64]:
        results = exact(torch.from_numpy(y), torch.from_numpy(context))
        return [results[name].numpy().astype(np.int64) for name in ("shift", "gate", "log_gate")]

    return coefficients
