"""Predictive checks: statistics of data against those of replicates from the posterior or the prior predictive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Size, Tensor

from pyro_vae._core.checks import check_arguments, refusal, require
from pyro_vae._core.contexts import isolated_rng, reseed
from pyro_vae._core.failures import program_errors
from pyro_vae._core.owners import evaluating, placement
from pyro_vae.data.batches import Batches, Data
from pyro_vae.evaluation.aggregate import supports
from pyro_vae.evaluation.result import Result
from pyro_vae.models import VAE
from pyro_vae.models.vae import check_posterior, check_prior

Statistic = Callable[[Tensor], Tensor]
_OWNER = "posterior_predictive_check"
DISCREPANCY = "log p(x|z)"
EXTREME_P_VALUE = 0.005
"""Predictive p value of the whole data set, in either tail, below which a statistic is reported as not reproduced."""


def _mean(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)


def _std(x: Tensor) -> Tensor:
    return x.flatten(1).std(1, correction=0)


def _largest(x: Tensor) -> Tensor:
    return x.flatten(1).amax(1)


def _roughness(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbours along the last two dimensions."""
    return (x.diff(dim=-1).abs().flatten(1).mean(1) + x.diff(dim=-2).abs().flatten(1).mean(1)) / 2


def default_statistics(data_shape: tuple[int, ...]) -> dict[str, Statistic]:
    """Mean, standard deviation and largest value of a datum, and roughness of an image.

    Roughness is the mean absolute difference of neighbouring pixels: a decoder whose pixels are independent given z
    generates images that are rougher than the data.

    Args:
        data_shape: shape of one datum.

    Returns:
        Functions of data ``(M, *data_shape)`` that return ``(M,)``, by name.

    Example:
        >>> list(default_statistics((1, 28, 28))), list(default_statistics((5,)))
        (['mean', 'standard deviation', 'largest', 'roughness'], ['mean', 'standard deviation', 'largest'])
    """
    check_arguments(default_statistics, locals())
    statistics: dict[str, Statistic] = {"mean": _mean, "standard deviation": _std, "largest": _largest}
    return statistics | ({"roughness": _roughness} if len(data_shape) > 1 and min(data_shape[-2:]) > 1 else {})


