"""Time of the importance-sampling log-likelihood per image: pyro_vae, hand-written torch, and published procedures.

    python benchmarks/likelihood.py --root data --out likelihood.json
    python benchmarks/likelihood.py --root data --num-samples 50 500 5000 --plot figures
    python benchmarks/likelihood.py --root data --all --repeats 1
    python benchmarks/likelihood.py --root data --width 500 --repeats 7 --memory --estimators \\
        "pyro_vae compiled, fp32" "torch compiled" "image by image, 500 copies" "image by image, 100 copies"

A VAE 784-400-50 is trained briefly, then the first test images are evaluated in batches. Times are those of the batches
after the first, whose additional time, for the examination of the programs and compilation, is listed as "start";
medians and quartiles over batches and alternating repeats. Values are means over the images, with their Monte Carlo
error. All estimators except those of single images use the same random numbers: "off by" is the mean difference from
the first row, "largest" the largest difference of an image. A difference above 0.01 nats (bfloat16: 1 nat) raises an
error unless it is within 4.5 standard errors.

"Image by image" runs the encoder on the given number of copies of an image, as in published code. "Products alone" are
only the matrix products of the decodings in float32, at the chunk size of the others and at the fastest one. Ratios are
of the medians over batches within a repeat; medians and quartiles over the repeats. ``--memory`` evaluates a batch in a
separate process, with the given number of samples and ten times as many.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from estimators import ESTIMATORS, IMAGE_BY_IMAGE, Clock, Products, decoding
from images import load
from memory import measure_memory
from programs import PROGRAMS, Pair
from report import environment, headline, likelihood_table
from roofline import measure_peaks
from timing import OtherLoad, log, quartiles
from torch import Tensor

from pyro_vae import fit

Record = dict[str, Any]
PRODUCTS = "products alone"


def trained(options: argparse.Namespace, images: Any, device: torch.device) -> Pair:
    """The VAE after a short training, for realistic importance weights."""
    torch.manual_seed(0)
    pair = PROGRAMS["mlp"](options.width, options.latent_dim)
    data = images.batch(slice(None), dtype=torch.float32, generator=torch.Generator().manual_seed(0)).flatten(1)
    fit(pair.model, pair.guide, data, epochs=options.epochs, optimizer=partial(torch.optim.Adam, lr=1e-3))
    return pair.to(device)


def measure_case(options: argparse.Namespace, pair: Pair, x: Tensor, num_samples: int) -> Record:
    """Time every estimator and the matrix products on the same images, in an order that rotates over the repeats."""
    products = Products(pair, options.batch)
    best = products.best_chunk(num_samples, x.device)
    runs: dict[str, Any] = {
        name: partial(ESTIMATORS[name], pair, num_samples=num_samples, chunk=options.chunk)
        for name in options.estimators
    }
    for name, chunk in ((PRODUCTS, options.chunk), (f"{PRODUCTS}, best chunk", best)):
        runs[name] = partial(products.run, num_samples=num_samples, chunk=chunk)
    load, measurements = OtherLoad(), measure(runs, x, options)
    first = measurements[options.estimators[0]]
    rows = [summary(name, measurements[name], first) for name in options.estimators]
    rows += [times(name, result) for name, result in measurements.items() if name.startswith(PRODUCTS)]
    add_ratios(rows, measurements)
    work = asdict(decoding(pair, x[: options.batch], num_samples, options.chunk))
    size = {"num_samples": num_samples, "images": len(x), "best_chunk": best, "others": load.share()}
    return {**size, **work, "estimators": rows}


def measure(runs: dict[str, Any], x: Tensor, options: argparse.Namespace) -> dict[str, Record]:
    """Times of every batch in every repeat, and the values of the last repeat."""
    results: dict[str, Record] = {name: {"seconds": [], "start": [], "values": None} for name in runs}
    for repeat in range(options.repeats):
        first = repeat % len(runs)
        for name in [*runs, *runs][first : first + len(runs)]:
            log(f"repeat {repeat + 1}, {name}")
            clock = Clock(x, options.batch)
            estimate = runs[name](data=clock)
            seconds = clock.seconds()
            results[name]["seconds"].append([s / options.batch for s in seconds[1:]])
            results[name]["start"].append(max(0.0, seconds[0] - median(seconds[1:])))
            if estimate is not None:
                results[name]["values"], results[name]["errors"] = (tensor.double().cpu() for tensor in estimate)
    return results


def times(name: str, result: Record) -> Record:
    """Time per image, and of the start."""
    milliseconds = quartiles(1e3 * s for repeat in result["seconds"] for s in repeat)
    return {"name": name, "milliseconds_per_image": milliseconds, "start_seconds": quartiles(result["start"])}


def add_ratios(rows: list[Record], results: dict[str, Record]) -> None:
    """Speed relative to image by image, and time relative to the products, for each repeat."""
    medians = {name: [median(repeat) for repeat in result["seconds"]] for name, result in results.items()}
    for row in rows:
        seconds = medians[row["name"]]
        compared = {
            name: (seconds, other) if name.startswith(PRODUCTS) else (other, seconds)
            for name, other in medians.items()
            if name.startswith((PRODUCTS, IMAGE_BY_IMAGE))
        }
        row["ratios"] = {name: quartiles(a / b for a, b in zip(*pair, strict=True)) for name, pair in compared.items()}


def summary(name: str, result: Record, first: Record) -> Record:
    """Times per image, values, and their difference from the values of the first estimator."""
    difference = result["values"] - first["values"]
    error = float((result["errors"].square() + first["errors"].square()).sum().sqrt()) / len(difference)
    off, largest = float(difference.mean()), float(difference.abs().max())
    if not (largest <= (1.0 if "bf16" in name else 0.01) or abs(off) <= 4.5 * error):
        raise AssertionError(f"{name}: off by {off} nats, but the standard error is {error}")
    return {
        **times(name, result),
        "log_likelihood": float(result["values"].mean()),
        "monte_carlo_error": float(result["errors"].square().sum().sqrt()) / len(difference),
        "off_by": off,
        "largest_difference": largest,
    }


def memory(options: argparse.Namespace) -> list[Record]:
    """Memory of both engines, with the first number of samples and ten times as many."""
    sizes = {key: getattr(options, key) for key in ("batch", "chunk", "width", "latent_dim")}
    return measure_memory((options.num_samples[0], 10 * options.num_samples[0]), **sizes)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", help="folder with MNIST/raw (default: scikit-learn's digits, enlarged)")
    parser.add_argument("--images", type=int, default=100, help="number of test images (%(default)s)")
    parser.add_argument("--all", action="store_true", help="evaluate all test images")
    parser.add_argument("--num-samples", nargs="+", type=int, default=[5000], help="samples per image")
    parser.add_argument("--batch", type=int, default=20, help="images per batch (%(default)s)")
    parser.add_argument("--chunk", type=int, default=50, help="samples per chunk (%(default)s)")
    parser.add_argument("--width", type=int, default=400, help="units of the hidden layers (%(default)s)")
    parser.add_argument("--latent-dim", type=int, default=50, help="latent dimensions (%(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of training (%(default)s)")
    parser.add_argument("--estimators", nargs="+", choices=ESTIMATORS, default=list(ESTIMATORS))
    parser.add_argument(
        "--precision", choices=["fp32", "bf16"], help="only estimators in this precision, and the first"
    )
    parser.add_argument("--repeats", type=int, default=3, help="alternating repeats (%(default)s)")
    parser.add_argument("--memory", action="store_true", help="also measure the peak memory (Linux only)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--date", help="date of the record (default: today)")
    parser.add_argument("--out", type=Path, help="JSON file for the record")
    parser.add_argument("--plot", type=Path, help="folder for a figure of cost against samples")
    options = parser.parse_args(argv)
    if options.precision:
        selected = [name for name in options.estimators[1:] if name.endswith(options.precision)]
        options.estimators = [options.estimators[0], *selected]
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU")
    if not options.all and options.images < 2 * options.batch:
        parser.error("--images must be at least twice --batch: the first batch is not timed")
    return options


def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    device = torch.device(options.device)
    data, images = load(options.root)
    test = load(options.root, test=True)[1]
    number = (len(test) if options.all else options.images) // options.batch * options.batch
    x = test.batch(slice(number), dtype=torch.float32, generator=torch.Generator().manual_seed(0)).flatten(1).to(device)
    record: Record = environment(options.date, device)
    sizes = {key: getattr(options, key) for key in ("batch", "chunk", "width", "latent_dim", "repeats")}
    record["protocol"] = {"data": data, **sizes}
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    peaks = {name: measure_peaks(device, dtype) for name, dtype in dtypes.items()}
    pair = trained(options, images, device)
    record["cases"] = [measure_case(options, pair, x, n) for n in options.num_samples]
    record["memory"] = memory(options) if options.memory else []
    record["peaks"] = {name: asdict(peaks[name].best(measure_peaks(device, dtype))) for name, dtype in dtypes.items()}
    record["load_average"] = os.getloadavg()
    print(f"{headline(record)}\n\n{likelihood_table(record)}")
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    if options.plot:
        from plots import draw

        draw(record, options.plot)


if __name__ == "__main__":
    main()
