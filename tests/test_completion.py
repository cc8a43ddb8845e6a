"""Completion in a shell: commands, their options and choices."""

from __future__ import annotations

import builtins
import subprocess

import pytest

from pyro_vae.cli.main import COMMANDS, main


@pytest.fixture(scope="module")
def script() -> str:
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("pyro_vae.cli.completion.say", printed.append)
        assert main(["completion", "bash"]) == 0
    return printed[0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["comp"], {"complete", "compress", "compare", "completion"}),
        (["evaluate", "--meth"], {"--method"}),
        (["evaluate", "RUN", "--device", ""], {"auto", "cpu", "cuda"}),
        (["train", "--gui"], {"--guide"}),
        (["train", "--guide", "Diag"], {"DiagonalNormalGuide"}),
    ],
)
def test_bash_completes(script: str, words: list[str], expected: set[str]) -> None:
    typed = " ".join(f"'{word}'" for word in ["pyro-vae", *words])
    ask = f"COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _shtab_pyro_vae; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
    assert expected <= set(done.stdout.split())
    assert all(word.startswith(words[-1]) for word in done.stdout.split())


def test_every_command_has_its_options(script: str) -> None:
    names = {name: name.replace("-", "_") for name in COMMANDS}
    assert [name for name, word in names.items() if f"_shtab_pyro_vae_{word}_option_strings=(" not in script] == []


def test_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plain = builtins.__import__

    def absent(name: str, *args: object, **options: object) -> object:
        if name == "shtab":
            raise ImportError(name)
        return plain(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert main(["completion", "zsh"]) == 2
    assert capsys.readouterr().err.startswith("pyro-vae completion: shtab must be installed, got none. Run pip install")
    assert main(["completion", "fish"]) == 2
    assert capsys.readouterr().err == "shell: must be one of bash, zsh, tcsh, got fish.\n"
