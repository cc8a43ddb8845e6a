"""README and linked pages: their Python runs, their commands parse, their files exist, their numbers are recorded."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import pyro_vae
from pyro_vae import features
from pyro_vae.cli.train_options import parse_args

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
RESULTS_PAGE = " ".join((ROOT / "docs/results.md").read_text().split())  # without line breaks
PAGES = [
    "README.md",
    "examples/README.md",
    *(f"docs/{name}.md" for name in ("command_line", "components", "estimators", "index", "results", "use")),
]


def blocks_of(page: str) -> list[tuple[str, str]]:
    """The code blocks of a page, each with its language."""
    return re.findall(r"```(\w*)\n(.*?)```", page, re.S)


def run_python(name: str, page: str) -> dict[str, Any]:
    """Run the Python blocks of a page in order, in torch's own dtype; what they defined."""
    torch.set_default_dtype(torch.float32)  # clean_state puts it back
    names: dict[str, Any] = {}
    exec(compile("\n".join(text for language, text in blocks_of(page) if language == "python"), name, "exec"), names)
    return names


RESULTS = ROOT / "benchmarks/results"
FREY = {
    "frey-categorical-diagonal": "diagonal",
    "frey-categorical-planar": "planar",
    "frey-categorical-iaf": "IAF",
    "frey-categorical-sylvester": "Sylvester",
}
RECORDED = ["mnist-guides", "mnist-gated-standard", "mnist-gated-vamp", "mnist-two-level", *FREY]
COMMANDS = [
    line.split("#")[0].strip()
    for page in PAGES
    for _, text in blocks_of((ROOT / page).read_text())
    for line in text.replace("\\\n", " ").splitlines()
    if line.startswith("pyro-vae train")
]


@pytest.mark.slow
def test_its_python_runs_in_order_and_prints_the_output_it_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    names = run_python("README.md", README)
    printed = capsys.readouterr().out
    quoted = "".join(text for language, text in blocks_of(README) if language == "text")
    for pattern in (
        r"log-likelihood +(\S+) nats",
        r"\nelbo +(\S+) ",
    ):
        assert abs(float(re.findall(pattern, printed)[0]) - float(re.findall(pattern, quoted)[0])) < 0.1, pattern
    assert names["loss"] > 0


@pytest.mark.parametrize("command", [c for c in COMMANDS if not re.search("my_package|--config|--resume", c)])
def test_its_commands_parse(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command)[2:]
    if "table.csv" in words:
        (tmp_path / "table.csv").write_text("height,city\n" + "170.5,Graz\n181.2,Wien\n165,Graz\n" * 20)
        monkeypatch.chdir(tmp_path)
    if "--out" in words:
        del words[words.index("--out") : words.index("--out") + 2]
    if "--betas" in words:
        assert [float(word) for word in words[words.index("--betas") + 1 :]]  # the last option once --out is gone
        del words[words.index("--betas") :]
    parse_args(words)


CONFIGS = [path for path in sorted(RESULTS.glob("*/config.yaml")) if "class_path" in path.read_text()]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parent.name)
def test_the_recorded_configurations_can_be_trained(path: Path) -> None:
    parse_args(["--config", str(path)])


OTHERS = [f"docs/{name}.md" for name in ("choose", "evaluation", "features", "gallery", "semi_supervised")]


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", *OTHERS])
def test_its_files_and_links_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    for path in re.findall(r"`((?:examples|benchmarks|docs|tests|pyro_vae)/[\w./-]+)`", text):
        assert (ROOT / path).exists() or "my_guide" in path, path
    for link in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text):
        assert (ROOT / page).parent.joinpath(link).exists(), link


def exists(name: str) -> bool:
    spaces = [pyro_vae, features, *(getattr(pyro_vae, space) for space in pyro_vae.__all__)]
    return any(hasattr(space, name) for space in spaces)


@pytest.mark.parametrize("page", ["components", "choose"])
def test_the_names_of_the_components_exist(page: str) -> None:
    names = re.findall(r"`([A-Z]\w+)`", (ROOT / f"docs/{page}.md").read_text())
    assert len(names) > 30
    assert [name for name in names if not exists(name)] == []


def test_the_features_that_are_compared_exist() -> None:
    page = (ROOT / "docs/features.md").read_text()
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| ")]
    assert {len(row) for row in rows} == {6, 7}
    names = [name.rpartition(".")[2] for row in rows for name in re.findall(r"`([\w.]+)`", row[1])]
    assert len(names) > 8
    assert [name for name in names if not exists(name)] == []


def test_every_example_is_described() -> None:
    page = (ROOT / "examples/README.md").read_text()
    assert sorted(re.findall(r"`examples/(\w+\.py)` \|", page)) == sorted(
        p.name for p in (ROOT / "examples").glob("*.py")
    )


