"""Convolutions that are recorded as matrix products equal torch's."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae._core.convolutions import convolution, convolution_backward
from pyro_vae._core.recording import Recorded

aten = torch.ops.aten
OPTIONS = {"dilation": [1, 1], "transposed": False, "output_padding": [0, 0], "groups": 1}


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 2)])
@pytest.mark.parametrize(("stride", "padding"), [([1, 1], [0, 0]), ([2, 3], [1, 2])])
def test_products_equal_the_convolution_and_its_gradients(stride, padding, kernel, channels, has_bias) -> None:
    x, weight, bias = torch.randn(3, channels, 9, 7), torch.randn(24, channels, *kernel), torch.randn(24)
    options = stride, padding, *OPTIONS.values()
    exact = aten.convolution(x, weight, bias if has_bias else None, *options)
    y = convolution(x, weight, bias if has_bias else None, *options)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, exact)
    gradient, mask = torch.randn_like(exact), [False, True, has_bias]
    exact = aten.convolution_backward(gradient, x, weight, [24], *options, mask)
    gradients = convolution_backward(gradient, x, weight, [24], *options, mask)
    for one, two in zip(gradients, exact, strict=True):
        torch.testing.assert_close(one, two)


CHANGES = [{"dilation": [2, 2]}, {"transposed": True}, {"groups": 2}, {"features": 11}, {"dtype": torch.bfloat16}]


@pytest.mark.parametrize(("change", "refused"), [({}, False), *((change, True) for change in CHANGES)])
def test_only_plain_convolutions_with_small_patches_become_products(change: dict, refused: bool) -> None:
    settings = {"features": 12, "dtype": torch.float32, **OPTIONS, **change}
    features, dtype, *options = settings.values()
    x, weight = torch.randn(3, 1, 9, 7, dtype=dtype), torch.randn(features, 1, 3, 3, dtype=dtype)
    gradient, steps = torch.randn(3, features, 9, 7, dtype=dtype), ([1, 1], [1, 1])
    y = convolution(x, weight, None, *steps, *options)
    gradients = convolution_backward(gradient, x, weight, None, *steps, *options, [False, True, False])
    assert [y is NotImplemented, gradients is NotImplemented] == [refused, refused]
    assert convolution_backward(gradient, x, weight, None, *steps, *options, [True, True, False]) is NotImplemented


class Count(TorchDispatchMode):
    """Counts the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func.overloadpacket] += 1
        return func(*args, **(kwargs or {}))


def test_a_recording_convolves_only_hidden_layers() -> None:
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))
    x, parameters = torch.randn(2, 1, 8, 8), list(net.parameters())

    def gradients(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad((net(x) ** 2).sum(), parameters)

    replay = Recorded(gradients, parameters, compiled=False).prepare(x)
    with Count() as operations:
        recorded = replay(x)
    assert operations.count[aten.convolution] == operations.count[aten.convolution_backward] == 1
    for one, two in zip(recorded, gradients(x), strict=True):
        torch.testing.assert_close(one, two)