@dataclass(frozen=True)
class PredictiveCheck(Result):
    r"""Statistics T of data against those of replicates, :math:`x^{rep} \sim p(x | z)`, z from the guide or the prior.

    A p value near 0 means that the replicates' statistic is below the datum's, near 1 above. With z from the guide,
    which depends on the datum, p values of a good model are not uniform but concentrate around 1/2, so that an extreme
    one is strong evidence against the model. Equal values count half.

    The statistic ``log p(x|z)`` compares each datum with its replicates at the same z: near 1, the datum is less likely
    than the replicates.

    Attributes:
        observed: ``(N, T)``, the statistics of the data; for ``log p(x|z)`` the mean over the samples of z.
        replicated: ``(N, T)``, of one replicate of each datum.
        replicated_mean: ``(N, T)``, mean over the replicates.
        replicated_std: ``(N, T)``, their standard deviation.
        p_values: ``(N, T)``, the share of replicates whose statistic is larger than the datum's.
        set_observed: ``(S, T)``, the mean over the data; equal in all S rows except for ``log p(x|z)``.
        set_replicated: ``(S, T)``, the mean over the data of each replicate of the set.

    References:
        Posterior predictive assessment of model fitness via realized discrepancies (Gelman, Meng and Stern, 1996),
        eq. 7 and 8. https://www3.stat.sinica.edu.tw/statistica/j6n4/j6n41/j6n41.htm
        Bayesianly justifiable and relevant frequency calculations for the applied statistician (Rubin, 1984).
        https://doi.org/10.1214/aos/1176346785
    """

    method: ClassVar[str] = "predictive"
    title: ClassVar[str] = "Predictive check of the model"
    topic: ClassVar[str] = "diagnostics"
    phrases: ClassVar[dict[str, str]] = {"num_samples": "{} replicates"}
    layout: ClassVar[dict[str, str]] = {
        "NT": "observed replicated replicated_mean replicated_std p_values",
        "ST": "set_observed set_replicated",
    }
    alternative_text: ClassVar[str] = "Histograms of predictive p values, a panel per statistic"

    observed: Tensor
    replicated: Tensor
    replicated_mean: Tensor
    replicated_std: Tensor
    p_values: Tensor
    set_observed: Tensor
    set_replicated: Tensor

    @property
    def statistics(self) -> list[str]:
        """Names of the statistics, in the order of the columns."""
        return list(self.protocol["statistics"])

    def set_p_values(self) -> Tensor:
        """``(T,)``, the share of replicated sets whose mean statistic is larger than the data's."""
        return _larger(self.set_replicated, self.set_observed).mean(0)

    def extreme(self, level: float = 0.05) -> Tensor:
        """``(T,)``, the share of data with a p value below ``level / 2`` or above ``1 - level / 2``."""
        return ((self.p_values < level / 2) | (self.p_values > 1 - level / 2)).double().mean(0)

    def advice(self) -> str:
        """Name the statistics that the model does not reproduce; empty if it reproduces all."""
        deviations = []
        for name, p in zip(self.statistics, self.set_p_values().tolist(), strict=True):
            if min(p, 1 - p) < EXTREME_P_VALUE:
                deviations.append(f"{name} too {'small' if p < 0.5 else 'large'} (p = {p:.3f})")
        source = "its latents" if self.protocol["source"] == "posterior" else "the prior's latents"
        if not deviations:
            return ""
        return (
            f"Replicates from {source} differ from the data on average: {', '.join(deviations)}. Use another "
            "likelihood or a more powerful decoder; with the prior, also another prior (VampPrior, FlowPrior)."
        )

    def summary(self) -> dict[str, Any]:
        """By statistic: the means of data and replicates, the p value of the set, the share of extreme data."""
        columns = zip(
            self.set_observed.mean(0).tolist(),
            self.set_replicated.mean(0).tolist(),
            self.set_p_values().tolist(),
            self.extreme().tolist(),
            strict=True,
        )
        keys = ("observed", "replicated", "p_value", "extreme_5_percent")
        table = {name: dict(zip(keys, row, strict=True)) for name, row in zip(self.statistics, columns, strict=True)}
        return {"statistics": table, "advice": self.advice()}

    def lines(self) -> list[str]:
        """A table with a row per statistic."""
        lines = [f"{'statistic':<20} {'data':>9} {'replicates':>10} {'p of set':>9} {'data beyond 95%':>16}"]
        for name, row in self.summary()["statistics"].items():
            share = f"{row['extreme_5_percent']:.1%}"
            lines.append(
                f"{name:<20} {row['observed']:>9.4g} {row['replicated']:>10.4g} {row['p_value']:>9.3f} {share:>16}"
            )
        return lines


def posterior_predictive_check(
    vae: VAE,
    data: Data,
    *,
    statistics: Mapping[str, Statistic] | Statistic | None = None,
    num_samples: int = 200,
    source: Literal["posterior", "prior"] = "posterior",
    batch_size: int = 100,
    chunk_size: int = 20,
    seed: int = 0,
    protocol: dict[str, Any] | None = None,
) -> PredictiveCheck:
    r"""Compare every datum with replicates :math:`x^{rep} \sim p(x | z)`, :math:`z \sim q(z | x)` or z ~ p(z).

    Args:
        vae: the model with any guide. Replicates are those of the guide, which may differ from the posterior; see
            :func:`simulation_based_calibration`.
        data: an ``ImageSet``, a tensor ``(N, *data_shape)``, or an iterable of batches.
        statistics: functions of data ``(M, *data_shape)`` that return ``(M,)``, by name; or a single function. By
            default :func:`default_statistics` and, for the posterior, ``log p(x|z)``.
        num_samples: number of replicates per datum S.
        source: ``"prior"`` samples z from the prior, for a prior predictive check of unconditional samples.
        batch_size: data at a time.
        chunk_size: replicates at a time; memory is proportional to ``batch_size * chunk_size``.
        seed: of the samples; the global generator is restored.
        protocol: entries to add to the result's protocol, such as the data set's.

    Returns:
        Statistics and p values, per datum and of the whole data set.

    Raises:
        ValueError: a size is not positive, the data are empty, ``source`` is unknown, a statistic has a wrong shape, or
            the data lie outside the support of the likelihood, or the model is an autoencoder, which has no posterior,
            and no prior unless one was fitted to its codes.

    References:
        Posterior predictive assessment of model fitness via realized discrepancies (Gelman, Meng and Stern, 1996),
        eq. 7 and 8. https://www3.stat.sinica.edu.tw/statistica/j6n4/j6n41/j6n41.htm

    Example:
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> count = {"ones": lambda x: x.sum(-1)}
        >>> check = posterior_predictive_check(vae, torch.ones(7, 5), statistics=count)
        >>> check.p_values.shape, bool(check.set_p_values() < 0.5)  # replicates have fewer ones
        (torch.Size([7, 1]), True)
    """
    check_arguments(posterior_predictive_check, locals(), num_samples=1, batch_size=1, chunk_size=1)
    (check_posterior if source == "posterior" else check_prior)(_OWNER, vae)
    functions = _named(statistics, vae.data_shape)
    density = statistics is None and source == "posterior"
    device, dtype = placement(vae)
    batches = Batches(data, batch_size, device=device, dtype=dtype, owner=_OWNER)
    rows, sums = [], []
    with evaluating(vae), isolated_rng(seed):
        for number, batch in enumerate(batches.epoch()):
            reseed(seed, number)
            x = batch.args[0]
            sizes = [min(chunk_size, num_samples - start) for start in range(0, num_samples, chunk_size)]
            with program_errors(_OWNER, batch.args, vae):
                chunks = [_replicates(vae, x, functions, size, source, density=density) for size in sizes]
            observed, replicated = (torch.cat(pair).double().cpu() for pair in zip(*chunks, strict=True))  # (S, B, T)
            rows.append(_per_datum(observed, replicated))
            sums.append(torch.stack([observed.sum(1), replicated.sum(1)]))  # (2, S, T)
    tensors = {key: torch.cat([row[key] for row in rows]) for key in rows[0]}
    num_data = len(tensors["observed"])
    tensors["set_observed"], tensors["set_replicated"] = torch.stack(sums).sum(0) / num_data
    names = [*functions, *([DISCREPANCY] if density else [])]
    entries = {"source": source, "num_samples": num_samples, "sample_seed": seed, "statistics": names}
    return PredictiveCheck(**tensors, protocol={**(protocol or {}), **entries, "num_data": num_data})


