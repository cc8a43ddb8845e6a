"""The file of the metrics, ``metrics.jsonl``: one JSON record a line, appended after each epoch."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import IO, Any

from pyro_vae._core.checks import refusal
from pyro_vae._core.files import errors_naming, json_ready, read_bytes
from pyro_vae.training.saved_state import read_record

_MAX_BYTES = 500_000_000


class MetricsFile:
    """A file of JSON records, one a line.

    Args:
        path: the file, created when it is written.

    Example:
        >>> import tempfile
        >>> metrics = MetricsFile(Path(tempfile.mkdtemp()) / "metrics.jsonl")
        >>> metrics.append({"epoch": 1, "loss": float("nan")})
        >>> metrics.read()
        [{'epoch': 1, 'loss': None}]
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        """Number of bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def append(self, record: dict[str, Any]) -> None:
        """Append a record."""
        line = json.dumps(json_ready(record), allow_nan=False) + "\n"
        with errors_naming(self.path, len(line)), self._open() as file:
            file.write(line.encode())

    def read(self) -> list[dict[str, Any]]:
        """Read the records; an incomplete last line, which a killed process leaves, is dropped with a warning.

        Raises:
            OSError: the file is not a regular file, or larger than 500 MB.
            ValueError: a line is damaged, or holds other entries than numbers.
        """
        text = read_bytes(self.path, limit=_MAX_BYTES) if self.path.exists() else b""
        complete = text[: text.rfind(b"\n") + 1]
        if len(complete) < len(text):
            warnings.warn(f"RunFolder: dropped the last line of {self.path}, which is incomplete.", stacklevel=3)
        try:
            return [read_record(line) for line in complete.decode().splitlines()]
        except ValueError as error:
            got = f"{self.path} ({error})"
            raise refusal("RunFolder", f"{self.path.name} must hold one JSON record a line", got) from None

    def sync(self) -> int:
        """Write what the system holds back to the disk; return the number of bytes."""
        with errors_naming(self.path, 0), self._open() as file:
            os.fsync(file.fileno())
            return file.tell()

    def truncate(self, size: int) -> None:
        """Truncate to the complete lines among the first ``size`` bytes; warn if these are fewer bytes."""
        with self._open() as file:
            file.seek(0)
            complete = file.truncate(file.read(size).rfind(b"\n") + 1)
        if complete < size:
            warnings.warn(
                f"RunFolder: {self.path} must have {size} bytes, got {complete}; records are missing.", stacklevel=3
            )

    def _open(self) -> IO[bytes]:
        """Open for appending, without following a symbolic link out of the folder."""
        if self.path.exists() and not self.path.is_file():
            raise OSError(f"{self.path}: must be a regular file.")
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        file = os.fdopen(os.open(self.path, flags, 0o666), "r+b")
        file.seek(0, os.SEEK_END)
        return file
