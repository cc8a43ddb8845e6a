"""From a data set, a tensor or any iterable to the batches that a program is called with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyro_vae.data.image_set import ImageSet
from pyro_vae.ranks import Ranks
from pyro_vae.sharding import Share, take

_ALONE = Ranks()
Data: TypeAlias = ImageSet | Tensor | Iterable[Any]
_END = object()


Fetch: TypeAlias = Callable[[Tensor], tuple[Any, ...]]


class Batch:
    """One batch; its data are fetched when they are asked for.

    Args:
        args: the arguments that a program is called with, the data first; None where ``fetch`` gives them.
        index: which data of the set; None where that is not known.
        fetch: from an index to the arguments.
        ranks: the processes that share every batch; each has some of its rows.

    Raises:
        ValueError: neither ``args`` nor ``index`` with ``fetch``.

    Example:
        >>> import torch
        >>> x = torch.arange(10.0)
        >>> batch = Batch(index=torch.tensor([3, 1]), fetch=lambda index: (x[index],))
        >>> len(batch), batch.args
        (2, (tensor([3., 1.]),))
    """

    def __init__(
        self,
        args: tuple[Any, ...] | None = None,
        *,
        index: Tensor | None = None,
        fetch: Fetch | None = None,
        ranks: Ranks = _ALONE,
    ) -> None:
        if args is None and (index is None or fetch is None):
            raise ValueError("Batch: must have args, or index and fetch, got neither. Pass Batch((x,)).")
        self._whole, self._index, self.fetch, self.ranks = args, index, fetch, ranks

    @property
    def whole(self) -> tuple[Any, ...]:
        """The arguments with the rows of all processes; binary pixels are drawn at the first look."""
        if self._whole is None:
            assert self.fetch is not None
            assert self._index is not None
            self._whole = self.fetch(self._index)
        return self._whole

    @property
    def args(self) -> tuple[Any, ...]:
        """This process's rows of the arguments."""
        return self.whole if self.ranks.alone else take(self.whole, self.rows)

    @property
    def index(self) -> Tensor | None:
        """Which data of the set this process's rows are; None where that is not known."""
        return None if self._index is None else self._index[self.rows.start : self.rows.stop]

    @property
    def rows(self) -> range:
        """This process's rows of the whole batch."""
        return self.ranks.share(len(self))

    @property
    def share(self) -> Share | None:
        """The same for :class:`~pyro_vae.sharding.SharedRandom`; None in a process that has all rows."""
        return None if self.ranks.alone else Share(self.rows.start, len(self.rows), len(self))

    def __len__(self) -> int:
        """Number of data in the whole batch."""
        return len(self.whole[0] if self._index is None else self._index)


class Batches:
    """Batches of arguments, in the order of the data or shuffled anew for every epoch.

    Args:
        data: an ``ImageSet``; a tensor ``(N, *data_shape)``; or an iterable of batches (a ``DataLoader``), each a
            tensor or a tuple of arguments, whose own order and batch size are kept.
        batch_size: data at a time.
        shuffle_seed: shuffle by (seed, epoch), on the data's device; None keeps the order.
        device: where iterables' tensors are moved to; sets and tensors must be there already. None leaves them.
        dtype: of an ``ImageSet``'s batches.
        ranks: the processes that share every batch.

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
        ranks: Ranks = _ALONE,
    ) -> None:
        self.data, self.batch_size, self.shuffle_seed = data, batch_size, shuffle_seed
        self.device, self.dtype, self.ranks = device, dtype, ranks
        if batch_size < 1:
            raise ValueError(f"Batches: batch_size must be at least 1, got batch_size={batch_size}. Use 100.")
        if isinstance(data, Iterator | tuple | Dataset):
            raise ValueError(
                "Batches: data must be a tensor, an ImageSet or an iterable of batches that can be gone through again, "
                f"got a {type(data).__name__}. Wrap it: DataLoader(TensorDataset(x, y), batch_size=100), or a list."
            )
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
        try:
            return len(self.data)  # type: ignore[arg-type]
        except TypeError:  # a DataLoader has __len__ also where its data set has none
            return 0

    def epoch(self, number: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from the ``start``-th on."""
        if not isinstance(self.data, ImageSet | Tensor):
            yield from islice(self._iterate(number), start, None)
            return
        for index in self._order(number).split(self.batch_size)[start:]:
            yield Batch(index=index, fetch=self.fetch, ranks=self.ranks)

    def fetch(self, index: Tensor) -> tuple[Tensor, ...]:
        """The data of a set or a tensor at ``index``, as the arguments of a program."""
        if isinstance(self.data, ImageSet):
            return self.data.arguments(index, dtype=self.dtype)
        return (self.data[index],)  # type: ignore[index]

    def _iterate(self, epoch: int) -> Iterator[Batch]:
        """An iterable's batches, its random numbers by (seed, epoch): the same whatever else is drawn meanwhile."""
        inside = self._generator("cpu", epoch).get_state()
        iterator: Iterator[Any] | None = None
        while True:
            outside = torch.get_rng_state()
            torch.set_rng_state(inside)
            try:
                iterator = iter(self.data) if iterator is None else iterator  # type: ignore[arg-type]
                batch = next(iterator, _END)
            finally:
                inside = torch.get_rng_state()
                torch.set_rng_state(outside)
            if batch is _END:
                return
            yield Batch(self._arguments(batch), ranks=self.ranks)

    def _order(self, epoch: int) -> Tensor:
        data: Any = self.data
        if self.shuffle_seed is None:
            return torch.arange(len(data), device=data.device)
        return torch.randperm(len(data), generator=self._generator(data.device, epoch), device=data.device)

    def _generator(self, device: torch.device | str, epoch: int) -> torch.Generator:
        # Seeds of consecutive runs and epochs must not coincide: (0, 1) is not (1, 0).
        return torch.Generator(device).manual_seed(((self.shuffle_seed or 0) * 1_000_003 + epoch) % 2**63)

    def _arguments(self, batch: Any) -> tuple[Any, ...]:
        arguments = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        return tuple(a.to(self.device) if isinstance(a, Tensor) else a for a in arguments)
