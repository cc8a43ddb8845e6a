"""Random numbers for a share of a batch, equal to those that one process draws for the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae._core.axes import Axes
from pyro_vae._core.checks import refusal

aten = torch.ops.aten
_ADVICE = "Train this model in one process"

# Random operations, by the position of the shape among their arguments.
_SIZED = {aten.rand.default: 0, aten.randn.default: 0, aten.randint.default: 1, aten.randint.low: 2}
_LIKE = {aten.rand_like.default, aten.randn_like.default}
_NORMAL = {aten.normal.Tensor_Tensor, aten.normal.Tensor_float, aten.normal.float_Tensor}
_BERNOULLI = aten.bernoulli.default
_DROPOUT = aten.native_dropout.default
_IN_PLACE = {
    aten.normal_.default,
    aten.uniform_.default,
    aten.bernoulli_.float,
    aten.exponential_.default,
    aten.geometric_.default,
    aten.log_normal_.default,
    aten.cauchy_.default,
    aten.random_.default,
    getattr(aten.random_, "from"),
    aten.random_.to,
}


class Share(NamedTuple):
    """Rows ``start`` to ``start + length`` of a batch of ``total``."""

    start: int
    length: int
    total: int


class _Shapes(TorchDispatchMode):
    """Records the shapes of random tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _is_random(func):
            shape = _shape(func, args)
            if shape is None:
                rule = "random numbers must be drawn by functions whose shape is known"
                raise refusal("ranks", rule, func, _ADVICE)
            self.shapes.append(shape)
        return func(*args, **(kwargs or {}))


class SharedRandom(TorchDispatchMode):
    """Context in which a program on a share of a batch draws the numbers of those rows of the whole batch.

    Every random tensor is drawn for the whole batch, and the share is cut out: the generators of all processes stay in
    the same state, and their numbers are those of a single process.

    Args:
        share: the rows of the batch.
        rows: dimension of the batch in each random tensor of the program, in order; see :func:`find_rows`.
    """

    def __init__(self, share: Share, rows: Sequence[tuple[int, int] | None]) -> None:
        super().__init__()
        self.share, self.rows, self.count = share, rows, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not _is_random(func):
            return func(*args, **kwargs)
        place, self.count = self.rows[self.count], self.count + 1
        if place is None:
            return func(*args, **kwargs)
        whole = _Whole(self.share, *place)
        if func in _SIZED:
            at = _SIZED[func]
            return whole.cut(func(*args[:at], whole.shape(args[at]), *args[at + 1 :], **kwargs))
        return whole.draw(func, args, kwargs)


class _Whole(NamedTuple):
    """A tensor of the whole batch, which dimension ``dim`` holds ``repeats`` times."""

    share: Share
    dim: int
    repeats: int

    def shape(self, shape: Sequence[int]) -> list[int]:
        return [*shape[: self.dim], self.repeats * self.share.total, *shape[self.dim + 1 :]]

    def cut(self, whole: Tensor) -> Tensor:
        """The rows of the share."""
        rows = whole.unflatten(self.dim, (self.repeats, self.share.total))
        return rows.narrow(self.dim + 1, self.share.start, self.share.length).flatten(self.dim, self.dim + 1)

    def draw(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Draw by a function of a tensor for the whole batch, and cut the share out."""
        like = next(a for a in args if isinstance(a, Tensor))
        empty = like.new_empty(self.shape(_shape(func, args) or ()))
        if func in _LIKE:
            return self.cut(func(empty, *args[1:], **kwargs))
        if func in _NORMAL:  # mean + std * noise, as torch does
            noise = self.cut(aten.normal.Tensor_Tensor(torch.zeros_like(empty), torch.ones_like(empty), **kwargs))
            return noise * args[1] + args[0]
        if func is _BERNOULLI:  # the number of random bits does not depend on the probability
            return self.cut(func(self._around(args[0]), **kwargs))
        if func is _DROPOUT:
            mask = self.cut(func(torch.ones_like(empty), args[1], True)[1])
            return args[0] * mask / (1 - args[1]), mask
        return args[0].copy_(self.cut(func(empty, *args[1:], **kwargs)))

    def _around(self, share: Tensor) -> Tensor:
        """A tensor of the whole batch with the share in its rows, and 1/2 elsewhere."""
        rows = share.unflatten(self.dim, (self.repeats, self.share.length))
        before, after = self.share.start, self.share.total - self.share.start - self.share.length
        sides = [
            rows.new_full([*rows.shape[: self.dim + 1], n, *rows.shape[self.dim + 2 :]], 0.5) for n in (before, after)
        ]
        return torch.cat([sides[0], rows, sides[1]], self.dim + 1).flatten(self.dim, self.dim + 1)


def find_rows(run: Callable[..., Any], args: tuple[Any, ...], axes: Axes) -> list[tuple[int, int] | None]:
    """Dimension and number of repeats of the batch in each random tensor of a program; None for those without it.

    The program is run with one datum and with two, and the shapes are compared.

    Args:
        run: the program, called with the arguments of a batch.
        args: a batch.
        axes: the dimension of the data in each argument.

    Raises:
        ValueError: the random tensors depend on the number of data in another way.
    """
    shapes = []
    for rows in (1, 2):
        with _Shapes() as mode:
            run(*axes.take(args, torch.zeros(rows, dtype=torch.long)))
        shapes.append(mode.shapes)
    if [len(s) for s in shapes[0]] != [len(s) for s in shapes[1]]:
        rule = "a program must draw the same random tensors for every number of data"
        raise refusal("ranks", rule, "other tensors for one datum than for two", _ADVICE)
    return [_changed(one, two) for one, two in zip(*shapes, strict=True)]


def _changed(one: tuple[int, ...], two: tuple[int, ...]) -> tuple[int, int] | None:
    dims = [d for d in range(len(one)) if one[d] != two[d]]
    if not dims:
        return None
    if len(dims) > 1 or two[dims[0]] != 2 * one[dims[0]]:
        rule = "random tensors must grow with the batch in one dimension"
        raise refusal("ranks", rule, f"{one} and {two}", _ADVICE)
    return dims[0], one[dims[0]]


def _is_random(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


def _shape(func: Any, args: Any) -> tuple[int, ...] | None:
    """Shape of the tensor that a random function draws; None for an unknown function."""
    if func in _SIZED:
        return tuple(args[_SIZED[func]])
    if func in _LIKE or func in _NORMAL or func in _IN_PLACE or func in (_BERNOULLI, _DROPOUT):
        return tuple(torch.broadcast_shapes(*(a.shape for a in args if isinstance(a, Tensor))))
    return None
