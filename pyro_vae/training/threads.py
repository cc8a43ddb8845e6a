"""Choice of the number of processor threads by timing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch

from pyro_vae._core.checks import check_count, refusal
from pyro_vae._core.contexts import isolated_rng
from pyro_vae.training.engines.base import Engine, restore

Threads: TypeAlias = int | Literal["auto"] | None
_CALLS, _SECONDS = 20, 1.0  # at most, per measurement


def check_threads(threads: Any) -> None:
    """Require a number of threads, ``"auto"`` or None.

    Raises:
        ValueError: something else.
    """
    if isinstance(threads, str):
        if threads != "auto":
            raise refusal("fit", "threads must be a number, 'auto' or None", f"threads={threads!r}")
    else:
        check_count("fit", threads=threads)


@contextmanager
def restored_threads() -> Iterator[None]:
    """Context after which torch has its number of threads again."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def choose_threads(build: Callable[[], Engine], args: tuple[Any, ...]) -> tuple[Engine, int]:
    """Build an engine for all threads and one for a single thread, time both, and return the faster and its number.

    Beside another busy program several threads can be a hundred times slower than one, as they wait for one another.

    Args:
        build: builds an engine for the current number of threads.
        args: a batch.
    """
    most = torch.get_num_threads()
    engines: dict[int, tuple[float, Engine]] = {}
    for number in sorted({most, 1}, reverse=True):
        torch.set_num_threads(number)
        engine = build()
        engines[number] = (_seconds(engine, args), engine)
    best = min(engines, key=lambda number: engines[number][0])
    torch.set_num_threads(best)
    times = ", ".join(f"{1e3 * seconds:.3g} ms with {number}" for number, (seconds, _) in engines.items())
    sys.stderr.write(f"threads: {best} (a step takes {times})\n")
    return engines[best][1], best


def _seconds(engine: Engine, args: tuple[Any, ...]) -> float:
    """Median seconds of loss and gradient, without a change of state."""
    buffers = [buffer.clone() for buffer in engine.loss.buffers]
    times: list[float] = []
    start = time.perf_counter()
    with isolated_rng():
        engine.gradients(args)  # warms up
        while len(times) < _CALLS and (not times or time.perf_counter() - start < _SECONDS):
            before = time.perf_counter()
            engine.gradients(args)
            times.append(time.perf_counter() - before)
    restore(engine.loss.buffers, buffers)
    return sorted(times)[len(times) // 2]
