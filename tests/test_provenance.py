"""Results belong to weights and data: fingerprints, stale results, changed files, earlier versions."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from pyro_vae import VAE, fit
from pyro_vae._core.fingerprint import fingerprint_of
from pyro_vae._core.version import __version__, full_version
from pyro_vae.cli.main import main
from pyro_vae.cli.train_options import refit_options
from pyro_vae.data import MNIST, Digits, Files, ImageSet, fingerprints
from pyro_vae.data.splitting import TEST_SEED, hold_out
from pyro_vae.evaluation import LogLikelihood
from pyro_vae.experiments.comparison import compare, read_runs
from pyro_vae.experiments.experiment import load_run
from pyro_vae.experiments.latent_data import check_same_data
from pyro_vae.experiments.methods import METHODS
from pyro_vae.experiments.provenance import check_data
from pyro_vae.experiments.results import results_of, same_data
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.priors import StandardNormalPrior
from pyro_vae.training import RunFolder

pytestmark = pytest.mark.usefixtures("single_precision")
QUICK = ["--num_samples", "5", "--device", "cpu", "--batch_size", "20", "--engine", "eager"]
FIRST = "log_likelihood-test-guide-5-seed0.json"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def write(path: Path, seed: int, **labels: Any) -> Path:
    """60 images of 4 x 4 grey pixels."""
    images = torch.randint(0, 256, (60, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    np.savez(path, images=images.numpy(), **labels)
    return path


def run_command(*words: str | Path) -> None:
    assert main([str(word) for word in words]) == 0


def train(data: Path, out: Path, *options: str | Path, epochs: int = 1) -> Path:
    run_command(
        "train",
        *QUICK,
        "--latent_dim",
        "2",
        "--data",
        "Files",
        "--data.root",
        data,
        "--data.binarize",
        "dynamic",
        "--epochs",
        str(epochs),
        "--out",
        out,
        *options,
    )
    return out


def error_line(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("pyro_vae.plotting.save_figures", lambda *args, **options: [])
    patch.setattr("pyro_vae.plotting.save.save_png", lambda figure, path: path)
    for module in ("html_report", "report_markup"):
        patch.setattr(f"pyro_vae.experiments.{module}.drawn", lambda *args, **options: [])


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of 3 epochs with two results, its refit, and the data; figures are not drawn."""
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        torch.set_default_dtype(torch.float32)
        folder = tmp_path_factory.mktemp("provenance")
        data = write(folder / "A.npz", 0)
        train(data, folder / "run", epochs=3)
        run_command("evaluate", folder / "run", "--num_samples", "30", "--seed", "2", "--num_data", "8")
        run_command("refit", folder / "run", *QUICK, "--epochs", "1", "--out", folder / "refit")
        shutil.copytree(folder / "run", folder / "resumed")
        run_command("train", "--resume", folder / "resumed", "--epochs", "5")
    yield folder
    torch.set_default_dtype(torch.float64)


@pytest.fixture
def resumed(folder: Path, tmp_path: Path) -> Path:
    """The run, resumed from epoch 3 to 5: its result of 30 samples is stale."""
    return Path(shutil.copytree(folder / "resumed", tmp_path / "resumed"))


# fingerprints


def test_a_fingerprint_is_of_names_dtypes_shapes_and_values() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    base = fingerprint_of({"a": x, "b": torch.tensor(1)})
    assert base == fingerprint_of({"b": torch.tensor(1), "a": x.T.contiguous().T})
    others = [x.view(torch.int32), x.reshape(3, 2), x + 1e-6, x.flip(0), x.to(torch.bfloat16)]
    assert len({base, *(fingerprint_of({"a": other, "b": torch.tensor(1)}) for other in others)}) == 6
    assert fingerprint_of({"c": x, "b": torch.tensor(1)}) != base
    assert len(base) == 16


