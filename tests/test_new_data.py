"""New data are encoded as the training data were; numbers, texts and holes are read without loss."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.sparse import csr_matrix
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from pyro_vae import fit, log_likelihood, vae_for
from pyro_vae.cli.impute import _scale
from pyro_vae.cli.pictures import _encoded
from pyro_vae.data import Files, Splits, load
from pyro_vae.data.inputs import read_inputs
from pyro_vae.data.kinds import Column
from pyro_vae.experiments.assembly import Assembly, assemble
from pyro_vae.experiments.experiment import MODEL_OPTIONS, instantiate, parse_options
from pyro_vae.features import VAETransformer
from pyro_vae.networks import MLP
from pyro_vae.networks.inputs import StandardizedContextNetwork
from pyro_vae.plotting import latent_scatter, save, save_figures

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


def conditional(x: np.ndarray, prior: str, folder: Path) -> Assembly:
    pd.DataFrame(x, columns=["a", "b", "c"]).to_csv(folder / "x.csv", index=False)
    choices = {"data": "Files", "data.root": str(folder / "x.csv"), "data.kind": "real", "data.context": "a"}
    guide = {"prior_guide": "DiagonalNormalGuide"} if prior == "ConditionalPrior" else {}
    names = {"model": "ConditionalVAE", "likelihood": "NormalLikelihood", "prior": prior}
    options = instantiate(parse_options({**choices, **names, **guide}.items()))
    pieces = {name: options[name] for name in MODEL_OPTIONS if name != "m1"}
    assembly = assemble(options["data"](), torch.device("cpu"), **pieces, m1=None)
    assembly.vae.likelihood.initialise_mean(assembly.splits.train.mean())
    return assembly


@pytest.mark.parametrize("prior", ["StandardNormalPrior", "ConditionalPrior"])
def test_conditional_models_are_standardized_with_their_contexts(prior: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    unit = [500, 3e-3, 10]
    first, second = conditional(x, prior, tmp_path), conditional(x * unit + [1e4, 0, 2], prior, tmp_path)
    assert second.protocol["standardize"] == "data and context"
    p, q = (
        log_likelihood(a.vae.model, a.vae.guide, a.splits.test.batch(slice(None)), num_samples=3)
        for a in (first, second)
    )
    torch.testing.assert_close(q.log_likelihood + np.log(unit[1:]).sum(), p.log_likelihood, rtol=0, atol=1e-6)


def test_a_context_of_several_kinds_is_one_hot_and_logarithmic() -> None:
    kinds = [("count", 0), ("category", 3), ("real", 0)]
    net = StandardizedContextNetwork((2,), (4,), context_shape=(3,), kinds=kinds, net=MLP)
    c = torch.tensor([[0.0, 2.0, 5.0], [7.0, 0.0, 9.0], [3.0, 1.0, 7.0]])
    net.context.initialise([c])
    logs, numbers = c[:, 0].log1p(), c[:, 2]
    columns = [(logs - logs.mean()) / logs.std(correction=0), *torch.eye(3)[c[:, 1].long()].T]
    expected = torch.stack([*columns, (numbers - 7) / numbers.std(correction=0)], -1)
    z = torch.randn(3, 2)
    torch.testing.assert_close(net(z, c), net.net(z, expected))


def test_a_tuple_is_data_with_labels() -> None:
    data = load((COUNTS, ["b", "a"] * 4))
    assert (data.kind, data.classes, len(data)) == ("counts", ("a", "b"), 8)
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0] * 4
    with pytest.raises(
        ValueError, match=r"^load: labels must be 8 integers, one per image, got int64 of shape=\(8, 4\)"
    ):
        load((COUNTS, COUNTS))
    with pytest.raises(ValueError, match=r"^load: a tuple must be \(data, labels\), got 3 parts"):
        load((COUNTS, COUNTS, COUNTS))


def test_texts_called_none_are_levels_and_holes_those_of_pandas(tmp_path: Path) -> None:
    cells = ["none", "mild", "NA", "none", "", "mild"] * 4
    numbers = ["1.5", "none", "2.5", "N/a", "3.5", "4.5"] * 4
    (tmp_path / "x.csv").write_text("pain,v\n" + "".join(f"{c},{v}\n" for c, v in zip(cells, numbers, strict=True)))
    data = load(tmp_path / "x.csv")
    assert data.columns == (Column("pain", "binary", ("mild", "none")), Column("v", "real"))
    assert data.images[:6].isnan().T.int().tolist() == [[0, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 0]]


@pytest.mark.parametrize(
    ("values", "kind", "column"),
    [
        (np.arange(1212).reshape(12, 101) % 7, "counts", Column("p3", "count")),
        (np.arange(1212).reshape(12, 101) % 2, "binary", Column("p3", "binary", ("0", "1"))),
        (np.arange(1212).reshape(12, 101) % 256, "grey", Column("p3", "real")),
        (np.linspace(-1, 1, 1212).reshape(12, 101), "real", Column("p3", "real")),
    ],
)
def test_wide_tables_keep_their_names(values: np.ndarray, kind: str, column: Column, tmp_path: Path) -> None:
    table = pd.DataFrame(values, columns=[f"p{i}" for i in range(101)])
    table.to_csv(tmp_path / "x.csv", index=False)
    data = load(tmp_path / "x.csv")
    assert (data.kind, data.columns[3]) == (kind, column)
    assert torch.equal(load(table.iloc[:, ::-1], like=data).images, data.images)
    assert vae_for(data, 2, standardize=True).likelihood.data_shape == (101,)


def test_dark_folders_are_read_as_their_files(tmp_path: Path) -> None:
    dark = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    for i, image in enumerate(dark):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    data = load(tmp_path)
    assert (data.kind, data.max_value) == ("grey", 255)
    options = {"owner": "images", "data_shape": (1, 4, 4), "binarization": "none", "max_value": 255, "kind": "grey"}
    (entry,) = read_inputs([tmp_path / "2.png"], **options)
    assert torch.equal(entry.images.batch([0]), data.batch([2]))
    lazy = Files(tmp_path, in_memory=False, test=1, validation=1).load()
    assert lazy.max_value == 255


def test_files_for_models_of_counts_and_real_numbers_keep_their_units(tmp_path: Path) -> None:
    options = {"owner": "images", "data_shape": (4,), "binarization": "none", "max_value": 1}
    np.save(tmp_path / "x.npy", COUNTS * 1000)
    for kind in ("counts", "real"):
        (entry,) = read_inputs([tmp_path / "x.npy"], kind=kind, **options)
        assert torch.equal(entry.images.batch(slice(None)), torch.tensor(COUNTS * 1000).double())
    np.save(tmp_path / "x.npy", COUNTS / 2)
    with pytest.raises(ValueError, match=r"must be whole numbers from 0 on to be counts"):
        read_inputs([tmp_path / "x.npy"], kind="counts", **options)
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    options["data_shape"] = (1, 4, 4)
    (entry,) = read_inputs([tmp_path / "x.png"], kind="counts", **options)
    assert entry.images.batch([0]).flatten().tolist() == list(range(16))


def test_evaluations_refuse_codes_that_the_file_alone_determines(tmp_path: Path) -> None:
    FEW.to_csv(tmp_path / "few.csv", index=False)
    train = load(CITIES)
    vae = vae_for(train, 2)
    rule = (
        "^log_likelihood: data with categories or few grey levels must be read as the training data were, got column 'c"
    )
    with pytest.raises(ValueError, match=rule):
        log_likelihood(vae.model, vae.guide, tmp_path / "few.csv", num_samples=2)
    new = load(tmp_path / "few.csv", like=train)
    assert len(log_likelihood(vae.model, vae.guide, new, num_samples=2)) == len(FEW)
    grey = vae_for(load(BYTES), 2)
    np.save(tmp_path / "dark.npy", BYTES[:4].numpy())
    with pytest.raises(ValueError, match=r"got levels 0 to 63\. Pass load\(data, like=train\)"):
        log_likelihood(grey.model, grey.guide, tmp_path / "dark.npy", num_samples=2)


def test_validation_data_are_encoded_as_the_training_data(tmp_path: Path) -> None:
    CITIES.to_csv(tmp_path / "train.csv", index=False)
    FEW.to_csv(tmp_path / "few.csv", index=False)
    vae = vae_for(load(CITIES), 2)
    files = tmp_path / "train.csv", tmp_path / "few.csv"
    sets = load(CITIES), load(FEW, like=load(CITIES))
    histories = []
    for train, validation in (files, sets):
        fresh = copy.deepcopy(vae)
        options = {"epochs": 1, "batch_size": 20, "engine": "eager", "validation": validation}
        histories.append(fit(fresh.model, fresh.guide, train, **options).history[-1]["validation_elbo"])
    assert histories[0] == histories[1]


@pytest.mark.usefixtures("single_precision")
def test_figures_name_classes_as_folders_do(tmp_path: Path) -> None:
    labels = torch.arange(16) % 2
    figure = latent_scatter(torch.randn(16, 2), labels, names=["cat", "dog"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cat", "dog"]
    with pytest.raises(ValueError, match=r"^latent_scatter: every class must have a name"):
        latent_scatter(torch.randn(16, 2), labels, names=["cat"])
    seen = []
    data = load((BYTES.flatten(1), np.array(["cat", "dog"])[labels]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(save, "latent_scatter", lambda *args, names, caption: seen.append(names) or figure)
        save_figures(tmp_path, vae_for(data, 2), Splits(data, None, data, {}), [])
    assert seen == [["cat", "dog"]]


@pytest.mark.parametrize("shape", [(3, 20), (3, 2, 4, 4)])
def test_tables_are_no_pictures(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^--out: data of a png must be images .* Use --out FILE\.npz"):
        _encoded({"images": torch.zeros(shape)}, lambda: pytest.fail("drawn"), ".png")
    assert _encoded({"images": torch.zeros(shape)}, lambda: pytest.fail("drawn"), ".npz")
