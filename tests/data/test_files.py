"""Files: npz and npy layouts, and every error."""

import numpy as np
import pytest
import torch

from pyro_vae.data import Files


@pytest.fixture
def save(tmp_path):
    def save(**arrays):
        path = tmp_path / "mine.npz"
        np.savez(path, **arrays)
        return path

    return save


def numbered(count, *shape, start=0, dtype=np.uint8):
    """Images that carry their own number in every pixel."""
    return (np.arange(start, start + count).reshape(-1, *[1] * len(shape)) + np.zeros(shape)).astype(dtype)


def numbers(images):
    return images.images.flatten(1)[:, 0].tolist()


@pytest.mark.parametrize(("shape", "data_shape"), [((4, 5), (1, 4, 5)), ((3, 4, 5), (3, 4, 5)), ((7,), (7,))], ids=str)
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_array_layouts(tmp_path, shape, data_shape, suffix):
    path, images = tmp_path / f"mine.{suffix}", numbered(30, *shape)
    if suffix == "npz":
        np.savez_compressed(path, images=images)
    else:
        np.save(path, images)
    splits = Files(str(path), kind="colour" if len(shape) == 3 else "grey", max_value=255).load()
    assert splits.data_shape == data_shape
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (21, 4, 5)
    assert sorted(numbers(splits.train) + numbers(splits.validation) + numbers(splits.test)) == list(range(30))
    assert splits.train.max_value == 255
    assert splits.train.labels is None


def test_labels_follow_their_images(save):
    path = save(images=numbered(30, 2, 2), labels=np.arange(30, dtype=np.int16), names=np.array([{}], dtype=object))
    splits = Files(path, test=7, validation=3, binarize="none").load()
    for part, size in ((splits.train, 20), (splits.validation, 3), (splits.test, 7)):
        assert part.labels.tolist() == numbers(part)
        assert len(part) == size
        assert part.labels.dtype == torch.int64


def test_separate_test_part(save):
    arrays = {"train": numbered(6, 2, 2), "test": numbered(3, 2, 2, start=100)}
    splits = Files(save(**arrays), validation=0, binarize="none").load()
    assert numbers(splits.train) == list(range(6))
    assert numbers(splits.test) == [100, 101, 102]
    assert splits.train.labels is None
    assert splits.test.labels is None
    labels = {"train_labels": np.arange(6), "test_labels": np.arange(3)}
    splits = Files(save(**arrays, **labels), validation=0).load()
    assert splits.train.labels.tolist() == list(range(6))
    assert splits.test.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "longdouble"])
def test_floating_data_do_not_change(save, dtype):
    images = numbered(12, 2, 2, dtype=dtype) * -7
    splits = Files(save(images=images), binarize="none", validation=0, test=2).load()
    values = splits.train.batch(slice(None), dtype=torch.float64).flatten(1)[:, 0].tolist()
    values += splits.test.batch(slice(None), dtype=torch.float64).flatten(1)[:, 0].tolist()
    assert sorted(values) == [-7.0 * k for k in reversed(range(12))]


def test_floating_probabilities_are_binarized(save):
    splits = Files(save(images=np.full((12, 3), 0.5)), binarize="dynamic", validation=2, test=2).load()
    assert splits.train.dynamic
    assert splits.train.mean().tolist() == [0.5] * 3
    assert set(splits.test.images.flatten().tolist()) <= {0, 1}
    assert splits.test.max_value == 1


@pytest.mark.parametrize("dtype", [bool, "u1", "i8", ">i4"])
def test_binary_integers_are_binary(save, dtype):
    images = (np.arange(24).reshape(12, 2) % 2).astype(dtype)
    splits = Files(save(images=images), binarize="none", validation=0, test=2).load()
    assert splits.train.max_value == splits.test.max_value == 1
    assert splits.train.batch([0]).tolist() == [[0.0, 1.0]]


def test_max_value_is_common_to_both_parts(save):
    train, test = np.zeros((3, 2), dtype=np.uint8), np.full((2, 2), 200, dtype=np.uint8)
    splits = Files(save(train=train, test=test), binarize="none", validation=0).load()
    assert splits.train.max_value == splits.test.max_value == 255


