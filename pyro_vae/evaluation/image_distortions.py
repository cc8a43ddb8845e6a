"""Distances from an image to shifted, rotated, blurred and noisy versions of it, by three measures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

from pyro_vae._core.checks import check_arguments, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae.evaluation.importance import log_likelihood
from pyro_vae.evaluation.result import mean_error
from pyro_vae.models import VAE

DISTORTIONS = ("shifted", "rotated", "blurred", "noisy")
_SHIFT, _ANGLE, _BLUR = 2, math.radians(15), 1.0  # pixels, and the standard deviation of the blur in pixels


@dataclass(frozen=True)
class DistortedImages:
    """Distances of distorted images to the images, smaller for more similar ones.

    Attributes:
        images: ``(M + 1, C, H, W)``, the first image, and its M distortions in the order of :data:`DISTORTIONS`.
        distances: by measure, ``(N, M)``: Euclidean distance of the pixels, that of the features, and, with a model,
            log p(x) of the image minus that of its distortion, in nats.
    """

    images: Tensor
    distances: dict[str, Tensor]

    def ranks(self) -> dict[str, list[str]]:
        """By measure, the distortions from the nearest to the farthest on average."""
        orders = {name: values.mean(0).argsort().tolist() for name, values in self.distances.items()}
        return {name: [DISTORTIONS[i] for i in order] for name, order in orders.items()}

    def lines(self) -> list[str]:
        """A table with a row per distortion: means and their standard errors over the images."""
        rows = [" " * 8 + "".join(f"{name:>22}" for name in self.distances)]
        for i, name in enumerate(DISTORTIONS):
            cells = [f"{float(v[:, i].mean()):.3f} +- {mean_error(v[:, i]):.3f}" for v in self.distances.values()]
            rows.append(f"{name:<8}" + "".join(f"{cell:>22}" for cell in cells))
        return rows


@torch.no_grad()
def distorted_images(
    images: Tensor,
    features: Callable[[Tensor], Tensor],
    *,
    vae: VAE | None = None,
    num_samples: int = 500,
    seed: int = 0,
    options: dict[str, Any] | None = None,
) -> DistortedImages:
    """Compare images with distorted ones by pixels, by features and by the log-likelihood of a model.

    Images are shifted by 2 pixels to the right and down, rotated by 15 degrees, blurred by a normal kernel of standard
    deviation 1 pixel, and disturbed by normal noise whose pixel distance is that of the blur before values are clamped
    to [0, 1].

    Args:
        images: ``(N, C, H, W)``, values in [0, 1].
        features: of images, ``(N, F)``, such as :class:`~pyro_vae.evaluation.image_features.ImageFeatures`.
        vae: a model whose log p(x) is estimated; values are rounded to the levels of its likelihood. None for none.
        num_samples: samples of the estimate per image.
        seed: of the noise and the samples.
        options: of :func:`log_likelihood`.

    Returns:
        The distances of each image to its distortions.

    Raises:
        ValueError: the images have another shape or range, or the model has no density.

    References:
        The unreasonable effectiveness of deep features as a perceptual metric (Zhang et al., 2018).
        https://arxiv.org/abs/1801.03924

    Example:
        >>> import torch
        >>> x = torch.rand(5, 1, 8, 8)
        >>> list(distorted_images(x, lambda x: x.mean((2, 3))).ranks())
        ['pixel distance', 'feature distance']
    """
    check_arguments(distorted_images, locals(), num_samples=1)
    rule, advice = "images must be (N, C, H, W) with values in [0, 1]", "Rescale them"
    valid = images.dim() == 4 and len(images) > 0 and bool(((images >= 0) & (images <= 1)).all())
    require(valid, "distorted_images", rule, f"shape {tuple(images.shape)}", advice)
    with isolated_rng(seed):
        versions = [_rounded(x.clamp(0, 1), vae) for x in (images, *_distorted(images))]
    pixels = [(x - versions[0]).flatten(1).norm(dim=1) for x in versions[1:]]
    codes = [features(x) for x in versions]
    distances = {"pixel distance": pixels, "feature distance": [(c - codes[0]).norm(dim=1) for c in codes[1:]]}
    if vae is not None:
        keywords = {"num_samples": num_samples, "seed": seed, **(options or {})}
        log_p = [log_likelihood(vae.model, vae.guide, x, **keywords).log_likelihood for x in versions]
        distances["loss of log p"] = [log_p[0] - other for other in log_p[1:]]
    first = torch.stack([x[0] for x in versions])
    return DistortedImages(first, {name: torch.stack(columns, 1).cpu() for name, columns in distances.items()})


def _distorted(x: Tensor) -> tuple[Tensor, ...]:
    """The versions of :data:`DISTORTIONS`."""
    shifted = pad(x, (_SHIFT, 0, _SHIFT, 0))[..., : x.shape[2], : x.shape[3]]
    cos, sin = math.cos(_ANGLE), math.sin(_ANGLE)
    turn = x.new_tensor([[cos, -sin, 0.0], [sin, cos, 0.0]]).expand(len(x), 2, 3)
    rotated = grid_sample(x, affine_grid(turn, list(x.shape), align_corners=False), align_corners=False)
    blurred = _blurred(x)
    noise = torch.randn_like(x)
    noise *= ((blurred - x).flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1))[:, None, None, None]
    return shifted, rotated, blurred, x + noise


def _blurred(x: Tensor) -> Tensor:
    reach = math.ceil(3 * _BLUR)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device) / _BLUR) ** 2)
    kernel = (weights[:, None] * weights / weights.sum() ** 2).expand(x.shape[1], 1, -1, -1)
    return conv2d(x, kernel, padding=reach, groups=x.shape[1])


def _rounded(x: Tensor, vae: VAE | None) -> Tensor:
    """Values in the support of the likelihood: binary ones, grey levels, or as they are."""
    if vae is None:
        return x
    support = vae.decode(vae.prior().sample()).support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    steps = 1 if support is constraints.boolean else getattr(support, "levels", 0) - 1
    return x if steps < 1 else (x * steps).round() / steps
