"""The page of a run: self-contained, escaped, and complete about missing results."""

from __future__ import annotations

import platform
import re
import shlex
import shutil
from contextlib import suppress
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyro
import pytest
import torch
import yaml

from pyro_vae._core.machine import processor
from pyro_vae._core.version import full_version
from pyro_vae._core.weights import read_weights, write_weights
from pyro_vae.cli.main import main
from pyro_vae.evaluation import AnnealedLogLikelihood, Classification, HarmonicLogLikelihood, LogLikelihood
from pyro_vae.evaluation.bidirectional import Sandwich
from pyro_vae.experiments.commands import COMMANDS
from pyro_vae.experiments.html_report import _Report
from pyro_vae.experiments.report_markup import html

QUICK = ["--epochs", "2", "--num_samples", "40", "--latent_dim", "3", "--device", "cpu"]
pytestmark = pytest.mark.usefixtures("single_precision")
RESULT = "log_likelihood-test-guide-40-seed0.json"
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Elements and text of a page; every element must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if "style" not in self.open else ""

    def of(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def ids(self) -> list[str]:
        return [section["id"] for section in self.of("section")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_default_dtype(torch.float32)
    path = tmp_path_factory.mktemp("runs") / "a <b> & 'c'"
    assert main(["train", *QUICK, "--out", str(path)]) == 0
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / trained.name))


def page_of(run: Path) -> Page:
    assert main(["report", str(run)]) == 0
    return Page((run / "report.html").read_text())


def test_the_page_is_self_contained(run: Path) -> None:
    page = page_of(run)
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base", "form"} == set()
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
    assert "http" not in re.sub(r'src="[^"]*"', "", (run / "report.html").read_text()).replace("http-equiv", "")
    assert "default-src 'none'" in page.of("meta")[1]["content"]


def test_images_have_descriptions_and_links_have_targets(run: Path) -> None:
    page = page_of(run)
    images = page.of("img")
    assert len(images) >= 6
    assert all(len(image["alt"]) > 8 for image in images)
    assert [a["href"][1:] for a in page.of("a")] == page.ids()
    assert page.of("html")[0]["lang"] == "en"
    assert len(page.of("h1")) == 1


