"""The start of the command line, and its end by a signal: one line, no traceback, the exit code of the shell."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from pyro_vae._core.interrupts import Terminated
from pyro_vae.cli.main import main
from pyro_vae.cli.resumable import resumable
from pyro_vae.cli.train import _advising_to_resume
from pyro_vae.training import RunFolder

QUICK = ["--epochs", "2", "--num_samples", "5", "--latent_dim", "3", "--device", "cpu"]
START = """
import os, sys, time
class Finder:  # is asked for torch when the command is imported
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
from pyro_vae.cli.main import main
code = main({argv})
print("torch" in sys.modules, time.process_time(), file=sys.stderr)
sys.exit(code)
"""
pytestmark = pytest.mark.usefixtures("single_precision")


def _start(argv: list[str], number: int = 0) -> subprocess.CompletedProcess[str]:
    code = START.format(argv=argv, number=number)
    # a shell's background jobs ignore SIGINT, and so would this process
    listens = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, preexec_fn=listens)


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["trian"]])
def test_what_needs_no_torch_does_not_import_it(argv: list[str]) -> None:
    imported, seconds = _start(argv).stderr.split()[-2:]
    assert imported == "False"
    assert float(seconds) < 0.3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_torch_is_imported_prints_one_line(number: int, code: int) -> None:
    done = _start(["train"], number)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "pyro-vae: interrupted\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_a_training_stops_it_after_a_checkpoint(
    number: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = RunFolder.append_metrics

    def interrupt(*args: object, **options: object) -> None:
        os.kill(os.getpid(), number)
        save(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(RunFolder, "append_metrics", interrupt)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert main(["train", *QUICK, "--out", str(tmp_path / "run")]) == code
    line = capsys.readouterr().err
    assert line.startswith("pyro-vae: interrupted, stopped after step 14. Resume with --resume ")
    assert RunFolder(tmp_path / "run").load_state() is not None
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


@pytest.mark.parametrize("place", ["run_training", "final_evaluation"])
def test_a_signal_outside_the_steps_names_the_command_that_resumes(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"

    def interrupt(*args: object, **options: object) -> None:
        RunFolder.create(out, config="")
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("pyro_vae.cli.train.run_training", lambda **options: None)
    monkeypatch.setattr(f"pyro_vae.cli.train.{place}", interrupt)
    assert main(["train", *QUICK, "--out", str(out)]) == 143
    assert capsys.readouterr().err == f"pyro-vae: interrupted, resume with --resume {out}\n"


def test_an_interrupted_evaluation_keeps_its_signal_and_names_the_command_that_resumes(tmp_path: Path) -> None:
    (tmp_path / "result.batches").mkdir()
    (tmp_path / "result.batches" / f"{0:032x}.safetensors").touch()
    text = r"1 finished batches are in .*, from which the same command resumes"
    with pytest.raises(Terminated, match=text), resumable(tmp_path / "result.json"):
        raise Terminated
    resumed = pytest.raises(Terminated, match=f"^resume with --resume {tmp_path}$")
    with resumed, _advising_to_resume(tmp_path), resumable(tmp_path / "result.json"):
        raise Terminated


def test_sigterm_outside_a_training_ends_with_143(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("pyro_vae.cli.generate.sample", lambda argv: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["sample"]) == 143
    assert capsys.readouterr().err == "pyro-vae: interrupted\n"
    assert issubclass(Terminated, KeyboardInterrupt)


def test_only_the_line_about_a_missing_cuda_runtime_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_vae.cli.generate.sample", lambda argv: None)
    assert main(["sample"]) == 0
    logger = logging.getLogger("torch.utils.cpp_extension")
    texts = "No CUDA runtime is found, using CUDA_HOME='%s'", "The detected CUDA version (%s) has a minor mismatch"
    records = [logger.makeRecord(logger.name, logging.WARNING, "", 0, text, ("x",), None) for text in texts]
    assert [bool(logger.filter(record)) for record in records] == [False, True]
