"""The environment of a measurement, and tables of its results."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from record import machine
from roofline import Peaks, Work
from timing import QUIET

Record = dict[str, Any]


def environment(when: str | None, device: torch.device) -> Record:
    """Machine, versions, threads, date and command, without paths."""
    return {
        "date": when or date.today().isoformat(),
        "command": command(sys.argv),
        "machine": {**machine(), **{name: _version(name) for name in ("numpyro", "jax")}},
        "device": device.type,
        "threads": torch.get_num_threads(),
        "thread_limits": {k: v for k, v in os.environ.items() if k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")},
        "matmul_precision": torch.get_float32_matmul_precision(),
    }


def command(words: Sequence[str]) -> str:
    """The command line, with paths reduced to their last component."""
    script, *rest = words
    return shlex.join(["python", f"benchmarks/{os.path.basename(script)}", *(re.sub(r"[^=\s]*/", "", w) for w in rest)])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def headline(record: Record) -> str:
    """Machine, versions, command and data as text."""
    m, data = record["machine"], record["protocol"]["data"]
    machine_name = m["gpu"] if record["device"] == "cuda" else f"{m['processor']}, {m['cores']} cores"
    versions = ", ".join(f"{k} {m[k]}" for k in ("torch", "pyro-ppl", "pyro-vae", "numpyro", "jax") if m[k])
    lines = [
        f"{machine_name}, {record['threads']} threads of torch, {record['date']}",
        versions,
        record["command"],
        data,
    ]
    return "\n".join(lines)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Aligned columns: the first ``left`` to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = []
    for row in (header, ["-" * w for w in widths], *rows):
        cells = (c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def spread(values: Sequence[float] | None, form: str | None = None) -> str:
    """``median [lower quartile, upper quartile]``, or a dash; three digits unless ``form`` is given."""
    if values is None:
        return "-"
    low, middle, high = ((form or ("{:.3g}" if v < 1000 else "{:.0f}")).format(v) for v in values)
    return f"{middle} [{low}, {high}]"


def peaks_line(peaks: Peaks, dtype: str = "float32") -> str:
    return (
        f"roofline: {peaks.operations / 1e9:,.0f} GFLOP/s in {dtype} products; copies at {peaks.bandwidth / 1e9:,.0f} "
        f"GB/s read and written, beyond the caches {peaks.memory_bandwidth / 1e9:,.0f}; measured with this table"
    )


def speed_table(record: Record) -> str:
    """The tables of ``speed.py``: times, bounds and ranks."""
    peaks = Peaks(**record["peaks"])
    times = [row for case in record["cases"] for row in _times(case, peaks)]
    header = ["program", "width", "batch", "candidate", "ms per step", "examples/s", "x Pyro", "of bound"]
    parts = [table(header, times, left=4), peaks_line(peaks)]
    header = ["program", "width", "batch", "parameters", "GFLOP", "MB", "FLOP/byte", "ms at least", "limit"]
    parts.append(table(header, [_bound(case, peaks) for case in record["cases"]], left=3))
    loud = [f"{', '.join(_label(c))}: {c['others']:.0%}" for c in record["cases"] if c["others"] > QUIET]
    if loud:
        parts.append("not quiet: other programs took up to this share of the processor at\n" + "\n".join(loud))
    if record["ranks"]:
        parts.append(_ranks(record["ranks"]))
    return "\n\n".join(parts)


def work(case: Record) -> Work:
    return Work(case["operations"], case["bytes"])


def _label(case: Record) -> list[str]:
    particles = case.get("particles", 1)
    name = case["program"] if particles == 1 else f"{case['program']}, {particles} particles"
    return [name, str(case["width"]), str(case["batch"])]


def _times(case: Record, peaks: Peaks) -> list[list[str]]:
    rows, bound = [], 1e3 * peaks.seconds(work(case))
    for c in case["candidates"]:
        name = f"{c['name']} ({c['note']})" if c["note"] and c["milliseconds"] else c["name"]
        ms = c["milliseconds"]
        rate, share = (f"{1e3 * case['batch'] / ms[1]:,.0f}", f"{bound / ms[1]:.1%}") if ms else ("-", "-")
        rows.append([*_label(case), name, spread(ms), rate, spread(c["speedup"], "{:.2f}"), share])
    return rows


def _bound(case: Record, peaks: Peaks) -> list[str]:
    step = work(case)
    size = [f"{step.operations / 1e9:.3g}", f"{step.bytes / 1e6:.3g}", f"{step.operations / step.bytes:.3g}"]
    return [*_label(case), f"{case['parameters']:,}", *size, f"{1e3 * peaks.seconds(step):.3g}", peaks.limit(step)]


def _ranks(record: list[Record]) -> str:
    header, keys = ["program", "batch", "ranks", "threads per rank"], ("program", "batch", "ranks", "threads")
    rows = [[*(str(r[k]) for k in keys), spread(r["examples_per_second"], "{:,.0f}")] for r in record]
    return table([*header, "examples/s of fit"], rows)


def likelihood_table(record: Record) -> str:
    """The tables of ``likelihood.py``: times and values, their ratios, bounds and memory."""
    peaks = {key: Peaks(**p) for key, p in record["peaks"].items()}
    header = ["samples", "estimator", "ms per image", "start, s", "nats", "+- MC", "off by", "largest", "of bound"]
    parts = [table(header, [row for case in record["cases"] for row in _estimates(case, peaks)], left=2)]
    parts += [_ratios(case) for case in record["cases"]]
    parts += [peaks_line(p, {"fp32": "float32", "bf16": "bfloat16"}[key]) for key, p in peaks.items()]
    header = ["samples", "images", "GFLOP per image", "MB", "ms at least, fp32", "bf16"]
    rows = []
    for case in record["cases"]:
        size = [f"{case['operations'] / 1e9:.3g}", f"{case['bytes'] / 1e6:.3g}"]
        bounds = [f"{1e3 * p.seconds(work(case)):.3g}" for p in peaks.values()]
        rows.append([str(case["num_samples"]), str(case["images"]), *size, *bounds])
    parts.append(table(header, rows))
    if record["memory"]:
        parts.append(_memory(record["memory"]))
    return "\n\n".join(parts)


def _estimates(case: Record, peaks: dict[str, Peaks]) -> list[list[str]]:
    rows = []
    for e in case["estimators"]:
        bound = 1e3 * peaks["bf16" if "bf16" in e["name"] else "fp32"].seconds(work(case))
        ms, start = e["milliseconds_per_image"], f"{e['start_seconds'][1]:.1f}"
        value = ["-"] * 4
        if "log_likelihood" in e:
            value = [f"{e['log_likelihood']:.3f}", f"{e['monte_carlo_error']:.3f}", f"{e['off_by']:+.4f}"]
            value.append(f"{e['largest_difference']:.3f}")
        rows.append([str(case["num_samples"]), e["name"], spread(ms), start, *value, f"{bound / ms[1]:.1%}"])
    return rows


def _ratios(case: Record) -> str:
    """Speed relative to the evaluations image by image, and time relative to the products."""
    names = list(case["estimators"][0]["ratios"])
    header = [
        f"{case['num_samples']} samples",
        *(f"{'time /' if 'products' in n else 'faster than'} {n}" for n in names),
    ]
    rows = [[e["name"], *(spread(e["ratios"][n], "{:.2f}") for n in names)] for e in case["estimators"]]
    lines = [table(header, rows), f"best chunk of the products: {case['best_chunk']} samples of every image"]
    if case["others"] > QUIET:
        lines.append(f"not quiet: other programs took {case['others']:.0%} of the processor")
    return "\n".join(lines)


def _memory(record: list[Record]) -> str:
    header = ["engine", "samples", "MiB with imports, model and data", "peak of the process", "growth"]
    rows = [
        [r["engine"], str(r["num_samples"]), *(f"{v:.0f}" for v in (r["before"], r["peak"], r["peak"] - r["before"]))]
        for r in record
    ]
    return table(header, rows)
