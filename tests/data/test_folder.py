"""Files on a folder of images."""

import numpy as np
import pytest
from PIL import Image

from pyro_vae.data import Files


def write(path, value, size=(5, 4), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def load(root):
    return Files(root, validation=0, test=1, max_value=255).load()


def pixels(splits):
    parts = (splits.train, splits.test)
    return sorted(tuple(image[:, 0, 0].tolist()) for part in parts for image in part.images)


def test_grey_images(tmp_path):
    for k, name in enumerate(["c.png", "a.PNG", "b.bmp"]):
        write(tmp_path / name, 10 * k)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("not an image")
    with pytest.warns(UserWarning, match="^Files: 1 file that is not an image was left out: notes.txt.$"):
        splits = load(tmp_path)
    assert splits.data_shape == (1, 4, 5)
    assert pixels(splits) == [(0,), (10,), (20,)]
    assert splits.train.labels is None


def test_colour_images_are_channels_first(tmp_path):
    write(tmp_path / "a.png", (1, 2, 3), mode="RGB")
    write(tmp_path / "b.png", (4, 5, 6, 255), mode="RGBA")
    splits = load(tmp_path)
    assert splits.data_shape == (3, 4, 5)
    assert pixels(splits) == [(1, 2, 3), (4, 5, 6)]


def test_jpg(tmp_path):
    for name in ("a.jpg", "b.jpeg"):
        write(tmp_path / name, 100)
    assert len(load(tmp_path).train) == 1


def test_sub_folders_are_classes(tmp_path):
    (tmp_path / "ant").mkdir()  # no images: no class
    for k, name in enumerate(["dog/1.png", "cat/1.png", "dog/0.png", "eel/7.png"]):
        write(tmp_path / name, 10 * k)
    splits = load(tmp_path)
    images = [*splits.train.images[:, 0, 0, 0].tolist(), *splits.test.images[:, 0, 0, 0].tolist()]
    labels = [*splits.train.labels.tolist(), *splits.test.labels.tolist()]
    assert dict(zip(images, labels, strict=True)) == {0: 1, 10: 0, 20: 1, 30: 2}


def test_order_is_that_of_the_names(tmp_path):
    for k in (3, 1, 2, 0):
        write(tmp_path / f"{k}.png", k)
    splits = load(tmp_path)
    train = splits.train.images[:, 0, 0, 0].tolist()
    assert train == sorted(train)


def members(root, **options):
    """The pixel values of each split."""
    splits = Files(root, binarize="none", **options).load()
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {name: set(part.images[:, 0, 0, 0].tolist()) for name, part in parts.items() if part is not None}


@pytest.mark.parametrize("sub", ["", "a/"])
def test_new_images_move_none(tmp_path, sub):
    for k in range(120):
        write(tmp_path / f"{sub}{k:03}.png", k)
    before = members(tmp_path)
    assert all(10 <= len(before[name]) <= 30 for name in ("validation", "test"))
    for k in range(120, 150):
        write(tmp_path / f"{sub}{'-' if k % 2 else 'x'}{k}.png", k)  # first or last by name
    after = members(tmp_path)
    assert all(before[name] == {value for value in after[name] if value < 120} for name in before)
    assert sum(map(len, after.values())) == 150
    other = members(tmp_path, seed=1)
    assert other["test"] == after["test"]
    assert other["validation"] != after["validation"]


def test_counts_are_exact_and_small_folders_have_a_test_image(tmp_path):
    for k in range(8):
        write(tmp_path / f"{k}.png", k)
    assert {name: len(part) for name, part in members(tmp_path, test=3, validation=4).items()} == {
        "train": 1,
        "validation": 4,
        "test": 3,
    }
    assert members(tmp_path, test=2)["test"] < members(tmp_path, test=3)["test"]
    for k in range(2, 8):
        (tmp_path / f"{k}.png").unlink()
    assert {name: len(part) for name, part in members(tmp_path).items()} == {"train": 1, "test": 1}


def test_mixed_sizes_are_refused_and_resized_on_request(tmp_path, raises):
    write(tmp_path / "a.png", 1)
    write(tmp_path / "b.png", 2, size=(5, 5))
    with raises(ValueError, "Files", "a.png", "(1, 4, 5)", "b.png", "one size", "--data.size 32"):
        load(tmp_path)
    assert Files(tmp_path, size=3, validation=0).load().data_shape == (1, 3, 3)


def test_grey_images_next_to_colour_become_colour(tmp_path):
    write(tmp_path / "a.png", 1)
    write(tmp_path / "b.png", (2, 3, 4), mode="RGB")
    assert pixels(load(tmp_path)) == [(1, 1, 1), (2, 3, 4)]


@pytest.mark.parametrize("content", ["empty", "text", "truncated"])
def test_unreadable_image(tmp_path, content, raises):
    write(tmp_path / "a.png", 1)
    noise = np.random.RandomState(0).randint(0, 256, (40, 40), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "b.png")
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes({"empty": b"", "text": b"abc", "truncated": whole[:500]}[content])
    with raises(ValueError, "Files", str(tmp_path / "b.png"), "Remove or replace"):
        load(tmp_path)


def test_sixteen_bits_are_kept(tmp_path, raises):
    for name, value in (("a.png", 1000), ("b.tif", 1001)):
        Image.fromarray(np.full((4, 5), value, dtype=np.uint16)).save(tmp_path / name)
    splits = load(tmp_path)
    assert splits.train.kind == "fractions"
    assert sorted(round(65535 * x) for (x,) in pixels(splits)) == [1000, 1001]
    write(tmp_path / "c.png", 7)
    with raises(ValueError, "Files", "one depth", "a.png of uint16", "c.png of uint8"):
        load(tmp_path)


def test_no_images(tmp_path, raises):
    (tmp_path / "notes.txt").write_text("nothing")
    with raises(ValueError, "Files", "zero-length data", str(tmp_path)):
        load(tmp_path)


def test_images_next_to_classes(tmp_path, raises):
    write(tmp_path / "a.png", 1)
    write(tmp_path / "cat" / "b.png", 1)
    with raises(ValueError, "Files", "a.png", "cat"):
        load(tmp_path)


def test_train_and_test_are_not_classes(tmp_path, raises):
    write(tmp_path / "train" / "a.png", 1)
    write(tmp_path / "test" / "a.png", 1)
    with raises(ValueError, "Files", "folders train and test", "npz"):
        load(tmp_path)
