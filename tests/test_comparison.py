"""Comparison of runs: one protocol per table, gains paired by datum."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_vae.cli.main import main
from pyro_vae.evaluation import AnnealedLogLikelihood, LogLikelihood
from pyro_vae.evaluation.bidirectional import Sandwich
from pyro_vae.experiments.comparison import compare, read_runs
from pyro_vae.training import RunFolder

DATA = {"dataset": "Digits", "binarize": "dynamic", "data_seed": 0, "train": 1350, "validation": 150, "test": 297}
MODEL = {"prior": "StandardNormalPrior", "likelihood": "BernoulliLikelihood", "guide": "IAFGuide", "latent_dim": 2}
OWN = {"split": "test", "num_samples": 50, "proposal": "guide", "sample_seed": 0, "dtype": "float32", "dimensions": 64}
PROTOCOL = {**DATA, **MODEL, **OWN, "discrete": True, "num_data": 4, "precision": "fp32"}
Make = Callable[..., Path]


def importance(shift: float = 0.0, **entries: Any) -> LogLikelihood:
    """Log-likelihoods -1, -2, ... and errors 0.1; the shift grows with the datum."""
    rows = torch.arange(1.0, 1.0 + entries.get("num_data", 4))
    rest = {name: torch.ones_like(rows) for name in ("effective_sample_size", "pareto_k", "distortion", "rate")}
    bound = -rows + shift * rows
    errors = torch.full_like(rows, 0.1)
    return LogLikelihood(bound, errors, elbo=bound - 1, **rest, protocol={**PROTOCOL, **entries})


def annealed(**entries: Any) -> AnnealedLogLikelihood:
    rest = [torch.ones(4)] * 4
    protocol = {**PROTOCOL, "num_distributions": 100, "num_chains": 2, **entries}
    return AnnealedLogLikelihood(torch.zeros(4), *rest, torch.ones(4, 2), protocol=protocol)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A run folder with results."""

    def create(name: str, *results: Any, config: str = "data: {}") -> Path:
        run = RunFolder.create(tmp_path / name, config=config)
        for number, result in enumerate(results):
            result.save(run.path / f"{result.method}-{number}.json")
        return run.path

    return create


