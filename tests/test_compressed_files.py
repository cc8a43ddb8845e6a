"""Compression of data that do not fit into memory, in several processes, of random models, and what can be coded."""

from __future__ import annotations

import io
import re
import tracemalloc
import weakref
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae import VAE
from pyro_vae import guides as G
from pyro_vae import likelihoods as L
from pyro_vae import networks as N
from pyro_vae import priors as P
from pyro_vae.compression import Restored, chunks, compress, compress_to, decompress, encoder
from pyro_vae.data import ImageSet
from pyro_vae.data.image_files import write_images
from pyro_vae.data.inputs import read_inputs, read_rows
from tests.test_compression import MODELS
from tools import coded

SMALL = partial(N.MLP, hidden=(5,))


@pytest.fixture(autouse=True)
def _single_precision(clean_state):
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)


def vae(shape=(1, 3, 3), dim=2, likelihood=L.BernoulliLikelihood, prior=P.StandardNormalPrior, guide=None) -> VAE:
    guide = guide or G.DiagonalNormalGuide
    return VAE(prior(dim), likelihood(dim, shape, net=SMALL), guide(shape, dim, net=SMALL)).eval()


# ---------------------------------------------------------------- memory


class Counter:
    """Counts the arrays that are alive."""

    def __init__(self) -> None:
        self.alive: list[weakref.ref] = []
        self.most = 0

    def __call__(self, array):
        self.alive = [ref for ref in self.alive if ref() is not None] + [weakref.ref(array)]
        self.most = max(self.most, len(self.alive))
        return array


@pytest.mark.parametrize("workers", [1, 3])
def test_few_chunks_are_in_memory(monkeypatch, workers) -> None:
    """The number of chunks in memory does not grow with that of the data."""
    monkeypatch.setattr(chunks, "ProcessPoolExecutor", InThisProcess)
    model, read, restored = vae(), Counter(), Counter()
    original, decoded = encoder.Encoder._chunk, chunks.ToDecode.run
    monkeypatch.setattr(encoder.Encoder, "_chunk", lambda self, number: read(original(self, number)))
    monkeypatch.setattr(chunks.ToDecode, "run", lambda self, *args: restored(decoded(self, *args)))
    file, x = io.BytesIO(), torch.ones(130, 1, 3, 3)
    compress_to(file, model, x, chunk_size=1, workers=workers)
    assert all(torch.equal(part, torch.ones_like(part)) for part in Restored(file, model, workers=workers))
    assert read.most <= 2 * chunks.SIDE_BY_SIDE
    assert restored.most <= workers + 1


class InThisProcess:
    """A pool of processes without processes."""

    def __init__(self, workers, context, start, arguments) -> None:
        start(*arguments)

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        pass

    def submit(self, function, task):
        return Done(function(task))


class Done:
    """A finished task."""

    def __init__(self, value) -> None:
        self.value = value

    def result(self):
        return self.value


