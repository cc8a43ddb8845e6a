"""Decode files of ``pyro_vae.compression`` in integers of numpy, from the description of the format.

For a ``VAE`` with a standard normal prior, a Bernoulli likelihood and a diagonal guide whose networks are MLPs of tanh
units, coded with one particle. Nothing of torch is executed but the reading of the weights.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_vae.compression.ans import Stacks
from pyro_vae.compression.container import Container
from pyro_vae.compression.symbols import FRACTION, Binary, NormalGrid

_WEIGHT_BITS = 20


def last_data(vae: Any, content: bytes, number: int) -> NDArray[np.int64]:
    """The last data of the first chunk, ``(number, n)``."""
    container = Container(io.BytesIO(content))
    header, first = container.header, container.chunk(0)
    assert first is not None
    decoder, encoder = (_mlp(net) for net in (vae.likelihood.net, vae.guide.net))
    offset = _rounded(vae.likelihood.offset, FRACTION).reshape(-1)
    stacks = Stacks.read([first], header.lanes)
    low, high = (round(bound * 2**FRACTION) for bound in vae.guide.log_scale_bounds)
    zeros = np.zeros((1, vae.latent_dim), dtype=np.int64)
    rows = []
    for _ in range(min(number, header.size(0))):
        z = stacks.pop(NormalGrid(zeros, zeros, grid=header.grid))
        logits = decoder((z - (16 << header.grid)) << (FRACTION - header.grid)) + offset
        x = stacks.pop(Binary(logits))
        loc, log_scale = np.split(encoder(x << FRACTION), 2, -1)
        stacks.push(z, NormalGrid(loc, np.clip(log_scale, low, high), grid=header.grid, everywhere=False))
        stacks.unmix(1)
        rows.append(x[0])
    return np.stack(rows[::-1])


def _mlp(net: Any) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
    """An MLP of tanh units with 12 fractional bits, weights with 20, in 64-bit integers."""
    linear = [layer for layer in net.layers if hasattr(layer, "weight")]
    layers = [(_rounded(m.weight, _WEIGHT_BITS), _rounded(m.bias, FRACTION + _WEIGHT_BITS)) for m in linear]
    edge = 16 << FRACTION
    table = np.rint(np.tanh(np.arange(-edge, edge + 1) / 2**FRACTION) * 2**FRACTION).astype(np.int64)

    def run(x: NDArray[np.int64]) -> NDArray[np.int64]:
        for i, (weight, bias) in enumerate(layers):
            x = (x @ weight.T + bias + (1 << (_WEIGHT_BITS - 1))) >> _WEIGHT_BITS
            x = table[np.clip(x, -edge, edge) + edge] if i < len(layers) - 1 else x
        return x

    return run


def _rounded(weight: Any, bits: int) -> NDArray[np.int64]:
    return np.rint(weight.detach().cpu().double().numpy() * 2.0**bits).astype(np.int64)
