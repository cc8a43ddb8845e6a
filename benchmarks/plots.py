"""Figures of the records of ``speed.py`` and ``likelihood.py``: cost against batch size, width, ranks, samples.

python benchmarks/plots.py speed.json --out figures
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator
from report import work
from roofline import Peaks

from pyro_vae.plotting import PALETTE
from pyro_vae.plotting.panels import page

Record = dict[str, Any]
Line = list[tuple[float, list[float]]]
# One colour and marker per candidate in every figure, so that figures are comparable.
LINE_STYLES = {
    "Pyro SVI.step": (PALETTE[3], "o", "-"),
    "Pyro JitTrace_ELBO": (PALETTE[1], "v", "-"),
    "torch eager": (PALETTE[8], "s", "--"),
    "torch compiled": (PALETTE[8], "D", ":"),
    "torch compiled, CUDA graphs": (PALETTE[4], "s", ":"),
    "NumPyro jitted loop": (PALETTE[2], "^", "-."),
    "pyro_vae eager": (PALETTE[4], "P", "--"),
    "pyro_vae compiled": (PALETTE[0], "o", "-"),
    "pyro_vae cuda-graph": (PALETTE[9], "*", "-"),
    "pyro_vae eager, fp32": (PALETTE[4], "P", "--"),
    "pyro_vae eager, bf16": (PALETTE[5], "X", "--"),
    "pyro_vae compiled, fp32": (PALETTE[0], "o", "-"),
    "pyro_vae compiled, bf16": (PALETTE[9], "*", "-"),
    "image by image, 500 copies": (PALETTE[3], "o", "-"),
    "image by image, 100 copies": (PALETTE[1], "v", "-"),
    "products alone": (PALETTE[2], "^", "-."),
}


def draw(record: Record, folder: Path) -> list[Path]:
    """Draw every figure for which the record has two points or more."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    if "num_samples" in record["cases"][0]:
        files += _samples(record, folder)
    else:
        for program in dict.fromkeys(case["program"] for case in record["cases"]):
            cases = [case for case in record["cases"] if case["program"] == program]
            files += _against("batch", "Batch size (images)", cases, record, folder)
            files += _against("width", "Width of the hidden layers (units)", cases, record, folder)
            files += _against("particles", "Particles per image", cases, record, folder)
        files += _ranks(record, folder)
    return files


def _against(key: str, label: str, cases: list[Record], record: Record, folder: Path) -> list[Path]:
    """Time per step, or per image against the batch size, at the most frequent other sizes."""
    others = [name for name in ("width", "batch", "particles") if name != key and name in cases[0]]
    sizes = [tuple(c[name] for name in others) for c in cases]
    common = max(sizes, key=sizes.count)
    cases = sorted((c for c, size in zip(cases, sizes, strict=True) if size == common), key=lambda c: c.get(key, 1))
    if len({c.get(key) for c in cases}) < 2:
        return []
    peaks = Peaks(**record["peaks"])
    scale = (lambda c: 1e3 / c["batch"]) if key == "batch" else (lambda c: 1.0)
    entries = (
        (c[key], e["name"], e["milliseconds"] and [scale(c) * ms for ms in e["milliseconds"]])
        for c in cases
        for e in c["candidates"]
    )
    bound = [(c[key], 1e3 * scale(c) * peaks.seconds(work(c))) for c in cases]
    unit = "\N{MICRO SIGN}s per image" if key == "batch" else "ms per step"
    file = folder / f"{cases[0]['program']}-{key}.png"
    fixed = ", ".join(f"{name} {size}" for name, size in zip(others, common, strict=True))
    labels = f"{cases[0]['program']}: training with Adam, {fixed}", label, unit
    return [_figure(file, labels, _lines(entries), bound, _caption(record))]