def test_configuration_values_are_escaped(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model_from"] = "<script>alert('x')</script>"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    page = page_of(run)
    assert page.of("script") == []
    assert "<script>alert('x')</script>" in page.text
    assert "pyro_vae run: a <b> & 'c'" in page.text


def test_the_same_folder_makes_the_same_page(run: Path) -> None:
    page_of(run)
    first = (run / "report.html").read_bytes()
    page_of(run)
    assert (run / "report.html").read_bytes() == first


def test_it_names_the_missing_results_and_the_commands_that_make_them(run: Path) -> None:
    text = page_of(run).text
    for method in ("ais", "sandwich", "harmonic", "gaps", "diagnostics"):
        assert f"pyro-vae evaluate {shlex.quote(str(run))} --method {method}" in text
    assert "--method importance" not in text
    (run / RESULT).unlink()
    page = page_of(run)
    assert "--method importance" in page.text
    assert "worst" not in page.ids()


def test_the_worst_explained_images_are_those_of_the_lowest_estimate(run: Path) -> None:
    result = LogLikelihood.load(run / RESULT)
    page = page_of(run)
    section = page.text.split("Pareto k without unit")[1].split("The same images")[0]
    rows = re.findall(r"^(\d+)(\N{MINUS SIGN}\d+\.\d{3})", section, re.MULTILINE)
    worst = result.log_likelihood.argsort()[:10].tolist()
    assert [int(number) for number, _ in rows] == worst
    values = [float(value.replace("\N{MINUS SIGN}", "-")) for _, value in rows]
    assert values == pytest.approx(result.log_likelihood[worst].tolist(), abs=5e-4)


def test_every_result_of_the_folder_is_on_the_page(run: Path) -> None:
    base = LogLikelihood.load(run / RESULT)
    num, protocol = 30, {**base.protocol, "estimator": "ais", "num_data": 30, "num_chains": 2}
    bound = base.log_likelihood[:num] + 0.25
    rest = [torch.full((num,), 0.1), torch.ones(num), bound - 0.1, torch.ones(num), torch.ones(num, 2)]
    for size in (10, 100):
        ais = AnnealedLogLikelihood(bound, *rest, protocol={**protocol, "num_distributions": size})
        ais.save(run / f"ais-{size}.json")
    lower, errors = torch.zeros(5), torch.full((5,), 0.1)
    pair = Sandwich(
        lower, lower + 0.75, errors, errors, torch.ones(5), bound[:5], errors, protocol={**protocol, "num_data": 5}
    )
    pair.save(run / "sandwich.json")
    replace(pair, upper=lower - 0.25).save(run / "sandwich-noisy.json")
    replace(pair, log_likelihood=None, standard_error=None).save(run / "sandwich-simulated.json")
    page = page_of(run)
    alts = [image["alt"] for image in page.of("img")]
    assert alts.count("AIS bound against distributions") == 1  # both sizes in one
    assert alts.count("AIS minus importance estimate, per datum") == 1
    assert sum("bounds of log p(x) of simulated data" in alt for alt in alts) == 3
    assert page.text.count("It does not differ from zero") == 1
    assert f"{bound.mean():.3f}".replace("-", "\N{MINUS SIGN}") in page.text
    assert "the upper bound is 0.750 \N{PLUS-MINUS SIGN} 0.000 nats above the lower one" in page.text
    assert page.text.count("The mean of the real data is at least") == 1
    assert f"{shlex.quote(str(run))} --method ais" not in page.text
    tables = re.findall(r"(\d+) test examples: estimates of log p\(x\)", page.text)
    assert tables == ["30", str(len(base))]  # a table for each number of data


def test_the_verdict_is_first_with_number_errors_trust_origin_and_the_next_command(run: Path) -> None:
    result = LogLikelihood.load(run / RESULT)
    page = page_of(run)
    assert page.ids()[0] == "verdict"
    verdict = page.text.split("Verdict")[2].split("Protocol")[0]
    number = f"{result.mean():.3f}".replace("-", "\N{MINUS SIGN}")
    bits = f"{result.bits_per_dim():.4f} bits per dimension"
    assert f"log p(x) \N{GREATER-THAN OR EQUAL TO} {number} nats per datum, {bits}, on" in verdict
    assert f"\N{PLUS-MINUS SIGN} {result.sampling_error():.3f} over data drawn anew" in verdict
    assert "are not to be trusted" in verdict if result.untrusted() > 0.1 else "To be trusted" in verdict
    assert f"Weights {result.protocol['weights_sha256']} of epoch 2, 20" in verdict
    assert f"pyro-vae evaluate {shlex.quote(str(run))} --method ais" in verdict


def test_the_protocol_names_machine_and_versions_of_the_training(run: Path) -> None:
    protocol = page_of(run).text.split("Machine and versions of the training")[1].split("Configuration")[0]
    for text in (processor(), platform.python_version(), pyro.__version__, torch.__version__, full_version()):
        assert text in protocol
    weights, metadata = read_weights(run / "weights.safetensors")
    own = {"machine", "system", "python", "pyro-ppl", "checksum"}
    earlier = {name: value for name, value in metadata.items() if name not in own}
    write_weights(run / "weights.safetensors", weights, earlier, overwrite=True)
    protocol = page_of(run).text.split("Machine and versions of the training")[1].split("Configuration")[0]
    assert protocol.count("not recorded") == 4


@pytest.mark.parametrize(
    ("flagged", "text"), [(3, "To be trusted: the Pareto k is above 0.7 for 1.0%"), (60, "warning:")]
)
def test_a_few_flagged_data_are_a_remark_and_many_a_warning(run: Path, flagged: int, text: str) -> None:
    base = LogLikelihood.load(run / RESULT)
    shapes = torch.cat([torch.full((flagged,), 0.9), torch.full((len(base) - flagged,), 0.1)])
    result = replace(base, pareto_k=shapes)
    assert result.notes()[0].startswith("warning: 60 of 297 data" if flagged > 30 else "note: 3 of 297 data")
    (run / RESULT).unlink()
    result.save(run / RESULT)
    assert text in page_of(run).text
    assert "refit_guide" not in page_of(run).text


def test_advice_names_options_and_commands_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for command in (
        ["train"],
        ["train", "--likelihood", "AutoregressiveLikelihood", "--objective", "BetaELBO"],
        ["evaluate"],
        ["refit"],
    ):
        with suppress(SystemExit):
            main([*command, "--help"])
        texts.append(capsys.readouterr().out)
    for words in COMMANDS.values():
        for option in re.findall(r"--[\w.]+|pyro-vae \w+", words):
            assert any(option in text for text in texts), option


def test_the_verdict_is_of_the_test_split_and_claims_no_lower_bound_that_is_none() -> None:
    ones, test = torch.ones(40), {"split": "test", "discrete": False, "num_samples": 30, "dimensions": 2}
    probabilities = torch.full((40, 2), 0.5, dtype=torch.float64)
    results = {
        "classes": Classification(probabilities=probabilities, labels=ones.long(), protocol={"split": "train"}),
        "harmonic": HarmonicLogLikelihood(ones, ones, ones, ones, ones, protocol=test),
    }
    entries, run = SimpleNamespace(current=results, stale={}), SimpleNamespace(path=Path(), has_weights=lambda: False)
    page = _Report(run, SimpleNamespace(vae=None), entries)  # type: ignore[arg-type]
    assert "No result of the present weights yet" in page._verdict()
    results["importance"] = LogLikelihood(*[ones] * 7, protocol=test)
    assert "log p(x)" in page._verdict()


def test_annealed_and_importance_estimates_of_other_data_are_not_compared(run: Path) -> None:
    base = LogLikelihood.load(run / RESULT)
    rest = [torch.ones(30)] * 5
    protocol = {**base.protocol, "num_data": 30, "num_distributions": 10, "num_chains": 2, "split": "validation"}
    AnnealedLogLikelihood(*rest, torch.ones(30, 2), protocol=protocol).save(run / "ais.json")
    assert "AIS minus importance estimate, per datum" not in [i["alt"] for i in page_of(run).of("img")]


def test_a_run_without_a_history_or_results_has_a_page(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    (run / RESULT).unlink()
    text = page_of(run).text
    assert "no record of its training" in text
    assert "--method importance" in text.split("Next:")[1].split("Protocol")[0]


def test_a_file_elsewhere_is_replaced_only_when_asked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    out.write_text("mine")
    capsys.readouterr()
    for arguments, message in (
        (["--out", str(out)], "must not exist yet"),
        (["--out", str(tmp_path / "page.pdf")], "must end in .html"),
        (["--overwrite"], "must come with --out"),
        (["--method", "ais"], "unknown option --method"),
    ):
        assert main(["report", str(run), *arguments]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line
    assert out.read_text() == "mine"
    assert not (run / "report.html").exists()
    assert main(["report", str(run), "--out", str(out), "--overwrite"]) == 0
    assert out.read_text().startswith("<!DOCTYPE html>")


def test_a_damaged_result_is_rejected(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / RESULT).write_text((run / RESULT).read_text()[:100])
    assert main(["report", str(run)]) == 2
    assert "the file must be JSON" in capsys.readouterr().err
    assert not (run / "report.html").exists()


def test_the_macros_escape_their_arguments() -> None:
    bad = "<i>&\"'"
    picture = {"data": "eA==", "alt": bad, "caption": bad}
    content = html.paragraph(bad) + html.code([bad]) + html.pictures([picture])
    page = str(html.page(bad, [{"name": "a", "heading": bad, "content": content}]))
    assert Page(page).text.count(bad) == 7
    markup = str(html.table([bad], [[bad, bad]], bad) + html.folded(bad, html.note(bad)))
    assert Page(markup).text.count(bad) == 6
    assert "<i>" not in page + markup
