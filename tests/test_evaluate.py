"""``pyro-vae evaluate``: every method, its files, and its errors."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pyro_vae import VAE, evaluation
from pyro_vae.cli.main import main
from pyro_vae.evaluation import AccurateLogLikelihood, LogLikelihood, Quantity, Result, annealed_log_likelihood
from pyro_vae.evaluation.batched import BatchedEvaluation
from pyro_vae.experiments import methods
from pyro_vae.experiments.evaluation_options import Option, options_of
from pyro_vae.experiments.experiment import load_run
from pyro_vae.experiments.methods import METHODS, find_methods, method_of
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.plotting import result_figure
from pyro_vae.plotting.panels import page
from pyro_vae.priors import StandardNormalPrior

QUICK = ["--epochs", "2", "--num_samples", "5", "--latent_dim", "2", "--device", "cpu"]
pytestmark = pytest.mark.usefixtures("single_precision")
ANNEALING = ["--num_distributions", "5", "--num_chains", "2", "--num_steps", "2", "--engine", "eager"]
SMALL = {
    "importance": ["--num_samples", "30"],
    "accurate": ["--accuracy", "0.5", "--max_samples", "1024", "--max_distributions", "1"],
    "ais": ANNEALING,
    "sandwich": ANNEALING,
    "harmonic": [
        "--num_samples",
        "32",
        "--num_fitted",
        "52",
        "--num_chains",
        "4",
        "--warmup",
        "5",
        "--engine",
        "eager",
    ],
    "outliers": ["--num_samples", "2"],
    "gaps": ["--num_samples", "20", "--num_steps", "3", "--num_particles", "2"],
    "codelength": ["--num_samples", "10", "--chunk_size", "6"],
    "rate_distortion": ["--chunk_size", "6"],
    "diagnostics": ["--num_simulations", "100", "--num_replicates", "10"],
    "sample_quality": ["--num_repeats", "2", "--num_steps", "5"],
}
FILES = {
    "sample_quality": ["sample_quality-test-2-steps5-seed0-first12"],
    "importance": ["log_likelihood-test-guide-30-seed0-first12"],
    "accurate": ["accurate-test-0.5-max_samples1024-max_distributions1-seed0-first12"],
    "ais": ["ais-test-prior-5x2-steps2-seed0-first12"],
    "sandwich": ["sandwich-test-prior-5x2-steps2-seed0-first12"],
    "harmonic": ["harmonic-test-prior-32x4-fitted52-warmup5-seed0-first12"],
    "outliers": ["outliers-test-2-seed0-first12"],
    "gaps": ["gaps-test-20x3-particles2-seed0-first12"],
    "codelength": ["codelength-test-10-chunk6-seed0-first12"],
    "rate_distortion": ["rate_distortion-test-chunk6-seed0-first12"],
    "diagnostics": [
        f"{kind}-test-100-sims100-replicates10-seed0-first12" for kind in ("diagnostics", "calibration", "predictive")
    ],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_default_dtype(torch.float32)
    path = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", *QUICK, "--out", str(path)]) == 0
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def error_line(capsys: pytest.CaptureFixture[str], run: Path, *arguments: str) -> str:
    """Evaluate, which must fail with one line and write nothing."""
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    capsys.readouterr()
    assert main(["evaluate", str(run), *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before
    return line


def test_training_draws_the_figure_of_its_estimate(trained: Path) -> None:
    assert (trained / "figures" / "log_likelihood-test-guide-5-seed0.png").is_file()


def test_the_tested_methods_are_those_of_a_vae() -> None:
    vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
    of_a_vae = {name for name, method in METHODS.items() if method.applies(vae)}
    assert set(SMALL) == of_a_vae - {"disentanglement"}  # of data with factors


def test_figures_of_a_run_are_drawn_for_a_paper(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "paper"
    assert main(["figures", str(run), "--format", "svg", "--out", str(folder)]) == 0
    assert capsys.readouterr().out == f"{len(list(folder.glob('*.svg')))} figures: {folder}/\n"
    names = {path.stem for path in folder.glob("*.svg")}
    assert {"training_curves", "latents", *(path.stem for path in run.glob("*-test-*.json"))} <= names
    assert "Digits, dynamic binarization" in (folder / "latents.txt").read_text()
    assert "Digits" not in (folder / "latents.svg").read_text()
    for words, message in ((["--dpi", "3"], "--dpi: must be"), (["--out", __file__], "--out: must be a folder")):
        assert main(["figures", str(run), *words]) == 2
        assert message in capsys.readouterr().err


def test_factors_must_be_known(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_line(capsys, run, "--method", "disentanglement")
    assert "the data must have known factors, got Digits. Use Faces" in line


OF_A_SPLIT = (["--against", "noise"], ["--split", "test"], ["--num_data", "3"], ["--out", "a.json"], ["--overwrite"])


def test_outliers_of_a_run_are_listed_and_reported(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["outliers", str(run), "--against", "noise", "--num_samples", "2", "--num_shown", "3"]) == 0
    output = capsys.readouterr().out
    assert "AUROC [95% interval]" in output
    assert len(re.findall(r"^test\[\d+\] ", output, re.MULTILINE)) == 3
    assert (run / "figures" / "outliers-test-2-against-noise-seed0.png").is_file()
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "Unlike the training data" in page
    assert "p-value of all outlier scores together" in page
    capsys.readouterr()
    for arguments, message in [
        (
            ["--against", "nowhere"],
            "must be a file or one of noise, constant, inverted, rotated, got nowhere",
        ),
        *((["image.png", *words], f"{words[0]}: must come without image files") for words in OF_A_SPLIT),
        (["--num_reference", "9"], "outliers: reference must hold at least 10 data, got 9"),
        (["--num_shown", "0"], "num_shown must be at least 1"),
        (["--combination", "vote"], "--combination: must be one of"),
    ]:
        assert main(["outliers", str(run), *arguments]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line


def test_outliers_of_a_file_are_known_by_its_content(run: Path, tmp_path: Path, capsys) -> None:
    """More data than there are is all of them, in the name of the file too."""
    file = tmp_path / "odd.npz"
    argv = ["outliers", str(run), "--against", str(file), "--num_samples", "2", "--num_data", "5000"]
    outputs = []
    for level in (0, 15, 15):
        np.savez(file, images=np.full((20, 8, 8), level, dtype=np.uint8))
        assert main(argv) == 0
        outputs.append(capsys.readouterr())
    results = [Result.load(path) for path in run.glob("outliers-test-2-against-odd-????????-seed0.json")]
    assert len({result.protocol["outliers_sha256"] for result in results}) == 2
    assert ["not computed again" in output.err for output in outputs] == [False, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("method", SMALL)
def test_each_method_saves_its_results_and_figures(method: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--method", method, *SMALL[method], "--num_data", "12"]
    assert main(["evaluate", str(run), *arguments]) == 0
    output = capsys.readouterr().out
    for name, kind in zip(FILES[method], METHODS[method].results, strict=True):
        result = Result.load(run / f"{name}.json")
        assert type(result) is kind
        assert result.protocol["split"] == "test"
        assert result.protocol["dataset"] == "Digits"
        assert (run / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"result: {run / name}.json" in output
        assert f"figure: {run / 'figures' / name}.png" in output
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.*")}
    assert main(["evaluate", str(run), *arguments]) == 0  # prints the same
    assert capsys.readouterr().out == output
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.*")} == before
    assert main(["evaluate", str(run), *arguments, "--overwrite"]) == 0


def test_every_option_reaches_the_function(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    passed: dict = {}

    @wraps(annealed_log_likelihood)
    def function(model, guide, data, **options):
        passed.update(options, num_data=len(data))
        raise KeyboardInterrupt

    monkeypatch.setitem(METHODS, "ais", method_of(function, stem=METHODS["ais"].stem))
    numbers = {"num_distributions": 7, "num_chains": 3, "num_steps": 4, "batch_size": 6, "seed": 5, "num_data": 9}
    choices = {"start": "guide", "schedule": "linear", "engine": "eager"}
    argv = [word for name, value in (numbers | choices).items() for word in (f"--{name}", str(value))]
    before = sorted(run.rglob("*"))
    assert main(["evaluate", str(run), "--method", "ais", *argv]) == 130
    assert {name: passed[name] for name in numbers | choices} == numbers | choices
    assert passed["protocol"]["split"] == "test"
    assert sorted(run.rglob("*")) == before  # interrupted: nothing was written


def test_options_follow_from_signature_and_docstring() -> None:
    def function(
        model: Any,
        guide: Any,
        data: Any,
        *,
        num_points: int = 3,
        lr: float | None = None,
        rule: Literal["left", "right"] | Any = "left",
        exact: bool = True,
        batch_size: int = 5,
        weights: torch.Tensor | None = None,
        seed: int = 0,
    ) -> LogLikelihood:
        """Estimate.

        Args:
            num_points: number of points of ``"left"``,
                as in :func:`~pyro_vae.log_likelihood`.
            lr: step size.
        """
        raise NotImplementedError

    method = method_of(function)
    points, lr, rule, exact, batch_size = method.options
    assert points == Option(
        "num_points", 3, "number of points of left, as in pyro_vae.log_likelihood", int, (), "-points{}"
    )
    assert lr == Option("lr", None, "step size", float, (), "-lr{}")
    assert (rule.choices, rule.default, rule.mark) == (("left", "right"), "left", "-{}")
    assert (exact.choices, exact.default) == (("yes", "no"), "yes")
    assert (batch_size.default, batch_size.mark) == (5, "")
    options = {**method.defaults(), "num_points": 7, "lr": 0.5, "rule": "right", "batch_size": 9}
    assert method.file_stem(options) == "test-points7-lr0.5-right-seed0"


def test_an_inflated_proposal_has_its_factor_in_the_name_and_the_protocol(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--num_samples", "30", "--num_data", "12"]
    assert main(["evaluate", str(run), *small, "--proposal", "inflated"]) == 0
    assert main(["evaluate", str(run), *small, "--proposal", "inflated", "--inflate", "1.5"]) == 0
    for factor in ("1.2", "1.5"):
        result = Result.load(run / f"log_likelihood-test-inflated-30-x{factor}-seed0-first12.json")
        assert factor in result.protocol["proposal"]
    line = error_line(capsys, run, *small, "--inflate", "1.5")
    assert line == "--inflate: must come with --proposal inflated, got 1.5 alone."


def test_an_accuracy_chooses_the_method_and_an_optimised_proposal_is_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), *SMALL["accurate"], "--num_data", "12"]) == 0
    result = Result.load(run / f"{FILES['accurate'][0]}.json")
    assert isinstance(result, AccurateLogLikelihood)
    assert result.failures() == []
    assert "importance, guide, 1,024 samples" in capsys.readouterr().out
    kept, number = result.protocol["proposal"], result.protocol["num_samples"]
    for proposal in ("guide", "optimised"):
        arguments = ["--proposal", proposal, "--num_samples", str(number), "--num_data", "12"]
        assert main(["evaluate", str(run), *arguments]) == 0
    results = {
        p: Result.load(run / f"log_likelihood-test-{p}-{number}-seed0-first12.json") for p in (kept, "optimised")
    }
    assert torch.equal(results[kept].log_likelihood, result.log_likelihood)  # type: ignore[attr-defined]
    assert results["optimised"].protocol["proposal"] == "optimised"
    assert abs(results["optimised"].mean() - results[kept].mean()) < 0.2
    line = error_line(capsys, run, "--method", "ais", "--accuracy", "0.1")
    assert "--method ais accepts only its own options, got --accuracy" in line


def test_gaps_accept_a_result_as_log_likelihood(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ais = run / f"{FILES['ais'][0]}.json"
    assert main(["evaluate", str(run), "--method", "ais", *ANNEALING, "--num_data", "12"]) == 0
    arguments = ["--method", "gaps", *SMALL["gaps"], "--log_likelihood", str(ais)]
    assert main(["evaluate", str(run), *arguments, "--num_data", "12"]) == 0
    (path,) = run.glob(f"gaps-*-by-{ais.stem}-*.json")
    expected = Result.load(ais).log_likelihood  # type: ignore[attr-defined]
    assert torch.equal(Result.load(path).log_likelihood, expected)  # type: ignore[attr-defined]
    line = error_line(capsys, run, *arguments, "--num_data", "11")
    assert line.startswith("--log_likelihood: must be of this model and these data, got num_data=12")
    content = json.loads(ais.read_text())
    content["protocol"]["prior"] = "Another"
    ais.write_text(json.dumps(content))
    path.unlink()
    assert "got prior=Another" in error_line(capsys, run, *arguments, "--num_data", "12")
    assert "No such file" in error_line(capsys, run, *arguments[:-1], "/nowhere.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--method", "ais", "--num_samples", "3"],
            "--method ais accepts only its own options, got --num_samples",
        ),
        (["--method", "gaps", "--proposal=prior"], "--method gaps accepts only its own options, got --proposal"),
        (["--num_chains", "3"], "--method importance accepts only its own options, got --num_chains"),
        (
            ["--method", "diagnostics", "--engine", "eager"],
            "Its options are --batch_size, --num_samples, --num_decomposed",
        ),
        (["--method", "nope"], "--method: must be one of importance"),
        (["--method"], "--method: must have a value"),
        (["--bogus", "3"], "unknown option --bogus"),
        (["--num_sam", "3"], "unknown option --num_sam; did you mean --num_samples?"),
        (["--num_samples", "0"], "evaluate: num_samples must be at least 1, got num_samples=0."),
        (["--num_samples", "many"], "--num_samples: must be an integer, got many."),
        (["--method", "gaps", "--lr", "0"], "evaluate: lr must be positive and finite, got lr=0.0"),
        (["--method", "gaps", "--lr", "nan"], "evaluate: lr must be positive and finite, got lr=nan"),
        (["--method", "harmonic", "--num_samples", "33"], "num_samples must be a multiple of num_chains"),
        (["--seed", "-1"], "--seed: must be in 0..2^63-1, got -1"),
        (["--method", "ais", "--num_distributions", "1"], "num_distributions must be at least 2"),
        (["--method", "diagnostics", "--num_bins", "7"], "num_bins"),
        (["--inflate", "2"], "--inflate: must come with --proposal inflated"),
        (["--proposal", "inflated", "--inflate", "-1"], "evaluate: inflate must be positive and finite"),
    ],
)
def test_wrong_arguments_print_one_line_and_write_nothing(
    arguments: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_line(capsys, run, *arguments)


@pytest.mark.filterwarnings("always")
def test_a_result_without_finite_numbers_is_saved_without_a_figure(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(result, **options):
        raise ValueError("bound_curve: no.")

    monkeypatch.setattr("pyro_vae.plotting.result_figure", fail)
    assert main(["evaluate", str(run), "--num_samples", "3", "--num_data", "4"]) == 0
    captured = capsys.readouterr()
    assert "figure: none" in captured.out
    assert captured.err == "warning: no figure: bound_curve: no.\n"
    assert (run / "log_likelihood-test-guide-3-seed0-first4.json").is_file()


def test_help_groups_the_options_by_method_with_their_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--help"]) == 0
    output = re.sub(r"\s+", " ", capsys.readouterr().out)
    sections = re.split(r"--method (?=\w+: )", output)[1:]
    assert [section.split(":")[0] for section in sections] == list(METHODS)
    for section, method in zip(sections, METHODS.values(), strict=True):
        for option in method.options:
            assert f"--{option.name} " in section
            assert option.default is None or f"(default {option.default})" in section
    assert main(["evaluate", "--method", "gaps", "-h"]) == 0
    output = capsys.readouterr().out
    assert "--num_particles" in output
    assert "--num_chains" not in output


def test_the_methods_agree_with_the_library(run: Path) -> None:
    assert main(["evaluate", str(run), *SMALL["importance"], "--num_data", "12", "--seed", "4"]) == 0
    result = Result.load(run / "log_likelihood-test-guide-30-seed4-first12.json")
    expected = load_run(run, device="cpu").evaluate(num_samples=30, num_data=12, seed=4)
    assert math.isclose(result.mean(), expected.mean(), rel_tol=1e-6)


@dataclass(frozen=True)
class BrightPixels(Result):
    """A new evaluation in a separate file: class, function and figure."""

    method: ClassVar[str] = "bright_pixels"
    title: ClassVar[str] = "Share of bright pixels"
    quantities: ClassVar[tuple[Quantity, ...]] = (Quantity("share", "bright pixels", "share", error="share_error"),)
    phrases: ClassVar[dict[str, str]] = {"threshold": "threshold {}"}

    share: torch.Tensor
    share_error: torch.Tensor

    def summary(self) -> dict[str, Any]:
        return self.means("share")

    def lines(self) -> list[str]:
        return [f"bright pixels   {self.mean('share'):.3f}"]


def bright_pixels(
    model: Any, guide: Any, data: Any, *, threshold: float = 0.5, protocol: dict[str, Any] | None = None
) -> BrightPixels:
    """Count.

    Args:
        threshold: intensity of a bright pixel.
    """
    share = (data.batch(slice(None)).flatten(1) >= threshold).double().mean(1)
    entries = {**(protocol or {}), "threshold": threshold, "num_data": len(share)}
    return BrightPixels(share, torch.full_like(share, 0.1), protocol=entries)


@result_figure.register(BrightPixels)
def _histogram(result: BrightPixels, *, caption: str = "") -> Figure:
    with page(2.0, caption) as (figure, (ax,)):
        ax.hist(result.share.tolist())
    return figure


def test_a_new_evaluation_needs_one_file_and_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluation, "bright_pixels", bright_pixels, raising=False)
    monkeypatch.setattr(evaluation, "__all__", [*evaluation.__all__, "bright_pixels"])  # the line in __init__
    monkeypatch.setitem(METHODS, "bright_pixels", find_methods()["bright_pixels"])
    assert main(["evaluate", str(run), "--method", "bright_pixels", "--threshold", "0.25", "--num_data", "12"]) == 0
    result = Result.load(run / "bright_pixels-test-threshold0.25-seed0-first12.json")
    assert isinstance(result, BrightPixels)
    assert result.monte_carlo_error("share") == pytest.approx(0.1 / 12**0.5)
    assert result.caption().endswith("threshold 0.25")
    assert (run / "figures" / "bright_pixels-test-threshold0.25-seed0-first12.png").is_file()
    capsys.readouterr()
    assert main(["compare", str(run)]) == 0
    assert f"{result.mean('share'):.3f} +- {0.1 / 12**0.5:.3f}" in capsys.readouterr().out
    assert main(["report", str(run)]) == 0
    report = (run / "report.html").read_text()
    assert "Other results" in report
    assert 'alt="Share of bright pixels"' in report
    assert result.caption() in report
    assert result.lines()[0] in report


def test_a_new_keyword_of_the_diagnostics_becomes_an_option_that_reaches_the_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    received: dict[str, Any] = {}

    def diagnostics(vae: Any, data: Any, *, num_tails: int = 3, seed: int = 0, protocol: Any = None) -> str:
        received.update(num_tails=num_tails, seed=seed, protocol=protocol)
        return "latent"

    monkeypatch.setattr(methods, "latent_diagnostics", diagnostics)
    for name in ("simulation_based_calibration", "posterior_predictive_check"):
        monkeypatch.setattr(methods, name, lambda *args, **keywords: None)
    assert [option.name for option in options_of(diagnostics)] == ["num_tails"]
    trained = SimpleNamespace(
        vae=SimpleNamespace(guide=None),
        images=lambda split, num: SimpleNamespace(missing=False),
        protocol_of=lambda split: {"split": split},
    )
    method = METHODS["diagnostics"]
    results = method.run(trained, {**method.defaults(), "num_tails": 7, "seed": 5})  # type: ignore[arg-type]
    assert results[0] == "latent"
    assert received == {"num_tails": 7, "seed": 5, "protocol": {"split": "test"}}


SHORT = ["--method", "ais", *ANNEALING, "--num_data", "9", "--batch_size", "3"]


def test_an_interrupted_evaluation_resumes(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), *SHORT]) == 0
    (file,) = run.glob("ais*.json")
    expected = file.read_bytes()
    file.unlink()
    compute, calls = BatchedEvaluation._compute, iter(range(2))
    with monkeypatch.context() as patch:
        patch.setattr(BatchedEvaluation, "_compute", lambda *args: compute(*args) if next(calls, 9) < 9 else _stop())
        assert main(["evaluate", str(run), *SHORT]) == 130
    assert f"2 finished batches are in {file.with_suffix('.batches')}" in capsys.readouterr().err
    assert main(["evaluate", str(run), *SHORT]) == 0
    assert "resumed: 2 batches were already finished" in capsys.readouterr().out
    assert file.read_bytes() == expected
    assert not file.with_suffix(".batches").exists()


def _stop() -> Any:
    raise KeyboardInterrupt


def test_the_numbers_are_printed_before_they_are_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(Result, "save", full)
        assert main(["evaluate", str(run), *SHORT]) == 2
    output, error = capsys.readouterr()
    assert "log-likelihood" in output
    assert error == "somewhere: No space left on device.\n"
    monkeypatch.setattr(BatchedEvaluation, "_compute", _stop)  # every batch is there
    assert main(["evaluate", str(run), *SHORT]) == 0
    assert "resumed: 3 batches" in capsys.readouterr().out


def test_a_result_is_written_elsewhere(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run.rglob("*"))
    out = tmp_path / "elsewhere" / "mine.json"
    out.parent.mkdir()
    assert main(["evaluate", str(run), *SHORT, "--out", str(out)]) == 0
    assert sorted(run.rglob("*")) == before
    assert sorted(p.name for p in out.parent.iterdir()) == ["mine.json", "mine.png"]
    assert len(Result.load(out)) == 9
    assert "must not exist yet" in error_line(capsys, run, *SHORT, "--out", str(out))
    assert "--out: must end in .json" in error_line(capsys, run, *SHORT, "--out", "mine.txt")
    assert "--out: must be in a folder that exists" in error_line(capsys, run, *SHORT, "--out", "nowhere/a.json")
