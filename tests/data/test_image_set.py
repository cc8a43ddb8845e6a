"""ImageSet: batches, their mean, and errors."""

import dataclasses

import numpy as np
import pytest
import torch

from pyro_vae.data import ImageSet, random_pixels


@pytest.fixture
def grey():
    pixels = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(6, 1, 4, 5)
    return ImageSet(pixels, torch.arange(6))


def test_shapes_and_device(grey):
    assert len(grey) == 6
    assert grey.data_shape == (1, 4, 5)
    assert type(grey.data_shape) is tuple
    assert grey.device == torch.device("cpu")
    assert grey.batch(torch.tensor([5, 0, 0])).shape == (3, 1, 4, 5)
    assert grey.batch(slice(1, 3)).shape == (2, 1, 4, 5)
    assert grey.batch([]).shape == (0, 1, 4, 5)


def test_is_frozen(grey):
    with pytest.raises(dataclasses.FrozenInstanceError):
        grey.max_value = 3


def test_grey_batch_is_u_over_max_value(grey):
    batch = grey.batch([3, 1], dtype=torch.float64)
    assert batch.dtype == torch.float64
    assert torch.equal(batch, grey.images[[3, 1]].double() / 255)
    assert grey.batch([0]).dtype == torch.get_default_dtype()
    digits = ImageSet(torch.tensor([[0, 8, 16]], dtype=torch.uint8), max_value=16)
    assert digits.batch([0]).tolist() == [[0.0, 0.5, 1.0]]


def test_floating_batch_ignores_max_value():
    images = torch.tensor([[-3.0, 0.25], [7.5, 1e6]], dtype=torch.float64)
    batch = ImageSet(images).batch([1, 0], dtype=torch.float64)
    assert torch.equal(batch, images[[1, 0]])
    assert ImageSet(images).batch([0]).dtype == torch.get_default_dtype()


def test_subset_has_images_and_labels_in_order(grey):
    part = grey.subset(torch.tensor([4, 2]))
    assert part.labels.tolist() == [4, 2]
    assert torch.equal(part.images, grey.images[[4, 2]])
    assert ImageSet(grey.images, max_value=200, dynamic=True).subset([0]).dynamic
    assert ImageSet(grey.images, max_value=200).subset([0]).max_value == 200


@pytest.mark.parametrize("scale", [1, 16, 255])
def test_dynamic_pixels_are_one_with_probability_u_over_max(scale):
    # 10 000 draws for each of up to 254 pixel values: a new seed fails with probability 254 * 7e-6
    values = torch.arange(scale + 1, dtype=torch.uint8)[None]
    images = ImageSet(values, max_value=scale, dynamic=True)
    count = 10_000
    draws = images.batch(torch.zeros(count, dtype=torch.int64), generator=torch.Generator().manual_seed(0))
    assert draws.unique().tolist() == [0.0, 1.0]
    exact = values[0].double() / scale
    error = (exact * (1 - exact) / count).sqrt()
    frequency = draws.double().mean(0)
    inside = (exact > 0) & (exact < 1)
    assert ((frequency - exact).abs()[inside] < 4.5 * error[inside]).all()
    assert torch.equal(frequency[~inside], exact[~inside])  # 0 and max_value are never noisy
    total = ((frequency - exact)[inside] / error[inside]).sum() / max(1, inside.sum()) ** 0.5
    assert abs(total) < 4.5  # most sensitive to a bias common to all pixels


