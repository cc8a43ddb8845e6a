"""Lossy compression by rate-distortion autoencoders: files of their rounded codes."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyro_vae._core.checks import check_choice, check_count, require
from pyro_vae._core.owners import evaluating
from pyro_vae.compression.chunks import Coders, EncodedChunk, ToDecode, ToEncode, groups
from pyro_vae.compression.container import Container, Header, write
from pyro_vae.compression.encoder import fingerprint
from pyro_vae.compression.restored import whole_chunks
from pyro_vae.compression.rounded_codes import TABLES, Tables
from pyro_vae.distributions import mean_or_sample
from pyro_vae.guides import QuantizedGuide
from pyro_vae.models import VAE

CODER = "rounded codes 1"
LANES = 8
_LARGEST = 2**11  # absolute value of a code
_BATCH = 500


def compress_lossy(vae: VAE, data: Tensor, *, chunk_size: int = 2500) -> bytes:
    """Compress data to the rounded codes of a rate-distortion autoencoder.

    A code costs minus the log2 of its probability under the prior. To this the file adds a header of about 100
    bytes and 60 bytes per chunk; the model itself is not in it.

    Args:
        vae: the trained model, with a :class:`~pyro_vae.guides.QuantizedGuide` and a
            :class:`~pyro_vae.priors.FactorizedPrior` or :class:`~pyro_vae.priors.HyperPrior`.
        data: ``(N, *data_shape)``, as in training.
        chunk_size: data per chunk. A damaged byte loses a chunk.

    Returns:
        The content of a file for :func:`decompress_lossy`.

    Raises:
        ValueError: another guide or prior, data of another shape, or codes that are not finite or beyond 2048.

    References:
        End-to-end optimized image compression (Balle, Laparra and Simoncelli, 2017). https://arxiv.org/abs/1611.01704
        Variational image compression with a scale hyperprior (Balle et al., 2018). https://arxiv.org/abs/1802.01436

    Example:
        >>> import torch
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import QuantizedGuide
        >>> from pyro_vae.likelihoods import NormalLikelihood
        >>> from pyro_vae.priors import FactorizedPrior
        >>> vae = VAE(FactorizedPrior(2), NormalLikelihood(2, (5,)), QuantizedGuide((5,), 2))
        >>> decompress_lossy(vae, compress_lossy(vae, torch.rand(70, 5))).shape
        torch.Size([70, 5])
    """
    return encode_lossy(vae, data, chunk_size=chunk_size)[0]


def encode_lossy(vae: VAE, data: Tensor, *, chunk_size: int) -> tuple[bytes, Tensor]:
    """Compress data as :func:`compress_lossy` does; return the file, and the length of each datum in bits ``(N,)``."""
    check_count("compress_lossy", chunk_size=chunk_size)
    build = _tables(vae, "compress_lossy")
    shape, sizes = tuple(data.shape[1:]), ", ".join(map(str, vae.data_shape))
    require(shape == vae.data_shape, "compress_lossy", f"data must be (N, {sizes})", f"shape={tuple(data.shape)}")
    code = _batched(vae, vae.guide.code, data, vae.latent_dim)  # type: ignore[arg-type]
    largest = float(code.abs().max()) if code.numel() else 0.0
    rule, advice = f"codes must be finite and at most {_LARGEST}", "Train longer, or scale the data as in training"
    require(largest <= _LARGEST, "compress_lossy", rule, f"a largest code of {largest}", advice)
    bound = max(int(largest), 1)
    tables, symbols = build(bound), (code + bound).numpy().astype(np.uint16)
    scheme = (fingerprint(vae), tables.digest(), CODER, 0, tables.size, 1, LANES)
    header = Header(*scheme, (vae.latent_dim,), len(symbols), chunk_size)
    coders = Coders(vae, header, partial(build, bound))
    chunks: list[EncodedChunk] = []
    for size, group in groups(range(header.num_chunks), 1):
        parts = [symbols[i * chunk_size :][: header.size(i)] for i in group]
        chunks += ToEncode(parts, 0, size).run(coders, lambda number: None)
    write(file := io.BytesIO(), header, (chunk.content for chunk in chunks))
    return file.getvalue(), torch.from_numpy(np.concatenate([np.zeros(0), *(chunk.net_bits for chunk in chunks)]))


def decompress_lossy(vae: VAE, content: bytes, *, damaged: Literal["raise", "omit"] = "raise") -> Tensor:
    """The reconstructions of data that :func:`compress_lossy` compressed: p(x | z)'s means at their codes.

    The codes are restored exactly, or the content is refused; the decoder network is evaluated in the model's dtype.

    Args:
        vae: the same model.
        content: what ``compress_lossy`` returned.
        damaged: whether a damaged chunk raises, or is left out of the result.

    Returns:
        ``(N, *data_shape)``.

    Raises:
        ValueError: the content is damaged, of another model, or was not written by ``compress_lossy``.
    """
    return reconstructions(vae, decode_lossy(vae, content, damaged=damaged))


def decode_lossy(vae: VAE, content: bytes, *, damaged: Literal["raise", "omit"] = "raise") -> Tensor:
    """The codes in a file, whole numbers ``(N, L)``; see :func:`decompress_lossy`."""
    owner = "decompress_lossy"
    check_choice(owner, "damaged", damaged, ("raise", "omit"))
    build, container = _tables(vae, owner), Container(io.BytesIO(content))
    header = container.header
    known = header.coder == CODER and header.num_values % 2 == 1 and 0 < header.num_values <= 2 * _LARGEST + 1
    require(known, owner, "the file must be one of compress_lossy", header.coder, "Use decompress for others")
    expected = fingerprint(vae)
    require(header.model == expected, owner, f"the model must be {header.model}", expected, "Use its run folder")
    bound = header.num_values // 2
    advice = "Decompress on the machine, or with the version of torch, that compressed"
    same = build(bound).digest() == header.tables
    require(same, owner, "frequencies must be those of the file", "others", advice)
    coders = Coders(vae, header, partial(build, bound))
    symbols = [np.zeros((0, vae.latent_dim), dtype=np.uint16)]
    for _, group in groups(whole_chunks(container, damaged), 1):
        contents = [container.chunk(number) or b"" for number in group]
        chunks = ToDecode(contents, group, [header.size(n) for n in group])
        symbols.append(chunks.run(coders, lambda number: None))
    return torch.from_numpy(np.concatenate(symbols).astype(np.float64)) - bound


def reconstructions(vae: VAE, code: Tensor) -> Tensor:
    """Means of p(x | z), or else samples, at codes ``(N, L)``: ``(N, *data_shape)``, on the CPU."""
    return _batched(vae, lambda z: mean_or_sample(vae.decode(z)), code, *vae.data_shape).to(_anchor(vae).dtype)


def _batched(vae: VAE, function: Callable[[Tensor], Tensor], rows: Tensor, *shape: int) -> Tensor:
    """A function of batches of rows, in eval mode; float64 on the CPU."""
    with evaluating(vae), torch.no_grad():
        parts = [function(part.to(_anchor(vae))).cpu().double() for part in rows.split(_BATCH)]
    return torch.cat([torch.zeros(0, *shape, dtype=torch.float64), *parts])


def _anchor(vae: VAE) -> Tensor:
    return next(vae.parameters())


def is_coder(vae: Any) -> bool:
    """Whether :func:`compress_lossy` accepts a model."""
    return isinstance(vae, VAE) and isinstance(vae.guide, QuantizedGuide) and type(vae.prior) in TABLES


def _tables(vae: Any, owner: str) -> Callable[..., Tables]:
    """The coder of a model's codes, as a function of the largest code and the number of stacks."""
    kinds = ", ".join(type(getattr(vae, name, None)).__name__ for name in ("prior", "guide"))
    rule = "vae must have a FactorizedPrior or a HyperPrior, and a QuantizedGuide"
    require(is_coder(vae), owner, rule, kinds, "Train with --prior FactorizedPrior --guide QuantizedGuide")
    return partial(TABLES[type(vae.prior)], vae.prior)
