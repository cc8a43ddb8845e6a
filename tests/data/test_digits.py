"""Digits: the embedded data set."""

import torch
from sklearn.datasets import load_digits

from pyro_vae.data import Digits


def test_all_images_once_with_their_labels():
    splits = Digits(binarize="none").load()
    parts = [splits.train, splits.validation, splits.test]
    assert all(part.max_value == 16 for part in parts)
    pairs = [
        (*image, label)
        for part in parts
        for image, label in zip(part.images.flatten(1).tolist(), part.labels.tolist(), strict=True)
    ]
    source = load_digits()
    expected = [(*map(int, image), int(label)) for image, label in zip(source.data, source.target, strict=True)]
    assert sorted(pairs) == sorted(expected)


def test_test_split_is_pinned():
    # the published numbers of the project are for these images: a change of the split must fail
    test = Digits(binarize="none").load().test
    assert int(test.images.sum(dtype=torch.int64)) == 92013
    assert test.labels[:8].tolist() == [4, 9, 0, 2, 8, 4, 4, 7]


def test_raises_on_a_root(raises):
    with raises(ValueError, "Digits", "root must be None", "'data'", "Files(root)"):
        Digits("data")
