"""``pyro-vae evaluate``: one command, whose options are those of the method."""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

from pyro_vae._core.distributed import join
from pyro_vae.cli.arguments import Parser
from pyro_vae.cli.console import add_place, check_counts, check_seed, load, say
from pyro_vae.cli.results import print_result, save_result
from pyro_vae.experiments.methods import INFLATION, METHODS, Method, Option
from pyro_vae.experiments.results import result_path
from pyro_vae.training import RunFolder

_DESCRIPTION = "Evaluate a run: a JSON in the run folder and a figure beside it, in RUN/figures/."


def evaluate(words: list[str]) -> None:
    """Evaluate a run by one of the methods."""
    first = Parser(prog="pyro-vae evaluate", add_help=False, allow_abbrev=False)
    first.add_argument("--method", choices=METHODS, default=None)
    chosen, rest = first.parse_known_args(words)
    if {"-h", "--help"} & set(rest):
        say(_help(list(METHODS.values()) if chosen.method is None else [METHODS[chosen.method]]))
        return
    method = METHODS[chosen.method or "importance"]
    _refuse_others(method, rest)
    options = vars(_parser(method).parse_args(rest))
    _check(method, options)
    _run(method, options)


def _run(method: Method, options: dict[str, Any]) -> None:
    overwrite, run = options.pop("overwrite"), RunFolder(options["run"])
    options.pop("method")
    stem = method.file_stem(options)
    there = next((p for kind in method.results if (p := result_path(run, kind, stem)).exists()), None)
    if there and not overwrite and join().first:
        raise FileExistsError(
            f"evaluate: {there} must not exist yet, got one. Read it, or replace it with --overwrite."
        )
    trained = load(options)
    if trained.classifies and not method.applies(trained.vae):
        able = ", ".join(m.name for m in METHODS.values() if m.applies(trained.vae))
        raise ValueError(
            f"evaluate: --method {method.name} must have a VAE, got a model with classes. Use one of {able}."
        )
    results = method.run(trained, {**options, "progress": sys.stderr.isatty()})
    if join().first:
        for result in results:
            path, figure = save_result(run, result, stem, overwrite=overwrite)
            print_result(result, path)
            say(f"figure: {figure}" if figure else "figure: none")


def _refuse_others(method: Method, words: list[str]) -> None:
    """Say of another method's option that it is one, instead of that it is unknown."""
    own = {option.name for option in method.options}
    others = {option.name for m in METHODS.values() for option in m.options} - own
    wrong = next((w for w in words if w.startswith("--") and w[2:].split("=")[0] in others), None)
    if wrong:
        takes = ", ".join(f"--{option.name}" for option in method.options)
        raise ValueError(
            f"evaluate: --method {method.name} must be given options that it uses, got {wrong.split('=')[0]}. "
            f"It takes {takes}."
        )


def _check(method: Method, options: dict[str, Any]) -> None:
    counts = {o.name: o.default for o in method.options if isinstance(o.default, int)}
    check_counts(options, **counts, num_data=1000)
    check_seed(options["seed"])
    for option in method.options:
        value = options[option.name]
        if option.type is float and value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{option.name}: must be positive and finite, got {value:g}. Leave it away.")
        if value is None:
            options[option.name] = option.default
    if "inflate" in options:
        _pair_inflation(options)


def _pair_inflation(options: dict[str, Any]) -> None:
    """The factor belongs to the inflated proposal, and only to that."""
    factor, inflated = options["inflate"], options["proposal"] == "inflated"
    if factor is not None and not inflated:
        raise ValueError(f"--inflate: must come with --proposal inflated, got {factor:g} alone. Add it.")
    options["inflate"] = INFLATION if inflated and factor is None else factor


def _parser(method: Method) -> argparse.ArgumentParser:
    """The options that every method has, and this one's."""
    made = _common()
    group = made.add_argument_group(f"--method {method.name}: {method.summary}")
    for option in method.options:
        _add(group, option)
    made.set_defaults(num_data=method.num_data)
    return made


def _common() -> argparse.ArgumentParser:
    made = Parser(prog="pyro-vae evaluate", description=_DESCRIPTION, allow_abbrev=False)
    made.add_argument("run", metavar="RUN", help="run folder")
    made.add_argument("--method", choices=METHODS, help="(default importance)")
    made.add_argument("--split", choices=["test", "validation", "train"], default="test", help="(default test)")
    some = ", ".join(f"{m.num_data} for {m.name}" for m in METHODS.values() if m.num_data)
    made.add_argument("--num_data", type=int, help=f"only the first so many images (default all; {some})")
    made.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    made.add_argument("--overwrite", action="store_true", help="replace a result of the same protocol")
    add_place(made)
    return made


def _add(group: argparse._ArgumentGroup, option: Option) -> None:
    # None stands for the default until it is known whether the option was given.
    kind = None if option.choices else option.type or type(option.default)
    group.add_argument(
        f"--{option.name}",
        type=kind,  # type: ignore[arg-type]
        choices=option.choices or None,
        help=option.help if option.default is None else f"{option.help} (default {option.default})",
    )


def _help(methods: list[Method]) -> str:
    """Common options, then a section for each method, since two of them may have options of one name."""
    parts = [_common().format_help().rstrip("\n")]
    for method in methods:
        own = Parser(usage=argparse.SUPPRESS, add_help=False)
        group = own.add_argument_group(f"--method {method.name}: {method.summary}")
        for option in method.options:
            _add(group, option)
        parts.append(own.format_help().strip("\n"))
    return "\n\n".join(parts)
