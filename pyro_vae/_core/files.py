"""Atomic writes, and values for JSON."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pyro_vae._core.locks import in_use, try_lock

_FULL = (errno.ENOSPC, errno.EDQUOT)
_MIN_AGE = 1.0  # seconds; a younger temporary file may not be locked yet


def write_atomically(path: Path, content: bytes, *, overwrite: bool = False) -> None:
    """Write a file by temporary file, fsync and rename: a crash at any instant leaves the old file or the new one.

    Args:
        path: the file; its folder must exist.
        content: the whole content.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: the file exists and ``overwrite`` is False.
        OSError: the file, which the error names, cannot be written; no temporary file remains.
    """
    with atomic_file(path, overwrite=overwrite, size=len(content)) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_file(path: Path, *, overwrite: bool = False, size: int | None = None) -> Iterator[BinaryIO]:
    """Context of a file to be written, which replaces ``path`` when it ends, or is removed if it raises.

    Its mode follows the umask. Temporary files of the same file that killed processes left are removed.

    Args:
        path: as of :func:`write_atomically`, whose errors it raises.
        overwrite: replace an existing file.
        size: number of bytes to write, if it is known.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path}: the file must not exist yet, got a file. Remove it or choose another name.")
    remove_abandoned(path)
    temporary = temporary_name(path)
    with errors_naming(path, size):
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with contextlib.suppress(OSError):
                try_lock(handle)  # marks the file as in use for as long as this process lives
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    _sync_folder(path.parent)


def create_folder(target: Path, files: Mapping[str, bytes], *, folders: Sequence[str] = ()) -> None:
    """Create a folder, completely or not at all.

    Args:
        target: the folder, which must not exist; its parent must.
        files: contents of its files, by name.
        folders: names of empty folders in it.

    Raises:
        OSError: the folder, which the error names, cannot be created; no temporary one remains.
    """
    with atomic_folder(target, size=sum(map(len, files.values()))) as temporary:
        for name, content in files.items():
            write_atomically(temporary / name, content)
        for name in folders:
            (temporary / name).mkdir()


@contextlib.contextmanager
def atomic_folder(target: Path, *, size: int | None = None) -> Iterator[Path]:
    """Context of a folder to be filled, which becomes ``target`` when it ends, or is removed if it raises."""
    temporary = temporary_name(target)
    with errors_naming(target, size):
        temporary.mkdir()
        try:
            with in_use(temporary):
                yield temporary
                temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextlib.contextmanager
def errors_naming(path: Path, size: int | None) -> Iterator[None]:
    """Context whose OSErrors name the file, and on a full disk what to do; ``size`` is the number of bytes to write."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and path.name not in str(error.filename):
            raise  # of a file that is read
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            space, amount = ("", "space") if size is None else (f" for {size / 1e6:.3g} MB", "as much")
            reason += f"{space}; free {amount} (or files, if these are limited) and run it again"
        raise OSError(error.errno or errno.EIO, reason, str(path)) from error


def temporary_name(path: Path) -> Path:
    """A new name beside ``path``, for content that is renamed to it once it is complete."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def remove_abandoned(path: Path, *, content: Sequence[str] = ()) -> None:
    """Remove temporary files and folders of ``path`` whose process was killed, so that their lock is free.

    Names other than those of :func:`temporary_name` and links are not touched; on file systems without locks nothing
    is.

    Args:
        path: the file or folder that they would have become.
        content: names of files and empty folders that are removed with a temporary folder; others keep it.
    """
    pattern = re.compile(re.escape(f".{path.name}.") + "[a-z0-9_]{8}")
    with contextlib.suppress(OSError):
        for name in filter(pattern.fullmatch, os.listdir(path.parent)):
            with contextlib.suppress(OSError):
                _remove_if_abandoned(path.parent / name, content)


def _remove_if_abandoned(path: Path, content: Sequence[str]) -> None:
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        status = os.fstat(handle)
        if time.time() - status.st_mtime < _MIN_AGE or not try_lock(handle):
            return
        if stat.S_ISREG(status.st_mode):
            os.unlink(path)
        elif stat.S_ISDIR(status.st_mode):
            for child in (path / name for name in content):
                remove_abandoned(child)
                if child.exists():
                    child.rmdir() if child.is_dir() else child.unlink()
            os.rmdir(path)
    finally:
        os.close(handle)


def read_bytes(path: str | Path, *, limit: int | None = None) -> bytes:
    """Read a regular file.

    Args:
        path: the file.
        limit: largest number of bytes.

    Raises:
        OSError: as :func:`open_regular`, or the file is larger than the limit.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            raise OSError(f"{path}: must have at most {limit} bytes, got {size}.")
        return file.read()


@contextlib.contextmanager
def open_regular(path: str | Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading; a FIFO, a device or a folder is refused instead of being waited for.

    Raises:
        OSError: the file is missing, unreadable, or not a regular file.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(f"{path}: must be a regular file, got {_kind(mode)}.")
        with os.fdopen(handle, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(handle)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power failure, if the system supports it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


INFINITE = {"inf": math.inf, "-inf": -math.inf}  # as json_ready writes them


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
