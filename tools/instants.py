"""The calls by which a command changes files, and what a run folder holds, for the attacks by kills and full disks."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from PIL import Image
from safetensors.torch import load

_TRAINING = (
    "--epochs 2 --batch_size 500 --num_samples 2 --ema 0.9 --checkpoint_seconds 0 --engine eager --device cpu "
    "--guide.net.hidden [4]"
)
TRAIN = f"train --data digits --latent_dim 3 --likelihood.net.hidden [4] {_TRAINING}"
REFIT = f"refit run {_TRAINING}"
EVALUATE = "evaluate run --num_samples 3 --seed 1 --device cpu"
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}")
_WRITING = os.O_WRONLY | os.O_RDWR
Strike = Callable[[str, str], None]
"""Called before every change of a file with the name of the call and the path."""


@dataclass(frozen=True)
class Instant:
    """An instant of a command: before the ``number``-th call of a kind on a kind of file."""

    call: str
    kind: str
    number: int = 1


@dataclass
class Recorder:
    """Records the instants of a command, and sends its process a signal at one of them."""

    at: Instant | None = None
    signal: int = signal.SIGKILL
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __call__(self, call: str, path: str) -> None:
        if self.reached(call, path):
            os.kill(os.getpid(), self.signal)

    def reached(self, call: str, path: str) -> bool:
        """Count a call; whether the instant has come."""
        kind = kind_of(path)
        self.seen[call, kind] += 1
        return self.at == Instant(call, kind, self.seen[call, kind])

    def instants(self) -> list[Instant]:
        """The first and the last instant of every call on every kind of file."""
        counts = [(key, {1, number}) for key, number in self.seen.items()]
        return [Instant(*key, number) for key, numbers in counts for number in sorted(numbers)]


def final_name(path: str) -> str:
    """The name of a file or folder, without what marks a temporary one."""
    name = os.path.basename(path)
    return match[1] if (match := _TEMPORARY.fullmatch(name)) else name


def kind_of(path: str) -> str:
    """The kind of a file or folder."""
    name = final_name(path)
    if name.startswith("pyro-vae-"):
        return "log among temporary files"
    endings = {".png": "figure", ".json": "result", ".batches": "folder of batches", ".safetensors": "batch"}
    return name if name.startswith("weights") else endings.get(os.path.splitext(name)[1], name)


@contextlib.contextmanager
def watched(folder: Path, strike: Strike) -> Iterator[None]:
    """Context in which ``strike`` is called before every change of a file below the folder.

    The calls are "open" (for writing), "write" (half of the content is written already), "fsync" (of a file),
    "rename", "mkdir" and "remove". What ``strike`` raises, the call raises.
    """
    root = os.path.realpath(folder) + os.sep

    def guard(name: str, call: str) -> Any:
        real = getattr(os, name)

        def guarded(path: Any, *args: Any, **options: Any) -> Any:
            where = _path(path)
            changes = args[0] & _WRITING if name == "open" else name != "fsync" or not os.path.isdir(path)
            if changes and where.startswith(root):
                strike(call, where)
            return real(path, *args, **options)

        return mock.patch.object(os, name, guarded)

    def fdopen(handle: int, mode: str = "r", **options: Any) -> Any:
        where = _path(handle)
        if not where.startswith(root) or mode not in ("wb", "r+b"):
            return open(handle, mode, **options)
        raw = _HalfWriter(handle, mode, strike, where)
        return io.BufferedWriter(raw) if mode == "wb" else io.BufferedRandom(raw)

    calls = {"open": "open", "fsync": "fsync", "replace": "rename", "rename": "rename", "mkdir": "mkdir"}
    calls |= {"unlink": "remove", "rmdir": "remove"}
    with contextlib.ExitStack() as stack:
        for name, call in calls.items():
            stack.enter_context(guard(name, call))
        stack.enter_context(mock.patch.object(os, "fdopen", fdopen))
        yield


def _path(path: Any) -> str:
    if isinstance(path, int):
        return os.path.realpath(f"/proc/self/fd/{path}")
    path = os.fspath(path)
    parent, name = os.path.split(os.path.abspath(path.decode() if isinstance(path, bytes) else path))
    return os.path.join(os.path.realpath(parent), name)


class _HalfWriter(io.FileIO):
    """A file that writes the first half of a content, strikes, and writes the rest."""

    def __init__(self, handle: int, mode: str, strike: Strike, path: str) -> None:
        super().__init__(handle, mode)
        self._strike, self._path = strike, path

    def write(self, content: Any) -> int:
        view = memoryview(content)
        half = super().write(view[: len(view) // 2]) or 0
        self._strike("write", self._path)
        return half + (super().write(view[half:]) or 0)


def leftovers(folder: Path) -> list[Path]:
    """Temporary files and folders."""
    return [path for path in folder.rglob(".*") if _TEMPORARY.fullmatch(path.name)]


def damaged(folder: Path) -> list[str]:
    """Files that are incomplete; the last line of the metrics may be, and temporary files are not looked at."""
    bad = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(_TEMPORARY.fullmatch(part) for part in path.parts):
            try:
                _content(path, folder)
            except Exception as error:  # whatever a parser raises
                bad.append(f"{path.relative_to(folder)} ({type(error).__name__})")
    return bad


def contents(folder: Path) -> dict[str, Any]:
    """Contents of all files without times of computation, for comparison; of ``state.pt`` only that it is there.

    Paths in configurations, such as that of the run of a refitted model, are those relative to the folder.
    """
    return {str(path.relative_to(folder)): _content(path, folder) for path in sorted(folder.rglob("*"))}


def difference(expected: dict[str, Any], actual: dict[str, Any]) -> str:
    """The first file that differs; empty if none does."""
    names = sorted({*expected, *actual})
    kinds = {name: "missing" if name not in actual else "left over" for name in {*expected} ^ {*actual}}
    return next(
        (f"{name} {kinds.get(name, 'differs')}" for name in names if expected.get(name) != actual.get(name)), ""
    )


def _content(path: Path, folder: Path) -> Any:
    if path.is_dir():
        return "a folder"
    content = path.read_bytes()
    if path.suffix == ".json":
        return _without_times(json.loads(content))
    if path.suffix == ".jsonl":
        return [_without_times(json.loads(line)) for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
    if path.suffix == ".safetensors":
        return {name: tensor.numpy().tobytes() for name, tensor in load(content).items()}
    if path.suffix == ".pt":
        return len(torch.load(io.BytesIO(content), weights_only=True)) > 0
    if path.suffix == ".yaml":
        return yaml.safe_load(content.replace(f"{folder.resolve()}/".encode(), b""))
    if path.suffix == ".png":
        Image.open(io.BytesIO(content)).load()
    if path.suffix == ".html" and not content.rstrip().endswith(b"</html>"):
        raise ValueError("no end")
    return hashlib.sha256(content).hexdigest()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if "second" not in key}
    return value
