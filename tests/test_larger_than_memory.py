"""Images that are read by batches: the numbers of those in memory bit for bit, little memory, one line per error."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.optim import SGD

from pyro_vae import VAE, fit, log_likelihood
from pyro_vae.cli.main import main
from pyro_vae.data import Files, Splits, files, fingerprints, lazy
from pyro_vae.data.batches import Batches
from pyro_vae.data.image_set import fingerprint
from pyro_vae.data.lazy import LazyRows
from pyro_vae.data.mapped import NpyRows
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood, NormalLikelihood
from pyro_vae.priors import StandardNormalPrior
from pyro_vae.training import RunFolder
from tests.test_readme import ROOT, run_python
from tests.test_training_engines import engines  # noqa: F401 - a fixture

NUM, SHAPE = 150, (5, 4)
ARRAYS: dict[str, Callable[[], np.ndarray]] = {
    "uint8": lambda: _random().integers(0, 256, (NUM, *SHAPE), dtype=np.uint8),
    "int64": lambda: _random().integers(0, 256, (NUM, 3, *SHAPE)),
    "binary": lambda: _random().random((NUM, 9)) < 0.3,
    "float32": lambda: _random().random((NUM, 20), dtype=np.float32),
    "big-endian": lambda: _random().random((NUM, 20)).astype(">f8"),
}


def _random() -> np.random.Generator:
    return np.random.default_rng(0)


def _folder(root: Path) -> Path:
    for i, image in enumerate(_random().integers(0, 256, (NUM, *SHAPE, 3), dtype=np.uint8)):
        path = root / f"class{i % 3}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return root


@pytest.fixture
def source(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A file of an array of that name, or a folder."""
    if request.param == "folder":
        return _folder(tmp_path / "images")
    np.save(tmp_path / "x.npy", ARRAYS[request.param]())
    return tmp_path / "x.npy"


def _both(path: Path, **options: Any) -> tuple[Splits, Splits]:
    in_memory, by_batches = (
        Files(path, in_memory=value, **{"binarize": "dynamic", **options}).load() for value in (True, False)
    )
    for name in ("train", "validation", "test"):
        assert isinstance(getattr(in_memory, name).images, torch.Tensor)
        assert isinstance(getattr(by_batches, name).images, LazyRows)
    return in_memory, by_batches


def _assert_same(one: Batches, two: Batches, epoch: int = 0, start: int = 0) -> None:
    results = []
    for batches in (one, two):
        torch.manual_seed(0)  # from which data in their order draw
        results.append(list(batches.epoch(epoch, start=start)))
    for a, b in zip(*results, strict=True):
        assert a.args[0].dtype == b.args[0].dtype
        assert all(map(torch.equal, a.args, b.args))
        assert a.index is b.index is None or torch.equal(a.index, b.index)


# the same numbers


@pytest.mark.parametrize("binarize", ["dynamic", "fixed", "threshold", "none"])
@pytest.mark.parametrize("source", [*ARRAYS, "folder"], indirect=True)
def test_splits_and_batches_are_those_in_memory(source: Path, binarize: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"binarize": binarize, "num_workers": 0, **({"labels": 3} if source.is_dir() else {})}
    in_memory, _ = _both(source, **options)
    monkeypatch.setattr(lazy, "_CHUNK_BYTES", 300)  # several parts
    _, by_batches = _both(source, **options)
    assert by_batches.fingerprints == in_memory.fingerprints
    assert by_batches.protocol == in_memory.protocol
    for name in ("train", "validation", "test"):
        one, two = getattr(in_memory, name), getattr(by_batches, name)
        assert (two.data_shape, two.max_value, two.dynamic, len(two)) == (
            one.data_shape,
            one.max_value,
            one.dynamic,
            len(one),
        )
        assert torch.equal(one.mean(), two.mean())
        for seed, start in ((None, 0), (3, 0), (3, 2)):
            options = {"batch_size": 7, "shuffle_seed": seed, "dtype": torch.float32}
            _assert_same(*(Batches(data, **options) for data in (one, two)), 1, start)
        part, other = (data.subset(torch.tensor([5, 2, 9])).subset(slice(1, None)) for data in (one, two))
        assert part.fingerprint() == other.fingerprint()
        index: Any
        for index in ([0, -1], slice(None), torch.tensor([-1, 0])):
            torch.manual_seed(0)
            x = part.batch(index)
            torch.manual_seed(0)
            assert torch.equal(x, other.batch(index))


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("source", ["folder"], indirect=True)
def test_workers_change_no_number_and_draw_none(source: Path) -> None:
    alone, helped = (Files(source, in_memory=False, num_workers=num, validation=0).load().train for num in (0, 2))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    batches = [list(Batches(data, 7, shuffle_seed=0).epoch()) for data in (alone, helped)]
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a.args[0], b.args[0]) for a, b in zip(*batches, strict=True))


