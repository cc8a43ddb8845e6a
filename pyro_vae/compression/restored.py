"""Restoring of compressed data chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor

from pyro_vae._core.checks import check_choice, check_count, refusal, require
from pyro_vae.compression.bits_back import BitsBack
from pyro_vae.compression.chunks import CODERS, ToDecode, groups, run_all
from pyro_vae.compression.container import Container, Header
from pyro_vae.compression.encoder import arithmetic, check_on_cpu, fingerprint
from pyro_vae.compression.family import Sizes


class Restored:
    """The data of a file of :func:`~pyro_vae.compression.compress_to`, restored some chunks at a time by iteration.

    Args:
        file: open for reading, at its beginning.
        vae: the model that compressed.
        damaged: whether a damaged chunk raises, or is left out.
        workers: number of processes.
        progress: show a progress bar.

    Attributes:
        header: of the file.
        shape: of all data, ``(N, *data_shape)``.

    Raises:
        ValueError: as of :func:`~pyro_vae.compression.decompress`.

    Example:
        >>> import io, torch
        >>> from pyro_vae import VAE
        >>> from pyro_vae.compression import compress_to
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> file = io.BytesIO()
        >>> _ = compress_to(file, vae, torch.ones(70, 5), chunk_size=2)
        >>> [tuple(part.shape) for part in Restored(file, vae)]
        [(32, 5), (32, 5), (6, 5)]
    """

    def __init__(
        self,
        file: BinaryIO,
        vae: Any,
        *,
        damaged: Literal["raise", "omit"] = "raise",
        workers: int = 1,
        progress: bool = False,
    ) -> None:
        check_choice("decompress", "damaged", damaged, ("raise", "omit"))
        check_count("decompress", workers=workers)
        self._container = Container(file)
        self.header = self._container.header
        _check_model(vae, self.header)
        self._vae, self._workers, self._progress = vae, workers, progress
        self._whole = whole_chunks(self._container, damaged)
        self.shape = (sum(map(self.header.size, self._whole)), *self.header.shape)

    def __iter__(self) -> Iterator[Tensor]:
        header, dtype = self.header, next(self._vae.parameters()).dtype
        sizes = Sizes(header.grid, header.num_values, CODERS[header.coder])
        levels = BitsBack(self._vae, sizes, rows=1).data_family.symbols(1.0)
        options: Any = {"workers": self._workers, "progress": self._progress}
        for symbols in run_all(self._tasks(), self._vae, header, **options):
            values = torch.from_numpy(symbols.astype(np.float64)) / levels
            yield values.to(dtype).reshape(-1, *header.shape)

    def _tasks(self) -> Iterator[ToDecode]:
        for _, part in groups(self._whole, self._workers):
            contents = [content for number in part if (content := self._container.chunk(number)) is not None]
            same, rule = len(contents) == len(part), "the file must not change while it is in use"
            require(same, "decompress", rule, "a chunk that is damaged now", "Start again")
            yield ToDecode(contents, part, [self.header.size(number) for number in part])


def whole_chunks(container: Container, damaged: Literal["raise", "omit"]) -> list[int]:
    """The numbers of the undamaged chunks.

    Raises:
        ValueError: a chunk is damaged, and is not to be omitted.
    """
    header = container.header
    whole = [number for number in range(header.num_chunks) if container.chunk(number) is not None]
    lost = sorted({*range(header.num_chunks)} - {*whole})
    if lost and damaged == "raise":
        first = lost[0] * header.chunk_size
        got = f"a damaged chunk {lost[0]} (data {first} to {first + header.size(lost[0]) - 1})"
        raise refusal("decompress", "all chunks must be whole", got, "Restore the others with damaged='omit'")
    return whole


def _check_model(vae: Any, header: Header) -> None:
    known = header.coder in CODERS and 0 <= header.grid <= 10 and header.lanes <= 64 and header.num_particles <= 10_000
    require(known, "decompress", "the coding scheme must be known", header.coder, "Install the version that compressed")
    check_on_cpu("decompress", vae)
    expected = fingerprint(vae)
    require(header.model == expected, "decompress", f"the model must be {header.model}", expected, "Use its run folder")
    advice = "Decompress with the versions of numpy and scipy that compressed"
    require(header.tables == arithmetic(), "decompress", "tables must be those of the file", "others", advice)
