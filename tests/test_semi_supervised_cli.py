"""M2 on the command line: training, resuming, evaluation, classification, and errors."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from pyro_vae import Digits
from pyro_vae.cli.main import main
from pyro_vae.cli.train_options import parse_args
from pyro_vae.experiments.experiment import instantiate, load_run
from pyro_vae.experiments.labels import count_classes
from pyro_vae.experiments.latent_data import active_latents, check_same_data, latents_of
from pyro_vae.guides import DiagonalNormalGuide, IAFGuide
from pyro_vae.models.build import build_vae
from pyro_vae.models.stacked import StackedVAE
from pyro_vae.networks import MLP, ContextNetwork, ConvDecoder, ConvEncoder, GatedMLP
from pyro_vae.networks.conditioned import ConcatenatedNetwork, factory_options, with_context
from pyro_vae.priors import StandardNormalPrior
from pyro_vae.training import RunFolder

SMALL = [word for part in ("likelihood", "guide", "classifier") for word in (f"--{part}.net.hidden", "[6]")]
QUICK = ["--epochs", "2", "--num_samples", "5", "--latent_dim", "2", "--device", "cpu", "--batch_size", "450"]
M2 = ["train", "--model", "M2", *QUICK, *SMALL, "--data.labels", "40"]
pytestmark = pytest.mark.usefixtures("single_precision")


@pytest.fixture(scope="module")
def m2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_default_dtype(torch.float32)
    path = tmp_path_factory.mktemp("runs") / "m2"
    assert main([*M2, "--data.label_seed", "3", "--alpha", "0.5", "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_default_dtype(torch.float32)
    path = tmp_path_factory.mktemp("runs") / "vae"
    assert main(["train", *QUICK, *SMALL[:4], "--optimizer.lr", "0.01", "--out", str(path)]) == 0
    return path


def error_line(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run a command line that must fail with one line on standard error."""
    capsys.readouterr()
    assert main(list(argv)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


# Networks of two inputs


def test_a_perceptron_of_both_inputs_is_that_of_their_concatenation() -> None:
    net = with_context(lambda i, o: None, 3)  # any factory is accepted
    assert callable(net)
    context = with_context(MLP, 3)((2, 4), (5,))
    plain = MLP((11,), (5,))
    first, rest = plain.layers[0], [m for m in plain.layers if isinstance(m, torch.nn.Linear)][1:]
    x, c = torch.randn(6, 2, 4), torch.randn(3, 6, 3)
    with torch.no_grad():
        first.weight.copy_(torch.cat([context.net.layers[0].weight, context.context[0].weight], -1))
        first.bias.copy_(context.net.layers[0].bias)
        for target, source in zip(rest, [m for m in context.out.layers if isinstance(m, torch.nn.Linear)], strict=True):
            target.load_state_dict(source.state_dict())
    both = torch.cat([x.flatten(1).expand(3, 6, 8), c], -1)
    torch.testing.assert_close(context(x, c), plain(both))


def test_the_network_of_a_context_by_its_class() -> None:
    image, code = (1, 8, 8), (2,)
    assert isinstance(with_context(GatedMLP, 3)(image, code), ConcatenatedNetwork)
    assert isinstance(with_context(ConvDecoder, 3)(code, image), ConcatenatedNetwork)
    net = with_context(ConvEncoder, 3)(image, code)
    assert isinstance(net, ContextNetwork)
    assert net(torch.zeros(4, 1, 8, 8), torch.zeros(5, 4, 3)).shape == (5, 4, 2)
    dropped = with_context(parse_net("--guide.net.dropout", "0.5"), 3)(image, code)
    assert any(isinstance(m, torch.nn.Dropout) for m in dropped.modules())


def parse_net(*argv: str) -> object:
    return factory_options(instantiate(parse_args(list(argv)))["guide"])[1]["net"]


def test_factory_options_are_detected_through_partials() -> None:
    kind, options = factory_options(parse_net("--guide.net.hidden", "[7]"))
    assert kind is MLP
    assert (options["hidden"], options["activation"]) == ((7,), "tanh")
    assert factory_options(IAFGuide)[1]["net"] is MLP
    assert factory_options(len) == (None, {})


# Defaults


@pytest.mark.parametrize(
    ("estimator", "objective"), [("enumerate", "EnumeratedELBO"), ("score", "ScoreFunction"), ("relaxed", "ELBO")]
)
def test_the_objective_follows_the_estimator(estimator: str, objective: str) -> None:
    options = parse_args(["--model", "M2", "--classifier.estimator", estimator])
    assert options.objective.class_path.endswith(f".{objective}")
    options = parse_args(["--model", "M2", "--classifier.estimator", estimator, "--objective", "IWAE"])
    assert options.objective.class_path.endswith(".IWAE")


def test_the_default_likelihood_of_latents_can_be_replaced() -> None:
    options = parse_args(["--model", "M2", "--m1", "runs/x"])
    assert options.likelihood.class_path.endswith("NormalLikelihood")
    assert options.likelihood.init_args.scale == "network"
    options = parse_args(["--model", "M2", "--m1", "runs/x", "--likelihood", "LaplaceLikelihood"])
    assert options.likelihood.init_args.scale == "global"
    assert parse_args([]).likelihood.class_path.endswith("BernoulliLikelihood")


# Training


def test_a_run_records_the_protocol_of_its_labels(m2: Path) -> None:
    config = yaml.safe_load((m2 / "config.yaml").read_text())
    assert (config["model"], config["alpha"], config["data"]["init_args"]["label_seed"]) == ("M2", 0.5, 3)
    assert config["objective"]["class_path"].endswith("EnumeratedELBO")
    result = json.loads((m2 / "classification-test-classifier-seed0.json").read_text())
    expected = {"labels": 40, "label_seed": 3, "alpha": 0.5, "classification_weight": 0.5 * 1350 / 40, "model": "M2"}
    assert {key: result["protocol"][key] for key in expected} == expected
    assert result["protocol"]["split"] == "test"
    assert (m2 / "log_likelihood-test-guide-5-seed0.json").exists()
    figures = {p.stem for p in (m2 / "figures").iterdir()}
    assert {"training_curves", "analogies", "class_samples", "confusion"} <= figures
    assert "classification-test-classifier-seed0" in figures


def test_the_validation_error_of_every_epoch_is_that_of_the_classifier(m2: Path) -> None:
    records = RunFolder(m2).metrics()
    assert [r["epoch"] for r in records] == [1, 2]
    trained = load_run(m2)
    assert records[-1]["validation_error"] == pytest.approx(trained.classification("validation").error_rate)
    images = trained.splits.validation
    wrong = trained.vae.classify(images.batch(slice(None))).argmax(-1) != images.labels
    assert records[-1]["validation_error"] == pytest.approx(100 * float(wrong.double().mean()))


@pytest.mark.slow
def test_a_resumed_run_equals_the_longer_one_bit_for_bit(m2: Path, tmp_path: Path) -> None:
    argv = [*M2, "--data.label_seed", "3", "--alpha", "0.5"]
    assert main([*argv, "--epochs", "1", "--out", str(tmp_path / "short")]) == 0
    assert main(["train", "--resume", str(tmp_path / "short"), "--epochs", "2"]) == 0
    short, whole = (RunFolder(p).load_weights() for p in (tmp_path / "short", m2))
    assert all(torch.equal(short[k], whole[k]) for k in whole)
    assert main(["train", "--config", str(m2 / "config.yaml"), "--out", str(tmp_path / "again")]) == 0
    again = RunFolder(tmp_path / "again").load_weights()
    assert all(torch.equal(again[k], whole[k]) for k in whole)


@pytest.mark.slow
def test_other_estimators_priors_and_guides_train(tmp_path: Path) -> None:
    argv = ["--classifier.estimator", "relaxed", "--label_prior.learn", "true", "--guide", "IAFGuide", "--epochs", "1"]
    out = tmp_path / "run"
    assert main([*M2, *argv, "--guide.net.hidden", "[6]", "--out", str(out)]) == 0
    trained = load_run(out)
    assert isinstance(trained.vae.guide.guide, IAFGuide)
    assert trained.vae.label_prior.logits.requires_grad
    assert trained.vae.likelihood.net.context_dims == (10,)


@pytest.mark.slow
def test_a_guide_is_refitted_and_the_model_preserved(m2: Path, tmp_path: Path) -> None:
    argv = ["--epochs", "1", "--num_samples", "5", "--batch_size", "450", "--guide.net.hidden", "[5]"]
    assert main(["refit", str(m2), *argv, "--out", str(tmp_path / "refit")]) == 0
    before, after = RunFolder(m2).load_weights(), RunFolder(tmp_path / "refit").load_weights()
    assert all(torch.equal(after[k], before[k]) for k in before if k.startswith("model."))
    assert after["guide.guide.net.net.layers.0.weight"].shape[0] == 5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data.labels", "40"], "--data.labels: a VAE takes no labels, got 40. Add --model M2."),
        (["--m1", "runs/x"], "--m1: must come with --model M2, got a VAE. Omit it."),
        (["--model", "M2"], "--model M2: the number of labels must be given, got none. Add for "),
        (["--model", "M2", "--data.labels", "1350"], "every class must have at least as many examples"),
        (["--model", "M2", "--data.labels", "2000"], "must not exceed the number of labelled data"),
        (["--model", "M2", "--data.labels", "5"], "every class must have a labelled example"),
        (["--model", "M2", "--data", "frey_faces"], "--model M2: the data must have labels, got FreyFaces"),
        (["--model", "M2", "--data.labels", "40", "--alpha", "-1"], "alpha >= 0"),
        (["--model", "M2", "--data.labels", "40", "--guide", "HMCGuide"], "guide: M2 must have an AmortizedGuide"),
        (["--model", "M2", "--data.labels", "40", "--prior", "VampPrior"], "a VampPrior of M2 must have its own guide"),
        (["--model", "M2", "--data.labels", "40", "--objective", "ELBO"], "EnumeratedELBO"),
        (["--model", "M2", "--data.labels", "40", "--m1", "/no/run"], "the run folder must exist, got /no/run"),
        (["--model", "M3"], "--model: must be"),
        (["--model", "M2", "--classifier", "DiagonalNormalGuide"], "classifier: must be one of CategoricalGuide"),
        (["--seeds", "0", "1"], "--seeds: must come with --out"),
        (["--seeds", "0", "0", "--out", "x"], "--seeds: must be distinct, got 0 0."),
        (["--seeds", "0", "1", "--seed", "3", "--out", "x"], "--seeds: must be the only seeds, got --seed too"),
        (["--seeds", "-1", "--out", "x"], "--seed: must be in"),
        (["--seeds", "0", "--resume", "x"], "--seeds: must stand without --resume"),
        (["--betas", "0", "1"], "--betas: must come with --out"),
        (["--betas", "1", "1.0", "--out", "x"], "--betas: must be distinct, got 1 1."),
        (["--betas", "nan", "--out", "x"], "--betas: must be at least 0, got nan."),
        (["--betas", "-1", "--out", "x"], "--betas: must be at least 0, got -1.0."),
        (["--betas", "1", "--out", "x", "--objective.beta", "2"], "--betas: must be the only weights, got --obj"),
        (["--betas", "1", "--out", "x", "--objective", "IWAE"], "option --objective.beta; IWAE has num"),
        (["--betas", "1", "--out", "x", "--model", "M2", "--data.labels", "40"], "--betas: must come with --model VAE"),
        (["--betas", "1", "--resume", "x"], "--betas: must stand without --resume"),
        (["--betas", "1", "--seeds", "1", "--out", "x"], "--seeds: must stand without --betas"),
    ],
)
def test_bad_input_prints_one_line_and_writes_nothing(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in error_line(capsys, "train", *argv)
    assert not any(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("labels", "message"), [([0, 1, 3], "got no label of class 2"), ([0, -1], "got one class"), ([1, 1], "of class 0")]
)
def test_classes_are_numbered_without_a_gap(labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count_classes(torch.tensor(labels))


# Several seeds


@pytest.mark.slow
def test_several_seeds_are_resumed_and_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*M2, "--epochs", "1", "--seeds", "0", "4", "--out", str(tmp_path / "m2")]
    assert main(argv) == 0
    output = capsys.readouterr().out
    configs = [yaml.safe_load((tmp_path / f"m2-{s}" / "config.yaml").read_text()) for s in (0, 4)]
    assert [(c["seed"], c["data"]["init_args"]["label_seed"]) for c in configs] == [(0, 0), (4, 4)]
    files = [tmp_path / f"m2-{s}" / "classification-test-classifier-seed0.json" for s in (0, 4)]
    errors = [json.loads(f.read_text())["error"]["mean"] for f in files]
    margin = f"{12.706 * np.std(errors, ddof=1) / math.sqrt(2):.2f}"
    assert f"mean test error in %: {np.mean(errors):.2f} +- {margin}, 95% interval of the mean over 2 seeds" in output
    rows = [line.split() for line in output.splitlines() if line[:2] in ("0 ", "4 ")]
    assert [row[:2] for row in rows] == [[seed, f"{e:.3f}"] for seed, e in zip("04", errors, strict=True)]
    saved = json.loads((tmp_path / "m2-seeds.json").read_text())
    assert saved["values"] == pytest.approx(dict(zip("04", errors, strict=True)))
    assert saved["mean"] == pytest.approx(np.mean(errors))
    assert saved["interval"][1] - saved["mean"] == pytest.approx(float(margin), abs=0.006)
    assert saved["protocol"]["split"] == "test"
    assert "seed" not in saved["protocol"]
    assert (tmp_path / "m2-seeds.png").stat().st_size > 5000
    files[1].unlink()  # as after a killed evaluation
    modified = (tmp_path / "m2-0" / "weights.safetensors").stat().st_mtime_ns
    assert main(argv) == 0
    again = capsys.readouterr().out
    assert "m2-0, finished" in again
    assert "m2-4, resumed" in again
    assert again.splitlines()[-1] == output.splitlines()[-1]
    assert (tmp_path / "m2-0" / "weights.safetensors").stat().st_mtime_ns == modified
    assert "of the same options, got another alpha" in error_line(capsys, *argv, "--alpha", "0.7")


# Evaluation


def test_methods_that_need_a_vae_are_rejected_and_others_run(m2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("gaps", "diagnostics"):
        line = error_line(capsys, "evaluate", str(m2), "--method", method)
        assert line.startswith(f"evaluate: --method {method} requires a VAE, got a model with classes")
    few = ["--num_data", "4", "--num_distributions", "5", "--num_chains", "2", "--engine", "eager"]
    assert main(["evaluate", str(m2), "--method", "ais", *few]) == 0


def test_the_class_posterior_comes_with_its_error(m2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["evaluate", str(m2), "--method", "class_posterior", "--num_samples", "6", "--num_data", "20"]
    assert main([*argv, "--engine", "eager"]) == 0
    posterior, classes = (
        json.loads((m2 / f"{kind}-test-posterior-6-seed0-first20.json").read_text())
        for kind in ("class_posterior", "classification")
    )
    log_joint = torch.tensor(posterior["per_datum"]["log_joint"], dtype=torch.float64)
    p = torch.tensor(classes["per_datum"]["probabilities"], dtype=torch.float64)
    torch.testing.assert_close(p, log_joint.softmax(-1), check_dtype=False)
    assert classes["protocol"]["classified_by"] == "class_posterior"
    labels = load_run(m2).splits.test.labels[:20]
    assert classes["error"]["mean"] == pytest.approx(100 * float((p.argmax(-1) != labels).double().mean()))


@pytest.mark.slow
def test_a_vae_has_no_classes(vae: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["evaluate", str(vae), "--method", "classification"], ["sample", str(vae), "--label", "1"]):
        assert "must be of a model with classes, got a VAE" in error_line(capsys, *argv)
    assert "must be of a model with classes" in error_line(capsys, "classify", str(vae), "--split", "test")


def test_the_labelled_training_images_are_evaluated(m2: Path) -> None:
    trained = load_run(m2)
    assert not trained.images("train").paired
    result = trained.classification("train")
    assert len(result) == 40
    assert result.labels.bincount().tolist() == [4] * 10


@pytest.mark.slow
def test_report_and_compare_show_the_error(m2: Path, vae: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(m2)]) == 0
    page = (m2 / "report.html").read_text()
    error = load_run(m2).classification("test").error_rate
    assert "error [%]" in page
    assert f">{error:.2f}</td>" in page
    assert "Confusion matrix" in page
    capsys.readouterr()
    assert main(["compare", str(m2), str(vae)]) == 0
    output = capsys.readouterr().out
    assert "error (%)" in output
    assert f"{error:.2f} +- " in output


def test_samples_of_one_class(m2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "three.npz"
    assert main(["sample", str(m2), "--label", "3", "--num", "5", "--out", str(out)]) == 0
    assert np.load(out)["images"].shape == (5, 1, 8, 8)
    assert "--label: must be in 0..9, got 10" in error_line(capsys, "sample", str(m2), "--label", "10")


# Classify


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image files of a digit in several formats, and files that are rejected."""
    from PIL import Image
    from sklearn.datasets import load_digits

    folder, digits = tmp_path_factory.mktemp("images"), load_digits().images
    np.save(folder / "few.npy", digits[:3].astype("uint8"))
    np.savez(folder / "unit.npz", images=digits[:3] / 16)
    np.save(folder / "above.npy", (digits[:3] * 10).astype("uint8"))
    binary = ((digits[5] > 8) * 255).astype("uint8")
    Image.fromarray(binary).save(folder / "one.png")
    np.save(folder / "one.npy", digits[5].astype("uint8") // 9)  # zeros and ones
    Image.fromarray(np.kron(binary, np.ones((2, 2), "uint8"))).save(folder / "large.png")
    Image.fromarray(np.stack([binary] * 3, -1)).save(folder / "colour.png")
    (folder / "text.png").write_text("no picture")
    return folder


def test_probabilities_are_those_of_the_classifier(m2: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.json"
    files = [str(images / name) for name in ("one.png", "few.npy", "unit.npz", "one.npy")]
    assert main(["classify", str(m2), "--seed", "0", files[0], "--out", str(out), *files[1:]]) == 0
    result = json.loads(out.read_text())
    assert [row["image"] for row in result["images"][:2]] == [files[0], f"{files[1]}[0]"]
    p = torch.tensor([row["probabilities"] for row in result["images"]])
    x = torch.from_numpy(np.load(images / "one.npy")).float().reshape(1, 1, 8, 8)
    expected = load_run(m2).vae.classify(x)
    torch.testing.assert_close(p[-1:], expected)  # zeros and ones are binary already
    torch.testing.assert_close(p[0:1], expected)  # and black and white of a picture
    torch.testing.assert_close(p[1:4], p[4:7])  # 0..16 and [0, 1] give equal draws
    assert [row["class"] for row in result["images"]] == p.argmax(-1).tolist()


def test_a_split_is_classified_as_it_is_evaluated(m2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "p.csv"
    assert main(["classify", str(m2), "--split", "test", "--num_data", "7", "--out", str(out)]) == 0
    assert "label" in capsys.readouterr().out.splitlines()[0]
    rows = np.genfromtxt(out, delimiter=",", skip_header=1)
    expected: Tensor = load_run(m2).classification("test", num_data=7).probabilities
    torch.testing.assert_close(torch.from_numpy(rows[:, 3:-1]), expected, rtol=1e-5, atol=1e-6)
    argv = ["classify", str(m2), "--split", "test", "--num_data", "3", "--num_samples", "4"]
    assert main([*argv, "--out", str(tmp_path / "q.json")]) == 0
    record = json.loads((tmp_path / "q.json").read_text())
    assert (record["by"], record["seed"], record["weights"]) == ("class_posterior", 0, "final")
    assert record["weights_sha256"] == RunFolder(m2).provenance()["weights_sha256"]


def test_images_unlike_the_training_data_get_no_class(
    m2: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise, out = tmp_path / "noise.npy", tmp_path / "p.json"
    np.save(noise, np.random.default_rng(0).integers(0, 2, (5, 8, 8), dtype="uint8"))
    assert main(["classify", str(m2), str(noise), str(images / "one.npy"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("unlike the training data (p = 0.0099)") == 5
    rows = json.loads(out.read_text())["images"]
    assert [row["class"] is None for row in rows] == [row["p_value"] <= 0.01 for row in rows] == [True] * 5 + [False]
    assert main(["classify", str(m2), str(noise), "--reject", "0"]) == 0
    assert "unlike the training" not in capsys.readouterr().out
    assert main(["outliers", str(m2), str(noise)]) == 0
    assert len([line for line in capsys.readouterr().out.splitlines() if line.split()[-1] == "0.0099"]) == 5
    assert "level must be at least 0.0099" in error_line(capsys, "classify", str(m2), str(noise), "--reject", "0.001")
    assert "--reject: must be at least 0" in error_line(capsys, "classify", str(m2), str(noise), "--reject", "2")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["large.png"], "images must be of shape (1, 8, 8), as the training data, got (1, 16, 16)"),
        (["colour.png"], "got (3, 8, 8)"),
        (["above.npy"], "integers must lie in 0..16"),
        (["text.png"], "damaged or not an image"),
        (["nowhere.png"], "images must be files"),
        ([], "either images or --split must be given, got neither"),
        (["one.png", "--split", "test"], "got both"),
        (["one.png", "--num_data", "3"], "--num_data: must come with --split"),
        (["one.png", "--num_samples", "0"], "classify: num_samples must be at least 1"),
        (["one.png", "--out", "x.txt"], "--out: must end in .csv or .json"),
        (["one.png", "--overwrite"], "--overwrite: must come with --out"),
        (["one.png", "--seed", "-1"], "--seed: must be in"),
    ],
)
def test_images_that_cannot_be_classified_are_rejected(
    argv: list[str],
    message: str,
    m2: Path,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(images)
    assert message in error_line(capsys, "classify", str(m2), *argv)


# M1+M2


@pytest.mark.slow
def test_m2_on_the_latents_of_a_run(vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_vae.experiments.assembly.active_latents", lambda vae, train: torch.tensor([1]))
    out = tmp_path / "both"
    assert main([*M2, "--m1", str(vae), "--out", str(out)]) == 0
    trained = load_run(out)
    assert isinstance(trained.vae, StackedVAE)
    assert trained.splits.data_shape == (1, 8, 8)
    before, weights = RunFolder(vae).load_weights(), RunFolder(out).load_weights()
    decoder = trained.vae.model.decoder.state_dict()
    assert all(torch.equal(decoder[k], before[f"model.likelihood.{k}"]) for k in decoder)
    assert "guide.classifier.net.layers.0.weight" in weights
    assert weights["guide.classifier.net.layers.0.weight"].shape == (6, 1)
    result = json.loads((out / "classification-test-classifier-seed0.json").read_text())
    assert (result["protocol"]["model"], result["protocol"]["m1"]) == ("M1+M2", "vae")
    assert RunFolder(out).metrics()[-1]["validation_error"] == pytest.approx(
        trained.classification("validation").error_rate
    )
    likelihood = json.loads((out / "log_likelihood-test-guide-5-seed0.json").read_text())["protocol"]
    assert (likelihood["dimensions"], likelihood["discrete"]) == (64, True)  # of the images, not of the latents
    assert main(["edit", str(out), "3", "--to", "7", "--amounts", "1", "--out", str(tmp_path / "edit.npz")]) == 0
    guide, model, label = trained.vae.guide, trained.vae.model, torch.eye(10)
    with torch.no_grad():
        x = trained.splits.test.batch([3])
        best = trained.vae.class_probabilities(x, num_samples=None).argmax(-1)
        z = guide.guide.posterior(guide.lower.posterior(x).mean[:, [1]], label[best]).mean
        moved = torch.cat([torch.zeros(1, 1), model.likelihood(z, label[[7]]).mean], -1)  # the rest at its prior mean
        expected = model.decoder(moved).mean
    assert (torch.from_numpy(np.load(tmp_path / "edit.npz")["images"]) - expected).abs().max() < 1e-5


def test_m1_must_be_a_vae_of_the_same_images(vae: Path, m2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = ["--data.seed", "1", "--m1", str(vae), "--out", "never"]
    assert "--m1: the run must be of the same data, got seed=0" in error_line(capsys, *M2, *other)
    assert "--m1: the run must be of a VAE, got M2" in error_line(capsys, *M2, "--m1", str(m2), "--out", "never")
    check_same_data(Digits(), Digits(labels=100, label_seed=3), "run")


def test_inactive_latents_are_omitted() -> None:
    from pyro_vae.likelihoods import BernoulliLikelihood

    vae = build_vae((1, 8, 8), 3, StandardNormalPrior, BernoulliLikelihood, DiagonalNormalGuide)
    train = Digits().load().train
    last = vae.guide.net.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.weight[0], last.weight[2] = 1.0, 1e-4
        last.bias.fill_(5.0)  # a mean that is large but does not vary
    assert active_latents(vae, train).tolist() == [0]
    last.weight.data.zero_()
    with pytest.raises(ValueError, match="got none of 3"):
        active_latents(vae, train)


def test_latents_preserve_labels_and_are_sampled_for_every_batch() -> None:
    from pyro_vae.likelihoods import BernoulliLikelihood

    pieces = StandardNormalPrior, BernoulliLikelihood, DiagonalNormalGuide
    vae = build_vae((1, 8, 8), 3, *pieces)
    splits = Digits(labels=20).load()
    result = latents_of(vae, splits, torch.tensor([0, 2]))
    x, y = result.train.arguments(slice(5))
    assert x.shape == (5, 2)
    assert torch.equal(y, splits.train.labels[:5])
    assert not torch.equal(result.test.batch([0]), result.test.batch([0]))
    assert not result.test.paired


def test_edit_keeps_the_style_and_changes_the_class(m2: Path, tmp_path: Path, capsys) -> None:
    out, model = str(tmp_path / "edit.npz"), load_run(m2)
    assert main(["edit", str(m2), "3", "--to", "7", "--amounts", "0", "1", "--out", out]) == 0
    x, label = model.splits.test.batch([3]), torch.eye(10)
    with torch.no_grad():
        best = label[model.vae.classify(x).argmax(-1)]
        z = model.vae.guide.guide.posterior(x, best).mean
        expected = torch.cat([model.vae.likelihood(z, y).mean for y in (best, label[[7]])])
    assert (torch.from_numpy(np.load(out)["images"]) - expected).abs().max() < 1e-5
    line = error_line(capsys, "edit", str(m2), "3", "--to", "7", "--from", "1")
    assert line == "--from: needs a model without classes, got SemiSupervisedVAE."
    assert main(["explore", str(m2), "--num_images", "10"]) == 0
    assert '"classes":10' in (m2 / "explorer.html").read_text()