def error_line(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    capsys.readouterr()
    assert main(["compare", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    return line


def test_the_same_protocol_makes_one_table_with_paired_gains() -> None:
    (table,) = compare({"a": [importance()], "b": [importance(0.1, guide="X", sample_seed=3)]})
    assert table.method == "importance"
    first, second = (row.cells["log_likelihood"] for row in table.rows)
    assert first.value == pytest.approx(-2.5)
    assert second.value == pytest.approx(-2.25)
    assert second.gain == pytest.approx(0.25)
    gains = torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert second.gain_error == pytest.approx(float(gains.std() / 2))
    assert second.monte_carlo_error == pytest.approx(0.05)
    assert second.sampling_error == pytest.approx(float((0.9 * torch.arange(1.0, 5.0)).std() / 2))
    assert first.gain != first.gain  # nan: it is the reference
    assert [row.model["guide"] for row in table.rows] == ["IAFGuide", "X"]
    assert table.model_entries == ["guide"]
    assert "sample_seed" not in table.protocol


DIFFERENT = {
    **{"dataset": "MNIST", "binarize": "fixed", "data_seed": 1, "train": 1000, "validation": 100, "test": 290},
    **{"num_samples": 51, "proposal": "prior", "dtype": "float64", "discrete": False, "precision": "bf16"},
    **{"num_data": 3, "dimensions": 65, "something_new": 1},
}


@pytest.mark.parametrize("entry", DIFFERENT)
def test_another_protocol_raises_with_the_entry_and_both_values(entry: str) -> None:
    others = {entry: DIFFERENT[entry]}
    with pytest.raises(ValueError, match="a column must have one protocol") as refusal:
        compare({"a": [importance()], "b": [importance(**others)]})
    assert f"got {entry}={PROTOCOL.get(entry)} in a and {entry}={DIFFERENT[entry]} in b" in str(refusal.value)
    (table,) = compare({"a": [importance()], "b": [importance(**others)]}, mixed=True)
    assert table.rows[0].differs == {}
    assert table.rows[1].differs == others


@pytest.mark.parametrize("entry", ["dataset", "binarize", "data_seed", "num_data", "train", "test"])
def test_other_data_have_no_gain(entry: str) -> None:
    (table,) = compare({"a": [importance()], "b": [importance(**{entry: DIFFERENT[entry]})]}, mixed=True)
    assert all(cell.gain != cell.gain for row in table.rows for cell in row.cells.values())


def test_another_estimate_on_the_same_data_has_a_gain() -> None:
    (table,) = compare({"a": [importance()], "b": [importance(0.1, num_samples=9)]}, mixed=True)
    assert table.rows[1].cells["log_likelihood"].gain == pytest.approx(0.25)


def test_resampled_training_images_are_not_paired() -> None:
    for binarize, paired in (("dynamic", False), ("fixed", True)):
        both = [importance(split="train", binarize=binarize) for _ in range(2)]
        (table,) = compare({"a": both[:1], "b": both[1:]})
        gain = table.rows[1].cells["log_likelihood"].gain
        assert (gain == 0) is paired


def test_results_common_to_all_runs_are_compared() -> None:
    few, many = importance(num_samples=5), importance(num_samples=500)
    (table,) = compare({"a": [few, many], "b": [many], "c": [many, importance()]})
    assert table.protocol["num_samples"] == 500
    both = compare({"a": [few, many], "b": [few, many]})
    assert [t.protocol["num_samples"] for t in both] == [5, 500]


def test_runs_that_share_results_only_pairwise_are_rejected() -> None:
    r = {n: importance(num_samples=n) for n in (1, 2, 3)}
    with pytest.raises(ValueError, match=r"got num_samples=\d in \w and num_samples=\d in \w \(importance\)"):
        compare({"a": [r[1], r[2]], "b": [r[2], r[3]], "c": [r[3], r[1]]})


def test_the_error_names_two_runs_without_a_common_result() -> None:
    runs = {"a": [importance(), importance(num_samples=9)], "b": [importance()], "c": [importance(num_samples=9)]}
    with pytest.raises(ValueError, match="got num_samples=50 in b and num_samples=9 in c"):
        compare(runs)


def test_equal_seeds_are_preferred() -> None:
    first, again = importance(sample_seed=1), importance(0.1, sample_seed=1)
    (table,) = compare({"a": [first], "b": [importance(0.7, sample_seed=0), again]})
    assert table.rows[1].cells["log_likelihood"].value == pytest.approx(-2.25)


def test_a_run_without_a_method_has_an_empty_row() -> None:
    tables = compare({"a": [importance(), annealed()], "b": [importance()]})
    assert [table.method for table in tables] == ["importance", "ais"]
    assert tables[1].rows[1].cells == {}


def test_a_bidirectional_result_has_its_gap_and_no_pairs() -> None:
    lower, errors = torch.tensor([-3.0, -2.0, -1.0, 0.0]), torch.full((4,), 0.1)
    upper = lower + torch.tensor([1.0, 2.0, 3.0, 2.0])
    result = Sandwich(lower, upper, errors, errors, torch.ones(4), protocol=PROTOCOL)
    (table,) = compare({"a": [result], "b": [result]})
    cell = table.rows[1].cells["gap"]
    assert cell.value == pytest.approx(2.0)
    assert cell.sampling_error == pytest.approx(float((upper - lower).std() / 2))
    assert cell.gain != cell.gain
    assert "log_likelihood" not in table.rows[1].cells


# the command


def test_it_prints_an_aligned_table_with_its_protocol(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = make("a", importance()), make("longer", importance(0.1, latent_dim=9))
    assert main(["compare", str(a), str(b)]) == 0
    title, header, *rows, protocol, noise, spread, gain = capsys.readouterr().out.splitlines()
    assert title == "importance"
    assert header.split()[:2] == ["run", "latent_dim"]
    assert {len(line) for line in (header, *rows)} == {len(header)}
    assert "-2.500 +- 0.050" in rows[0]
    assert "+0.250 +- 0.065" in rows[1]
    assert protocol.startswith("protocol: dataset=Digits, binarize=dynamic")
    assert noise == "Monte Carlo errors, for exactly these data: log-likelihood"
    assert spread == "errors over data: ELBO, rate"
    assert f"from {a}" in gain


def test_gains_are_over_the_first_run_that_has_a_number(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, c = make("a", annealed()), make("b", importance()), make("c", importance(0.1))
    assert main(["compare", str(a), str(b), str(c)]) == 0
    output = capsys.readouterr().out
    assert "+0.250 +- 0.065" in output
    assert f"from {b}, paired by datum" in output


def test_errors_print_one_line_and_write_nothing(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, out = make("a", importance()), make("b", importance(binarize="fixed")), tmp_path / "table.md"
    line = error_line(capsys, a, b, "--out", out)
    assert line.startswith(f"compare: a column must have one protocol, got binarize=dynamic in {a} and binarize=fixed")
    assert "--mixed" in line
    assert not out.exists()
    assert main(["compare", str(a), str(b), "--mixed", "--out", str(out)]) == 0
    assert "| binarize=fixed |" in out.read_text()


def test_it_needs_runs_with_results(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    a, empty, damaged = make("a", importance()), make("empty"), make("damaged", importance())
    assert error_line(capsys, a, empty).endswith(f"Make one: pyro-vae evaluate {empty} --split test.")
    assert "runs must be distinct" in error_line(capsys, a, a.parent / "." / ".." / a.parent.name / a.name)
    assert "the run folder must exist" in error_line(capsys, a, a.with_name("missing"))
    assert "arguments are required: RUN" in error_line(capsys)
    (damaged / "importance-0.json").write_text('{"per_datum": {"log_likelihood": 3}}')
    assert "per_datum must have the entry 'standard_error'" in error_line(capsys, a, damaged)
    (damaged / "importance-0.json").write_text("{")
    assert "the file must be JSON" in error_line(capsys, a, damaged)


def test_other_json_files_are_skipped(make: Make) -> None:
    path = make("a", importance())
    (path / "notes.json").write_text('["mine"]')
    assert len(read_runs([path])[str(path)]) == 1


@pytest.mark.parametrize("suffix", ["csv", "md", "html", "tex", "json"])
def test_a_file_has_the_numbers_and_is_never_replaced_silently(
    suffix: str, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, out = make("a|1", importance(), annealed()), make("b", importance(0.1)), tmp_path / f"t.{suffix}"
    assert main(["compare", str(a), str(b), "--out", str(out)]) == 0
    text = out.read_text()
    if suffix == "csv":
        first, second = csv.DictReader(text.splitlines())
        assert float(second["1 importance log_likelihood gain [nats]"]) == pytest.approx(0.25)
        assert first["1 importance log_likelihood gain [nats]"] == ""
        assert "binarize=dynamic" in first["2 ais protocol"]
        assert second["2 ais protocol"] == ""
    elif suffix == "json":
        row = json.loads(text)[0]["rows"][1]
        assert row["cells"]["elbo"]["value"] == pytest.approx(-3.25)
        assert row["run"] == str(b)
    else:
        assert {"md": "a\\|1", "tex": r"/a|1 &", "html": "/a|1</td>"}[suffix] in text
        assert {"tex": r"$-$2.250 $\pm$ 0.050 &"}.get(suffix, "-2.250 ± 0.050") in text
        assert "protocol: " in text
    assert "must not exist yet" in error_line(capsys, a, b, "--out", out)
    assert main(["compare", str(a), str(b), "--out", str(out), "--overwrite"]) == 0
    assert out.read_text() == text


def test_options_without_effect_are_rejected(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    a = make("a", importance())
    assert error_line(capsys, a, "--overwrite").startswith("--overwrite: must come with --out")
    assert error_line(capsys, a, "--out", "x.txt").startswith(
        "--out: must end in .csv or .md or .html or .tex or .json"
    )


def test_files_of_the_user_are_distinguished(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    config = "data: {{class_path: pyro_vae.Files, init_args: {{root: {}}}}}"
    a, b = (make(n, importance(dataset="Files"), config=config.format(f"{n}.npz")) for n in ("a", "b"))
    assert "got data_file=a.npz in" in error_line(capsys, a, b)
