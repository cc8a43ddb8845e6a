"""How well classes are told: error, proper scores, confusion and calibration of their probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from pyro_vae.data.batches import Data
from pyro_vae.data.image_set import ImageSet
from pyro_vae.evaluation.batched import BatchedEvaluation, check_sizes
from pyro_vae.evaluation.calibration_curve import NUM_BINS, Reliability, reliability
from pyro_vae.evaluation.result import Result


class Classifier(Protocol):
    """What can be evaluated: a module with this method, such as a :class:`~pyro_vae.SemiSupervisedVAE`."""

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

    probabilities: Tensor
    labels: Tensor

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return self.probabilities.shape[-1]

    @property
    def predictions(self) -> Tensor:
        """``(N,)``, the most probable class; the first of several."""
        return self.probabilities.argmax(-1)

    @property
    def confidence(self) -> Tensor:
        """``(N,)``, its probability."""
        return self.probabilities.max(-1).values

    @property
    def error(self) -> Tensor:
        """``(N,)``, 100 where the prediction is wrong and 0 where it is right: the mean is the error rate in %."""
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
        """Share of the data whose class was told wrongly, in %."""
        return self.mean("error")

    @property
    def accuracy(self) -> float:
        """Share of the data whose class was told rightly, between 0 and 1."""
        return 1 - self.error_rate / 100

    def confusion(self) -> Tensor:
        """``(C, C)``, how many data of the class of the row were taken for that of the column."""
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
        """The means with their errors, the calibration, and the confusion matrix."""
        bins = self.reliability()
        return {
            **self.means("error", "cross_entropy", "brier"),
            "accuracy": self.accuracy,
            "expected_calibration_error": bins.error,
            "expected_calibration_error_if_calibrated": bins.floor,
            "mean_confidence": float(self.confidence.mean()),
            "confusion": self.confusion().tolist(),
        }

    def __str__(self) -> str:
        bins, wrong, error = self.reliability(), int((self.error > 0).sum()), self.sampling_error
        lines = [
            f"error              {self.error_rate:.2f} +- {error('error'):.2f} % ({wrong} of {len(self)})",
            f"cross entropy      {self.mean('cross_entropy'):.4f} +- {error('cross_entropy'):.4f} nats per datum",
            f"Brier score        {self.mean('brier'):.4f} +- {error('brier'):.4f}",
            f"calibration error  {bins.error:.4f} in {len(bins.counts)} bins; {bins.floor:.4f} if it were calibrated",
            f"mean confidence    {float(self.confidence.mean()):.4f}, accuracy {self.accuracy:.4f}",
            "protocol: " + ", ".join(f"{k}={v}" for k, v in self.protocol.items()),
        ]
        return "\n".join(lines)


def classification(
    classifier: Classifier | Tensor,
    data: Data | None = None,
    labels: Tensor | None = None,
    *,
    batch_size: int = 1000,
    num_bins: int = NUM_BINS,
    seed: int = 0,
    protocol: dict[str, Any] | None = None,
) -> Classification:
    """Evaluate a classifier's probabilities, or probabilities by themselves, against the true classes.

    Under ``torchrun`` the processes share the batches. The classifier is in ``eval`` mode, without gradients.

    Args:
        classifier: a module with ``classify(x)``, such as a :class:`~pyro_vae.SemiSupervisedVAE`, whose classifier is
            q(y | x); or probabilities ``(N, C)``, of a scikit-learn classifier or a :class:`ClassPosterior`.
        data: what it classifies: an ``ImageSet``, a tensor ``(N, *data_shape)``, or an iterable of batches, which may
            be pairs of data and labels. With probabilities, None or the ``ImageSet`` that they are of.
        labels: ``(N,)``, int64, the true classes; by default those that come with the data.
        batch_size: data at a time.
        num_bins: number of bins of the calibration error, of equal width.
        seed: of what data and classifier draw: dynamic binarization, auxiliary variables.
        protocol: entries to keep with the result, such as the data set's.

    Returns:
        Probabilities and true classes per datum, with all that follows from them.

    Raises:
        ValueError: there are no labels, some are missing (-1), out of range, of another dtype or number; or the
            probabilities are none.

    Example:
        >>> found = classification(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), labels=torch.tensor([0, 1]))
        >>> found.error_rate, found.confusion().tolist()
        (50.0, [[1, 0], [1, 0]])
    """
    check_sizes("classification", batch_size=batch_size, num_bins=num_bins)
    own: dict[str, Any] = {"num_bins": num_bins}
    if isinstance(classifier, Tensor):
        found = {"probabilities": classifier.detach().cpu().double()}
    elif data is None:
        raise ValueError("classification: data must be given to a classifier, got None. Pass an ImageSet or images.")
    else:
        batches = BatchedEvaluation("classification", (classifier,), data, batch_size, seed=seed)
        found = batches.run(lambda args, advance: _classify(classifier, args, advance))
        own |= {"sample_seed": seed}
    known = labels if labels is not None else data.labels if isinstance(data, ImageSet) else found.get("labels")
    probabilities = _check_probabilities(found["probabilities"])
    truth = _check_truth(known, *probabilities.shape)
    own |= {"num_data": len(truth), "num_classes": probabilities.shape[1]}
    return Classification(probabilities, truth, protocol={**(protocol or {}), **own})


def _classify(classifier: Classifier, args: tuple[Any, ...], advance: Callable[[int], object]) -> dict[str, Tensor]:
    found = {"probabilities": classifier.classify(args[0]).double()}
    advance(1)
    return found | {"labels": args[1]} if len(args) > 1 else found


def _check_probabilities(p: Tensor) -> Tensor:
    if p.dim() != 2 or p.shape[0] < 1 or p.shape[1] < 2:
        raise ValueError(
            f"classification: probabilities must be (N, C) for at least 2 classes, got shape={tuple(p.shape)}. "
            "Pass one row per datum."
        )
    bad = ~((p >= 0).all(-1) & ((p.sum(-1) - 1).abs() < 1e-4))
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"classification: probabilities must be positive and add up to 1, got row {row} with the sum "
            f"{float(p[row].sum()):.6g} and the least {float(p[row].min()):.6g}. Pass logits.softmax(-1)."
        )
    return p


def _check_truth(labels: Tensor | None, num_data: int, num_classes: int) -> Tensor:
    """The true classes on the CPU."""
    if labels is None:
        raise ValueError("classification: labels must be known, got labels=None. Pass the class of every datum.")
    if labels.dtype != torch.int64 or tuple(labels.shape) != (num_data,):
        raise ValueError(
            f"classification: labels must be int64 of shape ({num_data},), got {labels.dtype} of "
            f"shape={tuple(labels.shape)}. Pass one class per datum."
        )
    missing = int((labels == -1).sum())
    if missing:
        raise ValueError(
            f"classification: labels must be known for all data that are evaluated, got {missing} of {num_data} "
            "missing (-1). Evaluate those with a label: data.subset(data.labels != -1)."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"classification: labels must lie in 0..{num_classes - 1}, got {low}..{high}. Number the classes from 0, "
            "as the classifier does."
        )
    return labels.cpu()


def labelled(images: ImageSet) -> ImageSet:
    """The images whose class is known.

    Raises:
        ValueError: no class is known.
    """
    rows = torch.empty(0) if images.labels is None else (images.labels != -1).nonzero().squeeze(-1)
    if not len(rows):
        raise ValueError("classification: some classes of the images must be known, got none. Use another split.")
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
