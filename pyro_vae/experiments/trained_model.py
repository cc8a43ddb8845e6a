"""A trained model together with its data and protocol."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_vae._core.checks import refusal, require, with_article
from pyro_vae._core.html import folded
from pyro_vae.data import ImageSet, Splits
from pyro_vae.evaluation import LogLikelihood, OutlierDetector, OutlierScores, log_likelihood
from pyro_vae.evaluation.classifier import Classification, classification, labelled
from pyro_vae.evaluation.label_posterior import ClassPosterior, class_posterior
from pyro_vae.models import AutoregressiveModel, ConditionalVAE, LabelledVAE
from pyro_vae.training import FitResult


@dataclass(frozen=True)
class TrainedModel:
    """A trained VAE or semi-supervised VAE with its data and protocol.

    Args:
        vae: the model with its guide.
        splits: training, validation and test images.
        protocol: entries for every result: data set, binarization, names of the model's components.
        result: the history of the training; None for a loaded run.
        num_samples: samples per image of :meth:`evaluate`.
    """

    vae: Any
    splits: Splits
    protocol: dict[str, Any]
    result: FitResult | None = None
    num_samples: int = 1000

    def _repr_html_(self) -> str:
        title, lines = type(self.vae).__name__, [f"train  {self.splits.train.describe()}"]
        return folded(f"Trained {title}", lines, protocol=self.protocol, structure=str(self.vae))

    @property
    def classifies(self) -> bool:
        """Whether the model has a classifier."""
        return isinstance(self.vae, LabelledVAE)

    @property
    def takes_context(self) -> bool:
        """Whether the model is one of data given a context."""
        exact = isinstance(self.vae, AutoregressiveModel) and bool(self.vae.context_shape)
        return exact or isinstance(self.vae, ConditionalVAE)

    def evaluate(
        self, split: str = "test", *, num_samples: int | None = None, num_data: int | None = None, **options: Any
    ) -> LogLikelihood:
        """Estimate the log-likelihood of a split by importance sampling.

        Args:
            split: ``"test"``, ``"validation"`` or ``"train"``.
            num_samples: samples of z per image.
            num_data: number of images, the first ones; None is all.
            options: of :func:`pyro_vae.log_likelihood`.
        """
        options = {"num_samples": num_samples or self.num_samples, "protocol": self.protocol_of(split), **options}
        return log_likelihood(self.vae.model, self.vae.guide, self.images(split, num_data), **options)

    def classification(self, split: str = "test", *, num_data: int | None = None, **options: Any) -> Classification:
        """Evaluate the classifier q(y | x) on the images of a split whose class is known.

        Args:
            split: ``"test"``, ``"validation"`` or ``"train"``.
            num_data: number of images, the first ones; None is all.
            options: of :func:`pyro_vae.evaluation.classifier.classification`.

        Raises:
            ValueError: the model has no classifier, or no label of the split is known.
        """
        self.require_classifier("classification")
        options = {"protocol": {**self.labelled_protocol_of(split), "classified_by": "classifier"}, **options}
        return classification(self.vae, labelled(self.images(split, num_data)), **options)

    def class_posterior(self, split: str = "test", *, num_data: int | None = None, **options: Any) -> ClassPosterior:
        """Estimate log p(x, y) for every class by importance sampling.

        Args:
            split: ``"test"``, ``"validation"`` or ``"train"``.
            num_data: number of images, the first ones; None is all.
            options: of :func:`pyro_vae.evaluation.label_posterior.class_posterior`.

        Raises:
            ValueError: the model has no classes.
        """
        self.require_classifier("class_posterior")
        options = {"protocol": self.protocol_of(split), "num_classes": self.vae.num_classes, **options}
        return class_posterior(self.vae.model, self.vae.guide, self.images(split, num_data), **options)

    def outlier_detector(
        self, reference: str = "validation", *, num_reference: int = 5000, **options: Any
    ) -> OutlierDetector:
        """A detector of images unlike the training data, calibrated on held-out images.

        Args:
            reference: the split to calibrate on; ``"train"``, which the model has seen, is warned about.
            num_reference: largest number of images to calibrate on, the first ones.
            options: of :class:`~pyro_vae.evaluation.OutlierDetector`.

        Raises:
            ValueError: the split is empty or has fewer than 10 images.
        """
        if getattr(self.splits, reference) is None:
            advice = "Train with --data.validation N"
            raise refusal("outliers", "the reference must hold data", f"reference={reference!r} of size 0", advice)
        if reference == "train":
            text = "outliers: the model was trained on the reference, so that new data get p-values that are too small."
            warnings.warn(f"{text} Use the validation split.", stacklevel=2)
        images = self.images(reference, num_reference)
        return OutlierDetector(self.vae.model, self.vae.guide, images, **options)

    def outliers(
        self, split: str = "test", *, num_data: int | None = None, against: Any = None, **options: Any
    ) -> OutlierScores:
        """Outlier scores of the images of a split, with p-values.

        Args:
            split: ``"test"``, ``"validation"`` or ``"train"``.
            num_data: number of images, the first ones; None is all.
            against: outliers, to measure how well the scores rank them above the images.
            options: of :meth:`outlier_detector`.
        """
        detector = self.outlier_detector(**options)
        protocol = {**self.protocol_of(split), "reference": options.get("reference", "validation")}
        return detector(self.images(split, num_data), against=against, protocol=protocol)

    def require_classifier(self, owner: str) -> None:
        """Raise a ValueError, which begins with ``owner``, unless the model has a classifier."""
        what, advice = with_article(type(self.vae)), "Train one: pyro-vae train --model M2 --data.labels 100"
        require(self.classifies, owner, "the run must be of a model with classes", what, advice)

    def images(self, split: str = "test", num_data: int | None = None) -> ImageSet:
        """The first ``num_data`` images of a split, by default all.

        Programs are called without their labels, unless these are the model's context.

        Raises:
            ValueError: the split is empty.
        """
        images = getattr(self.splits, split)
        if images is None:
            raise refusal("evaluate", "the split must hold data", f"split={split!r} of size 0", "Use another split")
        images = images.unpaired() if images.paired and not self.takes_context else images
        return images if num_data is None else images.subset(slice(num_data))

    def factors(self, split: str = "test", num_data: int | None = None) -> dict[str, Tensor]:
        """The known factors of :meth:`images`, ``(N,)`` by name.

        Raises:
            ValueError: the data set has none, or the split is empty.
        """
        rows, names = self.images(split, num_data).rows, self.splits.factors
        dataset, advice = self.protocol.get("dataset"), "Use Faces, or evaluation.disentanglement in Python"
        require(bool(names) and rows is not None, "factors", "the data must have known factors", dataset, advice)
        return {name: values[rows.cpu()] for name, values in names.items()}  # type: ignore[union-attr]

    def protocol_of(self, split: str) -> dict[str, Any]:
        """The protocol entries of a result on the split; ``data_sha256`` is the fingerprint of all of its images."""
        data = {"data_sha256": self.splits.fingerprints[split]} if split in self.splits.fingerprints else {}
        return {**self.protocol, "split": split, **data}

    def labelled_protocol_of(self, split: str) -> dict[str, Any]:
        """Those of a result that depends on the labels of the split, which ``data_sha256`` then includes."""
        return {**self.protocol_of(split), "data_sha256": self.images(split).fingerprint(labels=True)}