@pytest.mark.parametrize("scale", [1, 2, 16, 100, 200, 254, 255])
def test_the_ones_among_all_bytes_are_in_exact_proportion(scale, monkeypatch):
    """Every byte occurs once, those that are drawn again are replaced in turn: u of u_max samples are ones."""
    kept = 256 - 256 % scale
    filler = torch.arange(kept, dtype=torch.uint8)
    sources = [torch.arange(256, dtype=torch.uint8), filler[: 256 - kept]]
    monkeypatch.setattr(random_pixels, "_random_bytes", lambda count, *rest: sources.pop(0))
    values = torch.full((256,), scale // 2 + 1, dtype=torch.uint8).clamp(max=scale)
    samples = random_pixels.sample_pixels(values, scale, dtype=torch.int64)
    assert samples[:kept].sum() * scale == kept * int(values[0])
    assert torch.equal(samples[kept:], (filler[: 256 - kept] % scale < values[0]).long())


def test_bytes_are_drawn_until_they_are_below_the_limit(monkeypatch):
    sources = [torch.tensor(values, dtype=torch.uint8) for values in ([255, 3], [255], [7])]
    monkeypatch.setattr(random_pixels, "_random_bytes", lambda *_: sources.pop(0))
    pixels = torch.tensor([8, 3], dtype=torch.uint8)
    assert random_pixels.sample_pixels(pixels, 255, dtype=torch.int64).tolist() == [1, 0]


def test_black_and_white_are_never_noisy():
    for scale in range(1, 256):
        pixels = torch.tensor([[0, scale]] * 300, dtype=torch.uint8)
        samples = random_pixels.sample_pixels(pixels, scale, dtype=torch.int64)
        assert samples.unique(dim=0).tolist() == [[0, 1]]


def test_dynamic_floating_pixels_are_probabilities():
    probability, count = 0.3, 20_000
    images = ImageSet(torch.tensor([[probability, 0.0, 1.0]]), dynamic=True)
    draws = images.batch([0] * count, generator=torch.Generator().manual_seed(0)).double().mean(0)
    assert abs(draws[0] - probability) < 4.5 * (probability * (1 - probability) / count) ** 0.5
    assert draws[1:].tolist() == [0.0, 1.0]


def test_dynamic_draws_are_independent_over_pixels_and_calls():
    images = ImageSet(torch.full((1, 2), 1, dtype=torch.uint8), max_value=2, dynamic=True)
    generator, count = torch.Generator().manual_seed(0), 20_000
    first, second = (images.batch([0] * count, generator=generator) for _ in range(2))
    for a, b in [(first[:, 0], first[:, 1]), (first[:, 0], second[:, 0])]:
        agreement = (a == b).double().mean()
        assert abs(agreement - 0.5) < 4.5 * (0.25 / count) ** 0.5


def test_dynamic_batch_depends_only_on_its_generator(grey, untouched):
    images = dataclasses.replace(grey, dynamic=True)
    with untouched():
        a, b = (images.batch([0, 5], generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(a, b)
    before = torch.get_rng_state()
    images.batch([0, 5])
    assert not torch.equal(torch.get_rng_state(), before)  # without a generator: the global one


@pytest.mark.parametrize("dynamic", [False, True])
def test_mean_is_the_expectation_of_a_batch(grey, dynamic):
    images = dataclasses.replace(grey, dynamic=dynamic)
    exact = torch.from_numpy(grey.images.numpy().astype(np.float64).mean(0) / 255)
    mean = images.mean(dtype=torch.float64)
    assert mean.shape == images.data_shape
    assert torch.allclose(mean, exact, rtol=1e-12)
    assert images.mean().dtype == torch.get_default_dtype()
    if not dynamic:
        assert torch.allclose(images.batch(slice(None), dtype=torch.float64).mean(0), mean, rtol=1e-12)


def test_mean_of_floating_and_binary_images():
    assert ImageSet(torch.tensor([[1.0, -2.0], [3.0, 4.0]])).mean().tolist() == [2.0, 1.0]
    binary = torch.tensor([[0, 1], [1, 1]], dtype=torch.uint8)
    assert ImageSet(binary, max_value=1).mean().tolist() == [0.5, 1.0]
    full = torch.full((1000, 1), 255, dtype=torch.uint8)
    assert ImageSet(full).mean().tolist() == [1.0]  # the sum does not wrap


def test_moves_with_its_labels(grey):
    images = dataclasses.replace(grey, max_value=200, dynamic=True)
    same = images.to(torch.device("cpu"))
    assert torch.equal(same.images, grey.images)
    assert torch.equal(same.labels, grey.labels)
    assert (same.max_value, same.dynamic) == (200, True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_the_device(grey):
    moved = dataclasses.replace(grey, dynamic=True).to("cuda")
    batch = moved.batch(torch.tensor([0, 5]), generator=torch.Generator().manual_seed(7))
    assert batch.device.type == moved.labels.device.type == "cuda"
    on_cpu = dataclasses.replace(grey, dynamic=True).batch([0, 5], generator=torch.Generator().manual_seed(7))
    assert torch.equal(batch.cpu(), on_cpu)
    assert moved.batch(torch.tensor([0], device="cuda")).device.type == "cuda"


U8 = torch.zeros(2, 3, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"images": U8[:0]}, ["zero-length data", "(0, 3)"]),
        ({"images": U8[0]}, ["shape=(3,)"]),
        ({"images": U8.long()}, ["torch.int64"]),
        ({"images": U8, "max_value": 0}, ["max_value=0"]),
        ({"images": U8, "max_value": 256}, ["max_value=256"]),
        ({"images": U8 + 17, "max_value": 16}, ["[0, 16]", "17"]),
        ({"images": torch.tensor([[0.5, 1.5]]), "dynamic": True}, ["[0, 1]", "1.5"]),
        ({"images": torch.tensor([[-0.5, 0.5]]), "dynamic": True}, ["[0, 1]", "-0.5"]),
        ({"images": U8, "labels": torch.arange(3)}, ["labels", "(2,)", "(3,)"]),
        ({"images": U8, "labels": torch.zeros(2)}, ["labels", "torch.float32"]),
    ],
)
def test_raises_on_bad_arguments(arguments, words, raises):
    with raises(ValueError, "ImageSet", *words):
        ImageSet(**arguments)


def test_raises_on_an_empty_subset(grey, raises):
    with raises(ValueError, "ImageSet", "zero-length data"):
        grey.subset([])
