"""Run the tests of planted bugs in forks of a process that has imported all that is slow, except the package."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from compileall import compile_dir
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tools.planted_bugs import ROOT, Bug, arguments, locate, package_sources, planted

IMPORTS = [
    "torch.fx.experimental.proxy_tensor",
    "torch._inductor.compile_fx",
    "pyro.infer",
    "pyro.contrib.examples",
    "pytest",
    "numpy",
    "scipy.stats",
    "sklearn.datasets",
    "sklearn.linear_model",
    "matplotlib.pyplot",
    "torchvision",
    "jsonargparse",
    "safetensors.torch",
    "yaml",
]
COPIED = ("pyro_vae", "tests", "tools")
WAIT = 5  # the wall time of a job may be this multiple of its processor time
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "MPLBACKEND": "Agg",
    "COLUMNS": "120",
}


@dataclass
class Job:
    """Tests to run in a copy of the package, with a bug or, as a control, without."""

    name: str
    tests: list[str]
    bug: Bug | None = None
    first: str | None = None  # test to run before the others


@dataclass
class Outcome:
    """``status`` is killed, survived, timeout or error; ``test`` the first that failed."""

    status: str
    test: str = ""
    seconds: float = 0.0
    output: str = ""


class _FirstFailure:
    """Pytest plugin: the first test that fails, or the file that cannot be collected. Slow tests run last."""

    def __init__(self, first: str | None) -> None:
        self.first, self.failed = first, ""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items.sort(key=lambda item: (item.nodeid != self.first, item.get_closest_marker("slow") is not None))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.failed = self.failed or f"{report.nodeid} (collection)"


class Forks:
    """Runs jobs in child processes, each in its own copy of the repository."""

    def __init__(self, folder: Path, *, jobs: int, timeout: float) -> None:
        self.folder, self.jobs, self.timeout = folder, jobs, timeout
        self.sources = package_sources()
        self.base = folder / "base"
        for name in COPIED:
            shutil.copytree(ROOT / name, self.base / name, ignore=shutil.ignore_patterns("__pycache__"))
            compile_dir(self.base / name, quiet=1)
        for path in ROOT.iterdir():
            if path.name not in COPIED and not path.name.startswith("."):
                (self.base / path.name).symlink_to(path)

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Results in the order in which they come."""
        waiting, running = list(jobs), dict[int, tuple[Job, Path, float]]()
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    job = waiting.pop(0)
                    folder = self._copy(job)
                    running[self._start(job, folder)] = job, folder, time.monotonic()
                time.sleep(0.05)
                for pid, (job, folder, start) in list(running.items()):
                    seconds = time.monotonic() - start
                    outcome = self._outcome(pid, job, folder, seconds)
                    if outcome is not None:
                        del running[pid]
                        outcome.seconds = round(seconds, 1)
                        shutil.rmtree(folder)
                        yield job, outcome
        finally:
            for pid in running:
                os.killpg(pid, signal.SIGKILL)

    def _copy(self, job: Job) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        shutil.copytree(self.base, folder, symlinks=True, dirs_exist_ok=True)
        if job.bug is not None:
            file = locate(job.bug, self.sources)
            assert file is not None
            path = folder / "pyro_vae" / file
            for old in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
                old.unlink()
            path.write_text(planted(job.bug, self.sources[file]))
        return folder

    def _start(self, job: Job, folder: Path) -> int:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            try:
                resource.setrlimit(resource.RLIMIT_CPU, (int(self.timeout), int(self.timeout) + 5))
                _child(job, folder)
            finally:
                os._exit(70)
        return pid

    def _outcome(self, pid: int, job: Job, folder: Path, seconds: float) -> Outcome | None:
        done, status = os.waitpid(pid, os.WNOHANG)
        if not done and seconds < WAIT * self.timeout:
            return None
        if not done:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if not done or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
            looped = job.bug is not None and job.bug.loops
            return Outcome("killed" if looped else "timeout", f"no end after {self.timeout:.0f} s of a processor")
        output = (folder / "output").read_text(errors="replace")
        report = folder / "report.json"
        code, test = json.loads(report.read_text()) if report.exists() else (None, "")
        if code in (1, 2) and test:
            return Outcome("killed", test, output=output)
        return Outcome("survived") if code == 0 else Outcome("error", f"exit status {status}, pytest {code}", 0, output)


