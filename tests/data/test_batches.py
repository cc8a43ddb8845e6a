"""The order of the batches: new in every epoch, equal for equal seeds, complete from any start."""

from __future__ import annotations

import pytest
import torch

from pyro_vae.data import ImageSet
from pyro_vae.data import batches as module
from pyro_vae.data.batches import Batches


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


def test_batches_do_not_depend_on_the_number_that_is_fetched_together(monkeypatch) -> None:
    x = torch.arange(50.0)
    results = []
    for size in (1, 3, 64):
        monkeypatch.setattr(module, "_MAX_BLOCK", size)
        batches = Batches(ImageSet(x.reshape(50, 1)), 7, shuffle_seed=1)
        results.append([torch.cat([batch.index, batch.args[0].squeeze(1)]) for batch in batches.epoch(2, start=4)])
    assert len(results[0]) == 4
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("start", [0, 1, 4, 7])
def test_binary_samples_are_repeated_from_any_start(start: int) -> None:
    images = ImageSet(torch.full((30, 4), 100, dtype=torch.uint8), dynamic=True)
    batches = Batches(images, 4, shuffle_seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MAX_BLOCK", 3)
        before = torch.get_rng_state()
        epoch = [batch.args[0] for batch in batches.epoch(2)]
        assert all(map(torch.equal, epoch[start:], [batch.args[0] for batch in batches.epoch(2, start=start)]))
        assert torch.equal(before, torch.get_rng_state())
        other = torch.cat([batch.args[0] for batch in batches.epoch(3)])
        assert not torch.equal(torch.cat(epoch), other)
        blocks = [torch.cat(epoch[:3]), torch.cat(epoch[3:6])]
        assert not torch.equal(*blocks)
