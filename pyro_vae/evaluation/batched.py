"""Evaluating data batch by batch: shared by the processes, reproducible, with an honest progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor
from tqdm import tqdm

from pyro_vae._core.contexts import isolated_rng, reseed
from pyro_vae._core.distributed import join
from pyro_vae._core.owners import Owners
from pyro_vae._core.param_store import unregistered
from pyro_vae._core.support import SupportError
from pyro_vae.data.batches import Batches, Data

Work: TypeAlias = Callable[[tuple[Any, ...], Callable[[int], object]], dict[str, Tensor]]


class BatchedEvaluation:
    """Runs an evaluation on every batch, each with its own stream of random numbers by its number.

    Under ``torchrun`` the processes share the batches, and all of them get the whole result, in the order of the data,
    to rounding the same for every number of processes.

    Args:
        owner: name to begin messages with.
        programs: model and guides; the modules among them are in eval mode meanwhile, without gradients.
        data: an ``ImageSet``, a tensor ``(N, *data_shape)`` or an iterable of batches.
        batch_size: data at a time.
        seed: of the streams; the global generators are left as they were.
        progress: the unit that the progress bar counts, such as ``"draws"``; None shows none.
        amount: how much of it there is for a datum.
    """

    def __init__(
        self,
        owner: str,
        programs: Sequence[Any],
        data: Data,
        batch_size: int,
        *,
        seed: int,
        progress: str | None = None,
        amount: int = 1,
    ) -> None:
        self.owner, self.seed = owner, seed
        self.owners = Owners(**{"guide" if i else "model": p for i, p in enumerate(programs)})
        device, dtype = self.owners.placement()
        self.batches, self.ranks = Batches(data, batch_size, device=device, dtype=dtype), join()
        self.unit, self.amount = progress, amount

    def share(self) -> int:
        """Number of batches that fall to this process, 0 where that is not known."""
        return len(self.batches) // self.ranks.size

    def run(self, work: Work) -> dict[str, Tensor]:
        """What ``work(args, advance)`` returns for the batches, joined; it tells ``advance`` what of a datum is done.

        Integers are taken as floating-point numbers if the programs take no others.

        Raises:
            ValueError: there is no batch.
        """
        try:
            return self._run(work)
        except ValueError as error:
            if not self.batches.to_float():
                raise
            try:
                return self._run(work)
            except ValueError:
                raise error from None

    def _run(self, work: Work) -> dict[str, Tensor]:
        parts: list[tuple[int, dict[str, Tensor]]] = []
        with self._bar() as bar, self.owners.evaluating(), isolated_rng(self.seed), unregistered():
            for number, batch in enumerate(self.batches.epoch()):
                if number % self.ranks.size == self.ranks.rank:
                    reseed(self.seed, number)
                    size = len(batch)
                    try:
                        found = work(batch.args, lambda done, size=size: bar.update(done * size))  # type: ignore[misc]
                    except SupportError as error:
                        raise error.in_data(batch.index) from None
                    parts.append((number, {key: value.cpu() for key, value in found.items()}))
        return self._joined(parts)

    def _bar(self) -> Any:
        """Only what falls to this process is counted, as it is done: the time left is not that of others' work."""
        known = self.batches.num_data
        total = None if known is None else known * self.amount // self.ranks.size
        shown = self.unit is not None and self.ranks.first
        return tqdm(disable=not shown, unit=f" {self.unit}", total=total, unit_scale=True, smoothing=0.05)

    def _joined(self, parts: list[tuple[int, dict[str, Tensor]]]) -> dict[str, Tensor]:
        gathered = sorted(chain(*self.ranks.gather(parts)), key=lambda part: part[0])
        if not gathered:
            raise ValueError(f"{self.owner}: data must not be empty, got no batch. Pass at least one datum.")
        return {key: torch.cat([part[key] for _, part in gathered]) for key in gathered[0][1]}


def check_sizes(owner: str, **sizes: int) -> None:
    """Refuse what must be a positive number and is not.

    Raises:
        ValueError: naming it.
    """
    for name, size in sizes.items():
        if not isinstance(size, int):
            raise ValueError(f"{owner}: {name} must be a whole number, got {name}={size!r}. Use an int.")
        if size < 1:
            raise ValueError(f"{owner}: {name} must be at least 1, got {name}={size}. Use a positive number.")
