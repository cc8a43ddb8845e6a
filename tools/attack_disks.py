"""Let every kind of file fail to be written, by a full disk, a lack of inodes or an unwritable folder.

    python -m tools.attack_disks                 all trials
    python -m tools.attack_disks --every 10      every tenth one

A trial runs a command in this process and lets one call on one kind of file fail (opening, the second half of a
content, fsync, renaming, creating a folder), and from then on all calls that the same cause would fail. It is good if
the command ends with exit code 2 and one line that names the file, if no file is damaged or left over and the earlier
files are intact, and if the same command, or ``train --resume``, then succeeds with the files of the uninterrupted one.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from tabulate import tabulate

from tools.attack_files import inside, quiet, run
from tools.instants import (
    EVALUATE,
    TRAIN,
    Instant,
    Recorder,
    contents,
    damaged,
    difference,
    final_name,
    leftovers,
    watched,
)

_M2 = f"{TRAIN} --model M2 --data.labels 100 --classifier.net.hidden [4]"
COMMANDS = {
    "train": f"{TRAIN} --out new",
    "evaluate": EVALUATE,
    "report": "report run --device cpu",
    "compare": "compare run other --out table.md --overwrite",
    "sample": "sample run --num 4 --device cpu --out images.npz --overwrite",
    "classify": "classify m2 images.npy --device cpu --out classes.csv --overwrite",
    "bug": f"{TRAIN} --out new",
}
"""By name; "bug" is a training whose evaluation has a bug, so that it writes a log."""
_CAUSES = {
    "no space": (errno.ENOSPC, ("write", "fsync")),
    "no inodes": (errno.ENOSPC, ("open", "mkdir", "rename")),
    "unwritable": (errno.EACCES, ("open", "mkdir", "rename")),
}
_NOT_NEEDED = ("batch", "folder of batches")  # an evaluation that cannot store its batches goes on


@dataclass
class Fault:
    """Lets calls fail from an instant on.

    Args:
        cause: "no space", "no inodes" or "unwritable".
        at: the instant.
        lasting: whether later calls fail, too.
    """

    cause: str
    at: Instant
    lasting: bool = True
    failed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._recorder = Recorder(self.at)

    def __call__(self, call: str, path: str) -> None:
        number, calls = _CAUSES[self.cause]
        if self._recorder.reached(call, path) or (self.failed and self.lasting and call in calls):
            self.failed |= {final_name(path), final_name(os.path.dirname(path))}
            raise OSError(number, os.strerror(number), path)


@dataclass
class Trial:
    """A command with a fault; ``problem`` is empty if all is well, ``text`` what the command printed."""

    command: str
    fault: Fault
    text: str = ""
    problem: str = ""


def workspace(folder: Path, names: Sequence[str] = tuple(COMMANDS)) -> None:
    """Train the runs that the commands need."""
    with inside(folder):
        quiet(f"{TRAIN} --out run".split())
        shutil.copytree("run", "other")
        if "classify" in names:
            quiet(f"{_M2} --out m2".split())
            np.save("images.npy", np.zeros((2, 8, 8), np.uint8))


class Attack:
    """Trials in copies of a workspace.

    Args:
        base: the workspace.
        names: the commands.
    """

    def __init__(self, base: Path, names: Sequence[str] = tuple(COMMANDS)) -> None:
        self.base, self.names = base, names
        self._whole: dict[str, tuple[dict[str, Any], list[Instant]]] = {}

    def uninterrupted(self, name: str) -> tuple[dict[str, Any], list[Instant]]:
        """Files that a command leaves, and its instants."""
        if name not in self._whole:
            recorder = Recorder()
            with self._place() as place:
                with watched(place, recorder), _bug(name):
                    run(COMMANDS[name].split())
                self._whole[name] = contents(place), recorder.instants()
        return self._whole[name]

    def trials(self) -> Iterator[Trial]:
        """All trials; runs every command once."""
        for name in self.names:
            for at in self.uninterrupted(name)[1]:
                log = at.kind == "error.log" or "log among" in at.kind
                if at.call == "remove" or (at.number > 1 and at.call != "write") or log != (name == "bug"):
                    continue
                for cause, (_, calls) in _CAUSES.items():
                    if at.call in calls and (at.call, cause) != ("rename", "unwritable"):
                        yield Trial(name, Fault(cause, at))
                        if at.kind in _NOT_NEEDED or log:
                            yield Trial(name, Fault(cause, at, lasting=False))

    def attempt(self, trial: Trial) -> Trial:
        """Carry a trial out."""
        with self._place() as place:
            before = contents(place)
            try:
                with watched(place, trial.fault), _bug(trial.command):
                    code, trial.text = run(COMMANDS[trial.command].split())
            except BaseException as error:
                trial.problem = f"{type(error).__name__} escaped: {error}"
                return trial
            trial.problem = self._judge(trial, code, before, place) or self._judge_next(trial.command, place)
        return trial

    def _judge(self, trial: Trial, code: int, before: dict[str, Any], place: Path) -> str:
        """Describe a problem after the fault; empty if there is none."""
        lines, fault, bug = trial.text.splitlines(), trial.fault, trial.command == "bug"
        expected = 70 if bug else 2
        if fault.at.kind in _NOT_NEEDED and not fault.lasting:
            expected, lines = 0, [line.removeprefix("warning: ") for line in lines]
        errors = [line for line in lines if not line.startswith("warning: ")]
        if not fault.failed:
            return "nothing failed"
        if code != expected or len(errors) != 1 or errors[0][-1] != ".":
            return f"exit code {code}, {len(errors)} lines"
        if not bug and not any(name in errors[0] for name in fault.failed):
            return f"the line names none of {', '.join(sorted(fault.failed))}"
        if bug and any(str(log) not in errors[0] for log in (place / "tmp").iterdir()):
            return "a log that is not named is left over"
        if bad := damaged(place) or [f"{path} left over" for path in leftovers(place)]:
            return bad[0]
        after, whole = contents(place), self.uninterrupted(trial.command)[0]
        changed = (name for name in before if after.get(name) not in (before[name], whole[name]))
        return next((f"{name} changed" for name in changed), "")

    def _judge_next(self, name: str, place: Path) -> str:
        """Describe a problem after the next command, with space; empty if there is none."""
        command = "train --resume new" if (place / "new").exists() else COMMANDS[name]
        code, text = run(command.split())
        if code:
            return f"the next command ended with {code}: {text}"
        for path in (place / "tmp").iterdir():
            path.unlink()
        (place / "new" / "error.log").unlink(missing_ok=True)
        expected, _ = self.uninterrupted("train" if name == "bug" else name)
        return difference(expected, contents(place))

    @contextlib.contextmanager
    def _place(self) -> Iterator[Path]:
        """A copy of the workspace, as working folder, with a folder of temporary files in it."""
        with tempfile.TemporaryDirectory(dir=self.base.parent) as name, inside(name):
            shutil.copytree(self.base, ".", dirs_exist_ok=True)
            Path("tmp").mkdir()
            with mock.patch.object(tempfile, "tempdir", os.path.join(name, "tmp")):
                yield Path(name)


def _bug(name: str) -> contextlib.AbstractContextManager[Any]:
    """A bug in the evaluation, if the command is to have one."""
    broken = mock.patch("pyro_vae.cli.results._options", side_effect=KeyError("bug"))
    return broken if name == "bug" else contextlib.nullcontext()


def attack(base: Path, names: Sequence[str] = tuple(COMMANDS), *, every: int = 1, first: int = 0) -> list[Trial]:
    """Carry out every n-th trial.

    Args:
        base: the workspace.
        names: of the commands.
        every: distance between trials.
        first: number of the first one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # as in a new process
        attack = Attack(base, names)
        return [attack.attempt(trial) for trial in list(attack.trials())[first::every]]


def table(done: Sequence[Trial]) -> str:
    """Numbers of trials and failures by kind of file."""
    rows = []
    for kind in [*dict.fromkeys(trial.fault.at.kind for trial in done), "all"]:
        chosen = [trial for trial in done if kind in (trial.fault.at.kind, "all")]
        causes = [sum(trial.fault.cause == cause for trial in chosen) for cause in _CAUSES]
        rows.append([kind, *causes, len(chosen), sum(bool(trial.problem) for trial in chosen)])
    return tabulate(rows, ["file", *_CAUSES, "trials", "failures"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="commands; all without")
    parser.add_argument("--every", type=int, default=1, help="carry out every n-th trial")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    options = vars(parser.parse_args())
    names = options.pop("names") or list(COMMANDS)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="attack-disks-") as folder:
        base = Path(folder) / "base"
        base.mkdir()
        workspace(base, names)
        done = attack(base, names, **options)
    for trial in done:
        if trial.problem:
            at = trial.fault.at
            print(f"{trial.command}, {trial.fault.cause} at {at.call} {at.number} of {at.kind}: {trial.problem}")
            print(f"    {trial.text.strip()}")
    print(table(done))
    return int(any(trial.problem for trial in done))


if __name__ == "__main__":
    sys.exit(main())
