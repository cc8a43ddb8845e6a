"""Batches of a data set, a tensor or any iterable, as the arguments of a program."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from itertools import count, islice, repeat
from os import PathLike
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.data import Dataset

from pyro_vae._core.axes import Axes, leading
from pyro_vae._core.checks import check_count, refusal, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.failures import WRONG_ARGUMENTS
from pyro_vae.data.arrays import are_numbers
from pyro_vae.data.contexts import JoinedRows
from pyro_vae.data.image_set import ImageSet
from pyro_vae.data.lazy import LazyRows
from pyro_vae.data.loading import check_encoding, is_external, loaded
from pyro_vae.data.mapped import NpyRows
from pyro_vae.data.splitting import stream_seed

Data: TypeAlias = (
    ImageSet | JoinedRows | Tensor | LazyRows | tuple[Any, ...] | Iterable[Any] | str | PathLike[str] | Dataset[Any]
)
_INDEXED = ImageSet | JoinedRows | Tensor | LazyRows  # data whose order is chosen here
_END = object()
_BLOCK_BYTES, _MAX_BLOCK = 4_000_000, 64  # of the batches that are fetched together


class Batch:
    """One batch.

    Args:
        args: the arguments of a program, the data first.
        index: positions of the data in the data set, of an image set its ``rows``; None if unknown.
        axes: the dimension of the data in each argument; None for the first dimension of the first tensor.

    Example:
        >>> import torch
        >>> len(Batch((torch.arange(10.0),)))
        10
    """

    def __init__(self, args: tuple[Any, ...], *, index: Tensor | None = None, axes: Axes | None = None) -> None:
        self.args, self.index, self._axes = args, index, axes
        self._length: int | None = None if index is None else len(index)

    @property
    def axes(self) -> Axes:
        """The dimension of the data in each argument."""
        return leading(self.args) if self._axes is None else self._axes

    def __len__(self) -> int:
        """Number of data in the batch."""
        if self._length is None:
            self._length = self.axes.length(self.args)
        return self._length


class Batches:
    """Batches of arguments, in the order of the data or reshuffled every epoch.

    Args:
        data: an ``ImageSet``; a tensor ``(N, *data_shape)``, an array or a data frame of numbers, of which a
            ``numpy.memmap`` is read by batches; a tuple ``(x, c)`` of tensors and arrays of one length, the programs'
            arguments; an iterable of batches (a ``DataLoader``), each a tensor, a tuple of arguments or one argument of
            another kind, whose order and batch size are kept; or anything else that :func:`pyro_vae.data.load` takes: a
            path, a data frame with texts, a sparse matrix, a torch ``Dataset``.
        batch_size: data per batch.
        shuffle_seed: shuffle by (seed, epoch), on the data's device; None keeps the order.
        device: device that arrays and the tensors of iterables are moved to; image sets and tensors must be on it
            already. None moves nothing.
        dtype: dtype of floating-point data.
        owner: name that messages begin with.

    Raises:
        ValueError: no data, a batch size below 1, a single-pass iterator, another device, or half precision.
    """

    def __init__(
        self,
        data: Data,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        owner: str = "Batches",
    ) -> None:
        self.owner, self.batch_size, self.shuffle_seed = owner, batch_size, shuffle_seed
        self.device, self.dtype = device, dtype
        self.has_labels, self.drops_labels = False, False  # of batches (x, label)
        self.data = self._as_data(data)
        self.axes: Axes | None = None  # of the data in the batches of an iterable; set once they are determined
        check_count(owner, batch_size=batch_size)
        self.batch_size = int(batch_size)  # torch splits by no NumPy integer
        self._check_dtype()
        self._check_data(data)

    def _check_dtype(self) -> None:
        advice = "Use model.float(), and precision='bf16' to multiply in bfloat16"
        low = self.dtype in (torch.float16, torch.bfloat16)
        rule = "densities must be computed in float32 or float64"
        require(not low, self.owner, rule, f"parameters of {self.dtype}", advice)

    def _check_data(self, data: Any) -> None:
        if isinstance(self.data, Iterator | tuple):
            rule = "data must be a tensor, an ImageSet or an iterable of batches that can be iterated repeatedly"
            advice = "Wrap it: DataLoader(TensorDataset(x, y), batch_size=100), or a list"
            raise refusal(self.owner, rule, f"a {type(data).__name__}", advice)
        scalar = isinstance(self.data, Tensor) and self.data.dim() == 0
        require(not scalar, self.owner, "data must have a first dimension", "a single number", "Pass x.unsqueeze(0)")
        data = self.data if isinstance(self.data, JoinedRows) else data
        if self.device is not None and isinstance(data, _INDEXED):  # others have been moved
            value, advice = f"data={data.device}, model={self.device}", "Move one with .to()"
            require(data.device == self.device, self.owner, "data and model must be on one device", value, advice)
        require(self.num_data != 0, self.owner, "data must not be empty", "0 data", "Pass at least one datum")

    @property
    def num_data(self) -> int | None:
        """Number of data in an epoch; None for an iterable of batches."""
        return len(self.data) if isinstance(self.data, _INDEXED) else None

    def __len__(self) -> int:
        """Number of batches in an epoch; 0 for an iterable of unknown length."""
        if isinstance(self.data, _INDEXED):
            return -(-len(self.data) // self.batch_size)
        try:
            return len(self.data)  # type: ignore[arg-type]
        except TypeError:  # a DataLoader has __len__ even if its data set has none
            return 0

    def epoch(self, number: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, beginning with the ``start``-th."""
        if not isinstance(self.data, _INDEXED):
            yield from islice(self._iterate(number), start, None)
            return
        size = self._block_size()
        first, length = start // size, size * self.batch_size
        order = self._order(number)[first * length :]
        images = self.data.images if isinstance(self.data, ImageSet) else self.data
        read = images.read_ahead(order, length) if isinstance(images, LazyRows) else repeat(None)
        for block, i, rows in zip(count(first), range(0, len(order), length), read, strict=False):
            batches = self._fetch_block(order[i : i + length], rows, number, block)
            yield from islice(batches, max(0, start - block * size), None)

    def _block_size(self) -> int:
        """Number of batches that are fetched at once, of up to some millions of bytes; 1 in the order of the data."""
        if self.shuffle_seed is None:
            return 1
        data = self.data.images if isinstance(self.data, ImageSet) else self.data
        shape = data.shape[1:]  # type: ignore[union-attr]
        size = math.prod(shape) * self.batch_size * (self.dtype or torch.get_default_dtype()).itemsize
        return max(1, min(_MAX_BLOCK, _BLOCK_BYTES // max(1, size)))

    def _fetch_block(self, index: Tensor, rows: Tensor | None, epoch: int, block: int) -> Iterator[Batch]:
        """Fetch consecutive batches with few tensor operations, whose cost in Python a single batch would not pay.

        The random numbers of shuffled data, such as those of dynamic binarization, depend on (seed, epoch, block)
        alone, so that a resumed training draws them again.
        """
        if self.shuffle_seed is None:
            args = self.fetch(index, rows)
        else:
            with isolated_rng(stream_seed(int(self.shuffle_seed), f"block {block} of epoch {epoch}")):
                args = self.fetch(index, rows)
        origin = getattr(self.data, "rows", None)
        positions = index if origin is None else origin.index_select(0, index)
        for i, *parts in zip(*(values.split(self.batch_size) for values in (positions, *args)), strict=True):
            yield Batch(tuple(parts), index=i, axes=self.axes)

    def fetch(self, index: Tensor, rows: Tensor | None = None) -> tuple[Tensor, ...]:
        """The data at ``index`` of an image set or a tensor, as the arguments of a program.

        Args:
            index: positions of the data.
            rows: those of lazy rows, if they have been read already.
        """
        if isinstance(self.data, ImageSet):
            return self.data.arguments(index, dtype=self.dtype, pixels=rows)
        if isinstance(self.data, JoinedRows):
            return self.data.arguments(index)
        if isinstance(self.data, LazyRows):
            return (self.data.read(index) if rows is None else rows,)
        return (self.data.index_select(0, index),)  # type: ignore[union-attr]

    def _iterate(self, epoch: int) -> Iterator[Batch]:
        """Batches of an iterable, whose random numbers depend on (seed, epoch) alone, not on draws in between."""
        iterable_state = self._generator("cpu", epoch).get_state()
        iterator: Iterator[Any] | None = None
        while True:
            state = torch.get_rng_state()
            torch.set_rng_state(iterable_state)
            try:
                iterator = iter(self.data) if iterator is None else iterator  # type: ignore[arg-type]
                batch = next(iterator, _END)
            finally:
                iterable_state = torch.get_rng_state()
                torch.set_rng_state(state)
            if batch is _END:
                return
            yield Batch(self._arguments(batch), axes=self.axes)

    def _order(self, epoch: int) -> Tensor:
        data: Any = self.data
        if self.shuffle_seed is None:
            return torch.arange(len(data), device=data.device)
        return torch.randperm(len(data), generator=self._generator(data.device, epoch), device=data.device)

    def _generator(self, device: torch.device | str, epoch: int) -> torch.Generator:
        # Seeds of consecutive runs and epochs must not coincide: (0, 1) is not (1, 0).
        return torch.Generator(device).manual_seed((int(self.shuffle_seed or 0) * 1_000_003 + epoch) % 2**63)

    def _arguments(self, batch: Any) -> tuple[Any, ...]:
        args = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        require(bool(args), self.owner, "a batch must hold at least one argument, the data", "an empty tuple")
        self.has_labels = len(args) == 2 and getattr(args[1], "ndim", 0) == 1
        args = args[:1] if self.drops_labels else args
        return arguments(args, self.device, self.dtype)

    def _as_data(self, data: Any) -> Data:
        """Convert arrays, data frames and nested lists of numbers to a tensor; leave other data as they are."""
        if isinstance(data, Tensor):
            return as_tensor(data, None, self.dtype)
        if isinstance(data, tuple) and len(data) > 1 and all(hasattr(part, "__array__") for part in data):
            tensors = [as_tensor(part, None if isinstance(part, Tensor) else self.device, self.dtype) for part in data]
            first = tensors[0] if tensors[0].is_floating_point() else tensors[0].to(self.dtype)
            return JoinedRows.of((first, *tensors[1:]), owner=self.owner)
        if isinstance(data, np.memmap) and (source := NpyRows.of(data, owner=self.owner)):
            rows = LazyRows.of(source, lambda values, _: as_tensor(values, None, self.dtype))
            return rows if self.device is None else rows.to(self.device)
        if are_numbers(data):
            return as_tensor(np.asarray(data), self.device, self.dtype)
        if is_external(data):
            data = loaded(data, owner=self.owner)
            if self.shuffle_seed is None:  # of an evaluation
                check_encoding(data, self.owner)
            return data if self.device is None else data.to(self.device)
        return as_tensor(data, self.device, self.dtype) if hasattr(data, "__array__") else data

    def adapt(self, error: ValueError) -> bool:
        """Convert data that the programs have rejected: integers to floating point, pairs (x, label) to x.

        Args:
            error: that of the programs; labels are dropped if it is about the number of arguments.

        Returns:
            Whether there was something to convert.
        """
        if self.has_labels and not self.drops_labels and WRONG_ARGUMENTS in str(error):
            self.drops_labels = True
            text = f"{self.owner}: the labels of the batches are left out, since the model does not take them."
            warnings.warn(text, stacklevel=4)
            return True
        if self.dtype is None or not isinstance(self.data, Tensor | LazyRows) or self.data.is_floating_point():
            return False
        self.data = self.data.to(self.dtype)
        return True


def arguments(args: tuple[Any, ...], device: torch.device | None, dtype: torch.dtype | None) -> tuple[Any, ...]:
    """Convert the tensors and arrays among a program's arguments, at any nesting, by :func:`as_tensor`."""
    return tree_map_only(Tensor | np.ndarray, lambda values: as_tensor(values, device, dtype), args)


def as_tensor(values: Any, device: torch.device | None, dtype: torch.dtype | None) -> Tensor:
    """Convert numbers to a tensor without a gradient.

    Args:
        values: a tensor or anything that numpy takes as an array.
        device: device of the tensor; None keeps that of the values.
        dtype: dtype of floating-point values; None keeps theirs.

    Raises:
        ValueError: the values are not numbers.
    """
    try:
        tensor = values.detach() if isinstance(values, Tensor) else torch.from_numpy(_native(np.asarray(values)))
    except TypeError:
        kind = np.asarray(values).dtype
        raise refusal("Batches", "data must be numbers", f"an array of dtype {kind}", "Encode them first") from None
    tensor = tensor if device is None else tensor.to(device)
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _native(array: np.ndarray) -> np.ndarray:
    """The array in native byte order and writable, which torch requires."""
    return np.require(array, array.dtype.newbyteorder("="), "W")
