"""Annealed importance sampling: a lower bound on log p(x) that does not depend on the quality of the guide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_vae._core.checks import check_arguments
from pyro_vae._core.contexts import validating
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Data
from pyro_vae.evaluation.annealing_path import AnnealingPath, Schedule
from pyro_vae.evaluation.batched import BatchedEvaluation
from pyro_vae.evaluation.finished import FinishedBatches
from pyro_vae.evaluation.hmc import HMC, AdaptedStepSizes
from pyro_vae.evaluation.latent_density import LatentDensity, Start
from pyro_vae.evaluation.result import LOG_LIKELIHOOD, Quantity, Result
from pyro_vae.evaluation.sampler import Engine, use_compiled
from pyro_vae.evaluation.streaming import log_mean

Advance = Callable[[int], object]


@dataclass(frozen=True)
class AnnealedLogLikelihood(Result):
    r"""Annealed importance estimate of log p(x), per datum, in nats; a lower bound in expectation.

    Attributes:
        log_likelihood: ``(N,)``, :math:`\log \frac1C \sum_c w_c` over the chains.
        standard_error: ``(N,)``, its Monte Carlo standard error, from the spread of the chains by the delta method. It
            does not include the bias, nor modes that no chain reached.
        effective_sample_size: ``(N,)``, :math:`(\sum w)^2 / \sum w^2`, between 1 and the number of chains.
        mean_log_weight: ``(N,)``, :math:`\frac1C \sum_c \log w_c`: a looser bound, whose distance to the estimate
            measures the spread of the chains' weights.
        acceptance: ``(N,)``, the mean acceptance probability of the transitions.
        log_weights: ``(N, C)``, one per chain.

    References:
        Annealed importance sampling (Neal, 2001), section 2. https://arxiv.org/abs/physics/9803008
        On the quantitative analysis of decoder-based generative models (Wu et al., 2017), section 3.
        https://arxiv.org/abs/1611.04273
    """

    method: ClassVar[str] = "ais"
    title: ClassVar[str] = "Bound on the log-likelihood by annealed importance sampling"
    topic: ClassVar[str] = "bounds"
    quantities: ClassVar[tuple[Quantity, ...]] = (LOG_LIKELIHOOD,)
    layout: ClassVar[dict[str, str]] = {
        "N": "log_likelihood standard_error effective_sample_size mean_log_weight acceptance",
        "NC": "log_weights",
    }
    alternative_text: ClassVar[str] = "Agreement of the annealed chains, and their acceptance"

    log_likelihood: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor
    mean_log_weight: Tensor
    acceptance: Tensor
    log_weights: Tensor

    def summary(self) -> dict[str, Any]:
        """The means with their errors."""
        means: dict[str, Any] = self.means("log_likelihood", "mean_log_weight", "acceptance")
        return {**means, "effective_sample_size_median": float(self.effective_sample_size.median())}

    def lines(self) -> list[str]:
        """The bound with its errors, and the diagnostics of the chains."""
        ess = f"{float(self.effective_sample_size.median()):.1f} of {self.protocol['num_chains']}"
        return [
            *self.log_likelihood_lines(", a lower bound by annealed importance sampling"),
            f"mean log-weight {self.mean('mean_log_weight'):.3f}; effective number of chains, median: {ess}; "
            f"acceptance {self.mean('acceptance'):.2f}",
        ]


def annealed_log_likelihood(
    model: Program,
    guide: Program | None,
    data: Data,
    *,
    num_distributions: int = 1000,
    num_chains: int = 16,
    num_steps: int = 5,
    start: Start = "prior",
    schedule: Schedule = "sigmoid",
    batch_size: int = 100,
    data_plate: str | None = None,
    seed: int = 0,
    engine: Engine = "auto",
    finished: FinishedBatches | None = None,
    protocol: dict[str, Any] | None = None,
    progress: bool = False,
) -> AnnealedLogLikelihood:
    r"""Annealed importance sampling of log p(x) per datum, with Hamiltonian transitions.

    The path :math:`f_t(z) \propto q_0(z)^{1 - \beta_t} p(x, z)^{\beta_t}` connects the initial distribution q_0, the
    prior or the guide, to the posterior. A chain starts at a sample of q_0, applies a transition that leaves f_t
    invariant for each t, and accumulates the weight
    :math:`\log w = \sum_t (\beta_t - \beta_{t-1}) \log \frac{p(x, z_{t-1})}{q_0(z_{t-1})}`. The mean weight is unbiased
    for p(x), so the logarithm of the mean over the chains is a lower bound in expectation. Unlike the importance
    estimate it does not need a guide that covers the posterior.

    Step sizes and scales are adapted per datum by separate chains, in up to 220 transitions, and fixed before the
    estimate begins; adapting them meanwhile would bias the mean weight.

    Works for any Pyro model whose sites lie within one vectorised plate over the data. Positive and bounded latents are
    sampled on the unconstrained scale; discrete ones raise an error unless the model marks them for enumeration.

    Args:
        model: Pyro model with observed sites.
        guide: Pyro guide for it; may be None if chains start from the prior.
        data: an ``ImageSet``; a tensor ``(N, *data_shape)``; or an iterable of batches.
        num_distributions: number of distributions T on the path including both ends; 2 is importance sampling.
        num_chains: number of chains C per datum.
        num_steps: leapfrog steps of a transition.
        start: ``"prior"``, which does not depend on the guide; or ``"guide"``, a shorter path if the guide is good,
            which may miss modes that the guide misses.
        schedule: ``"sigmoid"``, with small steps at both ends; ``"linear"``; or ``"adaptive"``, with steps that are
            inversely proportional to the spread of the log-weights' rate in the adaptation, one path per batch.
        batch_size: data at a time; memory is proportional to ``batch_size * num_chains``.
        data_plate: name of the plate over the data, if several plates contain all sites.
        seed: of the chains; every batch has its own stream, by its number.
        engine: ``"eager"``, ``"compiled"``, or ``"auto"``, which compiles if there are enough steps.
        finished: folder of the batches that are finished, from which an interrupted call resumes.
        protocol: entries to add to the result's protocol, such as the data set's.
        progress: show a progress bar.

    Returns:
        The bound per datum in nats, its standard error, the effective number of chains, and the acceptance rate.

    Raises:
        ValueError: a latent site is discrete, the programs have no weights per datum, or a size is too small.

    References:
        Annealed importance sampling (Neal, 2001), section 2. https://arxiv.org/abs/physics/9803008
        On the quantitative analysis of decoder-based generative models (Wu et al., 2017): for decoders, with the
        sigmoid schedule. https://arxiv.org/abs/1611.04273

    Example:
        >>> import torch
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> sizes = {"num_distributions": 20, "num_chains": 4, "num_steps": 3}
        >>> annealed_log_likelihood(vae.model, vae.guide, torch.ones(7, 5), **sizes).log_likelihood.shape
        torch.Size([7])
    """
    options = dict(locals())
    check_arguments(annealed_log_likelihood, options)
    path = AnnealingPath("annealed_log_likelihood", num_distributions, num_chains, num_steps, start, schedule)
    annealer = Annealer(path, model, guide, data_plate)
    num_transitions = path.num_stages + path.num_adaptation_steps
    batches = annealer.over(options, num_transitions=num_transitions)
    entries = {"estimator": "ais", **path.protocol(), "sample_seed": seed}

    def estimate(args: tuple[Any, ...], advance: Advance) -> dict[str, Tensor]:
        annealer.set_density(args)
        entries.update(annealer.density.weights.protocol(annealer.path.num_chains))
        return lower_bound(*annealer.forward(args, advance))

    tensors = batches.run(estimate, entries)
    entries = {**batches.ranks.from_first(entries), "num_data": len(tensors["log_likelihood"])}
    return AnnealedLogLikelihood(**tensors, protocol={**(protocol or {}), **entries})


class Annealer:
    """Runs chains along an annealing path, for one batch after the other.

    Args:
        path: settings of the estimate.
        model: Pyro model.
        guide: Pyro guide or None.
        data_plate: name of the plate over the data, if several plates contain all sites.
    """

    def __init__(self, path: AnnealingPath, model: Program, guide: Program | None, data_plate: str | None) -> None:
        self.path, self.model, self.guide, self.data_plate = path, model, guide, data_plate

    def over(self, options: dict[str, Any], *, num_transitions: int) -> BatchedEvaluation:
        """The batches of the data.

        Args:
            options: arguments of the evaluation by name.
            num_transitions: number of transitions of one datum, on which the engine depends.
        """
        programs = [p for p in (self.model, self.guide) if p is not None]
        batches = BatchedEvaluation(self.path.owner, programs, options, unit="transitions", amount=num_transitions)
        self.owners = batches.owners
        num_gradients = max(1, batches.share()) * num_transitions * self.path.num_steps
        compiled = use_compiled(self.path.owner, options["engine"], num_gradients)
        self.hmc = HMC(self.path.owner, self.path.num_steps, self.owners, compiled=compiled)
        return batches

    def set_density(self, args: tuple[Any, ...]) -> None:
        """Examine the programs on a batch."""
        options = {"start": self.path.start, "data_plate": self.data_plate, "owners": self.owners}
        with validating(True):
            self.density = LatentDensity(self.path.owner, self.model, self.guide, args, **options)  # type: ignore[arg-type]
        self.hmc.set_density(self.density)

    def adapt(self, args: tuple[Any, ...], advance: Advance) -> AdaptedStepSizes:
        """Adapt the step sizes, by separate chains."""
        u = self.density.sample(self.path.num_chains, args)
        return AdaptedStepSizes(self.hmc, u, self.path.betas(self.path.num_adaptation_betas), args, advance)

    def forward(
        self, args: tuple[Any, ...], advance: Advance, adapted: AdaptedStepSizes | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-weights of chains from the start to the posterior, and acceptance, each ``(num_chains, batch)``."""
        if adapted is None and self.path.num_distributions > 2:  # a path of two distributions has no transition
            adapted = self.adapt(args, advance)
        u = self.density.sample(self.path.num_chains, args)
        return self._run(u, range(1, self.path.num_distributions), adapted, args, advance)

    def reverse(
        self, u: Tensor, adapted: AdaptedStepSizes, args: tuple[Any, ...], advance: Advance
    ) -> tuple[Tensor, Tensor]:
        """:meth:`forward` from exact posterior samples u, ``(num_chains, batch, dim)``, back to the start."""
        return self._run(u, range(self.path.num_distributions - 1, 0, -1), adapted, args, advance)

    def _run(
        self, u: Tensor, stages: range, adapted: AdaptedStepSizes | None, args: tuple[Any, ...], advance: Advance
    ) -> tuple[Tensor, Tensor]:
        """Stage t adds the log-ratio of distributions t and t - 1; transitions run between consecutive stages."""
        betas, fractions = self.path.schedule_of(adapted)
        state = self.hmc.evaluate_at(u, args)
        log_weights = torch.zeros_like(state.start, dtype=torch.float64)
        accepted = torch.zeros_like(log_weights)
        for stage, following in zip(stages, [*stages[1:], None], strict=True):
            log_weights = log_weights + (betas[stage] - betas[stage - 1]) * state.log_ratio()
            if following is not None and adapted is not None:
                between = min(stage, following)  # index of the distribution that both stages have in common
                state, probability = self.hmc.transition(state, betas[between], adapted.at(fractions[between]), args)
                accepted = accepted + probability
            advance(1)
        num_transitions = len(stages) - 1
        return log_weights, accepted / num_transitions if num_transitions else torch.full_like(accepted, torch.nan)


def lower_bound(log_weights: Tensor, acceptance: Tensor) -> dict[str, Tensor]:
    """The estimate from the chains' log-weights, ``(num_chains, batch)``; see :class:`AnnealedLogLikelihood`."""
    estimate, error, size = log_mean(log_weights)
    return {
        "log_likelihood": estimate,
        "standard_error": error,
        "effective_sample_size": size,
        "mean_log_weight": log_weights.mean(0),
        "acceptance": acceptance.mean(0),
        "log_weights": log_weights.T,
    }
