"""Configurations, which somebody else may have written: reading one imports nothing that is not trusted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from pyro_vae._core.checks import refusal, require, with_article

# A configuration may name public classes of this package, torch's optimizers and their schedules.
_TRUSTED = re.compile(r"pyro_vae(\.[a-z_0-9]+)*\.[A-Z]\w*|torch\.optim(\.lr_scheduler)?\.[A-Z]\w*")
_WORD_OR_NUMBER = re.compile(r"[\w+\- ]*|[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
MAX_SIZE = 1_000_000
"""The largest size of a configuration in bytes."""
_MAX_DEPTH = 20
_KINDS: dict[str, type] = {"class_path": str, "init_args": dict}
# keys whose values are names of files, columns or projects, never imported
_NAMES = {"root", "out", "model_from", "m1", "context", "label", "drop", "experiment", "project"}


def read_config(text: str, source: str, *, trust: Iterable[str] = ()) -> dict[str, Any]:
    """Parse a YAML configuration; raise if it names code to import that is not trusted.

    Args:
        text: the YAML.
        source: its name, for messages.
        trust: packages whose classes may be named in addition; importing them runs their code.

    Returns:
        The configuration, with component names as they are written.

    Raises:
        ValueError: not a mapping, or it names something outside this package, torch's optimizers and ``trust``.
    """
    config = read_yaml(text, source)
    _check(config, "", source, tuple(trust))
    return config


def read_yaml(text: str, source: str) -> dict[str, Any]:
    """Parse YAML that maps options to values.

    Raises:
        ValueError: a syntax error, not a mapping, too long, too deep, or with aliases.
    """
    rule, advice = f"must have at most {MAX_SIZE} bytes", "Pass a file such as RUN/config.yaml"
    require(len(text) <= MAX_SIZE, source, rule, "more", advice)
    try:
        _check_events(text, source)
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise refusal(source, "must be YAML", f"a syntax error ({str(error).splitlines()[0]})") from None
    require(isinstance(config, dict), source, "must map options to values", type(config).__name__)
    return dict(config)


def _check_events(text: str, source: str) -> None:
    """Refuse aliases, of which a few lines stand for gigabytes, and deep nesting, before any of it is built."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        require(depth <= _MAX_DEPTH, source, f"must be nested at most {_MAX_DEPTH} deep", "more")
        anchor = getattr(event, "anchor", None)
        require(
            anchor is None, source, "must not contain YAML anchors and aliases", repr(anchor), "Write the value out"
        )


def _check(value: Any, key: str, source: str, trust: tuple[str, ...]) -> None:
    if isinstance(value, dict):
        for name, entry in value.items():
            _check_key(name, source, dotted=not key)
            kind = _KINDS.get(name.rpartition(".")[2], object)
            rule, got = f"{name} must be {kind.__name__}", with_article(type(entry))
            require(isinstance(entry, kind) or entry is None, source, rule, got)
            _check(entry, name.rpartition(".")[2], source, trust)
    elif isinstance(value, list):
        for entry in value:
            _check(entry, key, source, trust)
    elif isinstance(value, str):
        if key not in _NAMES:
            _check_text(value, source, trust)
    else:
        plain = isinstance(value, bool | int | float | None)
        require(plain, source, "must hold text and numbers", f"{with_article(type(value))} at {key!r}")


def _check_key(key: Any, source: str, *, dotted: bool) -> None:
    """Require a word; options may have dots, as on the command line, but not the keys within them."""
    words = key.split(".") if isinstance(key, str) and dotted else [key]
    are_words = all(isinstance(word, str) and word.isidentifier() for word in words)
    require(are_words, source, "must have plain words as keys", repr(str(key)[:80]))
    names_file = any(word in ("config", "resume") for word in words)
    require(not names_file, source, "must not name another file", f"key {key!r}", "Remove the key")


def _check_text(value: str, source: str, trust: tuple[str, ...]) -> None:
    package = value.split(".")[0]
    if _WORD_OR_NUMBER.fullmatch(value) or _TRUSTED.fullmatch(value):
        return
    if package in trust and re.fullmatch(r"[\w.]+", value):
        return
    name = package if package.isidentifier() else "PACKAGE"
    advice = f"Importing others runs their code: if you trust it, add --trust {name}"
    raise refusal(source, "must name only classes of pyro_vae and torch.optim", repr(value), advice)
