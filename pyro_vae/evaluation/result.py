"""What every evaluation returns: numbers per datum with the protocol that made them."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from pyro_vae._core.files import json_ready, write_atomically

R = TypeVar("R", bound="Result")


@dataclass(frozen=True)
class Result(ABC):
    """Numbers per datum and the protocol that made them.

    A subclass is a frozen dataclass whose fields are tensors with one row per datum.

    Attributes:
        protocol: how the numbers were made; what makes them comparable with others, or not.
        method: what the result is called in files and on the command line.
    """

    method: ClassVar[str]

    protocol: dict[str, Any] = field(default_factory=dict, kw_only=True)

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """The means with their errors, for the head of the file."""

    def tensors(self) -> dict[str, Tensor]:
        """The numbers per datum, by name."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def __len__(self) -> int:
        return len(next(iter(self.tensors().values())))

    def mean(self, name: str = "log_likelihood") -> float:
        """The mean of a quantity over the data."""
        return float(getattr(self, name).mean())

    def sampling_error(self, name: str = "log_likelihood") -> float:
        """Standard error of a mean as an estimate for the population that the data were drawn from."""
        values = getattr(self, name)
        return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan

    def means(self, *names: str) -> dict[str, dict[str, float]]:
        """Mean and sampling error of several quantities."""
        return {name: {"mean": self.mean(name), "sampling_error": self.sampling_error(name)} for name in names}

    def gain(self: R, other: R, name: str = "log_likelihood") -> tuple[float, float]:
        """The mean difference to another result of the same data, in nats, and its standard error, datum by datum.

        The spread over the data, which both share, is not in that error, so that small differences can be seen.

        Raises:
            ValueError: the other is of another number of data.
        """
        if len(self) != len(other):
            raise ValueError(
                f"{type(self).__name__}: both results must be of the same data, got {len(self)} and {len(other)} data. "
                "Evaluate both on the same ones."
            )
        difference = getattr(self, name) - getattr(other, name)
        error = float(difference.std() / math.sqrt(len(difference))) if len(difference) > 1 else math.nan
        return float(difference.mean()), error

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write summary, protocol and per-datum numbers as JSON, atomically.

        Args:
            path: the file.
            overwrite: replace a file that is there.

        Raises:
            FileExistsError: the file is there and ``overwrite`` is False.
        """
        data = {name: value.tolist() for name, value in self.tensors().items()}
        content = {"method": self.method, **self.summary(), "protocol": self.protocol, "per_datum": data}
        text = json.dumps(json_ready(content), allow_nan=False, indent=1)
        write_atomically(Path(path), (text + "\n").encode(), overwrite=overwrite)

    @classmethod
    def load(cls: type[R], path: str | Path) -> R:
        """Read what :meth:`save` wrote; ``Result.load`` reads every kind.

        Raises:
            ValueError: the file is that of another kind of result, or no result.
        """
        content = json.loads(Path(path).read_text())
        found = content.get("method", "importance") if isinstance(content, dict) else None
        kind = next((k for k in (cls, *cls.__subclasses__()) if getattr(k, "method", None) == found), None)
        if kind is None or "per_datum" not in content:
            raise ValueError(
                f"{cls.__name__}: the file must hold such a result, got {path} with method={found!r}. "
                "Use Result.load for any kind."
            )
        tensors = {
            name: torch.tensor(_numbers(rows), dtype=torch.float64) for name, rows in content["per_datum"].items()
        }
        return kind(**tensors, protocol=content["protocol"])


def _numbers(rows: Any) -> Any:
    """JSON has no nan: it is null there."""
    if isinstance(rows, list):
        return [_numbers(row) for row in rows]
    return math.nan if rows is None else float(rows)
