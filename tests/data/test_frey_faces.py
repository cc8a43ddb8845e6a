"""FreyFaces: location and content of the file."""

import numpy as np
import pytest
import torch

from pyro_vae.data import FreyFaces


@pytest.fixture
def faces():
    return np.random.RandomState(0).randint(0, 256, (1965, 28, 20), dtype=np.uint8)


@pytest.mark.parametrize("place", ["FreyFaces/frey_faces.npz", "frey_faces.npz", "renamed.npz"])
def test_file_in_the_folder_or_as_argument(tmp_path, place, faces):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    np.savez(path, images=faces)
    splits = FreyFaces(path if place == "renamed.npz" else tmp_path).load()
    parts = [splits.train, splits.validation, splits.test]
    assert [len(part) for part in parts] == [1565, 200, 200]
    assert [part.max_value for part in parts] == [255] * 3
    assert not splits.train.dynamic
    rows = torch.cat([part.images.flatten(1) for part in parts]).numpy()
    assert sorted(map(bytes, rows)) == sorted(map(bytes, faces.reshape(1965, -1)))


def test_real_file(shared_data):
    splits = FreyFaces(shared_data).load()
    assert splits.data_shape == (1, 28, 20)
    assert 0.5 < float(splits.train.mean().mean()) < 0.7  # grey, in [0, 1]


def test_missing(tmp_path, raises):
    with raises(FileNotFoundError, "FreyFaces", str(tmp_path / "FreyFaces" / "frey_faces.npz"), "frey_rawface.mat"):
        FreyFaces(tmp_path).load()


def test_other_arrays(tmp_path, faces, raises):
    path = tmp_path / "frey_faces.npz"
    np.savez(path, images=faces[:10])
    with raises(ValueError, "FreyFaces", "(10, 28, 20)", str(path)):
        FreyFaces(tmp_path).load()
    np.savez(path, images=faces.astype(np.float32))
    with raises(ValueError, "FreyFaces", "float32"):
        FreyFaces(tmp_path).load()
    np.savez(path, faces=faces)
    with raises(ValueError, "FreyFaces", "keys images", "['faces']"):
        FreyFaces(tmp_path).load()


def test_truncated(tmp_path, faces, raises):
    path = tmp_path / "frey_faces.npz"
    np.savez(path, images=faces)
    path.write_bytes(path.read_bytes()[:1000])
    with raises(ValueError, "FreyFaces", "truncated", str(path)):
        FreyFaces(tmp_path).load()
