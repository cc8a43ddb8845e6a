"""Reading of the files of results, with a check of every entry."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from pyro_vae._core.checks import refusal
from pyro_vae._core.files import INFINITE, json_ready, read_bytes

_MAX_BYTES = 500_000_000
_MAX_DEPTH = 3  # dimensions of a quantity per datum
_COUNTS = {"num_data", "num_samples", "num_chains", "num_distributions", "num_classes", "num_simulated", "dimensions"}
_SIZES = {"num_bins": 10_000}  # entries that loops and tensors of a result are as long as
_TEXTS = {"split", "dataset", "binarize"}
_TOLERANCE = 1e-4  # of a summary in float32 whose rows are read in float64


class ResultFile:
    """The file of a result, whose parts are checked when they are read.

    Args:
        path: the file.
        owner: name that messages begin with.

    Raises:
        OSError: the file is missing, unreadable or not a regular file.
        ValueError: the file is not JSON.
    """

    def __init__(self, path: str | Path, owner: str) -> None:
        self.path, self.owner = path, owner
        self._lengths: dict[str, tuple[int, str]] = {}  # by letter of a shape, with the first quantity that has it
        try:
            self.content: Any = json.loads(read_bytes(path, limit=_MAX_BYTES))
        except (ValueError, RecursionError) as error:
            raise refusal(owner, "the file must be JSON", f"{path} ({error})") from None

    def refuse(self, rule: str, got: object) -> NoReturn:
        """Raise a ValueError that names the file."""
        raise refusal(self.owner, rule, f"{str(got)[:200]} in {self.path}", "Restore the file, or evaluate again")

    @property
    def is_result(self) -> bool:
        """Whether the file holds a result, be it damaged."""
        return isinstance(self.content, dict) and "per_datum" in self.content

    def protocol(self) -> dict[str, Any]:
        """The protocol."""
        protocol = self._mapping("protocol")
        for name in protocol.keys() & (_COUNTS | _SIZES.keys()):
            value, limit = protocol[name], _SIZES.get(name, 2**53)
            if type(value) is not int or not 1 <= value <= limit:
                self.refuse(f"protocol.{name} must be an integer in 1..{limit}", repr(value))
        for name in protocol.keys() & _TEXTS:
            if not isinstance(protocol[name], str):
                self.refuse(f"protocol.{name} must be text", repr(protocol[name]))
        if type(protocol.get("sample_seed", 0)) is not int:
            self.refuse("protocol.sample_seed must be an integer", repr(protocol["sample_seed"]))
        return protocol

    def tensors(self, names: Mapping[str, bool], layout: Mapping[str, str]) -> dict[str, Tensor]:
        """The quantities per datum, in float64.

        Args:
            names: the quantities, and whether they may be missing.
            layout: by shape, such as ``"NC"``, the names of quantities; one letter is one length, which is not 0.
        """
        rows = self._mapping("per_datum")
        if missing := [name for name, optional in names.items() if not optional and name not in rows]:
            self.refuse(f"per_datum must have the entry {missing[0]!r}", sorted(rows))
        if unknown := sorted(rows.keys() - names.keys()):
            self.refuse(f"per_datum must have only the entries {', '.join(names)}", repr(unknown[0]))
        tensors = {name: self._tensor(f"per_datum.{name}", value) for name, value in rows.items()}
        for shape, listed in layout.items():
            for name in tensors.keys() & set(listed.split()):
                self._check_shape(name, tuple(tensors[name].shape), shape)
        return tensors

    def check(self, result: Any) -> None:
        """Require a result whose means, recomputed from its rows, are those of the file.

        Args:
            result: the result that was built from the file.
        """
        num_data, num_rows = result.protocol.get("num_data"), self._lengths.get("N", (None,))[0]
        if None not in (num_data, num_rows) and num_data != num_rows:
            self.refuse("protocol.num_data must be the number of rows", f"{num_data} and {num_rows} rows")
        summary = json_ready(self.computed(result.summary))
        self.computed(result.caption)
        self.computed(result.__str__)
        for name in summary.keys() & self.content.keys():
            self._compare(name, self.content[name], summary[name])

    def computed(self, compute: Callable[[], Any]) -> Any:
        """The value of a function of the result, which fails if entries are missing, wrong or contradictory."""
        try:
            return compute()
        except KeyError as error:
            self.refuse(f"protocol must have the entry {error}", "none")
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            self.refuse("the entries must agree with one another", f"{type(error).__name__} ({reason})")

    def _mapping(self, name: str) -> dict[str, Any]:
        value = self.content.get(name)
        if not isinstance(value, dict):
            self.refuse(f"{name} must be a mapping", f"a {type(value).__name__}")
        return value

    def _tensor(self, name: str, rows: Any) -> Tensor:
        values = self._floats(name, rows, 0)
        if not isinstance(values, list) or not values:
            self.refuse(f"{name} must be a list of rows", f"a {type(rows).__name__}" if rows else "no row")
        try:
            return torch.tensor(values, dtype=torch.float64)
        except (ValueError, TypeError):
            self.refuse(f"{name} must have rows of one length", "ragged rows")

    def _floats(self, name: str, value: Any, depth: int) -> Any:
        """Nested lists of floats, with the nulls of JSON as nan."""
        if isinstance(value, list) and depth < _MAX_DEPTH:
            return [self._floats(name, item, depth + 1) for item in value]
        if value is None or type(value) in (int, float) or (type(value) is str and value in INFINITE):
            try:
                return math.nan if value is None else INFINITE.get(value, value) + 0.0
            except OverflowError:
                pass
        self.refuse(f"{name} must hold numbers", f"{value!r:.60}")

    def _check_shape(self, name: str, shape: tuple[int, ...], letters: str) -> None:
        if len(shape) != len(letters) or 0 in shape:
            rule = f"per_datum.{name} must be of shape ({', '.join(letters)})"
            self.refuse(rule, f"{shape}")
        for letter, length in zip(letters, shape, strict=True):
            expected, other = self._lengths.setdefault(letter, (length, name))
            if length != expected:
                rule = f"per_datum.{name} and per_datum.{other} must be equally long"
                self.refuse(rule, f"{length} and {expected}")

    def _compare(self, name: str, stored: Any, computed: Any) -> None:
        if isinstance(computed, dict) and isinstance(stored, dict):
            for key in computed.keys() & stored.keys():
                self._compare(f"{name}.{key}", stored[key], computed[key])
        elif isinstance(computed, list) and isinstance(stored, list) and len(computed) == len(stored):
            for number, (a, b) in enumerate(zip(stored, computed, strict=True)):
                self._compare(f"{name}.{number}", a, b)
        elif isinstance(computed, dict | list):
            self.refuse(f"{name} must be a summary of the rows", f"{stored!r:.60}")
        elif type(computed) in (int, float, type(None)) and not _agree(stored, computed):
            self.refuse(f"{name} must be that of the rows, {computed!r:.60}", f"{stored!r:.60}")


def _agree(a: Any, b: Any) -> bool:
    """Whether two numbers are equal up to the rounding of float32; None, for nan, only equals None."""
    if a is None or type(a) not in (int, float) or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