def _child(job: Job, folder: Path) -> None:
    """Run the tests in ``folder``, and write pytest's exit code and the first failure there."""
    import pytest

    os.setsid()
    os.chdir(folder)
    sys.path[:] = [str(folder), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tools"]:
        del sys.modules[name]
    os.environ["PYTHONPATH"] = str(folder)
    descriptor = os.open("output", os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    plugin = _FirstFailure(job.first)
    stop = ["-x"] if job.bug is not None else []
    code = pytest.main([*stop, "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *job.tests], plugins=[plugin])
    package = sys.modules.get("pyro_vae")
    if package is None or not str(package.__file__).startswith(f"{folder}{os.sep}"):
        code, plugin.failed = 99, ""
    (folder / "report.json").write_text(json.dumps([int(code), plugin.failed]))
    sys.stdout.flush()
    os._exit(0)


def run(
    bugs: Sequence[Bug],
    groups: dict[str, list[str]],
    *,
    out: Path | None,
    again: bool,
    jobs: int,
    timeout: float,
) -> int:
    """Print and record the results; the number of bugs that no test noticed.

    At the end, the tests that failed run without a bug: they must pass.
    """
    os.environ |= ENVIRONMENT
    for name in IMPORTS:
        import_module(name)
    sources = package_sources()
    record = _Record(out, sources)
    work = []
    for bug in bugs:
        before = record.get(bug)
        if locate(bug, sources) is None:
            record.add(bug, Outcome("not found"))
        elif before is None or again or before["status"] != "killed":
            first = before["test"] if before is not None else None
            work.append(Job(f"{bug.file}: {bug.text}  ->  {bug.replacement}", arguments(bug, groups), bug, first))
    with tempfile.TemporaryDirectory(prefix="planted-bugs-") as folder:
        forks = Forks(Path(folder), jobs=jobs, timeout=timeout)
        for job, outcome in forks.run(work):
            record.add(job.bug, outcome)
        killers = sorted({row["test"] for row in map(record.get, bugs) if row and "::" in row["test"]})
        files = sorted({test.partition("::")[0] for test in killers})
        controls = [Job(file, [test for test in killers if test.startswith(f"{file}::")]) for file in files]
        unread = [bug for bug in bugs if (row := record.get(bug)) and row["test"] and "::" not in row["test"]]
        controls += [Job(f"collection for {bug.file}", [*arguments(bug, groups), "--collect-only"]) for bug in unread]
        for job, outcome in forks.run(controls) if work else ():
            if outcome.status != "survived":
                print(f"FAILS WITHOUT A BUG  {job.name}: {outcome.test}", flush=True)
                record.controls.append(f"{job.name}: {outcome.test}")
    record.save()
    counts = Counter(row["status"] for row in map(record.get, bugs) if row)
    print(", ".join(f"{number} {status}" for status, number in counts.items()), f"of {len(bugs)}")
    return int(counts["killed"] < len(bugs) or bool(record.controls))


class _Record:
    """Results by bug; written to a JSON file after each, one line a bug."""

    def __init__(self, path: Path | None, sources: dict[str, str]) -> None:
        self.path, self.sources, self.controls = path, sources, list[str]()
        rows = json.loads(path.read_text())["bugs"] if path is not None and path.exists() else []
        self.rows = {_key(row): row for row in rows}

    def get(self, bug: Bug) -> dict[str, Any] | None:
        return self.rows.get(_key(asdict(bug)))

    def add(self, bug: Bug | None, outcome: Outcome) -> None:
        assert bug is not None
        row = {**asdict(bug), "status": outcome.status, "test": outcome.test, "seconds": outcome.seconds}
        self.rows[_key(row)] = row
        print(f"{outcome.status:9} {outcome.seconds:6.1f} s  {bug.file}: {bug.text}  ->  {bug.replacement}", flush=True)
        place = locate(bug, self.sources)
        moved = f"planted in {place}; " if place not in (None, bug.file) else ""
        print(f"{'':20}{moved}{outcome.test}", flush=True)
        if outcome.status == "error":
            print(outcome.output[-3000:])
        self.save()

    def save(self) -> None:
        if self.path is None:
            return
        head = {**_versions(), "fails_without_a_bug": self.controls}
        rows = ",\n".join(json.dumps(row) for row in self.rows.values())
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(head, indent=1)[:-2] + f',\n "bugs": [\n{rows}\n]}}\n')
        temporary.replace(self.path)


def _key(row: dict[str, Any]) -> str:
    return json.dumps([row[name] for name in ("file", "text", "replacement", "tests")])


def _versions() -> dict[str, str]:
    import platform

    import pyro
    import torch

    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "pyro": pyro.__version__}
    return {"date": time.strftime("%Y-%m-%d"), "commit": commit.stdout.strip(), **versions}
