"""Peak memory and time of trainings on grey 28 x 28 images that are read by batches, against those in memory.

    python benchmarks/larger_than_memory.py --rows 1000000

Each row of the table is one epoch, with validation and evaluation on 10,000 images each, in a process of its own.
Then epochs of both kinds alternate within one process, on fewer images; the ratio is the median over pairs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from memory import resident
from tabulate import tabulate
from timing import log

_CHUNK = _NUM_EVALUATED = 10_000


def write_images(path: Path, rows: int) -> None:
    """Write random bytes with a bright centre."""
    generator = np.random.default_rng(0)
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, 28, 28))
    for start in range(0, rows, _CHUNK):
        part = generator.integers(0, 256, (min(_CHUNK, rows - start), 28, 28), dtype=np.uint8)
        part[:, 7:21, 7:21] |= 128
        array[start : start + _CHUNK] = part


def splits(path: Path, *, in_memory: bool) -> Any:
    """The data set with dynamic binarization."""
    from pyro_vae.data import Files

    return Files(path, binarize="dynamic", in_memory=in_memory).load()


def train(data: Any, validation: Any, options: argparse.Namespace) -> tuple[Any, float]:
    """Train a new model for an epoch; return it and the seconds of the steps."""
    import torch

    from pyro_vae import VAE, fit
    from pyro_vae.guides import DiagonalNormalGuide
    from pyro_vae.likelihoods import BernoulliLikelihood
    from pyro_vae.priors import StandardNormalPrior

    torch.manual_seed(0)
    shape = data.data_shape
    vae = VAE(StandardNormalPrior(20), BernoulliLikelihood(20, shape), DiagonalNormalGuide(shape, 20))
    sizes = {"epochs": 1, "batch_size": options.batch, "engine": options.engine}
    result = fit(vae.model, vae.guide, data, validation=validation, progress=False, **sizes)
    return vae, result.history[0]["seconds"]


def measure(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of an epoch, peak memory, and a number that shows whether the trainings are the same."""
    from pyro_vae import log_likelihood

    before = resident("VmRSS")
    data = splits(path, in_memory=options.kind == "memory")
    validation, test = (images.subset(slice(_NUM_EVALUATED)) for images in (data.validation, data.test))
    vae, seconds = train(data.train.subset(slice(options.num_train)), validation, options)
    elbo = log_likelihood(vae.model, vae.guide, test, num_samples=1, batch_size=1000).mean("elbo")
    sizes = {"before": round(before), "peak": round(resident("VmHWM"))}
    return {"rows": options.rows, "read": options.kind, **sizes, "seconds": round(seconds, 2), "test_elbo": elbo}


def in_new_process(path: Path, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """The measurement of one kind in a process of its own."""
    log(f"{options.rows} images, {kind}")
    words = [
        "--kind",
        kind,
        "--path",
        path,
        "--rows",
        options.rows,
        "--batch",
        options.batch,
        "--engine",
        options.engine,
    ]
    command = [sys.executable, __file__, *map(str, words)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def ratio(path: Path, options: argparse.Namespace) -> list[float]:
    """Seconds of epochs by batches, relative to those in memory, in alternation."""
    kinds = {in_memory: splits(path, in_memory=in_memory).train for in_memory in (True, False)}
    pairs = [{k: train(data, None, options)[1] for k, data in kinds.items()} for _ in range(options.repeats + 1)]
    return sorted(pair[False] / pair[True] for pair in pairs[1:])  # the first one compiles


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--engine", default="compiled")
    parser.add_argument("--repeats", type=int, default=11, help="pairs of epochs of a tenth of the images")
    parser.add_argument("--num-train", type=int, help="images of the epoch whose memory is measured (default all)")
    parser.add_argument("--path", type=Path, help="npy file, by default a temporary one")
    parser.add_argument("--kind", choices=["memory", "batches"], help="measure only this, without a table")
    options = parser.parse_args()
    if options.kind:
        print(json.dumps(measure(options.path, options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder) / "images.npy", Path(folder) / "small.npy"
        write_images(path, options.rows)
        write_images(small, max(2, options.rows // 10))
        rows = [in_new_process(path, kind, options) for kind in ("memory", "batches")]
        print(tabulate(rows, headers="keys"))
        ratios = ratio(small, options)
    middle = statistics.median(ratios)
    print(f"seconds by batches / in memory: {middle:.3f} [{ratios[0]:.3f}, {ratios[-1]:.3f}]")


if __name__ == "__main__":
    main()
