"""Signals that end a process: Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """Interruption by SIGTERM; a KeyboardInterrupt, so that whatever cleans up after Ctrl-C does so here."""


def interruption(number: int) -> type[KeyboardInterrupt]:
    """The exception of a signal."""
    return Terminated if number == signal.SIGTERM else KeyboardInterrupt


def exit_code(stop: KeyboardInterrupt) -> int:
    """The exit code of the shell's convention: 128 and the number of the signal."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


@contextmanager
def exiting(message: str) -> Iterator[None]:
    """Print a line and exit at once on a signal, for code that has nothing to save, such as the import of torch.

    An exception would not do: compiled modules replace a KeyboardInterrupt in their initialisation by other errors.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        os.write(2, f"{message}\n".encode())
        os._exit(128 + number)

    with _handled(leave):
        yield


@contextmanager
def raising() -> Iterator[None]:
    """Raise the exception of :func:`interruption` on a signal."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise interruption(number)

    with _handled(stop):
        yield


@contextmanager
def _handled(handler: signal._HANDLER) -> Iterator[None]:
    """Handle both signals, unless they are ignored, as SIGINT is in background jobs of a shell."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    handled = {number: previous for number, previous in before.items() if previous not in (signal.SIG_IGN, None)}
    for number in handled:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in handled.items():
            signal.signal(number, previous)
