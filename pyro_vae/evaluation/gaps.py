"""Where the gap between log p(x) and the ELBO comes from: the family, or the encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.contexts import reseed, validating
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Data
from pyro_vae.evaluation.batched import BatchedEvaluation, check_sizes
from pyro_vae.evaluation.gaps_result import InferenceGaps, better_proposal, gaps_of, mean_of
from pyro_vae.evaluation.local_optimisation import (
    COPY_LR,
    LOCAL_LR,
    Local,
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
    protocol: dict[str, Any] | None = None,
    progress: bool = False,
) -> InferenceGaps:
    r"""Split log p(x) - ELBO per datum into approximation and amortization gap.

    An :class:`~pyro_vae.guides.AmortizedGuide` (or a ``SemiAmortizedGuide`` of one) has local parameters, the output
    of its network: those of all data of a batch are optimised at once, from where the encoder puts them. What the data
    share, a flow's weights say, stays: the family is what the encoder could have chosen from. For any other guide that
    is a module, a copy of it is optimised for each datum, with all its parameters (a reverse model's too): slow, and of
    a family that is as large as the parameters make it.

    The start is kept for the data whose ELBO the optimisation did not raise. That choice, and the choice of the
    proposal below, are made on draws of their own, a fifth of ``num_samples``, and everything returned is from fresh
    draws: no estimate has seen its own selection. The parameters of model and guide are not changed.

    Args:
        model: Pyro model with observed sites.
        guide: Pyro guide for it, a module with reparameterised draws.
        data: an ``ImageSet``; a tensor ``(N, *data_shape)``; or an iterable of batches.
        log_likelihood: a result over the same data in the same order whose ``log_likelihood`` stands for log p(x), such
            as that of annealed importance sampling. None estimates it by importance sampling from the guide or from
            :math:`q^*`: on the draws that choose, the one with the smaller error where both have a Pareto k below 0.7,
            else the one with the larger bound. The larger of the two estimates themselves would be biased upwards, and
            no bound; this is one, in expectation.
        num_samples: draws per datum of each ELBO and of the importance estimate. All their weights are kept, 16 bytes
            for each draw and datum of a batch.
        num_steps: steps of Adam per datum.
        lr: its first step size, which falls to 0; by default 0.01 for local parameters and 0.003 for a copy's.
        num_particles: draws per datum and step.
        batch_size: data at a time.
        chunk_size: draws of each at a time; memory is proportional to ``batch_size * chunk_size``.
        data_plate: name of the plate over the data, where it is not the only one that holds all sites.
        seed: of all draws; the global generator is left as it was.
        protocol: entries to keep with the result, such as the data set's.
        progress: show a progress bar.

    Returns:
        Both gaps per datum in nats with their Monte Carlo standard errors. The errors take the draws of one datum as
        independent; those of a guide whose posterior is itself random (``SemiAmortizedGuide``) are not quite.

    Raises:
        ValueError: the guide cannot be optimised (a function, discrete latents), the programs have no weights per datum
            (see :func:`log_weights`), ``log_likelihood`` is of another number of data, or a size is not positive.

    References:
        Inference suboptimality in variational autoencoders (Cremer et al., 2018), sections 3 and 5.2; they optimise
        by batches until the ELBO stalls, here for a given number of steps. https://arxiv.org/abs/1801.03558

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
    sizes = {"num_steps": num_steps, "num_particles": num_particles, "batch_size": batch_size}
    check_sizes("inference_gaps", chunk_size=chunk_size, **sizes)
    if num_samples < 2:
        what = "num_samples must be at least 2, for the errors of the means"
        raise ValueError(f"inference_gaps: {what}, got num_samples={num_samples}. Use for example 5000.")
    unit = "steps" if progress else None
    batches = BatchedEvaluation(
        "inference_gaps", (model, guide), data, batch_size, seed=seed, progress=unit, amount=num_steps
    )
    _check_length(log_likelihood, batches.batches.num_data)
    step = lr if lr is not None else COPY_LR if family_of(guide) is None else LOCAL_LR
    how = {"num_steps": num_steps, "lr": step, "num_particles": num_particles}
    own = {"estimator": "gaps", "num_samples": num_samples, "sample_seed": seed}
    own |= {f"optimisation_{name}": value for name, value in how.items()}
    split = _Split(model, guide, data_plate, num_samples, batch_size * chunk_size, how)
    tensors = batches.run(split)
    own |= {**batches.ranks.from_first(split.kind), "num_data": len(tensors["elbo"])}
    own["log_likelihood"] = "importance" if log_likelihood is None else log_likelihood.method
    if log_likelihood is not None:
        tensors |= _from_result(log_likelihood, tensors)
    return InferenceGaps(**tensors, protocol={**(protocol or {}), **own})


class _Split:
    """Both gaps for the data of one batch after the other."""

    def __init__(
        self, model: Program, guide: Program, data_plate: str | None, num_samples: int, chunk: int, how: dict[str, Any]
    ) -> None:
        self.model, self.guide, self.data_plate = model, guide, data_plate
        self.num_samples, self.chunk, self.how = num_samples, chunk, how
        self.kind: dict[str, Any] = {}

    def __call__(self, args: tuple[Any, ...], advance: Callable[[int], object]) -> dict[str, Tensor]:
        steps = self.how["num_steps"]
        weigher = self._weigher(self.guide, args)
        size = weigher.num_data
        self.kind = weigher.protocol(self.num_samples)
        check_guide(weigher, self.guide)
        streams, parts = torch.randint(2**40, (size, 3)).tolist(), []
        for number, local in enumerate(local_guides(weigher, self.guide)):
            whole = local.args is args
            parts.append(self._datum(local, streams[number], advance if whole else _nothing))
            if not whole:
                advance(steps * (number + 1) // size - steps * number // size)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _datum(self, local: Local, streams: list[int], advance: Callable[[int], object]) -> dict[str, Tensor]:
        start = [tensor.detach().clone() for tensor in local.free]
        guide, best = (self._weigher(program, local.args) for program in (self.guide, local.guide))
        reseed(streams[0], 0)
        found = optimise(best, local, data_plate=self.data_plate, advance=advance, **self.how)
        few = max(2, -(-self.num_samples // 5))
        local.at(found.before)
        before = self._draw(best, few, streams[1])
        local.at(found.last)
        first, last = self._draw(guide, few, streams[1]), self._draw(best, few, streams[1])
        better, late = last.mean(0) > first.mean(0), mean_of("late_gain", last - before)
        local.keep(better, start)
        better = better & better_proposal(last, first)
        first, last = (self._draw(weigher, self.num_samples, streams[2]) for weigher in (guide, best))
        return {**gaps_of(first, last, better), **late}

    def _weigher(self, guide: Program, args: tuple[Any, ...]) -> ImportanceWeights:
        with validating(True):
            return ImportanceWeights(self.model, guide, args, data_plate=self.data_plate, owner="inference_gaps")

    def _draw(self, weigher: ImportanceWeights, num_samples: int, stream: int) -> Tensor:
        """``(num_samples, B)`` log-weights, float64; the same stream gives guides of one family the same noise."""
        reseed(stream, 0)
        chunk = max(1, self.chunk // weigher.num_data)
        sizes = [min(chunk, num_samples - start) for start in range(0, num_samples, chunk)]
        return torch.cat([weigher(size).total.double() for size in sizes])


def _from_result(result: Result, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """What changes where log p(x) is another result's: the approximation gap."""
    bound, best = getattr(result, "log_likelihood").double().cpu(), own["best_elbo"]  # noqa: B009
    _check_length(result, len(best))
    unknown = torch.full_like(bound, torch.nan)
    error = getattr(result, "standard_error", unknown).double().cpu()
    return {
        "log_likelihood": bound,
        "standard_error": error,
        "pareto_k": getattr(result, "pareto_k", unknown).double().cpu(),
        "approximation": bound - best,
        "approximation_error": torch.hypot(error, own["best_elbo_error"]),
    }


def _check_length(result: Result | None, num_data: int | None) -> None:
    if result is not None and not isinstance(getattr(result, "log_likelihood", None), Tensor):
        raise ValueError(
            "inference_gaps: log_likelihood must be a result that has one, got "
            f"log_likelihood={type(result).__name__}. Pass that of log_likelihood or annealed importance sampling."
        )
    if result is not None and num_data not in (None, len(result)):
        raise ValueError(
            f"inference_gaps: log_likelihood must be of the same data, got {len(result)} results and {num_data} data. "
            "Evaluate both on the same ones."
        )


def _nothing(steps: int) -> None:
    """Copies of a guide are counted by the datum."""
