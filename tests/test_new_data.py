"""New data are encoded as the training data were; numbers, texts and holes are read without loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from pyro_vae import vae_for
from pyro_vae.cli.impute import _scale
from pyro_vae.data import load
from pyro_vae.data.inputs import read_inputs
from pyro_vae.data.kinds import Column
from pyro_vae.experiments.assembly import assemble
from pyro_vae.experiments.experiment import MODEL_OPTIONS, instantiate, parse_options
from pyro_vae.features import VAETransformer
from pyro_vae.networks.inputs import InputNetwork

CITIES = pd.DataFrame({"city": ["a", "b", "c"] * 20, "v": np.linspace(-3, 3, 60), "sex": ["f", "m"] * 30})
FEW = CITIES[CITIES.city != "a"].reset_index(drop=True)
BYTES = torch.arange(256, dtype=torch.uint8).reshape(16, 4, 4)
COUNTS = np.arange(32).reshape(8, 4) * 9 % 200


def test_a_set_like_another_has_its_levels_classes_kind_and_scale(tmp_path: Path) -> None:
    train = load(CITIES, label="sex")
    data = load(FEW[FEW.sex == "m"], label="sex", like=train)
    assert data.columns == train.columns
    assert data.classes == train.classes == ("f", "m")
    assert data.images[:, 0].tolist() == [" abc".index(c) - 1 for c in FEW[FEW.sex == "m"].city]
    assert data.labels is not None
    assert data.labels.tolist() == [1] * len(data)
    grey = load(BYTES)
    assert torch.equal(load(BYTES[:4], like=grey).batch(slice(None)), grey.batch(slice(4)))
    with pytest.raises(ValueError, match=r"column 'city' must hold the levels .* got 'd'"):
        load(CITIES.replace("a", "d"), label="sex", like=train)
    with pytest.raises(ValueError, match="column 'sex' must hold the levels of the training data"):
        load(CITIES.replace("f", "x"), label="sex", like=train)
    with pytest.raises(ValueError, match="like determines the kind"):
        load(BYTES, like=grey, kind="counts")


def fitted(data: object) -> VAETransformer:
    return VAETransformer(2, vae=vae_for(load(data), 2)).fit(data)


def test_the_transformer_encodes_files_and_data_sets_as_in_fit(tmp_path: Path) -> None:
    CITIES.to_csv(tmp_path / "train.csv", index=False)
    FEW.to_csv(tmp_path / "few.csv", index=False)
    transformer = fitted(tmp_path / "train.csv")
    whole = transformer.transform(tmp_path / "train.csv")[CITIES.city != "a"]
    assert np.abs(transformer.transform(tmp_path / "few.csv") - whole).max() < 1e-5
    images = fitted(TensorDataset(BYTES))
    dark = images.transform(TensorDataset(BYTES[:4]))  # alone they would be levels of 63
    assert np.abs(dark - images.transform(TensorDataset(BYTES))[:4]).max() < 1e-5
    counts = fitted(csr_matrix(COUNTS))
    large = np.concatenate([COUNTS, np.full((1, 4), 255)])  # alone they would be grey levels
    assert np.abs(counts.transform(csr_matrix(large))[:-1] - counts.transform(csr_matrix(COUNTS))).max() < 1e-5


def test_a_transformer_of_arrays_gets_no_codes(tmp_path: Path) -> None:
    table = pd.DataFrame({"answer": [1.0, 2.0, 3.0] * 8, "v": np.linspace(0, 1, 24)})
    table.to_csv(tmp_path / "x.csv", index=False)
    transformer = VAETransformer(2, epochs=1).fit(table.to_numpy())
    with pytest.raises(ValueError, match="X must be of the type of the training data"):
        transformer.transform(tmp_path / "x.csv")  # whose answers have the codes 0, 1, 2


def test_long_numbers_remain_distinct() -> None:
    table = pd.DataFrame({"zip": [1234567, 1234568, 1234569] * 4, "v": np.linspace(0, 1, 12)})
    names = "1234567", "1234568", "1234569"
    assert load(table, kinds={"zip": "category"}).columns[0] == Column("zip", "category", names)
    data = load(table, label="zip")
    assert data.classes == names
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2] * 4


@pytest.mark.parametrize(
    ("text", "names", "first"),
    [
        ("1.5,,3\n2.5,4,1.5\n", ["column0", "column1", "column2"], [1.5, np.nan, 3.0]),
        (",0,1\n0,4.5,1.5\n1,2.5,3.5\n", ["0", "1"], [4.5, 1.5]),
    ],
)
def test_a_first_line_with_holes_is_data(text: str, names: list[str], first: list[float], tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(text)
    data = load(tmp_path / "x.csv")
    assert [column.name for column in data.columns] == names
    np.testing.assert_array_equal(data.images[0], first)


def test_texts_are_not_numbers_and_objects_are(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("id,v\n" + "".join(f"{i % 2}_{i % 3},{i / 7}\n" for i in range(30)))
    assert load(tmp_path / "x.csv").columns[0].kind == "category"  # Python reads 1_2 as 12
    values = pd.Series([0.5, 10, 2] * 4, dtype=object)
    assert load(pd.DataFrame({"a": values})).images.flatten().tolist() == [0.5, 10, 2] * 4
    with pytest.raises(ValueError, match="column 'a' must hold numbers to be real, got 'x'"):
        load(pd.DataFrame({"a": ["x", "y"] * 9}), kinds={"a": "real"})


def test_images_with_holes_keep_their_kind_and_levels() -> None:
    pixels = np.arange(256.0).reshape(16, 4, 4)
    pixels[3, 1, 2] = np.nan
    data = load(pixels)
    assert (data.kind, data.max_value) == ("grey", 255)
    assert vae_for(data, 2).likelihood.levels == 256
    assert data.batch([15]).max() == 1
    fractions = load(pixels / 255.5)
    assert fractions.kind == "fractions"
    assert fractions.missing


def test_a_loader_of_a_part_is_not_the_whole() -> None:
    data = TensorDataset(torch.zeros(10, 4))
    with pytest.raises(ValueError, match="must iterate over all data, got a SubsetRandomSampler"):
        load(DataLoader(data, sampler=SubsetRandomSampler([0, 1])))


def test_grey_levels_as_floating_numbers_are_those_of_the_training(tmp_path: Path) -> None:
    options = {"owner": "images", "data_shape": (1, 4, 4), "binarization": "none"}
    for name, array in [("bytes", BYTES.numpy()), ("floats", BYTES.numpy().astype(float))]:
        np.save(tmp_path / f"{name}.npy", array)
    paths = [tmp_path / "bytes.npy", tmp_path / "floats.npy"]
    first, second = (part.images.batch(slice(None)) for part in read_inputs(paths, max_value=255, **options))
    assert torch.allclose(first, second)
    np.save(tmp_path / "x.npy", BYTES.numpy() / 2)
    with pytest.raises(ValueError, match="floating grey levels must be whole"):
        read_inputs([tmp_path / "x.npy"], max_value=255, **options)
    assert [_scale(np.array([np.nan, high]), 255) for high in (7.0, 1.0)] == [255, 1]
    assert _scale(np.array([7.0]), 1) == 1  # counts and real numbers


@pytest.mark.parametrize("prior", ["StandardNormalPrior", "ConditionalPrior"])
def test_conditional_models_are_standardized(prior: str, tmp_path: Path) -> None:
    x = np.linspace(-1, 1, 60)[:, None] * [500, 3e-3, 1] + [1e4, 0, 2]
    pd.DataFrame(x, columns=["a", "b", "c"]).to_csv(tmp_path / "x.csv", index=False)
    choices = {"data": "Files", "data.root": str(tmp_path / "x.csv"), "data.kind": "real", "data.context": "a"}
    guide = {"prior_guide": "DiagonalNormalGuide"} if prior == "ConditionalPrior" else {}
    names = {"model": "ConditionalVAE", "likelihood": "NormalLikelihood", "prior": prior}
    options = instantiate(parse_options({**choices, **names, **guide}.items()))
    assembly = assemble(
        options["data"](),
        torch.device("cpu"),
        **{name: options[name] for name in MODEL_OPTIONS if name != "m1"},
        m1=None,
    )
    train, vae = assembly.splits.train.images, assembly.vae
    assert assembly.protocol["standardize"] == "yes"
    assert torch.allclose(vae.likelihood.unit, train.std(0, correction=0).to(vae.likelihood.unit))
    of_data, *of_context = [module for module in reversed(list(vae.modules())) if isinstance(module, InputNetwork)]
    assert torch.allclose(of_data.loc, train.mean(0).to(of_data.loc))
    for module in of_context:
        assert torch.allclose(module.loc, vae.given(train).mean(0).to(module.loc))
    assert len(of_context) == len(guide)