def _vae(shape: tuple[int, ...]) -> VAE:
    torch.manual_seed(1)
    return VAE(StandardNormalPrior(2), BernoulliLikelihood(2, shape), DiagonalNormalGuide(shape, 2))


def _train(data: Any, shape: tuple[int, ...], vae: VAE | None = None, **options: Any) -> list[torch.Tensor]:
    vae = vae or _vae(shape)
    fit(vae.model, vae.guide, data, **{"epochs": 2, "batch_size": 30, "engine": "eager", **options})
    return [*vae.state_dict().values()]


@pytest.mark.parametrize("engine", ["eager", "compiled", "cuda-graph"])
@pytest.mark.parametrize("source", ["uint8"], indirect=True)
def test_every_engine_takes_the_same_steps(source: Path, engine: str, engines: list) -> None:  # noqa: F811
    in_memory, by_batches = _both(source)
    weights, losses = [], []
    for splits in (in_memory, by_batches):
        engines.clear()
        weights.append(_train(splits.train, splits.data_shape, engine=engine, validation=splits.validation))
        losses.append(list(engines))
    assert losses[0] == losses[1]
    assert all(map(torch.equal, *weights))


@pytest.mark.parametrize("source", ["uint8"], indirect=True)
def test_evaluations_are_those_in_memory(source: Path) -> None:
    in_memory, by_batches = _both(source)
    vae = _vae(in_memory.data_shape)
    for num in (len(in_memory.test), 7):
        one, two = (
            log_likelihood(vae.model, vae.guide, splits.test.subset(slice(num)), num_samples=5, batch_size=4)
            for splits in (in_memory, by_batches)
        )
        assert len(one) == num
        assert torch.equal(one.log_likelihood, two.log_likelihood)


@pytest.mark.parametrize("view", [slice(None), slice(3, 130)], ids=str)
@pytest.mark.parametrize("source", ["uint8", "binary", "float32", "big-endian"], indirect=True)
def test_memory_mapped_arrays_are_read_by_batches(source: Path, view: slice) -> None:
    mapped = np.load(source, mmap_mode="r")[view]
    array = np.array(mapped)
    one, two = (Batches(data, 7, shuffle_seed=0, dtype=torch.float64) for data in (array, mapped))
    assert isinstance(two.data, LazyRows)
    assert fingerprint(one.data) == fingerprint(two.data)
    _assert_same(one, two)
    assert one.adapt(ValueError()) == two.adapt(ValueError())
    _assert_same(one, two)


def test_a_model_trains_on_a_memory_mapped_array(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", (_random().random((60, 5)) < 0.5).astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    one, two = (_train(data, (5,), validation=data) for data in (torch.tensor(np.array(mapped)), mapped))
    assert all(map(torch.equal, one, two))


def test_views_that_are_no_rows_of_the_file_are_read_in_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ARRAYS["float32"]())
    own = np.load(tmp_path / "x.npy", mmap_mode="c")
    own[0] = 7.0  # in memory only
    reading = np.load(tmp_path / "x.npy", mmap_mode="r")
    for view in (own, reading[:, 3:5], reading[::-1].copy(), reading.T):
        batches = Batches(view, len(view))
        assert isinstance(batches.data, torch.Tensor)
        assert torch.equal(next(batches.epoch()).args[0], torch.tensor(np.array(view)))


# resumption


