"""Peak memory of ``log_likelihood`` in a separate process, against the number of samples.

    python benchmarks/memory.py --engine compiled --num-samples 5000

Prints JSON: the memory of the process after imports and construction of model and data ("before"), and its maximum
("peak"), both in MiB. Imports dominate: torch and Pyro before, the compiler within the peak.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from timing import log

Record = dict[str, Any]
ENGINES = ("eager", "compiled")
SLACK = 32.0
"""Tolerance in MiB of the growth, which varies between processes."""


def resident(field: str) -> float:
    """Memory of this process in MiB: ``VmRSS`` at present, ``VmHWM`` at its peak.

    The second is ``getrusage``'s ``ru_maxrss``, which a process that was started by a larger one inherits from it.
    """
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(f"{field}:"))


def evaluate(options: argparse.Namespace) -> Record:
    """Memory before the evaluation of one batch of images and at its peak."""
    import torch
    from programs import PROGRAMS

    from pyro_vae import log_likelihood

    pair = PROGRAMS["mlp"](options.width, options.latent_dim)
    x = torch.bernoulli(torch.full((options.batch, 784), 0.2))
    before = resident("VmRSS")
    sizes = {"num_samples": options.num_samples, "batch_size": options.batch, "chunk_size": options.chunk}
    log_likelihood(pair.model, pair.guide, x, engine=options.engine, **sizes)
    return {"before": round(before, 1), "peak": round(resident("VmHWM"), 1)}


def measure_memory(numbers: Sequence[int], **sizes: int) -> list[Record]:
    """One new process for every engine and number of samples; raises if memory grows with that number."""
    records = []
    for engine in ENGINES:
        rows = [{"engine": engine, "num_samples": n, **_in_new_process(engine, n, sizes)} for n in sorted(numbers)]
        growth = [row["peak"] - row["before"] for row in rows]
        if max(growth) > growth[0] + SLACK:
            raise AssertionError(f"memory grows with the number of samples, {engine}: {growth} MiB")
        records += rows
    return records


def _in_new_process(engine: str, num_samples: int, sizes: dict[str, int]) -> Record:
    log(f"memory, {engine}, {num_samples} samples")
    command = [sys.executable, __file__, "--engine", engine, "--num-samples", str(num_samples)]
    command += [word for key, value in sizes.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, default="compiled")
    for name, size in {"num-samples": 5000, "batch": 20, "chunk": 50, "width": 500, "latent-dim": 50}.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    print(json.dumps(evaluate(parser.parse_args())))


if __name__ == "__main__":
    main()
