"""Statistics per datum from which outlier scores are formed: log p(x), its terms, complexity, regret, other models."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae._core.types import Program
from pyro_vae.data.batches import Data
from pyro_vae.evaluation.batched import BatchedEvaluation
from pyro_vae.evaluation.finished import FinishedBatches
from pyro_vae.evaluation.gaps import inference_gaps
from pyro_vae.evaluation.importance import log_likelihood
from pyro_vae.evaluation.likelihood import LogLikelihood
from pyro_vae.models import HierarchicalModel, LadderGuide, TopDownGuide

ModelAndGuide: TypeAlias = tuple[Program, Program]
_REGRET_SAMPLES, _REGRET_PARTICLES = 32, 2
_OF_LATENTS = ("rate", "distortion", "regret")


@dataclass(frozen=True)
class Statistics:
    """Computes the statistics of data; for one ``seed`` all of them see the same randomly binarized images.

    Args:
        model: Pyro model.
        guide: Pyro guide.
        num_samples: importance samples per datum.
        regret_steps: steps of the local optimisation; None omits the regret.
        background: model and guide of the background, whose log p is subtracted.
        ensemble: models and guides of other runs.
        batch_size: data at a time.
        data_plate: name of the plate over the data.
        seed: of samples and binarization.
        finished: folder of finished batches.
        progress: show progress bars.

    Attributes:
        unavailable: the reason why a score cannot be computed, by its name.
        entries: entries of the protocol: those of the importance estimate.
    """

    model: Program
    guide: Program
    num_samples: int
    regret_steps: int | None
    background: ModelAndGuide | None
    ensemble: Sequence[ModelAndGuide]
    batch_size: int
    data_plate: str | None
    seed: int
    finished: FinishedBatches | None
    progress: bool
    unavailable: dict[str, str] = field(default_factory=dict)
    entries: dict[str, Any] = field(default_factory=dict)

    def __call__(self, data: Data) -> dict[str, Tensor]:
        """``(N,)`` each, float64, by name, in nats."""
        result = self._log_likelihood(self.model, self.guide, data)
        self.entries.update({key: result.protocol[key] for key in ("dtype", "dimensions", "discrete")})
        values = {name: getattr(result, name) for name in ("log_likelihood", "rate", "distortion")}
        if result.protocol.get("estimator") == "exact":
            self.unavailable.update(dict.fromkeys(_OF_LATENTS, "the model has no latent variables"))
            values = {"log_likelihood": result.log_likelihood}
        for name, compute in self._others().items():
            try:
                values |= compute(data)
            except ValueError as error:
                self.unavailable[name] = str(error)
        return {name: value.double() for name, value in values.items()}

    def _others(self) -> dict[str, Any]:
        """The statistics that not every pair or call has, by the names of their scores."""
        chosen: dict[str, Any] = {}
        if self.entries["discrete"]:
            chosen["complexity"] = self._complexity
        else:
            self.unavailable["complexity"] = "log p of continuous data is a density, which is no code length"
        if self.regret_steps and "regret" not in self.unavailable:
            chosen["regret"] = self._regret
        if self.background is not None:
            chosen["background"] = self._background
        if self.ensemble:
            chosen["waic"] = self._ensemble
        if isinstance(self.model, HierarchicalModel):
            chosen["layers"] = self._upper_layers
        return chosen

    def _common(self) -> dict[str, Any]:
        names = ("batch_size", "data_plate", "seed", "finished", "progress")
        return {name: getattr(self, name) for name in names}

    def _log_likelihood(self, model: Program, guide: Program, data: Data) -> LogLikelihood:
        chunk = max(1, 1000 // self.batch_size)
        options: dict[str, Any] = {"num_samples": self.num_samples, "chunk_size": chunk, "engine": "eager"}
        return log_likelihood(model, guide, data, **options, **self._common())

    def _regret(self, data: Data) -> dict[str, Tensor]:
        options: dict[str, Any] = {
            "num_samples": _REGRET_SAMPLES,
            "num_particles": _REGRET_PARTICLES,
            "num_steps": self.regret_steps,
        }
        return {"regret": inference_gaps(self.model, self.guide, data, **options, **self._common()).amortization}

    def _background(self, data: Data) -> dict[str, Tensor]:
        model, guide = self.background or (self.model, self.guide)
        return {"background": self._log_likelihood(model, guide, data).log_likelihood}

    def _ensemble(self, data: Data) -> dict[str, Tensor]:
        pairs = [(self.model, self.guide), *self.ensemble]
        members = torch.stack([self._log_likelihood(*pair, data).log_likelihood for pair in pairs])  # (runs, N)
        return {"ensemble_mean": members.mean(0), "ensemble_variance": members.var(0)}

    def _upper_layers(self, data: Data) -> dict[str, Tensor]:
        """The ELBO, and the bound in which z1 has its conditional prior instead of its posterior."""
        if not isinstance(self.guide, TopDownGuide | LadderGuide):
            raise ValueError("the guide must sample the upper layers first, as TopDownGuide does")
        upper = self._log_likelihood(self.model, UpperLayers(self.model, self.guide), data).elbo
        return {"elbo": self._log_likelihood(self.model, self.guide, data).elbo, "upper_layers": upper}

    def _complexity(self, data: Data) -> dict[str, Tensor]:
        options = {"data": data, "batch_size": self.batch_size, "seed": self.seed, "finished": None}
        batches = BatchedEvaluation("outliers", (self.model, self.guide), options)
        return batches.run(lambda args, advance: {"complexity": _complexity_of(args[0])})


def _complexity_of(x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        raise ValueError(f"the data must be tensors, to be compressed, got {type(x).__name__}")
    return complexity(x)


class UpperLayers(nn.Module):
    """A proposal for a hierarchical model: all layers but z1 from its guide, and z1 from p(z1 | z2).

    Args:
        model: the Pyro model.
        guide: a guide that samples the layers from the top.

    References:
        Hierarchical VAEs know what they don't know (Havtorn et al., 2021), for k = 1.
        https://arxiv.org/abs/2102.08248
    """

    def __init__(self, model: Program, guide: Program) -> None:
        super().__init__()
        self.model, self.guide = model, guide

    def forward(self, x: Tensor) -> None:
        """Run the proposal."""
        with poutine.trace() as upper, poutine.block(hide=["z1"]):
            self.guide(x)
        with poutine.block(expose=["z1"]), poutine.replay(trace=upper.trace):
            self.model(x)


def complexity(x: Tensor) -> Tensor:
    r"""Length of each datum compressed without loss, in nats: the shortest of three codes.

    zlib of the bytes, of their differences along the last dimension, and of those along the one before, which are the
    filters "sub" and "up" of PNG. Values in [0, 1] are grey levels, rounded to 255 steps; integers are coded as such.

    Args:
        x: ``(B, *data_shape)``.

    Returns:
        ``(B,)``, float64, nats.

    References:
        Input complexity and out-of-distribution detection with likelihood-based generative models (Serra et al., 2020).
        https://arxiv.org/abs/1909.11480

    Example:
        >>> constant, noise = torch.zeros(1, 28, 28), torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0))
        >>> bool(complexity(constant)[0] < complexity(noise)[0] / 20)
        True
    """
    values = x.detach().cpu().double().reshape(len(x), *x.shape[1:] or (1,))
    rows = values.flatten(1)
    is_unit = ((rows >= 0) & (rows <= 1)).all(1) & x.is_floating_point()  # of each datum, whatever its batch
    scale = torch.where(is_unit, 255.0, 1.0).reshape(-1, *[1] * (values.dim() - 1))
    levels = (values * scale).round().long()
    codes = [levels, *(_differences(levels, dim) for dim in (-1, -2)[: x.dim() - 1])]
    return 8 * math.log(2) * torch.stack(list(map(_code_lengths, codes))).min(0).values


def _differences(levels: Tensor, dim: int) -> Tensor:
    return torch.cat([levels.narrow(dim, 0, 1), levels.diff(dim=dim)], dim)


def _code_lengths(levels: Tensor) -> Tensor:
    return torch.tensor([len(zlib.compress(_bytes(row), 9)) for row in levels.flatten(1)], dtype=torch.float64)


def _bytes(row: Tensor) -> bytes:
    """A byte for each level, or four if some level needs them; differences of bytes are coded modulo 256."""
    is_byte = int(row.abs().max()) <= 255
    return (row % 256).to(torch.uint8).numpy().tobytes() if is_byte else row.to(torch.int32).numpy().tobytes()
