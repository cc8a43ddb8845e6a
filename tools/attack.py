"""Run every attack, two at a time, and print one table.

    python -m tools.attack

An outcome is good if the error is one good line, or if the command ends as without the interruption; legitimate if
there was nothing to report: a value that may be given, harmless damage, a kill after the end. Failures are printed, and
make the exit code 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate


class Outcomes(NamedTuple):
    """Numbers of trials, of good and of legitimate outcomes, and the failures."""

    trials: int
    good: int
    legitimate: int
    failures: list[str]


def kills(folder: Path, seed: int) -> Outcomes:
    from tools import attack_kills

    done = attack_kills.attack(folder, seed=seed)
    outcomes = [trial.outcome for trial in done]
    bad = [f"{t.command}, {t.moment}: {t.outcome}" for t in done if t.outcome not in ("good", "late")]
    return Outcomes(len(done), outcomes.count("good"), outcomes.count("late"), bad)


def disks(folder: Path, seed: int) -> Outcomes:
    from tools import attack_disks

    base = folder / "base"
    base.mkdir()
    attack_disks.workspace(base)
    done = attack_disks.attack(base)
    bad = [f"{trial}" for trial in done if trial.problem]
    return Outcomes(len(done), len(done) - len(bad), 0, bad)


def files(folder: Path, seed: int) -> Outcomes:
    from tools import attack_files

    base = folder / "base"
    base.mkdir()
    attack_files.workspace(base)
    done = attack_files.attack(base)
    bad = [f"{t.kind}, {t.damage}: {t.command}: {t.problem}: {t.text}" for t in done if t.problem]
    good = sum(t.code == 2 and not t.problem for t in done)
    return Outcomes(len(done), good, len(done) - good - len(bad), bad)


def command_lines(folder: Path, seed: int) -> Outcomes:
    from tools import attack_command_lines

    table, number, failures = attack_command_lines.attack()
    good = int(table.splitlines()[-1].split()[2])
    bad = [f"{' '.join(trial.argv)}: {verdict}" for trial, verdict in failures]
    return Outcomes(number, good, number - good - len(bad), bad)


def arguments(folder: Path, seed: int) -> Outcomes:
    from tools import attack_arguments

    done = list(attack_arguments.trials())
    outcomes = [trial.outcome for trial in done]
    good, legitimate = outcomes.count("good"), outcomes.count("legitimate")
    return Outcomes(len(done), good, legitimate, [str(t) for t in done if t.outcome not in ("good", "legitimate")])


ATTACKS: dict[str, Callable[[Path, int], Outcomes]] = {  # the longest first
    "kill -9": kills,
    "full disk, no inodes, unwritable folder": disks,
    "damaged files": files,
    "bad command lines": command_lines,
    "bad Python arguments": arguments,
}


def carry_out(name: str, seed: int) -> tuple[Outcomes, float]:
    """Outcomes of an attack, and its duration in seconds."""
    import torch

    torch.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        outcomes = ATTACKS[name](Path(folder), seed)
    seconds = time.perf_counter() - start
    lines = [f"{name}: {outcomes.trials} trials, {len(outcomes.failures)} failures, {seconds:.0f} s"]
    print("\n".join([*lines, *outcomes.failures]), flush=True)
    return outcomes, seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments of kills")
    parser.add_argument("names", nargs="*", metavar="ATTACK", help=f"{', '.join(ATTACKS)}; all without")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")  # killed processes leave semaphores
    names = options.names or list(ATTACKS)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        done = list(pool.map(carry_out, names, [options.seed] * len(names)))
    rows = []
    for name, (outcomes, seconds) in zip(names, done, strict=True):
        rows.append([name, *outcomes[:3], len(outcomes.failures), round(seconds)])
    totals = [sum(column) for column in zip(*(row[1:5] for row in rows), strict=True)]
    print(tabulate([*rows, ["all", *totals, None]], ["attack", "trials", "good", "legitimate", "failures", "seconds"]))
    return int(totals[-1] > 0)


if __name__ == "__main__":
    sys.exit(main())
