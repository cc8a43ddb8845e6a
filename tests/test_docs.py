"""Check docs/: Python runs, files exist, commands parse, numbers are the recorded ones.

Programs that docs/engine.md lists as not recordable raise the quoted errors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.infer
import pytest
import torch
from pyro.distributions import Normal, Poisson, VonMises
from pyro.infer import ELBO
from torch import Tensor

from pyro_vae import networks, objectives
from pyro_vae.cli.compare import compare_runs
from pyro_vae.cli.evaluate import evaluate
from pyro_vae.cli.impute import impute_table
from pyro_vae.cli.main import main
from pyro_vae.cli.report import write_report
from pyro_vae.cli.train_options import parse_args, say_data
from pyro_vae.experiments.methods import METHODS
from pyro_vae.training import build_engine
from pyro_vae.training.engines.select import ENGINES, MIN_COMPILED_STEPS
from tests.test_readme import ROOT, blocks_of, run_python

PAGE = (ROOT / "docs/engine.md").read_text()
EVALUATION = (ROOT / "docs/evaluation.md").read_text()
ESTIMATORS = (ROOT / "docs/estimators.md").read_text()
COMPONENTS = (ROOT / "docs/components.md").read_text()
EXACT = (ROOT / "docs/exact.md").read_text()
MISSING = (ROOT / "docs/missing_values.md").read_text()
LABELS = (ROOT / "docs/semi_supervised.md").read_text()
USE = (ROOT / "docs/use.md").read_text()
DISENTANGLEMENT = (ROOT / "docs/disentanglement.md").read_text()
LEARNED = (ROOT / "docs/learned_losses.md").read_text()
REFUSED = PAGE.split("## What cannot be recorded")[1].split("## Further options")[0]
LOOKS, SHAPES, DIFFER = "reads a tensor's value in Python", "shape of a tensor depends on values", "two runs at one"


@pytest.mark.slow
def test_its_python_runs_in_order() -> None:
    names = run_python("docs/engine.md", PAGE)
    assert names["engine"].name == "compiled"
    assert len(names["result"].history) == 2


@pytest.mark.slow
def test_the_python_of_the_evaluation_page_runs_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_python("docs/evaluation.md", EVALUATION)
    result, bounds, harmonic, gaps = (names[name] for name in ("result", "bounds", "harmonic", "gaps"))
    assert (result.curve[:, 0] - result.elbo).abs().max() < 1e-5
    assert (result.curve[:, -1] - result.log_likelihood).abs().max() < 1e-5
    assert names["naive"].mean() < result.mean()
    for other in (bounds, harmonic):  # three methods, one number
        noise = math.hypot(other.monte_carlo_error(), result.monte_carlo_error())
        assert abs(other.mean() - result.mean()) < 4.5 * noise
    assert torch.equal(gaps.log_likelihood, result.log_likelihood)
    result, x = names["summed_out"], names["x"]
    parts = torch.stack([Normal(loc, math.hypot(1, 0.5)).log_prob(x) for loc in (-1.0, 1.0)])  # y summed out by hand
    exact = (parts + torch.tensor([[0.3], [0.7]]).log()).logsumexp(0)
    assert ((result.log_likelihood - exact) / result.standard_error).abs().max() < 4.5
    assert "Pareto k above 0.7" in capsys.readouterr().out


def test_the_python_of_the_page_on_estimators_runs_in_order() -> None:
    names = run_python("docs/estimators.md", ESTIMATORS)
    optimised, accurate = names["optimised"], names["result"]
    assert accurate.failures() == []
    noise = math.hypot(optimised.monte_carlo_error(), accurate.monte_carlo_error())
    assert abs(optimised.mean() - accurate.mean()) < 0.1 + 4.5 * noise


def test_the_python_of_the_page_on_components_runs_in_order() -> None:
    names = run_python("docs/components.md", COMPONENTS)
    assert len(names["result"]) == 100
    assert names["result"].protocol["discrete"]
    assert names["table"].net.out_shape == (2 + 3 + 1 + 1,)
    example = (ROOT / "examples/counts.py").read_text()
    gains = re.findall(r"(\d+\.\d{3}) \+- (\d\.\d{3})", example)
    assert len(gains) == 3
    for gain, error in gains:
        assert re.search(rf"{float(gain):.2f} \+-\s+{float(error):.2f}", COMPONENTS)


@pytest.mark.slow
def test_the_python_of_the_page_on_few_labels_runs_in_order() -> None:
    names = run_python("docs/semi_supervised.md", LABELS)
    assert math.isfinite(names["loss"])
    assert 0 < names["result"].error_rate < 60  # chance is 90
    assert names["exact"].log_joint.shape == (50, 10)
    x, y = names["images"][names["labelled"]], names["splits"].train.labels[names["labelled"]]
    assert names["pipeline"].score(x, y) > 0.5


def test_the_python_of_the_page_on_callbacks_runs_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/callbacks.md").read_text()
    names = run_python("docs/callbacks.md", page)
    assert {"metrics.csv", "metrics.jsonl", "tensorboard"} <= {file.name for file in names["run"].iterdir()}
    assert len(names["study"].trials) == 2
    assert len(names["result"].history) == names["stopper"].epoch_of_best + 2
    assert capsys.readouterr().out == f"callback {len(names['result'].history)}\n"
    for command in re.findall(r"^pyro-vae train (.*) --out", page, re.MULTILINE):
        assert parse_args(command.split()).logger.class_path.rpartition(".")[2] in page


def test_the_python_of_the_page_on_conditional_models_runs_in_order() -> None:
    names = run_python("docs/conditional.md", (ROOT / "docs/conditional.md").read_text())
    assert (names["result"].protocol["dimensions"], names["lower"].protocol["dimensions"]) == (64, 32)
    assert names["threes"].shape == (4, 2, 1, 8, 8)
    assert torch.equal(names["completed"][..., :4, :], names["x"][:6, :, :4].expand(3, -1, -1, -1, -1))


def test_the_python_of_the_page_on_compression_runs_in_order() -> None:
    names = run_python("docs/compression.md", (ROOT / "docs/compression.md").read_text())
    assert 8 * len(names["content"]) < 0.9 * names["x"].numel()  # a bit per pixel without a model


def test_the_python_of_the_page_on_learned_losses_runs_in_order() -> None:
    torch.set_default_dtype(torch.float32)
    names = run_python("docs/learned_losses.md", LEARNED)
    assert math.isfinite(names["claim"])
    assert names["bound"].log_likelihood.isfinite().all()
    assert {"ratio_loss", "spread", "feature_distance", "rate"} <= names["record"].keys()
    assert names["images"].shape == (5, 1, 16, 16)
    assert names["ranks"].keys() == {"pixel distance", "feature distance"}
    (quoted,) = [text.strip() for language, text in blocks_of(LEARNED) if language == "text"]
    with pytest.raises(ValueError, match=f"^{re.escape(quoted)}$"):
        names["gan"].encode(names["images"])


def test_the_commands_of_the_page_on_learned_losses_are_parsed() -> None:
    commands = re.findall(r"^pyro-vae train (.*) --out", LEARNED, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert parse_args(command.split()).objective.class_path.rpartition(".")[2].startswith("Adversarial")


def test_the_python_of_the_page_on_six_ways_runs_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_python("docs/six_ways.md", (ROOT / "docs/six_ways.md").read_text())
    assert names["first"]["elbo_m"] >= names["first"]["elbo_e"]
    assert names["images"].shape == (16, 1, 8, 8)
    assert sorted(names["values"]) == ["VampPrior", "mixture by EM", "mixture, by the ELBO", "standard normal"]
    assert names["classifier"].predict(names["x"][:7]).shape == (7,)
    assert names["estimator"].predict_proba(names["x"][:7].flatten(1).numpy()).shape == (7, 10)
    assert "BIC" in capsys.readouterr().out
    assert names["restored"].shape == names["test"].shape
    assert len(names["content"]) < names["test"].numel() / 8  # less than a bit per pixel


def test_the_page_on_six_ways_quotes_the_record() -> None:
    page = (ROOT / "docs/six_ways.md").read_text()
    commands = re.findall(r"^pyro-vae train (.*) --out", page, re.MULTILINE)
    priors = [parse_args(command.split()).prior.class_path.rpartition(".")[2] for command in commands]
    assert priors == ["FactorizedPrior", "HyperPrior"]
    for run in json.loads((ROOT / "benchmarks/results/aevb/digits.json").read_text())["runs"]:
        train, test = (" +- ".join(f"{value:.2f}" for value in run["curve"][-1][split]) for split in ("train", "test"))
        assert f"| {run['method']} | {run['size']} | {run['seed']} | {train} | {test} |" in page


@pytest.mark.parametrize("name", ["fashion", "faces"])
def test_the_page_on_six_ways_quotes_rates_and_errors(name: str) -> None:
    page = (ROOT / "docs/six_ways.md").read_text()
    for run, row in json.loads((ROOT / f"benchmarks/results/rate-distortion/{name}.json").read_text())["runs"].items():
        bits, jpeg = row["bits_per_dim"], row["formats_at_this_error"]["JPEG"]
        texts = [f"{bits[key]:.4f}" if key in bits else "-" for key in ("file", "estimate")]
        texts += [f"{row['squared_error']['mean']:.5f}", f"{row['psnr']:.2f}", f"{jpeg:.3f}" if jpeg else "-"]
        texts += [f"{row['sharpness']:.2f}", f"{row['frechet_distance']:.2f}", f"{row['training_seconds'] / 60:.1f}"]
        assert f"| {run} | {' | '.join(texts)} |" in page


OWN_DATA = (ROOT / "docs/your_own_data.md").read_text()


def test_the_page_on_own_data_quotes_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="^fit: the labels of the batches are left out"):
        names = run_python("docs/your_own_data.md", OWN_DATA)
    quotes = [text for language, text in blocks_of(OWN_DATA) if language == "text"]
    assert capsys.readouterr().out == quotes[-1]
    assert math.isfinite(names["result"].mean())
    commands = [text.split()[2:] for language, text in blocks_of(OWN_DATA) if language == "sh"]
    assert len(commands) == len(quotes) - 1 == 4
    for words, quote in zip(commands, quotes, strict=False):
        say_data(parse_args(words[: words.index("--out")]))
        assert quote.startswith(capsys.readouterr().out)
        assert re.search(r"^test log-likelihood  -?\d+\.\d{3} nats per datum", quote, re.MULTILINE)


def test_the_python_of_the_page_on_use_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_python("docs/use.md", USE)
    assert names["auroc"] > 0.6  # chance is 0.5
    assert (tmp_path / "explorer.html").stat().st_size < 2e6


@pytest.mark.parametrize("command", re.findall(r"^pyro-vae (?!train)(.*)", USE, re.MULTILINE))
def test_the_commands_of_the_page_on_use_are_parsed(command: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    assert "runs/" in capsys.readouterr().err  # only the run is missing


@pytest.mark.parametrize("path", sorted((ROOT / "docs/explorers").glob("*.html")), ids=lambda path: path.name)
def test_the_explorers_are_small_and_load_nothing(path: Path) -> None:
    assert path.stat().st_size < 2e6
    assert "://" not in path.read_text()


def test_the_numbers_of_faces_are_the_recorded_ones() -> None:
    results = ROOT / "benchmarks/results"
    rows = json.loads((results / "disentanglement/result.json").read_text())["table"]
    for metric in rows["ELBO"]:
        cells = [f"{c['mean']:.3f} ({c['low']:.3f} to {c['high']:.3f})" for c in (row[metric] for row in rows.values())]
        assert f"| {metric} | {' | '.join(cells)} |" in DISENTANGLEMENT
    assert {cell["seeds"] for row in rows.values() for cell in row.values()} == {5}
    assert rows["BetaTC"]["MIG"]["low"] > 0.2
    assert rows["ELBO"]["MIG"]["high"] < 0.05
    changes = [row["change"] for row in json.loads((results / "face-attributes/result.json").read_text())["glasses"]]
    for name in changes[0]:
        values = [change[name] for change in changes]
        assert f"{name} | " in USE
        assert f"| {np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f}) |" in USE
        assert min(values) > 0.7 if name == "glasses" else max(map(abs, values)) < 0.1


def test_the_python_of_the_page_on_disentanglement_runs_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_python("docs/disentanglement.md", DISENTANGLEMENT)
    assert len(names["factors"]["smile"]) == len(names["splits"].test)
    quality, losses = names["quality"], names["losses"]
    assert (quality.values[:, 0] > quality.floor[:, 0]).all()
    assert sum(losses[-50:]) / 50 < 1.25 < losses[0]  # two normal distributions a distance of sqrt(2) apart
    assert "MIG" in capsys.readouterr().out


def test_the_python_of_the_page_on_missing_values_runs_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_python("docs/missing_values.md", MISSING)
    table, x, result = names["table"], names["x"], names["result"]
    error = (result.mean - table)[x.isnan()].square().mean().sqrt()
    assert error < 0.9  # that of the column's mean is 1
    inside = (names["low"] <= table) & (table <= names["high"])
    assert 0.7 < inside[x.isnan()].double().mean() < 0.98
    assert torch.isfinite(names["bound"].log_likelihood).all()


@pytest.mark.parametrize("line", [line for line in MISSING.splitlines() if line.startswith("pyro-vae impute")])
def test_the_commands_of_the_page_on_missing_values_are_parsed(line: str, tmp_path: Path) -> None:
    words = [f"{tmp_path}/{word}" if word.endswith(".csv") else word for word in line.split()[2:]]
    with pytest.raises(FileNotFoundError, match="runs/table"):  # only the run is missing
        impute_table(words)


def test_the_page_on_missing_values_quotes_the_recorded_errors() -> None:
    record = json.loads((ROOT / "benchmarks/results/imputation/imputation.json").read_text())
    rows = {(r["table"], f"{r['rate']:.0%}") for r in record["results"]}
    for table, rate in rows:
        cell = [r for r in record["results"] if (r["table"], f"{r['rate']:.0%}") == (table, rate)]
        (row,) = [line for line in MISSING.splitlines() if line.startswith(f"| {table} | {rate} |")]
        for method in ("KNNImputer", "IterativeImputer", "MIWAE"):
            errors = [r["rmse"] for r in cell if r["method"] == method]
            assert f"{sum(errors) / len(errors):.3f}" in row


def test_the_python_of_the_page_on_exact_densities_runs_in_order() -> None:
    names = run_python("docs/exact.md", EXACT)
    assert names["result"].protocol["estimator"] == "exact"
    assert names["bound"].monte_carlo_error() > 0
    assert torch.equal(names["lower"][..., :4, :], names["x"].expand(5, -1, -1, -1, -1)[..., :4, :])


@pytest.mark.parametrize("line", re.findall(r"^pyro-vae train (.*)", EXACT, re.MULTILINE))
def test_the_trainings_of_the_page_on_exact_densities_are_parsed(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", line) if word != "--out"]
    options = parse_args([word for word in words if not word.startswith("runs/")])
    assert options.model == "AutoregressiveModel"
    assert options.num_samples == 1


def test_the_page_on_exact_densities_names_every_causal_network() -> None:
    classes = [getattr(networks, name) for name in networks.__all__]
    causal = {c.__name__ for c in classes if isinstance(c, type) and issubclass(c, networks.CausalNetwork)}
    assert causal - {"CausalNetwork"} <= set(re.findall(r"`(\w+)", EXACT))


@pytest.mark.slow
def test_the_python_of_the_page_on_outliers_runs_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_python("docs/outliers.md", (ROOT / "docs/outliers.md").read_text())
    assert names["result"].detection("combined").auroc > 0.99
    assert names["mask"].shape == (20,)
    assert "[-1 -1 -1]" in capsys.readouterr().out


COMMANDS = [line.split() for _, text in blocks_of(EVALUATION) for line in text.splitlines() if line[:9] == "pyro-vae "]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_the_commands_of_the_evaluation_page_are_parsed(arguments: list[str], tmp_path: Path) -> None:
    _, command, *rest = arguments
    absent = [word.replace("runs/", f"{tmp_path}/").replace("table", f"{tmp_path}/table") for word in rest]
    with pytest.raises((FileNotFoundError, ValueError), match=str(tmp_path)):  # only the run is missing
        {"evaluate": evaluate, "report": write_report, "compare": compare_runs}[command](absent)


@pytest.mark.parametrize("options", re.findall(r"`(?:pyro-vae evaluate RUN )?(--[^`]+)`", ESTIMATORS))
def test_the_commands_of_the_page_on_estimators_are_parsed(options: str, tmp_path: Path) -> None:
    words = options.split()
    if words[0] in ("--accuracy", "--proposal", "--num_samples", "--method"):  # not of the benchmark
        with pytest.raises(FileNotFoundError, match=str(tmp_path)):  # only the run is missing
            evaluate([f"{tmp_path}/run", *words])


def test_the_evaluation_page_quotes_the_recorded_numbers() -> None:
    two_modes = (ROOT / "examples/two_modes.py").read_text()
    table = re.findall(r"([+-]\d\.\d{3}) \+- +(\d\.\d{3})", EVALUATION.split("```text")[1].split("```")[0])
    quoted = re.findall(r"(-\d\.\d{3}) \+- (\d\.\d{3})", two_modes)
    assert len(quoted) == 6
    assert set(quoted) <= set(table)
    run = json.loads((ROOT / "benchmarks/results/mnist-1l-elbo/result.json").read_text())["results"][0]
    row = next(line for line in EVALUATION.splitlines() if "mnist-1l-elbo" in line)
    assert f"{run['elbo']['mean']:.2f}" in row
    assert f"{run['log_likelihood']['mean']:.2f}" in row
    assert f"k > 0.7 for {run['pareto_k_above_0.7']:.0%} of the images" in EVALUATION
    assert f"error of {run['log_likelihood']['monte_carlo_error']:.3f} does not cover" in EVALUATION


def test_the_methods_that_the_evaluation_page_names_exist() -> None:
    assert set(re.findall(r"--method (\w+)", EVALUATION)) <= set(METHODS)


@pytest.mark.parametrize(
    "page",
    [PAGE, EVALUATION, ESTIMATORS, LABELS, COMPONENTS, MISSING, EXACT],
    ids=["engine", "evaluation", "estimators", "semi_supervised", "components", "missing_values", "exact"],
)
def test_its_files_exist(page: str) -> None:
    paths = re.findall(r"`(?:python )?((?:examples|benchmarks|docs)/[\w./-]+)`", page)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_it_names_the_engines_and_when_auto_compiles() -> None:
    assert set(re.findall(r'^\| `"([\w-]+)"` \|', PAGE, re.MULTILINE)) == set(ENGINES)
    assert f"below {MIN_COMPILED_STEPS:,} planned steps" in PAGE


def test_it_names_the_objectives_that_no_engine_runs() -> None:
    classes = [getattr(pyro.infer, name) for name in dir(pyro.infer)]
    elbos = [c for c in classes if isinstance(c, type) and issubclass(c, ELBO) and c is not ELBO]
    without = {c.__name__ for c in elbos if not hasattr(c, "differentiable_loss") and not c.__name__.startswith("Jit")}
    (sentence,) = re.findall(r"([^.]*) have no `differentiable_loss`", REFUSED)
    assert set(re.findall(r"`(\w+)`", sentence)) == without


def validated(x: Tensor, z: Tensor) -> None:
    with pyro.validation_enabled(True):
        pyro.sample("more", Normal(z, 1.0).to_event(1), obs=x)


def in_turn(x: Tensor, z: Tensor) -> None:
    for t in pyro.plate("t", 2):
        pyro.sample(f"more_{t}", Normal(z[:, t], 1.0), obs=x[:, t])


def branch(x: Tensor, z: Tensor) -> None:
    if z.mean() > 0:
        pyro.factor("more", z.sum(-1))


def check(x: Tensor, z: Tensor) -> None:
    assert (x >= 0).all()


def rejection(x: Tensor, z: Tensor) -> None:
    VonMises(z.detach(), 1.0).sample()


CAUSES: dict[str, tuple[Callable[[Tensor, Tensor], Any], str]] = {
    ".item()": (lambda x, z: x.mean().item(), LOOKS),
    "int(x.max())": (lambda x, z: int(x.max()), LOOKS),
    "if z.mean() > 0:": (branch, LOOKS),
    "assert": (check, LOOKS),
    'for t in pyro.plate("t", 5)': (in_turn, LOOKS),
    "VonMises": (rejection, LOOKS),
    "validate_args=True": (
        lambda x, z: pyro.sample("more", Poisson(z.exp(), validate_args=True).to_event(1), obs=x),
        LOOKS,
    ),
    "validation_enabled(True)": (validated, LOOKS),
    "x[x > 3]": (lambda x, z: pyro.factor("more", x[x > 3].sum() + z.sum(-1)), SHAPES),
    "NumPy": (lambda x, z: pyro.factor("more", float(np.random.default_rng().normal()) * z.sum(-1)), DIFFER),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_the_quoted_recording_errors_are_raised(cause: str) -> None:
    more, message = CAUSES[cause]
    (row,) = [line for line in REFUSED.splitlines() if f"`{cause}`" in line or (cause == "NumPy" and "NumPy" in line)]
    assert message in row or ("the same" in row and message == LOOKS)
    loc = torch.zeros(2, requires_grad=True)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", Poisson(z.exp()).to_event(1), obs=x)
            more(x, z)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(loc, 1.0).to_event(1))

    batch = (torch.poisson(torch.full((8, 2), 2.0)),)
    adam = torch.optim.Adam([loc])
    with pytest.warns(UserWarning, match="^engine: runs eagerly, since the programs cannot be recorded: ") as warned:
        engine = build_engine("compiled", objectives.ELBO(), model, guide, adam, [loc], args=batch)
    assert message in str(warned[0].message)
    assert engine.name == "eager"
    assert engine.step(batch).finite