def _killed(kill_at: int, source: Path, run: Path) -> None:
    """Train until the process kills itself after a step."""
    steps: list[int] = []

    def hook(*_: object) -> None:
        steps.append(0)
        if len(steps) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def optimizer(parameters: Any) -> SGD:
        optimizer = SGD(parameters, lr=0.1)
        optimizer.register_step_post_hook(hook)
        return optimizer

    data = Files(source, binarize="dynamic", in_memory=False, num_workers=1).load().train
    _train(data, data.data_shape, optimizer=optimizer, run=run, checkpoint_seconds=0)


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("source", ["uint8"], indirect=True)
def test_a_killed_training_resumes_bit_for_bit(source: Path, tmp_path: Path) -> None:
    in_memory, by_batches = _both(source, num_workers=1)
    expected = _train(in_memory.train, in_memory.data_shape, optimizer=partial(SGD, lr=0.1))
    for kill_at, data in ((2, by_batches.train), (7, in_memory.train)):  # 4 steps an epoch; resumed in both ways
        run = tmp_path / f"run{kill_at}"
        process = multiprocessing.get_context("fork").Process(target=_killed, args=(kill_at, source, run))
        process.start()
        process.join()  # with a limit it would wait for the workers too, which see the kill after seconds
        assert process.exitcode == -signal.SIGKILL
        assert RunFolder(run).load_state()["progress"]["step"] == kill_at - 1
        weights = _train(data, data.data_shape, optimizer=partial(SGD, lr=0.1), run=run, resume=True)
        assert all(map(torch.equal, weights, expected))


@pytest.mark.slow
@pytest.mark.parametrize("source", ["uint8"], indirect=True)
def test_the_command_line_resumes_in_the_other_way(source: Path, tmp_path: Path, single_precision: None) -> None:
    words = "--data Files --latent_dim 2 --batch_size 20 --num_samples 5 --engine eager --device cpu"
    common = [*words.split(), "--data.root", str(source)]
    results = []
    for way in ("true", "false"):
        run = tmp_path / way
        assert main(["train", *common, "--epochs", "1", "--data.in_memory", way, "--out", str(run)]) == 0
        other = "false" if way == "true" else "true"
        assert main(["train", "--resume", str(run), "--epochs", "2", "--data.in_memory", other]) == 0
        results.append((run / "weights.safetensors").read_bytes()[-400:])
    assert results[0] == results[1]


# memory


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    """Of 374 MiB more of images, 10 times as many of them trained on, a bit per held-out pixel and some bytes a row."""
    peaks = []
    for rows, num_train in ((20_000, 5_000), (520_000, 50_000)):
        path = tmp_path / f"{rows}.npy"
        header = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, 28, 28))  # a sparse file
        header[0] = 255
        del header
        words = f"--kind batches --rows {rows} --num-train {num_train} --batch 5000 --engine eager --path {path}"
        command = [sys.executable, str(ROOT / "benchmarks/larger_than_memory.py"), *words.split()]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        peaks.append(json.loads(done.stdout)["peak"])
    assert peaks[1] - peaks[0] < 100  # MiB; 30 to 49 measured, peaks of equal runs differ by up to 15


def test_it_is_decided_by_the_size_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", ARRAYS["uint8"]())  # 3128 bytes
    for memory, by_batches in ((4 * 3128, False), (4 * 3127, True)):
        monkeypatch.setattr(files, "memory_size", lambda memory=memory: memory)
        with (
            pytest.warns(UserWarning, match="Files: .*x.npy is read by batches.*in_memory=True")
            if by_batches
            else _quiet()
        ):
            splits = Files(tmp_path / "x.npy", binarize="dynamic").load()
        assert isinstance(splits.train.images, LazyRows) == by_batches
    assert 10**8 < lazy.memory_size() < 10**14


def _quiet() -> Any:
    return pytest.MonkeyPatch.context()  # warnings are errors


def test_fingerprints_are_kept_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprints, "MIN_BYTES", 0)
    monkeypatch.setattr(fingerprints, "_SETTLED", -(10**18))
    x, reads = ARRAYS["float32"](), []
    read = NpyRows.rows
    monkeypatch.setattr(NpyRows, "rows", lambda self, index: reads.append(len(index)) or read(self, index))

    def hashed(*part: int | None) -> tuple[str | None, int]:
        data = Batches(np.load(tmp_path / "x.npy", mmap_mode="r")[slice(*(part or (None,)))], 7).data
        reads.clear()
        return fingerprint(data), sum(reads)

    np.save(tmp_path / "x.npy", x)
    first, count = hashed()
    assert count == NUM
    assert hashed() == (first, 0)
    assert hashed(2, None) == (fingerprint(torch.tensor(x[2:])), NUM - 2)
    assert hashed(0, NUM - 2) == (fingerprint(torch.tensor(x[:-2])), NUM - 2)
    x[3, 3] += 1
    np.save(tmp_path / "x.npy", x)
    assert hashed() == (fingerprint(torch.tensor(x)), NUM)


