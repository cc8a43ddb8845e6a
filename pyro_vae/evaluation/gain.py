"""Paired difference of two results."""

from __future__ import annotations


class Gain(tuple[float, float]):
    """Mean difference of a quantity between two results on the same data: the tuple ``(value, error)``.

    Attributes:
        value: the mean over the data of this result's numbers minus the other's.
        error: its standard error, paired by datum; nan for a single datum.
        name: the quantity, such as ``"log_likelihood"``.
        unit: of both numbers, such as ``"nats"``.

    Example:
        >>> gain = Gain(0.291, 0.0102, "elbo", "nats")
        >>> print(gain)
        elbo: +0.291 +- 0.010 nats
        >>> value, error = gain
    """

    value: float
    error: float
    name: str
    unit: str

    def __new__(cls, value: float, error: float, name: str = "log_likelihood", unit: str = "nats") -> Gain:
        gain = super().__new__(cls, (value, error))
        gain.value, gain.error, gain.name, gain.unit = value, error, name, unit
        return gain

    def __str__(self) -> str:
        return f"{self.name}: {self.value:+.3f} +- {self.error:.3f} {self.unit}"
