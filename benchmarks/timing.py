"""Timing candidates against one another on a machine that is never quiet.

Within a repeat every candidate runs one block of steps, in an order that rotates from repeat to repeat; what is
reported are medians and quartiles over the repeats, and those of the ratio to a reference within each repeat.
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
    """One way to train.

    Attributes:
        name: as in the table.
        run: takes the steps of these numbers, the batch of a number being that of the pool, and returns their losses,
            sums over the batch, once all work is done.
        reset: back to the initial parameters, with an optimizer that has seen nothing.
        stride: ``run`` wants a multiple of so many steps.
        seeded: draws what Pyro draws, at equal seeds of torch.
        note: what the table should add to the name.
    """

    name: str
    run: Callable[[range], Sequence[Any]]
    reset: Callable[[], None]
    stride: int = 1
    seeded: bool = True
    note: str = ""


def seconds_of(candidate: Candidate, steps: int) -> float:
    start = time.perf_counter()
    candidate.run(range(steps))
    return time.perf_counter() - start


def calibrate(candidate: Candidate, seconds: float) -> int:
    """Number of steps that take about ``seconds``; whatever compiles has compiled afterwards."""
    candidate.reset()
    for _ in range(3):
        seconds_of(candidate, candidate.stride)
    steps = candidate.stride
    for part in (0.2, 1.0):
        wanted = part * seconds * steps / seconds_of(candidate, steps) / candidate.stride
        steps = candidate.stride * max(1, round(wanted))
        seconds_of(candidate, steps)
    return steps


@dataclass
class Times:
    """What was measured.

    Attributes:
        seconds: per step, of every candidate in every repeat.
        others: share of the processor that other programs took, in every repeat.
    """

    seconds: dict[str, list[float]]
    others: list[float]


def measure(candidates: Sequence[Candidate], *, repeats: int, seconds: float) -> Times:
    """Alternating repeats, up to three times as many as asked for until so many were quiet; the quietest are kept."""
    steps = {c.name: calibrate(c, seconds) for c in candidates}
    found: list[tuple[float, dict[str, float]]] = []
    while len(found) < 3 * repeats and sum(share <= QUIET for share, _ in found) < repeats:
        neighbours = Neighbours()
        times = _repeat(candidates, steps, len(found))
        found.append((neighbours.share(), times))
    found = sorted(found, key=lambda pair: pair[0])[:repeats]
    return Times({c.name: [times[c.name] for _, times in found] for c in candidates}, [share for share, _ in found])


def _repeat(candidates: Sequence[Candidate], steps: dict[str, int], number: int) -> dict[str, float]:
    """Every candidate once, each time another one first."""
    first, found = number % max(1, len(candidates)), {}
    for c in [*candidates[first:], *candidates[:first]]:
        c.reset()
        for _ in range(2):  # caches are the last candidate's
            c.run(range(c.stride))
        found[c.name] = seconds_of(c, steps[c.name]) / steps[c.name]
    return found


class Neighbours:
    """What other programs take of the processor, from here on; Linux says, elsewhere it passes for nothing.

    Two busy programs on two cores do not slow torch down by two but by ten or more: its threads wait for one another.
    """

    def __init__(self) -> None:
        self._start, self._used = time.perf_counter(), _used_by_others()

    def share(self) -> float:
        """Of all cores' time."""
        available = (time.perf_counter() - self._start) * (os.cpu_count() or 1)
        return max(0.0, (_used_by_others() - self._used) / available)


def _used_by_others() -> float:
    """Seconds of the processor that were used, or taken by the hypervisor, less those of this process."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, soft, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def quartiles(values: Iterable[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return [float(v) for v in np.quantile(list(values), [0.25, 0.5, 0.75])]


def say(text: str) -> None:
    """Progress, where the table does not go."""
    print(text, file=sys.stderr, flush=True)
