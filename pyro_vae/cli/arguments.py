"""Parsing of command-line arguments."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from pyro_vae.experiments.option_errors import unknown_option


class Parser(argparse.ArgumentParser):
    """An argument parser without abbreviations that raises its errors, each one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{self.prog}: {message[:200]}. See {self.prog} --help.")

    def parse_args(self, args: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown and unknown[0].startswith("-"):
            raise unknown_option(unknown[0].split("=")[0], self._option_string_actions, parent="")
        if unknown:
            self.error(f"unexpected argument {unknown[0]}")
        return parsed
