"""Detection of data that are unlike the training data, with a rate of false alarms that held-out data determine."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.checks import CheckedArguments, check_arguments, check_count, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Data
from pyro_vae.data.image_set import ImageSet
from pyro_vae.evaluation.conformal import conformal_p_values
from pyro_vae.evaluation.finished import FinishedBatches
from pyro_vae.evaluation.outlier_rules import Combination, Rule
from pyro_vae.evaluation.outlier_scores import COMBINED, OutlierScores, scores_of
from pyro_vae.evaluation.outlier_statistics import ModelAndGuide, Statistics

_OWNER = "outliers"
LEAST_REFERENCE = 10
"""Smallest number of reference data."""


def least_level(num_reference: int) -> float:
    """The smallest p-value of a detector, 1 / (m + 1) for the m of its reference data that calibrate."""
    return 1 / (num_reference - num_reference // 3 + 1)


class OutlierDetector(CheckedArguments):
    r"""Outlier scores and p-values of data under a model and guide, calibrated on reference data.

    A random third of the reference determines the centers of two-sided scores and the rule that combines the
    statistics; the other two thirds, m data, calibrate the p-values, which are therefore exact for data exchangeable
    with the reference. The smallest p-value is 1 / (m + 1).

    Args:
        model: Pyro model with observed sites.
        guide: Pyro guide for it.
        reference: data like the training data that were not trained on, such as the validation images.
        combination: rule of the score ``"combined"``, see :class:`~pyro_vae.evaluation.outlier_rules.Rule`.
        num_samples: importance samples of log p(x) per datum.
        regret_steps: steps of the local optimisation of likelihood regret; None omits this score, by far the most
            expensive one.
        background: model and guide whose log p(x) is subtracted, such as those of a run on noisy data.
        ensemble: models and guides of other runs, for WAIC.
        batch_size: data at a time.
        data_plate: name of the plate over the data, if several plates contain all sites.
        seed: of samples, binarization and the division of the reference.
        finished: folder of finished batches, from which the reference's scores can be read again.
        progress: show progress bars.

    Raises:
        ValueError: the reference has fewer than 10 data, or log p(x) cannot be estimated (see :func:`log_weights`).

    Attributes:
        calibration: ``(m, S)``, the scores of the calibration data.
        names: names of the scores.

    Example:
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> detector = OutlierDetector(vae.model, vae.guide, vae.sample(60))
        >>> detector(torch.ones(7, 5)).p_value().shape
        torch.Size([7])
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        reference: Data,
        *,
        combination: Combination = "density",
        num_samples: int = 16,
        regret_steps: int | None = None,
        background: ModelAndGuide | None = None,
        ensemble: Sequence[ModelAndGuide] = (),
        batch_size: int = 100,
        data_plate: str | None = None,
        seed: int = 0,
        finished: FinishedBatches | None = None,
        progress: bool = False,
    ) -> None:
        check_count(_OWNER, num_samples=num_samples, batch_size=batch_size, regret_steps=regret_steps)
        self.reference, self.combination, self.seed = reference, combination, seed
        self.statistics = Statistics(
            *(model, guide, num_samples, regret_steps, background, ensemble),
            *(batch_size, data_plate, seed, finished, progress),
        )
        # Another stream than that of the data, so that samples and binarization are exchangeable, too.
        values = replace(self.statistics, seed=seed + 1)(reference)
        rule = f"reference must hold at least {LEAST_REFERENCE} data"
        num = len(values["log_likelihood"])
        require(num >= LEAST_REFERENCE, _OWNER, rule, num, "Hold out more data from the training")
        with isolated_rng(seed):
            fitted, kept = torch.randperm(num).tensor_split([num // 3])
        part = {name: value[fitted] for name, value in values.items()}
        self._center = {name: float(value.mean()) for name, value in part.items()}
        self._statistics = list(values)
        self._rule = Rule(combination, self._stacked(part), self._single(part))
        self.calibration = self._scores({name: value[kept] for name, value in values.items()})

    @property
    def names(self) -> list[str]:
        """Names of the scores, in the order of the columns."""
        center = dict.fromkeys(self._statistics, 0.0)
        return [*scores_of(dict.fromkeys(self._statistics, torch.zeros(1)), center), COMBINED]

    def __call__(
        self, data: Data, *, against: Data | None = None, protocol: dict[str, Any] | None = None
    ) -> OutlierScores:
        """Scores and p-values of data, ``(N, S)`` each.

        Args:
            data: an ``ImageSet``; a tensor ``(N, *data_shape)``; or an iterable of batches.
            against: outliers, to measure how well the scores rank them above the data.
            protocol: entries to add to the result's protocol.

        Raises:
            ValueError: data or ``against`` are empty or unlike the reference in shape or kind.
        """
        if _begin_alike(data, self.reference):
            text = f"{_OWNER}: data and reference are the same, so that the p-values are no rates of false alarms."
            warnings.warn(text, stacklevel=2)
        scores = self.scores(data)
        p_values = conformal_p_values(scores, self.calibration)
        s = self.statistics
        entries: dict[str, Any] = {"num_data": len(scores), "num_calibration": len(self.calibration)}
        entries |= {"num_samples": s.num_samples, "regret_steps": s.regret_steps, "sample_seed": s.seed, **s.entries}
        entries |= {"scores": self.names, "combination": self.combination, "unavailable": s.unavailable}
        outliers = None if against is None else self.scores(against)
        return OutlierScores(scores, p_values, self.calibration, outliers, protocol={**(protocol or {}), **entries})

    def scores(self, data: Data) -> Tensor:
        """``(N, S)``, the scores of data, larger for stranger data."""
        _check_alike(self.reference, data)
        return self._scores(self.statistics(data))

    def rejects(self, level: float) -> Callable[[Tensor], Tensor]:
        """A function from a batch to the mask ``(B,)`` of data whose combined p-value is at most ``level``.

        Raises:
            ValueError: ``level`` is below the smallest p-value, so that nothing could be rejected, or not below 1.
        """
        least = 1 / (len(self.calibration) + 1)
        rule = f"level must be at least {least:.4f}, 1 / (number of calibration data + 1), and below 1"
        require(least <= level < 1, "OutlierDetector", rule, f"level={level}", "Use a larger reference or level")
        return lambda x: self(x).p_value() <= level

    def threshold(self, level: float) -> float:
        """The combined score above which the p-value is at most ``level``."""
        rank = math.floor(level * (len(self.calibration) + 1) + 1e-9)
        return float(self.calibration[:, -1].sort(descending=True).values[rank - 1]) if rank else math.inf

    def _scores(self, values: dict[str, Tensor]) -> Tensor:
        single = self._single(values)
        return torch.cat([single, self._rule(self._stacked(values), single).unsqueeze(-1)], -1)  # (N, S)

    def _single(self, values: dict[str, Tensor]) -> Tensor:
        return torch.stack(list(scores_of(values, self._center).values()), -1)

    def _stacked(self, values: dict[str, Tensor]) -> Tensor:
        return torch.stack([values[name] for name in self._statistics], -1)


def outliers(
    model: Program,
    guide: Program,
    data: Data,
    *,
    reference: Data | None = None,
    against: Data | None = None,
    combination: Combination = "density",
    num_samples: int = 16,
    regret_steps: int | None = None,
    background: ModelAndGuide | None = None,
    ensemble: Sequence[ModelAndGuide] = (),
    batch_size: int = 100,
    data_plate: str | None = None,
    seed: int = 0,
    finished: FinishedBatches | None = None,
    protocol: dict[str, Any] | None = None,
    progress: bool = False,
) -> OutlierScores:
    r"""Score how unlike the training data each datum is, with p-values from held-out data.

    The scores, each larger for stranger data, are described at :class:`OutlierScores`; those that do not apply to the
    model or the data are left out, with the reason in the protocol's entry ``unavailable``. For several data sets,
    build an :class:`OutlierDetector` once.

    Args:
        model: Pyro model with observed sites.
        guide: Pyro guide for it.
        data: an ``ImageSet``; a tensor ``(N, *data_shape)``; or an iterable of batches.
        reference: data like the training data that were not trained on; required.
        against: known outliers, to measure how well the scores rank them above the data.
        combination: rule of the combined score: the density of all statistics, a one-class support vector machine, or
            the mean or largest of the standardized scores.
        num_samples: importance samples of log p(x) per datum.
        regret_steps: steps of the local optimisation of likelihood regret; None omits this score.
        background: model and guide whose log p(x) is subtracted.
        ensemble: models and guides of other runs, for WAIC.
        batch_size: data at a time.
        data_plate: name of the plate over the data, if several plates contain all sites.
        seed: of samples, binarization and the division of the reference.
        finished: folder of the batches that are finished, from which an interrupted call resumes.
        protocol: entries to add to the result's protocol.
        progress: show progress bars.

    Returns:
        The scores in nats and their p-values, ``(N, S)`` each.

    Raises:
        ValueError: there is no reference, or it has fewer than 10 data; data are empty or unlike the reference in shape
            or kind; or log p(x) cannot be estimated.

    References:
        Testing for outliers with conformal p-values (Bates et al., 2023). https://arxiv.org/abs/2104.08279

    Example:
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> result = outliers(vae.model, vae.guide, torch.ones(7, 5), reference=vae.sample(60))
        >>> result.names
        ['log_likelihood', 'typicality', 'rate', 'distortion', 'complexity', 'combined']
    """
    options = dict(locals())
    check_arguments(outliers, options)
    advice = "Pass held-out data like the training data, such as the validation images"
    require(reference is not None, _OWNER, "reference must be given", "reference=None", advice)
    for name in ("model", "guide", "data", "reference", "against", "protocol"):
        options.pop(name)
    detector = OutlierDetector(model, guide, reference, **options)  # type: ignore[arg-type]
    return detector(data, against=against, protocol=protocol)


def _form(data: Any) -> tuple[tuple[int, ...], bool] | None:
    """Shape of a datum, and whether the values are real numbers; None for iterables of batches."""
    values = data.images if isinstance(data, ImageSet) else data
    if not isinstance(values, Tensor) or not values.dim():
        return None
    return tuple(values.shape[1:]), isinstance(data, ImageSet) or values.is_floating_point()


def _check_alike(reference: Data, data: Data) -> None:
    expected, form = _form(reference), _form(data)
    if None in (expected, form) or expected == form:
        return
    shown = [f"{shape} of {'real numbers' if real else 'integers'}" for shape, real in (form, expected)]  # type: ignore
    rule = "data must have the shape and kind of the reference"
    require(False, _OWNER, rule, f"{shown[0]} and a reference {shown[1]}", "Convert them as the training data were")


def _begin_alike(data: Any, reference: Any) -> bool:
    """Whether one is the beginning of the other, as if both were taken from one split; few data may be so by chance."""
    first, second = (x.images if isinstance(x, ImageSet) else x for x in (data, reference))
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return first is second
    num = min(len(first), len(second))
    return num >= LEAST_REFERENCE and first.device == second.device and torch.equal(first[:num], second[:num])
