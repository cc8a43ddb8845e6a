"""A short form of the attack by damaged files, and of its claims about result files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tools.attack_files import TARGETS, attack, table, trials, workspace

pytestmark = pytest.mark.usefixtures("single_precision")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_default_dtype(torch.float32)
    folder = tmp_path_factory.mktemp("attack") / "base"
    folder.mkdir()
    workspace(folder, classes=False)
    return folder


def test_there_are_many_kinds_of_damage_for_every_kind_of_file() -> None:
    damages = {(trial.kind, trial.damage) for trial, _, _ in trials()}
    assert {kind for kind, _ in damages} == set(TARGETS)
    assert len(damages) >= 300


@pytest.mark.slow
def test_a_damaged_file_is_refused_in_one_line(base: Path) -> None:
    outcomes = attack(base, step=59)
    failures = [f"{t.kind}, {t.damage}: {t.command}: {t.problem}: {t.text}" for t in outcomes if t.problem]
    assert not failures, "\n".join([*failures, table(outcomes)])
    assert sum(t.code == 2 for t in outcomes) > len(outcomes) / 2
