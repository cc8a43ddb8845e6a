"""The code length of data by a trained model, against the bounds and other coders."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae._core.checks import check_arguments, check_count, require
from pyro_vae._core.contexts import isolated_rng, reseed
from pyro_vae.compression.chunks import EncodedChunk
from pyro_vae.compression.container import write
from pyro_vae.compression.encoder import Encoder
from pyro_vae.compression.other_coders import other_coders
from pyro_vae.data import ImageSet
from pyro_vae.evaluation.code_length import CodeLength
from pyro_vae.evaluation.importance import log_likelihood
from pyro_vae.evaluation.likelihood import LogLikelihood


def codelength(
    vae: Any,
    data: ImageSet | Tensor,
    *,
    num_samples: int = 200,
    chunk_size: int = 2500,
    num_particles: int = 1,
    seed: int = 0,
    protocol: dict[str, Any] | None = None,
    progress: bool = False,
) -> CodeLength:
    """Compress data and measure the file: net and initial bits, against -ELBO, -log p(x) and other coders.

    The ELBO and log p(x) are those of the same, once binarized data.

    Args:
        vae: the trained model, of a class that :func:`compress` accepts.
        data: an ``ImageSet`` or a tensor ``(N, *data_shape)``, at least one datum.
        num_samples: samples of z per datum for the ELBO and log p(x).
        chunk_size: data per chunk of the file, each of which starts with some hundred initial bits.
        num_particles: samples of z per datum that are coded (:func:`compress`).
        seed: of random binarization and of the samples; the global generator is restored.
        protocol: entries to add to the result's protocol, such as the data set's.
        progress: show progress bars.

    Returns:
        Net bits per datum, initial bits per chunk, and the lengths by gzip, bz2, lzma, PNG and WebP.

    Raises:
        ValueError: the model cannot be used for coding, the data are not of its kind, or there are none.

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
        >>> codelength(vae, torch.ones(3, 5), num_samples=10).net_bits.shape
        torch.Size([3])
    """
    check_arguments(codelength, locals())
    check_count("codelength", num_samples=num_samples, chunk_size=chunk_size, num_particles=num_particles)
    require(len(data) > 0, "codelength", "data must have at least one row", "none")
    x = _images(data, seed, next(vae.parameters()).dtype)
    coder = copy.deepcopy(vae).cpu()
    options: dict[str, Any] = {"chunk_size": chunk_size, "num_particles": num_particles}
    encoder = Encoder(coder, x.cpu(), **options)
    chunks = list(encoder.chunks(progress=progress))
    bounds = log_likelihood(vae.model, vae.guide, x, num_samples=num_samples, seed=seed, progress=progress)
    return code_length_of(encoder, chunks, bounds, {**(protocol or {}), **bounds.protocol, **options})


def code_length_of(
    encoder: Encoder, chunks: list[EncodedChunk], bounds: LogLikelihood, protocol: dict[str, Any]
) -> CodeLength:
    """The result of compressed data and the bounds of the same data."""
    header = encoder.header
    initial = [8.0 * len(chunk.content) - chunk.net_bits.sum() for chunk in chunks]
    others = other_coders(encoder.symbols(0, header.count), header.shape, encoder.family.size)
    file_bytes = write(io.BytesIO(), header, [chunk.content for chunk in chunks])
    return CodeLength(
        torch.from_numpy(np.concatenate([chunk.net_bits for chunk in chunks])),
        bounds.elbo,
        bounds.log_likelihood,
        bounds.standard_error,
        torch.tensor(initial, dtype=torch.float64),
        torch.tensor(others, dtype=torch.float64),
        protocol={**protocol, "file_bytes": file_bytes, "dimensions": math.prod(header.shape)},
    )


def _images(data: ImageSet | Tensor, seed: int, dtype: torch.dtype) -> Tensor:
    """The data, binarized once."""
    if isinstance(data, Tensor):
        return data
    with isolated_rng():
        reseed(seed, 0)
        return data.batch(slice(None), dtype=dtype)
