"""Results as table rows and sentences of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pyro_vae.evaluation import Classification, Result, Sandwich

CLASS_HEADER = [
    *("by", "split", "examples"),
    *("error [%]", "over data", "cross entropy", "Brier score", "calibration error"),
]
BOUND_HEADER = [
    *("method", "settings"),
    *("log p(x)", "Monte Carlo", "over data", "bits/dim", "ELBO", "flagged"),
]
_SETTINGS = [
    *("num_samples", "proposal"),
    *("num_distributions", "num_chains", "num_steps", "start", "schedule", "precision", "weights"),
]


def class_row(result: Classification) -> list[str]:
    """Classifier, data and errors, in the columns of :data:`CLASS_HEADER`."""
    p = result.protocol
    data = [str(p.get("classified_by", "")), str(p.get("split", "")), str(len(result))]
    errors = (result.error_rate, result.sampling_error("error"))
    scores = (result.mean("cross_entropy"), result.mean("brier"), result.reliability().error)
    return [*data, *(f"{value:.2f}" for value in errors), *map(nats, scores)]


def bound_row(result: Result) -> list[str]:
    """Data, settings and estimate of log p(x), in the columns of :data:`BOUND_HEADER`."""
    p, flagged = result.protocol, getattr(result, "flagged", None)
    bits = -result.mean() / math.log(2) / int(p["dimensions"]) if p.get("discrete") else math.nan
    elbo = result.mean("elbo") if hasattr(result, "elbo") else math.nan
    numbers = (result.mean(), result.monte_carlo_error(), result.sampling_error(), bits, elbo)
    return [result.method, settings(p), *map(nats, numbers), "-" if flagged is None else str(len(flagged()))]


def settings(protocol: Mapping[str, Any]) -> str:
    """The protocol entries of an estimator."""
    return ", ".join(f"{name}={protocol[name]}" for name in _SETTINGS if name in protocol)


def bracket(result: Sandwich) -> str:
    """The bounds of a sandwich as a sentence."""
    gap, error = result.gap()
    text = f"On {len(result)} examples simulated from the model the upper bound is {nats(gap)} \N{PLUS-MINUS SIGN} "
    text += f"{nats(error)} nats above the lower one ({settings(result.protocol)})."
    if gap <= 0:
        return f"{text} It does not differ from zero; more chains or more data would resolve it."
    if result.log_likelihood is None:
        return text
    low, high = map(nats, result.bracket())
    return f"{text} The mean of the real data is at least {low} nats and, if they resemble these, at most {high} nats."


def nats(value: Any) -> str:
    """A number with three decimals; a dash if it is unknown."""
    return "-" if value is None or math.isnan(float(value)) else f"{float(value):.3f}".replace("-", "\N{MINUS SIGN}")


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested options by their dotted names on the command line."""
    if not isinstance(config, dict):
        return {prefix: config}
    options: dict[str, Any] = {}
    for key, value in config.items():
        name = prefix if key in ("class_path", "init_args") else f"{prefix}.{key}".lstrip(".")
        options |= flat(value, name)
    return options


def rows_of(entries: Mapping[str, Any]) -> list[list[str]]:
    """Names and values, a row for each."""
    return [[key, "none" if value is None else str(value)] for key, value in entries.items()]
