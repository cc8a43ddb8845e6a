"""The binarization protocol: which parts are drawn, when, and by which seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch

from pyro_vae.data.image_set import ImageSet
from pyro_vae.data.splitting import stream

Binarization = Literal["dynamic", "fixed", "threshold", "none"]
Part = Literal["train", "validation", "test"]
PROTOCOLS: tuple[Binarization, ...] = get_args(Binarization)


def binarize(images: ImageSet, protocol: Binarization, *, part: Part, seed: int) -> ImageSet:
    r"""One part of a data set under a protocol, with :math:`x = u / u_{\max}`.

    - ``"dynamic"``: training pixels are drawn from Bernoulli(x) anew for every minibatch; validation and test
      are drawn *once*, by the seed, so that a test log-likelihood is a number that can be reproduced.
    - ``"fixed"``: all three parts are drawn once, by the seed.
    - ``"threshold"``: :math:`x > 0.5` in all three.
    - ``"none"``: grey, :math:`x` as it is; floating data stay as they are.

    A draw depends on ``(seed, part)`` and the images alone, and leaves the global random state untouched.

    Args:
        images: the part as it was read.
        protocol: one of the four above.
        part: ``"train"``, ``"validation"`` or ``"test"``.
        seed: of the draws made once.

    Returns:
        The part: uint8 0/1 with ``max_value`` 1 where drawn or thresholded.

    Raises:
        ValueError: when floating pixels outside [0, 1] are to be binarized.

    References:
        "Importance weighted autoencoders" (Burda, Grosse and Salakhutdinov, 2016),
        https://arxiv.org/abs/1509.00519, resamples the training pixels; the test set here is drawn once by a
        seed of ours, not the fixed binarization of Larochelle and Murray (2011).

    Example:
        >>> import torch
        >>> grey = ImageSet(torch.tensor([[0, 100, 200]], dtype=torch.uint8))
        >>> binarize(grey, "threshold", part="test", seed=0).images
        tensor([[0, 0, 1]], dtype=torch.uint8)
    """
    if protocol == "none":
        return images
    _check_unit_interval(images, protocol)
    if protocol == "threshold":
        half = 0.5 if images.images.is_floating_point() else images.max_value / 2
        return _binary(images, images.images > half)
    dynamic = replace(images, dynamic=True)
    if protocol == "dynamic" and part == "train":
        return dynamic
    drawn = dynamic.batch(slice(None), dtype=torch.uint8, generator=stream(seed, f"binarize {part}"))
    return _binary(images, drawn)


def _binary(images: ImageSet, pixels: torch.Tensor) -> ImageSet:
    return replace(images, images=pixels.to(torch.uint8), max_value=1, dynamic=False)


def _check_unit_interval(images: ImageSet, protocol: Binarization) -> None:
    if not images.images.is_floating_point():
        return
    low, high = (bound.item() for bound in torch.aminmax(images.images))
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"Dataset: floating pixels must lie in [0, 1] to be binarized, got pixels from {low:.6g} to "
            f"{high:.6g} with binarize='{protocol}'. Rescale them to [0, 1], or pass binarize='none'."
        )
