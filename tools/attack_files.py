"""Damage every kind of file that the package reads, and run every command that reads it.

    python -m tools.attack_files

A trial copies a small workspace, damages one file in it (tools/poisons.py) and runs one command in this process. It is
good if the command ends with exit code 2 and one line on standard error that names the file (or, for entries of a
configuration, the option), or if the damage is harmless and the command succeeds; nothing may be executed, hang, fill
the memory, or change another file of a run. Prints one table, and every failure; the exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.cli.main import main
from tools import poisons
from tools.poisons import MARKER, Damage

_QUICK = (
    "--epochs 1 --latent_dim 2 --num_samples 3 --device cpu --batch_size 20 --engine eager "
    "--likelihood.net.hidden [4] --guide.net.hidden [4]"
)
QUICK = _QUICK.split()
RESULT = "run/log_likelihood-test-guide-3-seed0.json"
_FILES = "train --data Files --out new --data.root"
_MNIST = "train --data MNIST --data.root . --data.validation 5 --out new"
_EVALUATE = "evaluate run --num_samples 2"
_GAPS = f"evaluate run --method gaps --log_likelihood {RESULT}"
_CONFIG = "run/config.yaml"
TARGETS: dict[str, tuple[str, Any, tuple[str, ...]]] = {
    "result": (RESULT, poisons.of_results, ("compare run other", "report run", _GAPS)),
    "metrics.jsonl": ("run/metrics.jsonl", poisons.of_metrics, ("report run", "train --resume run")),
    "state.pt": ("run/state.pt", poisons.of_states, ("train --resume run",)),
    "weights": ("run/weights.safetensors", poisons.of_weights, (_EVALUATE, "sample run", "report run")),
    "config.yaml": (
        _CONFIG,
        poisons.of_configs,
        (_EVALUATE, "train --resume run", f"train --config {_CONFIG} --out new", "compare run other"),
    ),
    "npz": ("data.npz", poisons.of_npz, (f"{_FILES} data.npz", _EVALUATE, "classify m2 data.npz")),
    "npy": ("data.npy", poisons.of_npy, (f"{_FILES} data.npy", "classify m2 data.npy")),
    "idx": ("MNIST/raw/train-images-idx3-ubyte", poisons.of_idx, (_MNIST,)),
    "image": ("a.png", poisons.of_images, ("classify m2 a.png",)),
}
"""By kind: the file, its special damage, and the commands that read it."""
SECONDS, HANG = 5.0, 120.0  # of the processor for a refusal; on the clock
MEGABYTES = 500


@dataclass
class Trial:
    """A damage of one kind of file with a command."""

    kind: str
    damage: str
    command: str
    code: int = -1
    text: str = ""
    seconds: float = 0.0
    problem: str = ""


def workspace(folder: Path, *, classes: bool = True) -> None:
    """Make data and trained runs; with ``classes``, also a run of a semi-supervised model, for ``classify``."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 2, (60, 4, 4)).astype(np.uint8), np.arange(60) % 3
    np.savez(folder / "data.npz", images=images, labels=labels)
    np.save(folder / "data.npy", images)
    (folder / "a.png").write_bytes(poisons.png((4, 4)))
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        head = struct.pack(">IIII", 0x803, 60, 28, 28)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(head + rng.bytes(60 * 28 * 28))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 60) + bytes(labels.tolist()))
    with inside(folder):
        quiet(["train", "--data", "Files", "--data.root", "data.npz", *QUICK, "--out", "run"])
        shutil.copytree("run", "other")
        if not classes:
            return
        m2 = ["--model", "M2", "--data.labels", "12", "--classifier.net.hidden", "[4]"]
        quiet(["train", "--data", "Files", "--data.root", "data.npz", *QUICK, *m2, "--out", "m2"])


@contextlib.contextmanager
def inside(folder: str | Path) -> Iterator[None]:
    """Context with another working folder."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def quiet(arguments: Sequence[str]) -> None:
    """Run a command that must succeed."""
    code, text = run(arguments)
    if code:
        raise SystemExit(f"{' '.join(arguments)}: {text}")


def run(arguments: Sequence[str]) -> tuple[int, str]:
    """Exit code and standard error of a command in this process."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = main(arguments)
    return code, errors.getvalue()


def _stop(*args: Any) -> None:
    raise TimeoutError("still running")


