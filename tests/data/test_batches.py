"""The order of the batches: new in every epoch, equal for equal seeds, complete from any start."""

from __future__ import annotations

import pytest
import torch

from pyro_vae.data.batches import Batch, Batches


def _order(seed: int, epoch: int, start: int = 0) -> list[int]:
    batches = Batches(torch.arange(50.0), 7, shuffle_seed=seed)
    return [i for batch in batches.epoch(epoch, start=start) for i in batch.index.tolist()]


def test_every_epoch_and_seed_has_a_distinct_order() -> None:
    orders = [tuple(_order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len(set(orders)) == 6
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_an_order_is_repeated_from_any_start_without_the_global_generator() -> None:
    before = torch.get_rng_state()
    assert _order(3, 4)[14:] == _order(3, 4, start=2)
    assert torch.equal(before, torch.get_rng_state())


def test_without_a_seed_the_order_is_that_of_the_data() -> None:
    args = [batch.args[0] for batch in Batches(torch.arange(10.0), 3).epoch(5)]
    assert torch.equal(torch.cat(args), torch.arange(10.0))


def test_an_empty_batch_raises():
    for options in ({}, {"index": torch.arange(3)}, {"fetch": lambda index: (index,)}):
        with pytest.raises(ValueError, match=r"Batch: must have args, or index and fetch"):
            Batch(**options)
