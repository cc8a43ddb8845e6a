"""Convolutions of data of few channels, recorded as matrix products, which are faster on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, *rest: Any) -> Any:
    """The product of patches and kernels, ``(N, C', H', W')`` with channels last in memory."""
    if not _have_small_patches(x, weight, stride, padding, *rest):
        return NotImplemented
    patches = _patches(x, weight, stride, padding)
    y = torch.mm(patches.flatten(0, 2), weight.flatten(1).t())
    y = y if bias is None else y + bias
    return y.unflatten(0, patches.shape[:3]).permute(0, 3, 1, 2)


def convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias_sizes: Any, stride: Any, padding: Any, *rest: Any
) -> Any:
    """Gradients by kernels and bias, unless that by x is needed too."""
    *options, output_mask = rest
    if output_mask[0] or not _have_small_patches(x, weight, stride, padding, *options):
        return NotImplemented
    patches = _patches(x, weight, stride, padding).flatten(0, 2)
    pixels = gradient.permute(0, 2, 3, 1).flatten(0, 2)  # (N H' W', C')
    by_weight = torch.mm(pixels.t(), patches).reshape(weight.shape) if output_mask[1] else None
    return None, by_weight, pixels.sum(0) if output_mask[2] else None


def _have_small_patches(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> bool:
    """Whether a patch has at most 3/4 as many numbers as the output has channels; larger ones cost more to gather."""
    plain = not transposed and groups == 1 and all(d == 1 for d in dilation)
    images = x.dim() == 4 and len(stride) == len(padding) == 2 and x.dtype in (torch.float32, torch.float64)
    return plain and images and x.device.type == "cpu" and 4 * weight[0].numel() <= 3 * len(weight)


def _patches(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """The numbers under each position of the kernel, ``(N, H', W', C kh kw)``."""
    (height, width), (rows, columns) = weight.shape[2:], padding
    padded = functional.pad(x, (columns, columns, rows, rows))
    patches = padded.unfold(2, height, stride[0]).unfold(3, width, stride[1])  # (N, C, H', W', kh, kw)
    return patches.permute(0, 2, 3, 1, 4, 5).flatten(3)