def _samples(record: Record, folder: Path) -> list[Path]:
    cases = sorted(record["cases"], key=lambda c: c["num_samples"])
    if len(cases) < 2:
        return []
    peaks = Peaks(**record["peaks"]["fp32"])
    entries = ((c["num_samples"], e["name"], e["milliseconds_per_image"]) for c in cases for e in c["estimators"])
    bound = [(c["num_samples"], 1e3 * peaks.seconds(work(c))) for c in cases]
    title = f"log-likelihood of an image, 784-{record['protocol']['width']}-{record['protocol']['latent_dim']}"
    file, label = folder / "likelihood-samples.png", "Samples per image"
    return [_figure(file, (title, label, "ms per image"), _lines(entries), bound, _caption(record))]


def _ranks(record: Record, folder: Path) -> list[Path]:
    """Examples per second of ``fit`` against the number of processes, one line per batch size."""
    rows = record["ranks"]
    if len({r["ranks"] for r in rows}) < 2:
        return []
    lines: dict[str, Line] = {}
    for r in rows:
        lines.setdefault(f"batch {r['batch']}", []).append((r["ranks"], r["examples_per_second"]))
    labels = f"{rows[0]['program']}: pyro_vae.fit, engine compiled", "Processes", "images per second"
    caption = _caption({**record, "protocol": {**record["protocol"], "repeats": None}})
    return [_figure(folder / f"{rows[0]['program']}-ranks.png", labels, lines, [], caption)]


def _lines(entries: Iterable[tuple[float, str, list[float] | None]]) -> dict[str, Line]:
    lines: dict[str, Line] = {}
    for x, name, values in entries:
        if values and name in LINE_STYLES:
            lines.setdefault(name, []).append((x, values))
    return lines


def _figure(file: Path, labels: tuple[str, str, str], lines: dict[str, Line], bound: list[Any], caption: str) -> Path:
    title, xlabel, ylabel = labels
    with page(2.9, caption) as (figure, (ax,)):
        for (name, line), other in zip(lines.items(), cycle(LINE_STYLES.values()), strict=False):
            _line(ax, name, line, LINE_STYLES.get(name, other))
        if bound:
            ax.plot(*zip(*bound, strict=True), color="black", linewidth=0.8, linestyle=(0, (1, 1)), label="roofline")
        ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel, title=title)
        _ticks(ax, sorted({x for line in lines.values() for x, _ in line}))
        figure.legend(loc="outside upper center", ncols=2, handlelength=2.6, columnspacing=1.0)
    figure.savefig(file)
    return file


def _line(ax: Axes, name: str, line: Line, style: tuple[str, str, str]) -> None:
    color, marker, linestyle = style
    x, (low, middle, high) = [p[0] for p in line], zip(*(p[1] for p in line), strict=True)
    ax.plot(x, middle, color=color, marker=marker, linestyle=linestyle, label=name)
    ax.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)


def _ticks(ax: Axes, sizes: list[float]) -> None:
    """Ticks at the measured sizes on the x axis and at round numbers on the y axis."""
    ax.xaxis.set_major_locator(FixedLocator(sizes))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())


def _caption(record: Record) -> str:
    """The protocol."""
    m, p = record["machine"], record["protocol"]
    machine = m["gpu"] if record["device"] == "cuda" else f"{m['processor']}, {m['cores']} cores"
    kinds = {None: "medians and quartiles of epochs", 1: "one repeat"}
    repeats = kinds.get(p["repeats"], f"medians and quartiles of {p['repeats']} alternating repeats")
    versions = f"torch {m['torch']}, Pyro {m['pyro-ppl']}" + (f", NumPyro {m['numpyro']}" if m["numpyro"] else "")
    return f"{p['data']}, float32 unless named, {repeats}. {machine}. {versions}. {record['date']}."


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("records", type=Path, nargs="+", help="JSON of speed.py or likelihood.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures")
    options = parser.parse_args(argv)
    for record in options.records:
        for file in draw(json.loads(record.read_text()), options.out):
            print(file)


if __name__ == "__main__":
    main()
