"""Disentanglement of a model's latents, measured against known factors of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pyro_vae._core.checks import check_arguments, check_count, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.owners import evaluating, placement
from pyro_vae.data.batches import Batches, Data
from pyro_vae.data.splitting import stream_seed
from pyro_vae.evaluation.code_metrics import METRICS, as_factors, as_numbers, measure
from pyro_vae.evaluation.marginals import moments
from pyro_vae.evaluation.result import Quantity, Result
from pyro_vae.models import VAE

_NUM_PERMUTATIONS = 5
_FLOW_SAMPLES = 1000  # for posterior means without a closed form


@dataclass(frozen=True)
class Disentanglement(Result):
    """Metrics of disentanglement, larger is better, with their values for factors that are unrelated to the data.

    Attributes:
        values: ``(M,)``, the metrics of :data:`~pyro_vae.evaluation.code_metrics.METRICS`.
        errors: ``(M,)``, their bootstrap standard errors.
        permuted: ``(M,)``, their means after the factors have been permuted over the data: the value that chance gives.
        information: ``(L, F)``, mutual information of each latent and factor, in nats.
        importance: ``(L, F)``, importance of each latent for boosted trees that predict each factor.

    References:
        Challenging common assumptions in the unsupervised learning of disentangled representations (Locatello et al.,
        2019), which compares these metrics. https://arxiv.org/abs/1811.12359
    """

    method: ClassVar[str] = "disentanglement"
    title: ClassVar[str] = "Disentanglement of the latents"
    topic: ClassVar[str] = "diagnostics"
    quantities: ClassVar[tuple[Quantity, ...]] = (Quantity("mig", "MIG", "", paired=False),)
    layout: ClassVar[dict[str, str]] = {"M": "values errors permuted", "LF": "information importance"}
    alternative_text: ClassVar[str] = "Mutual information of every latent and factor, and bars of the metrics"

    values: Tensor
    errors: Tensor
    permuted: Tensor
    information: Tensor
    importance: Tensor

    def mig(self) -> tuple[float, float]:
        """The mutual information gap and its standard error."""
        return float(self.values[0]), float(self.errors[0])

    def interval(self) -> Tensor:
        """95% intervals of the metrics, ``(M, 2)``: 1.96 bootstrap standard errors on both sides."""
        return self.values[:, None] + 1.96 * self.errors[:, None] * torch.tensor([-1.0, 1.0], dtype=self.values.dtype)

    def summary(self) -> dict[str, Any]:
        """By metric: value, bounds of the interval, and value for permuted factors."""
        keys, rows = ("value", "low", "high", "permuted"), torch.cat([self.interval(), self.permuted[:, None]], 1)
        table = zip(METRICS, self.values.tolist(), rows.tolist(), strict=True)
        return {"metrics": {name: dict(zip(keys, (value, *row), strict=True)) for name, value, row in table}}

    def lines(self) -> list[str]:
        """A table with a row per metric."""
        lines = [f"{'metric':<22} {'value':>7} {'95% interval':>18} {'permuted factors':>17}"]
        for name, row in self.summary()["metrics"].items():
            interval = f"{row['low']:.3f} to {row['high']:.3f}"
            lines.append(f"{name:<22} {row['value']:>7.3f} {interval:>18} {row['permuted']:>17.3f}")
        return lines


def code_disentanglement(
    codes: Any,
    factors: Any,
    *,
    num_bins: int = 20,
    num_bootstrap: int = 20,
    seed: int = 0,
    protocol: dict[str, Any] | None = None,
) -> Disentanglement:
    """Measure the disentanglement of codes of any origin.

    - MIG: the gap in mutual information with a factor between the two most informative latents, in units of the
      factor's entropy, averaged over the factors.
    - SAP: the same gap in the accuracy of a single latent as a predictor, see
      :func:`~pyro_vae.evaluation.code_metrics.separability`.
    - DCI: importances of the latents for boosted trees that predict a factor. Disentanglement is one if each latent is
      important for one factor alone, completeness if each factor needs one latent alone, both weighted by importance;
      informativeness is the mean test score, R^2 or accuracy.
    - The metrics of FactorVAE and beta-VAE: the accuracy of a classifier of the factor that is constant in a group of
      128 data, or 64 pairs. Groups are of the given data, so that a continuous factor is constant up to its bin.

    Args:
        codes: ``(N, L)``, a tensor or an array, such as posterior means.
        factors: values ``(N,)`` by name (a dictionary, a DataFrame), or ``(N, F)``.
        num_bins: bins of equal width of each latent, and of each factor with more values than that.
        num_bootstrap: resamples of the data. The intervals are the estimates with 1.96 standard deviations over the
            resamples, and not percentiles of these, whose repeated data bias mutual information upwards.
        seed: of resamples, permutations, groups and rows.
        protocol: entries to add to the result's protocol.

    Returns:
        The metrics with their intervals.

    Raises:
        ValueError: fewer than two factors, a constant one, values that are not finite, or other numbers of data.

    References:
        Isolating sources of disentanglement in variational autoencoders (Chen et al., 2018), eq. 6, with posterior
        means and histograms in place of samples. https://arxiv.org/abs/1802.04942
        Variational inference of disentangled latent concepts from unlabeled observations (Kumar, Sattigeri and
        Balakrishnan, 2018), section 3. https://arxiv.org/abs/1711.00848
        A framework for the quantitative evaluation of disentangled representations (Eastwood and Williams, 2018),
        section 2. https://openreview.net/forum?id=By-7dz-AZ
        Disentangling by factorising (Kim and Mnih, 2018), section 4. https://arxiv.org/abs/1802.05983
        beta-VAE (Higgins et al., 2017), section 3. https://openreview.net/forum?id=Sy2fzU9gl

    Example:
        >>> import torch
        >>> factors = torch.cartesian_prod(torch.arange(4.0), torch.arange(5.0)).repeat(5, 1)  # (100, 2)
        >>> code_disentanglement(factors.flip(1), factors, num_bootstrap=2).mig()[0]
        1.0
    """
    check_arguments(code_disentanglement, locals(), num_bins=2, num_bootstrap=2)
    options: dict[str, Any] = {"num_bins": num_bins, "num_bootstrap": num_bootstrap}
    return _measured("code_disentanglement", codes, factors, seed=seed, protocol=protocol, **options)


def _measured(
    owner: str,
    codes: Any,
    factors: Any,
    *,
    num_bins: int,
    num_bootstrap: int,
    seed: int,
    protocol: dict[str, Any] | None,
) -> Disentanglement:
    matrix = as_numbers(codes, "codes", owner=owner)
    require(matrix.ndim == 2 and matrix.shape[1] > 0, owner, "codes must have shape (N, L)", tuple(matrix.shape))
    check_count(owner, 10, codes=len(matrix))
    require(
        bool(np.isfinite(matrix).all()),
        owner,
        "codes of the data must be finite",
        "nan or infinite codes",
        "Train again",
    )
    table = as_factors(factors, len(matrix), num_bins=num_bins, owner=owner)
    rng = np.random.default_rng(stream_seed(seed, "disentanglement"))
    values, information, importance = measure(matrix, table, rng, num_bins=num_bins)
    resamples = [rng.integers(len(matrix), size=len(matrix)) for _ in range(num_bootstrap)]
    replicates = [measure(matrix[rows], table[rows], rng, num_bins=num_bins)[0] for rows in resamples]
    orders = [rng.permutation(len(matrix)) for _ in range(_NUM_PERMUTATIONS)]
    permuted = [measure(matrix, table[order], rng, num_bins=num_bins)[0] for order in orders]
    entries = {"num_bins": num_bins, "num_bootstrap": num_bootstrap, "sample_seed": seed, "factors": table.names}
    arrays = (values, np.std(replicates, 0, ddof=1), np.mean(permuted, 0), information, importance)
    protocol = {**(protocol or {}), **entries, "num_data": len(matrix)}
    return Disentanglement(*map(torch.from_numpy, arrays), protocol=protocol)


def disentanglement(
    vae: VAE,
    data: Data,
    factors: Any,
    *,
    num_bins: int = 20,
    num_bootstrap: int = 20,
    batch_size: int = 500,
    seed: int = 0,
    protocol: dict[str, Any] | None = None,
) -> Disentanglement:
    """Measure the disentanglement of a VAE's posterior means against known factors of the data.

    Args:
        vae: the model. For others, pass the codes of :meth:`pyro_vae.latents.LatentSpace.means` to
            :func:`code_disentanglement`, which documents the metrics.
        data: an ``ImageSet``, a tensor ``(N, *data_shape)``, or an iterable of batches.
        factors: factors of these data, values ``(N,)`` by name (a dictionary, a DataFrame), or ``(N, F)``.
        num_bins: bins of equal width of each latent, and of each factor with more values than that.
        num_bootstrap: resamples of the data, for the intervals.
        batch_size: data at a time.
        seed: of resamples, permutations, groups and rows.
        protocol: entries to add to the result's protocol.

    Returns:
        The metrics with their intervals.

    Raises:
        ValueError: ``vae`` is no VAE; fewer than two factors, a constant one, values that are not finite, or other
            numbers of data.

    References:
        See :func:`code_disentanglement`.

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, data, guides, likelihoods, priors
        >>> faces = data.Faces(count=120, size=16)
        >>> images = faces.load().test
        >>> prior, likelihood = priors.StandardNormalPrior(3), likelihoods.NormalLikelihood(3, (1, 16, 16))
        >>> vae = VAE(prior, likelihood, guides.DiagonalNormalGuide((1, 16, 16), 3))
        >>> factors = {name: faces.factors[name][images.rows] for name in ("smile", "turn")}
        >>> disentanglement(vae, images, factors, num_bootstrap=2).information.shape
        torch.Size([3, 2])
    """
    check_arguments(disentanglement, locals(), num_bins=2, num_bootstrap=2, batch_size=1)
    device, dtype = placement(vae)
    batches = Batches(data, batch_size, device=device, dtype=dtype, owner="disentanglement")
    with evaluating(vae), isolated_rng(seed), torch.no_grad():
        codes = torch.cat([moments(vae.encode(batch.args[0]), _FLOW_SAMPLES)[0] for batch in batches.epoch()])
    options: dict[str, Any] = {"num_bins": num_bins, "num_bootstrap": num_bootstrap}
    return _measured("disentanglement", codes, factors, seed=seed, protocol=protocol, **options)