class Unsafe:
    """Writes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_pickled_objects_are_never_loaded(tmp_path, suffix, raises):
    path, trap = tmp_path / f"mine.{suffix}", tmp_path / "trap"
    images = np.array([Unsafe(str(trap))] * 3, dtype=object)
    if suffix == "npz":
        np.savez(path, images=images)
    else:
        np.save(path, images)
    with raises(ValueError, "Files", "pickled objects", "uint8 or floating", str(path)):
        Files(path).load()
    assert not trap.exists()


IMAGES = numbered(12, 2, 2)
NAN = np.zeros((12, 2, 2))
NAN[[5, 7], 1, 0] = np.nan, np.inf


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pictures": IMAGES, "others": IMAGES}, ["images or train and test", "['others', 'pictures']"]),
        ({"images": NAN}, ["finite", "infinite values in 1", "index 7"]),
        ({"images": np.full((3, 2), -np.inf)}, ["finite", "index 0"]),
        ({"images": np.full((3, 2), np.nan)}, ["must hold numbers", "NaN alone"]),
        ({"images": np.zeros(3)}, ["shape=(3,)"]),
        ({"images": np.zeros((2, 1, 1, 2, 2))}, ["shape=(2, 1, 1, 2, 2)"]),
        ({"images": np.zeros((20, 8, 8, 3))}, ["(20, 8, 8, 3)", "transpose(0, 3, 1, 2)"]),
        ({"images": IMAGES[:0]}, ["zero-length data", "(0, 2, 2)"]),
        ({"images": np.array([["a"]])}, ["numbers", "<U1"]),
        ({"images": np.zeros((2, 2), dtype=complex)}, ["numbers", "complex128"]),
        ({"images": IMAGES, "labels": np.arange(11)}, ["labels in ", "must be 12 integers", "(11,)"]),
        ({"images": IMAGES, "labels": np.zeros(12)}, ["labels", "float64"]),
        ({"train": IMAGES, "test": IMAGES, "test_labels": np.arange(3)}, ["test_labels in ", "must be 12", "(3,)"]),
        ({"train": IMAGES, "test": numbered(3, 2, 3)}, ["(12, 2, 2)", "(3, 2, 3)"]),
        ({"train": IMAGES, "test": IMAGES / 255.0}, ["uint8", "float64"]),
        ({"train": IMAGES, "test": IMAGES[:0]}, ["test in ", "must hold", "zero-length data"]),
    ],
)
def test_raises_on_bad_arrays(save, arrays, words, raises):
    with raises(ValueError, "Files", *words):
        Files(save(**arrays)).load()


def test_raises_on_binarizing_floats_outside_the_unit_interval(save, raises):
    with raises(ValueError, "Dataset", "[0, 1]", "pixels from 0 to 5", "binarize='none'"):
        Files(save(images=IMAGES / 2), binarize="fixed", test=1).load()


@pytest.mark.parametrize("test", [0, 12, 13, -1])
def test_raises_on_a_wrong_test_size(save, test, raises):
    with raises(ValueError, "Files", "12 images", f"test={test}"):
        Files(save(images=IMAGES), test=test).load()


def test_raises_on_one_image_and_on_too_large_a_validation(save, raises):
    with raises(ValueError, "Files", "less than the 1 images"):
        Files(save(images=IMAGES[:1])).load()
    with raises(ValueError, "Files", "10 training images", "validation=10"):
        Files(save(images=IMAGES), validation=10).load()


def test_raises_on_a_test_size_next_to_a_test_part(save, raises):
    with raises(ValueError, "Files", "test=2"):
        Files(save(train=IMAGES, test=IMAGES), test=2).load()


def test_missing_or_unknown(tmp_path, raises):
    with raises(FileNotFoundError, "Files", str(tmp_path / "none.npz"), "does not exist"):
        Files(tmp_path / "none.npz").load()
    (tmp_path / "mine.txt").write_text("1 2 3")
    with raises(ValueError, "Files", ".csv or .parquet", "mine.txt"):
        Files(tmp_path / "mine.txt").load()
    with raises(ValueError, "Files", "root=None"):
        Files()


@pytest.mark.parametrize("content", ["empty", "text", "truncated", "flipped", "other"])
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_damaged_files(tmp_path, suffix, content, raises):
    path, other = tmp_path / f"mine.{suffix}", tmp_path / f"other.{'npy' if suffix == 'npz' else 'npz'}"
    for file in (path, other):
        (np.savez if file.suffix == ".npz" else np.save)(file, **_argument(file))
    whole = path.read_bytes()
    middle = len(whole) // 2
    damaged = {
        "empty": b"",
        "text": b"not an array",
        "truncated": whole[:-300],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
        "other": other.read_bytes(),
    }
    if suffix == "npy" and content == "flipped":
        damaged["flipped"] = whole[:20] + b"\xff\xff" + whole[22:]  # npy has no checksum: spoil its header
    path.write_bytes(damaged[content])
    with raises(ValueError, "Files", str(path), f".{suffix}", "truncated or of another format"):
        Files(path).load()


def _argument(file):
    return {"images" if file.suffix == ".npz" else "arr": numbered(200, 2, 2)}
