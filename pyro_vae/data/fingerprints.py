"""Fingerprints of the images of files, kept in the user's cache while the files do not change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from pyro_vae._core.cache import read_cached, user_cache
from pyro_vae._core.files import write_atomically
from pyro_vae._core.fingerprint import fingerprint_of
from pyro_vae._core.version import full_version
from pyro_vae.data.lazy import LazyRows

MIN_BYTES = 8_000_000
"""Size of files whose fingerprints are kept; smaller ones are hashed in milliseconds."""
_SETTLED = 2_000_000_000  # ns after which another write changes the time stamps on every file system


def data_fingerprint(name: str, data: Tensor | LazyRows, **others: Tensor) -> str:
    """The fingerprint of data under a name and of other tensors; rows in files that have not changed are not read."""
    tensors = {name: data, **others}
    if isinstance(data, Tensor):
        return fingerprint_of(tensors)
    rest = fingerprint_of({"positions": data.positions, **others})
    options = f"{name} {data.source.layout} {data.dtype} {data.row_shape} {rest}"
    source = data.source
    kept = kept_fingerprints(source.files, options, lambda: {"data": fingerprint_of(tensors)}, since=source.since)
    return kept["data"]


def kept_fingerprints(
    files: Iterable[Path], options: str, compute: Callable[[], dict[str, str]], *, since: int
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
    size, newest, first, stamps = _stamps(files)
    if size < MIN_BYTES or since - newest < _SETTLED:
        return compute()
    content = json.dumps([stamps, options, full_version(), torch.__version__])
    key = hashlib.sha256(json.dumps([first, options]).encode()).hexdigest()
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


def _stamps(files: Iterable[Path]) -> tuple[int, int, str, str]:
    """Size of all files, newest time, path of the first, and a hash of path, size, inode and times of each.

    The size is 0 if one does not exist.
    """
    size, newest, first, digest = 0, 0, "", hashlib.sha256()
    with suppress(OSError):
        for file in files:
            path, info = str(file.resolve()), file.stat()
            times = info.st_mtime_ns, info.st_ctime_ns
            digest.update(json.dumps([path, info.st_size, info.st_ino, *times]).encode())
            size, newest, first = size + info.st_size, max(newest, *times), first or path
        return size, newest, first, digest.hexdigest()
    return 0, 0, "", ""
