"""The kind of data is the one that an expert would name, for arrays, columns and five typical data sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_vae.data import Column, Files, load
from pyro_vae.data.kinds import DataKind, converted, default_likelihood, kind_of, parts_of
from tests.data import kinds_of_data as typical

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (40, 5, 6))
FIFTHS = RNG.integers(0, 6, (40, 5, 6)) / 5

KINDS: dict[str, tuple[np.ndarray, DataKind]] = {
    "flags": (RNG.random((9, 4)) < 0.5, "binary"),
    "zeros and ones as floats": (RNG.integers(0, 2, (9, 4)).astype(float), "binary"),
    "bytes": (BYTES.astype(np.uint8), "grey"),
    "bytes as int64": (BYTES, "grey"),
    "bytes as floats": (BYTES.astype(np.float32), "grey"),
    "bytes / 255": (BYTES.astype(np.float32) / 255, "grey"),
    "bytes / 255 as vectors": (BYTES.reshape(40, 30) / 255, "grey"),
    "vectors of bytes": (BYTES.reshape(40, 30), "grey"),
    "dark vectors of bytes": (BYTES.reshape(40, 30).astype(np.uint8) // 2 + 20, "grey"),
    "17 grey levels": (RNG.integers(0, 17, (9, 8, 8)).astype(float), "grey"),
    "colours": (RNG.integers(0, 256, (9, 3, 4, 4), dtype=np.uint8), "colour"),
    "colours / 255": (RNG.integers(0, 256, (9, 3, 4, 4)) / 255, "colour"),
    "fifths": (FIFTHS, "fractions"),
    "images in [0, 1]": (RNG.random((9, 4, 4)), "fractions"),
    "images of 16 bits": (RNG.integers(0, 4096, (9, 4, 4), dtype=np.uint16), "fractions"),
    "vectors in [0, 1]": (RNG.random((9, 4)), "real"),
    "floats": (RNG.normal(size=(9, 4)), "real"),
    "negative integers": (RNG.integers(-5, 5, (9, 4)), "real"),
    "counts": (RNG.poisson(3, (9, 4)), "counts"),
    "counts as floats": (RNG.poisson(3, (9, 4)).astype(np.float32), "counts"),
    "counts as bytes": (RNG.poisson(3, (9, 4)).astype(np.uint8), "counts"),
    "images of counts": (RNG.poisson(400, (9, 4, 4)), "counts"),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("holes", [False, True])
def test_kinds_of_arrays(name: str, holes: bool) -> None:
    array, kind = KINDS[name]
    if holes:
        array = array.astype(array.dtype if array.dtype.kind == "f" else np.float64)
        array[2, 1] = np.nan
        if name in ("images of 16 bits", "dark vectors of bytes"):
            kind = "counts"  # the dtype is lost
    assert kind_of(array) == kind


@pytest.mark.parametrize("name", KINDS)
def test_values_of_the_model_are_the_data_in_the_units_of_their_kind(name: str) -> None:
    array, kind = KINDS[name]
    data = load(array)
    assert data.kind == kind
    x = data.batch(slice(None)).reshape(array.shape)
    unit = {"grey": data.max_value, "colour": 255, "fractions": 65535}.get(kind, 1)
    unit = 1 if array.dtype.kind == "f" and array.max() <= 1 else unit
    assert (x - torch.from_numpy(array.astype(float)) / unit).abs().max() < 1e-6
    assert data.max_value == (16 if name == "17 grey levels" else 255 if kind in ("grey", "colour") else 1)


def test_five_typical_data_sets(tmp_path) -> None:
    np.savez(tmp_path / "scans.npz", images=typical.scans())
    np.save(tmp_path / "spectra.npy", typical.spectra())
    np.savez(tmp_path / "counts.npz", x=typical.counts())
    sources = {
        typical.photographs(tmp_path / "photos"): ("MixtureOfLogisticsLikelihood", {"levels": 256}, False),
        tmp_path / "scans.npz": ("DiscretizedLogisticLikelihood", {"levels": 256}, False),
        tmp_path / "spectra.npy": ("NormalLikelihood", {"scale": "pixel"}, True),
        tmp_path / "counts.npz": ("NegativeBinomialLikelihood", {}, True),
        typical.survey(tmp_path / "survey.csv"): ("MixedLikelihood", {}, True),
    }
    for path, (name, values, standardize) in sources.items():
        arguments, likelihood, _ = Files(path).defaults()
        assert likelihood == (name, values)
        assert arguments["standardize"] is standardize
        splits = Files(path).load()
        assert not splits.train.dynamic
        assert splits.protocol["binarize"] == "none"
        assert splits.protocol["standardize"] == ("yes" if standardize else "no")
        assert splits.protocol["kind"] == (
            "2 real, 1 count, 1 ordinal, 2 binary, 1 category" if name == "MixedLikelihood" else arguments["kind"]
        )
        again = Files(path, **arguments).load()  # what was detected, given explicitly
        assert again.fingerprints == splits.fingerprints


def test_binarized_data_get_a_bernoulli_likelihood(tmp_path) -> None:
    np.savez(tmp_path / "scans.npz", images=typical.scans())
    assert Files(tmp_path / "scans.npz", binarize="dynamic").defaults()[1] == ("BernoulliLikelihood", {})


def test_columns_of_a_survey(tmp_path) -> None:
    data = load(typical.survey(tmp_path / "survey.csv", missing=0.05))
    assert [(c.name, c.kind, c.levels) for c in data.columns] == [
        ("age", "real", ()),
        ("income", "real", ()),
        ("children", "count", ()),
        ("satisfaction", "ordinal", ("1", "2", "3", "4", "5")),
        ("sex", "binary", ("f", "m")),
        ("region", "category", ("east", "north", "south")),
        ("smoker", "binary", ("0", "1")),
    ]
    assert data.missing
    assert 0 < int(data.images.isnan().sum()) < 120
    assert data.images[:, 5].nan_to_num().max() == 2
    parts = parts_of(data.columns)
    assert sorted(i for positions, _, _ in parts for i in positions) == list(range(7))
    assert ([4, 6], "BernoulliLikelihood", {}) in parts
    assert ([5], "CategoricalLikelihood", {"levels": 3, "codes": True}) in parts
    assert ([3], "OrdinalLikelihood", {"levels": 5}) in parts


def test_a_column_that_numbers_the_rows_is_named_unless_its_kind_is_chosen(tmp_path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("id,height\n" + "".join(f"{i},{float(h)}\n" for i, h in enumerate(RNG.normal(size=30), 1)))
    with pytest.warns(UserWarning, match=r"column 'id' numbers the rows; omit it: drop=\['id'\] \(train: --data.drop"):
        load(path)
    for options in ({"drop": ["id"]}, {"kinds": {"id": "real"}}):
        load(path, **options)
    load(path, like=load(path, kinds={"id": "real"}))


def test_kinds_of_columns_can_be_chosen(tmp_path) -> None:
    path = typical.survey(tmp_path / "survey.csv")
    data = load(path, kinds={"children": "category", "satisfaction": "real"}, drop=["sex"], label="region")
    kinds = {column.name: column.kind for column in data.columns}
    assert "sex" not in kinds
    assert "region" not in kinds
    assert (kinds["children"], kinds["satisfaction"], kinds["age"]) == ("category", "real", "real")
    assert data.classes == ("east", "north", "south")
    assert data.labels is not None
    assert set(data.labels.tolist()) == {0, 1, 2}
    positions = load(path, kinds=["real"] * 4 + ["binary", "category", "binary"])
    assert [column.kind for column in positions.columns][2:4] == ["real", "real"]


def test_default_likelihoods_are_classes_that_take_these_arguments() -> None:
    from pyro_vae import likelihoods

    for kind in ("binary", "grey", "colour", "fractions", "real", "counts"):
        name, arguments = default_likelihood(kind, 7)
        shape = (3, 4, 4) if kind == "colour" else (4,)
        assert getattr(likelihoods, name)(2, shape, **arguments).data_shape == shape
    everything = tuple(Column(kind, kind, ("a", "b")) for kind in ("real", "count", "binary", "ordinal", "category"))
    for positions, name, arguments in parts_of(everything):
        assert getattr(likelihoods, name)(2, (len(positions),), **arguments)


@pytest.mark.parametrize(
    ("array", "kind", "words"),
    [
        (np.array([[0.5, 2.0]]), "counts", "whole numbers from 0 on"),
        (np.array([[-1, 2]]), "counts", "from -1 to 2"),
        (np.array([[0, 2]]), "binary", "0 or 1"),
        (np.array([[0.5, 2.0]]), "grey", "whole numbers in 0..255"),
        (np.array([[0.503, 0.1]]), "grey", "k / 255"),
        (np.array([[0.5, 2.0]]), "fractions", "[0, 1]"),
    ],
)
def test_a_kind_that_does_not_fit_is_refused(array: np.ndarray, kind: DataKind, words: str, raises) -> None:
    with raises(ValueError, "load", words):
        converted(array, kind, owner="load", name="the array")
