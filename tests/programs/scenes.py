"""Attend, infer, repeat: objects placed on a canvas one after the other, as in Pyro's ``air`` example."""

from __future__ import annotations

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, softplus

from tests.programs.networks import HIDDEN, NormalNet, mlp
from tests.programs.pair import Built, built

STEPS, CANVAS, WINDOW, WHAT = 2, 4, 2, 2


def affine(where: Tensor) -> Tensor:
    """Matrices ((s, 0, x), (0, s, y)) from rows (s, x, y)."""
    padded = torch.cat([where.new_zeros(where.size(0), 1), where], dim=1)
    return padded[:, [1, 0, 2, 0, 1, 3]].view(where.size(0), 2, 3)


def window_to_image(where: Tensor, windows: Tensor) -> Tensor:
    rows = windows.size(0)
    grid = affine_grid(affine(where), [rows, 1, CANVAS, CANVAS], align_corners=False)
    placed = grid_sample(windows.view(rows, 1, WINDOW, WINDOW), grid, align_corners=False)
    return placed.view(rows, CANVAS, CANVAS)


def image_to_window(where: Tensor, images: Tensor) -> Tensor:
    rows = images.size(0)
    inverse = torch.cat([where.new_ones(rows, 1), -where[:, 1:]], dim=1) / where[:, :1]
    grid = affine_grid(affine(inverse), [rows, 1, WINDOW, WINDOW], align_corners=False)
    return grid_sample(images.view(rows, 1, CANVAS, CANVAS), grid, align_corners=False).view(rows, -1)


class GuideState(NamedTuple):
    h: Tensor
    c: Tensor
    pres: Tensor
    where: Tensor
    what: Tensor


class AIR(nn.Module):
    """Presence, position and content of each object, the last two masked if it is absent."""

    def __init__(self) -> None:
        super().__init__()
        self.where_loc = nn.Parameter(torch.tensor([3.0, 0.0, 0.0]), requires_grad=False)
        self.where_scale = nn.Parameter(torch.tensor([0.1, 1.0, 1.0]), requires_grad=False)
        self.decode = nn.Sequential(mlp(WHAT, HIDDEN, WINDOW**2), nn.Sigmoid())
        self.encode = NormalNet(WINDOW**2, WHAT)
        self.rnn = nn.LSTMCell(CANVAS**2 + 3 + WHAT + 1, HIDDEN)
        self.predict = mlp(HIDDEN, HIDDEN, 7)
        self.h_init, self.c_init = nn.Parameter(torch.zeros(1, HIDDEN)), nn.Parameter(torch.zeros(1, HIDDEN))
        self.where_init, self.what_init = nn.Parameter(torch.zeros(1, 3)), nn.Parameter(torch.zeros(1, WHAT))

    def model(self, data: Tensor) -> None:
        pyro.module("decode", self.decode)
        with pyro.plate("data", data.size(0)) as index:
            batch = data[index]
            n = batch.size(0)
            canvas, pres = data.new_zeros(n, CANVAS, CANVAS), data.new_ones(n, 1)
            for t in range(STEPS):
                canvas, pres = self.prior_step(t, n, canvas, pres)
            observed = dist.Normal(canvas.view(n, -1), 0.3 * data.new_ones(n, CANVAS**2)).to_event(1)
            pyro.sample("obs", observed, obs=batch.view(n, -1))

    def prior_step(self, t: int, n: int, canvas: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        pres = pyro.sample(f"z_pres_{t}", dist.Bernoulli(0.5 * before).to_event(1))  # no object after an absent one
        place = dist.Normal(self.where_loc.expand(n, 3), self.where_scale.expand(n, 3))
        where = pyro.sample(f"z_where_{t}", place.mask(pres).to_event(1))
        content = dist.Normal(canvas.new_zeros(n, WHAT), canvas.new_ones(n, WHAT))
        what = pyro.sample(f"z_what_{t}", content.mask(pres).to_event(1))
        return canvas + window_to_image(where, self.decode(what)) * pres.view(-1, 1, 1), pres

    def guide(self, data: Tensor) -> None:
        for name in ("rnn", "predict", "encode"):
            pyro.module(name, getattr(self, name))
        first = [pyro.param(name, getattr(self, name)) for name in ("h_init", "c_init", "where_init", "what_init")]
        with pyro.plate("data", data.size(0)) as index:
            batch = data[index]
            n = batch.size(0)
            h, c, where, what = (tensor.expand(n, tensor.size(1)) for tensor in first)
            state = GuideState(h, c, data.new_ones(n, 1), where, what)
            for t in range(STEPS):
                state = self.guide_step(t, batch, state)

    def guide_step(self, t: int, batch: Tensor, last: GuideState) -> GuideState:
        inputs = torch.cat([batch.view(batch.size(0), -1), last.where, last.what, last.pres], dim=1)
        h, c = self.rnn(inputs, (last.h, last.c))
        outputs = self.predict(h)
        pres = pyro.sample(f"z_pres_{t}", dist.Bernoulli(outputs[:, :1].sigmoid() * last.pres).to_event(1))
        loc, scale = outputs[:, 1:4] + self.where_loc, softplus(outputs[:, 4:]) * self.where_scale
        where = pyro.sample(f"z_where_{t}", dist.Normal(loc, scale).mask(pres).to_event(1))
        window = image_to_window(where, batch)
        what = pyro.sample(f"z_what_{t}", dist.Normal(*self.encode(window)).mask(pres).to_event(1))
        return GuideState(h, c, pres, where, what)


def air() -> Built:
    program = AIR()
    batches = (torch.rand(6, CANVAS, CANVAS),), (torch.rand(4, CANVAS, CANVAS),)
    notes = (
        "Trace_ELBO, for TraceGraph_ELBO and its baselines have no differentiable_loss; z_pres is drawn, not "
        "enumerated; later steps are masked by what earlier ones drew"
    )
    return built(program.model, program.guide, *batches, notes=notes)
