"""The help texts: complete, grouped, readable."""

from __future__ import annotations

import re

import pytest

from pyro_vae.cli.main import main
from pyro_vae.cli.train_help import format_component
from pyro_vae.experiments.components import KINDS
from pyro_vae.experiments.experiment import default_options

MARKUP = re.compile(r"``|:\w+:`|<class|\\|typing\.|NoneType|namespace|init_args|class_path", re.IGNORECASE)


def _check(page: str) -> None:
    assert [line for line in page.splitlines() if len(line) > 100 or MARKUP.search(line)] == []


USES = ["outliers", "sample", "generate", "interpolate", "traverse", "edit", "complete", "explore"]


@pytest.mark.parametrize("columns", ["80", "250"])
@pytest.mark.parametrize(
    "command", ["train", "refit", "evaluate", "classify", "impute", "figures", "report", "compare", *USES]
)
def test_help_fits_a_hundred_columns_without_markup(command: str, columns: str, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main([command, "--help"]) == 0
    _check(capsys.readouterr().out)


@pytest.mark.parametrize("kind", KINDS)
def test_help_on_every_component_is_readable(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for name in KINDS[kind].names():
        page = format_component(kind, name)
        assert page.startswith(f"--{kind} {name}:\n")
        _check(page)


def test_help_on_a_training_is_grouped_and_complete(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    page = capsys.readouterr().out
    assert [name for name in default_options() if f"\n  --{name} " not in page] == []
    titles = "options", "model", "data", "training", "evaluation", "semi-supervised model, with --model M2"
    places = [page.index(f"\n{title}:\n") for title in titles]
    assert places == sorted(places)
    for option, title, after in [("--alpha", 5, None), ("--objective", 3, 4), ("--guide", 1, 2)]:
        end = None if after is None else places[after]
        assert places[title] < page.index(f"\n  {option} ") < (end or len(page))


def test_help_shows_the_options_of_the_chosen_classes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--guide", "iaf_guide", "--likelihood.net=GatedMLP", "--help"]) == 0
    page = capsys.readouterr().out
    for text in ("--guide IAFGuide:\n  Inverse autoregressive flow\n", "--guide.num_flows N ", "(default 4)"):
        assert text in page
    assert "--likelihood.net.hidden [N,...]" in page
    assert main(["train", "--help", "--guide", "IAFGide"]) == 2
    assert capsys.readouterr().err == "--guide: unknown class IAFGide; did you mean IAFGuide?\n"