def test_an_image_set_is_its_images_scale_and_binarization() -> None:
    images, labels = torch.arange(8, dtype=torch.uint8).reshape(2, 4), torch.tensor([0, 1])
    base = ImageSet(images, max_value=8)
    others = [ImageSet(images), ImageSet(images, max_value=8, dynamic=True), ImageSet(images.flip(0), max_value=8)]
    assert len({images.fingerprint() for images in [base, *others]}) == 4
    assert ImageSet(images, labels, 8).fingerprint() == base.fingerprint()
    hashes = {ImageSet(images, y, 8).fingerprint(labels=True) for y in (labels, labels.flip(0))}
    assert len({base.fingerprint(), *hashes}) == 3


def test_labels_do_not_matter_for_the_images(tmp_path: Path) -> None:
    images, labels = np.zeros((24, 2, 2), np.uint8), np.arange(24) % 2
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    plain, few, more = (
        Files(tmp_path / "a.npz", binarize="dynamic", labels=n).load().fingerprints for n in (None, 2, 4)
    )
    assert {key: few[key] for key in plain} == plain
    assert few["labels"] != more["labels"]


@pytest.mark.parametrize("kind", ["branch", "packed", "detached", "work tree"])
def test_the_version_names_the_commit(tmp_path: Path, kind: str) -> None:
    commit, git = "0123456789abcdef", tmp_path / "repository" / ".git"
    heads = git / "refs" / "heads"
    heads.mkdir(parents=True)
    (git / "HEAD").write_text(commit if kind == "detached" else "ref: refs/heads/main\n")
    (git / "packed-refs").write_text(f"# pack-refs\n{commit} refs/heads/main\n" if kind == "packed" else "")
    if kind in ("branch", "work tree"):
        (heads / "main").write_text(f"{commit}\n")
    package = git.parent / "pyro_vae"
    if kind == "work tree":
        own = git / "worktrees" / "other"
        own.mkdir(parents=True)
        (own / "HEAD").write_text("ref: refs/heads/main\n")
        (own / "commondir").write_text("../..\n")
        package = tmp_path / "other" / "pyro_vae"
        package.parent.mkdir()
        (package.parent / ".git").write_text(f"gitdir: {own}\n")
    assert full_version(package) == f"{__version__}+0123456"
    assert full_version(tmp_path / "elsewhere" / "pyro_vae") == __version__


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Load a file and count the fingerprints that are computed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprints, "MIN_BYTES", 0)
    monkeypatch.setattr(fingerprints, "_SETTLED", -(10**18))
    calls: list[int] = []
    original = ImageSet.fingerprint
    monkeypatch.setattr(ImageSet, "fingerprint", lambda self, **options: calls.append(0) or original(self, **options))

    def count() -> int:
        calls.clear()
        expected = Files(tmp_path / "A.npz", binarize="dynamic").load().fingerprints
        number = len(calls)
        monkeypatch.setattr(fingerprints, "MIN_BYTES", 10**9)
        assert Files(tmp_path / "A.npz", binarize="dynamic").load().fingerprints == expected
        monkeypatch.setattr(fingerprints, "MIN_BYTES", 0)
        return number

    write(tmp_path / "A.npz", 0)
    return count


def test_fingerprints_of_files_are_kept_until_a_file_changes(hashed: Callable[[], int], tmp_path: Path) -> None:
    assert [hashed(), hashed()] == [3, 0]
    info = (tmp_path / "A.npz").stat()
    write(tmp_path / "A.npz", 1)
    os.utime(tmp_path / "A.npz", ns=(info.st_atime_ns, info.st_mtime_ns))  # same size, same time of modification
    assert (tmp_path / "A.npz").stat().st_size == info.st_size
    assert [hashed(), hashed()] == [3, 0]


def test_kept_fingerprints_that_others_could_have_written_are_not_used(
    hashed: Callable[[], int], tmp_path: Path
) -> None:
    assert [hashed(), hashed()] == [3, 0]
    (kept,) = (tmp_path / "cache" / "pyro_vae" / "fingerprints").iterdir()
    kept.chmod(0o666)
    assert hashed() == 3
    kept.write_text("{")
    assert hashed() == 3


