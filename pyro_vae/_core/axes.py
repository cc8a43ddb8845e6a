"""Where the data are in the arguments of a program: lengths, rows and repetitions, for any nesting of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_flatten, tree_unflatten

_TRIED = 64  # combinations of dimensions


class Axes(NamedTuple):
    """The dimension of the data in each tensor among the arguments, None in one that has none.

    Attributes:
        dims: for the leaves of ``(args, kwargs)``, in their order; None also for what is no tensor.

    Example:
        >>> axes = Axes((1, 0))
        >>> args = (torch.zeros(9, 4, 2), torch.zeros(4))
        >>> axes.length(args), [tuple(a.shape) for a in axes.take(args, torch.tensor([0, 2]))]
        (4, [(9, 2, 2), (2,)])
        >>> tuple(axes.repeat(args, 3)[0].shape)
        (9, 12, 2)
    """

    dims: tuple[int | None, ...]

    def length(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> int:
        """Number of data."""
        leaves, _ = flatten((args, kwargs or {}))
        return next(_size(leaf, dim) for leaf, dim in zip(leaves, self.dims, strict=True) if dim is not None)

    def take(self, args: tuple[Any, ...], rows: Tensor | range) -> tuple[Any, ...]:
        """The arguments of some of the data, by number."""
        if isinstance(rows, range):
            return self._mapped(args, {}, lambda x, dim: x.narrow(dim, rows.start, len(rows)))[0]
        return self._mapped(args, {}, lambda x, dim: x.index_select(dim, rows.to(x.device)))[0]

    def repeat(self, args: tuple[Any, ...], num: int) -> tuple[Any, ...]:
        """The arguments with all data ``num`` times, one round after the other."""
        return self.repeat_all(args, {}, num)[0]

    def repeat_all(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], num: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same for arguments and keyword arguments."""
        return self._mapped(args, kwargs, lambda x, dim: torch.cat([x] * num, dim))

    def _mapped(self, args: Any, kwargs: Any, change: Callable[[Tensor, int], Tensor]) -> Any:
        leaves, spec = flatten((args, kwargs))
        if any(isinstance(leaf, PackedSequence) for leaf in leaves):
            raise ValueError("data: rows of packed sequences cannot be taken.")
        changed = [x if dim is None else change(x, dim) for x, dim in zip(leaves, self.dims, strict=True)]
        return tree_unflatten(changed, spec)


def flatten(values: Any) -> tuple[list[Any], Any]:
    """The leaves of nested arguments and their nesting; packed sequences and lists without tensors are leaves."""
    return tree_flatten(values, is_leaf=_is_leaf)


def _is_leaf(value: Any) -> bool:
    if isinstance(value, PackedSequence):
        return True
    return isinstance(value, list) and not any(isinstance(leaf, Tensor) for leaf in tree_flatten(value)[0])


def candidates(args: tuple[Any, ...], kwargs: dict[str, Any], size: int) -> Iterator[Axes]:
    """The possible axes for data of a size: at first the foremost dimension of that size in every tensor."""
    leaves, _ = flatten((args, kwargs))
    options = [[*_dims(leaf, size), None] for leaf in leaves]
    for dims in islice(product(*options), _TRIED):
        if any(dim is not None for dim in dims):
            yield Axes(dims)


def is_ambiguous(args: tuple[Any, ...], kwargs: dict[str, Any], size: int) -> bool:
    """Whether another choice than the first has to be considered."""
    leaves, _ = flatten((args, kwargs))
    dims = [_dims(leaf, size) for leaf in leaves]
    return sum(map(len, dims)) > 1  # in one tensor, or in several, of which one may be as long by chance


def leading(args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Axes:
    """The first dimension of the first tensor, and of every tensor as long.

    Raises:
        ValueError: there is no tensor of one dimension or more.
    """
    leaves, _ = flatten((args, kwargs or {}))
    sizes = [leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()]
    if not sizes:
        raise ValueError("data: a batch must hold a tensor with the data in its first dimension, got none.")
    return Axes(tuple(0 if _is_long(leaf, sizes[0]) else None for leaf in leaves))


def signature(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Kinds of the arguments: their nesting, shapes and dtypes."""
    leaves, spec = flatten((args, kwargs))
    kinds = tuple((tuple(x.shape), x.dtype) if isinstance(x, Tensor) else type(x) for x in leaves)
    return str(spec), kinds


def kinds_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The same without sizes: what a program is called with, whatever the number of data."""
    leaves, spec = flatten((args, kwargs))
    return str(spec), tuple((x.dim(), x.dtype) if isinstance(x, Tensor) else type(x) for x in leaves)


def _dims(leaf: Any, size: int) -> list[int]:
    if isinstance(leaf, PackedSequence):
        return [0] if _size(leaf, 0) == size else []
    return [dim for dim, length in enumerate(leaf.shape) if length == size] if isinstance(leaf, Tensor) else []


def _size(leaf: Any, dim: int) -> int:
    """Number of data in a dimension of a tensor, or in a packed sequence."""
    return int(leaf.batch_sizes[0]) if isinstance(leaf, PackedSequence) else leaf.shape[dim]


def _is_long(leaf: Any, size: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == size
