"""Labels are selected in equal numbers per class, depending only on the seed."""

from itertools import pairwise

import pytest
import torch

from pyro_vae.data import Digits
from pyro_vae.data.labelling import choose_labels

LABELS = torch.arange(60) % 5  # twelve of each of five classes


def counts(labels, positions):
    return labels[positions].bincount(minlength=int(labels.max()) + 1).tolist()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_labels", [5, 20, 60])
def test_every_class_has_equally_many(num_labels, seed):
    positions = choose_labels(LABELS, num_labels, seed=seed)
    assert positions.shape == (num_labels,)
    assert positions.dtype == torch.int64
    assert bool((positions.diff() > 0).all())  # ascending, and so each once
    assert counts(LABELS, positions) == [num_labels // 5] * 5


def test_the_seed_selects_the_classes_with_the_remainder():
    numbers = [counts(LABELS, choose_labels(LABELS, 22, seed=seed)) for seed in range(20)]
    assert all(sorted(each) == [4, 4, 4, 5, 5] for each in numbers)
    assert all(len({each[c] for each in numbers}) == 2 for c in range(5))  # both counts occur in each class


def test_a_smaller_selection_is_a_subset_of_a_larger_one():
    choices = [set(choose_labels(LABELS, n, seed=3).tolist()) for n in (5, 8, 10, 23, 60)]
    assert all(a < b for a, b in pairwise(choices))


def test_depends_only_on_the_seed():
    state = torch.get_rng_state()
    first = choose_labels(LABELS, 20, seed=1)
    torch.manual_seed(7)
    assert torch.equal(first, choose_labels(LABELS, 20, seed=1))
    assert not torch.equal(first, choose_labels(LABELS, 20, seed=2))
    torch.set_rng_state(state)
    choose_labels(LABELS, 20, seed=1)
    assert torch.equal(state, torch.get_rng_state())


def test_every_datum_of_a_class_is_equally_likely():
    draws = torch.zeros(60, dtype=torch.float64)
    for seed in range(600):
        draws[choose_labels(LABELS, 20, seed=seed)] += 1  # 4 of 12
    z = (draws - 200) / (600 * 1 / 3 * 2 / 3) ** 0.5
    assert float(z.abs().max()) < 4.5


def test_a_class_does_not_depend_on_the_others():
    more = torch.cat([LABELS, torch.full((7,), 4)])
    small, large = choose_labels(LABELS, 20, seed=0), choose_labels(more, 20, seed=0)
    assert small[LABELS[small] < 4].tolist() == large[more[large] < 4].tolist()


def test_classes_are_sampled_independently():
    ranks = choose_labels(LABELS, 20, seed=0).div(5, rounding_mode="floor")  # which of its class's twelve each is
    of = LABELS[choose_labels(LABELS, 20, seed=0)]
    assert len({tuple(ranks[of == label].tolist()) for label in range(5)}) > 1  # five of 495 equally likely sets


def test_missing_labels_are_never_selected():
    labels = LABELS.clone()
    labels[10:] = -1
    assert choose_labels(labels, 10, seed=0).tolist() == list(range(10))


def test_classes_are_those_that_occur():
    labels = torch.tensor([3, 7, 3, 7, 3])
    assert sorted(labels[choose_labels(labels, 4, seed=0)].tolist()) == [3, 3, 7, 7]


def test_of_a_data_set():
    train = Digits().load().train
    positions = choose_labels(train.labels, 100, seed=0)
    assert counts(train.labels, positions) == [10] * 10
    assert torch.equal(train.subset(positions).labels, train.labels[positions])


@pytest.mark.parametrize(
    ("labels", "num_labels", "message"),
    [
        (None, 10, "labels=None"),
        (LABELS.int(), 10, "dtype=torch.int32"),
        (LABELS.double(), 10, "dtype=torch.float64"),
        (LABELS.reshape(2, 30), 10, "shape=.2, 30."),
        (LABELS - 2, 10, "smallest=-2"),
        (LABELS[:0], 10, "some labels must be known"),
        (torch.full((9,), -1), 5, "some labels must be known"),
        (LABELS, 61, "num_labels=61, labels=60"),
        (LABELS, 4, "num_labels=4 for 5 classes"),
        (LABELS, 0, "num_labels=0 for 5 classes"),
        (LABELS, -3, "num_labels=-3 for 5 classes"),
        (torch.tensor([0, 0, 0, 0, 1]), 4, "got 1 of class 1 for 2"),
    ],
    ids=lambda value: None if isinstance(value, torch.Tensor) else str(value)[:20],
)
def test_bad_input_raises_one_line_errors(labels, num_labels, message):
    with pytest.raises(ValueError, match=message) as caught:
        choose_labels(labels, num_labels, seed=0)
    assert "\n" not in str(caught.value)
