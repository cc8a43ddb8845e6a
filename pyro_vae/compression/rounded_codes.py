"""Coders of rounded codes: integer frequencies of the priors of quantized codes."""

from __future__ import annotations

import copy
import hashlib
from typing import Any, TypeAlias

import numpy as np
import torch

from pyro_vae.compression.ans import Stacks
from pyro_vae.compression.bits_back import Factor
from pyro_vae.compression.conditionals import Conditional, Independent
from pyro_vae.compression.encoder import arithmetic
from pyro_vae.compression.family import Family, Sizes
from pyro_vae.compression.symbols import FRACTION, I64, PRECISION, Categorical, NormalGrid
from pyro_vae.priors import FactorizedPrior, HyperPrior


class FrequencyTables(Categorical):
    """Latents on the integers ``-bound..bound`` with the frequencies of a factorized prior.

    The distribution functions are evaluated in float64 and rounded to 26 bits. Every integer has a frequency, and the
    outermost those of the tails.

    Args:
        prior: the prior.
        bound: largest absolute value.
        rows: number of stacks.
    """

    def __init__(self, prior: FactorizedPrior, bound: int, rows: int = 1) -> None:
        self.size = 2 * bound + 1
        edges = torch.arange(-bound + 1, bound + 1, dtype=torch.float64).expand(prior.latent_dim, -1).T - 0.5
        with torch.no_grad():
            c = copy.deepcopy(prior).cpu().double().logits(edges).sigmoid().T  # (L, size - 1)
        spare = 2**PRECISION - self.size
        inner = np.rint(c.numpy() * spare).astype(np.int64) + np.arange(1, self.size)
        ends = np.zeros((len(inner), 1), dtype=np.int64), np.full((len(inner), 1), 2**PRECISION)
        sums = np.concatenate([ends[0], inner, ends[1]], 1)
        self.sums = np.broadcast_to(sums, (rows, *sums.shape))  # (rows, L, size + 1)

    def push(self, stacks: Stacks, x: I64) -> None:
        """Push the symbols of a datum onto each of the first stacks."""
        stacks.push(x, self[: len(x)])

    def pop(self, stacks: Stacks, num: int) -> I64:
        """Pop what :meth:`push` pushed, ``(num, L)``."""
        return stacks.pop(self[:num])

    def digest(self) -> str:
        """Fingerprint of the frequencies, in which encoder and decoder have to agree."""
        return hashlib.sha256(self.sums[0].astype("<i8").tobytes()).hexdigest()[:16]


class HyperTables:
    """Codes and hyper codes on the integers ``-bound..bound``.

    The hyper code has the frequencies of its factorized prior; the code those of the normals whose loc and scale the
    network computes from it, in fixed-point arithmetic.

    Args:
        prior: the prior.
        bound: largest absolute value.
        rows: number of stacks.
    """

    def __init__(self, prior: HyperPrior, bound: int, rows: int = 1) -> None:
        exact = copy.deepcopy(prior).cpu().double().eval()
        self.size, self.code_dim = 2 * bound + 1, prior.code_dim
        self.hyper = FrequencyTables(exact.hyper, bound, rows)
        family = Family(
            lambda parameters: dict(zip(("loc", "log_scale"), parameters, strict=True)),
            lambda p: Independent(NormalGrid(p["loc"], p["log_scale"], grid=0, width=bound)),
            lambda values: (values - bound) << FRACTION,
            self.size,
        )
        sizes = Sizes(0, bound)  # of the network's inputs
        options: dict[str, Any] = {"sizes": sizes, "rows": rows, "dtype": torch.float64, "family": family}
        self.factor = Factor(exact.parameters_of, [(prior.hyper_dim,)], **options)

    def push(self, stacks: Stacks, x: I64) -> None:
        """Push the code, then the hyper code of a datum onto each of the first stacks."""
        code, hyper = np.split(x, [self.code_dim], 1)
        self._code(hyper).push(stacks, code)
        self.hyper.push(stacks, hyper)

    def pop(self, stacks: Stacks, num: int) -> I64:
        """Pop what :meth:`push` pushed, ``(num, L)``."""
        hyper = self.hyper.pop(stacks, num)
        return np.concatenate([self._code(hyper).pop(stacks), hyper], 1)

    def digest(self) -> str:
        """Fingerprint of the frequencies and of the tables of the normals."""
        return hashlib.sha256(f"{self.hyper.digest()} {arithmetic()}".encode()).hexdigest()[:16]

    def _code(self, hyper: I64) -> Conditional:
        return self.factor(len(hyper), self.factor.family.numbers(hyper))


Tables: TypeAlias = FrequencyTables | HyperTables
TABLES: dict[type, type[Tables]] = {FactorizedPrior: FrequencyTables, HyperPrior: HyperTables}
"""The coder of each prior."""
