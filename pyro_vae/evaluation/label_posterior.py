"""The model's class posterior p(y | x), and log p(x) with y summed out, by importance sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae._core.checks import check_arguments, require
from pyro_vae._core.param_store import no_registration
from pyro_vae._core.precision import NetworkPrecision, Precision, warn_if_slower
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Data
from pyro_vae.evaluation.batched import BatchedEvaluation
from pyro_vae.evaluation.finished import FinishedBatches
from pyro_vae.evaluation.likelihood import PARETO_K_LIMIT
from pyro_vae.evaluation.result import LOG_LIKELIHOOD, Quantity, Result
from pyro_vae.evaluation.sampler import Engine, WeightSampler
from pyro_vae.evaluation.streaming import WeightSummary


@dataclass(frozen=True)
class ClassPosterior(Result):
    r"""Importance-weighted estimates of log p(x, y) for every class y, per datum, in nats.

    :math:`L_S(x, y) = \log \frac1S \sum_s p(x, y, z_s) / q(z_s | x, y)`, a lower bound in expectation. Summing over
    the classes gives log p(x) and p(y | x).

    Attributes:
        log_joint: ``(N, C)``, the estimate for every class.
        log_joint_error: ``(N, C)``, its Monte Carlo standard error by the delta method.
        effective_sample_size: ``(N, C)``, between 1 and S.
        pareto_k: ``(N, C)``, the shape of the weights' tail; above 0.7 the estimate is unreliable.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), eq. 8. https://arxiv.org/abs/1509.00519
        Semi-supervised learning with deep generative models (Kingma et al., 2014), eq. 6, for one sample.
        https://arxiv.org/abs/1406.5298
    """

    method: ClassVar[str] = "class_posterior"
    title: ClassVar[str] = "Class posterior p(y | x) by importance sampling, and the log-likelihood with y summed out"
    topic: ClassVar[str] = "classes"
    quantities: ClassVar[tuple[Quantity, ...]] = (LOG_LIKELIHOOD, Quantity("entropy", "entropy"))
    phrases: ClassVar[dict[str, str]] = {"num_samples": "{} importance samples per class"}
    layout: ClassVar[dict[str, str]] = {"NC": "log_joint log_joint_error effective_sample_size pareto_k"}
    alternative_text: ClassVar[str] = "Histogram of the entropy of p(y | x)"

    log_joint: Tensor
    log_joint_error: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return self.log_joint.shape[-1]

    @property
    def log_likelihood(self) -> Tensor:
        r"""``(N,)``, log p(x) with y summed out, :math:`\log \sum_y \exp L_S(x, y)`; in expectation a lower bound."""
        return self.log_joint.logsumexp(-1)

    @property
    def standard_error(self) -> Tensor:
        r"""``(N,)``, its standard error, :math:`\sqrt{\sum_y p(y | x)^2 \mathrm{se}(x, y)^2}`.

        By the delta method; samples of different classes are independent.
        """
        return _root_sum_squares(self.probabilities(), self.log_joint_error)

    @property
    def entropy(self) -> Tensor:
        """``(N,)``, the entropy of p(y | x), in nats: between 0, for certainty, and log C."""
        p = self.probabilities()
        return -torch.special.xlogy(p, p).sum(-1)

    def probabilities(self) -> Tensor:
        """``(N, C)``, p(y | x); see :func:`~pyro_vae.evaluation.classification` for its error and calibration."""
        return self.log_joint.softmax(-1)

    def probability_errors(self) -> Tensor:
        r"""``(N, C)``, the standard errors of p(y | x) by the delta method.

        :math:`\partial p_y / \partial L_c = p_y ([y = c] - p_c)`.
        """
        p = self.probabilities()
        slope = p.unsqueeze(-1) * (torch.eye(self.num_classes).to(p) - p.unsqueeze(-2))  # (N, C of p, C of L)
        return _root_sum_squares(slope, self.log_joint_error.unsqueeze(-2))

    def untrusted(self) -> float:
        """Share of the data with a Pareto k above 0.7 in a class with p(y | x) > 0.01; nan if k is unknown."""
        counts = self.probabilities() > 0.01
        if self.pareto_k[counts].isnan().all():
            return float("nan")
        return float(((self.pareto_k > PARETO_K_LIMIT) & counts).any(-1).double().mean())

    def summary(self) -> dict[str, Any]:
        """The means with their errors, and the diagnostics."""
        return {
            **self.means("log_likelihood", "entropy"),
            "mean_class_posterior": self.probabilities().mean(0).tolist(),
            "effective_sample_size_median": float(self.effective_sample_size.median()),
            "pareto_k_above_0.7": self.untrusted(),
        }

    def lines(self) -> list[str]:
        """Log-likelihood and entropy with their errors, and the diagnostics of the weights."""
        share = self.untrusted()
        bad = "unknown (fewer than 25 samples)" if share != share else f"for {share:.1%}"
        ess = f"{float(self.effective_sample_size.median()):.1f} of {self.protocol['num_samples']}"
        return [
            *self.log_likelihood_lines(", y summed out"),
            f"entropy         {self.mean('entropy'):.4f} nats, of p(y | x) on average",
            f"effective sample size, median: {ess}; Pareto k > {PARETO_K_LIMIT}: {bad}",
        ]


def class_posterior(
    model: Program,
    guide: Program,
    data: Data,
    *,
    num_classes: int,
    num_samples: int = 1000,
    batch_size: int = 20,
    chunk_size: int = 50,
    data_plate: str | None = None,
    seed: int = 0,
    engine: Engine = "auto",
    precision: Precision = "fp32",
    finished: FinishedBatches | None = None,
    protocol: dict[str, Any] | None = None,
    progress: bool = False,
) -> ClassPosterior:
    r"""Log p(x, y) of every class y by importance sampling, and so :math:`p(y | x)` and :math:`\log p(x)`.

    The model's own class posterior, which its classifier q(y | x) approximates. Both programs are called as
    ``program(x, y)`` with the label of each class; the weights are those of :func:`log_likelihood`. The samples of
    different classes are independent.

    Args:
        model: Pyro model, called with data and labels ``(B,)``, int64.
        guide: Pyro guide for it, called with the same arguments.
        data: an ``ImageSet``, a tensor ``(N, *data_shape)``, or an iterable of batches. Labels in it are ignored.
        num_classes: number of classes C of the model, all of which are summed over.
        num_samples: number of samples of z per datum and class S.
        batch_size: data at a time.
        chunk_size: samples at a time.
        data_plate: name of the plate over the data, if several plates contain all sites.
        seed: of the samples; every batch has its own stream, by its number.
        engine: ``"eager"``, ``"compiled"`` or ``"auto"``, as in :func:`log_likelihood`.
        precision: ``"bf16"`` multiplies in bfloat16 in linear and convolutional layers.
        finished: as in :func:`log_likelihood`.
        protocol: entries to add to the result's protocol, such as the data set's.
        progress: show a progress bar.

    Returns:
        The estimates per datum and class in nats, with standard errors, effective sample sizes and Pareto k.

    Raises:
        ValueError: the programs have no weights per datum (see :func:`log_weights`), ``num_classes`` is not that of the
            model, or a size is not positive.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), section 5. https://arxiv.org/abs/1509.00519

    Example:
        >>> from functools import partial
        >>> from pyro_vae.guides import CategoricalGuide, DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.networks import ContextNetwork
        >>> from pyro_vae import SemiSupervisedVAE
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> net = partial(ContextNetwork, context_dim=3)
        >>> pieces = BernoulliLikelihood(2, (5,), net=net), DiagonalNormalGuide((5,), 2, net=net)
        >>> vae = SemiSupervisedVAE(StandardNormalPrior(2), *pieces, CategoricalGuide((5,), 3))
        >>> posterior = class_posterior(vae.model, vae.guide, torch.ones(7, 5), num_classes=3, num_samples=100)
        >>> posterior.probabilities().shape, posterior.log_likelihood.shape
        (torch.Size([7, 3]), torch.Size([7]))
    """
    options = dict(locals())
    check_arguments(class_posterior, options, num_classes=1, num_samples=1, batch_size=1, chunk_size=1)
    amount = num_samples * num_classes
    batches = BatchedEvaluation("class_posterior", (model, guide), options, unit="samples", amount=amount)
    chunks = batches.share() * num_classes * -(-num_samples // chunk_size)
    work: Any = {"engine": engine, "num_calls": chunks, "chunk_size": chunk_size}
    sampler = WeightSampler("class_posterior", model, (guide,), data_plate, batches.owners, **work)
    entries: dict[str, Any] = {"estimator": "importance", "num_classes": num_classes, "num_samples": num_samples}
    entries |= {"sample_seed": seed}

    def summarise(args: tuple[Any, ...], advance: Callable[[int], object]) -> dict[str, Tensor]:
        last = _labelled(args, num_classes - 1)
        entries.update(sampler.check(last, num_samples))
        _check_classes(model, last, num_classes)
        labelled = [_labelled(args, c) for c in range(num_classes)]
        classes = [_log_joint(sampler, class_args, num_samples, chunk_size, advance) for class_args in labelled]
        return {name: torch.stack([estimate[key] for estimate in classes], -1) for name, key in _FIELDS.items()}

    warn_if_slower("class_posterior", precision, batches.batches.device)
    with NetworkPrecision(precision):
        tensors = batches.run(summarise, entries)
    entries = batches.ranks.from_first(entries)
    entries |= {"num_data": len(tensors["log_joint"]), "precision": precision}
    return ClassPosterior(**tensors, protocol={**(protocol or {}), **entries})


_FIELDS = {
    "log_joint": "log_likelihood",
    "log_joint_error": "standard_error",
    "effective_sample_size": "effective_sample_size",
    "pareto_k": "pareto_k",
}


def _log_joint(
    sampler: WeightSampler, args: tuple[Any, ...], num_samples: int, chunk_size: int, advance: Callable[[int], object]
) -> dict[str, Tensor]:
    """The estimate of log p(x, y) for the labels among the arguments."""
    summary = WeightSummary(num_samples)
    for start in range(0, num_samples, chunk_size):
        count = min(chunk_size, num_samples - start)
        summary.add(sampler(count, args))
        advance(count)
    return summary.result()


def _labelled(args: tuple[Any, ...], c: int) -> tuple[Any, ...]:
    """The arguments with the label c for every datum, in place of labels if there are any."""
    x, *rest = args
    return x, torch.full((len(x),), c, device=x.device), *rest[1:]


def _root_sum_squares(slopes: Tensor, errors: Tensor) -> Tensor:
    """Error of a function of independent estimates; slope 0 removes an estimate even if its error is infinite."""
    return torch.where(slopes == 0, 0.0, slopes * errors).square().sum(-1).sqrt()


def _check_classes(model: Program, args: tuple[Any, ...], num_classes: int) -> None:
    """Require the number of classes of the model's site ``"y"``, if it has this site."""
    with no_registration():
        site = poutine.trace(model).get_trace(*args).nodes.get("y", {})
    y = site.get("fn")
    classes = len(y.enumerate_support(expand=False)) if getattr(y, "has_enumerate_support", False) else num_classes
    rule = f"num_classes must be that of the model, {classes}"
    require(classes == num_classes, "class_posterior", rule, f"num_classes={num_classes}")
