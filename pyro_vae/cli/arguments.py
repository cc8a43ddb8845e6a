"""The words of a command line: made exact and safe, and their errors made one line."""

from __future__ import annotations

import argparse
import json
import os
import re
import textwrap
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pyro_vae.experiments.config import COMPONENTS, component, load_config


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, as all others."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{self.prog}: {message[:200]}. See {self.prog} --help.")


def normalise_args(words: list[str], trust: Sequence[str]) -> list[str]:
    """Component names in their exact form, and configuration files read and checked."""
    exact: list[str] = []
    pending: str | None = None
    for word in (part for w in words for part in _split(w)):
        if pending == "--config":
            word = json.dumps(load_config(_text(word), word, trust=trust))
        elif pending is not None and not word.startswith("--"):
            chosen = component(_kind(pending), word)
            word = chosen if isinstance(chosen, str) else json.dumps(chosen)
        pending = word if word == "--config" or (word.startswith("--") and _kind(word) in COMPONENTS) else None
        exact.append(word)
    return exact


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: must be a text file, got other bytes. Give a YAML file.") from None


def _split(word: str) -> list[str]:
    return word.split("=", 1) if re.match(r"--[\w.]+=", word) else [word]


def _kind(option: str) -> str:
    return option.rsplit(".", 1)[-1].removeprefix("--")


def one_line(error: BaseException) -> str:
    """The message of an error as one line; with PYRO_VAE_TRACEBACK set, its traceback is printed before."""
    if os.environ.get("PYRO_VAE_TRACEBACK"):
        traceback.print_exception(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: must be readable and writable, got {error.strerror!r}. Check the path and the space."
    text = re.sub(r"\s+", " ", str(error).split("Trace Shapes:")[0]).strip()
    if isinstance(error, RuntimeError | MemoryError):
        return f"pyro-vae: must fit the machine and its libraries, got {textwrap.shorten(text, 200)} Use smaller sizes."
    return _option_error(text) if isinstance(error, argparse.ArgumentError) else text


def _option_error(text: str) -> str:
    """jsonargparse's nested reports, cut down to the innermost complaint."""
    keys = re.findall(r'Parser key "([\w.]+)":', text)
    option = "--" + ".".join(dict.fromkeys(keys)) if keys else "pyro-vae train"
    unknown = re.search(r"Option '([\w.]+)' is not accepted", text) or re.search(r"unrecognized arguments: (\S+)", text)
    if unknown:
        return f"{option}: must be given options that exist, got {unknown[1]!r}. See pyro-vae train --help."
    expected = re.findall(r"Expected (?:an? )?(.+?)[.:] Got value: (\S+)", text)
    if expected:
        kind = re.sub(r"<class '(\w+)'>|typing\.(?:Literal\[(.*)\])?", r"\1\2", expected[-1][0])
        return f"{option}: must be {kind}, got {expected[-1][1].rstrip('.')}. See pyro-vae train --help."
    return f"{option}: {textwrap.shorten(text, 300).rstrip('. ')}. See pyro-vae train --help."