def test_fingerprints_of_a_file_that_may_still_change_are_not_kept(
    hashed: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "_SETTLED", 10**18)
    assert [hashed(), hashed()] == [3, 3]


# weights and results


def test_weights_carry_their_provenance(folder: Path) -> None:
    run = RunFolder(folder / "run")
    provenance = run.provenance()
    assert (provenance["epoch"], provenance["step"]) == ("3", "9")
    assert provenance["version"] == full_version()
    assert json.loads(provenance["data"]) == Files(folder / "A.npz", binarize="dynamic").load().fingerprints
    protocol = LogLikelihood.load(run.path / FIRST).protocol
    assert protocol["weights_sha256"] == provenance["weights_sha256"] == fingerprint_of(run.load_weights())
    assert (protocol["epoch"], protocol["step"], protocol["torch"]) == (3, 9, str(torch.__version__))
    assert protocol["data_sha256"] == json.loads(provenance["data"])["test"]
    assert load_run(run.path).protocol_of("test").items() <= protocol.items()
    resumed, refit = (RunFolder(folder / name).provenance() for name in ("resumed", "refit"))
    assert resumed["weights_sha256"] != provenance["weights_sha256"]
    assert refit["weights_sha256"] != provenance["weights_sha256"]
    assert refit["model_sha256"] == provenance["model_sha256"] != resumed["model_sha256"]


def test_weights_of_the_best_epoch_record_it(tmp_path: Path) -> None:
    vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
    x = torch.ones(8, 5)
    options = {"epochs": 4, "batch_size": 4, "patience": 1, "engine": "eager", "progress": False}
    sgd = partial(torch.optim.SGD, lr=0.1)  # the validation data are the opposite of the training data
    result = fit(vae.model, vae.guide, x, validation=1 - x, optimizer=sgd, run=tmp_path / "run", **options)
    assert result.best_epoch is not None
    assert result.best_epoch < len(result.history)
    provenance = RunFolder(tmp_path / "run").provenance()
    assert provenance["epoch"] == str(result.best_epoch)
    assert "step" not in provenance


def test_the_same_options_and_weights_give_the_result_that_is_there(
    resumed: Path, undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(resumed), "--num_samples", "30", "--seed", "2", "--num_data", "8"]
    old = resumed / "log_likelihood-test-guide-30-seed2-first8.json"
    content = old.read_bytes()
    run_command(*words)
    weights = RunFolder(resumed).provenance()["weights_sha256"]
    new = resumed / f"{old.stem}-{weights[:8]}.json"
    assert old.read_bytes() == content
    result = LogLikelihood.load(new)
    assert result.protocol["weights_sha256"] == weights != LogLikelihood.load(old).protocol["weights_sha256"]
    before, files = new.stat().st_mtime_ns, set(resumed.iterdir())
    capsys.readouterr()
    run_command(*words)
    assert f"{result.mean():.3f} nats" in capsys.readouterr().out
    assert (new.stat().st_mtime_ns, set(resumed.iterdir())) == (before, files)
    run_command(*words, "--overwrite")
    assert new.stat().st_mtime_ns > before
    assert old.read_bytes() == content
    new.unlink()
    run_command(*words, "--overwrite")  # replaces the stale one
    assert LogLikelihood.load(old).protocol["weights_sha256"] == weights
    assert not new.exists()


def test_a_finished_run_is_not_evaluated_again(resumed: Path, undrawn: None) -> None:
    names = {path.name for path in resumed.glob("*.json")}
    assert len([name for name in names if name.startswith(Path(FIRST).stem)]) == 2  # of epochs 3 and 5
    times = {path: path.stat().st_mtime_ns for path in resumed.glob("*.json")}
    run_command("train", "--resume", resumed)
    assert {path: path.stat().st_mtime_ns for path in resumed.glob("*.json")} == times


