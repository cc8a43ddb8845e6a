"""A trained VAE together with its data and protocol: what is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyro_vae.data import ImageSet, Splits
from pyro_vae.evaluation import LogLikelihood, log_likelihood
from pyro_vae.models import VAE
from pyro_vae.training import FitResult


@dataclass(frozen=True)
class Trained:
    """A trained VAE with its data and protocol."""

    vae: VAE
    splits: Splits
    protocol: dict[str, Any]
    result: FitResult | None = None
    num_samples: int = 1000

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

    def images(self, split: str = "test", num_data: int | None = None) -> ImageSet:
        """The first ``num_data`` images of a split, all of them by default.

        Raises:
            ValueError: the split has no data.
        """
        images = getattr(self.splits, split)
        if images is None:
            raise ValueError(f"evaluate: the split must hold data, got split={split!r} of size 0. Use another split.")
        return images if num_data is None else images.subset(slice(num_data))

    def protocol_of(self, split: str) -> dict[str, Any]:
        """What a result of the split carries: data set, split and the names of the model's parts."""
        return {**self.protocol, "split": split}


def parts_of(vae: VAE) -> dict[str, Any]:
    """The names of the model's and the guide's classes, for the protocol."""
    parts = {"prior": vae.prior, "likelihood": vae.likelihood, "guide": vae.guide}
    return {**{name: type(part).__name__ for name, part in parts.items()}, "latent_dim": vae.latent_dim}
