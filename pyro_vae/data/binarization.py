"""Binarization protocols: which splits are sampled, when, and with which seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from pyro_vae._core.checks import require
from pyro_vae.data.image_set import ImageSet
from pyro_vae.data.kinds import DataKind
from pyro_vae.data.lazy import LazyRows, chunks, pack
from pyro_vae.data.missing import aminmax
from pyro_vae.data.splitting import stream

Binarization = Literal["dynamic", "fixed", "threshold", "none"]
Split = Literal["train", "validation", "test"]
PROTOCOLS: tuple[Binarization, ...] = get_args(Binarization)


def binarize(images: ImageSet, protocol: Binarization, *, split: Split, seed: int) -> ImageSet:
    r"""Binarize a split of a data set, with :math:`x = u / u_{\max}`.

    - ``"dynamic"``: training pixels are sampled from Bernoulli(x) again for every batch; validation and test pixels are
      sampled *once*, so that a test log-likelihood can be reproduced.
    - ``"fixed"``: all three splits are sampled once.
    - ``"threshold"``: :math:`x > 0.5` in all three.
    - ``"none"``: grey values :math:`x`; floating data are not changed.

    A sample depends on ``(seed, split)`` and the images alone, and does not change the global random state.

    Args:
        images: the split.
        protocol: one of the four above.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        seed: seed of the pixels that are sampled once.

    Returns:
        The split: uint8 0/1 with ``max_value`` 1 if sampled once or thresholded.

    Raises:
        ValueError: floating pixels outside [0, 1] and counts cannot be binarized.

    References:
        "Importance weighted autoencoders" (Burda, Grosse and Salakhutdinov, 2016),
        https://arxiv.org/abs/1509.00519, resamples the training pixels; the test set here is sampled once with
        ``seed``, and is not the fixed binarization of Larochelle and Murray (2011).

    Example:
        >>> import torch
        >>> grey = ImageSet(torch.tensor([[0, 100, 200]], dtype=torch.uint8))
        >>> binarize(grey, "threshold", split="test", seed=0).images
        tensor([[0, 0, 1]], dtype=torch.uint8)
    """
    if protocol == "none":
        return images
    _check_unit_interval(images, protocol)
    if protocol == "threshold":
        half = 0.5 if images.images.is_floating_point() else images.max_value / 2
        return _binary(images, lambda part: part > half)
    if protocol == "dynamic" and split == "train":
        return replace(images, dynamic=True, kind=_binary_kind(images))
    # Recorded results depend on these pixels: the formula must not change. rand < 1, so u = max_value gives 1.
    generator = stream(seed, f"binarize {split}")
    top = 1 if images.images.is_floating_point() else images.max_value

    def sample(part: Tensor) -> Tensor:
        noise = torch.rand(part.shape, generator=generator, dtype=torch.float32, device="cpu")  # continues the stream
        return noise.to(part.device) * top < part

    return _binary(images, sample)


def _binary(images: ImageSet, binary: Callable[[Tensor], Tensor]) -> ImageSet:
    """Images of zeros and ones; of rows in files, which may not fit into memory, with one bit per pixel."""
    parts = (binary(part) for part in chunks(images.images))
    source, kind = images.images, _binary_kind(images)
    if isinstance(source, LazyRows):
        pixels: Tensor | LazyRows = pack(parts, source.shape)
    else:
        pixels = torch.cat([part.to(torch.uint8) for part in parts])
        pixels = pixels.to(source.dtype).masked_fill(source.isnan(), torch.nan) if images.missing else pixels
    return replace(images, images=pixels.to(images.device), max_value=1, dynamic=False, kind=kind)


def _binary_kind(images: ImageSet) -> DataKind | None:
    return None if images.kind is None else "binary"


def value_range(images: Tensor | LazyRows) -> tuple[float, float]:
    """Smallest and largest observed value; nan if there is none."""
    bounds = [bounds for part in chunks(images) if not math.isnan((bounds := aminmax(part))[0])]
    lows, highs = zip(*bounds, strict=True) if bounds else ((math.nan,), (math.nan,))
    return min(lows), max(highs)


def _check_unit_interval(images: ImageSet, protocol: Binarization) -> None:
    if images.images.dtype == torch.uint8:
        return
    low, high = value_range(images.images)
    rule = "pixels must lie in [0, 1] to be binarized"
    value = f"pixels from {low:.6g} to {high:.6g} with binarize={protocol!r}"
    advice = "Rescale them to [0, 1], or pass binarize='none'"
    require(low >= 0 and high <= 1, "Dataset", rule, value, advice)
