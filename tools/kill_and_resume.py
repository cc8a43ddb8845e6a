"""Kill a training with SIGKILL at random moments, resume it each time, and compare with the uninterrupted run.

    python tools/kill_and_resume.py --kills 20

Prints one line per kill and fails if a single bit of the final weights differs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from safetensors.numpy import load_file

# Each training is a fork of a fresh interpreter that has imported the package once.
FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(
    [
        "pyro_vae.cli.train",
        "pyro_vae.plotting.save",
        "torch._inductor.compile_fx",
        "sklearn.datasets",
        "matplotlib.pyplot",
    ]
)
OPTIONS = [
    "--epochs",
    "24",
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
    "24",
    "--patience",
    "200",
    "--objective",
    "BetaELBO",
    "--objective.beta",
    "LinearWarmUp",
    "--objective.beta.length",
    "18",
    "--objective.num_particles",
    "2",
    "--guide.net.dropout",
    "0.1",
]


def run_command(arguments: list[str], output: str = os.devnull) -> None:
    """Run ``pyro-vae`` in this process, and exit; a file gets its output."""
    from pyro_vae.cli.main import main

    torch.set_num_threads(1)  # the threads of two processes would wait for one another
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for stream in (1, 2):
        os.dup2(handle, stream)
    sys.exit(main(arguments))


def _started(arguments: list[str]) -> BaseProcess:
    process = FRESH.Process(target=run_command, args=(["train", *arguments],))
    process.start()
    return process


def _killed(arguments: list[str], run: Path, after: float) -> bool:
    """Train and kill ``after`` seconds after the first new checkpoint; whether the training was still running."""
    before = _age(run)
    process = _started(arguments)
    while process.is_alive() and _age(run) == before:
        time.sleep(0.005)
    time.sleep(after)
    alive = process.is_alive()
    process.kill()
    process.join()
    return alive


def _age(run: Path) -> int:
    file = run / "state.pt"
    return file.stat().st_mtime_ns if file.exists() else 0


def _finish(arguments: list[str]) -> None:
    process = _started(arguments)
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"kill_and_resume: pyro-vae train {' '.join(arguments)} failed.")


def _steps(run: Path) -> int:
    """The step of the last checkpoint."""
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
    arguments = ["--resume", str(run)] if run.exists() else [*options, "--out", str(run)]
    moment = generator.uniform(0.0, 0.4) * length
    alive = _killed(arguments, run, moment)
    print(f"killed at step {_steps(run)}" if alive else "ended before the kill", flush=True)
    return alive


def kill_and_resume(folder: Path, *, kills: int, per_run: int, seed: int, engine: str = "auto") -> int:
    """Kill ``kills`` times, at most ``per_run`` times per run; the number of runs that differ from the whole one.

    A moment lies within the first 0.4 of a training's length after the first checkpoint since the start.
    """
    whole, generator, wrong, done, number = folder / "whole", random.Random(seed), 0, 0, 0
    options = [*OPTIONS, "--engine", engine]
    _finish([*options, "--out", str(whole)])
    length = sum(json.loads(line)["seconds"] for line in (whole / "metrics.jsonl").read_text().splitlines())
    while done < kills:
        run, number = folder / f"killed-{number}", number + 1
        for _ in range(min(per_run, kills - done)):
            alive = _kill_once(run, options, length, generator)
            done += alive
            if not alive:
                break
        _finish(["--resume", str(run)])
        same = _same(whole, run)
        wrong += not same
        print(f"run {number}, {done} kills so far: {'identical' if same else 'DIFFERENT'}", flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--per_run", type=int, default=4, help="kills before a run may finish")
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
