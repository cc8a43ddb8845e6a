"""``load`` takes thirty kinds of input, good ones right and bad ones with the remedy in one line."""

from __future__ import annotations

import io
import sys
from decimal import Decimal

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pyro_vae.data import Column, Files, ImageSet, files, load, sources
from tests.data import kinds_of_data as typical

pandas = pytest.importorskip("pandas")  # of the test requirements, by arviz
sparse = pytest.importorskip("scipy.sparse")
X = np.arange(24).reshape(12, 2)
LABELS = np.arange(12) % 3


class AnnData:
    """As that of anndata: ``X`` holds the counts, cells by genes, and ``obs`` a table of the cells."""

    def __init__(self, X, names=("g0", "g1")):
        self.X, self.var_names, self.obs = X, list(names), frame(cell=["b", "a"] * (X.shape[0] // 2))


class Stream(IterableDataset):
    def __iter__(self):
        return ((torch.tensor([float(i), 0.5]), i % 3) for i in range(12))


class Pictures:
    """Like torchvision's ImageFolder: Pillow's images with classes."""

    classes = ["cat", "dog"]

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return Image.new("RGB", (8, 9), (i, 40, 250)), i % 2


class PictureDataset(Pictures, torch.utils.data.Dataset):
    pass


def saved(name, folder, **arrays):
    path = folder / name
    np.save(path, arrays["x"]) if path.suffix == ".npy" else np.savez(path, **arrays)
    return path


def written(name, folder, text):
    (folder / name).write_text(text)
    return folder / name


GOOD = {  # what is passed, by the folder to write to; then kind, shape and labels of the result
    "numpy": (lambda f: X, ("counts", (12, 2), None)),
    "nested lists": (lambda f: X.tolist(), ("counts", (12, 2), None)),
    "tensor": (lambda f: torch.tensor(X) / 7, ("real", (12, 2), None)),
    "tensor on a graph": (lambda f: torch.ones(3, 2, requires_grad=True) / 3, ("real", (3, 2), None)),
    "big endian": (lambda f: (X / 7).astype(">f4"), ("real", (12, 2), None)),
    "images": (lambda f: np.full((5, 4, 4), 200, np.uint8), ("grey", (5, 1, 4, 4), None)),
    "data frame of numbers": (lambda f: pandas.DataFrame(X / 7), ("real", (12, 2), None)),
    "data frame with texts": (
        lambda f: pandas.DataFrame({"a": X[:, 0] / 7, "b": ["u", "v", "w"] * 4}),
        ("mixed", (12, 2), None),
    ),
    "sparse": (lambda f: sparse.csr_matrix(X.astype(np.float32)), ("counts", (12, 2), None)),
    "sparse array": (lambda f: sparse.coo_array(X), ("counts", (12, 2), None)),
    "AnnData": (lambda f: AnnData(sparse.csr_matrix(X)), ("counts", (12, 2), None)),
    "tuple": (lambda f: (X, LABELS), ("counts", (12, 2), LABELS)),
    "npy": (lambda f: saved("x.npy", f, x=X), ("counts", (12, 2), None)),
    "npz with x and y": (lambda f: saved("x.npz", f, x=X, y=LABELS), ("counts", (12, 2), LABELS)),
    "npz with text labels": (
        lambda f: saved("x.npz", f, images=X, labels=np.array(["b", "a"] * 6)),
        ("counts", (12, 2), np.array([1, 0] * 6)),
    ),
    "npz of one array": (lambda f: saved("x.npz", f, anything=X), ("counts", (12, 2), None)),
    "sparse npz": (
        lambda f: sparse.save_npz(f / "x.npz", sparse.csc_matrix(X)) or f / "x.npz",
        ("counts", (12, 2), None),
    ),
    "csv": (lambda f: written("x.csv", f, "a,b\n1.5,2\n3,4\n"), ("real", (2, 2), None)),
    "csv without header": (lambda f: written("x.csv", f, "1.5,2\n3,-4\n5,6"), ("real", (3, 2), None)),
    "csv with semicolons": (lambda f: written("x.csv", f, "\ufeffa;b\n1,5;u\n1,5;v\n2,5;u\n"), ("mixed", (3, 2), None)),
    "csv of pandas": (
        lambda f: pandas.DataFrame({"a": [1.5, 2], "b": [0.5, -1]}).to_csv(f / "x.csv") or str(f / "x.csv"),
        ("real", (2, 2), None),
    ),
    "folder": (lambda f: typical.photographs(f / "photos", num=4), ("colour", (4, 3, 12, 12), np.array([0, 0, 1, 1]))),
    "Dataset": (lambda f: TensorDataset(torch.tensor(X), torch.tensor(LABELS)), ("counts", (12, 2), LABELS)),
    "Dataset of pictures": (lambda f: PictureDataset(), ("colour", (6, 3, 9, 8), np.arange(6) % 2)),
    "iterable Dataset": (lambda f: Stream(), ("real", (12, 2), LABELS)),
    "DataLoader": (
        lambda f: DataLoader(TensorDataset(torch.tensor(X), torch.tensor(LABELS)), batch_size=5, shuffle=True),
        ("counts", (12, 2), LABELS),
    ),
    "set": (lambda f: ImageSet(torch.zeros(3, 2)), (None, (3, 2), None)),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_inputs(name, tmp_path, untouched) -> None:
    make, (kind, shape, labels) = GOOD[name]
    argument = make(tmp_path)
    with untouched():
        data = load(argument)
    assert (data.kind, tuple(data.images.shape)) == (kind, shape)
    assert data.labels is None if labels is None else data.labels.tolist() == labels.tolist()
    if data.kind == "counts":
        assert torch.equal(data.batch(slice(None)), torch.tensor(X, dtype=torch.get_default_dtype()))


def frame(**columns):
    return pandas.DataFrame(columns)


NAMES = [f"name {i}" for i in range(30)]
BAD = {  # what is passed, and words of the message
    "missing file": (lambda f: f / "none.csv", ["none.csv", "does not exist", "relative to"]),
    "another ending": (lambda f: written("x.txt", f, "1 2"), [".csv or .parquet", "x.txt"]),
    "a single image": (lambda f: written("x.png", f, ""), ["x.png", "folder that holds it"]),
    "empty csv": (lambda f: written("x.csv", f, ""), ["zero-length data"]),
    "csv of a header": (lambda f: written("x.csv", f, "a,b\n"), ["at least one row"]),
    "ragged csv": (lambda f: written("x.csv", f, "a,b\n1,2\n3\n"), ["2 cells", "1 in row 2"]),
    "binary csv": (lambda f: (f / "x.csv").write_bytes(b"\xff\xfe\x00") and f / "x.csv", ["UTF-8"]),
    "names twice": (lambda f: written("x.csv", f, "a,a\n1,2\n"), ["distinct names", "'a'"]),
    "free text": (lambda f: frame(a=range(30), name=NAMES), ["'name'", "30 distinct values in 30 rows", "--data.drop"]),
    "dates": (lambda f: frame(day=pandas.to_datetime(["2020-01-01"])), ["'day'", "numbers or texts", "datetime64"]),
    "empty column": (lambda f: frame(a=[1.5, 2], b=[None, None]), ["'b'", "none in any row", "drop"]),
    "infinite column": (lambda f: frame(a=[1.5, np.inf], b=["u", "v"]), ["'a'", "finite"]),
    "one text": (lambda f: frame(a=[1.5, 2], b=["u", "u"]), ["'b'", "several levels"]),
    "infinite": (lambda f: np.array([[1.0, np.inf]]), ["infinite values in 1", "index 0"]),
    "NaN alone": (lambda f: np.full((3, 2), np.nan), ["NaN alone"]),
    "one dimension": (lambda f: np.arange(3), ["(N, D)", "shape=(3,)"]),
    "channels last": (lambda f: np.zeros((2, 9, 9, 3)), ["channels first", "transpose(0, 3, 1, 2)"]),
    "no rows": (lambda f: np.zeros((0, 3)), ["zero-length data"]),
    "texts": (lambda f: np.array([["a", "b"]]), ["must hold numbers", "<U1"]),
    "complex numbers": (lambda f: np.array([[1j]]), ["must hold numbers", "complex128"]),
    "ragged lists": (lambda f: [[1, 2], [3]], ["one length"]),
    "no path and no data": (lambda f: None, ["must be an array", "None"]),
    "three arrays": (lambda f: (X, X, X), ["(data, labels)", "3 parts"]),
    "h5ad": (lambda f: written("x.h5ad", f, ""), ["anndata.read_h5ad"]),
    "a function": (lambda f: len, ["must be an array"]),
    "empty list": (lambda f: [], ["0 data"]),
    "items of several sizes": (lambda f: [torch.zeros(2), torch.zeros(3)], ["one shape", "(2,)", "(3,)"]),
    "train and test": (lambda f: saved("x.npz", f, train=X, test=X), ["splits", "Files(path).load()"]),
    "damaged sparse npz": (
        lambda f: saved("x.npz", f, data=X[:, 0], indices=X[:, 1], indptr=X[:2, 0], shape=np.array([1, 1])),
        ["sparse matrix", "tocsr"],
    ),
    "empty folder": (lambda f: f, ["zero-length data", "webp"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_inputs(name, tmp_path, raises) -> None:
    make, words = BAD[name]
    argument = make(tmp_path)
    kind = FileNotFoundError if name == "missing file" else ValueError
    with raises(kind, "load", *words):
        load(argument)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kinds": {"c": "real"}}, ["kinds must name columns", "'c'", "The columns are a, b"]),
        ({"kinds": {"a": "number"}}, ["kind of column 'a'", "real, count", "'number'"]),
        ({"kinds": ["real"]}, ["one per column", "1 for 2 columns"]),
        ({"kinds": {"a": "binary"}}, ["'a'", "two levels", "3"]),
        ({"drop": ["z"]}, ["drop must name columns"]),
        ({"drop": ["a", "b"]}, ["at least one column"]),
        ({"label": "z"}, ["label must name columns"]),
        ({"kind": "numbers"}, ["kind must be one of", "'numbers'"]),
        ({"size": 3}, ["folder of images", "size=3"]),
    ],
)
def test_bad_options(options, words, raises) -> None:
    with raises(ValueError, "load", *words):
        load(frame(a=[1.5, 2.5, 3.5], b=["u", "v", "u"]), **options)


def test_options_of_tables_are_refused_for_others(tmp_path, raises) -> None:
    for data in (X, saved("x.npz", tmp_path, x=X), typical.photographs(tmp_path / "photos", num=4)):
        with raises(ValueError, "load", "label must come with a table"):
            load(data, label="y")


def test_categories_of_a_data_frame_keep_their_order() -> None:
    sizes = pandas.Categorical(["m", "s", None, "l"], ["s", "m", "l"], ordered=True)
    data = load(frame(size=sizes, flag=[True, False, True, True], n=pandas.array([1, None, 3, 7], dtype="Int64")))
    assert [c.kind for c in data.columns] == ["ordinal", "binary", "ordinal"]
    assert data.columns[0].levels == ("s", "m", "l")
    assert data.images[:, 0].nan_to_num(nan=-1).tolist() == [1, 0, -1, 2]
    assert data.images[:, 2].nan_to_num(nan=-1).tolist() == [0, -1, 2, 6]


def test_parquet(tmp_path, monkeypatch, raises) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    table = frame(a=[1.5, 2.5], b=["u", "v"])
    monkeypatch.setattr(pandas, "read_parquet", lambda path: table)
    assert load(tmp_path / "x.parquet").kind == "mixed"
    monkeypatch.setitem(sys.modules, "pandas", None)
    with raises(ValueError, "load", "pandas and pyarrow must be installed", "as csv"):
        load(tmp_path / "x.parquet")


def test_genes_and_cells_of_anndata_keep_their_names() -> None:
    data = load(AnnData(sparse.csr_matrix(X)), label="cell")
    assert (data.kind, data.columns) == ("counts", (Column("g0", "count"), Column("g1", "count")))
    assert (data.classes, data.labels.tolist()) == (("a", "b"), [1, 0] * 6)
    other = load(AnnData(sparse.csr_matrix(X[:, ::-1]), names=["g1", "g0"]), like=data)
    assert torch.equal(other.images, data.images)
    assert load(AnnData(X, names=["g", "g"])).columns == ()
    with pytest.raises(ValueError, match=r"label must name columns, got .'g0'.. The columns are cell"):
        load(AnnData(X), label="g0")


def test_columns_of_other_objects_are_refused_unless_they_are_dropped() -> None:
    days = pandas.to_datetime(["2020-01-01", "2020-01-02"] * 3)
    lists = [[1], [2]] * 3
    cases = ((days, "datetime64"), (lists, "list"), (list(days.date), "date"), ([1j, 2j] * 3, "complex128"))
    for column, name in cases:
        table = frame(a=[1.5, 2.5, 3.5] * 2, b=column)
        with pytest.raises(ValueError, match=rf"column 'b' must hold numbers or texts, got {name}"):
            load(table)
        assert [c.name for c in load(table, drop=["b"]).columns] == ["a"]
    ages = pandas.cut(pandas.Series([5, 15, 25] * 4), [0, 10, 20, 30])  # intervals are levels
    assert load(frame(age=ages)).columns == (Column("age", "ordinal", ("(0, 10]", "(10, 20]", "(20, 30]")),)
    decimals = frame(a=[Decimal("1.5"), None, Decimal("2.5")])
    assert load(decimals).images.nan_to_num(0).flatten().tolist() == [1.5, 0, 2.5]


def test_every_format_is_read_turned_and_laid_over_white(tmp_path) -> None:
    """The same picture in every format; dark left and bright right half once it is turned."""
    upright = np.zeros((4, 6, 3), np.uint8)
    upright[:, 3:] = 200
    image = Image.fromarray(upright)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", exif=exif, quality=100)
    for name in ("b.png", "c.bmp", "d.gif", "e.tif", "f.tiff", "g.PNG"):
        image.save(tmp_path / name)
    image.save(tmp_path / "h.webp", lossless=True)
    frames = [image, Image.new("RGB", (6, 4), "red")]
    frames[0].save(tmp_path / "i.gif", save_all=True, append_images=frames[1:])
    clear = image.convert("RGBA")
    clear.putalpha(Image.fromarray(np.repeat([[255, 0]], 4, 0).repeat(3, 1).astype(np.uint8)))
    clear.save(tmp_path / "j.png")
    images = load(tmp_path).images.double()  # (10, 3, 4, 6)
    assert (images[:, :, :, :2] < 12).all()
    assert ((images[:9, :, :, 4:] - 200).abs() < 12).all()
    assert (images[9, :, :, 3:] == 255).all()


def test_colours_of_16_bits_are_refused(tmp_path, raises) -> None:
    import struct
    import zlib

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\x00" + b"\x01\x02" * 3)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    assert Image.open(io.BytesIO(content)).mode == "RGB"
    (tmp_path / "a.png").write_bytes(content)
    with raises(ValueError, "load", "8 bits per channel", "a.png", "16 bits", "npz"):
        load(tmp_path)


def test_folders_within_class_folders_belong_to_the_class(tmp_path) -> None:
    for i, name in enumerate(["b/1.png", "a/x/2.png", "a/3.png", "a/x/y/4.png"]):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 3), 100 + i).save(path)
    (tmp_path / "a" / "notes.txt").write_text("")
    (tmp_path / "a" / "Thumbs.db").write_text("")
    with pytest.warns(UserWarning, match="load: 2 files that are not images were left out: Thumbs.db, notes.txt"):
        data = load(tmp_path, max_value=255)
    assert data.classes == ("a", "b")
    assert dict(zip(data.images[:, 0, 0, 0].tolist(), data.labels.tolist(), strict=True)) == {
        100: 1,
        101: 0,
        102: 0,
        103: 0,
    }


def test_a_file_is_read_once_for_defaults_and_training(tmp_path, monkeypatch) -> None:
    path, calls = saved("x.npz", tmp_path, x=X), []
    monkeypatch.setattr(files, "read", lambda *args, **options: calls.append(1) or sources.read(*args, **options))
    Files(path).defaults()
    first = Files(path).load()
    assert len(calls) == 1
    saved("x.npz", tmp_path, x=X + 1)
    assert Files(path).load().fingerprints != first.fingerprints
    assert len(calls) == 2


def test_earlier_runs_read_arrays_as_they_did(tmp_path) -> None:
    dataset = Files(saved("x.npz", tmp_path, x=X.astype(np.uint8)), validation=0, test=1)
    dataset.detects = False
    splits = dataset.load()
    assert (splits.train.max_value, splits.train.images.dtype) == (255, torch.uint8)
    assert "kind" not in splits.protocol