def _replicates(
    vae: VAE, x: Tensor, functions: Mapping[str, Statistic], num: int, source: str, *, density: bool
) -> tuple[Tensor, Tensor]:
    """Statistics of the data and of ``num`` replicates, ``(num, B, T)`` each."""
    z = vae.encode(x).sample(Size([num])) if source == "posterior" else vae.prior().sample(Size([num, len(x)]))
    p = vae.decode(z)
    if not supports(p, x):
        rule = f"data must lie in the support of p(x | z) ({p.support})"
        if bool(x.isnan().any()):
            raise refusal(_OWNER, rule, "NaN", "Impute missing entries first, since statistics need complete data")
        raise refusal(_OWNER, rule, "another value", "Change the data (for example, binarize them) or the likelihood")
    replicates = p.sample()  # (num, B, *data_shape)
    observed = [_apply(name, f, x).expand(num, -1) for name, f in functions.items()]
    replicated = [_apply(name, f, replicates.flatten(0, 1)).view(num, -1) for name, f in functions.items()]
    if density:
        observed, replicated = [*observed, p.log_prob(x)], [*replicated, p.log_prob(replicates)]
    return torch.stack(observed, -1), torch.stack(replicated, -1)


def _per_datum(observed: Tensor, replicated: Tensor) -> dict[str, Tensor]:
    return {
        "observed": observed.mean(0),
        "replicated": replicated[0],
        "replicated_mean": replicated.mean(0),
        "replicated_std": replicated.std(0, correction=0),
        "p_values": _larger(replicated, observed).mean(0),
    }


def _larger(replicated: Tensor, observed: Tensor) -> Tensor:
    """1 if the replicate is larger, 1/2 if it is equal, otherwise 0."""
    return (replicated > observed).double() + 0.5 * (replicated == observed).double()


def _apply(name: str, function: Statistic, x: Tensor) -> Tensor:
    value = function(x)
    if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        got = f"{shape} of {name!r} for data {tuple(x.shape)}"
        rule = "a statistic must return one number per datum"
        raise refusal(_OWNER, rule, got, "Reduce all dimensions except the first")
    return value


def _named(statistics: Mapping[str, Statistic] | Statistic | None, data_shape: tuple[int, ...]) -> dict[str, Statistic]:
    if statistics is None:
        return default_statistics(data_shape)
    if callable(statistics):
        return {getattr(statistics, "__name__", "statistic"): statistics}
    require(bool(statistics), _OWNER, "statistics must not be empty", "none")
    return dict(statistics)
