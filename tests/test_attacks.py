"""Short forms of the attacks by kills and by full disks, and what they have found."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch

from pyro_vae.cli.main import main
from pyro_vae.cli.results import final_result
from tools import attack_disks, attack_kills
from tools.instants import Instant, contents, damaged, difference, leftovers

pytestmark = [pytest.mark.usefixtures("single_precision"), pytest.mark.slow]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_default_dtype(torch.float32)
    folder = tmp_path_factory.mktemp("attacks") / "base"
    folder.mkdir()
    attack_disks.workspace(folder, ["evaluate"])
    return folder


def test_a_killed_evaluation_is_completed_by_the_same_command(base: Path) -> None:
    """Also one killed between its files, whose last is the result, and one killed while it removes its batches."""
    attack = attack_kills.Attack(base.parent)
    for instant in (Instant("write", "figure"), Instant("remove", "batch", 2)):
        assert attack.at_instant("evaluate", instant) == "good"


def test_a_disk_that_fills_loses_nothing(base: Path) -> None:
    done = attack_disks.attack(base, ["evaluate"], every=12)
    assert [f"{trial}" for trial in done if trial.problem] == []
    assert {trial.fault.cause for trial in done} == {"no space", "no inodes", "unwritable"}


def test_a_run_without_its_last_figure_is_not_finished(base: Path, tmp_path: Path) -> None:
    """So that ``train --seeds`` draws the figures of a run that was killed while it drew them."""
    run, options = tmp_path / "run", {"classifies": False, "num_samples": 2}
    shutil.copytree(base / "run", run)
    assert final_result(run, **options) is not None
    files = sorted((run / "figures").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    files[-1].unlink()
    assert final_result(run, **options) is None


def test_a_bug_is_one_line_also_if_no_log_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(**options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pyro_vae.cli.report.run_parser", Path)
    monkeypatch.setattr("tempfile.mkstemp", full)
    assert main(["report", str(tmp_path)]) == 70
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.startswith("pyro-vae: ")
    assert line.endswith(" the output of PYRO_VAE_TRACEBACK=1, since no log could be written.\n")


def test_the_attacks_see_what_is_damaged_missing_or_left_over(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps({"elbo": [-1.5], "seconds": 3.0}))
    whole = contents(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({"elbo": [-1.5], "seconds": 4.0}))
    assert difference(whole, contents(tmp_path)) == ""
    (tmp_path / "result.json").write_text(json.dumps({"elbo": [-1.25], "seconds": 3.0}))
    assert difference(whole, contents(tmp_path)) == "result.json differs"
    assert difference({}, whole) == "result.json left over"
    assert difference(whole, {}) == "result.json missing"
    (tmp_path / ".state.pt.0123abcd").write_bytes(b"half")
    assert damaged(tmp_path) == []
    (tmp_path / "state.pt").write_bytes(b"half")
    assert damaged(tmp_path) == ["state.pt (KeyError)"]
    assert leftovers(tmp_path) == [tmp_path / ".state.pt.0123abcd"]