# errors


def _file(path: Path, num: int = NUM) -> NpyRows:
    np.save(path, np.full((num, 4), 0.5))
    return NpyRows.open(path, owner="Files")


def _shrink(path: Path) -> None:
    os.truncate(path, 200)


def _replace(path: Path) -> None:
    np.save(path, np.full((NUM, 4), 0.25))
    os.utime(path, ns=(0, 0))


def _make_infinite(path: Path) -> None:
    info = path.stat()
    array = np.load(path, mmap_mode="r+")
    array[[140, 17]] = np.inf
    array.flush()
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_shrink, "x.npy must not change while it is in use, got 200 bytes, 4928 at the start"),
        (_replace, "x.npy must not change while it is in use, got a new time stamp"),
        (Path.unlink, "No such file"),
        (_make_infinite, "must be finite, got infinite values in"),
    ],
    ids=["shrinks", "changes", "disappears", "is not finite"],
)
def test_a_file_that_changes_while_training_is_reported(change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    _file(path)
    data = Files(path, binarize="none", in_memory=False, validation=0, test=1).load().train
    likelihood = NormalLikelihood(2, (4,), scale=1.0)
    vae = VAE(StandardNormalPrior(2), likelihood, DiagonalNormalGuide((4,), 2))
    epochs: list[int] = []

    def monitor() -> dict[str, float]:
        if not epochs:
            change(path)
        epochs.append(0)
        return {}

    with pytest.raises((ValueError, OSError), match=message) as caught:
        _train(data, (4,), vae, monitor=monitor, epochs=3)
    assert len(epochs) == 1
    assert "x.npy" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_memory_mapped_array_longer_than_its_file(tmp_path: Path) -> None:
    _file(tmp_path / "x.npy")
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    _shrink(tmp_path / "x.npy")
    with pytest.raises(ValueError, match=r"Batches: .*x.npy must not change while it is in use, got 200 bytes"):
        Batches(mapped, 7)


@pytest.mark.parametrize("size", [100, 200, 4927, 4929])
def test_a_truncated_file(size: int, tmp_path: Path) -> None:
    _file(tmp_path / "x.npy")
    os.truncate(tmp_path / "x.npy", size)
    with pytest.raises(ValueError, match=r"Files: .*x.npy must be a whole .npy file, got one of \d+ bytes"):
        Files(tmp_path / "x.npy", in_memory=False).load()


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("size", "message"), [((4, 4), "images must share one size, got class0/0.png"), (None, "every")]
)
def test_an_image_in_the_middle_of_a_folder(size: Any, message: str, workers: int, tmp_path: Path) -> None:
    root = _folder(tmp_path / "images")
    bad = root / "class1" / "100.png"
    Image.new("RGB", size).save(bad) if size else bad.write_text("text")
    with pytest.raises(ValueError, match=f"Files: {message}") as caught:
        Files(root, in_memory=False, num_workers=workers).load()
    assert "class1/100.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_by_batches(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=ARRAYS["uint8"]())
    np.save(tmp_path / "f.npy", np.asfortranarray(ARRAYS["uint8"]()))
    with pytest.raises(ValueError, match=r"in_memory=False requires an npy file or a folder, got root=.*x.npz"):
        Files(tmp_path / "x.npz", in_memory=False).load()
    with pytest.raises(ValueError, match=r"f.npy must hold an array in C order .* np.ascontiguousarray"):
        Files(tmp_path / "f.npy", in_memory=False).load()
    with pytest.raises(ValueError, match="in_memory must be True or False or one of 'auto'"):
        Files(tmp_path / "x.npz", in_memory="never")  # type: ignore[arg-type]
    assert Files(tmp_path / "f.npy").load().protocol["train"] == 105


def test_the_python_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_python("docs/larger_than_memory.md", (ROOT / "docs/larger_than_memory.md").read_text())
    assert isinstance(names["splits"].test.images, LazyRows)
    assert len(names["result"]) == 100
