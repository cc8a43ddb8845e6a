"""Evaluation of data batch by batch: distributed over processes, reproducible, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor
from tqdm import tqdm

from pyro_vae._core.checks import require
from pyro_vae._core.contexts import isolated_rng, reseed
from pyro_vae._core.distributed import join
from pyro_vae._core.owners import Owners
from pyro_vae._core.param_store import unregistered
from pyro_vae._core.support import SupportError
from pyro_vae.data.batches import Batches, Data

Work: TypeAlias = Callable[[tuple[Any, ...], Callable[[int], object]], dict[str, Tensor]]


class BatchedEvaluation:
    """Runs an evaluation on every batch, each with its own stream of random numbers, determined by its number.

    Under ``torchrun`` the processes share the batches, and all of them get the whole result, in the order of the data.
    It does not depend on the number of processes except by rounding.

    Args:
        owner: name that messages begin with.
        programs: model and guides, which run in eval mode and without gradients.
        data: an ``ImageSet``, a tensor ``(N, *data_shape)`` or an iterable of batches.
        batch_size: data at a time.
        seed: of the streams; the global generators are restored.
        progress: unit of the progress bar, such as ``"samples"``; None shows no bar.
        amount: number of these units for each datum.
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
        self.batches, self.ranks = Batches(data, batch_size, device=device, dtype=dtype, owner=owner), join()
        self.unit, self.amount = progress, amount

    def share(self) -> int:
        """Number of batches of this process; 0 if unknown."""
        return len(self.batches) // self.ranks.size

    def run(self, work: Work) -> dict[str, Tensor]:
        """Concatenate the tensors that ``work(args, advance)`` returns for the batches.

        ``work`` calls ``advance(n)`` after n units of every datum of the batch. If the programs fail on integer data,
        these are converted to floating point.

        Raises:
            ValueError: the data are empty.
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
        results: list[tuple[int, dict[str, Tensor]]] = []
        with self._bar() as bar, self.owners.evaluating(), isolated_rng(self.seed), unregistered():
            for number, batch in enumerate(self.batches.epoch()):
                if number % self.ranks.size == self.ranks.rank:
                    reseed(self.seed, number)
                    size = len(batch)
                    try:
                        result = work(batch.args, lambda done, size=size: bar.update(done * size))  # type: ignore[misc]
                    except SupportError as error:
                        raise error.in_data(batch.index) from None
                    results.append((number, {key: value.cpu() for key, value in result.items()}))
        return self._concatenate(results)

    def _bar(self) -> Any:
        """A progress bar of this process's own batches, so that its remaining time is right."""
        num_data = self.batches.num_data
        total = None if num_data is None else num_data * self.amount // self.ranks.size
        shown = self.unit is not None and self.ranks.first
        return tqdm(disable=not shown, unit=f" {self.unit}", total=total, unit_scale=True, smoothing=0.05)

    def _concatenate(self, results: list[tuple[int, dict[str, Tensor]]]) -> dict[str, Tensor]:
        gathered = sorted(chain(*self.ranks.gather(results)), key=lambda result: result[0])
        require(bool(gathered), self.owner, "data must not be empty", "no batch", "Pass at least one datum")
        return {key: torch.cat([result[key] for _, result in gathered]) for key in gathered[0][1]}
