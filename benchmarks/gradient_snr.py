"""Signal-to-noise ratio of the guide's and the model's gradient against the number of particles, per objective.

    python benchmarks/gradient_snr.py
    python benchmarks/gradient_snr.py --draws 1000 --particles 1 10 100

The model and the protocol are those of Rainforth et al.: x ~ N(z, I), z ~ N(mu, I), q(z | x) = N(A x + b, 2/3 I) in 5
dimensions (20 there), data from a true mu, parameters near the optimum (normal noise added to each), one batch.

References:
    Tighter variational bounds are not necessarily better (Rainforth et al., 2018), section 4.
    https://arxiv.org/abs/1802.04537
"""

from __future__ import annotations

import argparse
import json
import textwrap
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyro
import torch
from matplotlib.figure import Figure
from pyro.distributions import Normal
from torch import Tensor, nn

from pyro_vae.evaluation import gradient_snr
from pyro_vae.objectives import (
    IWAE,
    MIWAE,
    VIMCO,
    DoublyReparameterized,
    Objective,
    ReweightedWakeSleep,
    StickingTheLanding,
)
from pyro_vae.plotting import PALETTE

RESULTS = Path(__file__).parent / "results" / "gradient-snr"
KINDS: dict[str, tuple[Callable[[int], Objective], str, str, str]] = {
    "IWAE": (lambda k: IWAE(num_particles=k), PALETTE[0], "o", "-"),
    "MIWAE, 8 bounds of K / 8": (lambda k: MIWAE(num_particles=max(1, k // 8), num_batches=8), PALETTE[1], "s", "--"),
    "DoublyReparameterized": (lambda k: DoublyReparameterized(num_particles=k), PALETTE[2], "^", "-"),
    "StickingTheLanding": (lambda k: StickingTheLanding(num_particles=k), PALETTE[3], "v", ":"),
    "ReweightedWakeSleep": (lambda k: ReweightedWakeSleep(num_particles=k), PALETTE[4], "D", "-."),
    "VIMCO": (lambda k: VIMCO(num_particles=k), PALETTE[8], "P", ":"),
}
# The memory and time of VIMCO are quadratic in K.
RANGE = {"MIWAE, 8 bounds of K / 8": (8, 10**9), "VIMCO": (2, 256)}


class Pair(nn.Module):
    """The paper's model and guide, near their optimum.

    Args:
        dim: D, of x and of z.
        x: the data, which determine the optimum of mu.
        offset: standard deviation of the noise added to every parameter.
    """

    def __init__(self, dim: int, x: Tensor, offset: float) -> None:
        super().__init__()
        self.mu = nn.Parameter(x.mean(0))
        self.gain = nn.Parameter(torch.eye(dim) / 2)
        self.bias = nn.Parameter(x.mean(0) / 2)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(offset * torch.randn_like(parameter))

    def model(self, x: Tensor) -> None:
        """The model p(x, z)."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Normal(self.mu, 1.0).to_event(1))
            pyro.sample("x", Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """The guide q(z | x)."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(x @ self.gain.T + self.bias, (2 / 3) ** 0.5).to_event(1))


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Quartiles over the parameters for every objective and number of particles."""
    torch.manual_seed(options.seed)
    x = torch.randn(options.dim) + 2**0.5 * torch.randn(options.batch, options.dim)
    pair, results = Pair(options.dim, x, options.offset), []
    groups = {"model": [pair.mu], "guide": [pair.gain, pair.bias]}
    for name, (make, *_) in KINDS.items():
        low, high = RANGE.get(name, (1, 10**9))
        for k in (k for k in options.particles if low <= k <= high):
            start = time.perf_counter()
            ratios = gradient_snr(
                pair.model, pair.guide, x, make(k), num_draws=options.draws, groups=groups, seed=options.seed
            )
            for group, ratio in ratios.items():
                quartiles = [ratio.quantile(q) for q in (0.25, 0.5, 0.75)]
                error = float(ratio.standard_error.median())
                results.append(
                    {"objective": name, "particles": k, "group": group, "quartiles": quartiles, "error": error}
                )
            print(f"{name:26} K={k:5} guide {results[-1]['quartiles'][1]:.3f} ({time.perf_counter() - start:.1f} s)")
    return results


def draw(record: dict[str, Any], file: Path) -> None:
    """One panel per group: median and quartiles over the parameters, and the expected estimate without signal."""
    figure = Figure(figsize=(9.0, 4.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for panel, group in zip(axes, ("guide", "model"), strict=True):
        for name, (_, colour, marker, line) in KINDS.items():
            rows = [r for r in record["results"] if r["objective"] == name and r["group"] == group]
            particles = [r["particles"] for r in rows]
            low, middle, high = zip(*(r["quartiles"] for r in rows), strict=True)
            panel.plot(particles, middle, color=colour, marker=marker, linestyle=line, markersize=4, label=name)
            panel.fill_between(particles, low, high, color=colour, alpha=0.15, linewidth=0)
        floor = (2 / (torch.pi * record["draws"])) ** 0.5
        panel.axhline(floor, color="black", linewidth=0.8, linestyle=(0, (1, 3)), label="no signal")
        panel.set(xscale="log", yscale="log", xlabel="particles K per datum", title=f"gradient of the {group}")
        panel.set_ylabel("signal-to-noise ratio |mean| / std")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    figure.supxlabel(textwrap.fill(record["caption"], 150), fontsize=7)
    figure.savefig(file, dpi=150)


def main() -> None:
    """Measure, write the record and draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--particles", type=int, nargs="+", default=[1, 3, 10, 30, 100, 300, 1000])
    parser.add_argument("--draws", type=int, default=1000, help="gradients per point (%(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="number of data (%(default)s)")
    parser.add_argument("--dim", type=int, default=5, help="dimensions of x and z (%(default)s)")
    parser.add_argument(
        "--offset", type=float, default=0.05, help="standard deviation of the parameters from the optimum (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of data, parameters and gradients (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record and the figure")
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    record: dict[str, Any] = {k: v for k, v in vars(options).items() if k != "out"}
    record["results"] = measure(options)
    record["caption"] = (
        f"x ~ N(z, I), z ~ N(mu, I), q = N(A x + b, 2/3 I), {options.dim} dimensions, all parameters "
        f"N(0, {options.offset}^2) off their optimum; one batch of {options.batch} data, {options.draws} gradients per "
        f"point, float64, seed {options.seed}. Lines: median over the elements of the gradient; bands: their "
        "quartiles. Dotted: expected estimate without signal, sqrt(2 / (pi n))."
    )
    record["date"], record["versions"] = date.today().isoformat(), {k: version(k) for k in ("torch", "pyro-ppl")}
    record["command"] = "python benchmarks/gradient_snr.py"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gradient_snr.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(record, options.out / "gradient_snr.png")


if __name__ == "__main__":
    main()
