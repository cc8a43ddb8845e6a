"""The user's cache of files that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache(name: str) -> Path:
    """A folder of the package in the user's cache, ``$XDG_CACHE_HOME`` or ``~/.cache``; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyro_vae" / name


def read_cached(path: Path) -> bytes:
    """Read a cached file that only this user can have written.

    Raises:
        OSError: the file does not exist, or somebody else could have written it or its folder.
    """
    for place in (path, path.parent):
        info = place.stat()
        if info.st_uid != os.geteuid() or info.st_mode & 0o022:
            raise OSError(f"{place} could have been written by somebody else")
    return path.read_bytes()
