"""``pyro-vae completion``: a script that completes commands, options and choices in a shell."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress

from pyro_vae._core.checks import refusal
from pyro_vae.cli.arguments import Parser
from pyro_vae.cli.console import say
from pyro_vae.experiments.components import KINDS

_SHELLS = ("bash", "zsh", "tcsh")
_DESCRIPTION = """\
Print a script that completes commands, options and choices; add eval "$(pyro-vae completion bash)" to ~/.bashrc.
"""


def complete_in_shell(argv: Sequence[str]) -> None:
    """Print the script of a shell."""
    parser = Parser(prog="pyro-vae completion", description=_DESCRIPTION)
    parser.add_argument("shell", choices=_SHELLS, help="the shell")
    shell = parser.parse_args(argv).shell
    try:
        import shtab
    except ImportError:
        advice = "Run pip install 'pyro-vae[completion]'"
        raise refusal("pyro-vae completion", "shtab must be installed", "none", advice) from None
    from pyro_vae.cli.main import COMMANDS, command_of

    whole = argparse.ArgumentParser("pyro-vae", allow_abbrev=False)
    commands = whole.add_subparsers()
    for name in COMMANDS:
        one = commands.add_parser(name, help=name, allow_abbrev=False, add_help=False)  # shtab hides those without help
        one.add_argument("files", nargs="*").complete = shtab.FILE  # type: ignore[attr-defined]
        for option, action in _options(command_of(name)).items():
            kind = KINDS.get(option.rpartition(".")[2].removeprefix("--"))
            choices = action.choices or (kind.names() if kind else None)
            one.add_argument(option, **({"action": "store_true"} if action.nargs == 0 else {"choices": choices}))
    say(shtab.complete(whole, shell))


def _options(command: Callable[[list[str]], None]) -> dict[str, argparse.Action]:
    """The options of the parsers by which a command prints its help."""
    with Parser.collected() as parsers, redirect_stdout(io.StringIO()), suppress(SystemExit):
        command(["--help"])
    pairs = [(option, action) for parser in parsers for option, action in parser._option_string_actions.items()]
    return {option: action for option, action in pairs if option.startswith("--")}
