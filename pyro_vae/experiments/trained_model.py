"""A trained model together with its data and protocol: what is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyro_vae.data import ImageSet, Splits
from pyro_vae.evaluation import LogLikelihood, log_likelihood
from pyro_vae.evaluation.classifier import Classification, classification, labelled
from pyro_vae.evaluation.label_posterior import ClassPosterior, class_posterior
from pyro_vae.models import LabelledVAE
from pyro_vae.training import FitResult


@dataclass(frozen=True)
class TrainedModel:
    """A trained VAE, or semi-supervised VAE, with its data and protocol."""

    vae: Any
    splits: Splits
    protocol: dict[str, Any]
    result: FitResult | None = None
    num_samples: int = 1000

    @property
    def classifies(self) -> bool:
        """Whether the model is one of data and classes."""
        return isinstance(self.vae, LabelledVAE)

    def evaluate(
        self, split: str = "test", *, num_samples: int | None = None, num_data: int | None = None, **options: Any
    ) -> LogLikelihood:
        """The log-likelihood of a split, with the run's protocol; options as in :func:`pyro_vae.log_likelihood`.

        Args:
            split: ``"test"``, ``"validation"`` or ``"train"``.
            num_samples: draws of z per image.
            num_data: only the first so many images.
            options: of :func:`pyro_vae.log_likelihood`.
        """
        samples = num_samples or self.num_samples
        images, protocol = self.images(split, num_data), self.protocol_of(split)
        return log_likelihood(self.vae.model, self.vae.guide, images, num_samples=samples, protocol=protocol, **options)

    def classification(self, split: str = "test", *, num_data: int | None = None, **options: Any) -> Classification:
        """How well q(y | x) tells the classes of a split; options as in :func:`pyro_vae.evaluation.classification`.

        Args:
            split: ``"test"``, ``"validation"`` or ``"train"``, whose images of a known class are classified.
            num_data: only the first so many images.
            options: of the function.

        Raises:
            ValueError: the model has no classes, or no label of the split is known.
        """
        self.need_classes("classification")
        images, protocol = labelled(self.images(split, num_data)), self.protocol_of(split)
        protocol["classified_by"] = "classifier"
        return classification(self.vae, images, **{"protocol": protocol, **options})

    def class_posterior(self, split: str = "test", *, num_data: int | None = None, **options: Any) -> ClassPosterior:
        """Log p(x, y) for every class; options as in :func:`pyro_vae.evaluation.class_posterior`.

        Args:
            split: ``"test"``, ``"validation"`` or ``"train"``.
            num_data: only the first so many images.
            options: of the function.

        Raises:
            ValueError: the model has no classes.
        """
        self.need_classes("class_posterior")
        programs, images = (self.vae.model, self.vae.guide), self.images(split, num_data)
        options = {"protocol": self.protocol_of(split), **options}
        return class_posterior(*programs, images, num_classes=self.vae.num_classes, **options)

    def need_classes(self, owner: str) -> None:
        """Refuse a model without classes.

        Raises:
            ValueError: it is one.
        """
        if not self.classifies:
            raise ValueError(
                f"{owner}: the run must be of a model with classes, got a {type(self.vae).__name__}. "
                "Train one: pyro-vae train --model M2 --data.labels 100."
            )

    def images(self, split: str = "test", num_data: int | None = None) -> ImageSet:
        """The first ``num_data`` images of a split, all of them by default, which programs are called with alone.

        Raises:
            ValueError: the split has no data.
        """
        images = getattr(self.splits, split)
        if images is None:
            raise ValueError(f"evaluate: the split must hold data, got split={split!r} of size 0. Use another split.")
        images = images.unpaired() if images.paired else images
        return images if num_data is None else images.subset(slice(num_data))

    def protocol_of(self, split: str) -> dict[str, Any]:
        """What a result of the split carries: data set, split and the names of the model's parts."""
        return {**self.protocol, "split": split}
