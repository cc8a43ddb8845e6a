"""The figure of the README, drawn from recorded results: guides of one frozen model, and bounds on its log p(x).

    python benchmarks/overview.py --out docs/images/overview.png

Left: ``results/mnist-guides``. Right: ``results/mnist-1l-bounds``. Both are of the model of ``results/mnist-1l-elbo``.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.plotting import PALETTE

RESULTS = Path(__file__).parent / "results"
BLUE, GREEN, RED, GREY = PALETTE[0], PALETTE[2], PALETTE[3], PALETTE[8]
ARROWS = 2e5  # their place on the axis of K
STYLE = {
    **{"font.size": 8.5, "axes.titlesize": 10, "legend.fontsize": 8, "legend.frameon": False, "axes.linewidth": 0.8},
    **{"axes.spines.top": False, "axes.spines.right": False},
}


def draw_guides(ax: Axes) -> None:
    """ELBO and importance estimate of every guide; the error bars are those of the gain over the diagonal normal."""
    text = (RESULTS / "mnist-guides/table.txt").read_text()
    pattern = r"^(.+?)  +ELBO +(\S+) \(gain \S+ \+- (\S+)\)  log-likelihood +(\S+)"
    rows = [(name, *map(float, values)) for name, *values in re.findall(pattern, text, re.MULTILINE)]
    rows.sort(key=lambda row: row[1])
    names, elbos, errors, estimates = zip(*rows, strict=True)
    places = range(len(rows))
    ax.hlines(places, elbos, estimates, color=GREY, linewidth=1, zorder=1)
    ax.errorbar(elbos, places, xerr=errors, fmt="o", color=BLUE, markersize=4, capsize=2, label="ELBO")
    ax.plot(estimates, places, "D", color=RED, markersize=4, label="importance sampling, K = 5,000")
    ax.set_yticks(places, names)
    ax.set_ylim(-0.7, len(rows) + 1.1)
    ax.set(xlabel="nats per image", title="Twelve guides of one frozen model")
    ax.legend(loc="upper left")


def draw_bounds(ax: Axes) -> None:
    """The importance bound L_K against K, between the ELBO and annealed importance sampling, with the two gaps."""
    results = json.loads((RESULTS / "mnist-1l-bounds/result.json").read_text())["results"]
    curve = results["log_likelihood-test-guide-5000-seed0-first100"]["curve"]
    annealed = results["ais-test-prior-10000x16-seed0-first100"]["log_likelihood"]["mean"]
    (gaps,) = (result for name, result in results.items() if name.startswith("gaps-"))
    elbo, best = gaps["elbo"]["mean"], gaps["best_elbo"]["mean"]
    sizes, bounds = zip(*((point["num_samples"], point["bound"]) for point in curve), strict=True)
    ax.plot(sizes, bounds, "D-", color=RED, markersize=4)
    ax.text(100, -85.6, "importance sampling", color=RED)
    for height, color, style, shift, label in (
        (annealed, GREEN, "-", 0.17, "annealed importance sampling"),
        (best, BLUE, "--", -0.17, "ELBO, best guide per image"),
        (elbo, BLUE, "--", 0.17, "ELBO of the trained guide"),
    ):
        ax.plot([0.8, ARROWS], [height, height], color=color, linestyle=style, linewidth=1.2)
        ax.text(ARROWS / 2, height + shift, label, color=color, ha="right", va="center")
    for low, high, name in ((elbo, best, "amortization"), (best, annealed, "approximation")):
        ax.annotate("", (ARROWS, high), (ARROWS, low), arrowprops={"arrowstyle": "<->", "shrinkA": 0, "shrinkB": 0})
        ax.text(1.7 * ARROWS, (low + high) / 2, f"{name}\ngap {gaps[name]['mean']:.2f} nats", va="center")
    ax.set(xscale="log", xlim=(0.7, 400 * ARROWS), ylim=(elbo - 0.25, annealed + 0.45))
    ax.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("samples K per image", loc="left")
    ax.set(ylabel="nats per image", title="The same model: how far below log p(x)?")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="PNG file")
    options = parser.parse_args(argv)
    with rc_context(STYLE):
        figure = Figure((9.5, 3.7), dpi=150, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
        draw_guides(left)
        draw_bounds(right)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(options.out)


if __name__ == "__main__":
    main()
