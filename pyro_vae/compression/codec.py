"""Lossless compression of data by a trained model."""

from __future__ import annotations

import io
from typing import Any, BinaryIO, Literal

import torch
from torch import Tensor

from pyro_vae.compression.encoder import Encoder
from pyro_vae.compression.restored import Restored
from pyro_vae.data import ImageSet


def compress(
    vae: Any,
    data: Tensor | ImageSet,
    *,
    chunk_size: int = 2500,
    num_particles: int = 1,
    seed: int = 0,
    workers: int = 1,
    progress: bool = False,
) -> bytes:
    """Compress data without loss to about minus the ELBO, by bits back coding.

    The networks are evaluated in fixed-point arithmetic, so that every machine decodes the same data. What can be
    coded: VAEs, hierarchies with a bottom-up guide, M2 and autoregressive models; guides that are diagonal, full-rank
    or mixture normals, one inverse autoregressive flow, or categorical; priors that are standard normal, Laplace,
    mixtures of normals, VampPriors, one autoregressive flow, or categorical; discrete likelihoods.

    Args:
        vae: the trained model, of a class above.
        data: ``(N, *data_shape)``, as in training: binary, grey levels in [0, 1], counts; or an ``ImageSet``, whose
            batches are read when they are coded.
        chunk_size: data per chunk. A damaged byte loses a chunk; each chunk costs about 160 bytes.
        num_particles: samples of z per datum K. More bring the rate from minus the ELBO towards -log p(x), for a
            ``VAE`` whose guide has independent coordinates; time is proportional to them.
        seed: of pixels that the ``ImageSet`` binarizes at random.
        workers: number of processes, each with one thread; the file is the same for any number. They are started by
            ``spawn``: a script must call this under ``if __name__ == "__main__":``.
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
    file = io.BytesIO()
    encoder = Encoder(vae, data, chunk_size=chunk_size, num_particles=num_particles, seed=seed)
    encoder.write(file, workers=workers, progress=progress)
    return file.getvalue()


def compress_to(
    file: BinaryIO,
    vae: Any,
    data: Tensor | ImageSet,
    *,
    chunk_size: int = 2500,
    num_particles: int = 1,
    seed: int = 0,
    workers: int = 1,
    progress: bool = False,
) -> int:
    """Compress data as :func:`compress` does, to a file.

    The data are read, compressed and written some chunks at a time: those of an ``ImageSet`` that reads batches from
    files never fill the memory.

    Args:
        file: open for writing, at any position to which it can return.
        vae, data, chunk_size, num_particles, seed, workers, progress: as of :func:`compress`.

    Returns:
        Number of bytes.

    Raises:
        ValueError: as of :func:`compress`.
    """
    encoder = Encoder(vae, data, chunk_size=chunk_size, num_particles=num_particles, seed=seed)
    return encoder.write(file, workers=workers, progress=progress)


def decompress(
    vae: Any,
    content: bytes,
    *,
    damaged: Literal["raise", "omit"] = "raise",
    workers: int = 1,
    progress: bool = False,
) -> Tensor:
    """Restore the data that :func:`compress` compressed.

    Args:
        vae: the same model.
        content: what ``compress`` returned.
        damaged: whether a damaged chunk raises, or is left out of the result.
        workers: as of :func:`compress`.
        progress: show a progress bar.

    Returns:
        The data, ``(N, *data_shape)``, in the model's dtype.

    Raises:
        ValueError: the content is damaged, of another model, or was not written by ``compress``.
    """
    restored = Restored(io.BytesIO(content), vae, damaged=damaged, workers=workers, progress=progress)
    return torch.cat([torch.zeros(0, *restored.shape[1:], dtype=next(vae.parameters()).dtype), *restored])
