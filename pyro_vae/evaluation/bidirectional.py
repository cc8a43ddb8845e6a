"""Bidirectional Monte Carlo: lower and upper bounds on log p(x)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pyro_vae._core.checks import check_arguments, refusal
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Data
from pyro_vae.evaluation.annealed import Advance, Annealer, lower_bound
from pyro_vae.evaluation.annealing_path import AnnealingPath, Schedule
from pyro_vae.evaluation.finished import FinishedBatches
from pyro_vae.evaluation.hmc import AdaptedStepSizes
from pyro_vae.evaluation.latent_density import Start
from pyro_vae.evaluation.result import LOG_LIKELIHOOD, Quantity, Result, mean_error
from pyro_vae.evaluation.sampler import Engine
from pyro_vae.evaluation.simulation import simulate
from pyro_vae.evaluation.streaming import log_mean

DECORRELATION_STEPS = 50
"""MCMC transitions that decorrelate the reverse chains, which all start from the same exact posterior sample."""


@dataclass(frozen=True)
class Sandwich(Result):
    r"""Lower and upper bounds on log p(x) of data simulated from the model, in nats, and a lower bound for real data.

    Both bounds hold in expectation. Their gap bounds the error of either, and so the error of annealed importance
    sampling with the same path on such data. No exact posterior sample is known for real data; for these the gap
    estimates how loose the lower bound is, to the extent that real data resemble the simulated ones.

    Attributes:
        lower: ``(M,)``, the annealed estimate of each simulated datum.
        upper: ``(M,)``, minus the same estimate from the inverse weights of the reverse chains.
        lower_error: ``(M,)``, Monte Carlo standard error of ``lower``.
        upper_error: ``(M,)``, of ``upper``, assuming independent reverse chains, which holds if
            :data:`DECORRELATION_STEPS` transitions suffice to mix. Inverse weights have heavy tails: with a short path
            and few ``upper_chains`` the error is too small.
        acceptance: ``(M,)``, of forward and reverse transitions.
        log_likelihood: ``(N,)``, the annealed lower bound of each real datum; None if ``real=False``.
        standard_error: ``(N,)``, its Monte Carlo standard error.
        upper_chains: ``(M,)``, the effective number of reverse chains, between 1 and their number.

    References:
        Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse et al., 2015), sections 3 and 4.
        https://arxiv.org/abs/1511.02543
        On the quantitative analysis of decoder-based generative models (Wu et al., 2017), section 4.
        https://arxiv.org/abs/1611.04273
    """

    method: ClassVar[str] = "sandwich"
    title: ClassVar[str] = "Lower and upper bounds on the log-likelihood of simulated data, and the gap between them"
    topic: ClassVar[str] = "bounds"
    quantities: ClassVar[tuple[Quantity, ...]] = (
        LOG_LIKELIHOOD,
        Quantity("gap", "gap on simulated data", paired=False),
    )
    layout: ClassVar[dict[str, str]] = {
        "N": "log_likelihood standard_error",
        "M": "lower upper lower_error upper_error acceptance upper_chains",
    }
    alternative_text: ClassVar[str] = "Lower and upper bounds of log p(x) of simulated data, and the gap between them"

    lower: Tensor
    upper: Tensor
    lower_error: Tensor
    upper_error: Tensor
    acceptance: Tensor
    log_likelihood: Tensor | None = None
    standard_error: Tensor | None = None
    upper_chains: Tensor | None = None

    def gap(self) -> tuple[float, float]:
        """Mean of upper - lower over the simulated data, and its standard error from their spread, in nats."""
        gaps = self.upper - self.lower
        return float(gaps.mean()), mean_error(gaps)

    def bracket(self) -> tuple[float, float]:
        """The mean lower bound of the real data, and the same plus the gap on simulated data, in nats.

        The lower end is a bound; the upper end is a bound to the extent that real data resemble the simulated ones. A
        negative gap does not differ significantly from 0 and counts as 0.

        Raises:
            ValueError: the result has no real data.
        """
        if self.log_likelihood is None:
            rule, advice = "the bracket must have real data", "Call sandwich(..., real=True)"
            raise refusal("Sandwich", rule, "simulated ones only", advice)
        return self.mean(), self.mean() + max(0.0, self.gap()[0])

    def _largest(self) -> float:
        return float((self.upper - self.lower).max())

    def summary(self) -> dict[str, Any]:
        """The means with their errors, the gap and the bracket."""
        mean, error = self.gap()
        entries: dict[str, Any] = {**self.means("lower", "upper", "acceptance"), "gap": {"mean": mean, "error": error}}
        if self.log_likelihood is not None:
            low, high = self.bracket()
            entries |= {**self.means("log_likelihood"), "bracket": {"low": low, "high": high}}
        return entries

    def lines(self) -> list[str]:
        """Both bounds, the gap, and the bracket of real data."""
        mean, error = self.gap()
        lines = [
            f"simulated data  {self.mean('lower'):.3f} to {self.mean('upper'):.3f} nats per datum",
            f"gap             {mean:.3f} +- {error:.3f} over {len(self.lower)} data, the largest {self._largest():.3f}",
        ]
        if self.log_likelihood is not None:
            low, high = self.bracket()
            lines += self.log_likelihood_lines(", a lower bound by annealed importance sampling")
            lines.append(f"bracket         {low:.3f} to {high:.3f}, if real data resemble the simulated ones")
        return lines


def sandwich(
    model: Program,
    guide: Program | None,
    data: Data,
    *,
    num_distributions: int = 1000,
    num_chains: int = 16,
    num_steps: int = 5,
    start: Start = "prior",
    schedule: Schedule = "sigmoid",
    real: bool = True,
    batch_size: int = 100,
    data_plate: str | None = None,
    seed: int = 0,
    engine: Engine = "auto",
    finished: FinishedBatches | None = None,
    protocol: dict[str, Any] | None = None,
    progress: bool = False,
) -> Sandwich:
    r"""Lower and upper bounds on log p(x) by forward and reverse annealing, per datum.

    The model simulates as many data as ``data`` has, each with its latents, which are one exact sample from the
    posterior. Annealing from the start to the posterior gives the lower bound of :func:`annealed_log_likelihood`.
    Annealing from the exact sample back to the start gives weights whose inverses are unbiased for 1 / p(x), and with
    them an upper bound in expectation, :math:`-\log \frac1C \sum_c 1 / w_c`.

    Args:
        model: Pyro model with observed sites, whose observed values are its arguments, unchanged.
        guide: Pyro guide for it, or None if chains start from the prior.
        data: the real data, which also determine number and batches of the simulated data.
        num_distributions: number of distributions on the path including both ends.
        num_chains: number of chains per datum, in each direction.
        num_steps: leapfrog steps of a transition.
        start: distribution at which forward chains start and reverse chains end, ``"prior"`` or ``"guide"``.
        schedule: ``"sigmoid"``, ``"linear"`` or ``"adaptive"``.
        real: also compute the lower bound of the real data, with the same path.
        batch_size: data at a time.
        data_plate: name of the plate over the data, if several plates contain all sites.
        seed: of data and chains; every batch has its own stream, by its number.
        engine: as in :func:`annealed_log_likelihood`.
        finished: as in :func:`annealed_log_likelihood`.
        protocol: entries to add to the result's protocol.
        progress: show a progress bar.

    Returns:
        The bounds per simulated datum, and the lower bounds per real datum.

    Raises:
        ValueError: as in :func:`annealed_log_likelihood`, or data cannot be simulated.

    References:
        Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse et al., 2015), sections 3 and 4.
        https://arxiv.org/abs/1511.02543

    Example:
        >>> import torch
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> sizes = {"num_distributions": 20, "num_chains": 4}
        >>> sandwich(vae.model, vae.guide, torch.ones(7, 5), **sizes).upper.shape
        torch.Size([7])
    """
    options = dict(locals())
    check_arguments(sandwich, options)
    path = AnnealingPath("sandwich", num_distributions, num_chains, num_steps, start, schedule)
    num_transitions = (2 + real) * path.num_stages + (1 + real) * path.num_adaptation_steps + DECORRELATION_STEPS
    annealer = Annealer(path, model, guide, data_plate)
    batches = annealer.over(options, num_transitions=num_transitions)
    entries = {"estimator": "sandwich", **path.protocol(), "sample_seed": seed}

    def bound(args: tuple[Any, ...], advance: Advance) -> dict[str, Tensor]:
        bounds = _bounds_of_simulated(annealer, model, args, advance)
        if real:
            annealer.set_density(args)
            lower = lower_bound(*annealer.forward(args, advance))
            bounds |= {key: lower[key] for key in ("log_likelihood", "standard_error")}
        entries.update(annealer.density.weights.protocol(annealer.path.num_chains))
        return bounds

    tensors = batches.run(bound, entries)
    entries = {**batches.ranks.from_first(entries), "num_data": len(tensors["lower"])}
    return Sandwich(**tensors, protocol={**(protocol or {}), **entries})


def _bounds_of_simulated(
    annealer: Annealer, model: Program, args: tuple[Any, ...], advance: Advance
) -> dict[str, Tensor]:
    """Both bounds for simulated data, as many as the batch has."""
    simulated = simulate(annealer.path.owner, model, args)
    annealer.set_density(simulated.args)
    adapted = annealer.adapt(simulated.args, advance)
    forward = lower_bound(*annealer.forward(simulated.args, advance, adapted))
    values = {s.name: simulated.trace.nodes[s.name]["value"].unsqueeze(0) for s in annealer.density.sites}
    exact = annealer.density.pack(values)
    chains = _decorrelate(annealer, exact.expand(annealer.path.num_chains, -1, -1), adapted, simulated.args, advance)
    log_weights, acceptance = annealer.reverse(chains, adapted, simulated.args, advance)
    upper, upper_error, upper_chains = log_mean(-log_weights)
    return {
        "lower": forward["log_likelihood"],
        "upper": -upper,
        "lower_error": forward["standard_error"],
        "upper_error": upper_error,
        "upper_chains": upper_chains,
        "acceptance": (forward["acceptance"] + acceptance.mean(0)) / 2,
    }


def _decorrelate(
    annealer: Annealer, u: Tensor, adapted: AdaptedStepSizes, args: tuple[Any, ...], advance: Advance
) -> Tensor:
    """Move copies of an exact posterior sample by transitions that leave the posterior invariant."""
    state = annealer.hmc.evaluate_at(u.contiguous(), args)
    for _ in range(DECORRELATION_STEPS):
        state, _ = annealer.hmc.transition(state, 1.0, adapted.at(1.0), args)
        advance(1)
    return state.u