def test_its_figure_is_drawn_from_the_recorded_results(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("overview", ROOT / "benchmarks/overview.py")
    assert spec is not None
    assert spec.loader is not None
    overview = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(overview)
    overview.main(["--out", str(tmp_path / "overview.png")])
    assert (tmp_path / "overview.png").read_bytes().startswith(b"\x89PNG")


def test_the_errors_it_quotes_are_the_recorded_ones() -> None:
    import json

    labels = (ROOT / "docs/semi_supervised.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in labels.splitlines() if line.startswith("| M")}
    for name, row in (("mnist-m2-3000", "M2, 120 epochs"), ("mnist-m1m2-100", "M1+M2, 160 epochs")):
        record = json.loads((RESULTS / name / "result.json").read_text())
        assert f" {record['classification']['test_error']:.2f} " in rows[row]
        assert f"{record['training']['epochs']} epochs" in row
    m1 = json.loads((RESULTS / "mnist-m1/result.json").read_text())["results"]["M1"]
    for name in ("RBF SVM", "transductive RBF SVM", "label spreading"):
        cells = [f"{c['mean']:.2f} +- {c['interval']:.2f}" for c in m1[name].values()]
        assert " | ".join(cells) in rows[f"M1 + {name.replace('transductive RBF', 'transductive')}"]
    digits = json.loads((RESULTS / "digits-m2/result.json").read_text())
    for name in ("labels alone", "M2", "difference"):
        assert " +- ".join(re.findall(r"[\d.]+", digits[name])[:2]) in RESULTS_PAGE.replace(" %", "")


def test_the_results_it_quotes_are_the_recorded_ones() -> None:
    import json

    record = json.loads((ROOT / "benchmarks/results/mnist-1l-elbo/result.json").read_text())
    (result,) = record["results"]
    assert f"**{result['log_likelihood']['mean']:.2f}** nats" in RESULTS_PAGE
    assert f"ELBO {result['elbo']['mean']:.2f}" in RESULTS_PAGE
    speed = json.loads((RESULTS / "likelihood-cpu/likelihood.json").read_text())["cases"][0]["estimators"]
    times = {row["name"]: row["milliseconds_per_image"][1] for row in speed}
    assert f"takes {times['pyro_vae compiled, fp32']:.0f} ms per image" in RESULTS_PAGE
    assert f"{times['image by image, 100 copies']:.0f} or {times['image by image, 500 copies']:.0f} ms" in RESULTS_PAGE
    bounds = json.loads((RESULTS / "mnist-1l-bounds/result.json").read_text())["results"]
    ais = bounds["ais-test-prior-10000x16-seed0-first100"]["log_likelihood"]
    assert f"{ais['mean']:.3f} +- {ais['monte_carlo_error']:.3f}" in RESULTS_PAGE
    importance = bounds["log_likelihood-test-guide-5000-seed0-first100"]["log_likelihood"]["mean"]
    assert f"samples {importance:.2f}" in RESULTS_PAGE
    assert f"The importance bound is {ais['mean'] - importance:.2f} nats low" in RESULTS_PAGE
    for number in (1000, 10_000):
        gap = bounds[f"sandwich-test-prior-{number}x16-simulated-seed0-first100"]["gap"]
        assert f"{gap['mean']:.3f} +- {gap['error']:.3f}" in RESULTS_PAGE
    (split,) = (content for name, content in bounds.items() if name.startswith("gaps-"))
    assert f"{split['approximation']['mean']:.2f} nats are the approximation gap" in RESULTS_PAGE
    assert f"{split['amortization']['mean']:.2f} the amortization gap" in RESULTS_PAGE
    frey = json.loads((ROOT / "benchmarks/results/frey-discretized-logistic/result.json").read_text())["results"][0]
    assert f"{frey['log_likelihood_bits_per_dim']:.2f} bits per dimension" in RESULTS_PAGE
    assert f"(ELBO: {frey['elbo_bits_per_dim']:.2f})" in RESULTS_PAGE
    results = {name: json.loads((RESULTS / name / "result.json").read_text())["results"] for name in RECORDED}
    for name, guide in results["mnist-guides"].items():
        assert f"| {name} | {guide['elbo']['mean']:.2f} |" in RESULTS_PAGE
        assert f"| {guide['log_likelihood']['mean']:.2f} |" in RESULTS_PAGE
    for name in RECORDED[1:4]:
        assert f"{results[name][0]['log_likelihood']['mean']:.2f}" in RESULTS_PAGE
    for name, label in FREY.items():
        assert f"{label} {results[name][0]['elbo_bits_per_dim']:.2f}" in RESULTS_PAGE
