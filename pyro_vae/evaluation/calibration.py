"""Simulation-based calibration: a test by ranks of whether a guide is the posterior of its model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Size, Tensor

from pyro_vae._core.checks import check_arguments, require
from pyro_vae._core.contexts import isolated_rng, reseed
from pyro_vae._core.owners import evaluating
from pyro_vae.evaluation.result import Result
from pyro_vae.models import VAE
from pyro_vae.models.vae import check_posterior

SIGNIFICANCE_LEVEL = 0.01
"""Probability, corrected for the number of dimensions, below which a guide is called not calibrated."""


@dataclass(frozen=True)
class Calibration(Result):
    r"""Ranks of the true z among samples of q(z | x), for data simulated from the model.

    With z ~ p(z) and x ~ p(x | z), z is a sample of p(z | x): its rank among L samples of the guide is uniform on
    0, ..., L in every dimension if the guide equals the posterior. Ranks concentrate in the middle if the guide is too
    wide, at both ends if it is too narrow, at one end if it is shifted.

    The converse does not hold: the test covers one dimension at a time, averaged over simulated data, so that a guide
    that ignores x and equals the prior passes.

    Attributes:
        ranks: ``(N, latent_dim)``, the number of samples below the true z in each simulation; ties are broken at
            random.

    References:
        Validating Bayesian inference algorithms with simulation-based calibration (Talts et al., 2018), theorem 1,
        algorithm 1 and section 4.2 for the shapes. https://arxiv.org/abs/1804.06788
        A simple sequentially rejective multiple test procedure (Holm, 1979). https://www.jstor.org/stable/4615733
    """

    method: ClassVar[str] = "calibration"
    title: ClassVar[str] = "Simulation-based calibration of the guide"
    topic: ClassVar[str] = "diagnostics"
    layout: ClassVar[dict[str, str]] = {"MD": "ranks"}
    alternative_text: ClassVar[str] = "Histograms of ranks of the true z among samples of the guide"

    ranks: Tensor

    @property
    def num_bins(self) -> int:
        """Number of bins of the histograms, ``protocol["num_bins"]``."""
        return int(self.protocol["num_bins"])

    @property
    def num_ranks(self) -> int:
        """Number of values that a rank can take, L + 1."""
        return int(self.protocol["num_samples"]) + 1

    def histogram(self) -> Tensor:
        """``(latent_dim, num_bins)``, the number of ranks in each bin; bins have equally many values."""
        bins = (self.ranks.long() * self.num_bins).div(self.num_ranks, rounding_mode="floor")  # (N, latent_dim)
        return torch.stack([(bins == b).sum(0) for b in range(self.num_bins)], -1)

    def chi_square(self) -> Tensor:
        r"""``(latent_dim,)``, :math:`\sum_b (n_b - N / B)^2 / (N / B)` of every histogram."""
        expected = len(self) / self.num_bins
        return ((self.histogram().double() - expected).square() / expected).sum(-1)

    def p_values(self) -> Tensor:
        """``(latent_dim,)``, p values of the chi-square test for uniform ranks, with B - 1 degrees of freedom."""
        from scipy.stats import chi2  # type: ignore[import-untyped]  # half a second, rarely needed

        return torch.as_tensor(chi2.sf(self.chi_square().numpy(), df=self.num_bins - 1))

    def corrected_p_values(self) -> Tensor:
        """The same, corrected for the number of dimensions by Holm's method, valid under any dependence."""
        p = self.p_values()
        ordered, order = p.sort()
        steps = ordered * torch.arange(len(p), 0, -1)
        return torch.empty_like(p).index_copy(0, order, steps.cummax(0).values.clamp_max(1.0))

    def passes(self, level: float = SIGNIFICANCE_LEVEL) -> bool:
        """Whether no dimension is rejected, at family-wise error rate ``level``."""
        return bool((self.corrected_p_values() >= level).all())

    def scores(self) -> tuple[Tensor, Tensor]:
        """Deviations of the ranks' mean and spread from those of uniform ranks, in standard errors.

        Returns:
            ``(latent_dim,)`` each. If the first is negative, the guide lies above the posterior; if the second is
            negative, the guide is wider.
        """
        u = (self.ranks.double() + 0.5) / self.num_ranks - 0.5
        variance = (1 - self.num_ranks**-2) / 12  # of a uniform variable on L + 1 points
        fourth = variance * (3 - 7 * self.num_ranks**-2) / 20
        shift = u.mean(0) / math.sqrt(variance / len(self))
        return shift, (u.square().mean(0) - variance) / math.sqrt((fourth - variance**2) / len(self))

    def shapes(self) -> list[str]:
        """Classify the ranks of every dimension: uniform, or guide too wide, too narrow, shifted up or down."""
        shift, spread = self.scores()
        shapes = []
        for p, s, w in zip(self.corrected_p_values().tolist(), shift.tolist(), spread.tolist(), strict=True):
            if p >= SIGNIFICANCE_LEVEL:
                shapes.append("uniform")
            elif abs(s) > abs(w):
                shapes.append("shifted up" if s < 0 else "shifted down")
            else:
                shapes.append("too wide" if w < 0 else "too narrow")
        return shapes

    def band(self, level: float = 0.99) -> tuple[int, int]:
        """Bounds of the count in a bin of uniform ranks, with at least this probability for each bin by itself."""
        from scipy.stats import binom

        low, high = binom.interval(level, len(self), 1 / self.num_bins)
        return int(low), int(high)

    def advice(self) -> str:
        """Name the dimensions in which the guide differs from the posterior; empty if it passes."""
        off = [f"dimension {j + 1} {shape}" for j, shape in enumerate(self.shapes()) if shape != "uniform"]
        if self.passes():
            return ""
        more = f" and {len(off) - 5} more" if len(off) > 5 else ""
        return (
            f"The guide is not the posterior of the model's own data: {', '.join(off[:5])}{more}. Use a richer family, "
            "a larger encoder, or steps per datum (SemiAmortizedGuide). Estimates of log p(x) are valid nevertheless."
        )

    def summary(self) -> dict[str, Any]:
        """The test of every dimension."""
        return {
            "passes": self.passes(),
            "smallest_p_value": float(self.corrected_p_values().min()),
            "chi_square": self.chi_square().tolist(),
            "p_values": self.p_values().tolist(),
            "corrected_p_values": self.corrected_p_values().tolist(),
            "shapes": self.shapes(),
            "advice": self.advice(),
        }

    def lines(self) -> list[str]:
        """The verdict, and the smallest p value."""
        bad, dims = sum(shape != "uniform" for shape in self.shapes()), self.ranks.shape[1]
        return [
            f"ranks uniform      {'yes' if self.passes() else 'no'}: {bad} of {dims} dimensions rejected",
            f"smallest p value   {float(self.corrected_p_values().min()):.3g}, corrected for the number of dimensions",
        ]


