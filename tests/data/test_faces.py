"""Faces: each factor shows in its place, the drawing is reproducible, wrong factors are refused."""

import time
from itertools import pairwise

import numpy as np
import pytest
import torch

from pyro_vae.data import Faces
from pyro_vae.data.face_drawing import FACTORS, draw_face


def test_images_are_the_drawings_of_their_factors():
    data = Faces(count=24, size=20, color=True)
    splits = data.load()
    for part in (splits.train, splits.validation, splits.test):
        for image, row in zip(part.images, part.rows.tolist(), strict=True):
            factors = {name: values[row].item() for name, values in data.factors.items()}
            assert np.array_equal(image.numpy(), draw_face(**factors, size=20, color=True))


def test_factors_are_uniform_independent_and_seeded():
    factors = torch.stack(list(Faces(count=4000).factors.values()), -1)
    for column, (name, (low, high)) in zip(factors.T, FACTORS.items(), strict=True):
        binary = name == "glasses"
        assert set(column.tolist()) == {0.0, 1.0} if binary else (low <= column.min() < column.max() <= high)
        variance = (high - low) ** 2 / (4 if binary else 12)
        assert abs(column.mean() - (low + high) / 2) < 4.5 * (variance / 4000) ** 0.5
        assert 0.9 < column.var() / variance < 1.1
    assert (torch.corrcoef(factors.T) - torch.eye(6)).abs().max() < 4.5 / 4000**0.5
    first = Faces(count=12).factors
    assert all(torch.equal(values[:12], first[name]) for name, values in Faces(count=40).factors.items())
    assert not torch.equal(Faces(count=12, draw_seed=1).factors["smile"], first["smile"])


PLACES = {"smile": 0.69, "glasses": 0.45, "hair": 0.75, "brows": 0.33}
"""Height of the rows that a factor changes, from the top of the image."""


@pytest.mark.parametrize("name", list(FACTORS))
def test_a_factor_changes_the_image_where_it_belongs(name):
    low, high = FACTORS[name]
    change = np.abs(draw_face(**{name: low}, size=64).astype(float) - draw_face(**{name: high}, size=64))[0]
    assert change.max() > 50
    rows = change.sum(1)
    centre = (rows * np.arange(64)).sum() / rows.sum() / 64
    assert abs(centre - PLACES.get(name, 0.45)) < 0.1


def test_turning_mirrors_the_image_and_small_steps_change_it_little():
    left, right = (draw_face(turn=turn, size=64).astype(int) for turn in (-0.7, 0.7))
    assert np.abs(left - right[..., ::-1]).mean() < 2
    for name in set(FACTORS) - {"glasses"}:
        low, high = FACTORS[name]
        images = [draw_face(**{name: low + (high - low) * k / 50}, size=32).astype(float) for k in range(51)]
        steps = [np.abs(a - b).mean() for a, b in pairwise(images)]
        assert max(steps) < 2.5  # of 255


def test_drawing_takes_about_a_millisecond():
    times = []
    for k in range(60):
        start = time.process_time()
        draw_face(smile=k / 60, glasses=1)
        times.append(time.process_time() - start)
    assert sorted(times)[30] < 3e-3


def test_wrong_arguments(raises):
    for options, words in (({"smile": 1.5}, "smile=1.5"), ({"hair": float("nan")}, "hair=nan"), ({"turn": "a"}, "'a'")):
        with raises(ValueError, "draw_face", "must lie in", words):
            draw_face(**options)
    with raises(ValueError, "draw_face", "glasses must be 0 or 1", "0.5"):
        draw_face(glasses=0.5)
    for options, words in (({"size": 8}, "size=8"), ({"count": 2}, "count=2"), ({"root": "here"}, "Files(root)")):
        with raises(ValueError, "Faces", words):
            Faces(**options)
