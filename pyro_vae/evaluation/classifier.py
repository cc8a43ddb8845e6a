"""Evaluation of class probabilities: error, proper scores, confusion matrix and calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from pyro_vae._core.checks import check_arguments, check_shape, refusal, require, shown
from pyro_vae.data.batches import Data
from pyro_vae.data.image_set import ImageSet
from pyro_vae.evaluation.batched import BatchedEvaluation
from pyro_vae.evaluation.calibration_curve import NUM_BINS, Reliability, reliability
from pyro_vae.evaluation.finished import FinishedBatches
from pyro_vae.evaluation.result import Quantity, Result

_OWNER = "classification"


@runtime_checkable
class Classifier(Protocol):
    """A module that gives class probabilities, such as a :class:`~pyro_vae.SemiSupervisedVAE`."""

    def classify(self, x: Tensor) -> Tensor:
        """Probabilities of the classes, ``(B, C)``, of x ``(B, *data_shape)``."""


@dataclass(frozen=True)
class Classification(Result):
    r"""Class probabilities against the true classes, per datum.

    Attributes:
        probabilities: ``(N, C)``, float64.
        labels: ``(N,)``, the true classes.

    References:
        Verification of forecasts expressed in terms of probability (Brier, 1950), eq. 2.
        https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2
        On calibration of modern neural networks (Guo et al., 2017), eq. 3. https://arxiv.org/abs/1706.04599
    """

    method: ClassVar[str] = "classification"
    title: ClassVar[str] = "Error, calibration and confusion matrix of a classifier"
    topic: ClassVar[str] = "classes"
    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity("error", "error", "%"),
        Quantity("cross_entropy", "cross entropy"),
    )
    phrases: ClassVar[dict[str, str]] = {"num_samples": "{} importance samples per class"}
    layout: ClassVar[dict[str, str]] = {"N": "labels", "NC": "probabilities"}
    alternative_text: ClassVar[str] = "Accuracy against confidence, and the distribution of confidence"

    probabilities: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        valid = (self.labels >= 0) & (self.labels < self.num_classes) & (self.labels == self.labels.floor())
        if not valid.all():
            row = int((~valid).nonzero()[0])
            got = f"{self.labels[row].item():g} in row {row}"
            raise refusal("Classification", f"labels must be integers in 0..{self.num_classes - 1}", got)

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return self.probabilities.shape[-1]

    @property
    def predictions(self) -> Tensor:
        """``(N,)``, the most probable class; the first in a tie."""
        return self.probabilities.argmax(-1)

    @property
    def confidence(self) -> Tensor:
        """``(N,)``, the probability of the predicted class."""
        return self.probabilities.max(-1).values

    @property
    def error(self) -> Tensor:
        """``(N,)``, 100 for a wrong prediction and 0 for a correct one: the mean is the error rate in %."""
        return 100.0 * (self.predictions != self.labels).double()

    @property
    def cross_entropy(self) -> Tensor:
        """``(N,)``, -log q(y | x) of the true class, in nats; lower is better."""
        return -self.probabilities.gather(-1, self.labels.long().unsqueeze(-1)).squeeze(-1).log()

    @property
    def brier(self) -> Tensor:
        r"""``(N,)``, the Brier score :math:`\sum_c (q_c - [c = y])^2`, between 0 and 2; lower is better."""
        truth = self.labels.unsqueeze(-1) == torch.arange(self.num_classes)
        return (self.probabilities - truth.double()).square().sum(-1)

    @property
    def error_rate(self) -> float:
        """Share of misclassified data, in %."""
        return self.mean("error")

    @property
    def accuracy(self) -> float:
        """Share of correctly classified data, between 0 and 1."""
        return 1 - self.error_rate / 100

    def confusion(self) -> Tensor:
        """``(C, C)``, the number of data by true class (row) and predicted class (column)."""
        cells = self.labels.long() * self.num_classes + self.predictions
        return torch.bincount(cells, minlength=self.num_classes**2).unflatten(0, (-1, self.num_classes))

    def reliability(self, *, num_bins: int | None = None, equal_mass: bool = False) -> Reliability:
        """Accuracy against confidence; see :func:`~pyro_vae.evaluation.calibration_curve.reliability`.

        Args:
            num_bins: number of bins; by default ``protocol["num_bins"]``.
            equal_mass: bins of equally many data instead of equal width.
        """
        num = int(self.protocol.get("num_bins", NUM_BINS)) if num_bins is None else num_bins
        return reliability(self.confidence, self.error == 0, num_bins=num, equal_mass=equal_mass)

    def summary(self) -> dict[str, Any]:
        """The means with their errors, the calibration error, and the confusion matrix."""
        bins = self.reliability()
        return {
            **self.means("error", "cross_entropy", "brier"),
            "accuracy": self.accuracy,
            "expected_calibration_error": bins.error,
            "expected_calibration_error_if_calibrated": bins.floor,
            "mean_confidence": float(self.confidence.mean()),
            "confusion": self.confusion().tolist(),
        }

    def lines(self) -> list[str]:
        """Error rate, proper scores and calibration error."""
        bins, wrong, error = self.reliability(), int((self.error > 0).sum()), self.sampling_error
        return [
            f"error              {self.error_rate:.2f} +- {error('error'):.2f} % ({wrong} of {len(self)})",
            f"cross entropy      {self.mean('cross_entropy'):.4f} +- {error('cross_entropy'):.4f} nats per datum",
            f"Brier score        {self.mean('brier'):.4f} +- {error('brier'):.4f}",
            f"calibration error  {bins.error:.4f} in {len(bins.counts)} bins; {bins.floor:.4f} if it were calibrated",
            f"mean confidence    {float(self.confidence.mean()):.4f}, accuracy {self.accuracy:.4f}",
        ]


def classification(
    classifier: Classifier | Tensor,
    data: Data | None = None,
    labels: Tensor | None = None,
    *,
    batch_size: int = 1000,
    num_bins: int = NUM_BINS,
    seed: int = 0,
    finished: FinishedBatches | None = None,
    protocol: dict[str, Any] | None = None,
) -> Classification:
    """Evaluate a classifier, or class probabilities, against the true classes.

    Under ``torchrun`` the processes share the batches. The classifier runs in ``eval`` mode, without gradients.

    Args:
        classifier: a module with ``classify(x)``, such as a :class:`~pyro_vae.SemiSupervisedVAE`, whose classifier is
            q(y | x); or probabilities ``(N, C)``, of a scikit-learn classifier or a :class:`ClassPosterior`.
        data: an ``ImageSet``, a tensor ``(N, *data_shape)``, or an iterable of batches, which may be pairs of data and
            labels. For probabilities, None or their ``ImageSet``.
        labels: ``(N,)``, int64, the true classes; by default those that come with the data.
        batch_size: data at a time.
        num_bins: number of bins of the calibration error, of equal width.
        seed: of random numbers in data and classifier: dynamic binarization, auxiliary variables.
        finished: as in :func:`log_likelihood`.
        protocol: entries to add to the result's protocol, such as the data set's.

    Returns:
        Probabilities and true classes per datum, with the scores that follow from them.

    Raises:
        ValueError: labels are not available, some are missing (-1), out of range, or of another dtype or number; or the
            probabilities are negative or do not sum to 1.

    Example:
        >>> result = classification(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), labels=torch.tensor([0, 1]))
        >>> result.error_rate, result.confusion().tolist()
        (50.0, [[1, 0], [1, 0]])
    """
    options = dict(locals())
    check_arguments(classification, options, batch_size=1, num_bins=1)
    entries: dict[str, Any] = {"num_bins": num_bins}
    if isinstance(classifier, Tensor):
        own = data is None or isinstance(data, ImageSet)
        require(own, _OWNER, "data of probabilities must be None or their ImageSet", shown(data))
        outputs = {"probabilities": classifier.detach().cpu().double()}
    elif data is None:
        raise refusal(_OWNER, "data must be given to a classifier", "None", "Pass an ImageSet or images")
    else:
        batches = BatchedEvaluation(_OWNER, (classifier,), options)
        outputs = batches.run(lambda args, advance: _classify(classifier, args, advance))
        entries |= {"sample_seed": seed}
    if labels is None:
        labels = data.labels if isinstance(data, ImageSet) else outputs.get("labels")
    probabilities = _check_probabilities(outputs["probabilities"])
    truth = _check_labels(labels, *probabilities.shape)
    entries |= {"num_data": len(truth), "num_classes": probabilities.shape[1]}
    return Classification(probabilities, truth, protocol={**(protocol or {}), **entries})


def _classify(classifier: Classifier, args: tuple[Any, ...], advance: Callable[[int], object]) -> dict[str, Tensor]:
    outputs = {"probabilities": classifier.classify(args[0]).double()}
    advance(1)
    return outputs | {"labels": args[1]} if len(args) > 1 else outputs


def _check_probabilities(p: Tensor) -> Tensor:
    is_matrix = p.dim() == 2 and p.shape[0] >= 1 and p.shape[1] >= 2
    rule, advice = "probabilities of the classifier must be (N, C) for at least 2 classes", "Pass one row per datum"
    require(is_matrix, _OWNER, rule, f"shape={tuple(p.shape)}", advice)
    bad = ~((p >= 0).all(-1) & ((p.sum(-1) - 1).abs() < 1e-4))
    if bad.any():
        row = int(bad.nonzero()[0])
        got = f"row {row} with sum {float(p[row].sum()):.6g} and minimum {float(p[row].min()):.6g}"
        rule = "probabilities of the classifier must be nonnegative and sum to 1"
        raise refusal(_OWNER, rule, got, "Pass logits.softmax(-1)")
    return p


def _check_labels(labels: Tensor | None, num_data: int, num_classes: int) -> Tensor:
    """The true classes on the CPU."""
    if labels is None:
        raise refusal(_OWNER, "labels must be known", "labels=None", "Pass the class of every datum")
    require(labels.dtype == torch.int64, _OWNER, "labels must be int64", f"{labels.dtype}")
    check_shape(_OWNER, "labels", labels.shape, (num_data,), "Pass one class per datum")
    missing = int((labels == -1).sum())
    rule, got = "labels must be known for all data that are evaluated", f"{missing} of {num_data} missing (-1)"
    require(not missing, _OWNER, rule, got, "Evaluate those with a label: data.subset(data.labels != -1)")
    low, high = int(labels.min()), int(labels.max())
    rule = f"labels must lie in 0..{num_classes - 1}"
    require(low >= 0 and high < num_classes, _OWNER, rule, f"{low}..{high}", "Number the classes from 0")
    return labels.cpu()


def labelled(images: ImageSet) -> ImageSet:
    """The images whose class is known.

    Raises:
        ValueError: no class is known.
    """
    rows = torch.empty(0) if images.labels is None else (images.labels != -1).nonzero().squeeze(-1)
    require(len(rows) > 0, _OWNER, "some classes of the images must be known", "none", "Use another split")
    return images if len(rows) == len(images) else images.subset(rows)


def validation_error(vae: Any, validation: ImageSet | None, *, seed: int) -> Callable[[], dict[str, float]] | None:
    """A monitor for :func:`pyro_vae.fit`: the error rate in % after each epoch.

    Args:
        vae: the model.
        validation: held-out images with their classes.
        seed: of the samples that data and classifier draw.

    Returns:
        The monitor; None if the model has no classifier or no class is known.
    """
    labels = None if validation is None else validation.labels
    if validation is None or labels is None or not bool((labels != -1).any()) or not hasattr(vae, "classify"):
        return None
    images = labelled(validation)
    return lambda: {"validation_error": classification(vae, images, seed=seed).error_rate}
