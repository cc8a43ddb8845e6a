"""MNIST and Fashion-MNIST: the real copies, and damaged, missing or exchanged files."""

import struct
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from pyro_vae.data import MNIST, FashionMNIST


@pytest.fixture
def no_network(monkeypatch):
    """torchvision's download fails as it does offline, and counts its calls."""
    calls = []

    def download(self):
        calls.append(self.root)
        print("Downloading http://somewhere")
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried http://somewhere, got:\nno route\n")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    return calls


@pytest.fixture
def small(tmp_path, no_network):
    """A small copy in torchvision's layout: 12 training and 5 test images."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.RandomState(0)
    for name, count in (("train", 12), ("t10k", 5)):
        images = struct.pack(">IIII", 2051, count, 28, 28) + pixels.bytes(count * 28 * 28)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(images)
        labels = struct.pack(">II", 2049, count) + bytes(range(count))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(labels)
    return tmp_path


def test_real_copy(shared_data, no_network):
    splits = MNIST(str(shared_data), binarize="none").load()
    assert no_network == []
    assert splits.train.max_value == 255
    assert splits.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert abs(float(splits.train.mean().mean()) - 0.1307) < 1e-3
    assert torch.bincount(splits.test.labels).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]


def test_small_copy_is_read_without_a_download(small, no_network):
    splits = MNIST(small, validation=2, binarize="none").load()
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (10, 2, 5)
    assert splits.test.labels.tolist() == [0, 1, 2, 3, 4]
    file = (small / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()
    assert bytes(splits.test.images.flatten().tolist()) == file[16:]
    assert no_network == []


def test_a_read_only_copy_is_enough(small):
    raw = small / "MNIST" / "raw"
    for path in (*raw.iterdir(), raw, raw.parent, small):
        path.chmod(0o555)
    try:
        before = sorted(raw.iterdir())
        assert len(MNIST(small, validation=0).load().train) == 12
        assert sorted(raw.iterdir()) == before
    finally:
        for path in (small, raw.parent, raw):
            path.chmod(0o755)


FILES = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["empty", "short head", "short", "long", "magic"])
def test_damaged_files(small, no_network, name, damage, raises):
    path = small / "MNIST" / "raw" / name
    whole = path.read_bytes()
    damaged = {
        "empty": b"",
        "short head": whole[:3],
        "short": whole[:-1],
        "long": whole + b"\0",
        "magic": b"\x1f\x8b\x08\0" + whole[4:],
    }
    path.write_bytes(damaged[damage])
    with raises(ValueError, "MNIST", str(path), "truncated", "Delete it"):
        MNIST(small, validation=0).load()
    assert no_network == []


def test_missing_file_and_no_network(small, no_network, capfd, raises):
    (small / "MNIST" / "raw" / FILES[2]).unlink()
    with raises(FileNotFoundError, "MNIST", str(small / "MNIST" / "raw"), FILES[2], "Put the four files"):
        MNIST(small, validation=0).load()
    assert len(no_network) == 1
    assert capfd.readouterr() == ("", "")


def test_no_folder_and_no_network(tmp_path, monkeypatch, raises):
    def download(self):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    monkeypatch.chdir(tmp_path)
    with raises(FileNotFoundError, "MNIST", "data/MNIST/raw", "Name or service not known"):
        MNIST().load()


def test_missing_files_are_downloaded_quietly(small, tmp_path_factory, monkeypatch, capfd):
    target = tmp_path_factory.mktemp("download")

    def download(self):
        print("100%")
        (target / "MNIST").symlink_to(small / "MNIST")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    assert len(MNIST(target, validation=0).load().test) == 5
    assert capfd.readouterr() == ("", "")


def test_labels_of_another_length(small, raises):
    path = small / "MNIST" / "raw" / FILES[3]
    path.write_bytes(struct.pack(">II", 2049, 4) + bytes(4))
    with raises(ValueError, "MNIST", "t10k-images-idx3-ubyte", "must have as many images as labels", "5 and 4"):
        MNIST(small, validation=0).load()


def test_real_copy_of_fashion(shared_data, no_network):
    splits = FashionMNIST(shared_data).load()
    assert no_network == []
    assert splits.train.max_value == splits.test.max_value == 255
    assert abs(float(splits.train.mean().mean()) - 0.2860) < 1e-3
    assert torch.bincount(splits.test.labels).tolist() == [1000] * 10
    assert splits.test.labels[:5].tolist() == [9, 2, 1, 1, 6]


@pytest.mark.parametrize(("cls", "other"), [(MNIST, "FashionMNIST"), (FashionMNIST, "MNIST")])
def test_exchanged_files(cls, other, shared_data, tmp_path, raises):
    (tmp_path / cls.__name__).symlink_to(shared_data / other)
    with raises(ValueError, cls.__name__, f"the files must be those of {cls.__name__}", "other train images"):
        cls(tmp_path).load()