def attempt(base: Path, trial: Trial, file: str, damage: Damage) -> Trial:
    """Carry a trial out in a copy of the workspace."""
    with tempfile.TemporaryDirectory(dir=base.parent) as name, inside(name):
        shutil.copytree(base, ".", dirs_exist_ok=True)
        damage(Path(file))
        before, memory, start = contents(file), peak(), time.process_time()
        arguments = trial.command.split()
        if arguments[0] == "train" and "--resume" not in arguments:
            arguments += QUICK
        signal.signal(signal.SIGALRM, _stop)
        signal.setitimer(signal.ITIMER_REAL, HANG)
        try:
            trial.code, trial.text = run(arguments)
        except BaseException as error:
            trial.problem = f"{type(error).__name__} escaped: {error}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        trial.seconds = time.process_time() - start
        trial.problem = trial.problem or judge(trial, file, before, peak() - memory)
    return trial


def judge(trial: Trial, file: str, before: dict[str, str], growth: float) -> str:
    """What is wrong with the outcome of a trial; empty if nothing is."""
    if Path(MARKER).exists():
        return "executed"
    if growth > MEGABYTES:
        return f"took {growth:.0f} MB"
    if trial.code == 0:
        return ""
    lines = [line for line in trial.text.splitlines() if not line.startswith("warning: ")]
    if trial.code != 2:
        return f"exit code {trial.code}"
    if len(lines) != 1 or lines[0][-1] not in ".?":
        return f"{len(lines)} lines"
    named = Path(file).name in trial.text or trial.kind == "config.yaml"  # a wrong value is named by its option
    without = "every run must have a result" in trial.text  # a file that is no result is skipped
    without |= "a column must have one protocol" in trial.text  # an entry of another name; the runs are named
    other = trial.kind == "state.pt" and trial.text.startswith("fit: ")  # as of another training
    if not named and not without and not other:
        return "the file is not named"
    if trial.seconds > SECONDS:
        return f"took {trial.seconds:.1f} s"
    after = contents(file)
    changed = [name for name, value in before.items() if after.get(name) != value]
    return f"changed {changed[0]}" if changed else ""


def contents(damaged: str) -> dict[str, str]:
    """Hashes of the files of the runs, except the damaged one."""
    files = (p for p in sorted(Path().glob("*/*")) if p.is_file() and not p.is_symlink() and str(p) != damaged)
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def peak() -> float:
    """Largest memory of the process so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def trials() -> Iterator[tuple[Trial, str, Damage]]:
    """Every damage with every command that reads the file."""
    for kind, (file, special, commands) in TARGETS.items():
        if file != ".":
            for name, damage in [*poisons.of_any_file(), *special()]:
                for command in commands:
                    yield Trial(kind, name, command), file, damage


def attack(base: Path, *, step: int = 1, kinds: Sequence[str] = ()) -> list[Trial]:
    """The outcomes of every ``step``-th trial.

    Args:
        base: the workspace.
        step: distance between trials.
        kinds: of files; by default all.
    """
    chosen = [t for t in trials() if not kinds or t[0].kind in kinds]
    chosen = [t for t in chosen if "m2" not in t[0].command or (base / "m2").exists()][::step]
    limit = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 10**9, limit[1]))  # a mistake must not stop the machine
    try:
        return _outcomes(base, chosen)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)


def _outcomes(base: Path, chosen: Sequence[tuple[Trial, str, Damage]]) -> list[Trial]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [attempt(base, *entry) for entry in chosen]


def table(outcomes: Sequence[Trial]) -> str:
    """Trials, good lines, harmless damage and failures by kind of file."""
    names, widths = ("damages", "trials", "one line", "harmless", "failures", "slowest [s]"), (9, 8, 10, 10, 10, 13)
    lines = ["file".ljust(16) + "".join(name.rjust(width) for name, width in zip(names, widths, strict=True))]
    for kind in [*dict.fromkeys(t.kind for t in outcomes), "all"]:
        own = [t for t in outcomes if kind in (t.kind, "all")]
        failures, refused = sum(bool(t.problem) for t in own), [t for t in own if t.code == 2 and not t.problem]
        counts = len({(t.kind, t.damage) for t in own}), len(own), len(refused)
        counts += len(own) - failures - len(refused), failures
        cells = [*map(str, counts), f"{max((t.seconds for t in refused), default=0):.2f}"]
        lines.append(kind.ljust(16) + "".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)))
    return "\n".join(lines)


def run_attack() -> int:
    """Print the table and the failures; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", type=int, default=1, help="take every n-th trial")
    parser.add_argument("--kinds", nargs="*", default=[], choices=list(TARGETS), help="kinds of files")
    parser.add_argument("--show", action="store_true", help="print the outcome of every trial")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        base.mkdir()
        workspace(base)
        outcomes = attack(base, step=options.step, kinds=options.kinds)
    for t in outcomes:
        if t.problem or options.show:
            state = f"FAILED ({t.problem})" if t.problem else f"{t.code}"
            print(f"{t.kind}, {t.damage}: {t.command}: {state}: {t.text.strip()[:300]}")
    print(table(outcomes))
    return int(any(t.problem for t in outcomes))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(run_attack())
