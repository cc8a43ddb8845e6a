"""Result of the detection of outliers: scores with conformal p-values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pyro_vae._core.checks import check_choice
from pyro_vae.evaluation.conformal import Detection, detection, false_alarm_interval
from pyro_vae.evaluation.result import Quantity, Result

LEVELS = (0.01, 0.05)
COMBINED = "combined"
DESCRIPTIONS = {
    "log_likelihood": "-log p(x)",
    "typicality": "distance of log p(x) from the reference's mean",
    "rate": "distance of the rate from the reference's mean",
    "distortion": "reconstruction cost",
    "complexity": "-log p(x) minus the compressed length",
    "regret": "gain of the ELBO by local optimisation of the guide",
    "background": "log p(x) of the background minus that of the model",
    "waic": "variance minus mean of log p(x) over runs",
    "layers": "ELBO minus the bound of the upper layers alone",
    COMBINED: "all statistics together",
}
"""Descriptions of the scores; larger is stranger for all of them."""
_NEEDS = {"regret": "regret_steps", "background": "background", "waic": "ensemble", "layers": "a HierarchicalVAE"}


@dataclass(frozen=True)
class OutlierScores(Result):
    r"""Scores per datum, each oriented so that larger is stranger, with conformal p-values.

    Attributes:
        scores: ``(N, S)``, the scores, whose names are the protocol's entry ``scores``; all are in nats.
        p_values: ``(N, S)``, the p-value of each, exact at finite sample if data and reference are exchangeable
            (:func:`~pyro_vae.evaluation.conformal.conformal_p_values`).
        calibration: ``(m, S)``, the scores of the reference that the p-values were computed from.
        against: ``(K, S)``, the scores of known outliers; None if there are none.

    References:
        Do deep generative models know what they don't know? (Nalisnick et al., 2019). https://arxiv.org/abs/1810.09136
        Testing for outliers with conformal p-values (Bates et al., 2023). https://arxiv.org/abs/2104.08279
    """

    method: ClassVar[str] = "outliers"
    title: ClassVar[str] = "Outlier scores with conformal p-values"
    topic: ClassVar[str] = "outliers"
    quantities: ClassVar[tuple[Quantity, ...]] = (Quantity("rejected", "rejected at p <= 0.01", "%"),)
    layout: ClassVar[dict[str, str]] = {"NS": "scores p_values", "MS": "calibration", "KS": "against"}
    alternative_text: ClassVar[str] = "Histograms of outlier scores, and ROC curves"

    scores: Tensor
    p_values: Tensor
    calibration: Tensor
    against: Tensor | None = None

    @property
    def names(self) -> list[str]:
        """Names of the scores."""
        return list(self.protocol["scores"])

    def score(self, name: str = COMBINED) -> Tensor:
        """``(N,)``, a score; larger is stranger.

        Raises:
            ValueError: the score is unknown or was not computed; the message has the reason.
        """
        return self.scores[:, self._column(name)]

    def p_value(self, name: str = COMBINED) -> Tensor:
        """``(N,)``, the p-values of a score."""
        return self.p_values[:, self._column(name)]

    def _column(self, name: str) -> int:
        reason = self.protocol["unavailable"].get(name, f"it needs {_NEEDS[name]}" if name in _NEEDS else "")
        check_choice("OutlierScores", "name", name, self.names, f"{name}: {reason}" if reason else "")
        return self.names.index(name)

    @property
    def rejected(self) -> Tensor:
        """``(N,)``, 100 for data whose combined p-value is at most 0.01 and 0 for others: the mean is a rate in %."""
        return 100.0 * (self.p_value() <= LEVELS[0]).double()

    def strangest(self, num: int = 10) -> Tensor:
        """``(num,)``, the rows with the largest combined scores, strangest first."""
        return self.score().argsort(descending=True, stable=True)[:num]

    def detection(self, name: str = COMBINED) -> Detection | None:
        """Detection of the data of ``against`` by a score; None if there are no outliers."""
        column = self._column(name)
        return None if self.against is None else detection(self.scores[:, column], self.against[:, column])

    def summary(self) -> dict[str, Any]:
        """The share of data rejected by each score at 1% and 5%, and the detection of the outliers."""
        shares = {name: {str(level): self._share(name, level) for level in LEVELS} for name in self.names}
        detections = {name: result._asdict() for name in self.names if (result := self.detection(name))}
        return {"rejected": shares, **({"detection": detections} if detections else {})}

    def _share(self, name: str, level: float) -> float:
        return float((self.p_value(name) <= level).double().mean())

    def lines(self) -> list[str]:
        """For each score the share of rejected data, and the area under the ROC curve of the outliers."""
        lines = [f"outlier scores of {len(self)} data, calibrated on {len(self.calibration)}"]
        lines += [f"{'score':<15} rejected at 1%, at 5%{'; AUROC [95% interval]' if self.against is not None else ''}"]
        for name in self.names:
            shares = ", ".join(f"{self._share(name, level):.2%}" for level in LEVELS)
            result = self.detection(name)
            lines.append(f"{name:<15} {shares}{'' if result is None else f'; {result}'}    ({DESCRIPTIONS[name]})")
        lines.append(self._false_alarms(LEVELS[0], len(self.calibration)))
        return lines + [f"{name}: not computed ({reason})" for name, reason in self.protocol["unavailable"].items()]

    def _false_alarms(self, level: float, m: int) -> str:
        low, high = false_alarm_interval(level, m)
        if not high:
            return f"no p-value is below {1 / (m + 1):.4f}, 1 / ({m} calibration data + 1): use a larger reference"
        sets = f"for 95% of sets of {m} calibration data"
        return f"p <= {level:g} rejects between {low:.2%} and {high:.2%} of data like the reference, {sets}"


def scores_of(values: dict[str, Tensor], center: dict[str, float]) -> dict[str, Tensor]:
    r"""The scores that statistics give, ``(N,)`` each, larger for stranger data.

    Args:
        values: the statistics, ``(N,)`` each, in nats.
        center: their means over the reference.

    References:
        Detecting out-of-distribution inputs to deep generative models using typicality (Nalisnick et al., 2019),
        for one datum. https://arxiv.org/abs/1906.02994
        Input complexity and out-of-distribution detection (Serra et al., 2020). https://arxiv.org/abs/1909.11480
        Likelihood regret (Xiao et al., 2020). https://arxiv.org/abs/2003.02977
        Likelihood ratios for out-of-distribution detection (Ren et al., 2019). https://arxiv.org/abs/1906.02845
        WAIC, but why? (Choi et al., 2018). https://arxiv.org/abs/1810.01392
        Hierarchical VAEs know what they don't know (Havtorn et al., 2021). https://arxiv.org/abs/2102.08248

    Example:
        >>> import torch
        >>> list(scores_of({"log_likelihood": torch.zeros(3)}, {"log_likelihood": 1.0}))
        ['log_likelihood', 'typicality']
    """
    log_p = values["log_likelihood"]
    scores = {"log_likelihood": -log_p, "typicality": (log_p - center["log_likelihood"]).abs()}
    if "rate" in values:
        scores |= {"rate": (values["rate"] - center["rate"]).abs(), "distortion": values["distortion"]}
    if "complexity" in values:
        scores["complexity"] = -log_p - values["complexity"]
    if "regret" in values:
        scores["regret"] = values["regret"]
    if "background" in values:
        scores["background"] = values["background"] - log_p
    if "ensemble_mean" in values:
        scores["waic"] = values["ensemble_variance"] - values["ensemble_mean"]
    if "upper_layers" in values:
        scores["layers"] = values["elbo"] - values["upper_layers"]
    return scores
