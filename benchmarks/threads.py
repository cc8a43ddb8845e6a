"""Milliseconds per compiled step by number of threads and spinning, on quiet cores and beside one or two busy programs.

    python benchmarks/threads.py --out threads.json

A VAE 784-400-50. Threads of OpenMP that wait for one another spin first; GOMP_SPINCOUNT limits the rounds, before torch
is loaded. The others are Python loops without end. Medians and quartiles over groups of ten steps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SETTINGS: dict[str, dict[str, str]] = {
    "all threads": {},
    "all threads, GOMP_SPINCOUNT=30000": {"GOMP_SPINCOUNT": "30000"},
    "all threads, GOMP_SPINCOUNT=3000": {"GOMP_SPINCOUNT": "3000"},
    "all threads, GOMP_SPINCOUNT=100": {"GOMP_SPINCOUNT": "100"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
OTHERS = (0, 1, 2)


def work(batch: int, seconds: float) -> None:
    """Print the milliseconds per step of groups of ten steps, as JSON."""
    import torch
    from programs import PROGRAMS

    from pyro_vae._core.contexts import isolated_rng
    from pyro_vae.training import build_engine

    torch.manual_seed(0)
    pair = PROGRAMS["mlp"](width=400, latent_dim=50)
    batches = torch.rand(20, batch, *pair.data_shape).bernoulli()
    parameters = pair.parameters()
    programs = pair.objective(), pair.model, pair.guide, torch.optim.Adam(parameters, lr=1e-3), parameters
    engine = build_engine("compiled", *programs, args=(batches[0],))
    engine.check, times, end = False, [], time.monotonic() + seconds
    with isolated_rng():
        engine.step((batches[0],))
        while time.monotonic() < end:
            start = time.perf_counter()
            for x in batches[:10]:
                engine.step((x,))
            times.append(100 * (time.perf_counter() - start))
    print(json.dumps(times))


@contextmanager
def busy(number: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()


def measure(settings: dict[str, str], *, batch: int, seconds: float, others: int) -> list[float]:
    from timing import quartiles

    command = [sys.executable, "-W", "ignore", __file__, "--worker", str(batch), "--seconds", str(seconds)]
    cleared = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_NUM_THREADS")}
    with busy(others):
        done = subprocess.run(command, env={**cleared, **settings}, capture_output=True, text=True, check=True)
    return quartiles(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", nargs="+", type=int, default=[128, 20])
    parser.add_argument("--seconds", type=float, default=3.0, help="of a measurement (%(default)s)")
    parser.add_argument("--date", help="date of the record (default: today)")
    parser.add_argument("--out", type=Path, help="JSON file for the record")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker, options.seconds)
    import torch
    from report import environment, spread, table

    rows: list[dict[str, Any]] = []
    for batch in options.batch:
        for name, settings in SETTINGS.items():
            sizes = {"batch": batch, "seconds": options.seconds}
            times = [measure(settings, **sizes, others=others) for others in OTHERS]
            rows.append({"batch": batch, "setting": name, "busy_programs": list(OTHERS), "milliseconds": times})
    record = {**environment(options.date, torch.device("cpu")), "cases": rows}
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    cells = [[str(r["batch"]), r["setting"], *map(spread, r["milliseconds"])] for r in rows]
    print(table(["batch", "setting", "quiet", "beside one busy program", "beside two"], cells, left=2))


if __name__ == "__main__":
    main()