def test_a_stale_result_is_crossed_out_and_its_command_renews_it(resumed: Path, undrawn: None) -> None:
    found = results_of(RunFolder(resumed))
    assert [path.name for path in found.stale] == ["log_likelihood-test-guide-30-seed2-first8.json"]
    assert [result.protocol["epoch"] for result in found.current.values()] == [5]  # that of epoch 3 was replaced
    (old,) = found.stale.values()
    page = report_of(resumed)
    text = f"log-likelihood  {old.mean():.3f} nats"
    assert page.count(text) == page.count(f"<s>{text}") == 1
    assert "measured at epoch 3 of 5" in page
    assert f"{old.mean():.3f}".replace("-", "\N{MINUS SIGN}") not in page  # in no table
    command = f"pyro-vae evaluate {resumed} --num_data 8 --seed 2 --num_samples 30"
    words = (
        next(line for line in page.splitlines() if "--num_samples 30" in line).split("<code>")[1].split("</code>")[0]
    )
    assert sorted(shlex.split(words)) == sorted(shlex.split(command))
    run_command(*shlex.split(words)[1:])
    assert "<s>" not in report_of(resumed)
    assert results_of(RunFolder(resumed)).stale == {}


def report_of(run: Path) -> str:
    run_command("report", run)
    return (run / "report.html").read_text()


