"""Data of several arrays, such as data with their contexts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae._core.checks import refusal, require
from pyro_vae._core.fingerprint import fingerprint_of


@dataclass(frozen=True, eq=False)
class JoinedRows:
    """Arrays of one length, whose rows are the arguments of a program: data x and contexts c.

    Args:
        tensors: ``(N, ...)`` each; contexts of an integer dtype are classes, ``(N,)``.

    Example:
        >>> rows = JoinedRows((torch.zeros(4, 5), torch.tensor([0, 2, 1, 1])))
        >>> [values.tolist() for values in rows.arguments(torch.tensor([1, 3]))[1:]]
        [[2, 1]]
    """

    tensors: tuple[Tensor, ...]
    rows = None

    @classmethod
    def of(cls, tensors: tuple[Tensor, ...], *, owner: str) -> JoinedRows:
        """Check the arrays.

        Raises:
            ValueError: they differ in length, or a class is not one integer.
        """
        shapes = [tuple(tensor.shape) for tensor in tensors]
        equal = all(shapes) and len({(len(tensor), tensor.device) for tensor in tensors}) == 1
        advice = "Pass (x, c) of one length, or one tensor"
        require(equal, owner, "a tuple of data must hold arrays of one length and device", f"shapes={shapes}", advice)
        for tensor, shape in zip(tensors[1:], shapes[1:], strict=True):
            if not tensor.is_floating_point() and len(shape) > 1:
                rule, advice = "a context of an integer dtype must be one class per datum", "Convert it with .float()"
                raise refusal(owner, rule, f"shape={shape}", advice)
        return cls(tensors)

    def __len__(self) -> int:
        return len(self.tensors[0])

    @property
    def device(self) -> torch.device:
        """Device of the data."""
        return self.tensors[0].device

    @property
    def shape(self) -> torch.Size:
        """Shape of the data."""
        return self.tensors[0].shape

    def arguments(self, index: Tensor) -> tuple[Tensor, ...]:
        """The rows at ``index`` of every array."""
        return tuple(tensor.index_select(0, index) for tensor in self.tensors)

    def fingerprint(self) -> str:
        """A hash of all arrays, 16 hexadecimal digits."""
        return fingerprint_of({f"argument {i}": tensor for i, tensor in enumerate(self.tensors)})