def simulation_based_calibration(
    vae: VAE,
    *,
    num_simulations: int = 1000,
    num_samples: int = 99,
    num_bins: int = 20,
    batch_size: int = 100,
    seed: int = 0,
    protocol: dict[str, Any] | None = None,
) -> Calibration:
    r"""Ranks of :math:`z \sim p(z)` among samples of the guide :math:`q(z | x)`, :math:`x \sim p(x | z)`.

    It needs no data: the guide is tested on data that the model simulates.

    Args:
        vae: the model and its guide, which need not have a density.
        num_simulations: number of pairs (z, x) N, at least five per bin.
        num_samples: number of samples of the guide for each pair L.
        num_bins: number of bins of the test, a divisor of L + 1.
        batch_size: simulations at a time.
        seed: of the samples; the global generator is restored.
        protocol: entries to add to the result's protocol.

    Returns:
        The ranks with their test.

    Raises:
        ValueError: there are too few simulations, ``num_bins`` does not divide L + 1, or the guide is deterministic.

    References:
        Validating Bayesian inference algorithms with simulation-based calibration (Talts et al., 2018), algorithm 1.
        https://arxiv.org/abs/1804.06788

    Example:
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> result = simulation_based_calibration(vae, num_simulations=100, num_bins=10)
        >>> result.ranks.shape, result.histogram().sum(-1)
        (torch.Size([100, 2]), tensor([100, 100]))
    """
    check_arguments(simulation_based_calibration, locals(), num_samples=1, batch_size=1)
    _check(num_simulations, num_samples, num_bins)
    check_posterior("simulation_based_calibration", vae)
    with evaluating(vae), isolated_rng(seed):
        ranks = []
        for number, start in enumerate(range(0, num_simulations, batch_size)):
            reseed(seed, number)
            ranks.append(_ranks(vae, min(batch_size, num_simulations - start), num_samples).cpu())
    sizes = {"num_simulations": num_simulations, "num_samples": num_samples, "num_bins": num_bins, "sample_seed": seed}
    names = {"guide": type(vae.guide).__name__, "prior": type(vae.prior).__name__}
    return Calibration(torch.cat(ranks), protocol={**(protocol or {}), **sizes, **names})


def _ranks(vae: VAE, num: int, num_samples: int) -> Tensor:
    z = vae.prior().sample(Size([num]))  # (B, L)
    x = vae.decode(z).sample()
    samples = vae.encode(x).sample(Size([num_samples]))  # (S, B, L)
    # Ties, which discrete z have, are broken at random, so that ranks stay uniform.
    ties = (samples == z).sum(0)
    return (samples < z).sum(0) + (torch.rand_like(z, dtype=torch.float64) * (ties + 1)).floor().long()


def _check(num_simulations: int, num_samples: int, num_bins: int) -> None:
    owner = "simulation_based_calibration"
    divides = num_bins >= 2 and (num_samples + 1) % num_bins == 0
    got = f"num_bins={num_bins}, num_samples={num_samples}"
    require(divides, owner, "num_bins must be at least 2 and divide num_samples + 1", got, "Use for example 20 and 99")
    got = f"num_simulations={num_simulations}, num_bins={num_bins}"
    require(num_simulations >= 5 * num_bins, owner, "num_simulations must be at least 5 * num_bins", got)
