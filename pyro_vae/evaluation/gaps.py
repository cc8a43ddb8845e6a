"""Split of the gap between log p(x) and the ELBO into approximation and amortization gap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.checks import check_arguments, check_positive, refusal, require
from pyro_vae._core.contexts import reseed, validating
from pyro_vae._core.owners import Owners
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Data
from pyro_vae.evaluation.batched import BatchedEvaluation
from pyro_vae.evaluation.finished import FinishedBatches
from pyro_vae.evaluation.gaps_result import InferenceGaps, better_proposal, gaps_of, mean_of
from pyro_vae.evaluation.local_optimisation import (
    COPY_LR,
    LOCAL_LR,
    LocalGuides,
    check_guide,
    family_of,
    local_guides,
    optimise,
)
from pyro_vae.evaluation.result import Result
from pyro_vae.evaluation.weights import ImportanceWeights


def inference_gaps(
    model: Program,
    guide: Program,
    data: Data,
    *,
    log_likelihood: Result | None = None,
    num_samples: int = 5000,
    num_steps: int = 1000,
    lr: float | None = None,
    num_particles: int = 10,
    batch_size: int = 100,
    chunk_size: int = 10,
    data_plate: str | None = None,
    seed: int = 0,
    finished: FinishedBatches | None = None,
    protocol: dict[str, Any] | None = None,
    progress: bool = False,
) -> InferenceGaps:
    r"""Split log p(x) - ELBO per datum into approximation and amortization gap.

    An :class:`~pyro_vae.guides.AmortizedGuide` (or a ``SemiAmortizedGuide`` of one) has local parameters, the output
    of its network; those of all data of a batch are optimised together, starting at the encoder's output. Parameters
    that the data share, such as a flow's weights, stay fixed: the family is the set of distributions that the encoder
    can output. For any other guide that is a module, a copy of it is optimised for each datum, with all its parameters
    including a reverse model's: this is slow, and the family is as large as the parameters allow.

    Data whose ELBO the optimisation did not raise keep their initial parameters. This choice, and the choice of the
    proposal below, use separate samples, a fifth of ``num_samples``, and all returned estimates use new samples, so
    that no estimate depends on its own selection. The parameters of model and guide are not changed.

    Args:
        model: Pyro model with observed sites.
        guide: Pyro guide for it, a module with reparameterised samples.
        data: an ``ImageSet``; a tensor ``(N, *data_shape)``; or an iterable of batches.
        log_likelihood: a result for the same data in the same order whose ``log_likelihood`` replaces log p(x), such as
            that of annealed importance sampling. None estimates it by importance sampling from the guide or from
            :math:`q^*`: the one that, on the separate samples, has the smaller error if both have a Pareto k below 0.7,
            and otherwise the larger bound. The maximum of both estimates would be biased upwards and not a bound; this
            is a lower bound in expectation.
        num_samples: samples per datum for each ELBO and for the importance estimate. All weights are stored, 16 bytes
            for each sample and datum of a batch.
        num_steps: steps of Adam per datum.
        lr: initial learning rate, which decreases to 0; by default 0.01 for local parameters and 0.003 for copies.
        num_particles: samples per datum and step.
        batch_size: data at a time.
        chunk_size: samples per datum at a time; memory is proportional to ``batch_size * chunk_size``.
        data_plate: name of the plate over the data, if several plates contain all sites.
        seed: of all samples; the global generator is restored.
        finished: as in :func:`log_likelihood`.
        protocol: entries to add to the result's protocol, such as the data set's.
        progress: show a progress bar.

    Returns:
        Both gaps per datum in nats with their Monte Carlo standard errors. The errors assume independent samples of
        each datum, which a guide whose posterior is itself random (``SemiAmortizedGuide``) satisfies approximately.

    Raises:
        ValueError: the guide cannot be optimised (a function, discrete latents), the programs have no weights per datum
            (see :func:`log_weights`), ``log_likelihood`` has another number of data, or a size is not positive.

    References:
        Inference suboptimality in variational autoencoders (Cremer et al., 2018), sections 3 and 5.2; there until the
        ELBO of a batch stops increasing, here for a fixed number of steps. https://arxiv.org/abs/1801.03558

    Example:
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> result = inference_gaps(vae.model, vae.guide, torch.ones(7, 5), num_samples=100, num_steps=50)
        >>> torch.allclose(result.approximation + result.amortization, result.gap, atol=1e-5)
        True
    """
    arguments = dict(locals())
    check_arguments(inference_gaps, arguments, num_samples=2, num_steps=1, num_particles=1, batch_size=1, chunk_size=1)
    check_positive("inference_gaps", lr=lr)
    batches = BatchedEvaluation("inference_gaps", (model, guide), arguments, unit="steps", amount=num_steps)
    _check_length(log_likelihood, batches.batches.num_data)
    lr = lr if lr is not None else COPY_LR if family_of(guide) is None else LOCAL_LR
    options = {"num_steps": num_steps, "lr": lr, "num_particles": num_particles}
    entries = {"estimator": "gaps", "num_samples": num_samples, "sample_seed": seed}
    entries |= {f"optimisation_{name}": value for name, value in options.items()}
    gaps = _BatchGaps(model, guide, data_plate, num_samples, batch_size * chunk_size, options, batches.owners)
    tensors = batches.run(gaps, gaps.protocol)
    entries |= {**batches.ranks.from_first(gaps.protocol), "num_data": len(tensors["elbo"])}
    entries["log_likelihood"] = "importance" if log_likelihood is None else log_likelihood.method
    if log_likelihood is not None:
        tensors |= _with_bound(log_likelihood, tensors)
    return InferenceGaps(**tensors, protocol={**(protocol or {}), **entries})


class _BatchGaps:
    """Computes both gaps for the data of one batch after the other."""

    def __init__(
        self,
        model: Program,
        guide: Program,
        data_plate: str | None,
        num_samples: int,
        chunk: int,
        options: dict[str, Any],
        owners: Owners,
    ) -> None:
        self.model, self.guide, self.data_plate = model, guide, data_plate
        self.num_samples, self.chunk, self.options = num_samples, chunk, options
        self.protocol: dict[str, Any] = {}
        self.owners = owners

    def __call__(self, args: tuple[Any, ...], advance: Callable[[int], object]) -> dict[str, Tensor]:
        steps = self.options["num_steps"]
        weights = self._weights(self.guide, args)
        size = weights.num_data
        self.protocol.update(weights.protocol(self.num_samples))
        check_guide(weights, self.guide)
        streams, results = torch.randint(2**40, (size, 3)).tolist(), []
        for number, local in enumerate(local_guides(weights, self.guide)):
            self.owners.disown(local.guide, local.constant)
            whole = local.args is args
            results.append(self._gaps(local, streams[number], advance if whole else _ignore))
            if not whole:
                advance(steps * (number + 1) // size - steps * number // size)
        return {name: torch.cat([result[name] for result in results]) for name in results[0]}

    def _gaps(self, local: LocalGuides, streams: list[int], advance: Callable[[int], object]) -> dict[str, Tensor]:
        start = [tensor.detach().clone() for tensor in local.free]
        guide, best = (self._weights(program, local.args) for program in (self.guide, local.guide))
        reseed(streams[0], 0)
        optimum = optimise(best, local, data_plate=self.data_plate, advance=advance, **self.options)
        few = max(2, -(-self.num_samples // 5))
        local.set(optimum.before)
        before = self._sample(best, few, streams[1])
        local.set(optimum.last)
        of_guide, of_best = self._sample(guide, few, streams[1]), self._sample(best, few, streams[1])
        better, late_gain = of_best.mean(0) > of_guide.mean(0), mean_of("late_gain", of_best - before)
        local.keep(better, start)
        better = better & better_proposal(of_best, of_guide)
        of_guide, of_best = (self._sample(weights, self.num_samples, streams[2]) for weights in (guide, best))
        return {**gaps_of(of_guide, of_best, better), **late_gain}

    def _weights(self, guide: Program, args: tuple[Any, ...]) -> ImportanceWeights:
        with validating(True):
            return ImportanceWeights(self.model, guide, args, data_plate=self.data_plate, owner="inference_gaps")

    def _sample(self, weights: ImportanceWeights, num_samples: int, stream: int) -> Tensor:
        """Log-weights ``(num_samples, B)``, float64; one stream gives guides of the same family the same noise."""
        reseed(stream, 0)
        chunk = max(1, self.chunk // weights.num_data)
        sizes = [min(chunk, num_samples - start) for start in range(0, num_samples, chunk)]
        return torch.cat([weights(size).total.double() for size in sizes])


def _with_bound(result: Result, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that change if log p(x) is replaced by another result's bound: those of the approximation gap."""
    bound, best = getattr(result, "log_likelihood").double().cpu(), tensors["best_elbo"]  # noqa: B009
    _check_length(result, len(best))
    unknown = torch.full_like(bound, torch.nan)
    error = getattr(result, "standard_error", unknown).double().cpu()
    return {
        "log_likelihood": bound,
        "standard_error": error,
        "pareto_k": getattr(result, "pareto_k", unknown).double().cpu(),
        "approximation": bound - best,
        "approximation_error": torch.hypot(error, tensors["best_elbo_error"]),
    }


def _check_length(result: Result | None, num_data: int | None) -> None:
    if result is None:
        return
    if not isinstance(getattr(result, "log_likelihood", None), Tensor):
        rule, got = "log_likelihood must be a result that has one", f"log_likelihood={type(result).__name__}"
        advice = "Pass that of log_likelihood or annealed importance sampling"
        raise refusal("inference_gaps", rule, got, advice)
    got = f"{len(result)} results and {num_data} data"
    require(num_data in (None, len(result)), "inference_gaps", "log_likelihood must be of the same data", got)


def _ignore(steps: int) -> None:
    """Progress of copies of a guide is reported for each datum instead of each step."""
