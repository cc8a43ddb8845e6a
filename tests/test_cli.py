"""The command line as a user meets it: the good ways and the bad ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pyro_vae.cli.main import main
from pyro_vae.experiments.experiment import load_run
from pyro_vae.training import RunFolder
from tools.kill_and_resume import kill_and_resume

QUICK = ["--epochs", "2", "--num_samples", "5", "--latent_dim", "3", "--device", "cpu"]
pytestmark = pytest.mark.usefixtures("single_precision")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_default_dtype(torch.float32)
    path = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", *QUICK, "--out", str(path)]) == 0
    return path


def _refused(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    """Run the words, which must fail with one line on standard error."""
    capsys.readouterr()
    assert main(list(words)) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert "Traceback" not in lines[0]
    return lines[0]


def test_train_writes_the_whole_run(trained: Path) -> None:
    names = {p.name for p in trained.iterdir()}
    assert {"config.yaml", "weights.safetensors", "state.pt", "metrics.jsonl", "figures"} <= names
    figures = {p.name for p in (trained / "figures").iterdir()}
    assert {"training_curves.png", "reconstructions.png", "samples.png", "latents.png", "active_units.png"} <= figures
    assert [r["epoch"] for r in RunFolder(trained).metrics()] == [1, 2]
    protocol = json.loads((trained / "log_likelihood-test-guide-5-seed0.json").read_text())["protocol"]
    for key, value in {"dataset": "Digits", "binarize": "dynamic", "num_samples": 5, "split": "test"}.items():
        assert protocol[key] == value


def test_evaluate_prints_and_keeps_the_number(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained), "--num_samples", "30", "--split", "validation"]) == 0
    shown = capsys.readouterr().out
    result = json.loads((trained / "log_likelihood-validation-guide-30-seed0.json").read_text())
    assert f"validation log-likelihood  {result['log_likelihood']['mean']:.3f} nats" in shown
    assert result["protocol"]["num_data"] == 150
    message = _refused(capsys, "evaluate", str(trained), "--num_samples", "30", "--split", "validation")
    assert "--overwrite" in message
    assert main(["evaluate", str(trained), "--num_samples", "30", "--split", "validation", "--overwrite"]) == 0


def test_sample_writes_images(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in ("npz", "png"):
        out = tmp_path / f"images.{suffix}"
        assert main(["sample", str(trained), "--num", "6", "--draws", "--out", str(out)]) == 0
        assert "must not exist yet" in _refused(capsys, "sample", str(trained), "--out", str(out))
    images = np.load(tmp_path / "images.npz")["images"]
    assert images.shape == (6, 1, 8, 8)
    assert set(np.unique(images)) == {0.0, 1.0}
    assert (tmp_path / "images.png").read_bytes().startswith(b"\x89PNG")


def test_the_saved_configuration_reproduces_the_run(trained: Path, tmp_path: Path) -> None:
    config = trained / "config.yaml"
    assert main(["train", "--config", str(config), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "config.yaml").read_text() == config.read_text()
    first, again = (RunFolder(p).load_weights() for p in (trained, tmp_path / "again"))
    assert all(torch.equal(first[k], again[k]) for k in first)


@pytest.mark.slow
def test_options_reach_the_constructors(tmp_path: Path) -> None:
    words = ["--likelihood.net", "conv_decoder", "--likelihood.net.channels", "[8, 4]", "--guide.net=ConvEncoder"]
    words += ["--objective", "beta_elbo", "--objective.beta", "LinearWarmUp", "--objective.beta.length", "7"]
    words += ["--optimizer", "adamw", "--optimizer.weight_decay", "0.5", "--lr_schedule", "StepLR"]
    words += ["--lr_schedule.step_size", "1", "--data.binarize", "threshold", "--data.validation", "0"]
    assert main(["train", *QUICK, *words, "--out", str(tmp_path / "run")]) == 0
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


def test_a_chosen_class_keeps_nothing_of_the_default_class(tmp_path: Path) -> None:
    from pyro_vae.cli.arguments import normalise_args
    from pyro_vae.experiments.experiment import parser

    words = ["--data", "frey_faces", "--data.root", "x", "--optimizer", "Adagrad", "--guide.net", "GatedMLP"]
    options = parser().parse_args(normalise_args(words, ()))
    assert options.data.init_args.binarize == "none"
    assert options.data.init_args.validation == 200
    assert options.data.init_args.root == "x"
    assert options.optimizer.init_args.lr == 0.01
    assert options.guide.init_args.net.init_args.hidden == (300, 300)
    file = tmp_path / "c.yaml"
    file.write_text("data: frey_faces\noptimizer: {class_path: SGD, init_args: {momentum: 0.5}}\n")
    options = parser().parse_args(normalise_args(["--config", str(file), "--data.seed", "3"], ()))
    assert (options.data.init_args.binarize, options.data.init_args.seed) == ("none", 3)
    assert options.optimizer.class_path == "torch.optim.SGD"
    assert "betas" not in options.optimizer.init_args


def test_every_option_of_training_reaches_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict = {}

    def fit(*args, **options):
        told.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr("pyro_vae.experiments.experiment.fit", fit)
    given = {"epochs": 7, "batch_size": 11, "clip_norm": 0.5, "patience": 3, "seed": 5, "checkpoint_seconds": 2.5}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    assert main(["train", *words, "--lr_schedule_unit", "step", "--out", str(tmp_path / "run")]) == 130
    assert {name: told[name] for name in given} == given
    assert told["lr_schedule_unit"] == "step"
    assert told["validation"] is not None


@pytest.mark.slow
@pytest.mark.parametrize("start", [True, False])
def test_the_output_starts_at_the_mean_of_the_data(start: bool, tmp_path: Path) -> None:
    assert main(["train", *QUICK, "--init_at_mean", str(start).lower(), "--out", str(tmp_path / "run")]) == 0
    trained = load_run(tmp_path / "run")
    mean = trained.splits.train.mean().clamp(1e-3, 1 - 1e-3)
    expected = mean.logit() if start else torch.zeros_like(mean)
    assert torch.allclose(trained.vae.likelihood.offset, expected, atol=1e-6)


@pytest.mark.slow
def test_resume_with_more_epochs_is_the_longer_run(tmp_path: Path) -> None:
    assert main(["train", *QUICK, "--out", str(tmp_path / "short")]) == 0
    assert main(["train", "--resume", str(tmp_path / "short"), "--epochs", "4"]) == 0
    assert main(["train", *QUICK, "--epochs", "4", "--out", str(tmp_path / "long")]) == 0
    short, long = (RunFolder(tmp_path / name).load_weights() for name in ("short", "long"))
    assert all(torch.equal(short[k], long[k]) for k in short)


def test_evaluate_takes_the_first_images_alone(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained), "--num_samples", "6", "--num_data", "30"]) == 0
    assert "num_data=30" in capsys.readouterr().out
    found = json.loads((trained / "log_likelihood-test-guide-6-seed0-first30.json").read_text())
    assert len(found["per_datum"]["elbo"]) == 30
    line = _refused(capsys, "evaluate", str(trained), "--num_data", "0")
    assert line == "--num_data: must be at least 1, got 0. Use 1000."


@pytest.mark.slow
def test_refit_trains_another_guide_and_keeps_the_model(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "refit"
    words = ["--epochs", "2", "--num_samples", "5", "--guide.net", "GatedMLP", "--guide.net.hidden", "[7]"]
    assert main(["refit", str(trained), *words, "--out", str(out)]) == 0
    before, after = RunFolder(trained).load_weights(), RunFolder(out).load_weights()
    assert {k for k in before if k.startswith("model.")} == {k for k in after if k.startswith("model.")}
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith("model."))
    vae = load_run(out).vae
    assert vae.guide.net.layers[0].linear.out_features == 14
    assert vae.latent_dim == 3
    assert main(["train", "--resume", str(out), "--epochs", "3"]) == 0
    longer = RunFolder(out).load_weights()
    assert all(torch.equal(before[k], longer[k]) for k in before if k.startswith("model."))
    assert not torch.equal(longer["guide.net.layers.1.weight"], after["guide.net.layers.1.weight"])


@pytest.mark.slow
def test_refit_keeps_the_guide_that_a_vamp_prior_goes_through(tmp_path: Path) -> None:
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


def test_refit_refuses_what_would_change_the_model(trained: Path, tmp_path: Path, capsys) -> None:
    line = _refused(capsys, "refit", str(trained), "--likelihood.net", "GatedMLP")
    assert line.startswith("refit: data, prior and likelihood must be those of the run, got --likelihood.net")
    assert "arguments are required: RUN" in _refused(capsys, "refit")
    out = ["--out", str(tmp_path / "run")]
    line = _refused(capsys, "train", *QUICK, "--latent_dim", "4", "--model_from", str(trained), *out)
    assert line.startswith(f"model_from: {trained} must hold a model with the same prior and likelihood, got another")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--guide", "Nope"], "guide: must be one of AuxiliaryGuide"),
        (["--guide.foo", "3"], "--guide: must be given options that exist, got 'foo'"),
        (["--guide.net.foo", "3"], "--guide.net: must be given options that exist, got 'foo'"),
        (["--bogus", "3"], "got '--bogus'"),
        (["--latent_dim", "x"], "--latent_dim: must be int, got x"),
        (["--latent_dim", "0"], "--latent_dim: must be at least 1"),
        (["--epochs", "-3"], "--epochs: must be at least 1"),
        (["--batch_size", "5000"], "batch_size must not exceed the data, got batch_size=5000, data=1350"),
        (["--patience", "-1"], "patience must be positive"),
        (["--patience", "3", "--data.validation", "0"], "patience must have validation data"),
        (["--data", "mnist", "--data.binarize", "maybe"], "--data.binarize: must be 'dynamic'"),
        (["--data", "files", "--data.root", "/nowhere/at/all.npz"], "/nowhere/at/all.npz"),
        (["--data", "files"], "Files: root"),
        (["--likelihood", "NormalLikelihood", "--likelihood.scale", "-1"], "scale must be positive"),
        (["--data.binarize", "none"], "x"),
        (["--guide.net", "ConvDecoder"], "out_shape must be (channels, height, width)"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml"),
        (["--out", "/proc/no/run"], "/proc"),
        (["--conf", "evil.yaml"], "--conf"),
        (["--optimizer", "SparseAdam"], "optimizer: must be one of"),
        (["--lr_schedule", "ReduceLROnPlateau", "--lr_schedule_unit", "step"], "ReduceLROnPlateau must count epochs"),
        (["--seed", "99999999999999999999"], "--seed: must be in"),
        (["--clip_norm", "nan"], "--clip_norm: "),
        (["--latent_dim", "1000000000000"], "must fit the machine"),
        (["--config", "/bin/ls"], "must be a text file"),
        (["--tensorboard", "true"], "tensorboard must be installed"),
        (["--resume", "/no/run"], "the run folder must exist, got /no/run"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert message in _refused(capsys, "train", *([] if "--resume" in words else QUICK), *words)
    assert not any(p.is_file() for p in tmp_path.rglob("*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_must_be_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert "cuda must be available" in _refused(capsys, "train", "--device", "cuda")


def test_a_run_folder_is_never_overwritten(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*")}
    assert "must not exist yet" in _refused(capsys, "train", *QUICK, "--out", str(trained))
    assert {p: p.stat().st_mtime_ns for p in trained.rglob("*")} == before


def test_resume_stands_alone(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "only --epochs" in _refused(capsys, "train", "--resume", str(trained), "--optimizer.lr", "1")
    assert "must stand alone" in _refused(capsys, "train", "--resume", str(trained), "--out", "x")


@pytest.mark.parametrize("command", [["evaluate", "--num_samples", "7"], ["sample"], ["train"]])
@pytest.mark.parametrize("damage", ["weights", "foreign", "config", "evil"])
def test_damaged_and_foreign_runs_are_refused(
    command: list[str], damage: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

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
        (run / "config.yaml").write_text(config.replace("pyro_vae.guides.DiagonalNormalGuide", "antigravity.Guide"))
    words = ["train", "--resume", str(run)] if command == ["train"] else [command[0], str(run), *command[1:]]
    _refused(capsys, *words)
    assert "antigravity" not in sys.modules


def test_user_components_work_by_import_path_and_need_trust_to_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "from pyro_vae import DiagonalNormalGuide\nclass MyGuide(DiagonalNormalGuide):\n    '''A guide of my own.'''\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = str(tmp_path / "run")
    assert main(["train", *QUICK, "--guide", "mine.MyGuide", "--out", run]) == 0
    assert "--trust mine" in _refused(capsys, "evaluate", run, "--num_samples", "3")
    assert main(["evaluate", run, "--num_samples", "3", "--trust", "mine"]) == 0


def test_an_abbreviated_option_does_not_get_round_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evilmod.py").write_text("raise SystemExit('executed')")
    (tmp_path / "evil.yaml").write_text("guide: evilmod.X")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for words in (["--conf", "evil.yaml"], ["--conf=evil.yaml"], ["--config", "evil.yaml"], ["--config=evil.yaml"]):
        _refused(capsys, "train", *words)
    assert "evilmod" not in sys.modules


def test_a_run_of_somebody_else_downloads_nothing(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(trained, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"] = {"class_path": "pyro_vae.MNIST", "init_args": {"root": str(tmp_path / "victim")}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    for words in (["evaluate", str(run)], ["sample", str(run)], ["train", "--resume", str(run)]):
        assert "nothing is downloaded" in _refused(capsys, *words)
    assert not (tmp_path / "victim").exists()


def test_missing_words_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["evaluate"], ["sample", "--num"], ["train", "--resume"], ["evaluate", "x", "--split", "all"]):
        assert f"See pyro-vae {words[0]} --help" in _refused(capsys, *words)


def test_help_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "pyro-vae evaluate RUN" in capsys.readouterr().out
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    for word in ("--likelihood", "--resume", "--out", "BernoulliLikelihood", "--lr_schedule"):
        assert word in shown
    assert "unknown" not in _refused(capsys, "fly")


@pytest.mark.slow
def test_the_module_is_the_command(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pyro_vae", "train", "--latent_dim", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"--latent_dim: must be at least 1, got 0\. .*\n", done.stderr)


def test_no_space_left_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert "No space left" in _refused(capsys, "train", *QUICK, "--out", str(tmp_path / "run"))


@pytest.mark.slow
def test_killed_and_resumed_runs_end_bit_for_bit_as_the_whole(tmp_path: Path) -> None:
    assert kill_and_resume(tmp_path, kills=3, per_run=3, seed=1) == 0


def test_pseudo_inputs_start_at_training_data(tmp_path: Path) -> None:
    vamp = ["--prior", "VampPrior", "--prior.num_components", "4", "--optimizer.lr", "0"]
    assert main(["train", *QUICK, *vamp, "--out", str(tmp_path / "run")]) == 0
    u = load_run(tmp_path / "run").vae.prior.pseudo_inputs
    assert ((u - 0.02).abs().minimum((u - 0.98).abs()) < 1e-5).all()  # binary images, off the flat ends of the sigmoid
