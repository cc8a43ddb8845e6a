"""Kill a training with SIGKILL at random moments, resume it each time, and compare with the uninterrupted run.

    python tools/kill_and_resume.py --kills 20

Prints one line per kill and fails where a single bit of the final weights differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.numpy import load_file

TRAIN = [sys.executable, "-m", "pyro_vae", "train"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # two threads of each would wait for one another
OPTIONS = [
    "--epochs",
    "40",
    "--latent_dim",
    "4",
    "--checkpoint_seconds",
    "0.05",
    "--num_samples",
    "5",
    "--batch_size",
    "70",
    "--device",
    "cpu",
    "--lr_schedule",
    "CosineAnnealingLR",
    "--lr_schedule.T_max",
    "40",
    "--patience",
    "200",
    "--objective",
    "BetaELBO",
    "--objective.beta",
    "LinearWarmUp",
    "--objective.beta.length",
    "30",
    "--objective.num_particles",
    "2",
    "--guide.net.dropout",
    "0.1",
]


def _killed(command: list[str], run: Path, after: float) -> bool:
    """Run the command and kill it so many seconds after its first checkpoint; whether it was still running."""
    before = _age(run)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT) as process:
        while process.poll() is None and _age(run) == before:
            time.sleep(0.005)
        time.sleep(after)
        alive = process.poll() is None
        process.kill()
    return alive


def _age(run: Path) -> int:
    file = run / "state.pt"
    return file.stat().st_mtime_ns if file.exists() else 0


def _finish(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)


def _steps(run: Path) -> int:
    """The step that the last checkpoint is of."""
    return int(torch.load(run / "state.pt", weights_only=True)["progress"]["step"])


def _same(a: Path, b: Path) -> bool:
    first, second = (load_file(run / "weights.safetensors") for run in (a, b))
    records = [
        [
            {k: v for k, v in json.loads(line).items() if "second" not in k}
            for line in (run / "metrics.jsonl").read_text().splitlines()
        ]
        for run in (a, b)
    ]
    weights = first.keys() == second.keys() and all(first[k].tobytes() == second[k].tobytes() for k in first)
    return weights and records[0] == records[1]


def _kill_once(run: Path, options: list[str], length: float, generator: random.Random) -> bool:
    """Start or resume the run and kill it at a random moment; whether that was before its end."""
    words = ["--resume", str(run)] if run.exists() else [*options, "--out", str(run)]
    moment = generator.uniform(0.0, 0.4) * length
    alive = _killed([*TRAIN, *words], run, moment)
    print(f"killed at step {_steps(run)}" if alive else "ended before the kill", flush=True)
    return alive


def kill_and_resume(folder: Path, *, kills: int, per_run: int, seed: int, engine: str = "auto") -> int:
    """Kill so many times, ``per_run`` times in a run at most; the number of runs that ended otherwise than the whole.

    A moment lies within the first 0.4 of a training's length after the first checkpoint since the start.
    """
    whole, generator, wrong, done, number = folder / "whole", random.Random(seed), 0, 0, 0
    options = [*OPTIONS, "--engine", engine]
    _finish([*TRAIN, *options, "--out", str(whole)])
    length = sum(json.loads(line)["seconds"] for line in (whole / "metrics.jsonl").read_text().splitlines())
    while done < kills:
        run, number = folder / f"killed-{number}", number + 1
        for _ in range(min(per_run, kills - done)):
            alive = _kill_once(run, options, length, generator)
            done += alive
            if not alive:
                break
        _finish([*TRAIN, "--resume", str(run)])
        same = _same(whole, run)
        wrong += not same
        print(f"run {number}, {done} kills so far: {'identical' if same else 'DIFFERENT'}", flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--per_run", type=int, default=4, help="kills before a run is let finish")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=["auto", "eager", "compiled"], default="auto")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    try:
        arguments = {"kills": options.kills, "per_run": options.per_run, "seed": options.seed, "engine": options.engine}
        wrong = kill_and_resume(folder, **arguments)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{wrong} runs differ from the uninterrupted one")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