def test_compare_marks_stale_results_and_gives_them_no_gain(
    resumed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = Path(shutil.copytree(resumed, tmp_path / "fresh"))
    run_command("evaluate", fresh, "--num_samples", "30", "--seed", "2", "--num_data", "8")
    (fresh / "log_likelihood-test-guide-30-seed2-first8.json").unlink()
    for run in (resumed, fresh):
        for path in run.glob(f"{Path(FIRST).stem}*"):
            path.unlink()
    for order in ([resumed, fresh], [fresh, resumed]):
        (table,) = compare(read_runs(order))
        assert [row.stale for row in table.rows] == [run is resumed for run in order]
        gains = [cell.gain for row in table.rows for cell in row.cells.values()]
        assert all(gain != gain for gain in gains)
    capsys.readouterr()
    run_command("compare", fresh, resumed, "--out", tmp_path / "t.md")
    output, markdown = capsys.readouterr().out, (tmp_path / "t.md").read_text()
    old = LogLikelihood.load(resumed / "log_likelihood-test-guide-30-seed2-first8.json")
    assert f"{old.mean():.3f} +- {old.monte_carlo_error():.3f} (stale)" in output
    assert f"~~{old.mean():.3f} \N{PLUS-MINUS SIGN} {old.monte_carlo_error():.3f}~~" in markdown
    for text in (output, markdown):
        assert f"{resumed}: stale, measured at epoch 3 of 5; renew it: pyro-vae evaluate {resumed} " in text
    run_command("compare", fresh, resumed, "--out", tmp_path / "t.csv")
    run_command("compare", fresh, resumed, "--out", tmp_path / "t.json")
    assert [line.split(",").count("yes") for line in (tmp_path / "t.csv").read_text().splitlines()] == [0, 0, 1]
    assert [row["stale"] for row in json.loads((tmp_path / "t.json").read_text())[0]["rows"]] == [False, True]


def test_a_refit_of_another_model_has_no_gain(folder: Path, tmp_path: Path) -> None:
    text = "no gain: the refit froze another model than the run has now"
    base, refit = tmp_path / "base", Path(shutil.copytree(folder / "refit", tmp_path / "refit"))
    config = (refit / "config.yaml").read_text()
    (refit / "config.yaml").write_text(config.replace(str(folder / "run"), str(base)))
    for source, shown in ((folder / "run", True), (folder / "resumed", False)):
        shutil.copytree(source, base)
        for order in ([base, refit], [refit, base]):
            (table,) = compare(read_runs(order))
            gain = table.rows[1].cells["elbo"].gain
            assert (gain == gain) is shown
            assert table.notes == ([] if shown else [f"{order[1]}: {text}"])
        shutil.rmtree(base)


def test_a_reference_of_another_model_is_rejected(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--method", "gaps", "--num_data", "8", "--log_likelihood"]
    line = error_line(capsys, "evaluate", folder / "resumed", *words, folder / "run" / FIRST)
    assert "must be of this model and these data, got model_sha256=" in line


def test_a_run_of_an_earlier_version_is_shown_with_a_note(
    folder: Path, tmp_path: Path, undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(folder / "run", tmp_path / "old"))
    save_file(load_file(run / "weights.safetensors"), run / "weights.safetensors")
    content = json.loads((run / FIRST).read_text())
    new = ("sha256", "epoch", "step", "version", "torch", "objective", "beta")
    content["protocol"] = {k: v for k, v in content["protocol"].items() if not k.endswith(new)}
    (run / FIRST).write_text(json.dumps(content))
    (run / "log_likelihood-test-guide-30-seed2-first8.json").unlink()
    page = report_of(run)
    assert page.count("has no fingerprint of its weights") == 1
    assert "<s>" not in page
    assert f"{LogLikelihood.load(run / FIRST).mean():.3f}".replace("-", "\N{MINUS SIGN}") in page
    capsys.readouterr()
    run_command("compare", folder / "run", run)
    output = capsys.readouterr().out
    assert f"{run}: the result has no fingerprint of its weights" in output
    assert "+0.000 +- 0.000" in output
    run_command("evaluate", run, "--num_samples", "5")  # computes it for the present weights
    assert "no fingerprint" not in report_of(run)
    assert load_run(run).splits.fingerprints["test"] == load_run(folder / "run").splits.fingerprints["test"]


def test_folders_stay_split_by_position_for_runs_of_an_earlier_version(tmp_path: Path, undrawn: None) -> None:
    (tmp_path / "images").mkdir()
    for k in range(60):
        Image.new("L", (4, 4), k).save(tmp_path / "images" / f"{k:02}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro_vae.experiments.experiment.is_earlier", lambda run: True)
        run = train(tmp_path / "images", tmp_path / "run")
    by_name = Files(tmp_path / "images", binarize="dynamic").load().fingerprints["test"]
    save_file(load_file(run / "weights.safetensors"), run / "weights.safetensors")
    dataset = Files(tmp_path / "images", binarize="dynamic")
    dataset.by_name = False
    images = dataset.raw().test
    assert images[:, 0, 0, 0].tolist() == hold_out(60, 10, seed=TEST_SEED, name="test")[1].tolist()
    for _ in range(2):
        by_position = load_run(run).splits.fingerprints["test"]
        assert by_position == dataset.load().fingerprints["test"] != by_name
        run_command("train", "--resume", run, "--epochs", "2")
        results = [LogLikelihood.load(path) for path in run.glob("*.json")]
        assert {result.protocol["data_sha256"] for result in results} == {by_position}


@pytest.mark.parametrize("command", ["evaluate", "report", "sample", "refit", "train"])
def test_options_that_the_weights_were_not_trained_with_are_refused(
    command: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    (run / "state.pt").unlink()
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["likelihood"]["init_args"]["net"]["init_args"]["activation"] = "relu"  # has no tensor
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    line = error_line(capsys, command, *(["--resume"] if command == "train" else []), run)
    assert line.startswith("--likelihood.net.activation: must be that of the run, got relu, and tanh in the run.")


# data


def test_overwritten_data_are_refused(tmp_path: Path, undrawn: None, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "A.npz", 0)
    first = train(data, tmp_path / "first")
    copy = Path(shutil.copy(data, tmp_path / "copy.npz"))
    write(data, 1)
    rule = (
        "the training images, validation images and test images must be those that the run was trained on, got others"
    )
    for words in (["evaluate", first], ["report", first], ["sample", first], ["train", "--resume", first]):
        line = error_line(capsys, *words)
        assert line.startswith(f"{first}: {rule}")
        assert "--root" in line
    run_command("evaluate", first, "--root", copy, "--num_samples", "7")
    second = train(data, tmp_path / "second")
    (first / "log_likelihood-test-guide-7-seed0.json").unlink()
    line = error_line(capsys, "compare", first, second)
    assert "got data_sha256=" in line
    (table,) = compare(read_runs([first, second]), mixed=True)
    assert all(cell.gain != cell.gain for cell in table.rows[1].cells.values())
    third = train(copy, tmp_path / "third", "--seed", "1")  # the same data under another path
    (table,) = compare(read_runs([first, third]))
    assert table.rows[1].cells["elbo"].gain != 0
    assert table.rows[1].differs == {}


def test_finished_seeds_are_of_the_same_data(tmp_path: Path, undrawn: None, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", *QUICK, "--latent_dim", "2", "--epochs", "1", "--data", "Files", "--data.root"]
    words += [write(tmp_path / "A.npz", 0), "--out", tmp_path / "run", "--seeds", "0"]
    run_command(*words)
    run_command(*words)
    write(tmp_path / "A.npz", 1)
    line = error_line(capsys, *words, "1")
    assert line.startswith(f"{tmp_path / 'run-0'}: the training images, validation images and test images must be")


def test_a_result_of_other_labels_is_not_the_present_one(
    tmp_path: Path, undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.arange(60) % 3
    data = write(tmp_path / "A.npz", 0, labels=labels)
    run = train(data, tmp_path / "run", "--model", "M2", "--data.labels", "6")
    run_command("evaluate", run, "--method", "classification")
    labels[Files(data).load().test.rows] = 0  # test labels, of which the training is independent
    write(data, 0, labels=labels)
    line = error_line(capsys, "evaluate", run, "--method", "classification")
    name = "classification-test-classifier-seed0.json"
    assert line.startswith(f"evaluate: {run / name} must be of the present images and labels, got others.")
    run_command("evaluate", run, "--num_samples", "5")  # does not depend on labels
    run_command("evaluate", run, "--method", "classification", "--overwrite")
    run_command("evaluate", run, "--method", "classification")


def test_weights_that_change_while_they_are_read_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    load = Files.load

    def slow_load(self: Files) -> Any:
        shutil.copy(folder / "resumed" / "weights.safetensors", run)
        return load(self)

    monkeypatch.setattr(Files, "load", slow_load)
    with pytest.raises(ValueError, match="the weights must not change while they are read, got others"):
        load_run(run)
    load_run(run)


def test_numbers_that_differ_have_names_that_differ() -> None:
    def stem(factor: float) -> str:
        importance = METHODS["importance"]
        return importance.file_stem({**importance.defaults(), "proposal": "inflated", "inflate": factor})

    assert stem(2.0) == "test-inflated-5000-x2-seed0"
    assert stem(1.2000001) != stem(1.2000002) != stem(1.2)


def test_a_refit_knows_the_path_of_the_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    options = refit_options(RunFolder("run"))
    assert options.model_from == str(folder / "run")  # from any working folder


def test_a_resumed_fit_requires_the_same_arrays(tmp_path: Path) -> None:
    x = torch.rand(12, 5).round()

    def fit_to(data: Any, validation: Any, epochs: int) -> None:
        vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        options: dict[str, Any] = {"batch_size": 4, "engine": "eager", "progress": False, "run": tmp_path / "run"}
        fit(vae.model, vae.guide, data, validation=validation, epochs=epochs, resume=epochs > 1, **options)

    fit_to(x, x[:4], 1)
    for data, validation, name in ((x.flip(0), x[:4], "training"), (x, 1 - x[:4], "validation")):
        with pytest.raises(ValueError, match=f"^fit: {name} data must be that of the run to resume, got {name} data="):
            fit_to(data, validation, 2)
    fit_to(x, x[:4], 2)


def test_the_same_content_is_the_same_data() -> None:
    rows = torch.ones(3)
    common = {"dataset": "Files", "binarize": "none", "split": "test", "num_data": 3}
    results = [
        LogLikelihood(*[rows] * 7, protocol={**common, **entries})
        for entries in ({"data_sha256": "a", "dataset": "X"}, {"data_sha256": "a"}, {"data_sha256": "b"}, {})
    ]
    assert same_data(results[0], results[1])
    assert not same_data(results[1], results[2])
    assert same_data(results[2], results[3])


def test_weights_of_m1_that_have_changed_are_refused(folder: Path) -> None:
    splits = Files(folder / "A.npz", binarize="dynamic").load()
    provenance = {"data": json.dumps({**splits.fingerprints, "m1": "a"})}
    with pytest.raises(ValueError, match=r"^run: the weights of M1 must be those that the run was trained on"):
        check_data(provenance, splits, "run")
    check_data({"data": json.dumps(splits.fingerprints)}, splits, "run")
    check_data({}, splits, "run")


def test_m1_is_of_the_same_data_by_their_content() -> None:
    one, other = {"train": "a", "validation": "b", "test": "c"}, {"train": "a", "validation": "b", "test": "d"}
    check_same_data(Digits(), Digits(seed=1), "run", (one, {**one, "labels": "e"}))
    with pytest.raises(ValueError, match=r"^--m1: the run must be of the same data, got other images in run"):
        check_same_data(Digits(), Digits(), "run", (one, other))
    with pytest.raises(ValueError, match=r"got seed=0 in run, 1 here"):
        check_same_data(Digits(), Digits(seed=1), "run", ({}, one))


def test_mnist_is_read_from_the_files_that_are_hashed(tmp_path: Path) -> None:
    for name, pixel in (("train", 1), ("t10k", 2)):
        raw = tmp_path / "MNIST" / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        head = (0x803, 4, 28, 28), (0x801, 4)
        contents = bytes([pixel]) * (4 * 28 * 28), bytes(4)
        for kind, sizes, content in zip(("images-idx3", "labels-idx1"), head, contents, strict=True):
            file = raw / f"{name}-{kind}-ubyte"
            file.write_bytes(b"".join(size.to_bytes(4, "big") for size in sizes) + content)
    expected = MNIST(tmp_path, validation=1).load()
    processed = tmp_path / "MNIST" / "processed"  # which torchvision's MNIST reads instead of raw ones
    processed.mkdir()
    for name in ("training", "test"):
        torch.save((torch.zeros(4, 28, 28, dtype=torch.uint8), torch.zeros(4).long()), processed / f"{name}.pt")
    splits = MNIST(tmp_path, validation=1).load()
    assert splits.fingerprints == expected.fingerprints
    assert splits.train.images.unique().tolist() == [1]


def test_fashion_mnist_is_not_mnist(tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared data at {SHARED}, which is absent")
    (tmp_path / "MNIST").mkdir()
    (tmp_path / "MNIST" / "raw").symlink_to(SHARED / "FashionMNIST" / "raw")
    with pytest.raises(ValueError, match=r"^MNIST: the files must be those of MNIST, got other train images in"):
        MNIST(tmp_path).load()


# captions


def test_captions_name_the_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions: list[dict[str, str]] = []

    def save(figure: Any, path: Path) -> Path:
        captions[-1][path.stem] = figure.get_supxlabel().replace("\n", " ")
        return path

    monkeypatch.setattr("pyro_vae.plotting.save.save_png", save)
    data = write(tmp_path / "A.npz", 0)
    for beta in ("0", "1", "100"):
        captions.append({})
        train(data, tmp_path / f"beta{beta}", "--objective", "BetaELBO", "--objective.beta", beta)
    model = "Files, dynamic binarization, BernoulliLikelihood, DiagonalNormalGuide, 2 latent dimensions, BetaELBO, "
    shown = [f"{model}{beta}epoch 1, 42 training examples, data seed 0" for beta in ("beta 0, ", "", "beta 100, ")]
    assert [found["samples"] for found in captions] == shown
    assert [found["reconstructions"] for found in captions] == shown
    results = [found["log_likelihood"] for found in captions]
    assert [line.split(", 5 importance samples")[0] for line in results] == shown
