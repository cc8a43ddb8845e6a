"""The contract of every data set: splits, seeds, protocol, imports."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch

import pyro_vae.data
from pyro_vae.data import MNIST, Dataset, Digits, Faces, FashionMNIST, Files, FreyFaces, Patches, Splits
from pyro_vae.data.base import RawArrays
from pyro_vae.data.binarization import PROTOCOLS


class Numbered(Dataset):
    """Images that carry their own number, so that splits can be read off them."""

    def raw(self):
        train = torch.arange(30, dtype=torch.uint8).reshape(30, 1, 1, 1).expand(30, 1, 2, 2)
        return RawArrays(train, torch.arange(30), train[:4] + 200, None, 255)


def numbers(images):
    return images.images[:, 0, 0, 0].tolist()


CLASSES = (Digits, Faces, FashionMNIST, Files, FreyFaces, MNIST, Patches)


@pytest.fixture(params=CLASSES, ids=lambda c: c.__name__)
def data_set(request, tmp_path):
    """``data_set(**options)`` for every class of the package, on its real data where there are any."""
    cls = request.param
    if cls is Files:
        np.savez(tmp_path / "mine.npz", images=np.random.RandomState(0).randint(0, 256, (60, 4, 5)))
        return lambda **options: Files(tmp_path / "mine.npz", **options)
    if cls in (Faces, Patches):
        return lambda **options: cls(count=60, **options)
    root = None if cls is Digits else str(request.getfixturevalue("shared_data"))
    return lambda **options: cls(root, **options)


SIZES = {"Digits": (1350, 150, 297), "Files": (42, 8, 10), "FreyFaces": (1565, 200, 200)}
SIZES["MNIST"] = SIZES["FashionMNIST"] = (50000, 10000, 10000)
SIZES["Faces"] = SIZES["Patches"] = (42, 8, 10)
DATA_SHAPES = {"Digits": (1, 8, 8), "Files": (1, 4, 5), "FreyFaces": (1, 28, 20), "MNIST": (1, 28, 28)}
DATA_SHAPES |= {"Faces": (1, 32, 32), "FashionMNIST": (1, 28, 28), "Patches": (3, 32, 32)}


def test_splits_shapes_and_protocol(data_set, untouched):
    with untouched():
        splits = data_set(seed=5).load()
    name = splits.protocol["dataset"]
    assert name == type(data_set()).__name__
    sizes = (len(splits.train), len(splits.validation), len(splits.test))
    assert sizes == SIZES[name]
    assert splits.data_shape == splits.validation.data_shape == splits.test.data_shape == DATA_SHAPES[name]
    kinds = {"Files": "grey", "Faces": "grey", "Patches": "colour"}
    kind = {"kind": kinds[name], "standardize": "no"} if name in kinds else {}
    assert splits.protocol == {
        "dataset": name,
        "binarize": data_set().binarize,
        "data_seed": 5,
        **dict(zip(("train", "validation", "test"), sizes, strict=True)),
        **kind,
    }
    for part in (splits.train, splits.validation, splits.test):
        assert part.batch([0, 1]).shape == (2, *splits.data_shape)
        assert part.labels is None or len(part.labels) == len(part)


def test_test_images_are_the_same_for_every_seed(data_set):
    a, b = (data_set(seed=seed, binarize="none").load() for seed in (0, 1))
    assert torch.equal(a.test.images, b.test.images)
    assert not torch.equal(a.validation.images, b.validation.images)


def test_one_constructor():
    for cls in (Dataset, *CLASSES):
        parameters = inspect.signature(cls).parameters
        assert list(parameters)[:4] == ["root", "binarize", "validation", "seed"]
        assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[1:])
        assert parameters["root"].default is None
        assert parameters["seed"].default == 0
    assert inspect.signature(FreyFaces).parameters["binarize"].default == "none"
    assert inspect.signature(MNIST).parameters["binarize"].default == "dynamic"


def test_only_raw_is_abstract_and_no_concrete_method_is_overridden():
    assert Dataset.__abstractmethods__ == {"raw"}
    concrete = {n for n, v in vars(Dataset).items() if inspect.isfunction(v)} - {"raw", "__init__"}
    for cls in CLASSES:
        assert concrete & set(vars(cls)) == set()


def test_validation_is_a_seeded_part_of_the_training_images():
    a, same, b = (Numbered(validation=8, seed=seed, binarize="none").load() for seed in (0, 0, 1))
    assert sorted(numbers(a.train) + numbers(a.validation)) == list(range(30))
    assert len(a.validation) == 8
    assert numbers(a.validation) == numbers(same.validation) != numbers(b.validation)
    assert a.train.labels.tolist() == numbers(a.train)
    assert a.validation.labels.tolist() == numbers(a.validation)
    assert numbers(a.test) == [200, 201, 202, 203]
    assert a.test.labels is None


def test_no_validation():
    splits = Numbered(validation=0).load()
    assert splits.validation is None
    assert len(splits.train) == 30
    assert splits.protocol["validation"] == 0
    assert splits.to("cpu").validation is None


def test_default_validation_is_a_sixth():
    assert len(Numbered().load().validation) == 5


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_load_follows_the_protocol_in_every_part(protocol):
    splits = Numbered(binarize=protocol, validation=5).load()
    parts = [splits.train, splits.validation, splits.test]
    binary = {"dynamic": [255, 1, 1], "fixed": [1, 1, 1], "threshold": [1, 1, 1], "none": [255, 255, 255]}
    assert [part.max_value for part in parts] == binary[protocol]
    assert [part.dynamic for part in parts] == [protocol == "dynamic", False, False]
    assert splits.protocol["binarize"] == protocol


def test_load_is_reproducible_and_does_not_change_the_random_state(untouched):
    torch.manual_seed(0)
    with untouched():
        a = Digits(seed=2, binarize="fixed").load()
    torch.manual_seed(1)
    b = Digits(seed=2, binarize="fixed").load()
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(a, part).images, getattr(b, part).images)
        assert torch.equal(getattr(a, part).labels, getattr(b, part).labels)


def test_splits_move():
    splits = Numbered(validation=5).load()
    moved = splits.to("cpu")
    assert isinstance(moved, Splits)
    assert moved.protocol == splits.protocol
    assert numbers(moved.train) == numbers(splits.train)
    assert torch.equal(moved.validation.images, splits.validation.images)
    assert torch.equal(moved.test.images, splits.test.images)


@pytest.mark.parametrize("validation", [30, 31])
def test_raises_on_a_validation_as_large_as_the_training_part(validation, raises):
    with raises(ValueError, "Numbered", "30 training images", f"validation={validation}"):
        Numbered(validation=validation).load()


def test_raises_on_a_wrong_constructor(raises):
    with raises(ValueError, "Numbered", "validation=-1"):
        Numbered(validation=-1)
    with raises(ValueError, "Numbered", "'dynamic', 'fixed', 'threshold', 'none'", "'static'"):
        Numbered(binarize="static")


def test_public_names():
    others = {"Column", "Dataset", "ImageSet", "Splits", "load"}
    assert set(pyro_vae.data.__all__) == {cls.__name__ for cls in CLASSES} | others
    assert all(hasattr(pyro_vae.data, name) for name in pyro_vae.data.__all__)


def test_import_is_light_and_changes_no_global_state():
    program = (
        "import sys, torch\n"
        "state = torch.get_rng_state()\n"
        "threads, dtype = torch.get_num_threads(), torch.get_default_dtype()\n"
        "before = set(sys.modules)\n"
        "import pyro_vae.data.files, pyro_vae.data\n"
        "assert torch.equal(state, torch.get_rng_state())\n"
        "assert (threads, dtype) == (torch.get_num_threads(), torch.get_default_dtype())\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "assert not new & {'torchvision', 'sklearn', 'PIL'}, new\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
