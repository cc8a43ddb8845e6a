"""Importance sampling from a proposal that is optimised for each datum."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.checks import require
from pyro_vae._core.contexts import validating
from pyro_vae._core.failures import program_errors
from pyro_vae._core.owners import Owners
from pyro_vae._core.recording import Recorded, RecordingError
from pyro_vae._core.types import Program
from pyro_vae.evaluation.gaussian_fit import NormalFit, fit_normal
from pyro_vae.evaluation.latent_density import LatentDensity
from pyro_vae.evaluation.sampler import Engine, use_compiled, values_of_call
from pyro_vae.evaluation.weights import ImportanceWeights, LogWeights

WIDE = 1.2
"""Factor of the standard deviations of the wide component."""
SHARES = (0.5, 0.48, 0.02)
"""Shares of the samples: the fitted normal, the same with wider scales, the prior."""
MAX_DIM = 500
"""Largest number of unconstrained latent dimensions of a datum, whose covariance has its square as entries."""
_NUM_STARTS = 16  # samples of the guide among which the ascent starts from the best
_NUM_PRIOR = 100  # samples that the prior's scale is estimated from


class OptimisedSampler:
    r"""Log-weights under a mixture that is fitted to the posterior of each datum of a batch.

    The proposal is :math:`q(u) = a_1 N(u; m, \Sigma) + a_2 N(u; m, c^2 \Sigma) + a_3 p(u)` on the unconstrained
    latents, with the normal of :func:`~pyro_vae.evaluation.gaussian_fit.fit_normal` and the shares :data:`SHARES`. All
    weights have the mixture's density (balance heuristic). The wide component has heavier tails than the normal; the
    share of the prior limits every weight to :math:`p(x | z) / a_3`.

    The interface is that of :class:`~pyro_vae.evaluation.sampler.WeightSampler`.

    Args:
        owner: name that messages begin with.
        model: Pyro model, twice differentiable in its latents.
        guides: Pyro guides, whose samples the optimisation starts from; their densities are not used.
        data_plate: name of the plate over the data, if several plates contain all sites.
        owners: the programs' modules.
        engine: as of the other sampler.
        num_calls: number of calls of this object, if known.
        chunk_size: number of samples of most calls.
        shares: of normal, wide normal and prior, with sum 1.

    References:
        Optimally combining sampling techniques for Monte Carlo rendering (Veach and Guibas, 1995), section 3.
        https://doi.org/10.1145/218380.218498
        Weighted average importance sampling and defensive mixture distributions (Hesterberg, 1995).
        https://doi.org/10.1080/00401706.1995.10484303
    """

    def __init__(
        self,
        owner: str,
        model: Program,
        guides: Sequence[Program],
        data_plate: str | None,
        owners: Owners,
        *,
        engine: Engine,
        num_calls: int,
        chunk_size: int,
        shares: tuple[float, float, float] = SHARES,
    ) -> None:
        self.owner, self.model, self.guides, self.data_plate, self.owners = owner, model, guides, data_plate, owners
        self.shares = shares
        self._engine, self._num_calls, self._chunk_size = engine, num_calls, chunk_size
        self._recorded: Recorded | None = None
        self._earlier: LatentDensity | None = None

    def check(self, args: tuple[Any, ...], num_samples: int) -> dict[str, Any]:
        """Examine the programs on a batch and fit the proposal of each datum.

        Returns:
            Protocol entries of the data and of the mode in which the programs run.

        Raises:
            ValueError: a latent site is discrete, there are too many dimensions, or the model has no second derivative.
        """
        options: dict[str, Any] = {"data_plate": self.data_plate, "owners": self.owners}
        with validating(True):
            self.density = LatentDensity(self.owner, self.model, None, args, **options)
            guide = ImportanceWeights(self.model, self.guides, args, owner=self.owner, **options)
        self.density.check_supports(self._earlier)
        self._earlier = self.density
        guide.check_coverage()
        dim, advice = self.density.dim, "Use proposal='guide'"
        require(dim <= MAX_DIM, self.owner, f"proposal='optimised' takes at most {MAX_DIM} dimensions", dim, advice)
        with program_errors(self.owner, args, self.model):
            self.fit = self._fit(guide, args)
        num_values = values_of_call(self.density.weights, min(self._chunk_size, num_samples))
        if self._recorded is None and use_compiled(self.owner, self._engine, self._num_calls, num_values):
            self._recorded = Recorded(self._sample, self.owners.tensors())
        return self.density.weights.protocol(num_samples)

    def _fit(self, guide: ImportanceWeights, args: tuple[Any, ...]) -> NormalFit:
        trace = guide.propose(_NUM_STARTS, args)
        samples = self.density.pack({site.name: trace.nodes[site.name]["value"] for site in self.density.sites})
        samples = torch.cat([samples.mean(0, keepdim=True), samples])  # (1 + starts, B, D)
        values = self.density.log_densities(samples, args).target.nan_to_num(nan=-torch.inf)
        start = samples.gather(0, values.argmax(0)[None, :, None].expand(1, -1, samples.shape[-1]))[0]
        prior = _scale(self.density.sample(_NUM_PRIOR, args))
        spread = torch.minimum(_scale(samples[1:]), prior)
        return fit_normal(lambda u: self.density.log_densities(u, args).target, start, spread, prior)

    def __call__(self, num_samples: int, args: tuple[Any, ...]) -> LogWeights:
        """Log-weights ``(num_samples, batch)`` of the batch that was checked last."""
        self.density.weights.runs(num_samples)  # determines the mode, which must not happen within a recording
        if self._recorded:
            try:
                return self._recorded(num_samples, *self.fit, *args)
            except RecordingError as cause:
                self._engine, self._recorded = "eager", None
                warnings.warn(
                    f"{self.owner}: runs eagerly, because the programs cannot be recorded: {cause}.", stacklevel=3
                )
        return self._sample(num_samples, *self.fit, *args)

    def _sample(self, num_samples: int, loc: Tensor, scale_tril: Tensor, *args: Any) -> LogWeights:
        fit, density = NormalFit(loc, scale_tril), self.density
        u = self._propose(fit, density.sample(num_samples, args))
        return self.weights_at(u, fit, args)

    def _propose(self, fit: NormalFit, prior: Tensor) -> Tensor:
        """Samples of the mixture, ``(K, batch, dim)``, given as many of the prior."""
        noise, which = torch.randn_like(prior), torch.rand_like(prior[..., :1])
        normal, wide, _ = self.shares
        fitted = fit.transform(torch.where(which < normal, noise, WIDE * noise))
        return torch.where(which < normal + wide, fitted, prior)

    def weights_at(self, u: Tensor, fit: NormalFit, args: tuple[Any, ...]) -> LogWeights:
        """Log-weights at u, ``(K, batch, dim)``."""
        (log_likelihood, log_prior), log_det = self.density.log_terms(u, args)
        log_prior = log_prior + log_det
        return LogWeights(log_likelihood, log_prior - self._log_proposal(u, fit, log_prior))

    def _log_proposal(self, u: Tensor, fit: NormalFit, log_prior: Tensor) -> Tensor:
        """Log-density of the mixture at u, ``(K, batch)``."""
        distance, constant = fit.distance(u), fit.log_normaliser()
        terms = (-0.5 * distance, -0.5 * distance / WIDE**2 - u.shape[-1] * math.log(WIDE), log_prior + constant)
        chosen = [math.log(share) + term for share, term in zip(self.shares, terms, strict=True) if share > 0]
        return torch.stack(chosen).logsumexp(0) - constant


def _scale(samples: Tensor) -> Tensor:
    """Standard deviations over samples ``(K, batch, dim)``, with a lower limit."""
    return samples.std(0).nan_to_num(nan=1.0).clamp(1e-6, 1e6)
