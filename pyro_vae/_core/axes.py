"""The batch dimension of each argument of a program, for any nesting of tensors.

A program is called with tuples, dictionaries or nested structures of tensors. In some of them one dimension is the
batch: usually the first, but the second in time-first sequences, and none in a shared table. :class:`Axes` records that
dimension for every tensor, and then counts, selects or repeats the data of all arguments together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_flatten, tree_unflatten

from pyro_vae._core.checks import require

_MAX_CANDIDATES = 64


class Axes(NamedTuple):
    """The batch dimension of each tensor among the arguments; None for a tensor without one.

    Attributes:
        dims: for the leaves of ``(args, kwargs)``, in their order; None also for arguments that are not tensors.

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
        """The arguments restricted to some of the data, by index."""
        if isinstance(rows, range):
            return self._map(args, {}, lambda x, dim: x.narrow(dim, rows.start, len(rows)))[0]
        return self._map(args, {}, lambda x, dim: x.index_select(dim, rows.to(x.device)))[0]

    def repeat(self, args: tuple[Any, ...], num: int) -> tuple[Any, ...]:
        """The arguments with the whole batch repeated ``num`` times."""
        return self.repeat_all(args, {}, num)[0]

    def repeat_all(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], num: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """:meth:`repeat` for arguments and keyword arguments."""
        return self._map(args, kwargs, lambda x, dim: torch.cat([x] * num, dim))

    def _map(self, args: Any, kwargs: Any, function: Callable[[Tensor, int], Tensor]) -> Any:
        leaves, spec = flatten((args, kwargs))
        packed = any(isinstance(leaf, PackedSequence) for leaf in leaves)
        require(not packed, "data", "rows can be taken of tensors only", "a packed sequence", "Pad it")
        mapped = [x if dim is None else function(x, dim) for x, dim in zip(leaves, self.dims, strict=True)]
        return tree_unflatten(mapped, spec)


def flatten(values: Any) -> tuple[list[Any], Any]:
    """Leaves and nesting of the arguments; packed sequences and lists without tensors are leaves."""
    return tree_flatten(values, is_leaf=_is_leaf)


def _is_leaf(value: Any) -> bool:
    if isinstance(value, PackedSequence):
        return True
    return isinstance(value, list) and not any(isinstance(leaf, Tensor) for leaf in tree_flatten(value)[0])


def candidates(args: tuple[Any, ...], kwargs: dict[str, Any], size: int) -> Iterator[Axes]:
    """Possible axes for a batch of a given size, the leftmost dimensions of that size first."""
    leaves, _ = flatten((args, kwargs))
    options = [[*_dims_of_size(leaf, size), None] for leaf in leaves]
    for dims in islice(product(*options), _MAX_CANDIDATES):
        if any(dim is not None for dim in dims):
            yield Axes(dims)


def is_ambiguous(args: tuple[Any, ...], kwargs: dict[str, Any], size: int) -> bool:
    """Whether more than one dimension has the size of the batch, in one tensor or in several."""
    leaves, _ = flatten((args, kwargs))
    return sum(len(_dims_of_size(leaf, size)) for leaf in leaves) > 1


def leading(args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Axes:
    """The first dimension of the first tensor, and of every tensor with the same leading size.

    Raises:
        ValueError: no argument is a tensor of at least one dimension.
    """
    leaves, _ = flatten((args, kwargs or {}))
    sizes = [leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()]
    require(bool(sizes), "data", "a batch must hold a tensor with the data in its first dimension", "none")
    return Axes(tuple(0 if _has_leading_size(leaf, sizes[0]) else None for leaf in leaves))


def signature(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Nesting, shapes and dtypes of the arguments."""
    leaves, spec = flatten((args, kwargs))
    return str(spec), tuple((tuple(x.shape), x.dtype) if isinstance(x, Tensor) else type(x) for x in leaves)


def kinds_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Nesting, numbers of dimensions and dtypes of the arguments: a signature that does not depend on sizes."""
    leaves, spec = flatten((args, kwargs))
    return str(spec), tuple((x.dim(), x.dtype) if isinstance(x, Tensor) else type(x) for x in leaves)


def _dims_of_size(leaf: Any, size: int) -> list[int]:
    if isinstance(leaf, PackedSequence):
        return [0] if _size(leaf, 0) == size else []
    return [dim for dim, length in enumerate(leaf.shape) if length == size] if isinstance(leaf, Tensor) else []


def _size(leaf: Any, dim: int) -> int:
    """Number of data in a dimension of a tensor, or in a packed sequence."""
    return int(leaf.batch_sizes[0]) if isinstance(leaf, PackedSequence) else leaf.shape[dim]


def _has_leading_size(leaf: Any, size: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == size
