"""From a data set, a tensor or any iterable to the batches that a program is called with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.data import Dataset

from pyro_vae._core.axes import Axes, leading
from pyro_vae._core.distributed import Ranks
from pyro_vae._core.shared_random import Share
from pyro_vae.data.image_set import ImageSet

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
        axes: where the data are in the arguments; None for the first dimension of the first tensor.

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
        axes: Axes | None = None,
    ) -> None:
        if args is None and (index is None or fetch is None):
            raise ValueError("Batch: must have args, or index and fetch, got neither. Pass Batch((x,)).")
        self._whole, self._index, self.fetch, self.ranks, self._axes = args, index, fetch, ranks, axes
        self._length: int | None = None if index is None else len(index)

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
        return self.whole if self.ranks.alone else self.axes.take(self.whole, self.rows)

    @property
    def axes(self) -> Axes:
        """Where the data are in the arguments."""
        return leading(self.whole) if self._axes is None else self._axes

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
        """The same for :class:`~pyro_vae._core.shared_random.SharedRandom`; None in a process that has all rows."""
        return None if self.ranks.alone else Share(self.rows.start, len(self.rows), len(self))

    def __len__(self) -> int:
        """Number of data in the whole batch."""
        if self._length is None:
            self._length = self.axes.length(self.whole)
        return self._length


class Batches:
    """Batches of arguments, in the order of the data or shuffled anew for every epoch.

    Args:
        data: an ``ImageSet``; a tensor ``(N, *data_shape)`` or what becomes one (an array, a data frame); or an
            iterable of batches (a ``DataLoader``), each a tensor, a tuple of arguments or one argument of another kind,
            whose own order and batch size are kept.
        batch_size: data at a time.
        shuffle_seed: shuffle by (seed, epoch), on the data's device; None keeps the order.
        device: where iterables' tensors and arrays are moved to; sets and tensors must be there already. None leaves
            them.
        dtype: of floating-point data.
        ranks: the processes that share every batch.

    Raises:
        ValueError: no data, a batch size that is not positive or larger than the data, or half precision.
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
        self.batch_size, self.shuffle_seed = batch_size, shuffle_seed
        self.device, self.dtype, self.ranks = device, dtype, ranks
        self.data = self._as_data(data)
        self.axes: Axes | None = None  # where the data are in an iterable's batches, once it is known
        if dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"Batches: densities must be computed in float32 or float64, got parameters of {dtype}. Use "
                "model.float(), and precision='bf16' to multiply in bfloat16."
            )
        if batch_size < 1:
            raise ValueError(f"Batches: batch_size must be at least 1, got batch_size={batch_size}. Use 100.")
        if isinstance(data, Iterator | tuple | Dataset):
            raise ValueError(
                "Batches: data must be a tensor, an ImageSet or an iterable of batches that can be gone through again, "
                f"got a {type(data).__name__}. Wrap it: DataLoader(TensorDataset(x, y), batch_size=100), or a list."
            )
        if isinstance(self.data, Tensor) and self.data.dim() == 0:
            raise ValueError("Batches: data must have a first dimension, got a single number. Pass x.unsqueeze(0).")
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
            yield Batch(index=index, fetch=self.fetch, ranks=self.ranks, axes=self.axes)

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
            yield Batch(self._arguments(batch), ranks=self.ranks, axes=self.axes)

    def _order(self, epoch: int) -> Tensor:
        data: Any = self.data
        if self.shuffle_seed is None:
            return torch.arange(len(data), device=data.device)
        return torch.randperm(len(data), generator=self._generator(data.device, epoch), device=data.device)

    def _generator(self, device: torch.device | str, epoch: int) -> torch.Generator:
        # Seeds of consecutive runs and epochs must not coincide: (0, 1) is not (1, 0).
        return torch.Generator(device).manual_seed(((self.shuffle_seed or 0) * 1_000_003 + epoch) % 2**63)

    def _arguments(self, batch: Any) -> tuple[Any, ...]:
        found = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        if not found:
            raise ValueError("Batches: a batch must have an argument, the data, got an empty tuple. Pass them: [(x,)].")
        return arguments(found, self.device, self.dtype)

    def _as_data(self, data: Any) -> Data:
        """The data as they are, an array, a table or nested lists of numbers as a tensor."""
        if isinstance(data, Tensor):
            return as_tensor(data, None, self.dtype)
        if _are_numbers(data):
            return as_tensor(np.asarray(data), self.device, self.dtype)
        return as_tensor(data, self.device, self.dtype) if hasattr(data, "__array__") else data

    def to_float(self) -> bool:
        """Take integers as floating-point numbers from now on; whether that changes anything."""
        if self.dtype is None or not isinstance(self.data, Tensor) or self.data.is_floating_point():
            return False
        self.data = self.data.to(self.dtype)
        return True


def arguments(args: tuple[Any, ...], device: torch.device | None, dtype: torch.dtype | None) -> tuple[Any, ...]:
    """Arguments of a program with all tensors and arrays as tensors, at any depth of tuples, lists and dictionaries.

    Args:
        args: of a program.
        device: where to move them; None leaves them.
        dtype: of floating-point ones; None leaves it.
    """
    return tree_map_only(Tensor | np.ndarray, lambda values: as_tensor(values, device, dtype), args)


def as_tensor(values: Any, device: torch.device | None, dtype: torch.dtype | None) -> Tensor:
    """Numbers as a tensor without a gradient, floating-point ones of a dtype.

    Raises:
        ValueError: they are no numbers.
    """
    try:
        tensor = values.detach() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    except TypeError:
        kind = np.asarray(values).dtype
        raise ValueError(f"Batches: data must be numbers, got an array of dtype {kind}. Encode them first.") from None
    tensor = tensor if device is None else tensor.to(device)
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _are_numbers(data: Any) -> bool:
    """Whether nested lists end in numbers."""
    while isinstance(data, list) and data:
        data = data[0]
    return isinstance(data, int | float)
