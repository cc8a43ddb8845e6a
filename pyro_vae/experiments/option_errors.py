"""Errors about options, each as one line."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pyro_vae._core.checks import require


def unknown_option(name: str, known: Iterable[str], *, parent: str = "--", owner: str = "") -> ValueError:
    """The error for an option that does not exist, with the most similar one that does.

    Args:
        name: of the option.
        known: names of the options that exist.
        parent: precedes both in the message.
        owner: class whose options they are, which are then listed.

    Example:
        >>> str(unknown_option("gide", ["guide", "prior"]))
        'unknown option --gide; did you mean --guide?'
        >>> str(unknown_option("depth", ["hidden", "dropout"], parent="--net.", owner="MLP"))
        'unknown option --net.depth; MLP has hidden, dropout.'
    """
    known = list(known)
    options = f"{owner} has {', '.join(known) or 'no options'}." if owner else ""
    message = unknown_name("option", name, known, options or "see --help.", parent=parent)
    return ValueError(f"{message} {options}" if options and message.endswith("?") else message)


def unknown_name(kind: str, name: str, known: Iterable[str], advice: str, *, parent: str = "") -> str:
    """The message for a name that does not exist: the most similar one that does, or the advice."""
    likely = similar(name, known)
    return f"unknown {kind} {parent}{name}; {f'did you mean {parent}{likely}?' if likely else advice}"


def similar(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar, apart from case and underscores.

    Example:
        >>> similar("iaf_gide", ["DiagonalNormalGuide", "IAFGuide"])
        'IAFGuide'
    """
    plain = {option.lower().replace("_", ""): option for option in known}
    matches = get_close_matches(name.lower().replace("_", ""), plain, n=1, cutoff=0.7)
    return plain[matches[0]] if matches else None


def check_size(option: str, value: Any) -> None:
    """Require an integer to have 64 bits, as torch does.

    Raises:
        ValueError: it has more.
    """
    require(not isinstance(value, int) or -(2**63) <= value < 2**63, option, "must be in -2^63..2^63-1", value)


def wrong_choice(option: str, value: Any, choices: Iterable[Any]) -> ValueError:
    """The error for a value that is none of the choices.

    Example:
        >>> str(wrong_choice("--device", "gpu", ["cpu", "cuda"]))
        '--device: must be one of cpu, cuda, got gpu.'
    """
    names = [str(choice) for choice in choices]
    likely = similar(str(value), names)
    end = f"; did you mean {likely}?" if likely else "."
    return ValueError(f"{option}: must be one of {', '.join(names)}, got {value}{end}")
