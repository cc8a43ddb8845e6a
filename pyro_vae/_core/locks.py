"""Locks of files and folders, which the operating system releases when the process that holds them ends."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pyro_vae._core.checks import refusal

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_held: set[int] = set()  # descriptors of locked folders, which children created by fork must not keep open
_closes_in_children = False


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder, without waiting; False if another descriptor holds the lock.

    Raises:
        OSError: the system or the file system has no such locks.
    """
    if fcntl is None:
        raise OSError("this system has no flock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Context that marks a temporary folder as one whose process lives, if the file system has locks."""
    with ExitStack() as stack:
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            try_lock(descriptor)
        yield


@contextmanager
def locked_folder(owner: str, folder: Path) -> Iterator[None]:
    """Context that excludes other processes that lock the folder; on file systems without locks it only warns.

    The lock is on the folder itself: it leaves no file behind, and it ends with the process. Children do not inherit
    it, neither by fork nor by exec.

    Args:
        owner: name that messages begin with.
        folder: an existing folder.

    Raises:
        ValueError: it is locked.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    _close_in_children(descriptor)
    try:
        _lock(owner, folder, descriptor)
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _lock(owner: str, folder: Path, descriptor: int) -> None:
    try:
        free = try_lock(descriptor)
    except OSError as error:
        warnings.warn(
            f"{owner}: {folder} lies on a file system without locks ({error}). Write to it from one process only.",
            stacklevel=5,
        )
        return
    if not free:
        rule, advice = f"{folder} must be trained by one process at a time", "Wait for it to end, or stop it"
        raise refusal(owner, rule, "a run that is being trained by another process", advice)


def _close_in_children(descriptor: int) -> None:
    global _closes_in_children
    _held.add(descriptor)
    if not _closes_in_children:
        _closes_in_children = True
        os.register_at_fork(after_in_child=_close_all)


def _close_all() -> None:
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()
