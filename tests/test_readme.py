"""What the README says is so: its Python runs, its commands parse, its files exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import pyro_vae
from pyro_vae.cli.arguments import normalise_args
from pyro_vae.experiments.experiment import parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


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
BLOCKS = blocks_of(README)
COMMANDS = [
    line.split("#")[0].strip()
    for _, text in BLOCKS
    for line in text.replace("\\\n", " ").splitlines()
    if line.startswith("pyro-vae train")
]


@pytest.mark.slow
def test_its_python_runs_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_python("README.md", README)
    assert "nats per datum" in capsys.readouterr().out
    assert names["loss"] > 0


@pytest.mark.parametrize("command", [c for c in COMMANDS if "my_package" not in c and "--config" not in c])
def test_its_commands_parse(command: str) -> None:
    words = shlex.split(command)[2:]
    if "--out" in words:
        del words[words.index("--out") : words.index("--out") + 2]
    parser().parse_args(normalise_args(words, ()))


def test_its_files_and_names_exist() -> None:
    for path in re.findall(r"`((?:examples|benchmarks)/[\w./-]+)`", README):
        assert (ROOT / path).exists(), path
    spaces = [pyro_vae, pyro_vae.objectives, pyro_vae.data, pyro_vae.models]
    table = README.split("## What there is")[1].split("## Examples")[0]
    for name in re.findall(r"`([A-Z]\w+)`", table):
        assert name == "Trace_ELBO" or any(hasattr(space, name) for space in spaces), name


def test_the_errors_it_quotes_are_the_recorded_ones() -> None:
    import json

    labels = (ROOT / "docs/semi_supervised.md").read_text()
    for page in (README, labels):
        rows = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| M")}
        for name, row in (("mnist-m2-3000", "M2, 120 epochs"), ("mnist-m1m2-100", "M1+M2, 160 epochs")):
            found = json.loads((RESULTS / name / "result.json").read_text())
            assert f" {found['classification']['test_error']:.2f} " in rows[row]
            assert f"{found['training']['epochs']} epochs" in row
        m1 = json.loads((RESULTS / "mnist-m1/result.json").read_text())["results"]["M1"]
        for name in ("RBF SVM", "transductive RBF SVM", "label spreading"):
            cells = [f"{c['mean']:.2f} +- {c['interval']:.2f}" for c in m1[name].values()]
            assert " | ".join(cells) in rows[f"M1 + {name.replace('transductive RBF', 'transductive')}"]
    digits = json.loads((RESULTS / "digits-m2/result.json").read_text())
    for name in ("labels alone", "M2", "difference"):
        assert " +- ".join(re.findall(r"[\d.]+", digits[name])[:2]) in README.replace(" %", "")


def test_the_results_it_quotes_are_the_recorded_ones() -> None:
    import json

    record = json.loads((ROOT / "benchmarks/results/mnist-1l-elbo/result.json").read_text())
    (result,) = record["results"]
    assert f"**{result['log_likelihood']['mean']:.2f}** nats" in README
    assert f"ELBO {result['elbo']['mean']:.2f}" in README
    speed = json.loads((RESULTS / "likelihood-cpu/likelihood.json").read_text())["cases"][0]["estimators"]
    times = {row["name"]: row["milliseconds_per_image"][1] for row in speed}
    assert f"takes {times['pyro_vae compiled, fp32']:.0f} ms per image" in README
    assert f"{times['image by image, 100 copies']:.0f} or {times['image by image, 500 copies']:.0f} ms" in README
    bounds = json.loads((RESULTS / "mnist-1l-bounds/result.json").read_text())["results"]
    ais = bounds["ais-test-prior-10000x16-seed0-first100"]["log_likelihood"]
    assert f"{ais['mean']:.3f} +- {ais['monte_carlo_error']:.3f}" in README
    importance = bounds["log_likelihood-test-guide-5000-seed0-first100"]["log_likelihood"]["mean"]
    assert f"samples {importance:.2f}" in README
    assert f"The importance bound is {ais['mean'] - importance:.2f} nats low" in README
    for number in (1000, 10_000):
        gap = bounds[f"sandwich-test-prior-{number}x16-simulated-seed0-first100"]["gap"]
        assert f"{gap['mean']:.3f} +- {gap['error']:.3f}" in README
    (split,) = (content for name, content in bounds.items() if name.startswith("gaps-"))
    assert f"{split['approximation']['mean']:.2f} nats are the diagonal family's" in README
    assert f"{split['amortization']['mean']:.2f} the encoder's" in README
    frey = json.loads((ROOT / "benchmarks/results/frey-discretized-logistic/result.json").read_text())["results"][0]
    assert f"{frey['log_likelihood_bits_per_dim']:.2f} bits per dimension" in README
    assert f"(ELBO: {frey['elbo_bits_per_dim']:.2f})" in README
    results = {name: json.loads((RESULTS / name / "result.json").read_text())["results"] for name in RECORDED}
    for name, guide in results["mnist-guides"].items():
        assert f"| {name} | {guide['elbo']['mean']:.2f} |" in README
        assert f"| {guide['log_likelihood']['mean']:.2f} |" in README
    for name in RECORDED[1:4]:
        assert f"{results[name][0]['log_likelihood']['mean']:.2f}" in README
    for name, label in FREY.items():
        assert f"{label} {results[name][0]['elbo_bits_per_dim']:.2f}" in README
