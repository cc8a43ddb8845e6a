"""Contexts that are functions of the data: entries that are seen, grey levels, a lower resolution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vae._core.checks import CheckedArguments, refusal, require
from pyro_vae.networks import Shape

REGIONS = ("top-half", "bottom-half", "left-half", "right-half", "top-left", "top-right", "bottom-left", "bottom-right")
"""Names of the parts of an image; ``all-but-`` before one is its complement."""
_SIZES = {"half-size": 2, "quarter-size": 4}


class Given(nn.Module, CheckedArguments, ABC):
    """A context that is a function of the data, :math:`c = c(x)`.

    Args:
        data_shape: shape of one datum x.
        context_shape: shape of c.
        seen: ``data_shape``, bool, the entries of x that c contains; None if c contains none of them as they are.
    """

    seen: Tensor | None

    def __init__(self, data_shape: Shape, context_shape: Shape, *, seen: Tensor | None = None) -> None:
        super().__init__()
        self.data_shape, self.context_shape = tuple(data_shape), tuple(context_shape)
        self.register_buffer("seen", seen, persistent=False)  # not saved, since it follows from the configuration

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The context, ``(*batch, *context_shape)``, of data ``(*batch, *data_shape)``."""


class SeenEntries(Given):
    """The entries of x that are seen; the others are set to 0.

    Args:
        seen: ``data_shape``, bool, the entries that are seen: a part of an image, or columns of a table.

    Raises:
        ValueError: every entry is seen, or none.

    Example:
        >>> given = SeenEntries(torch.tensor([True, False, True]))
        >>> given(torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[1., 0., 3.]])
    """

    seen: Tensor

    def __init__(self, seen: Tensor) -> None:
        super().__init__(tuple(seen.shape), tuple(seen.shape), seen=seen.clone())
        valid = seen.dtype == torch.bool and seen.dim() > 0 and bool(seen.any()) and not bool(seen.all())
        rule, got = "seen must be a bool tensor with True and False", f"{seen.dtype} of shape={tuple(seen.shape)}"
        require(valid, "SeenEntries", rule, got, "Mark the entries that the context shows")

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self.seen, x, torch.zeros((), dtype=x.dtype, device=x.device))


class GreyLevels(Given):
    """The mean of the channels of an image, ``(1, H, W)``: the context of colorization.

    Args:
        data_shape: ``(C, H, W)`` with C > 1.

    Raises:
        ValueError: the data are not images of several channels.

    Example:
        >>> GreyLevels((3, 4, 4))(torch.ones(5, 3, 4, 4)).shape
        torch.Size([5, 1, 4, 4])
    """

    def __init__(self, data_shape: Shape) -> None:
        several = len(data_shape) == 3 and data_shape[0] > 1
        rule = "data must be images of several channels"
        require(several, "GreyLevels", rule, f"data_shape={tuple(data_shape)}", "Use a part of the image instead")
        super().__init__(data_shape, (1, *data_shape[1:]))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-3, keepdim=True)


class LowResolution(Given):
    """The means of blocks of pixels, ``(C, H / factor, W / factor)``: the context of super-resolution.

    Args:
        data_shape: ``(C, H, W)``.
        factor: width of a block, a divisor of H and W.

    Raises:
        ValueError: the data are not images, or the factor is not a divisor above 1.

    Example:
        >>> LowResolution((1, 8, 8), 4)(torch.ones(5, 1, 8, 8)).shape
        torch.Size([5, 1, 2, 2])
    """

    def __init__(self, data_shape: Shape, factor: int = 2) -> None:
        valid = len(data_shape) == 3 and factor > 1 and data_shape[1] % factor == data_shape[2] % factor == 0
        rule, got = "factor must divide height and width of the images", f"factor={factor} for {tuple(data_shape)}"
        require(valid, "LowResolution", rule, got, "Use another factor, or pad the images")
        super().__init__(data_shape, (data_shape[0], data_shape[1] // factor, data_shape[2] // factor))
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.factor)).unflatten(-3, (-1, self.factor)).mean((-1, -3))


def given_part(name: str, data_shape: Shape, columns: Sequence[str] | None = None) -> Given:
    """The context of a name.

    Args:
        name: a part of an image, of :data:`REGIONS` or ``all-but-`` and one of these; ``grey``; ``half-size`` or
            ``quarter-size``; or columns of a table, their names or numbers from 0, separated by commas.
        data_shape: shape of one datum.
        columns: names of the columns of a table.

    Raises:
        ValueError: there is no such part, or the data are of another kind.

    Example:
        >>> given_part("top-half", (1, 4, 2)).seen.int().tolist()
        [[[1, 1], [1, 1], [0, 0], [0, 0]]]
        >>> given_part("sex,age", (3,), ["age", "height", "sex"]).seen.tolist()
        [True, False, True]
    """
    shape = tuple(data_shape)
    if len(shape) == 1:
        return SeenEntries(_columns(name, shape[0], columns))
    if name == "grey":
        return GreyLevels(shape)
    if name in _SIZES:
        return LowResolution(shape, _SIZES[name])
    region = name.removeprefix("all-but-")
    if region not in REGIONS or len(shape) != 3:
        rule = f"must be label, grey, {', '.join(_SIZES)}, a part of the images ({', '.join(REGIONS)}) or all-but-PART"
        raise refusal("--data.context", rule, name, "Choose one")
    rows, cols = torch.zeros(shape[1], dtype=torch.bool), torch.zeros(shape[2], dtype=torch.bool)
    for axis, first, last in ((rows, "top", "bottom"), (cols, "left", "right")):
        half = len(axis) // 2
        axis[: half if first in region else len(axis) if last not in region else 0] = True
        axis[half:] |= last in region
    seen = (rows.unsqueeze(-1) & cols).expand(shape)
    return SeenEntries(~seen if region != name else seen)


def _columns(name: str, size: int, columns: Sequence[str] | None) -> Tensor:
    known = [str(i) for i in range(size)] if columns is None else [str(column) for column in columns]
    seen = torch.zeros(size, dtype=torch.bool)
    for column in (part.strip() for part in name.split(",")):
        if column not in known:
            choices = f"0 to {size - 1}" if columns is None else ", ".join(known[:20])
            rule, advice = f"must be label or columns of the table, {choices}", "Separate several by commas"
            raise refusal("--data.context", rule, column, advice)
        seen[known.index(column)] = True
    return seen
