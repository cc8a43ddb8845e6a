"""Fingerprints of the images of files, kept in the user's cache while the files do not change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from pyro_vae._core.cache import read_cached, user_cache
from pyro_vae._core.files import write_atomically
from pyro_vae._core.fingerprint import fingerprint_of
from pyro_vae._core.version import full_version
from pyro_vae.data.contexts import JoinedRows
from pyro_vae.data.image_set import ImageSet

MIN_BYTES = 8_000_000
"""Size of files whose fingerprints are kept; smaller ones are hashed in milliseconds."""
_SETTLED = 2_000_000_000  # ns after which another write changes the time stamps on every file system


def fingerprint(data: object) -> str | None:
    """The fingerprint of a tensor, joined rows or an image set, with labels if programs take them; None of others."""
    if isinstance(data, tuple) and all(isinstance(part, Tensor) for part in data):
        data = JoinedRows(data)
    if isinstance(data, JoinedRows):
        return data.fingerprint()
    if isinstance(data, ImageSet):
        return data.fingerprint(labels=data.paired)
    return fingerprint_of({"data": data}) if isinstance(data, Tensor) else None


def kept_fingerprints(
    files: Sequence[Path], options: str, compute: Callable[[], dict[str, str]], *, since: int
) -> dict[str, str]:
    """The fingerprints of splits, read from the cache if they were computed for the same files and options.

    A file is the same if path, size, inode and times of modification and of change are. Nothing is kept for small
    files, and for files that may have changed while they were read.

    Args:
        files: the files that the images were read from.
        options: all else that the splits depend on.
        compute: makes the fingerprints.
        since: time before the files were read, in nanoseconds.
    """
    stamps = _stamps(files)
    newest = max((max(times) for _, _, _, *times in stamps), default=0)
    if sum(size for _, size, *_ in stamps) < MIN_BYTES or since - newest < _SETTLED:
        return compute()
    content = json.dumps([stamps, options, full_version(), torch.__version__])
    key = hashlib.sha256(json.dumps([stamps[0][0], options]).encode()).hexdigest()
    path = user_cache("fingerprints") / f"{key}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(read_cached(path))
        if kept["of"] == content:
            return dict(kept["fingerprints"])
    fingerprints = compute()
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"of": content, "fingerprints": fingerprints}).encode(), overwrite=True)
    return fingerprints


def _stamps(files: Sequence[Path]) -> list[tuple[str, int, int, int, int]]:
    """Path, size, inode and times of each file; empty if one does not exist."""
    with suppress(OSError):
        infos = [(str(file.resolve()), file.stat()) for file in files]
        return [(path, info.st_size, info.st_ino, info.st_mtime_ns, info.st_ctime_ns) for path, info in infos]
    return []
