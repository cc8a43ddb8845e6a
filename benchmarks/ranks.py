"""The speed of ``fit`` with several processes, launched by torchrun."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from images import load, pool
from programs import PROGRAMS
from timing import log, quartiles

from pyro_vae import fit

EPOCHS, WARM_UP = 8, 3
SCRIPT = Path(__file__).with_name("speed.py")


def scaling(options: argparse.Namespace, ranks: int, batch: int) -> dict[str, Any]:
    """Train the first program with ``ranks`` processes, which share the processor's cores."""
    threads = max(1, (os.cpu_count() or 1) // ranks) if options.device == "cpu" else 1
    log(f"{options.programs[0]}, batch {batch}, ranks: {ranks}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "speed.json"
        launch = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={ranks}",
            __file__.replace("ranks", "speed"),
        ]
        task = ["--worker", str(file), "--programs", options.programs[0], "--batch", str(batch)]
        place = ["--device", options.device, *(["--root", options.root] if options.root else [])]
        limits = {"OMP_NUM_THREADS": str(threads)}
        subprocess.run([sys.executable, *launch, *task, *place], check=True, env={**os.environ, **limits})
        speeds = json.loads(file.read_text())
    sizes = {"program": options.programs[0], "batch": batch, "ranks": ranks, "threads": threads}
    return {**sizes, "examples_per_second": quartiles(speeds)}


def work(options: argparse.Namespace) -> None:
    """Train in one of the processes; the first one writes the examples per second of all processes."""
    rank, local = int(os.environ.get("RANK", 0)), os.environ.get("LOCAL_RANK", "0")
    device = torch.device(f"cuda:{local}" if options.device == "cuda" else "cpu")
    torch.manual_seed(0)
    pair = PROGRAMS[options.programs[0]]().to(device)
    batch = options.batch[0]
    data = pool(load(options.root)[1], batch, pair.data_shape).flatten(0, 1).to(device)
    settings: dict[str, Any] = {"epochs": EPOCHS, "batch_size": batch, "objective": pair.objective()}
    result = fit(pair.model, pair.guide, data, engine="compiled", progress=False, **settings)
    if rank == 0:
        options.worker.write_text(json.dumps([r["examples_per_second"] for r in result.history[WARM_UP:]]))
