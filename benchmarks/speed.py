"""Milliseconds per training step of the same programs: Pyro, hand-written torch, NumPyro, and the package's engines.

    python benchmarks/speed.py --root data --programs mlp iaf m2 hvae conv --batch 20 128 1024 8192 --out speed.json
    python benchmarks/speed.py --root data --programs mlp --batch 128 --width 100 200 400 800 1600 --plot figures
    python benchmarks/speed.py --root data --programs mlp --batch 128 --precision bf16
    python benchmarks/speed.py --root data --programs mlp --batch 20 --particles 1 5 50 --plot figures
    python benchmarks/speed.py --root data --programs mlp --batch 1024 --ranks 1 2

Every step is one Adam step (learning rate 1e-3) on the next batch of a pool of binarized images; the parameters are
reset before every repeat. Times are medians and quartiles over alternating repeats, "x Pyro" those of (time of Pyro's
SVI.step) / (time) within each repeat. Repeats in which other programs used more than 5% of the processor are repeated,
at most twice. A dash marks candidates that do not support a program. Before timing, all candidates are checked to
compute the same losses.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import pyro
import torch
from candidates import CANDIDATES, IN_BFLOAT16, ON_GPU, REFERENCE, build, check
from images import POOL, load, pool
from programs import PROGRAMS
from ranks import scaling, work
from report import environment, headline, speed_table
from roofline import adam, measure_peaks, work_of
from timing import Candidate, log, measure, quartiles

from pyro_vae._core.contexts import isolated_rng
from pyro_vae.data import ImageSet

Record = dict[str, Any]


def measure_case(
    options: argparse.Namespace, images: ImageSet, name: str, width: int | None, batch: int, particles: int
) -> Record:
    """Times of all candidates and work of a step, for one program, batch size and number of particles."""
    device, sizes = torch.device(options.device), sizes_of(name, width, options.latent_dim)
    log(f"{name}, {sizes}, batch {batch}, particles {particles}")
    torch.manual_seed(0)  # of the initial weights
    pair = PROGRAMS[name](**sizes).to(device).with_particles(particles)
    batches = pool(images, batch, pair.data_shape, size=options.pool).to(device)
    with isolated_rng():
        products = work_of(lambda: pair.pyro_loss().differentiable_loss(pair.model, pair.guide, batches[0]).backward())
    step = products + adam(pair.parameters())
    built, missing = build(options.candidates, pair, batches)
    check(built, batch)
    times = measure(built, repeats=options.repeats, seconds=options.seconds)
    pyro.clear_param_store()
    counts = {"parameters": sum(p.numel() for p in pair.parameters()), "pool": len(batches)}
    rows = [summary(n, built, missing, times.seconds) for n in options.candidates]
    noise = {"others": max(times.others)}
    sizes |= {"batch": batch, "particles": particles}
    return {"program": name, **sizes, **counts, **asdict(step), **noise, "candidates": rows}


def sizes_of(name: str, width: int | None, latent_dim: int | None) -> dict[str, int]:
    """Sizes of a program; the program's defaults replace None."""
    sizes = {"width": width, "latent_dim": latent_dim}
    defaults = inspect.signature(PROGRAMS[name]).parameters
    return {key: defaults[key].default if value is None else value for key, value in sizes.items()}


def summary(
    name: str, built: Sequence[Candidate], missing: dict[str, str], seconds: dict[str, list[float]]
) -> dict[str, Any]:
    """Quartiles of a candidate's milliseconds per step and of its speed relative to the reference."""
    if name in missing:
        return {"name": name, "note": missing[name], "milliseconds": None, "speedup": None}
    note = next(c.note for c in built if c.name == name)
    ratios = [a / b for a, b in zip(seconds.get(REFERENCE, []), seconds[name], strict=False)]
    milliseconds = quartiles(1e3 * s for s in seconds[name])
    return {"name": name, "note": note, "milliseconds": milliseconds, "speedup": quartiles(ratios) if ratios else None}


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", help="folder with MNIST/raw (default: scikit-learn's digits, enlarged)")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--batch", nargs="+", type=int, default=[20, 128, 1024, 8192], help="images per step")
    parser.add_argument("--width", nargs="+", type=int, default=[None], help="units or channels of the hidden layers")
    parser.add_argument("--particles", nargs="+", type=int, default=[1], help="particles of the ELBO per image")
    parser.add_argument("--latent-dim", type=int, help="latent dimensions (50)")
    parser.add_argument("--candidates", nargs="+", choices=[*CANDIDATES, *IN_BFLOAT16, *ON_GPU], help="(all)")
    parser.add_argument(
        "--precision", choices=["fp32", "bf16"], default="fp32", help="bf16 adds candidates in bfloat16"
    )
    parser.add_argument("--repeats", type=int, default=15, help="alternating repeats (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.2, help="duration of a candidate in a repeat (%(default)s)")
    parser.add_argument("--pool", type=int, default=POOL, help="batches in the pool (%(default)s)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--ranks", nargs="+", type=int, default=[], help="numbers of processes for the speed of fit")
    parser.add_argument("--date", help="date of the record (default: today)")
    parser.add_argument("--out", type=Path, help="JSON file for the record")
    parser.add_argument("--plot", type=Path, help="folder for figures of cost against the sizes and ranks")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    low = IN_BFLOAT16 if options.precision == "bf16" else {}
    defaults = [*CANDIDATES, *low, *(ON_GPU if options.device == "cuda" else {})]
    options.candidates = list(dict.fromkeys([*options.candidates, *low])) if options.candidates else defaults
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU")
    return options


def save(record: Record, file: Path | None) -> None:
    if file:
        file.write_text(json.dumps(record, indent=1) + "\n")


def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    if options.worker:
        return work(options)
    device, (data, images) = torch.device(options.device), load(options.root)
    record: Record = environment(options.date, device)
    record["protocol"] = {"data": data, "repeats": options.repeats, "seconds": options.seconds, "learning_rate": 1e-3}
    peaks = measure_peaks(device, seconds=1.5 * options.seconds)
    record |= {"peaks": asdict(peaks), "cases": [], "ranks": []}
    for case in product(options.programs, options.width, options.batch, options.particles):
        record["cases"].append(measure_case(options, images, *case))
        save(record, options.out)  # an interrupted run keeps its measurements
    record["ranks"] = [scaling(options, n, b) for b in options.batch for n in options.ranks]
    peaks = peaks.best(measure_peaks(device, seconds=1.5 * options.seconds))
    record |= {"peaks": asdict(peaks), "load_average": os.getloadavg()}
    save(record, options.out)
    print(f"{headline(record)}\n\n{speed_table(record)}")
    if options.plot:
        from plots import draw

        draw(record, options.plot)


if __name__ == "__main__":
    main()
