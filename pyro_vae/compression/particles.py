"""Bits back coding with several coupled samples of the latents: a datum costs minus its importance-weighted bound."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyro_vae._core.checks import refusal, require
from pyro_vae.compression.ans import Stacks
from pyro_vae.compression.bits_back import BitsBack
from pyro_vae.compression.conditionals import Independent
from pyro_vae.compression.family import Sizes
from pyro_vae.compression.symbols import I64, PRECISION, Categorical, Uniform
from pyro_vae.models import VAE


class CoupledParticles:
    r"""Codes data by a model and K samples of its guide.

    One uniform number u per coordinate is popped off the stack. The samples are
    :math:`z_k = F^{-1}(u + s_k \bmod 1)`, where F is the distribution function of q(z | x) and the shifts :math:`s_k`
    are fixed; each of them is distributed as q. Then the index j of one is popped by the weights
    :math:`w_k = p(x, z_k) / q(z_k | x)`, and x, :math:`z_j`, j and the remainder of u within the interval of
    :math:`z_j` are pushed: the stack grows by :math:`-\log_2 \frac1K \sum_k w_k` bits. The initial bits do not grow
    with K.

    Args:
        vae: the model, in eval mode, on the CPU.
        sizes: of the alphabets.
        rows: number of data that are coded side by side.
        num_particles: K.

    Raises:
        ValueError: the model is not a ``VAE``, has a guide whose coordinates are not independent, or cannot be coded.

    References:
        Improving lossless compression rates via Monte Carlo bits-back coding (Ruan et al., 2021), section 3.2, coupled
        importance sampling. https://arxiv.org/abs/2102.11086
    """

    def __init__(self, vae: Any, sizes: Sizes, *, rows: int, num_particles: int) -> None:
        require(isinstance(vae, VAE), "compress", "num_particles above 1 requires a VAE", type(vae).__name__)
        one = BitsBack(vae, sizes, rows=rows)
        many = BitsBack(vae, sizes, rows=rows * num_particles)
        self.families, self.data_family = one.families, one.data_family
        self.guide, self.likelihood, self.prior = (operation.factor for operation in one.operations)
        self.likelihoods = many.operations[1].factor
        bits = np.random.PCG64(0).random_raw(num_particles * vae.latent_dim)  # the same in every version of numpy
        self.shifts = (bits >> np.uint64(64 - PRECISION)).astype(np.int64).reshape(num_particles, 1, -1)

    def push(self, stacks: Stacks, x: I64) -> dict[str, I64]:
        """Push the symbols of a datum ``(num, n)`` onto each of the first stacks; returns those of all sites."""
        num, rows = len(x), np.arange(len(x))
        posterior = self._posterior(x)
        stacks.mix(num)
        u = stacks.pop(self._uniform(num, 1 << PRECISION))
        z, start, frequency = self._samples(posterior, u)  # (K, num, L)
        j = stacks.pop(self._index(posterior, x, z))
        chosen = (j[:, 0], rows)
        code = (u + self.shifts[j[:, 0], 0]) & ((1 << PRECISION) - 1)
        stacks.push(code - start[chosen], Uniform(frequency[chosen]))
        self.likelihood(num, self._numbers(z[chosen])).push(stacks, x)
        self.prior(num).push(stacks, z[chosen])
        stacks.push(j, Uniform(np.full((num, 1), len(self.shifts))))
        return {"x": x, "z": z[chosen]}

    def pop(self, stacks: Stacks, num: int) -> I64:
        """Pop the symbols of a datum off each of the first stacks."""
        j = stacks.pop(Uniform(np.full((num, 1), len(self.shifts))))
        chosen = self.prior(num).pop(stacks)
        x = self.likelihood(num, self._numbers(chosen)).pop(stacks)
        posterior = self._posterior(x)
        start, frequency = posterior.symbols.interval(chosen)
        code = start + stacks.pop(Uniform(frequency))
        u = (code - self.shifts[j[:, 0], 0]) & ((1 << PRECISION) - 1)
        stacks.push(j, self._index(posterior, x, self._samples(posterior, u)[0]))
        stacks.push(u, self._uniform(num, 1 << PRECISION))
        stacks.unmix(num)
        return x

    def _posterior(self, x: I64) -> Independent:
        posterior = self.guide(len(x), self.data_family.numbers(x))
        if not isinstance(posterior, Independent):
            advice = "Fit a DiagonalNormalGuide to the same model with pyro-vae refit"
            raise refusal("compress", "with num_particles, z must be independent given x", "another guide", advice)
        return posterior

    def _samples(self, posterior: Independent, u: I64) -> tuple[I64, I64, I64]:
        """The particles ``(K, num, L)``, with their intervals."""
        codes = (u + self.shifts) & ((1 << PRECISION) - 1)
        parts = [posterior.symbols.locate(code) for code in codes]
        values, start, frequency = (np.stack(part) for part in zip(*parts, strict=True))
        return values, start, frequency

    def _index(self, posterior: Independent, x: I64, z: I64) -> Categorical:
        """The categorical distribution of the particles' weights, one for each datum."""
        many = len(z) * len(x)
        flat = z.reshape(many, -1)
        joint = self.likelihoods(many, self._numbers(flat)).log_mass(np.tile(x, (len(z), 1)))
        joint = joint + self.prior(many).log_mass(flat)
        log_weights = joint.reshape(len(z), -1) - np.stack([posterior.log_mass(sample) for sample in z])
        return Categorical(log_weights.T[:, None])

    def _numbers(self, z: I64) -> I64:
        return self.families["z"].numbers(z)

    def _uniform(self, num: int, size: int) -> Uniform:
        return Uniform(np.full((num, self.shifts.shape[-1]), size))
