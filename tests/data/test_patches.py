"""Patches: pieces of the photographs, of which the test split shares no pixel with the others."""

import numpy as np
from sklearn.datasets import load_sample_images

from pyro_vae.data import Patches

PHOTOGRAPHS = [image.transpose(2, 0, 1) for image in load_sample_images().images]


def place(patch):
    """Photograph, row and column of a patch."""
    for number, photograph in enumerate(PHOTOGRAPHS):
        corners = (photograph[:, :-31, :-31] == patch[:, :1, :1]).all(0)
        for y, x in zip(*corners.nonzero(), strict=True):
            if np.array_equal(photograph[:, y : y + 32, x : x + 32], patch):
                return number, int(y), int(x)
    raise AssertionError("the patch is in no photograph")


def test_patches_are_pieces_and_test_pixels_are_held_out():
    splits = Patches(count=60).load()
    train, test = ([place(patch.numpy()) for patch in part.images] for part in (splits.train, splits.test))
    assert max(x + 32 for _, _, x in train) <= 512 <= min(x for _, _, x in test)
    assert {number for number, _, _ in train} == {0, 1}
    assert len(set(train)) == len(train)


def test_grey_is_the_mean_and_arguments_are_checked(raises):
    colour, grey = Patches(count=12).load(), Patches(count=12, grey=True).load()
    assert grey.data_shape == (1, 32, 32)
    assert (grey.train.images.float() - colour.train.images.float().mean(1, keepdim=True)).abs().max() <= 0.5
    for options, words in (({"count": 2}, "count=2"), ({"root": "here"}, "root='here'")):
        with raises(ValueError, "Patches", words):
            Patches(**options)
