"""Bits back coding: a datum costs minus its ELBO, since the bits that choose z are returned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pyro.distributions import Normal
from torch import Tensor

from pyro_vae._core.checks import refusal, require
from pyro_vae.compression.ans import Stacks
from pyro_vae.compression.coders import coder_of, unwrapped
from pyro_vae.compression.exact import ExactFunction
from pyro_vae.compression.symbols import FRACTION, I64, NormalGrid, Symbols
from pyro_vae.models import VAE

WIDTH = 8  # of the grid of latents


class BitsBack:
    r"""Codes data by a VAE with a normal guide and a standard normal prior.

    For each datum z is popped off the stack by q(z | x), then x is pushed by p(x | z), then z by p(z): the stack grows
    by :math:`-\log_2 p(x, z) + \log_2 q(z | x)` bits, whose mean is minus the ELBO.

    Args:
        vae: the model, in eval mode, on the CPU.
        grid: binary logarithm of the number of values of each latent per unit.
        rows: number of data that are coded side by side.

    Raises:
        ValueError: the model has a part that cannot be coded.

    References:
        Practical lossless compression with latent variables using bits back coding (Townsend et al., 2019).
        https://arxiv.org/abs/1901.04866
    """

    def __init__(self, vae: VAE, *, grid: int = 6, rows: int = 16) -> None:
        self.grid, self.rows = grid, rows
        like = next(vae.parameters())
        with torch.no_grad():
            sample = torch.zeros(2, vae.latent_dim, dtype=like.dtype)
            self.coder = coder_of(vae.likelihood(sample))
            check_normal(vae.prior(), "the prior", "Train one with --prior StandardNormalPrior")
            posterior = vae.guide.posterior(torch.zeros(2, *vae.data_shape, dtype=like.dtype))
            check_normal(posterior, "the guide", "Fit another to the same model: pyro-vae refit RUN")
        self.prior = normal_parameters(vae.prior())
        self._posterior = ExactFunction(
            lambda x: normal_parameters(vae.guide.posterior(x)), vae.data_shape, bits=FRACTION, limit=1.0
        )
        self._likelihood = ExactFunction(
            lambda z: self.coder.parameters(unwrapped(vae.likelihood(z))),
            (vae.latent_dim,),
            bits=FRACTION,
            limit=WIDTH,
        )

    def push(self, stacks: Stacks, x: I64) -> None:
        """Push a datum ``(num, n)`` onto each of the first stacks."""
        posterior = self.posterior(x)
        z = stacks.pop(posterior)
        stacks.push(x, self.likelihood(z))
        stacks.push(z, self._prior(len(x)))

    def pop(self, stacks: Stacks, num: int) -> I64:
        """Pop a datum off each of the first stacks."""
        z = stacks.pop(self._prior(num))
        x = stacks.pop(self.likelihood(z))
        stacks.push(z, self.posterior(x))
        return x

    def posterior(self, x: I64) -> Symbols:
        """q(z | x) of data ``(num, n)``."""
        return self._normal(self._evaluated(self._posterior, x << FRACTION))

    def likelihood(self, z: I64) -> Symbols:
        """p(x | z) at latents ``(num, latent_dim)``."""
        values = (z - (WIDTH << self.grid)) << (FRACTION - self.grid)
        return self.coder.symbols(**self._evaluated(self._likelihood, values))

    def _prior(self, num: int) -> Symbols:
        shape = (num, self._likelihood.shape[0])
        integers = {
            name: np.broadcast_to(np.rint(v.double().numpy() * 2**FRACTION).astype(np.int64), shape)
            for name, v in self.prior.items()
        }
        return self._normal(integers)

    def _normal(self, parameters: dict[str, I64]) -> Symbols:
        return NormalGrid(**parameters, grid=self.grid, width=WIDTH)

    def _evaluated(self, function: ExactFunction, inputs: I64) -> dict[str, I64]:
        """Parameters ``(num, n)`` at inputs ``(num, m)``; always evaluated for the same number of rows."""
        num, padded = len(inputs), np.zeros((self.rows, inputs.shape[1]), dtype=np.float64)
        padded[:num] = inputs
        results = function(torch.from_numpy(padded))
        return {name: v[:num].reshape(num, -1).numpy().astype(np.int64) for name, v in results.items()}


def check_normal(distribution: Any, part: str, advice: str) -> None:
    """Require a diagonal normal distribution."""
    kind = type(unwrapped(distribution))
    require(kind is Normal, "compress", f"{part} must be a diagonal normal distribution", kind.__name__, advice)


def normal_parameters(distribution: Any) -> dict[str, Tensor]:
    """Location and logarithm of the scale."""
    normal = unwrapped(distribution)
    return {"loc": normal.loc, "log_scale": normal.scale.log()}
