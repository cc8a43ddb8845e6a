"""The head of a report: one number, its errors, whether to trust it, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timezone

from pyro_vae.evaluation import Classification, LogLikelihood, Result
from pyro_vae.experiments.commands import with_commands
from pyro_vae.experiments.report_rows import nats
from pyro_vae.training import RunFolder

_PM = "\N{PLUS-MINUS SIGN}"


def headline(result: Result | None) -> str:
    """The main number with its unit and what it was measured on."""
    if result is None:
        return "No result of the present weights yet"
    p, bits = result.protocol, ""
    on = f"{len(result)} {p.get('split', '')} examples of {p.get('dataset', 'the data')}".replace("  ", " ")
    if isinstance(result, Classification):
        return f"{result.error_rate:.2f}% of {on} are misclassified"
    if p.get("discrete"):
        bits = f", {-result.mean() / math.log(2) / int(p['dimensions']):.4f} bits per dimension"
    sign = "=" if p.get("estimator") == "exact" else "\N{GREATER-THAN OR EQUAL TO}"
    return f"log p(x) {sign} {nats(result.mean())} nats per datum{bits}, on {on}"


def errors(result: Result) -> str:
    """The standard errors of the headline's number."""
    if isinstance(result, Classification):
        return f"{_PM} {result.sampling_error('error'):.2f}% over data (standard error)."
    noise = f"{_PM} {nats(result.monte_carlo_error())} from the samples of the estimate, for exactly these data; "
    return f"{noise}{_PM} {nats(result.sampling_error())} over data drawn anew (standard errors)."


def trust(result: Result, stale: int) -> str:
    """Verdict of the diagnostics on the number."""
    verdict = with_commands(" ".join(result.notes())) or "Its diagnostics find nothing wrong."
    if isinstance(result, LogLikelihood) and math.isnan(result.untrusted()):
        verdict = "Unknown whether to trust it: fewer than 25 samples have no Pareto k."
    elif isinstance(result, LogLikelihood) and result.protocol.get("estimator") != "exact" and not result.is_doubtful():
        verdict = f"To be trusted: the Pareto k is above 0.7 for {result.untrusted():.1%} of the data only."
    return f"{verdict} Results of earlier weights: {stale}." if stale else verdict


def following(missing: Sequence[str]) -> str:
    """The next command, of a bound by another estimator if there is one; empty without commands."""
    others = [command for command in missing if command.endswith(("--method ais", "--method sandwich"))]
    return next(iter([*others, *missing]), "")


def origin(run: RunFolder) -> str:
    """Fingerprint, date and versions of the weights."""
    if not run.has_weights():
        return "The training has not ended."
    p = run.provenance()
    written = datetime.fromtimestamp((run.path / "weights.safetensors").stat().st_mtime, tz=timezone.utc)
    versions = f"pyro_vae {p.get('version', 'of an earlier version')}, torch {p.get('torch', 'unknown')}"
    return f"Weights {p['weights_sha256']} of epoch {p.get('epoch', '?')}, {written:%Y-%m-%d %H:%M} UTC; {versions}."


def machine_of(run: RunFolder) -> dict[str, str]:
    """Machine and versions of the training that wrote the weights, by name; ``not recorded`` in earlier versions."""
    p = run.provenance() if run.has_weights() else {}
    names = {"version": "pyro_vae", **{name: name for name in ("torch", "pyro-ppl", "python", "system", "machine")}}
    return {name: p.get(key, "not recorded") for key, name in names.items()}
