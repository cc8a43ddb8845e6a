"""Evaluation of data batch by batch: distributed over processes, reproducible, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, count
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
from pyro_vae.data.batches import Batch, Batches
from pyro_vae.evaluation.finished import FinishedBatches, Keys

Work: TypeAlias = Callable[[tuple[Any, ...], Callable[[int], object]], dict[str, Tensor]]


class BatchedEvaluation:
    """Runs an evaluation on every batch, each with its own stream of random numbers, determined by its number.

    Under ``torchrun`` the processes share the batches, and all of them get the whole result, in the order of the data.
    It does not depend on the number of processes except by rounding.

    Args:
        owner: name that messages begin with.
        programs: model and guides, which run in eval mode and without gradients.
        options: all arguments of the evaluation by name. Used here are ``data``, ``batch_size``, the ``seed`` of the
            streams (the global generators are restored), ``progress``, if a bar is shown, and ``finished``, from which
            finished batches are read and to which others are written. All can be parts of a batch's key.
        unit: of the progress bar, such as ``"samples"``.
        amount: number of these units for each datum.
    """

    def __init__(
        self,
        owner: str,
        programs: Sequence[Any],
        options: Mapping[str, Any],
        *,
        unit: str = "",
        amount: int = 1,
    ) -> None:
        self.owner, self.options, self.seed = owner, options, options["seed"]
        self.finished: FinishedBatches | None = options["finished"]
        self.owners = Owners(**{("model", "guide")[i] if i < 2 else f"guide{i}": p for i, p in enumerate(programs)})
        device, dtype = self.owners.placement()
        self.batches = Batches(options["data"], options["batch_size"], device=device, dtype=dtype, owner=owner)
        self.ranks = join()
        self.unit, self.amount = unit, amount

    def share(self) -> int:
        """Number of batches of this process; 0 if unknown."""
        return len(self.batches) // self.ranks.size

    def run(self, work: Work, entries: dict[str, Any] | None = None) -> dict[str, Tensor]:
        """Concatenate the tensors that ``work(args, advance)`` returns for the batches.

        ``work`` calls ``advance(n)`` after n units of every datum of the batch, and may add protocol entries to
        ``entries``. If the programs fail on integer data, these are converted to floating point; labels that
        they do not take are left out.

        Raises:
            ValueError: the data are empty.
        """
        entries = {} if entries is None else entries
        try:
            return self._run(work, entries)
        except ValueError as error:
            if not self.batches.adapt(error):
                raise
            try:
                return self._run(work, entries)
            except ValueError as second:
                raise (second if self.batches.drops_labels else error) from None

    def _run(self, work: Work, entries: dict[str, Any]) -> dict[str, Tensor]:
        results: list[tuple[int, dict[str, Tensor]]] = []
        with self._bar() as bar, self.owners.evaluating(), isolated_rng(self.seed), unregistered():
            keys = Keys(self.owner, self.options, self.owners, self.share())
            for number, batch in self._numbered():
                if number % self.ranks.size == self.ranks.rank:
                    compute, before = partial(self._compute, work, number, batch, bar), bar.n
                    key = partial(keys.of_batch, number, batch.args)
                    result = self.finished.numbers(key, compute, entries) if self.finished else compute()
                    bar.update(0 if bar.n > before else self.amount * len(batch))
                    results.append((number, result))
        return self._concatenate(results)

    def _numbered(self) -> Iterator[tuple[int, Batch]]:
        """The batches; random numbers that the data draw depend on the batch's number, not on earlier batches."""
        batches = self.batches.epoch()
        for number in count():
            reseed(self.seed, -1 - number)
            batch = next(batches, None)
            if batch is None:
                return
            yield number, batch

    def _compute(self, work: Work, number: int, batch: Batch, bar: Any) -> dict[str, Tensor]:
        reseed(self.seed, number)
        size = len(batch)
        try:
            result = work(batch.args, lambda done: bar.update(done * size))
        except SupportError as error:
            raise error.in_data(batch.index) from None
        return {key: value.cpu() for key, value in result.items()}

    def _bar(self) -> Any:
        """A progress bar of this process's own batches, so that its remaining time is right."""
        num_data = self.batches.num_data
        total = None if num_data is None else num_data * self.amount // self.ranks.size
        shown = self.options.get("progress") and self.ranks.first
        return tqdm(disable=not shown, unit=f" {self.unit}", total=total, unit_scale=True, smoothing=0.05)

    def _concatenate(self, results: list[tuple[int, dict[str, Tensor]]]) -> dict[str, Tensor]:
        gathered = sorted(chain(*self.ranks.gather(results)), key=lambda result: result[0])
        require(bool(gathered), self.owner, "data must not be empty", "no batch", "Pass at least one datum")
        return {key: torch.cat([result[key] for _, result in gathered]) for key in gathered[0][1]}
