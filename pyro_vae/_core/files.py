"""Atomic writes, and values for JSON."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def write_atomically(path: Path, content: bytes, *, overwrite: bool = False) -> None:
    """Write a file by temporary file, fsync and rename: a crash at any instant leaves the old file or the new one.

    Args:
        path: the file; its folder must exist.
        content: the whole content.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: the file exists and ``overwrite`` is False.
        OSError: the file cannot be written; no temporary file remains.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path}: the file must not exist yet, got a file. Remove it or choose another name.")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power failure, if the system supports it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def json_ready(value: Any) -> Any:
    """Replace NaN by None, infinities by strings that ``float`` parses, and NumPy scalars by numbers, for JSON.

    Example:
        >>> json_ready({"a": [1.0, float("inf")], "b": float("nan")})
        {'a': [1.0, 'inf'], 'b': None}
    """
    if isinstance(value, dict):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, list):
        return [json_ready(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
