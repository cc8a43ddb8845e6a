"""Quality of a model's samples: distances to the data in a feature space, with the training data as the floor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_vae._core.checks import check_arguments, refusal, require
from pyro_vae._core.contexts import isolated_rng, reseed
from pyro_vae._core.owners import evaluating, placement
from pyro_vae.data import ImageSet
from pyro_vae.evaluation.feature_distances import frechet_distance, kernel_distance, laplacian_energy, overlap
from pyro_vae.evaluation.image_features import ImageFeatures
from pyro_vae.evaluation.result import Quantity, Result
from pyro_vae.models import VAE

_OWNER = "sample_quality"
QUALITIES = (
    *("Frechet distance", "kernel distance", "precision", "recall", "density", "coverage"),
    *("sharpness", "sharpness of means"),
)
"""Names of the columns of :class:`SampleQuality`. Sharpness is the ratio of the mean Laplacian energies."""
_COLUMNS = (("samples", "error"), ("floor", "floor_error"))  # of the printed table, with their errors


@dataclass(frozen=True)
class SampleQuality(Result):
    """Quality of samples, and of equally many training images in their place.

    Distances are better if they are small, precision, recall, density and coverage if they are large, sharpness if it
    is near 1: below, the images are blurred, above, they are noisy. No value can be expected to be better than that of
    the training images.

    Attributes:
        values: ``(R, 8)``, the columns :data:`QUALITIES` for R independent sets of samples.
        floor: ``(R, 8)``, those of R random sets of training images.

    References:
        See :mod:`pyro_vae.evaluation.feature_distances`.
    """

    method: ClassVar[str] = "sample_quality"
    title: ClassVar[str] = "Quality of samples"
    topic: ClassVar[str] = "diagnostics"
    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity("frechet", "Frechet distance", "", paired=False),
        Quantity("sharpness", "sharpness of means", "", paired=False),
    )
    layout: ClassVar[dict[str, str]] = {"RM": "values floor"}
    alternative_text: ClassVar[str] = "Qualities of samples and of training images, a panel each"

    values: Tensor
    floor: Tensor

    def frechet(self) -> tuple[float, float]:
        """Mean Frechet distance over the sets of samples, and its standard error."""
        return self._mean(self.values, 0)

    def sharpness(self) -> tuple[float, float]:
        """Mean sharpness of the means of p(x | z), and its standard error."""
        return self._mean(self.values, len(QUALITIES) - 1)

    def _mean(self, values: Tensor, column: int) -> tuple[float, float]:
        return float(values[:, column].mean()), float(values[:, column].std() / len(values) ** 0.5)

    def summary(self) -> dict[str, Any]:
        """By quality: means of samples and of training images, with their standard errors over the sets."""
        keys = ("samples", "error", "floor", "floor_error")
        rows = [(*self._mean(self.values, i), *self._mean(self.floor, i)) for i in range(len(QUALITIES))]
        table = {name: dict(zip(keys, row, strict=True)) for name, row in zip(QUALITIES, rows, strict=True)}
        return {"qualities": table, "advice": self.advice()}

    def advice(self) -> str:
        """Say what random features and a weak classifier are worth; empty for a good classifier."""
        if self.protocol.get("features") == "random":
            return "The data have no classes, so that the features are those of a random network: only compare models."
        accuracy = self.protocol.get("features_accuracy")
        weak = accuracy is not None and accuracy < 0.7
        return f"The classifier is right for {accuracy:.0%} of the images: its features may be poor." if weak else ""

    def lines(self) -> list[str]:
        """A table with a row per quality."""
        lines = [f"{'quality':<20} {'samples':>22} {'training images':>22}"]
        for name, row in self.summary()["qualities"].items():
            samples, floor = (f"{row[key]:.4g} +- {row[error]:.2g}" for key, error in _COLUMNS)
            lines.append(f"{name:<20} {samples:>22} {floor:>22}")
        return lines


def sample_quality(
    vae: VAE,
    data: ImageSet,
    *,
    train: ImageSet,
    num_repeats: int = 5,
    neighbours: int = 5,
    mean: bool = False,
    num_steps: int = 1000,
    seed: int = 0,
    protocol: dict[str, Any] | None = None,
) -> SampleQuality:
    """Compare samples of a model with test images, in the features of a small classifier trained on the same data.

    Nothing is downloaded: the values compare models of the same data and are not those of the literature, which uses
    an Inception network. Each set of samples, and of training images for the floor, is as large as the test set, since
    the Frechet distance depends on the number of images.

    Args:
        vae: the model.
        data: the test images.
        train: the training images; their classes, if known, train the classifier, otherwise its weights are random.
        num_repeats: number R of sets of samples.
        neighbours: k of precision, recall, density and coverage.
        mean: compare the means of p(x | z), as figures show them, instead of samples of p(x | z).
        num_steps: training steps of the classifier.
        seed: of the samples, the classifier and the training images; the global generators are restored.
        protocol: entries to add to the result's protocol.

    Returns:
        The qualities of samples and training images. Numbers repeat for a seed, on the same machine and numbers of
        threads; the protocol holds the fingerprint of the classifier's weights.

    Raises:
        ValueError: ``vae`` is no VAE; the data are no images of at least 8 x 8 pixels, or too few; there are fewer
            training images than test images; or the samples are not finite.

    References:
        See :mod:`pyro_vae.evaluation.feature_distances`.

    Example:
        >>> from pyro_vae import VAE, data, guides, likelihoods, priors
        >>> splits = data.Digits().load()
        >>> shape = splits.data_shape
        >>> likelihood, guide = likelihoods.BernoulliLikelihood(2, shape), guides.DiagonalNormalGuide(shape, 2)
        >>> vae = VAE(priors.StandardNormalPrior(2), likelihood, guide)
        >>> result = sample_quality(vae, splits.test, train=splits.train, num_steps=20, num_repeats=2)
        >>> result.values.shape, result.protocol["features"]
        (torch.Size([2, 8]), 'classifier')
    """
    check_arguments(sample_quality, locals(), num_repeats=2, neighbours=1, num_steps=1)
    _check_images(data, train)
    device = placement(vae)[0] or data.device
    data, train = data.to(device), train.to(device)
    features = ImageFeatures(train, num_steps=num_steps, seed=seed)
    values, floor = [], []

    def measured(images: Tensor, means: Tensor) -> list[float]:
        other = features(images)
        sharpness = [float(laplacian_energy(pixels).mean() / energy) for pixels in (images, means)]
        balls = overlap(real, other, neighbours=neighbours)
        return [frechet_distance(other, real), kernel_distance(other, real), *balls.values(), *sharpness]

    with evaluating(vae), isolated_rng(seed), torch.no_grad():
        x = data.batch(slice(None))
        real, energy = features(x), laplacian_energy(x).mean()
        for number in range(num_repeats):
            reseed(seed, number)
            p = vae.decode(vae.prior().sample(torch.Size([len(data)])))
            means = _mean_of(p)
            finite, advice = bool(torch.isfinite(means).all()), "Train again, or use another likelihood"
            require(finite, _OWNER, "samples must be finite", "nan or infinite means of p(x | z)", advice)
            values.append(measured(means if mean else p.sample(), means))
            pixels = train.batch(torch.randperm(len(train))[: len(data)])
            floor.append(measured(pixels, pixels))
    entries = {**features.protocol(seed), "features_accuracy": features.accuracy(data), "mean": mean}
    entries |= {"neighbours": neighbours, "num_repeats": num_repeats, "sample_seed": seed, "num_data": len(data)}
    tensors = (torch.tensor(rows, dtype=torch.float64) for rows in (values, floor))
    return SampleQuality(*tensors, protocol={**(protocol or {}), **entries})


def _mean_of(p: Any) -> Tensor:
    try:
        return p.mean
    except NotImplementedError:
        what, advice = type(p).__name__, "Use a likelihood with a mean"
        raise refusal(_OWNER, "p(x | z) must have a mean", what, advice) from None


def _check_images(data: ImageSet, train: ImageSet) -> None:
    shape = data.data_shape
    images = len(shape) == 3 and min(shape[1:]) >= 8
    rule, advice = "data must be images (C, H, W) of at least 8 x 8 pixels", "Use log_likelihood for other data"
    require(images, _OWNER, rule, f"data_shape={shape}", advice)
    require(train.data_shape == shape, _OWNER, "train must have the shape of data", f"{train.data_shape} and {shape}")
    rule, value = "train must hold at least as many images as data", f"{len(train)} and {len(data)}"
    require(len(train) >= len(data), _OWNER, rule, value, "Pass fewer test images: data.subset(slice(1000))")
