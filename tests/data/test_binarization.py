"""The binarization protocol, split by split."""

import math

import pytest
import torch

from pyro_vae.data import ImageSet
from pyro_vae.data.binarization import PROTOCOLS, binarize
from pyro_vae.data.splitting import hold_out, stream

SPLITS = ["train", "validation", "test"]
GREY = ImageSet(torch.arange(256, dtype=torch.uint8).repeat(4).reshape(4, 1, 16, 16), torch.arange(4))


def assert_same(a, b):
    assert torch.equal(a.images, b.images)


def assert_drawn(drawn, grey):
    assert drawn.images.dtype == torch.uint8
    assert drawn.max_value == 1
    assert not drawn.dynamic
    assert drawn.images.unique().tolist() == [0, 1]
    assert torch.equal(drawn.labels, grey.labels)
    assert torch.equal(drawn.batch([0]), drawn.batch([0]))
    assert drawn.batch(slice(None)).unique().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("split", SPLITS)
def test_none_changes_nothing(split):
    assert binarize(GREY, "none", split=split, seed=0) is GREY
    wild = ImageSet(torch.tensor([[-5.0, 9.0]]))
    assert binarize(wild, "none", split=split, seed=0) is wild


def test_dynamic_preserves_the_training_pixels_and_draws_every_time():
    train = binarize(GREY, "dynamic", split="train", seed=0)
    assert train.dynamic
    assert train.max_value == 255
    assert_same(train, GREY)
    generator = torch.Generator().manual_seed(0)
    assert not torch.equal(train.batch([0], generator=generator), train.batch([0], generator=generator))


@pytest.mark.parametrize(("protocol", "split"), [("dynamic", p) for p in SPLITS[1:]] + [("fixed", p) for p in SPLITS])
def test_drawn_once_by_seed_and_split(protocol, split, untouched):
    torch.manual_seed(1)
    with untouched():
        first = binarize(GREY, protocol, split=split, seed=3)
    torch.manual_seed(2)
    assert_drawn(first, GREY)
    assert_same(first, binarize(GREY, protocol, split=split, seed=3))
    assert not torch.equal(first.images, binarize(GREY, protocol, split=split, seed=4).images)
    for other in set(SPLITS[1:]) - {split}:
        assert not torch.equal(first.images, binarize(GREY, protocol, split=other, seed=3).images)


@pytest.mark.parametrize("split", SPLITS[1:])
def test_dynamic_and_fixed_share_their_test_draws(split):
    assert_same(binarize(GREY, "dynamic", split=split, seed=0), binarize(GREY, "fixed", split=split, seed=0))


def test_fixed_draws_have_the_right_frequency():
    count = 20_000
    images = ImageSet(torch.tensor([[0, 51, 255]], dtype=torch.uint8).expand(count, 3).contiguous())
    frequency = binarize(images, "fixed", split="test", seed=0).mean(dtype=torch.float64)
    assert abs(frequency[1] - 0.2) < 4.5 * (0.2 * 0.8 / count) ** 0.5
    assert frequency[[0, 2]].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("split", SPLITS)
def test_threshold_is_strictly_above_a_half(split):
    digits = ImageSet(torch.tensor([[0, 7, 8, 9, 16]], dtype=torch.uint8), max_value=16)
    assert binarize(digits, "threshold", split=split, seed=0).images.tolist() == [[0, 0, 0, 1, 1]]
    grey = ImageSet(torch.tensor([[127, 128]], dtype=torch.uint8))
    assert binarize(grey, "threshold", split=split, seed=0).batch([0]).tolist() == [[0.0, 1.0]]
    floating = ImageSet(torch.tensor([[0.5, 0.51, 1.0]]))
    assert binarize(floating, "threshold", split=split, seed=0).images.tolist() == [[0, 1, 1]]


@pytest.mark.parametrize("protocol", [p for p in PROTOCOLS if p != "none"])
@pytest.mark.parametrize("pixel", [-0.1, 1.1])
def test_floating_pixels_outside_the_unit_interval_raise(protocol, pixel, raises):
    with raises(ValueError, "Dataset", "[0, 1]", f"{pixel:g}", "binarize='none'", protocol):
        binarize(ImageSet(torch.tensor([[0.5, pixel]])), protocol, split="train", seed=0)


@pytest.mark.parametrize("protocol", [p for p in PROTOCOLS if p != "none"])
def test_missing_pixels_stay_missing(protocol):
    images = binarize(ImageSet(torch.tensor([[1.0, math.nan, 0.0], [0.0, 1.0, 0.0]])), protocol, split="train", seed=0)
    assert images.missing
    expected = torch.tensor([[1.0, math.nan, 0.0], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(images.batch([0, 1]), expected, rtol=0, atol=0, equal_nan=True, check_dtype=False)


def test_streams_depend_only_on_seed_and_name(untouched):
    def draw(seed, name):
        return torch.randint(2**31, (4,), generator=stream(seed, name)).tolist()

    with untouched():
        draws = {(seed, name): draw(seed, name) for seed in (-1, 0, 1, 2**70) for name in ("a", "b")}
    assert len({tuple(d) for d in draws.values()}) == 8
    assert draw(0, "a") == draws[0, "a"]


def test_hold_out_is_a_partition_by_seed(untouched):
    with untouched():
        training, held_out = hold_out(50, 20, seed=0, name="test")
    assert (len(training), len(held_out)) == (30, 20)
    assert sorted([*training.tolist(), *held_out.tolist()]) == list(range(50))
    assert held_out.tolist() != list(range(20))
    assert held_out.tolist() == sorted(held_out.tolist())
    assert held_out.tolist() == hold_out(50, 20, seed=0, name="test")[1].tolist()
    assert held_out.tolist() != hold_out(50, 20, seed=1, name="test")[1].tolist()


def test_a_default_device_does_not_matter():
    plain = hold_out(50, 20, seed=0, name="test")[1]
    with torch.device("meta"):
        inside = hold_out(50, 20, seed=0, name="test")[1]
        drawn = binarize(GREY, "fixed", split="test", seed=0)
    assert torch.equal(plain, inside)
    assert_same(drawn, binarize(GREY, "fixed", split="test", seed=0))
