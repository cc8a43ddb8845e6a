"""Compression of data chunk by chunk."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_vae._core.checks import check_count, require
from pyro_vae._core.contexts import isolated_rng, reseed
from pyro_vae.compression.bits_back import BitsBack
from pyro_vae.compression.chunks import CODER, SIDE_BY_SIDE, EncodedChunk, ToEncode, groups, run_all
from pyro_vae.compression.container import Header, write
from pyro_vae.compression.family import Family, Sizes
from pyro_vae.compression.symbols import tables
from pyro_vae.data import ImageSet
from pyro_vae.networks import CausalNetwork

LANES = 16
GRID = 6
_PART = 1000  # data that are converted at a time


class Encoder:
    """Compresses data chunk by chunk.

    Args:
        vae, data, chunk_size, num_particles, seed: as of :func:`~pyro_vae.compression.compress`.

    Attributes:
        header: of the file.
    """

    def __init__(
        self, vae: Any, data: Tensor | ImageSet, *, chunk_size: int, num_particles: int = 1, seed: int = 0
    ) -> None:
        check_count("compress", chunk_size=chunk_size, num_particles=num_particles)
        _check_data(vae, data)
        self.vae, self.data, self.seed = vae, data, seed
        largest = [_largest(self._rows(i, i + _PART)) for i in range(0, len(data), _PART)]
        num_values = int(max(largest, default=0.0)) + 1
        self.family = BitsBack(vae, Sizes(GRID, num_values), rows=1).data_family
        scheme = (fingerprint(vae), arithmetic(), CODER, GRID, num_values, num_particles, LANES)
        self.header = Header(*scheme, vae.data_shape, len(data), chunk_size)

    def write(self, file: BinaryIO, *, workers: int = 1, progress: bool = False) -> int:
        """Write the file, and return its number of bytes."""
        chunks = self.chunks(workers=workers, progress=progress)
        return write(file, self.header, (chunk.content for chunk in chunks))

    def chunks(self, *, workers: int = 1, progress: bool = False) -> Iterator[EncodedChunk]:
        """The compressed chunks."""
        check_count("compress", workers=workers)
        results = run_all(self._tasks(workers), self.vae, self.header, workers=workers, progress=progress)
        return (chunk for chunks in results for chunk in chunks)

    def _tasks(self, workers: int) -> Iterator[ToEncode]:
        for size, part in groups(range(self.header.num_chunks), workers):
            yield ToEncode([self._chunk(number) for number in part], part[0] % SIDE_BY_SIDE, size)

    def _chunk(self, number: int) -> NDArray[np.uint16]:
        start = number * self.header.chunk_size
        return self.symbols(start, start + self.header.size(number))

    def symbols(self, start: int, stop: int) -> NDArray[np.uint16]:
        """The symbols of data, ``(stop - start, n)``."""
        symbols = np.zeros((stop - start, math.prod(self.header.shape)), dtype=np.uint16)
        for first in range(start - start % _PART, stop, _PART):
            low, high = max(first, start), min(first + _PART, stop)
            part = self._rows(first, first + _PART)[low - first : high - first]
            symbols[low - start : high - start] = _as_symbols(part, self.family)
        return symbols

    def _rows(self, start: int, stop: int) -> Tensor:
        """Data at multiples of ``_PART``; random pixels are the same at each call."""
        if isinstance(self.data, Tensor):
            return self.data[start:stop]
        with isolated_rng():
            reseed(self.seed, start)
            return self.data.batch(slice(start, stop), dtype=torch.float32)


def _check_data(vae: Any, data: Any) -> None:
    kind = type(data).__name__
    rule, advice = "data must be a tensor or an ImageSet", "Load them with pyro_vae.data.load"
    require(isinstance(data, Tensor | ImageSet), "compress", rule, kind, advice)
    require(hasattr(vae, "data_shape"), "compress", "vae must be a model", type(vae).__name__, "Pass run.vae")
    check_on_cpu("compress", vae)
    shape = tuple(data.shape if isinstance(data, Tensor) else data.images.shape)
    sizes = ", ".join(map(str, vae.data_shape))
    require(shape[1:] == tuple(vae.data_shape), "compress", f"data must be (N, {sizes})", f"shape={shape}")


def _as_symbols(data: Tensor, family: Family) -> NDArray[np.uint16]:
    values = family.symbols(data.double())
    whole = values.round()
    close, advice = bool(torch.allclose(values, whole, atol=1e-3)), "Binarize them as in training"
    require(close, "compress", "data must be on the likelihood's levels", "fractions", advice)
    inside = bool(((whole >= 0) & (whole < family.size)).all())
    require(inside, "compress", f"data must be in 0..{family.size - 1}", "others", "Scale them as in training")
    symbols: NDArray[np.uint16] = whole.flatten(1).cpu().numpy().astype(np.uint16)
    return symbols


def _largest(data: Tensor) -> float:
    missing = bool(data.isnan().any())
    require(not missing, "compress", "data must be complete", "missing entries", "Fill them: pyro-vae impute")
    largest = float(data.max()) if data.numel() else 0.0
    rule, got = "data must be in 0..65535", f"a largest value of {largest}"
    require(0 <= largest < 2**16, "compress", rule, got, "Scale them as in training")
    return largest


def check_on_cpu(owner: str, vae: Any) -> None:
    """Require a model on the CPU, on which networks are evaluated in fixed-point arithmetic.

    Raises:
        ValueError: with the device.
    """
    device = next((t.device for t in vae.state_dict().values() if t.device.type != "cpu"), None)
    require(device is None, owner, "the model must be on the CPU", device, "Use vae.cpu()")


def arithmetic() -> str:
    """Fingerprint of the integer tables."""
    return tables().hex()[:16]


def fingerprint(vae: Any) -> str:
    """Fingerprint of the weights of a model, and of the orders of causal networks that are not those of the raster."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for name, net in vae.named_modules():
        if isinstance(net, CausalNetwork) and net.order != net.raster_order():
            digest.update(f"{name} {net.order}".encode())
    return digest.hexdigest()[:16]