def test_the_peak_of_memory_does_not_grow(tmp_path) -> None:
    model, peaks = vae(), []
    for number in (64, 480):
        images = np.ones((number, 1, 3, 3), dtype=np.uint8)
        np.save(tmp_path / "x.npy", images)
        form = {"data_shape": (1, 3, 3), "max_value": 1, "binarization": "none"}
        data = read_rows(tmp_path / "x.npy", owner="test", **form)
        tracemalloc.start()
        with (tmp_path / "file").open("w+b") as file:
            compress_to(file, model, data, chunk_size=2)
            parts = (part.numpy() for part in Restored(file, model))
            write_images(tmp_path / "out.npz", parts, images.shape, images.dtype, overwrite=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert np.array_equal(np.load(tmp_path / "out.npz")["images"], images)
    assert peaks[1] < 1.2 * peaks[0]


# ---------------------------------------------------------------- processes


def test_the_file_is_the_same_for_any_number_of_workers(monkeypatch) -> None:
    monkeypatch.setattr(chunks, "ProcessPoolExecutor", InThisProcess)
    model = vae()
    x = model.sample(95)
    expected = compress(model, x, chunk_size=5)
    for workers in (2, 3, 40):
        assert compress(model, x, chunk_size=5, workers=workers) == expected
        assert torch.equal(decompress(model, expected, workers=workers), x)


@pytest.mark.slow
def test_several_processes_write_and_read_the_same_file() -> None:
    model = vae()
    x = model.sample(30)
    content = compress(model, x, chunk_size=5, workers=2)
    assert content == compress(model, x, chunk_size=5)
    assert torch.equal(decompress(model, content, workers=2), x)


def test_a_process_that_ends_early_is_reported(monkeypatch) -> None:
    def submit(self, function, task):
        raise BrokenProcessPool

    monkeypatch.setattr(chunks, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(InThisProcess, "submit", submit)
    with pytest.raises(ValueError, match=r"^compress: worker processes must run to their end, .* '__main__'\.$"):
        compress(vae(), torch.ones(2, 1, 3, 3), workers=2)


# ---------------------------------------------------------------- random models

GUIDES = [G.DiagonalNormalGuide, G.FullRankNormalGuide, G.MixtureOfNormalsGuide, partial(G.IAFGuide, num_flows=1)]
PRIORS = [P.StandardNormalPrior, P.MixtureOfNormalsPrior, P.LaplacePrior, partial(P.FlowPrior, num_flows=1)]
LIKELIHOODS = [
    L.BernoulliLikelihood,
    partial(L.CategoricalLikelihood, levels=3),
    partial(L.CategoricalLikelihood, levels=3, codes=True),
    partial(L.MixtureOfLogisticsLikelihood, num_components=2),
    L.PoissonLikelihood,
    L.ZeroInflatedNegativeBinomialLikelihood,
]
SHAPES = [(3,), (1, 2, 2), (3, 2, 1), (2, 5)]
COMBINATIONS = list(product(GUIDES, PRIORS, LIKELIHOODS, SHAPES))


@pytest.mark.parametrize("seed", range(10))
def test_random_models_and_data_are_restored(seed) -> None:
    generator = np.random.default_rng(seed)
    guide, prior, likelihood, shape = COMBINATIONS[generator.integers(len(COMBINATIONS))]
    torch.manual_seed(seed)
    model = vae(shape, int(generator.integers(1, 5)), likelihood, prior, guide)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x = model.sample(int(generator.choice([0, 1, 2, 9, 23]))).clamp(max=200)
    options = {"chunk_size": int(generator.choice([1, 4, 100]))}
    if guide is G.DiagonalNormalGuide and generator.random() < 0.5:
        options["num_particles"] = 3
    restored = decompress(model, compress(model, x, **options))
    torch.testing.assert_close(restored, x, rtol=0, atol=1e-6)


# ---------------------------------------------------------------- what can be coded


def test_the_table_of_what_can_be_coded_is_that_of_the_code() -> None:
    page = (Path(__file__).parents[1] / "docs" / "compression.md").read_text()
    messages = coded.refusals()
    assert "\n".join(coded.table(messages)) in page
    for message in (m for of_kind in messages.values() for m in of_kind.values() if m is not None):
        assert re.fullmatch(r"\w+: [^\n]+\.", message)
    known = {type(part).__name__ for model in MODELS.values() for part in model().modules()}
    assert {name for of_kind in messages.values() for name, m in of_kind.items() if m is None} <= known


@pytest.mark.parametrize("cls", [G.IAFGuide, G.SemiAmortizedGuide, P.FlowPrior])
def test_the_reason_of_a_refusal_is_given(cls) -> None:
    model = vae(prior=cls) if cls is P.FlowPrior else vae()
    if cls is not P.FlowPrior:
        model = VAE(model.prior, model.likelihood, cls((1, 3, 3), 2)).eval()
    with pytest.raises(ValueError, match=r"^compress: [^\n]+ (num_flows|refit)[^\n]*\.$"):
        compress(model, torch.ones(2, 1, 3, 3))


# ---------------------------------------------------------------- images in files


def test_an_image_set_is_binarized_once(monkeypatch) -> None:
    monkeypatch.setattr(encoder, "_PART", 10)
    model, data = vae(), ImageSet(torch.full((32, 1, 3, 3), 128, dtype=torch.uint8), dynamic=True)
    x = decompress(model, compress(model, data, chunk_size=7, seed=3))
    assert 0.3 < float(x.mean()) < 0.7
    assert not torch.equal(x[:10], x[10:20])
    assert torch.equal(decompress(model, compress(model, data, chunk_size=4, seed=3)), x)
    assert not torch.equal(decompress(model, compress(model, data, seed=4)), x)


@pytest.mark.parametrize("binarization", ["none", "threshold", "fixed"])
@pytest.mark.parametrize("top", [1, 16, 255])
def test_rows_are_read_as_arrays_are(tmp_path, binarization, top) -> None:
    images = np.random.default_rng(0).integers(0, top + 1, (7, 4, 4), dtype=np.uint8)
    np.save(tmp_path / "x.npy", images)
    form = {"owner": "test", "data_shape": (1, 4, 4), "max_value": top, "binarization": binarization}
    (expected,) = read_inputs([tmp_path / "x.npy"], **form)
    rows = read_rows(tmp_path / "x.npy", **form)
    assert torch.equal(rows.batch(slice(None)), expected.images.batch(slice(None)))


@pytest.mark.parametrize("suffix", [".npz", ".npy", ""])
def test_images_are_written_part_by_part_or_not_at_all(tmp_path, suffix) -> None:
    images, path = np.arange(36, dtype=np.uint8).reshape(3, 1, 4, 3), tmp_path / f"out{suffix}"

    def interrupted():
        yield images[:1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_images(path, interrupted(), images.shape, images.dtype)
    assert not list(tmp_path.iterdir())
    write_images(path, [images[:1], images[1:]], images.shape, images.dtype)
    if suffix == "":
        back = np.stack([np.asarray(Image.open(file))[None] for file in sorted(path.iterdir())])
    else:
        back = np.load(path)["images"] if suffix == ".npz" else np.load(path)
    assert np.array_equal(back, images)
    with pytest.raises(OSError, match="out"):
        write_images(path, [images], images.shape, images.dtype)


def test_a_folder_takes_grey_and_colour_images_alone(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"^write_images: images in png files must be bytes"):
        write_images(tmp_path / "out", [], (0, 5), np.dtype(np.uint8))
