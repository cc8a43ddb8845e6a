"""Time of the importance-sampling log-likelihood per image: our engines and precisions, and torch by hand.

    python benchmarks/likelihood.py --root data --out likelihood.json
    python benchmarks/likelihood.py --root data --num-samples 50 500 5000 --plot figures
    python benchmarks/likelihood.py --root data --all --repeats 1

A VAE 784-400-50 is trained for a moment, then the first test images are evaluated, batch by batch. The time is that of
a batch after the first, whose extra time, of examining and compiling, stands apart as "start"; medians and quartiles
over batches and alternating repeats. Values are means over the images, with their Monte Carlo error. All estimators
make the same draws: "off by" is the mean difference from the first row's, "largest" that of an image. It is refused
beyond 0.01 nats (bfloat16: 1 nat) unless other draws explain it, within 4.5 standard errors.
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
from estimators import ESTIMATORS, Clock, decoding
from images import load
from programs import PROGRAMS, Pair
from report import environment, headline, likelihood_table
from roofline import measure_peaks
from timing import quartiles, say
from torch import Tensor

from pyro_vae import fit

Record = dict[str, Any]


def trained(options: argparse.Namespace, images: Any, device: torch.device) -> Pair:
    """The VAE, so that the weights are those of a model and not of a start."""
    torch.manual_seed(0)
    pair = PROGRAMS["mlp"](options.width, options.latent_dim)
    data = images.batch(slice(None), dtype=torch.float32, generator=torch.Generator().manual_seed(0)).flatten(1)
    fit(pair.model, pair.guide, data, epochs=options.epochs, optimizer=partial(torch.optim.Adam, lr=1e-3))
    return pair.to(device)


def measure_case(options: argparse.Namespace, pair: Pair, x: Tensor, num_samples: int) -> Record:
    """Every estimator on the same images."""
    found: dict[str, Record] = {name: {"seconds": [], "start": []} for name in options.estimators}
    for repeat in range(options.repeats):
        for name in options.estimators:
            say(f"{num_samples} samples, repeat {repeat + 1}, {name}")
            clock = Clock(x, options.batch)
            values, errors = ESTIMATORS[name](pair, clock, num_samples, options.chunk)
            seconds = clock.seconds()
            found[name]["seconds"] += [s / options.batch for s in seconds[1:]]
            found[name]["start"].append(max(0.0, seconds[0] - median(seconds[1:])))
            found[name]["values"], found[name]["errors"] = values.double().cpu(), errors.double().cpu()
    first = found[options.estimators[0]]
    rows = [summary(name, own, first) for name, own in found.items()]
    work = asdict(decoding(pair, x[: options.batch], num_samples, options.chunk))
    return {"num_samples": num_samples, "images": len(x), **work, "estimators": rows}


def summary(name: str, own: Record, first: Record) -> Record:
    """Times per image, values, and the agreement of the values with those of the first estimator."""
    difference = own["values"] - first["values"]
    error = float((own["errors"].square() + first["errors"].square()).sum().sqrt()) / len(difference)
    off, largest = float(difference.mean()), float(difference.abs().max())
    if not (largest <= (1.0 if "bf16" in name else 0.01) or abs(off) <= 4.5 * error):
        raise AssertionError(f"{name}: off by {off} nats, where the standard error is {error}")
    return {
        "name": name,
        "milliseconds_per_image": quartiles(1e3 * s for s in own["seconds"]),
        "start_seconds": quartiles(own["start"]),
        "log_likelihood": float(own["values"].mean()),
        "monte_carlo_error": float(own["errors"].square().sum().sqrt()) / len(difference),
        "off_by": off,
        "largest_difference": largest,
    }


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", help="folder with MNIST/raw; without it scikit-learn's digits, enlarged")
    parser.add_argument("--images", type=int, default=100, help="of the test set (%(default)s)")
    parser.add_argument("--all", action="store_true", help="all test images")
    parser.add_argument("--num-samples", nargs="+", type=int, default=[5000], help="samples per image")
    parser.add_argument("--batch", type=int, default=20, help="images at a time (%(default)s)")
    parser.add_argument("--chunk", type=int, default=50, help="samples at a time (%(default)s)")
    parser.add_argument("--width", type=int, default=400, help="units of the hidden layers (%(default)s)")
    parser.add_argument("--latent-dim", type=int, default=50, help="latent dimensions (%(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="of training (%(default)s)")
    parser.add_argument("--estimators", nargs="+", choices=ESTIMATORS, default=list(ESTIMATORS))
    parser.add_argument("--repeats", type=int, default=3, help="alternating repeats (%(default)s)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--date", help="of the record (today)")
    parser.add_argument("--out", type=Path, help="file for the record, JSON")
    parser.add_argument("--plot", type=Path, help="folder for a figure of cost against samples")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU")
    if not options.all and options.images < 2 * options.batch:
        parser.error("--images must be at least twice --batch: the first batch's time is not counted")
    return options


def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    device = torch.device(options.device)
    data, images = load(options.root)
    test = load(options.root, test=True)[1]
    number = (len(test) if options.all else options.images) // options.batch * options.batch
    x = test.batch(slice(number), dtype=torch.float32, generator=torch.Generator().manual_seed(0)).flatten(1).to(device)
    found: Record = environment(options.date, device)
    sizes = {key: getattr(options, key) for key in ("batch", "chunk", "width", "latent_dim", "repeats")}
    found["protocol"] = {"data": data, **sizes}
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    peaks = {name: measure_peaks(device, dtype) for name, dtype in dtypes.items()}
    pair = trained(options, images, device)
    found["cases"] = [measure_case(options, pair, x, n) for n in options.num_samples]
    found["peaks"] = {name: asdict(peaks[name].best(measure_peaks(device, dtype))) for name, dtype in dtypes.items()}
    found["load_average"] = os.getloadavg()
    print(f"{headline(found)}\n\n{likelihood_table(found)}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    if options.plot:
        from plots import draw

        draw(found, options.plot)


if __name__ == "__main__":
    main()
