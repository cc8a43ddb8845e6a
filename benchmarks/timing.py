"""Comparative timing of candidates on a machine with other load.

Within a repeat every candidate runs one block of steps, in an order that rotates from repeat to repeat. Reported are
medians and quartiles over the repeats, of the times and of their ratios to a reference within each repeat.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

QUIET = 0.05


@dataclass
class Candidate:
    """An implementation of training.

    Attributes:
        name: the name in the table.
        run: performs the steps of these numbers, each on the batch of the pool with its number, and returns their
            losses, sums over the batch, after all work is done.
        reset: restores the initial parameters and a new optimizer state.
        stride: ``run`` takes multiples of this number of steps.
        seeded: draws the random numbers of Pyro at equal seeds of torch.
        note: a remark in the table.
        step: performs one step on any batch, if the candidate can.
        tolerance: largest relative difference of its losses from those of the others, at equal random numbers.
    """

    name: str
    run: Callable[[range], Sequence[Any]]
    reset: Callable[[], None]
    stride: int = 1
    seeded: bool = True
    note: str = ""
    step: Callable[[Any], Any] | None = None
    tolerance: float = 1e-4


def seconds_of(candidate: Candidate, steps: int) -> float:
    start = time.perf_counter()
    candidate.run(range(steps))
    return time.perf_counter() - start


def calibrate(candidate: Candidate, seconds: float) -> int:
    """Number of steps that take about ``seconds``; any compilation is finished afterwards."""
    candidate.reset()
    for _ in range(3):
        seconds_of(candidate, candidate.stride)
    steps = candidate.stride
    for share in (0.2, 1.0):
        strides = share * seconds * steps / seconds_of(candidate, steps) / candidate.stride
        steps = candidate.stride * max(1, round(strides))
        seconds_of(candidate, steps)
    return steps


@dataclass
class Times:
    """Measured times.

    Attributes:
        seconds: seconds per step of every candidate in every repeat.
        others: share of the processor used by other programs in every repeat.
    """

    seconds: dict[str, list[float]]
    others: list[float]


def measure(candidates: Sequence[Candidate], *, repeats: int, seconds: float) -> Times:
    """Alternating repeats, up to three times ``repeats`` until that many were quiet; the quietest are kept."""
    steps = {c.name: calibrate(c, seconds) for c in candidates}
    measured: list[tuple[float, dict[str, float]]] = []
    while len(measured) < 3 * repeats and sum(share <= QUIET for share, _ in measured) < repeats:
        load = OtherLoad()
        times = _repeat(candidates, steps, len(measured))
        measured.append((load.share(), times))
    measured = sorted(measured, key=lambda pair: pair[0])[:repeats]
    return Times(
        {c.name: [times[c.name] for _, times in measured] for c in candidates}, [share for share, _ in measured]
    )


def _repeat(candidates: Sequence[Candidate], steps: dict[str, int], number: int) -> dict[str, float]:
    """Time every candidate once, in an order that rotates with ``number``."""
    first, seconds = number % max(1, len(candidates)), {}
    for c in [*candidates[first:], *candidates[:first]]:
        c.reset()
        for _ in range(2):  # warm the caches
            c.run(range(c.stride))
        seconds[c.name] = seconds_of(c, steps[c.name]) / steps[c.name]
    return seconds


class OtherLoad:
    """Share of the processor used by other programs since construction; 0 except on Linux.

    Two busy programs on two cores slow torch down tenfold or more, not twofold: its threads wait for one another.
    """

    def __init__(self) -> None:
        self._start, self._used = time.perf_counter(), _used_by_others()

    def share(self) -> float:
        """Share of the time of all cores."""
        available = (time.perf_counter() - self._start) * (os.cpu_count() or 1)
        return max(0.0, (_used_by_others() - self._used) / available)


def _used_by_others() -> float:
    """Processor seconds used, or taken by the hypervisor, without those of this process."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, soft, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def quartiles(values: Iterable[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return [float(v) for v in np.quantile(list(values), [0.25, 0.5, 0.75])]


def log(text: str) -> None:
    """Print progress to standard error."""
    print(text, file=sys.stderr, flush=True)
