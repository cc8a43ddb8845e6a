"""Base class of evaluation results: numbers per datum, their protocol, and how they are presented."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from textwrap import wrap
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from pyro_vae._core.checks import refusal, require
from pyro_vae._core.files import json_ready, write_atomically
from pyro_vae._core.html import folded
from pyro_vae.evaluation.caption import caption_of
from pyro_vae.evaluation.gain import Gain
from pyro_vae.evaluation.result_file import ResultFile
from pyro_vae.evaluation.tables import dataframe_of, dataset_of

R = TypeVar("R", bound="Result")
_WIDTH = 120  # of printed text


@dataclass(frozen=True)
class Quantity:
    """A number of a result that tables compare.

    Args:
        name: the attribute with one row per datum; if unpaired, a number or a method that returns a mean and its
            standard error.
        label: its printed name.
        unit: ``"nats"``, ``"%"``, or the counted objects.
        paired: whether the rows belong to the data, so that differences between results are taken datum by datum.
        error: the attribute with the Monte Carlo standard error of each row; empty if tables show no such error.
    """

    name: str
    label: str
    unit: str = "nats"
    paired: bool = True
    error: str = ""


TOPICS = ("classes", "bounds", "gaps", "diagnostics", "outliers", "other")
"""Topics of results, in the order of reports and tables."""
LOG_LIKELIHOOD = Quantity("log_likelihood", "log-likelihood", error="standard_error")


@dataclass(frozen=True)
class Result(ABC):
    """Base class of evaluation results: numbers per datum and the protocol that produced them.

    A subclass is a frozen dataclass whose fields are tensors with one row per datum. Its class attributes describe it,
    so that files, tables, figures and reports need no list of kinds to show a new one.

    Attributes:
        protocol: data, weights and settings that produced the numbers; only results of one protocol are comparable.
        method: name in files and on the command line.
        title: noun phrase for headings and help texts.
        topic: section of a report, one of :data:`TOPICS`.
        quantities: the numbers that tables compare.
        layout: by shape, the names of fields with this shape, for the check of files: ``{"N": "lower upper"}``; one
            letter is one length, N the number of data. Fields that are not listed may have any shape.
        phrases: caption phrases of protocol entries, if they differ from those of
            :data:`~pyro_vae.evaluation.caption.PHRASES`.
        alternative_text: describes the figure to readers who cannot see it; by default the title.
    """

    method: ClassVar[str]
    title: ClassVar[str]
    topic: ClassVar[str] = "other"
    quantities: ClassVar[tuple[Quantity, ...]] = ()
    layout: ClassVar[Mapping[str, str]] = {}
    phrases: ClassVar[Mapping[str, str]] = {}
    alternative_text: ClassVar[str] = ""

    protocol: dict[str, Any] = field(default_factory=dict, kw_only=True)

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """Means with their errors, written at the head of the file."""

    @abstractmethod
    def lines(self) -> list[str]:
        """The result as lines of text, without advice and protocol."""

    def advice(self) -> str:
        """Explain what is wrong with the numbers and how to improve them; empty if nothing is."""
        return ""

    def caption(self) -> str:
        """The protocol in words."""
        return caption_of(self.protocol, self.phrases)

    def is_doubtful(self) -> bool:
        """Whether the advice is a warning, since the mean itself may be wrong, and not a remark."""
        return False

    def notes(self) -> list[str]:
        """The advice as a line of text, by its weight; empty without advice."""
        kind = "warning" if self.is_doubtful() else "note"
        return [f"{kind}: {self.advice()}"] if self.advice() else []

    def __str__(self) -> str:
        weights = str(self.protocol.get("weights_sha256", ""))[:8]
        protocol = ", ".join(filter(None, [self.caption(), weights and f"weights {weights}"]))
        notes = [line for note in self.notes() for line in wrap(note, _WIDTH, subsequent_indent="  ")]
        return "\n".join([*self.lines(), *notes, *wrap(f"protocol: {protocol}", _WIDTH, subsequent_indent="  ")])

    def tensors(self) -> dict[str, Tensor]:
        """The fields that hold numbers per datum, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def __len__(self) -> int:
        return len(next(iter(self.tensors().values())))

    def mean(self, name: str = "log_likelihood") -> float:
        """Mean of a quantity over the data."""
        return float(getattr(self, name).mean())

    def sampling_error(self, name: str = "log_likelihood") -> float:
        """Standard error of the mean as an estimate for the population that the data were drawn from."""
        return mean_error(getattr(self, name))

    def standard_errors(self, name: str = "log_likelihood") -> Tensor | None:
        """Monte Carlo standard errors of a quantity, one per row; None if they are unknown."""
        errors = {"log_likelihood": "standard_error", **{q.name: q.error for q in self.quantities if q.error}}
        return getattr(self, errors.get(name, f"{name}_error"), None)

    def monte_carlo_error(self, name: str = "log_likelihood") -> float:
        """Standard error of the mean over exactly these data, which more samples reduce; nan if it is unknown."""
        errors = self.standard_errors(name)
        return math.nan if errors is None else float(errors.square().sum().sqrt() / len(errors))

    def means(self, *names: str) -> dict[str, dict[str, float]]:
        """Mean, sampling error and, for a quantity of :attr:`quantities` that has one, Monte Carlo error."""
        with_error = {q.name for q in self.quantities if q.error}
        entries = {name: {"mean": self.mean(name), "sampling_error": self.sampling_error(name)} for name in names}
        noise = {name: {"monte_carlo_error": self.monte_carlo_error(name)} for name in names if name in with_error}
        return {name: {**entry, **noise.get(name, {})} for name, entry in entries.items()}

    def log_likelihood_lines(self, remark: str) -> list[str]:
        """The mean log-likelihood with both of its errors; the remark follows the unit."""
        errors = f"+- {self.monte_carlo_error():.3f} Monte Carlo, +- {self.sampling_error():.3f} over data"
        return [f"log-likelihood  {self.mean():.3f} nats per datum{remark}", f"                {errors}"]

    def gain(self, other: Result, name: str = "log_likelihood") -> Gain:
        """Mean difference to another result on the same data and its standard error, paired by datum.

        The spread over the data, which both share, cancels in the difference, so that small gains are measurable.
        ``value, error = a.gain(b)`` unpacks it.

        Raises:
            ValueError: the results have different numbers of data.
        """
        rule, got = "both results must be of the same data", f"{len(self)} and {len(other)} data"
        require(len(self) == len(other), type(self).__name__, rule, got)
        difference = getattr(self, name) - getattr(other, name)
        units = {quantity.name: quantity.unit for quantity in self.quantities}
        return Gain(float(difference.mean()), mean_error(difference), name, units.get(name, "nats"))

    def to_dataframe(self) -> Any:
        """The numbers as a ``pandas.DataFrame``: a row per datum, a column per number; ``attrs`` is the protocol.

        Columns of a field with several numbers per datum are ``curve[0]``, ``curve[1]``, ...; fields whose rows are not
        those of the data are left out.

        Raises:
            ValueError: pandas is not installed.
        """
        return dataframe_of(self.tensors(), self.layout, {"method": self.method, **self.protocol})

    def to_xarray(self) -> Any:
        """All tensors as an ``xarray.Dataset``, whose dimension of the data is ``datum``.

        Raises:
            ValueError: xarray is not installed.
        """
        return dataset_of(self.tensors(), self.layout, {"method": self.method, **self.protocol})

    def _repr_html_(self) -> str:
        return folded(self.title, [*self.lines(), *self.notes()], protocol=self.protocol)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write summary, protocol and per-datum numbers as JSON, atomically.

        Args:
            path: the file.
            overwrite: replace an existing file.

        Raises:
            FileExistsError: the file exists and ``overwrite`` is False.
        """
        rows = {name: value.tolist() for name, value in self.tensors().items()}
        content = {"method": self.method, **self.summary(), "protocol": self.protocol, "per_datum": rows}
        text = json.dumps(json_ready(content), allow_nan=False, indent=1)
        write_atomically(Path(path), (text + "\n").encode(), overwrite=overwrite)

    @classmethod
    def load(cls: type[R], path: str | Path) -> R:
        """Read a file of :meth:`save`; ``Result.load`` reads every kind.

        Raises:
            OSError: the file is missing, unreadable, or not a regular file.
            ValueError: the file holds another kind of result, or no result; or an entry of it, which the error names,
                is missing, of another type or shape, or contradicts others, such as a mean that is not that of the
                rows.
        """
        file = ResultFile(path, cls.__name__)
        method = file.content.get("method", "importance") if file.is_result else None
        kind = next((k for k in (cls, *cls.__subclasses__()) if getattr(k, "method", None) == method), None)
        if kind is None or not file.is_result:
            rule, got = "the file must hold a result of this kind", f"{path} with method={method!r}"
            raise refusal(cls.__name__, rule, got, "Use Result.load for any kind")
        optional = {f.name: f.default is not MISSING for f in fields(kind) if f.name != "protocol"}
        tensors, protocol = file.tensors(optional, kind.layout), file.protocol()
        result: R = file.computed(lambda: kind(**tensors, protocol=protocol))
        file.check(result)
        return result


def mean_error(values: Tensor) -> float:
    """Standard error of the mean of independent values; nan for a single one."""
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
