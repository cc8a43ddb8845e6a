"""Results as rows of tables and as sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from pyro_vae.evaluation import Classification, Result


def class_row(result: Classification) -> list[str]:
    """What tells the classes, of which data; error, its standard error, cross entropy, Brier score, calibration."""
    p = result.protocol
    where = [str(p.get("classified_by", "")), str(p.get("split", "")), str(len(result))]
    numbers = result.error_rate, result.sampling_error("error"), result.mean("cross_entropy"), result.mean("brier")
    return [*where, *(f"{value:.2f}" for value in numbers[:2]), *map(nats, (*numbers[2:], result.reliability().error))]


def bound_row(result: Result) -> list[str]:
    """Method, part, data and protocol of an estimate of log p(x), and its numbers in nats."""
    p, told = result.protocol, getattr(result, "flagged", None)
    errors: Any = getattr(result, "standard_error", torch.tensor([math.nan]))
    noise = float(errors.square().sum().sqrt() / len(result))
    where = [result.method, str(p.get("split", "")), str(len(result)), how(p)]
    bits = -result.mean() / math.log(2) / int(p["dimensions"]) if p.get("discrete") else math.nan
    elbo = result.mean("elbo") if hasattr(result, "elbo") else math.nan
    numbers = (result.mean(), noise, result.sampling_error(), bits, elbo)
    return [*where, *map(nats, numbers), "-" if told is None else str(len(told()))]


def how(protocol: Mapping[str, Any]) -> str:
    """How a result was made, in short."""
    names = (
        "num_samples",
        "proposal",
        "num_distributions",
        "num_chains",
        "num_steps",
        "start",
        "schedule",
        "precision",
    )
    return ", ".join(f"{name}={protocol[name]}" for name in names if name in protocol)


def bracket(result: Any) -> str:
    """What bounds from both sides say, as a sentence."""
    gap, error = result.gap()
    told = f"On {len(result)} data simulated from the model the upper bound is {nats(gap)} \N{PLUS-MINUS SIGN} "
    told += f"{nats(error)} nats above the lower one ({how(result.protocol)})."
    if gap <= 0:
        return f"{told} It is too small to be told from zero: more chains or more data would show it."
    if result.log_likelihood is None:
        return told
    low, high = map(nats, result.bracket())
    return (
        f"{told} The real data's mean is at least {low} nats and, as far as they are like these, at most {high} nats."
    )


def nats(value: Any) -> str:
    """A number with three decimals; a dash where it is not known."""
    return "-" if value is None or math.isnan(float(value)) else f"{float(value):.3f}".replace("-", "\N{MINUS SIGN}")


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested options by their dotted names, as the command line writes them."""
    if not isinstance(config, dict):
        return {prefix: config}
    found: dict[str, Any] = {}
    for key, value in config.items():
        inner = prefix if key in ("class_path", "init_args") else f"{prefix}.{key}".lstrip(".")
        found |= flat(value, inner)
    return found


def rows_of(entries: Mapping[str, Any]) -> list[list[str]]:
    """Names and values, a row for each."""
    return [[key, "none" if value is None else str(value)] for key, value in entries.items()]
