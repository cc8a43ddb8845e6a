"""Kill commands with SIGKILL at chosen and random moments, run them again, and compare with the uninterrupted command.

    python -m tools.attack_kills                 all trials
    python -m tools.attack_kills --every 10      every tenth one

A chosen moment lies before a change of a file: the first and the last opening, half-written content, fsync, renaming
and removal of every kind of file. A random one is drawn uniformly from the duration of the command. After a kill no
file may be damaged; the same command, or ``train --resume``, must then end with exit code 0 and leave the files of the
uninterrupted command: weights and figures bit for bit, equal numbers, no temporary file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tabulate import tabulate

from tools.instants import EVALUATE, REFIT, TRAIN, Instant, Recorder, contents, damaged, difference, leftovers, watched
from tools.kill_and_resume import FRESH, run_command

COMMANDS = {
    "train": f"{TRAIN} --out new",
    "evaluate": EVALUATE,
    "refit": f"{REFIT} --out new",
    "report": "report run --device cpu",
    "seeds": f"{TRAIN} --seeds 0 --out new",
}
CALLS = {"refit": ("rename",), "seeds": ("remove",)}
"""The calls before which a command is killed, if not before all."""
RANDOM = {"train": 12, "evaluate": 6, "refit": 4, "report": 4, "seeds": 2}
"""Numbers of random moments."""
IMPORTS, BESIDE, RANKS = 8, 9, 6  # trials
_RESUME = "train --resume new"
_LIMIT = 60.0  # seconds after which a process counts as endless


@dataclass
class Trial:
    """A kill and what followed.

    Args:
        command: what was killed.
        moment: when.
        outcome: "good", "late" if the command ended before the kill, or what is wrong.
    """

    command: str
    moment: str
    outcome: str = ""


@dataclass
class Child:
    """A process of a command, and the file of its output."""

    process: BaseProcess
    output: Path

    def end(self) -> tuple[int, str]:
        """Wait for the end; exit code and output."""
        self.process.join(_LIMIT)
        if self.process.is_alive():
            self.process.kill()
            return -1, "endless"
        return self.process.exitcode or 0, self.output.read_text()

    def kill(self) -> bool:
        """Kill it; whether it was still running."""
        alive = self.process.is_alive()
        self.process.kill()
        self.process.join()
        return alive

    def wait_until_stopped(self) -> None:
        """Wait until SIGSTOP has stopped it."""
        end = time.monotonic() + _LIMIT
        while Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            if time.monotonic() > end or not self.process.is_alive():
                raise RuntimeError(f"attack_kills: the process did not stop: {self.output.read_text()}")
            time.sleep(0.01)

    def resume(self) -> None:
        os.kill(self.process.pid or 0, signal.SIGCONT)


def _run(place: Path, command: str, output: Path, recorder: Recorder, environment: Mapping[str, str]) -> None:
    """Run a command in this process, and write the instants that it had."""
    os.chdir(place)
    os.environ.update(environment)
    try:
        with watched(place, recorder):
            run_command(command.split(), str(output))
    finally:
        output.with_suffix(".json").write_text(json.dumps([vars(instant) for instant in recorder.instants()]))


class Attack:
    """Trials in copies of a workspace with a trained run.

    Args:
        folder: place of the copies; ``base`` in it may be the workspace.
        seed: of the random moments.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.random, self._count = folder, random.Random(seed), 0
        self.whole: dict[str, tuple[dict[str, Any], float, list[Instant]]] = {}
        self._base = folder / "base"
        if not self._base.exists():
            self._base.mkdir()
            self._succeed([self.start(self._base, f"{TRAIN} --out run")])

    def start(self, place: Path, command: str, recorder: Recorder | None = None, **environment: str) -> Child:
        """Start a command in a fork of a fresh interpreter."""
        self._count += 1
        output = self.folder / f"output-{self._count}.txt"
        output.touch()  # a rank may be killed before it writes
        process = FRESH.Process(target=_run, args=(place, command, output, recorder or Recorder(), environment))
        process.start()
        return Child(process, output)

    def ranks(self, place: Path, command: str) -> list[Child]:
        """Start a command in two processes, as torchrun does."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return [self.start(place, command, RANK=rank, LOCAL_RANK=rank, **shared) for rank in "01"]

    def uninterrupted(self, name: str) -> tuple[dict[str, Any], float, list[Instant]]:
        """What a command leaves, its duration and its instants."""
        if name not in self.whole:
            place, begin = self.place(), time.perf_counter()
            children = self._start(name, place)
            self._succeed(children)
            instants = json.loads(children[0].output.with_suffix(".json").read_text())
            self.whole[name] = contents(place), time.perf_counter() - begin, [Instant(**entry) for entry in instants]
        return self.whole[name]

    def place(self) -> Path:
        """A new copy of the workspace."""
        place = Path(tempfile.mkdtemp(dir=self.folder))
        shutil.copytree(self._base, place, dirs_exist_ok=True)
        return place

    def trials(self) -> Iterator[tuple[Trial, Callable[[], str]]]:
        """All trials, with the functions that carry them out."""
        for name, number in RANDOM.items():
            for instant in self.uninterrupted(name)[2]:
                if instant.call not in CALLS.get(name, (instant.call,)):
                    continue
                yield (
                    Trial(name, f"before {instant.call} {instant.number} of {instant.kind}"),
                    partial(self.at_instant, name, instant),
                )
            for _ in range(number):
                yield self._at_random(name)
        for number in range(IMPORTS):
            name, seconds = list(COMMANDS)[number % len(COMMANDS)], self.random.uniform(0.05, 1.5)
            yield Trial("imports", f"{name}, {seconds:.2f} s"), partial(self.during_imports, name, seconds)
        for number in range(BESIDE):
            kind = ("state.pt", "result", "figure")[number % 3]
            killed = ("first", "second")[number % 2]
            yield Trial("two processes", f"{kind}, {killed} killed"), partial(self.beside, kind, killed)
        for number in range(RANKS):
            share = self.random.random()
            yield Trial("two ranks", f"rank {number % 2} at {share:.2f}"), partial(self.of_ranks, number % 2, share)

    def _at_random(self, name: str) -> tuple[Trial, Callable[[], str]]:
        seconds = self.random.random() * self.uninterrupted(name)[1]
        return Trial(name, f"after {seconds:.2f} s"), partial(self.after, name, seconds)

    def at_instant(self, name: str, instant: Instant) -> str:
        """Kill a command at an instant."""
        place = self.place()
        child = self.start(place, COMMANDS[name], Recorder(instant))
        code, text = child.end()
        return self.judge(place, name) if code == -signal.SIGKILL else f"was not killed: {code}, {text}"

    def after(self, name: str, seconds: float) -> str:
        """Kill a command after a time."""
        place = self.place()
        child = self.start(place, COMMANDS[name])
        time.sleep(seconds)
        late = not child.kill()
        return self.judge(place, name, late=late)

    def during_imports(self, name: str, seconds: float) -> str:
        """Kill a fresh interpreter."""
        place = self.place()
        before, path = contents(place), str(Path(__file__).parents[1])
        words = [sys.executable, "-m", "pyro_vae", *COMMANDS[name].split()]
        process = subprocess.Popen(words, cwd=place, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        late = process.poll() is not None
        process.kill()
        process.wait()
        changed = difference(before, contents(place)) if name == "report" else ""
        return changed or self.judge(place, name, late=late)

    def beside(self, kind: str, killed: str) -> str:
        """Resume a run beside the living process that trains or evaluates it, and kill one of them.

        Args:
            kind: of the file that the living process is about to replace for the first time.
            killed: the "first" or "second" process.
        """
        place = self.place()
        first = self.start(place, COMMANDS["train"], Recorder(Instant("rename", kind), signal.SIGSTOP))
        first.wait_until_stopped()
        second = self.start(place, _RESUME)
        if killed == "second":
            time.sleep(self.random.uniform(0.0, 0.5))
            second.kill()
            first.resume()
            code, text = first.end()
            return f"the first process failed: {code}, {text}" if code else self.judge(place, "train")
        code, text = second.end()
        first.kill()
        if kind == "state.pt" and (code != 2 or "another process" not in text):
            return f"the second process was not refused: {code}, {text}"
        if kind != "state.pt" and code:
            return f"the second process failed: {code}, {text}"
        return self.judge(place, "train")

    def of_ranks(self, rank: int, share: float) -> str:
        """Kill one of two ranks after a share of the duration; the other one must end, as torchrun would end it."""
        place, (_, duration, _) = self.place(), self.uninterrupted("two ranks")
        children = self.ranks(place, COMMANDS["train"])
        time.sleep(share * duration)
        late = not children[rank].kill()
        with suppress(ProcessLookupError):
            os.kill(children[1 - rank].process.pid or 0, signal.SIGTERM)
        if children[1 - rank].end()[0] == -1:
            return "the other rank does not end"
        return self.judge(place, "two ranks", late=late)

    def judge(self, place: Path, name: str, *, late: bool = False) -> str:
        """Run a killed command again: "good", "late", or what is wrong."""
        if bad := damaged(place):
            return f"damaged {bad[0]}"
        for path in leftovers(place):
            os.utime(path, (0, 0))  # as after a pause: the files of the last second are kept for their writer
        for child in self._start(name, place):
            code, text = child.end()
            if code:
                return f"the next command ended with {code}: {text.strip()}"
        wrong = difference(self.uninterrupted(name)[0], contents(place))
        return wrong or ("late" if late else "good")

    def _start(self, name: str, place: Path) -> list[Child]:
        """Start a command, or resume the run folder that it was to make."""
        command = COMMANDS.get(name, COMMANDS["train"])
        command = _RESUME if (place / "new").exists() else command
        return self.ranks(place, command) if name == "two ranks" else [self.start(place, command)]

    def _succeed(self, children: Sequence[Child]) -> None:
        for child in children:
            code, text = child.end()
            if code:
                raise SystemExit(f"attack_kills: {text}")


def attack(folder: Path, *, every: int = 1, first: int = 0, seed: int = 0) -> list[Trial]:
    """Carry out every n-th trial.

    Args:
        folder: an empty folder.
        every: distance between trials.
        first: number of the first one.
        seed: of the random moments.
    """
    done = []
    for trial, carry_out in list(Attack(folder, seed).trials())[first::every]:
        trial.outcome = carry_out()
        if trial.outcome not in ("good", "late"):
            print(f"{trial.command}, {trial.moment}: {trial.outcome}", flush=True)
        done.append(trial)
    return done


def table(done: Sequence[Trial]) -> str:
    """Numbers of kills, of good ends, of commands that ended before the kill, and of failures."""
    rows = []
    for name in [*dict.fromkeys(trial.command for trial in done), "all"]:
        outcomes = [trial.outcome for trial in done if name in (trial.command, "all")]
        good, late = outcomes.count("good"), outcomes.count("late")
        rows.append([name, len(outcomes), good, late, len(outcomes) - good - late])
    return tabulate(rows, ["killed", "trials", "good", "ended before", "failures"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="carry out every n-th trial")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    options = vars(parser.parse_args())
    with tempfile.TemporaryDirectory(prefix="attack-kills-") as folder:
        done = attack(Path(folder), **options)
    print(table(done))
    return int(any(trial.outcome not in ("good", "late") for trial in done))


if __name__ == "__main__":
    sys.exit(main())
