"""Autoregressive models on the command line: trained, resumed, evaluated exactly, sampled, completed, reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vae.cli.main import main
from pyro_vae.cli.train_options import parse_args
from pyro_vae.experiments.experiment import load_run

QUICK = ["--epochs", "2", "--device", "cpu", "--engine", "eager"]
NAMES = {"made": ["--model", "MaskedMLP", "--net.hidden", "[40]"]}
NAMES["grey"] = ["--net", "PixelCNN", "--net.channels", "4", "--net.num_layers", "1", "--model", "AutoregressiveModel"]
NAMES["classes"] = ["--model", "PixelCNN", "--net.channels", "4", "--net.num_layers", "1", "--data.context", "label"]
NAMES["grey"] += ["--base", "CategoricalLikelihood", "--base.levels", "17", "--data.binarize", "none"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_default_dtype(torch.float32)
    folder = tmp_path_factory.mktemp("runs")
    for name, argv in NAMES.items():
        assert main(["train", *argv, *QUICK, "--out", str(folder / name)]) == 0
    return {name: folder / name for name in NAMES}


@pytest.mark.usefixtures("single_precision")
def test_the_run_is_evaluated_exactly_and_loads(runs: dict[str, Path]) -> None:
    for name, path in runs.items():
        content = json.loads((path / "log_likelihood-test-guide-1-seed0.json").read_text())
        assert content["protocol"]["estimator"] == "exact"
        assert content["protocol"]["net"] == {"made": "MaskedMLP"}.get(name, "PixelCNN")
        trained = load_run(path)
        x = trained.splits.test.batch(slice(5))
        if name == "grey":  # whose values are not drawn at random
            expected = trained.vae.log_prob(x)
            result = trained.evaluate(num_data=5)
            torch.testing.assert_close(result.log_likelihood.float(), expected, rtol=1e-5, atol=1e-4)
        parse_args(["--config", str(path / "config.yaml")])  # another run of the same configuration
        assert main(["evaluate", str(path)]) == 0
        assert len(list(path.glob("log_likelihood-*.json"))) == 1  # the result of the training is printed again
        figures = {path.name for path in (path / "figures").iterdir()}
        assert {"samples.png", "completions.png", "training_curves.png", "log_likelihood.png"} <= figures


@pytest.mark.usefixtures("single_precision")
def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(runs: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "half"
    assert main(["train", *NAMES["made"], *QUICK, "--epochs", "1", "--out", str(path)]) == 0
    assert main(["train", "--resume", str(path), "--epochs", "2"]) == 0
    assert (path / "weights.safetensors").stat().st_size > 10_000
    first, second = load_run(path).vae.state_dict(), load_run(runs["made"]).vae.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in second)


@pytest.mark.usefixtures("single_precision")
def test_samples_and_completions_are_written(runs: dict[str, Path], tmp_path: Path) -> None:
    path, out = str(runs["made"]), tmp_path / "a.npz"
    assert main(["sample", path, "--num", "6", "--out", str(out)]) == 0
    images = np.load(out)["images"]
    assert images.shape == (6, 1, 8, 8)
    assert set(np.unique(images)) == {0, 1}
    trained, numbers = load_run(path), ["3", "5"]
    np.save(tmp_path / "own.npy", trained.splits.test.batch([7]).numpy())
    argv = ["complete", path, *numbers, str(tmp_path / "own.npy"), "--rows", "5", "--num", "3"]
    assert main([*argv, "--out", str(out), "--overwrite"]) == 0
    arrays = np.load(out)
    completed = arrays["images"].reshape(3, 3, 1, 8, 8)
    assert (completed[..., :5, :] == arrays["given"][:, None, :, :5]).all()
    assert not (completed[:, 0, :, 5:] == completed[:, 1, :, 5:]).all()
    assert main(["complete", path, "3"]) == 0
    assert (runs["made"] / "figures" / "completion-3.png").exists()


@pytest.mark.usefixtures("single_precision")
def test_classes_as_contexts(runs: dict[str, Path], tmp_path: Path) -> None:
    path, out = str(runs["classes"]), tmp_path / "a.npz"
    trained = load_run(path)
    images = trained.images("test", 6)
    assert images.paired
    x, label = images.arguments(slice(None), dtype=torch.float32)
    other = trained.vae.log_prob(x, (label + 1) % 10)
    one_hot = trained.vae.log_prob(x, torch.nn.functional.one_hot(label, 10).float())
    assert torch.equal(trained.vae.log_prob(x, label), one_hot)
    assert not torch.isclose(one_hot, other).any()
    assert main(["sample", path, "--num", "20", "--out", str(out)]) == 0
    arrays = np.load(out)
    assert arrays["images"].shape == (20, 1, 8, 8)
    assert arrays["contexts"].tolist() == np.repeat(range(10), 2).tolist()
    assert main(["sample", path, "--num", "3", "--context", "7", "--out", str(out), "--overwrite"]) == 0
    assert np.load(out)["contexts"].tolist() == [7, 7, 7]
    assert main(["complete", path, "3", "--rows", "5", "--num", "2", "--out", str(out), "--overwrite"]) == 0
    arrays = np.load(out)
    assert (arrays["images"][:, :, :5] == arrays["given"][:, :, :5]).all()
    assert main(["report", path]) == 0
    assert "a column for each class" in (runs["classes"] / "report.html").read_text()


@pytest.mark.usefixtures("single_precision")
def test_report_and_comparison(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(runs["made"])]) == 0
    page = (runs["made"] / "report.html").read_text()
    assert "Samples of the model." in page
    assert "lower half given the upper one" in page
    assert "--method ais" not in page
    vae = tmp_path / "vae"
    assert main(["train", *QUICK, "--epochs", "1", "--num_samples", "2", "--latent_dim", "2", "--out", str(vae)]) == 0
    capsys.readouterr()
    assert main(["compare", str(vae), str(runs["made"])]) == 0  # a bound and an exact number of the same data
    assert f"\n{runs['made']}" in capsys.readouterr().out
    assert main(["compare", str(vae), str(runs["grey"])]) == 2  # of other data


def test_the_name_of_a_network_is_short_for_the_model() -> None:
    for argv in (["--model", "PixelCNN", "--net", "GatedPixelCNN"], ["--net", "GatedPixelCNN", "--model", "PixelCNN"]):
        options = parse_args(argv)
        assert options.model == "AutoregressiveModel"
        assert options.net.class_path.endswith(".GatedPixelCNN")
    assert parse_args(["--model", "RowLSTM"]).net.class_path.endswith(".RowLSTM")


def test_the_base_of_own_data_suits_their_kind(tmp_path: Path) -> None:
    values = np.arange(40 * 16).reshape(40, 4, 4) % 256
    for levels, base in [(2, "BernoulliLikelihood"), (256, "MixtureOfLogisticsLikelihood")]:
        np.save(tmp_path / "own.npy", (values % levels).astype(np.uint8))
        options = parse_args(["--model", "PixelCNN", "--data", str(tmp_path / "own.npy")])
        assert options.base.class_path.endswith(base)
        assert options.base.init_args.get("levels", 2) == levels


@pytest.mark.usefixtures("single_precision")
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "--net", "PixelCNN"], "--net: must come with --model AutoregressiveModel, got a VAE. Omit it."),
        (["train", "--model", "PixelCNN", "--latent_dim", "3"], "--latent_dim: must come with a model that has latent"),
        (["train", "--model", "PixelCNN", "--num_samples", "3"], "--num_samples: must come with a model that has lat"),
        (["train", "--model", "PixelCNN", "--net", "MLP"], "--net: must build a CausalNetwork, got MLP."),
        (["train", "--model", "PixelCNN", "--net.kernel_size", "4"], "PixelCNN: kernel_size must be odd and positive"),
        (["train", "--model", "PixelCNN", "--data.context", "grey"], "an AutoregressiveModel must have no context"),
        (["sample", "classes", "--context", "10"], "--context: must be a class in 0..9, got 10."),
        (["complete", "classes", "own.npy"], "with a class as context, images must be positions, got own.npy."),
        (["evaluate", "classes", "--method", "codelength"], "compress: the model must have no context"),
        (
            ["train", "--model", "PixelCNN", "--data.binarize", "none", "--epochs", "1", "--out", "OUT"],
            "fit: data must lie in the support of site 'x'",
        ),
        (["refit", "made"], "refit: the model must have a guide, got AutoregressiveModel. Use a run of another model."),
        (["evaluate", "made", "--method", "ais"], "requires latent variables, got an AutoregressiveModel. Use one of"),
        (["traverse", "made", "3"], "LatentSpace: the model must have latent variables, got none."),
        (["generate", "made", "--draws"], "--draws: must come with latent variables"),
        (
            ["generate", "made", "--context", "3"],
            "--context: the run must be of a model given a context, got Autoregressive",
        ),
        (["classify", "made", "--split", "test"], "the run must be of a model with classes, got a"),
        (["complete", "made", "3", "--rows", "9"], "num_rows must be a number of rows of an image, got num_rows=9"),
    ],
)
def test_bad_command_lines_print_one_line(
    runs: dict[str, Path], argv: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    argv = [str(runs.get(word, tmp_path / "new" if word == "OUT" else word)) for word in argv]
    assert main(argv) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("note", "warning"))]
    assert len(error) == 1, error
    assert message in error[0]
