"""From a data set, a tensor or any iterable to the batches that a program is called with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pyro_vae.data.image_set import ImageSet

Data: TypeAlias = ImageSet | Tensor | Iterable[Any]
Batch: TypeAlias = tuple[Tensor | None, tuple[Any, ...]]


class Batches:
    """Batches of arguments, in the order of the data or shuffled anew for every epoch.

    Args:
        data: an ``ImageSet``; a tensor ``(N, *data_shape)``; or an iterable of batches (a ``DataLoader``), each a
            tensor or a tuple of arguments, whose own order and batch size are kept.
        batch_size: data at a time.
        shuffle_seed: shuffle by (seed, epoch), on the data's device; None keeps the order.
        device: where iterables' tensors are moved to; sets and tensors must be there already. None leaves them.
        dtype: of an ``ImageSet``'s batches.

    Raises:
        ValueError: no data, or a batch size that is not positive or larger than the data.
    """

    def __init__(
        self,
        data: Data,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.data, self.batch_size, self.shuffle_seed = data, batch_size, shuffle_seed
        self.device, self.dtype = device, dtype
        if batch_size < 1:
            raise ValueError(f"Batches: batch_size must be at least 1, got batch_size={batch_size}. Use 100.")
        if self.num_data == 0:
            raise ValueError("Batches: data must not be empty, got 0 data. Pass at least one datum.")

    @property
    def num_data(self) -> int | None:
        """Number of data in an epoch; None where the data are an iterable of batches."""
        return len(self.data) if isinstance(self.data, ImageSet | Tensor) else None

    def __len__(self) -> int:
        """Number of batches in an epoch; 0 where the data are an iterable of unknown length."""
        if isinstance(self.data, ImageSet | Tensor):
            return -(-len(self.data) // self.batch_size)
        return len(self.data) if isinstance(self.data, Sized) else 0

    def epoch(self, number: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from the ``start``-th on: indices into the data (None if unknown) and arguments."""
        if not isinstance(self.data, ImageSet | Tensor):
            yield from ((None, self._arguments(batch)) for i, batch in enumerate(self.data) if i >= start)
            return
        for index in self._order(number).split(self.batch_size)[start:]:
            if isinstance(self.data, ImageSet):
                yield index, (self.data.batch(index, dtype=self.dtype),)
            else:
                yield index, (self.data[index],)

    def _order(self, epoch: int) -> Tensor:
        data: Any = self.data
        if self.shuffle_seed is None:
            return torch.arange(len(data), device=data.device)
        # Seeds of consecutive runs and epochs must not coincide: (0, 1) is not (1, 0).
        generator = torch.Generator(data.device).manual_seed((self.shuffle_seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(len(data), generator=generator, device=data.device)

    def _arguments(self, batch: Any) -> tuple[Any, ...]:
        arguments = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        return tuple(a.to(self.device) if isinstance(a, Tensor) else a for a in arguments)
