"""Lossless compression of data by a trained model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pyro_vae._core.checks import check_choice, check_count, refusal, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.owners import evaluating
from pyro_vae.compression.ans import Exhausted, Stacks
from pyro_vae.compression.bits_back import BitsBack
from pyro_vae.compression.container import Header, pack, unpack
from pyro_vae.compression.families import Sizes
from pyro_vae.compression.particles import CoupledParticles
from pyro_vae.compression.symbols import tables

LANES = 16
GRID = 6
SIDE_BY_SIDE = 16  # chunks that are coded together
_INITIAL_WORDS = 4096  # per chunk, of which few are read


def compress(
    vae: Any, data: Tensor, *, chunk_size: int = 2500, num_particles: int = 1, progress: bool = False
) -> bytes:
    """Compress data without loss to about minus the ELBO, by bits back coding.

    The networks are evaluated in fixed-point arithmetic, so that every machine decodes the same data. What can be
    coded: VAEs, hierarchies with a bottom-up guide and M2; guides that are diagonal, full-rank or mixture normals or
    categorical; priors that are standard normal, mixtures of normals, VampPriors or categorical; discrete likelihoods.

    Args:
        vae: the trained model, of a class above.
        data: ``(N, *data_shape)``, as in training: binary, grey levels in [0, 1], counts.
        chunk_size: data per chunk. A damaged byte loses a chunk; each chunk costs about 160 bytes.
        num_particles: samples of z per datum K. More bring the rate from minus the ELBO towards -log p(x), for a
            ``VAE`` whose guide has independent coordinates; time is proportional to them.
        progress: show a progress bar.

    Returns:
        The content of a file for :func:`decompress`.

    Raises:
        ValueError: the model cannot be used for coding, or the data are not of its kind.

    References:
        Practical lossless compression with latent variables using bits back coding (Townsend et al., 2019).
        https://arxiv.org/abs/1901.04866

    Example:
        >>> import torch
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> x = torch.ones(70, 5)
        >>> bool((decompress(vae, compress(vae, x)) == x).all())
        True
    """
    encoded = encode(vae, data, chunk_size=chunk_size, num_particles=num_particles, progress=progress)
    return pack(encoded.header, encoded.chunks)


class Encoded(NamedTuple):
    """Compressed data.

    Attributes:
        header: of the file.
        chunks: content of each chunk.
        net_bits: ``(N,)``, growth of the stacks by each datum, in bits.
        symbols: ``(N, n)``, the data as integers.
        num_values: number of values of a symbol.
    """

    header: Header
    chunks: list[bytes]
    net_bits: NDArray[np.float64]
    symbols: NDArray[np.uint16]
    num_values: int


def encode(vae: Any, data: Tensor, *, chunk_size: int, num_particles: int, progress: bool) -> Encoded:
    """Compress data as :func:`compress` does, with the length of each datum."""
    check_count("compress", chunk_size=chunk_size, num_particles=num_particles)
    symbols, size = _symbols(vae, data)
    scheme = (_fingerprint(vae), _arithmetic(), "bits back", GRID, _num_values(data), num_particles, LANES)
    header = Header(*scheme, vae.data_shape, len(symbols), chunk_size)
    starts, chunks, net_bits = np.cumsum([0, *header.sizes]), [], np.zeros(len(symbols))
    with evaluating(vae), isolated_rng(), torch.no_grad():
        for first in _groups(len(header.sizes), progress):
            sizes = header.sizes[first : first + SIDE_BY_SIDE]
            coder = _coder(vae, header, len(sizes))
            stacks = Stacks.filled(len(sizes), header.lanes, _INITIAL_WORDS)
            before = stacks.content()
            for step in range(max(sizes)):
                num = sum(size > step for size in sizes)
                rows = starts[first : first + num] + step
                coder.push(stacks, symbols[rows].astype(np.int64))
                after = stacks.content()
                net_bits[rows], before = (after - before)[:num], after
            chunks += stacks.write()
    return Encoded(header, chunks, net_bits, symbols, size)


def decompress(
    vae: Any, content: bytes, *, damaged: Literal["raise", "omit"] = "raise", progress: bool = False
) -> Tensor:
    """Restore the data that :func:`compress` compressed.

    Args:
        vae: the same model.
        content: what ``compress`` returned.
        damaged: whether a damaged chunk raises, or is left out of the result.
        progress: show a progress bar.

    Returns:
        The data, ``(N, *data_shape)``, in the model's dtype.

    Raises:
        ValueError: the content is damaged, of another model, or was not written by ``compress``.
    """
    check_choice("decompress", "damaged", damaged, ("raise", "omit"))
    header, chunks = unpack(content)
    _check_model(vae, header)
    lost = [i for i, chunk in enumerate(chunks) if chunk is None]
    if lost and damaged == "raise":
        first = lost[0] * header.chunk_size
        got = f"a damaged chunk {lost[0]} (data {first} to {first + header.sizes[lost[0]] - 1})"
        raise refusal("decompress", "all chunks must be whole", got, "Restore the others with damaged='omit'")
    whole = [(chunk, size) for chunk, size in zip(chunks, header.sizes, strict=True) if chunk is not None]
    parts = [_restored(vae, whole[i : i + SIDE_BY_SIDE], header) for i in _groups(len(whole), progress)]
    empty = torch.zeros(0, *header.shape, dtype=next(vae.parameters()).dtype)
    return torch.cat([empty, *parts])


def _restored(vae: Any, chunks: list[tuple[bytes, int]], header: Header) -> Tensor:
    sizes = [size for _, size in chunks]
    rows = [np.zeros((size, math.prod(header.shape)), dtype=np.uint16) for size in sizes]
    with evaluating(vae), isolated_rng(), torch.no_grad():
        coder = _coder(vae, header, len(sizes))
        try:
            stacks = Stacks.read([content for content, _ in chunks], header.lanes)
            for step in reversed(range(max(sizes))):
                num = sum(size > step for size in sizes)
                for row, x in zip(rows, coder.pop(stacks, num), strict=False):
                    row[step] = x
        except Exhausted:
            raise refusal("decompress", "the chunks must be those of this model", "others") from None
    levels = coder.data_family.symbols(1.0)
    values = torch.from_numpy(np.concatenate(rows).astype(np.float64)) / levels
    return values.to(next(vae.parameters()).dtype).reshape(-1, *header.shape)


def _coder(vae: Any, header: Header, rows: int) -> BitsBack | CoupledParticles:
    sizes = Sizes(header.grid, header.num_values)
    if header.num_particles == 1:
        return BitsBack(vae, sizes, rows=rows)
    return CoupledParticles(vae, sizes, rows=rows, num_particles=header.num_particles)


def _groups(num: int, progress: bool) -> Iterator[int]:
    yield from tqdm(range(0, num, SIDE_BY_SIDE), unit=" groups", disable=not progress)


def _symbols(vae: Any, data: Tensor) -> tuple[NDArray[np.uint16], int]:
    """The symbols of the data, ``(N, n)``, and the number of their values."""
    kind = type(data).__name__
    require(isinstance(data, Tensor), "compress", "data must be a tensor", kind, "Pass batch(range(N)) of an ImageSet")
    require(hasattr(vae, "data_shape"), "compress", "vae must be a model", type(vae).__name__, "Pass run.vae")
    shape = tuple(data.shape[1:])
    sizes = ", ".join(map(str, vae.data_shape))
    require(shape == tuple(vae.data_shape), "compress", f"data must be (N, {sizes})", f"shape={tuple(data.shape)}")
    family = BitsBack(vae, Sizes(GRID, _num_values(data)), rows=1).data_family
    symbols = np.zeros((len(data), math.prod(shape)), dtype=np.uint16)
    for start in range(0, len(data), 1000):
        values = family.symbols(data[start : start + 1000].double())
        whole = values.round()
        close = bool(torch.allclose(values, whole, atol=1e-3))
        require(
            close, "compress", "data must be on the likelihood's levels", "fractions", "Binarize them as in training"
        )
        inside = bool(((whole >= 0) & (whole < family.size)).all())
        require(inside, "compress", f"data must be in 0..{family.size - 1}", "others", "Scale them as in training")
        symbols[start : start + 1000] = whole.flatten(1).cpu().numpy()
    return symbols, family.size


def _num_values(data: Tensor) -> int:
    """One more than the largest number."""
    largest = float(data.max()) if data.numel() else 0.0
    finite = 0 <= largest < 2**16
    require(
        finite, "compress", "data must be in 0..65535", f"a largest value of {largest}", "Scale them as in training"
    )
    return int(largest) + 1


def _arithmetic() -> str:
    return tables().hex()[:16]


def _fingerprint(vae: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_model(vae: Any, header: Header) -> None:
    expected = _fingerprint(vae)
    require(header.model == expected, "decompress", f"the model must be {header.model}", expected, "Use its run folder")
    advice = "Decompress with the versions of numpy and scipy that compressed"
    require(header.tables == _arithmetic(), "decompress", "tables must be those of the file", "others", advice)
    known = (
        header.coder == "bits back" and 0 <= header.grid <= 10 and header.lanes <= 64 and header.num_particles <= 10_000
    )
    require(known, "decompress", "the coding scheme must be known", header.coder, "Install a later version")
