"""Error of estimates of log p(x) against their cost, on a trained model, with annealing of many distributions as truth.

    python benchmarks/accuracy.py runs/mnist-1l
    python benchmarks/accuracy.py runs/mnist-1l --num-data 20 --longest 300 --out accuracy
    python benchmarks/accuracy.py --table benchmarks/results/log-p-accuracy/accuracy.json --page docs/estimators.md

Measures importance sampling with several proposals at 64 to 16,384 samples, annealing from the prior and from the guide
at 30 to 3,000 distributions with the sigmoid and the adaptive schedule, and the estimate to an accuracy of 0.1 nats. An
error is the mean over the images of estimate - reference; the reference is annealing from the prior with 10,000
distributions and 16 chains. Programs run eagerly, so that no time of compilation is included.

Reference (20 images at a time), refitted guide and every measurement are stored in the folder when they are ready; a
repeated command continues. Measurements of other weights or images are refused. The third command renews the table of a
page from a record.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import torch
from record import machine

from pyro_vae import VAE, annealed_log_likelihood, load_run, log_likelihood, refit_guide
from pyro_vae.evaluation import InflatedProposal, Result
from pyro_vae.guides import FullRankNormalGuide, SemiAmortizedGuide
from pyro_vae.plotting import PALETTE
from pyro_vae.plotting.panels import page

RESULTS = Path(__file__).parent / "results/log-p-accuracy"
SAMPLES, DISTRIBUTIONS = (64, 256, 1024, 4096, 16384), (30, 100, 300, 1000, 3000)
AIM, AIM_SECONDS = 0.1, 0.25
PART = 20  # images of a part of the reference
Estimator = Callable[[Any, int], Any]
Record = dict[str, Any]
# Colour, marker and line of each estimator; dotted lines are annealing.
STYLES = {
    "importance, guide": (PALETTE[3], "o", "-"),
    "importance, guide x 1.2": (PALETTE[1], "v", "-"),
    "importance, mixed": (PALETTE[5], "^", "-"),
    "importance, semi-amortized": (PALETTE[4], "s", "-"),
    "importance, full rank refitted": (PALETTE[2], "D", "-"),
    "importance, optimised": (PALETTE[0], "*", "-"),
    "annealed, prior, sigmoid": (PALETTE[8], "o", ":"),
    "annealed, prior, adaptive": (PALETTE[7], "s", ":"),
    "annealed, guide, sigmoid": (PALETTE[8], "P", "--"),
    "annealed, guide, adaptive": (PALETTE[7], "X", "--"),
    "accuracy=0.1": (PALETTE[9], "h", ""),
}
# Commands by which a run gives the estimates.
COMMANDS = {
    "importance, guide": "--num_samples {size}",
    "importance, guide x 1.2": "--proposal inflated --inflate 1.2 --num_samples {size}",
    "importance, optimised": "--proposal optimised --num_samples {size}",
    "annealed, prior, sigmoid": "--method ais --num_distributions {size}",
    "annealed, prior, adaptive": "--method ais --schedule adaptive --num_distributions {size}",
    "annealed, guide, sigmoid": "--method ais --start guide --num_distributions {size}",
    "annealed, guide, adaptive": "--method ais --start guide --schedule adaptive --num_distributions {size}",
    "accuracy=0.1": "--accuracy 0.1",
}


class Folder:
    """The record in a folder, written after every measurement."""

    def __init__(self, path: Path, about: Record) -> None:
        self.path, self.file = path, path / "accuracy.json"
        path.mkdir(parents=True, exist_ok=True)
        self.record: Record = json.loads(self.file.read_text()) if self.file.exists() else {**about, "results": []}
        for key, value in about.items():
            if self.record.get(key) != value:
                got = f"{key}={self.record.get(key)}"
                raise SystemExit(f"accuracy: {self.file} must be of {key}={value}, got {got}. Use another --out.")

    def has(self, name: str, size: int) -> bool:
        """Whether a measurement is stored."""
        return any(row["estimator"] == name and row["size"] == size for row in self.record["results"])

    def add(self, row: Record) -> None:
        """Store a measurement."""
        self.record["results"].append(row)
        self.save()

    def save(self) -> None:
        """Write the record."""
        self.record |= {"date": date.today().isoformat(), "machine": machine()}
        self.record["threads"] = torch.get_num_threads()
        self.file.write_text(json.dumps(self.record, indent=1) + "\n")


def reference(folder: Folder, vae: VAE, images: Any, num_distributions: int) -> Result:
    """The reference, computed in parts of the images."""
    file = folder.path / "reference.json"
    if file.exists():
        return Result.load(file)
    parts = []
    for start in range(0, len(images), PART):
        part = folder.path / f"reference-{start}.json"
        if not part.exists():
            data = images.subset(slice(start, start + PART))
            estimate = partial(annealed_log_likelihood, vae.model, vae.guide, data, seed=start)
            estimate(num_distributions=num_distributions).save(part)
            print(f"reference of images {start} to {start + len(data) - 1}", flush=True)
        parts.append(Result.load(part))
    tensors = {name: torch.cat([p.tensors()[name] for p in parts]) for name in parts[0].tensors()}
    protocol = {
        **parts[0].protocol,
        "num_data": len(images),
        "sample_seeds": [p.protocol["sample_seed"] for p in parts],
    }
    result = type(parts[0])(**tensors, protocol=protocol)
    result.save(file)
    return result


def estimators(trained: Any, folder: Path, epochs: int) -> Iterator[tuple[str, tuple[int, ...], Estimator]]:
    """Names, sizes and functions of data and size."""
    vae = trained.vae
    wide = InflatedProposal(vae.guide, 1.2)
    semi = SemiAmortizedGuide(
        vae.guide.data_shape, vae.latent_dim, guide=lambda *_: vae.guide, num_steps=20, unrolled=False
    )
    guides = {
        "guide": vae.guide,
        "guide x 1.2": wide,
        "mixed": [vae.guide, wide, InflatedProposal(vae.guide, 1.5)],
        "semi-amortized": vae.with_guide(semi).guide,
        "full rank refitted": full_rank(trained, folder, epochs),
        "optimised": vae.guide,
    }
    for name, guide in guides.items():
        proposal = "optimised" if name == "optimised" else "guide"
        yield f"importance, {name}", SAMPLES, partial(importance, vae, guide, proposal)
    for start, schedule in product(("guide", "prior"), ("sigmoid", "adaptive")):
        yield f"annealed, {start}, {schedule}", DISTRIBUTIONS, partial(annealed, vae, start, schedule)
    yield "accuracy=0.1", (0,), lambda data, _: log_likelihood(vae.model, vae.guide, data, accuracy=0.1)


def importance(vae: VAE, guide: Any, proposal: Any, data: Any, size: int) -> Result:
    """Importance sampling. The semi-amortized guide repeats its steps for each chunk, which is therefore large."""
    chunk = 1024 if isinstance(guide, SemiAmortizedGuide) else 64
    options = {"num_samples": size, "chunk_size": min(size, chunk), "engine": "eager"}
    return log_likelihood(vae.model, guide, data, proposal=proposal, **options)


def annealed(vae: VAE, start: Any, schedule: Any, data: Any, size: int) -> Result:
    """Annealed importance sampling with 16 chains."""
    options = {"start": start, "schedule": schedule, "num_distributions": size, "engine": "eager"}
    return annealed_log_likelihood(vae.model, vae.guide, data, **options)


def full_rank(trained: Any, folder: Path, epochs: int) -> FullRankNormalGuide:
    """A full-rank normal guide, fitted to the frozen model on the training images."""
    vae, file = trained.vae, folder / "full_rank.pt"
    torch.manual_seed(0)
    guide = FullRankNormalGuide(vae.guide.data_shape, vae.latent_dim)
    if not file.exists():
        refit_guide(vae, guide, trained.splits.train, epochs=epochs, batch_size=100)
        torch.save(guide.state_dict(), file)
    guide.load_state_dict(torch.load(file, weights_only=True))
    return guide.eval()


def measure(name: str, size: int, estimate: Estimator, images: Any, truth: Result) -> Record:
    """Error and seconds per image of one estimator."""
    estimate(images.subset(slice(1)), min(size, 64))  # the first call initialises threads and memory
    start = time.perf_counter()
    result = estimate(images, size)
    seconds = (time.perf_counter() - start) / len(images)
    difference = result.log_likelihood - truth.log_likelihood
    flagged = getattr(result, "pareto_k", torch.full((1,), torch.nan))
    return {
        "estimator": name,
        "size": size,
        "seconds": seconds,
        "error": float(difference.mean()),
        "monte_carlo_error": math.hypot(result.monte_carlo_error(), truth.monte_carlo_error()),
        "lowest": float(difference.min()),
        "pareto_k_above_0.7": None if bool(flagged.isnan().all()) else float((flagged > 0.7).double().mean()),
        "tried": [f"{t['estimator']}: {t['outcome']}" for t in result.protocol.get("tried", [])],
    }


def draw(record: Record, file: Path) -> None:
    """Nats below the reference against seconds per image, both logarithmic; open markers are within two errors of 0."""
    rows = record["results"]
    floor = max(min(row["monte_carlo_error"] for row in rows), 1e-3)
    with page(3.4, caption(record)) as (figure, (ax,)):
        for name, (colour, marker, line) in STYLES.items():
            points = sorted((r["seconds"], r["error"], r["monte_carlo_error"]) for r in rows if r["estimator"] == name)
            if not points:
                continue
            seconds, below = [p[0] for p in points], [max(-p[1], floor) for p in points]
            ax.plot(seconds, below, color=colour, ls=line or "none")
            ax.plot([], [], color=colour, ls=line or "none", marker=marker, ms=4, label=name)
            for x, y, p in zip(seconds, below, points, strict=True):
                face = "white" if -p[1] < 2 * p[2] else colour
                ax.plot([x], [y], marker=marker, color=colour, markerfacecolor=face, ms=4, ls="none")
        ax.axhline(AIM, color="black", lw=0.6, ls=(0, (1, 3)))
        ax.axvline(AIM_SECONDS, color="black", lw=0.6, ls=(0, (1, 3)))
        ax.set(xscale="log", yscale="log", xlabel="Seconds per image")
        ax.set_ylabel("Nats below the reference")
        figure.legend(loc="outside upper center", ncols=2, fontsize=6)
    figure.savefig(file, dpi=200)


def caption(record: Record) -> str:
    """What the figure shows."""
    return (
        f"{record['num_data']} test images, mean; reference: annealing from the prior, "
        f"{record['num_distributions']:,} distributions, 16 chains; eager, number of threads "
        f"{record['threads']}. Open markers: within two Monte Carlo errors of 0. Dotted: 0.1 nats and 0.25 s."
    )


def table(record: Record) -> str:
    """Markdown: for each estimator the cheapest size within 0.1 nats, or the best one, and its command."""
    truth = record["reference"]
    about = (
        f"First {record['num_data']} test images; number of threads {record['threads']}; reference "
        f"{truth['mean']:.2f} +- {truth['monte_carlo_error']:.3f} nats; "
        f"{record['machine']['processor']}, {record['date']}."
    )
    header = "| estimator | size | seconds an image | error, nats | command: `pyro-vae evaluate RUN` |"
    lines = [about, "", header, "|---|---|---|---|---|"]
    for name in STYLES:
        rows = [row for row in record["results"] if row["estimator"] == name]
        if rows:
            within = [row for row in rows if abs(row["error"]) <= AIM]
            row = min(within, key=lambda r: r["seconds"]) if within else max(rows, key=lambda r: r["error"])
            command = f"`{COMMANDS[name].format(size=row['size'])}`" if name in COMMANDS else ""
            size, error = f"{row['size']:,}" if row["size"] else "chosen", f"{row['error']:+.3f}"
            noise = f"{row['monte_carlo_error']:.3f}"
            lines.append(f"| {name} | {size} | {row['seconds']:.3f} | {error} +- {noise} | {command} |")
    return "\n".join(lines)


def renew(page_file: Path, text: str) -> None:
    """Replace the table of a page, between its two comments."""
    before, _, rest = page_file.read_text().partition("<!-- table -->\n")
    _, end, after = rest.partition("<!-- end of table -->")
    if not end:
        raise SystemExit(f"accuracy: {page_file} must contain the comments <!-- table --> and <!-- end of table -->.")
    page_file.write_text(f"{before}<!-- table -->\n{text}\n{end}{after}")


def measure_all(options: argparse.Namespace) -> None:
    """Run what is not stored yet, then draw."""
    trained = load_run(options.run)
    images = trained.images("test", options.num_data)
    weights = sha256((options.run / "weights.safetensors").read_bytes()).hexdigest()[:16]
    about = {"weights": weights, "num_data": options.num_data, "num_distributions": options.reference}
    folder = Folder(options.out, about)
    folder.save()  # before the reference, so that it cannot be mistaken for that of other weights
    truth = reference(folder, trained.vae, images, options.reference)
    folder.record["reference"] = {"mean": truth.mean(), "monte_carlo_error": truth.monte_carlo_error()}
    for name, sizes, estimate in estimators(trained, options.out, options.epochs):
        for size in sizes:
            long = name.startswith("annealed") and size > options.longest
            if not long and not folder.has(name, size):
                row = measure(name, size, estimate, images, truth)
                folder.add(row)
                text = f"{row['error']:+9.3f} +- {row['monte_carlo_error']:.3f} nats, {row['seconds']:.3f} s an image"
                print(f"{name:<32} {size:>6} {text}", flush=True)
    draw(folder.record, options.out / "accuracy.png")
    print(table(folder.record))


def main() -> None:
    """Measure and draw, or renew the table of a page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", help="run folder of the trained model")
    parser.add_argument("--num-data", type=int, default=100, help="test images, from the first (%(default)s)")
    parser.add_argument("--reference", type=int, default=10_000, help="distributions of the reference (%(default)s)")
    parser.add_argument("--longest", type=int, default=3000, help="largest number of distributions (%(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of the refitted guide (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record and the figure")
    parser.add_argument("--table", type=Path, help="print the table of this record instead of measuring")
    parser.add_argument("--page", type=Path, help="with --table: write the table to this page")
    options = parser.parse_args()
    if options.table:
        text = table(json.loads(options.table.read_text()))
        print(text)
        if options.page:
            renew(options.page, text)
    elif options.run is None:
        parser.error("run must be a run folder, or --table a record")
    else:
        measure_all(options)


if __name__ == "__main__":
    main()
