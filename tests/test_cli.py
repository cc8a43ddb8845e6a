"""The command line: what it writes and prints, and its errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from pyro_vae import plotting
from pyro_vae.cli import errors
from pyro_vae.cli.main import main
from pyro_vae.cli.train import _note_on_binarization
from pyro_vae.cli.train_options import parse_args
from pyro_vae.data import Files
from pyro_vae.experiments.experiment import default_options, load_run
from pyro_vae.latents import attribute_vector, edit, interpolate, traverse
from pyro_vae.models import vae as vae_module
from pyro_vae.training import RunFolder, fit
from tools.kill_and_resume import kill_and_resume

QUICK = ["--epochs", "2", "--num_samples", "5", "--latent_dim", "3", "--device", "cpu"]
pytestmark = pytest.mark.usefixtures("single_precision")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_default_dtype(torch.float32)
    path = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", *QUICK, "--out", str(path)]) == 0
    return path


def _error_line(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    """Run a command line that must fail with one line on standard error."""
    capsys.readouterr()
    assert main(list(argv)) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert "Traceback" not in lines[0]
    return lines[0]


def test_train_writes_the_run_folder(trained: Path) -> None:
    names = {p.name for p in trained.iterdir()}
    assert {"config.yaml", "weights.safetensors", "state.pt", "metrics.jsonl", "figures"} <= names
    figures = {p.name for p in (trained / "figures").iterdir()}
    assert {"training_curves.png", "reconstructions.png", "samples.png", "latents.png", "active_units.png"} <= figures
    assert [r["epoch"] for r in RunFolder(trained).metrics()] == [1, 2]
    protocol = json.loads((trained / "log_likelihood-test-guide-5-seed0.json").read_text())["protocol"]
    for key, value in {"dataset": "Digits", "binarize": "dynamic", "num_samples": 5, "split": "test"}.items():
        assert protocol[key] == value


def test_evaluate_prints_and_saves_the_number(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained), "--num_samples", "30", "--split", "validation"]) == 0
    output = capsys.readouterr().out
    result = json.loads((trained / "log_likelihood-validation-guide-30-seed0.json").read_text())
    assert f"validation log-likelihood  {result['log_likelihood']['mean']:.3f} nats" in output
    assert result["protocol"]["num_data"] == 150
    file = trained / "log_likelihood-validation-guide-30-seed0.json"
    before = file.stat().st_mtime_ns
    assert main(["evaluate", str(trained), "--num_samples", "30", "--split", "validation"]) == 0
    assert capsys.readouterr().out == output
    assert file.stat().st_mtime_ns == before
    assert main(["evaluate", str(trained), "--num_samples", "30", "--split", "validation", "--overwrite"]) == 0
    assert file.stat().st_mtime_ns > before


def test_sample_writes_images(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in ("npz", "png"):
        out = tmp_path / f"images.{suffix}"
        assert main(["sample", str(trained), "--num", "6", "--draws", "--out", str(out)]) == 0
        line = _error_line(capsys, "sample", str(trained), "--out", str(out))
        assert line.strip().endswith("must not exist yet. Replace it with --overwrite.")
    images = np.load(tmp_path / "images.npz")["images"]
    assert images.shape == (6, 1, 8, 8)
    assert set(np.unique(images)) == {0.0, 1.0}
    assert (tmp_path / "images.png").read_bytes().startswith(b"\x89PNG")


def _picture(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.asarray(image).copy()).double() / 255


def test_interpolate_decodes_paths_between_images_of_the_split_and_of_files(trained: Path, tmp_path: Path) -> None:
    model = load_run(trained)
    x = model.splits.test.batch([3, 17, 5, 0])
    Image.fromarray((255 * x[1, 0]).byte().numpy()).save(tmp_path / "own.png")
    np.save(tmp_path / "own.npy", x[2:].numpy())
    argv = ["interpolate", str(trained), "3", str(tmp_path / "own.png"), str(tmp_path / "own.npy"), "--num", "5"]
    assert main([*argv, "--path", "lerp", "--out", str(tmp_path / "a.npz")]) == 0
    assert main([*argv, "--path", "lerp", "--format", "images", "--out", str(tmp_path / "single")]) == 0
    expected = interpolate(model.vae, x[::2], x[1::2], num=5).means
    assert (torch.from_numpy(np.load(tmp_path / "a.npz")["images"]) - expected.flatten(0, 1)).abs().max() < 1e-6
    files = sorted((tmp_path / "single").iterdir())
    assert [f.name for f in files] == [f"00{i}-00{t}.png" for i in range(2) for t in range(5)]
    assert (_picture(files[6]) - expected[1, 1, 0]).abs().max() < 0.5 / 255 + 1e-6
    assert main(argv) == 0
    assert main([*argv, "--overwrite"]) == 0
    assert (trained / "figures/interpolation-3-own-own-slerp.png").read_bytes().startswith(b"\x89PNG")


def test_traverse_and_edit_are_those_of_the_package(trained: Path, tmp_path: Path) -> None:
    model, out = load_run(trained), str(tmp_path / "a.npz")
    x, test = model.splits.test.batch([3]), model.splits.test
    assert main(["traverse", str(trained), "3", "--dims", "3", "1", "--num", "4", "--out", out]) == 0
    images = torch.from_numpy(np.load(out)["images"])
    assert (images - traverse(model.vae, x, test, dims=[2, 0], num=4).means.flatten(0, 2)).abs().max() < 1e-6
    assert main(["traverse", str(trained), "3", "--dims", "1", "--format", "images", "--out", f"{tmp_path}/one"]) == 0
    assert len(list((tmp_path / "one").iterdir())) == 7
    assert main(["edit", str(trained), "3", "--to", "6", "--amounts", "0", "-1", "--out", out, "--overwrite"]) == 0
    images, train = torch.from_numpy(np.load(out)["images"]), model.splits.train.unpaired()
    vector = attribute_vector(model.vae, train, train.labels == 6)
    assert (images[1] - edit(model.vae, x, vector, -1.0).means[0]).abs().max() < 1e-6
    np.save(tmp_path / "v.npy", vector.numpy())
    argv = ["edit", str(trained), "3", "--vector", str(tmp_path / "v.npy"), "--amounts", "0", "-1"]
    assert main([*argv, "--out", str(tmp_path / "b.npz")]) == 0
    assert (torch.from_numpy(np.load(tmp_path / "b.npz")["images"]) - images).abs().max() < 1e-6
    assert main(["edit", str(trained), "3", "0", "--to", "6", "--from", "5"]) == 0
    assert (trained / "figures/edit-3-0-class6.png").exists()


@pytest.mark.slow
def test_betas_train_from_the_reconstruction_alone_to_the_kl_alone(tmp_path: Path, capsys) -> None:
    options = [
        "--latent_dim",
        "2",
        "--epochs",
        "4",
        "--optimizer.lr",
        "1e-2",
        "--num_samples",
        "5",
        "--engine",
        "eager",
    ]
    argv = ["train", *options, "--betas", "0", "1", "inf", "--out", str(tmp_path / "d")]
    assert main(argv) == 0
    runs = [tmp_path / f"d-beta{name}" for name in ("0", "1", "inf")]
    objectives = [yaml.safe_load((run / "config.yaml").read_text())["objective"]["init_args"] for run in runs]
    assert [(o["beta"], o["reconstruction_weight"]) for o in objectives] == [(0, 1), (1, 1), (1, 0)]
    results = [json.loads((run / "log_likelihood-test-guide-5-seed0.json").read_text()) for run in runs]
    rates, distortions = ([result[name]["mean"] for result in results] for name in ("rate", "distortion"))
    assert rates == sorted(rates, reverse=True)
    assert distortions[2] > distortions[1]
    assert f"beta inf: rate {rates[2]:.2f}, distortion {distortions[2]:.2f} nats" in capsys.readouterr().out
    figures = [tmp_path / "d-betas.png", tmp_path / "d-posteriors.png"]
    figures[0].unlink()
    times = [(run / "weights.safetensors").stat().st_mtime_ns for run in runs]
    assert main(argv) == 0
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in figures)
    assert times == [(run / "weights.safetensors").stat().st_mtime_ns for run in runs]


def test_generate_draws_single_images_by_seed_and_is_also_called_sample(trained: Path, tmp_path: Path) -> None:
    for command, seed, name in (("generate", "1", "a"), ("sample", "1", "b"), ("generate", "2", "c")):
        argv = [
            command,
            str(trained),
            "--num",
            "3",
            "--seed",
            seed,
            "--format",
            "images",
            "--out",
            str(tmp_path / name),
        ]
        assert main(argv) == 0
    a, b, c = ([f.read_bytes() for f in sorted((tmp_path / name).iterdir())] for name in "abc")
    assert len(a) == 3
    assert a == b
    assert a != c


def test_the_caption_of_drawn_images_names_model_and_seed(trained: Path, tmp_path: Path, monkeypatch) -> None:
    captions, grid = [], plotting.image_grid
    monkeypatch.setattr(plotting, "image_grid", lambda *args, **k: captions.append(k["caption"]) or grid(*args, **k))
    for words in ([], ["--draws"]):
        out = str(tmp_path / f"{len(words)}.png")
        assert main(["generate", str(trained), "--num", "4", "--seed", "3", "--out", out, *words]) == 0
    line = plotting.caption_of({**load_run(trained).protocol, "sample_seed": 3})
    assert "DiagonalNormalGuide, 3 latent dimensions, ELBO, epoch 2" in line
    shown = "Means of p(x | z) at samples of the prior", "Samples of the model"
    assert captions == [f"{text}, {line}" for text in shown]


def test_explore_writes_a_page_and_replaces_only_its_own(trained: Path, tmp_path: Path, capsys) -> None:
    for _ in range(2):
        assert main(["explore", str(trained), "--num_images", "20"]) == 0
    page = (trained / "explorer.html").read_text()
    assert "Content-Security-Policy" in page
    assert '"count":20' in page
    out = str(tmp_path / "page.html")
    assert main(["explore", str(trained), "--out", out]) == 0
    assert "Replace it with --overwrite." in _error_line(capsys, "explore", str(trained), "--out", out)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["interpolate", "3"], "interpolate: images must be given in pairs, got 1 of them."),
        (["interpolate", "3", "999"], "images: positions must be in 0..296, those of the test split, got 999."),
        (["interpolate", "3", "x.png"], "images: images must be files, got x.png, which is not a file."),
        (["interpolate", "1", "2", "--num", "1"], "interpolate: num must be at least 2, got num=1."),
        (["traverse", "3", "4"], "traverse: one image must be given, got 2 of them."),
        (["traverse", "3", "--dims", "0"], "--dims: each must be at least 1, got each=0."),
        (["traverse", "3", "--dims", "4"], "--dims: must be at most 3, got [4]."),
        (["edit", "3"], "edit: either --to or --vector must be given, got neither."),
        (["edit", "3", "--to", "11"], "--to: must be a class of the data (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), got 11."),
        (["edit", "3", "--to", "1", "--from", "1"], "--from: must be another class than --to, got 1."),
        (["edit", "3", "--to", "1", "--amounts", "nan"], "--amounts: must be finite, got [nan]."),
        (
            ["generate", "--format", "images", "--out", "a.png"],
            "--out: must be a folder with --format images, got a.png.",
        ),
        (["explore", "--num_images", "0"], "explore: num_images must be at least 1, got num_images=0."),
    ],
)
def test_wrong_uses_are_refused(argv: list[str], message: str, trained: Path, capsys) -> None:
    assert _error_line(capsys, argv[0], str(trained), *argv[1:]).startswith(message)


def test_the_saved_configuration_reproduces_the_run(trained: Path, tmp_path: Path) -> None:
    config = trained / "config.yaml"
    assert main(["train", "--config", str(config), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "config.yaml").read_text() == config.read_text()
    first, again = (RunFolder(p).load_weights() for p in (trained, tmp_path / "again"))
    assert all(torch.equal(first[k], again[k]) for k in first)


@pytest.mark.slow
def test_options_reach_the_constructors(tmp_path: Path) -> None:
    argv = ["--likelihood.net", "conv_decoder", "--likelihood.net.channels", "[8, 4]", "--guide.net=ConvEncoder"]
    argv += ["--objective", "beta_elbo", "--objective.beta", "LinearWarmUp", "--objective.beta.length", "7"]
    argv += ["--optimizer", "adamw", "--optimizer.weight_decay", "0.5", "--lr_schedule", "StepLR"]
    argv += ["--lr_schedule.step_size", "1", "--data.binarize", "threshold", "--data.validation", "0"]
    assert main(["train", *QUICK, *argv, "--out", str(tmp_path / "run")]) == 0
    vae = load_run(tmp_path / "run").vae
    assert type(vae.likelihood.net).__name__ == "ConvDecoder"
    assert vae.likelihood.net.layers[3].in_channels == 8
    assert type(vae.guide.net).__name__ == "ConvEncoder"
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["objective"]["init_args"]["beta"]["init_args"]["length"] == 7
    assert config["optimizer"]["init_args"]["weight_decay"] == 0.5
    assert [r["beta"] for r in RunFolder(tmp_path / "run").metrics()] == pytest.approx(
        [13 / 14 / 7 + 1 / 14 / 7 * 0, 27 / 14 / 7], rel=0.1
    )


def test_a_chosen_class_has_no_defaults_of_the_default_class(tmp_path: Path) -> None:
    argv = ["--data", "frey_faces", "--data.root", "x", "--optimizer", "Adagrad", "--guide.net", "GatedMLP"]
    options = parse_args(argv)
    assert options.data.init_args.binarize == "none"
    assert options.data.init_args.validation == 200
    assert options.data.init_args.root == "x"
    assert options.optimizer.init_args.lr == 0.01
    assert options.guide.init_args.net.init_args.hidden == (300, 300)
    file = tmp_path / "c.yaml"
    file.write_text("data: frey_faces\noptimizer: {class_path: SGD, init_args: {momentum: 0.5}}\n")
    options = parse_args(["--config", str(file), "--data.seed", "3"])
    assert (options.data.init_args.binarize, options.data.init_args.seed) == ("none", 3)
    assert options.optimizer.class_path == "torch.optim.SGD"
    assert "betas" not in options.optimizer.init_args


def test_every_option_of_training_reaches_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options_of_fit: dict = {}

    def record(*args, **options):
        options_of_fit.update(options)
        raise KeyboardInterrupt

    default_options()  # the parser takes the options from the signature of fit
    monkeypatch.setattr("pyro_vae.experiments.experiment.fit", record)
    expected = {"epochs": 7, "batch_size": 11, "clip_norm": 0.5, "patience": 3, "seed": 5, "checkpoint_seconds": 2.5}
    argv = [word for name, value in expected.items() for word in (f"--{name}", str(value))]
    schedule = ["--lr_schedule", "ExponentialLR", "--lr_schedule.gamma", "0.9", "--lr_schedule_unit", "step"]
    assert main(["train", *argv, *schedule, "--out", str(tmp_path / "run")]) == 130
    assert {name: options_of_fit[name] for name in expected} == expected
    assert options_of_fit["lr_schedule_unit"] == "step"
    assert options_of_fit["validation"] is not None


def test_the_options_of_fit_are_options_of_the_command() -> None:
    set_by_train = {"model", "guide", "data", "validation", "monitor", "callbacks", "run", "resume", "progress"}
    options = {name for name in signature(fit).parameters if name not in set_by_train}
    assert options <= set(default_options())
    assert not {"validation", "monitor", "callbacks", "run", "resume", "progress"} & set(default_options())


@pytest.mark.slow
@pytest.mark.parametrize("start", [True, False])
def test_the_output_starts_at_the_mean_of_the_data(start: bool, tmp_path: Path) -> None:
    assert main(["train", *QUICK, "--init_at_mean", str(start).lower(), "--out", str(tmp_path / "run")]) == 0
    trained = load_run(tmp_path / "run")
    mean = trained.splits.train.mean().clamp(1e-3, 1 - 1e-3)
    expected = mean.logit() if start else torch.zeros_like(mean)
    assert torch.allclose(trained.vae.likelihood.offset, expected, atol=1e-6)


@pytest.mark.slow
def test_resuming_with_more_epochs_equals_the_longer_run(tmp_path: Path) -> None:
    assert main(["train", *QUICK, "--out", str(tmp_path / "short")]) == 0
    assert main(["train", "--resume", str(tmp_path / "short"), "--epochs", "4"]) == 0
    assert main(["train", *QUICK, "--epochs", "4", "--out", str(tmp_path / "long")]) == 0
    short, long = (RunFolder(tmp_path / name).load_weights() for name in ("short", "long"))
    assert all(torch.equal(short[k], long[k]) for k in short)


def test_evaluate_uses_only_the_first_images(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained), "--num_samples", "6", "--num_data", "30"]) == 0
    assert "30 examples" in capsys.readouterr().out
    result = json.loads((trained / "log_likelihood-test-guide-6-seed0-first30.json").read_text())
    assert len(result["per_datum"]["elbo"]) == 30
    assert main(["evaluate", str(trained), "--num_samples", "6", "--num_data", "5000"]) == 0
    assert "297 examples" in capsys.readouterr().out
    assert (trained / "log_likelihood-test-guide-6-seed0.json").exists()
    line = _error_line(capsys, "evaluate", str(trained), "--num_data", "0")
    assert line == "evaluate: num_data must be at least 1, got num_data=0."


@pytest.mark.slow
def test_refit_trains_another_guide_and_preserves_the_model(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "refit"
    argv = ["--epochs", "2", "--num_samples", "5", "--guide.net", "GatedMLP", "--guide.net.hidden", "[7]"]
    argv += ["--device", "auto", "--seed", "3"]
    assert main(["refit", str(trained), *argv, "--out", str(out)]) == 0
    before, after = RunFolder(trained).load_weights(), RunFolder(out).load_weights()
    assert {k for k in before if k.startswith("model.")} == {k for k in after if k.startswith("model.")}
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith("model."))
    vae = load_run(out).vae
    assert vae.guide.net.layers[0].linear.out_features == 14
    assert vae.latent_dim == 3
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["device"], config["seed"]) == ("auto", 3)
    assert main(["train", "--resume", str(out), "--epochs", "3"]) == 0
    longer = RunFolder(out).load_weights()
    assert all(torch.equal(before[k], longer[k]) for k in before if k.startswith("model."))
    assert not torch.equal(longer["guide.net.layers.1.weight"], after["guide.net.layers.1.weight"])


@pytest.mark.slow
def test_refit_preserves_the_guide_of_a_vamp_prior(tmp_path: Path) -> None:
    vamp = ["--prior", "VampPrior", "--prior.num_components", "4", "--guide.net.hidden", "[6]"]
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    assert main(["train", *QUICK, *vamp, "--out", str(first)]) == 0
    guide = ["--guide.net", "GatedMLP", "--guide.net.hidden", "[5]"]
    options = ["--epochs", "1", "--num_samples", "5"]
    assert main(["refit", str(first), *guide, *options, "--out", str(second)]) == 0
    assert main(["refit", str(second), *options, "--out", str(third)]) == 0
    z = torch.randn(6, 3)
    expected = load_run(first).vae.prior().log_prob(z)
    for run in (second, third):
        vae = load_run(run).vae
        torch.testing.assert_close(vae.prior().log_prob(z), expected)
        assert type(vae.guide.net).__name__ == "GatedMLP"
        assert type(vae.prior.guide.net).__name__ == "MLP"


def test_refit_rejects_options_that_would_change_the_model(trained: Path, tmp_path: Path, capsys) -> None:
    line = _error_line(capsys, "refit", str(trained), "--likelihood.net", "GatedMLP")
    assert line.startswith("refit: data, prior and likelihood must be those of the run, got --likelihood.net")
    assert "arguments are required: RUN" in _error_line(capsys, "refit")
    out = ["--out", str(tmp_path / "run")]
    line = _error_line(capsys, "train", *QUICK, "--latent_dim", "4", "--model_from", str(trained), *out)
    assert line.startswith(f"model_from: {trained} must hold a model with the same prior and likelihood, got another")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--guide", "Nope"], "--guide: must be one of AuxiliaryGuide"),
        (["--guide.foo", "3"], "unknown option --guide.foo; DiagonalNormalGuide has net, log_scale_bounds."),
        (["--guide.net.hiden", "3"], "unknown option --guide.net.hiden; did you mean --guide.net.hidden?"),
        (["--gide", "IAFGuide"], "unknown option --gide; did you mean --guide?"),
        (["--rseume", "runs/x"], "unknown option --rseume; did you mean --resume?"),
        (["--epochs.foo", "3"], "unknown option --epochs.foo; did you mean --epochs?"),
        (["--lr", "0.1"], "unknown option --lr; did you mean --optimizer.lr?"),
        (["3"], "options must begin with --, got 3"),
        (["--guide.net"], "--guide.net: must have a value"),
        (["--guide", "null"], "--guide: must have a value"),
        (["--guide", "torch.nn.Linear"], "--guide: must be a Guide, or a function annotated to return one, got torch"),
        (["--guide", "no.Guide"], "--guide: no.Guide must be importable, got No module named 'no'"),
        (
            ["--guide.net.hidden", "wide"],
            "--guide.net.hidden: must be a list of integers, got wide. Write for example '[2",
        ),
        (["--optimizer.lr", "-1"], "Invalid learning rate: -1.0"),
        (["--lr_schedule", "StepLR"], "--lr_schedule.step_size: must be an integer, got nothing. Add --lr_schedule."),
        (["--lr_schedule.step_size", "3"], "--lr_schedule: a class must be chosen before its arguments, got step_size"),
        (["--latent_dim", "x"], "--latent_dim: must be an integer, got x"),
        (["--latent_dim", "0"], "latent_dim must be at least 1, got latent_dim=0"),
        (["--num_samples", "0"], "num_samples must be at least 1, got num_samples=0"),
        (["--epochs", "-3"], "epochs=-3"),
        (["--batch_size", "5000"], "batch_size must not exceed the data, got batch_size=5000, data=1350"),
        (["--patience", "-1"], "patience must be at least 1"),
        (["--patience", "3", "--data.validation", "0"], "patience requires validation data"),
        (["--data", "mnist", "--data.binarize", "maybe"], "--data.binarize: must be one of dynamic, fixed"),
        (["--data", "files", "--data.root", "/nowhere/at/all.npz"], "/nowhere/at/all.npz"),
        (["--data", "files"], "Files: root"),
        (["--likelihood", "NormalLikelihood", "--likelihood.scale", "-1"], "scale must be positive"),
        (["--data.binarize", "none"], "support"),
        (["--guide.net", "ConvDecoder"], "out_shape must be (channels, height, width)"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml"),
        (["--out", "/proc/no/run"], "/proc"),
        (["--conf", "evil.yaml"], "--conf"),
        (["--optimizer", "SparseAdam"], "optimizer: must be one of"),
        (["--lr_schedule", "ReduceLROnPlateau", "--lr_schedule_unit", "step"], "ReduceLROnPlateau must count epochs"),
        (["--seed", "99999999999999999999"], "--seed: must be in"),
        (["--clip_norm", "nan"], "--clip_norm: "),
        (["--latent_dim", "1000000000000"], "out of memory"),
        (["--config", "/bin/ls"], "must be a text file"),
        (["--tensorboard", "true"], "tensorboard must be installed"),
        (
            ["--logger", "TensorBoard"],
            "TensorBoard: tensorboard must be installed, got no such package. Run pip",
        ),
        (["--logger", "CSF"], "--logger: must be one of CSV, MLflow, TensorBoard, WandB, got CSF"),
        (["--resume", "/no/run"], "the run folder must exist, got /no/run"),
        (["--resume", ""], "--resume: must not be empty, got ''. Check that the variables of the shell are set."),
        (["--out="], "--out: must not be empty"),
        (["--config", ""], "--config: must not be empty"),
        (["--guide", "IAFGide"], "--guide: unknown class IAFGide; did you mean IAFGuide?"),
        (["--epoch", "3"], "unknown option --epoch; did you mean --epochs?"),
        (["--guide", "IAFGuide", "--guide.num_flow", "3"], "num_flows? IAFGuide has net, num_flows, hidden, context"),
        (["--guide", "{class_path: IAFGuide, more: 3}"], "--guide: must hold only class_path, a name, and init_args"),
        (["--guide", "os.path.join"], "--guide: must be a Guide, or a function annotated to return one, got os.path.j"),
        (["--data", "photos/"], "got root='photos', which does not exist. Check the path; it is relative to "),
        (["--epochs", "1e3"], "--epochs: must be an integer, got 1e3. Write 1000."),
        (["--guide.net.hidden", "[100000000000000000000]"], "--guide.net.hidden: must be in -2^63..2^63-1, got 1000"),
        (["--optimizer.betas", "3"], "--optimizer.betas: must be a list of 2 finite numbers, got 3."),
        (["--threads", "x"], "--threads: must be an integer or auto, got x."),
        (["--alpha", "0.2"], "--alpha: must come with --model M2, got a VAE. Omit it."),
        (["--classifier.estimator", "score"], "--classifier.estimator: must come with --model M2"),
        (["--lr_schedule_unit", "step"], "--lr_schedule_unit: must come with --lr_schedule, got it alone."),
        (["--data.label_seed", "3"], "--data.label_seed: must come with --data.labels, got it alone."),
        (["--data.root", "x"], "Digits: root must be None"),
        (["--prior", "VampPrior", "--prior.num_components", "1351"], "must be at most the 1350 training images"),
        (["--data", "MNIST", "--data.root", "x", "--data.download", "false"], "nothing is downloaded"),
    ],
)
def test_bad_input_prints_one_line_and_writes_nothing(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    assert message in _error_line(capsys, "train", *([] if "--resume" in argv else QUICK), *argv)
    assert not any(p.is_file() for p in tmp_path.rglob("*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_must_be_available(capsys: pytest.CaptureFixture[str]) -> None:
    assert "cuda must be available" in _error_line(capsys, "train", "--device", "cuda")


def test_a_run_folder_is_never_overwritten(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*")}
    assert "must not exist yet" in _error_line(capsys, "train", *QUICK, "--out", str(trained))
    assert {p: p.stat().st_mtime_ns for p in trained.rglob("*")} == before


@pytest.mark.parametrize(
    ("argv", "has_note"),
    [
        ([], False),
        (["--likelihood", "NormalLikelihood"], True),
        (["--likelihood", "NormalLikelihood", "--data.binarize", "none"], False),
    ],
)
def test_a_likelihood_of_other_values_on_binarized_data_gives_a_note(argv: list[str], has_note: bool) -> None:
    assert ("--data.binarize none" in _note_on_binarization(parse_args(argv))) == has_note


def test_resume_accepts_no_other_options(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = _error_line(capsys, "train", "--resume", str(trained), "--latent_dim", "4")
    assert line.startswith("--latent_dim: must be that of the run, got 4, and 3 in the run.")
    assert "must stand without --out" in _error_line(capsys, "train", "--resume", str(trained), "--out", "x")


@pytest.mark.parametrize("command", [["evaluate", "--num_samples", "7"], ["sample"], ["train"]])
@pytest.mark.parametrize("damage", ["weights", "foreign", "config", "evil"])
def test_damaged_and_foreign_runs_are_rejected(
    command: list[str], damage: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    config = (run / "config.yaml").read_text()
    if damage == "weights":
        for name in ("weights.safetensors", "state.pt"):
            (run / name).write_bytes((run / name).read_bytes()[:1000])
    elif damage == "foreign":
        (run / "config.yaml").write_text(config.replace("latent_dim: 3", "latent_dim: 4"))
    elif damage == "config":
        (run / "config.yaml").write_text("data: [")
    else:
        (run / "config.yaml").write_text(config.replace("pyro_vae.DiagonalNormalGuide", "antigravity.Guide"))
    argv = ["train", "--resume", str(run)] if command == ["train"] else [command[0], str(run), *command[1:]]
    _error_line(capsys, *argv)
    assert "antigravity" not in sys.modules


def test_user_components_work_by_import_path_and_need_trust_to_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "from pyro_vae.guides import DiagonalNormalGuide\nclass MyGuide(DiagonalNormalGuide):\n    'A guide.'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = str(tmp_path / "run")
    assert main(["train", *QUICK, "--guide", "mine.MyGuide", "--out", run]) == 0
    assert "--trust mine" in _error_line(capsys, "evaluate", run, "--num_samples", "3")
    assert main(["evaluate", run, "--num_samples", "3", "--trust", "mine"]) == 0


def test_an_abbreviated_option_does_not_bypass_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evilmod.py").write_text("raise SystemExit('executed')")
    (tmp_path / "evil.yaml").write_text("guide: evilmod.X")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for argv in (["--conf", "evil.yaml"], ["--conf=evil.yaml"], ["--config", "evil.yaml"], ["--config=evil.yaml"]):
        _error_line(capsys, "train", *argv)
    assert "evilmod" not in sys.modules


def test_a_loaded_run_downloads_nothing(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"] = {"class_path": "pyro_vae.MNIST", "init_args": {"root": str(tmp_path / "victim")}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    state = torch.load(run / "state.pt", weights_only=True)
    torch.save({**state, "config": None}, run / "state.pt")  # which would tell that config.yaml is another
    save_file(load_file(run / "weights.safetensors"), run / "weights.safetensors")  # without metadata
    for argv in (["evaluate", str(run)], ["sample", str(run)], ["train", "--resume", str(run)]):
        assert "nothing is downloaded" in _error_line(capsys, *argv)
    assert not (tmp_path / "victim").exists()


def test_a_configuration_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    config, out = tmp_path / "config.yaml", str(tmp_path / "run")
    config.write_text(yaml.safe_dump({"data": {"class_path": "MNIST", "init_args": {"root": str(tmp_path / "data")}}}))
    allowed = []

    def download(torchvision: type, folder: Path, may: bool) -> None:
        allowed.append(may)
        raise FileNotFoundError("no network")

    monkeypatch.setattr("pyro_vae.data.mnist._download", download)
    for argv in ([], ["--seeds", "1"], ["--data.download", "true"], ["--seeds", "1", "--data.download", "true"]):
        assert _error_line(capsys, "train", "--config", str(config), "--out", out, *argv) == "no network."
    assert _error_line(capsys, "train", "--data", "MNIST", "--data.root", str(tmp_path), "--out", out) == "no network."
    assert allowed == [False, False, True, True, True]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["evaluate", "x", "--method", "importence"], "got importence; did you mean importance?"),
        (["evaluate", "x", "--num_samples", "1e3"], "--num_samples: must be an integer, got 1e3."),
        (["evaluate", "x", "--seed", "100000000000000000000"], "--seed: must be in -2^63..2^63-1"),
        (["edit", "x", "0", "--to", "1", "--from", "100000000000000000000"], "--from: must be in -2^63..2^63-1"),
        (["sample", "x", "--nun", "3"], "unknown option --nun; did you mean --num?"),
        (["compare", "x", "--mixd"], "unknown option --mixd; did you mean --mixed?"),
        (["report", "x", "--overwrit"], "unknown option --overwrit; did you mean --overwrite?"),
        (["refit", "x", "--gide", "MLP"], "unknown option --gide; did you mean --guide?"),
        (["refit", "--guide", "IAFGuide", "x"], "the run folder must exist, got x."),
        (["evaluate", ""], "pyro-vae: must not be empty, got ''."),
    ],
)
def test_other_commands_name_the_option_and_suggest(argv: list[str], message: str, capsys) -> None:
    assert message in _error_line(capsys, *argv)


def test_missing_arguments_print_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["evaluate"], ["sample", "--num"], ["train", "--resume"]):
        assert f"See pyro-vae {argv[0]} --help" in _error_line(capsys, *argv)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["evaluate", "x", "--sed", "3"], "unknown option --sed; did you mean --seed?"),
        (["sample", "x", "y"], "pyro-vae sample: unexpected argument y"),
    ],
)
def test_unknown_arguments_of_other_commands(command: list[str], message: str, capsys) -> None:
    assert message in _error_line(capsys, *command)


@pytest.mark.parametrize(
    ("argv", "texts"),
    [
        (["--guide.help", "iaf_guide"], ["--guide IAFGuide", "--guide.num_flows", "--guide.net CLASS", "(default 4)"]),
        (["--guide.net.help", "GatedMLP"], ["--guide.net GatedMLP", "--guide.net.hidden", "[300, 300]"]),
    ],
)
def test_the_help_of_a_component_names_its_options(argv: list[str], texts: list[str], capsys) -> None:
    assert main(["train", *argv]) == 0
    page = capsys.readouterr().out
    assert [text for text in texts if text not in page] == []
    assert "must be one of AuxiliaryGuide" in _error_line(capsys, "train", "--guide.help", "Nope")
    assert "must be one of" in _error_line(capsys, "train", "--epochs.help")


PLANTED = "from pyro_vae.guides import DiagonalNormalGuide\nclass Broken(DiagonalNormalGuide):\n    'A guide.'\n"
PLANTED += "    def posterior(self, x):\n        return {}['missing']\n"


def test_a_bug_is_logged_in_the_run_folder(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    names: dict = {"__name__": vae_module.__name__}
    code = compile("def sample(self, *args, **options):\n    return {}['missing']", vae_module.__file__, "exec")
    exec(code, names)
    monkeypatch.setattr(vae_module.VAE, "sample", names["sample"])
    line = _error_line(capsys, "sample", str(trained), "--seed", "7", code=70)
    log = trained / "error.log"
    assert line == f"pyro-vae: KeyError: 'missing'. This is a bug in pyro_vae: please report it with the log {log}."
    text = log.read_text()
    assert f"sample {trained} --seed 7" in text
    assert "Traceback (most recent call last)" in text
    assert text.endswith("KeyError: 'missing'\n")
    log.unlink()


def test_a_bug_outside_a_run_is_logged_in_a_temporary_file(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("pyro_vae.cli.train_options.check_seed", lambda seed: int("no number"))
    line = _error_line(capsys, "train", *QUICK, code=70)
    assert line.startswith("pyro-vae: ValueError: invalid literal for int()")  # not raised on purpose
    log = Path(line.split(" log ")[-1].rstrip("."))
    assert "Traceback" in log.read_text()
    log.unlink()


def test_a_bug_in_a_user_component_is_reported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "broken.py").write_text(PLANTED)
    monkeypatch.syspath_prepend(tmp_path)
    line = _error_line(capsys, "train", *QUICK, "--guide", "broken.Broken", "--out", str(tmp_path / "run"), code=70)
    assert line.startswith(f"pyro-vae: KeyError: 'missing', in {tmp_path}/broken.py, line 5. The traceback is in ")
    Path(line.split(" log ")[-1].rstrip(".")).unlink()


def test_help_names_the_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "evaluate RUN" in capsys.readouterr().out
    assert main(["train", "--help"]) == 0
    output = capsys.readouterr().out
    for word in ("--likelihood", "--resume", "--out", "BernoulliLikelihood", "--lr_schedule"):
        assert word in output
    assert _error_line(capsys, "fly") == "pyro-vae: unknown command fly; see pyro-vae --help."
    assert _error_line(capsys, "trian") == "pyro-vae: unknown command trian; did you mean train?"


@pytest.mark.slow
def test_the_module_is_the_command(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pyro_vae", "train", "--latent_dim", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr == "train: latent_dim must be at least 1, got latent_dim=0.\n"


def test_a_full_disk_prints_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert "No space left" in _error_line(capsys, "train", *QUICK, "--out", str(tmp_path / "run"))


@pytest.mark.slow
def test_killed_and_resumed_runs_equal_the_uninterrupted_run_bit_for_bit(tmp_path: Path) -> None:
    assert kill_and_resume(tmp_path, kills=3, per_run=3, seed=1) == 0


def test_pseudo_inputs_start_at_training_data(tmp_path: Path) -> None:
    vamp = ["--prior", "VampPrior", "--prior.num_components", "4", "--optimizer.lr", "1e-30"]
    assert main(["train", *QUICK, *vamp, "--out", str(tmp_path / "run")]) == 0
    u = load_run(tmp_path / "run").vae.prior.pseudo_inputs
    assert ((u - 0.02).abs().minimum((u - 0.98).abs()) < 1e-5).all()  # binary images, off the flat ends of the sigmoid


def test_a_rejected_value_of_a_nested_component_is_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--objective", "BetaELBO", "--objective.beta", "LinearWarmUp", "--objective.beta.length", "0"]
    line = _error_line(capsys, "train", *argv)
    assert line.startswith("LinearWarmUp: length must be positive and finite, got length=0.0.")


def test_a_component_may_exit_with_a_message(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    def leave(argv: list[str]) -> None:
        sys.exit("bye")

    monkeypatch.setattr("pyro_vae.cli.generate.sample", leave)
    assert main(["sample"]) == 1
    assert capsys.readouterr().err == "bye\n"


def test_components_beside_the_dependencies_are_not_libraries() -> None:
    site = sysconfig.get_path("purelib")
    assert errors._is_library(f"{site}/torch/nn/modules/linear.py")
    assert not errors._is_library(f"{site}/my_package/guide.py")


def test_a_schedule_that_divides_by_zero_is_the_users(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    argv = [*QUICK, "--lr_schedule", "StepLR", "--lr_schedule.step_size", "0", "--out", str(tmp_path / "run")]
    assert main(["train", *argv]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("fit: lr_schedule must run, got StepLR, which fails: ZeroDivisionError: ")
    assert list(tmp_path.iterdir()) == []


def _records(run: Path) -> list[dict]:
    return [{k: v for k, v in record.items() if "second" not in k} for record in RunFolder(run).metrics()]


def test_a_resume_takes_changes_that_may_be_and_records_them(trained: Path, tmp_path: Path, capsys) -> None:
    run, changes = tmp_path / "run", ["--optimizer.lr", "1e-4", "--clip_norm", "5", "--logger", "CSV"]
    shutil.copytree(trained, run)
    assert main(["train", "--resume", str(run), "--epochs", "3", *changes, "--num_samples", "4"]) == 0
    record = _records(run)[-1]
    assert record["lr"] == 1e-4
    assert record["changed"] == {"epochs": [2, 3], "optimizer.lr": [0.001, 1e-4], "clip_norm": [None, 5.0]}
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["epochs"], config["optimizer"]["init_args"]["lr"], config["num_samples"]) == (3, 1e-4, 4)
    assert (run / "metrics.csv").read_text().count("\n") == 1 + 3
    assert yaml.safe_load(RunFolder(run).trained_config()) == config
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    for argv, message in (
        (["--epochs", "1"], "fit: epochs must not be fewer than are begun, got epochs=1 in epoch 3. Pass at least 3."),
        (["--engine", "compiled"], "fit: engine must be that of the run to resume"),
        (["--guide", "IAFGuide"], "--guide: must be that of the run, got pyro_vae.IAFGuide, and"),
        (["--optimizer.weight_decay", "0.1"], "--optimizer.weight_decay: must be that of the run"),
        (["--objective", "BetaELBO", "--objective.beta", "4"], "--objective: must be that of the run"),
        (["--data.seed", "4"], "--data.seed: must be that of the run"),
        (["--gide", "4"], "unknown option --gide"),
    ):
        assert message in _error_line(capsys, "train", "--resume", str(run), *argv)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_an_edited_configuration_follows_the_same_rule(trained: Path, tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("batch_size: 100", "batch_size: 50"))
    line = _error_line(capsys, "train", "--resume", str(run), "--epochs", "3")
    assert line.startswith("--batch_size: must be that of the run, got 50, and 100 in the run.")
    (run / "config.yaml").write_text(text.replace("lr: 0.001", "lr: 0.01").replace("epochs: 2", "epochs: 3"))
    assert main(["train", "--resume", str(run)]) == 0
    assert _records(run)[-1]["changed"]["optimizer.lr"] == [0.001, 0.01]


@pytest.mark.parametrize("option", ["--out", "--resume"])
def test_an_empty_name_starts_no_training(option: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["train"], ["refit", "run"])[: 1 + (option == "--out")]:
        line = _error_line(capsys, *command, option, "")
        assert line == f"{option}: must not be empty, got ''. Check that the variables of the shell are set."
    assert list(tmp_path.iterdir()) == []


def _floating(tmp_path: Path, row: int, value: float) -> list[str]:
    images = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    images[row, 2] = value
    np.save(tmp_path / "mine.npy", images)
    data = [
        "--data",
        "Files",
        "--data.root",
        str(tmp_path / "mine.npy"),
        "--data.binarize",
        "none",
        "--engine",
        "eager",
    ]
    return [*data, "--likelihood", "NormalLikelihood", "--guide.net.hidden", "[5]", "--batch_size", "10"]


def test_after_a_loss_that_is_not_finite_one_command_resumes(tmp_path: Path, capsys) -> None:
    """The message names the row of the file and the command, which takes the training to its end."""
    run = str(tmp_path / "run")
    argv = [*_floating(tmp_path, 0, 0.0), *QUICK, "--epochs", "9", "--optimizer", "SGD", "--optimizer.lr", "3"]
    line = _error_line(capsys, "train", *argv, "--out", run, code=1)
    command = line.split("lower rate: ")[1].split(" (")[0]
    assert command == f"--resume {run} --optimizer.lr 0.3"
    assert main(["train", *command.replace("0.3", "0.001").split()]) == 0
    assert [record["epoch"] for record in _records(Path(run))] == list(range(1, 10))


@pytest.mark.parametrize("row", [3, 41])
def test_the_datum_of_an_error_is_the_row_of_the_file(row: int, tmp_path: Path, capsys) -> None:
    argv = [*QUICK, "--out", str(tmp_path / "run")]
    line = _error_line(capsys, "train", *_floating(tmp_path, row, 1e30), *argv)
    assert line.startswith(f"train: data must be finite and, in float32, at most 4.3e+09, got 1e+30 in datum {row}.")
    splits = Files(str(tmp_path / "mine.npy"), binarize="none").load()
    images = np.load(tmp_path / "mine.npy")
    for split in (splits.train, splits.validation, splits.test):
        assert np.array_equal(images[split.rows.numpy()], split.images.numpy())


def test_an_optimizer_that_cannot_run_is_named_with_the_arguments_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *QUICK, "--optimizer", "SGD", "--optimizer.lr", "-1"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("fit: optimizer must run, got SGD(lr=-1.0), which fails: ValueError: Invalid learning rate")
