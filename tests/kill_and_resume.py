"""Kill a training with SIGKILL at random moments, resume it each time, and compare with the uninterrupted run.

    python tests/kill_and_resume.py --kills 20

Prints one line per kill and fails where a single bit of the final weights differs.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.numpy import load_file

TRAIN = [sys.executable, "-m", "pyro_vae", "train"]
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


def _killed(command: list[str], after: float) -> bool:
    """Run the command and kill it after so many seconds; whether it was still running."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        time.sleep(after)
        alive = process.poll() is None
        process.kill()
    return alive


def _finish(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _steps(run: Path) -> int:
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


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


def kill_and_resume(folder: Path, *, kills: int, per_run: int, seed: int) -> int:
    """Kill so many times, in runs of ``per_run`` kills each; the number of runs that ended otherwise than the whole."""
    whole = folder / "whole"
    total = _finish([*TRAIN, *OPTIONS, "--out", str(whole)])
    generator, wrong, done = random.Random(seed), 0, 0
    while done < kills:
        run = folder / f"killed-{done}"
        for _ in range(min(per_run, kills - done)):
            start = [*OPTIONS, "--out", str(run)] if not run.exists() else ["--resume", str(run)]
            moment = generator.uniform(0.3, 1.0) * total
            alive = _killed([*TRAIN, *start], moment)
            done += 1
            print(
                f"kill {done} after {moment:.2f} s, {'running' if alive else 'ended'}, step {_steps(run)}", flush=True
            )
        if not run.exists():
            continue  # killed before the folder was made: nothing to resume
        _finish([*TRAIN, "--resume", str(run)])
        same = _same(whole, run)
        wrong += not same
        print(f"resumed: {'identical' if same else 'DIFFERENT'}", flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--per_run", type=int, default=4, help="kills before a run is let finish")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    try:
        wrong = kill_and_resume(folder, kills=options.kills, per_run=options.per_run, seed=options.seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{wrong} runs differ from the uninterrupted one")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
