"""``pyro-vae evaluate``: evaluate a run by one method, whose options follow from the evaluation function."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pyro_vae._core.checks import check_count, check_positive, require, with_article
from pyro_vae.cli.arguments import Parser
from pyro_vae.cli.console import add_place, check_out, check_seed, load, say
from pyro_vae.cli.results import evaluate_once
from pyro_vae.cli.resumable import files_at
from pyro_vae.experiments.methods import INFLATION, METHODS, Method
from pyro_vae.models import VAE, AutoregressiveModel

_METHODS = f"one of {', '.join(METHODS)} (default importance; accurate with --accuracy)"
_DESCRIPTION = """\
Evaluate a run: write a JSON to the run folder and a figure to RUN/figures/. A result of the same options and weights is
printed instead; beside one of other weights the new one is written under another name."""


def evaluate(argv: list[str]) -> None:
    """Evaluate a run by the method of ``--method``."""
    first = Parser(prog="pyro-vae evaluate", add_help=False, allow_abbrev=False)
    first.add_argument("--method", choices=METHODS, default=None)
    chosen, rest = first.parse_known_args(argv)
    if {"-h", "--help"} & set(rest):
        say(_help(list(METHODS.values()) if chosen.method is None else [METHODS[chosen.method]]))
        return
    accurate = chosen.method is None and any(word.split("=")[0] == "--accuracy" for word in rest)
    method = METHODS[chosen.method or ("accurate" if accurate else "importance")]
    _refuse_other_options(method, rest)
    options = vars(_parser(method).parse_args(rest))
    _check(method, options)
    _run(method, options)


def _run(method: Method, options: dict[str, Any]) -> None:
    overwrite, out, folder = options.pop("overwrite"), options.pop("out"), Path(options["run"])
    options.pop("method")
    if out is not None:
        for file in files_at(out, [kind.method for kind in method.results]):
            check_out(file, overwrite, ".json")
    trained = load(options)
    if not isinstance(trained.vae, VAE):
        exact = isinstance(trained.vae, AutoregressiveModel)
        others = ", ".join(m.name for m in METHODS.values() if m.applies(trained.vae))
        what = "a model with classes" if trained.classifies else with_article(type(trained.vae))
        rule = f"--method {method.name} requires {'latent variables' if exact else 'a VAE'}"
        require(method.applies(trained.vae), "evaluate", rule, what, f"Use one of {others}")
        if exact and "num_samples" in options:
            options["num_samples"] = 1  # as at the end of the training: there are no latents to sample
    for saved in evaluate_once(folder, trained, method, options, overwrite=overwrite, out=out):
        saved.print()
        say(f"figure: {saved.figure or 'none'}")


def _refuse_other_options(method: Method, argv: list[str]) -> None:
    """Name the method whose options are valid, if an option belongs to another method."""
    names = {option.name for option in method.options}
    others = {option.name for m in METHODS.values() for option in m.options} - names
    words = (word.split("=")[0] for word in argv if word.startswith("--"))
    wrong = next((word for word in words if word[2:] in others), None)
    valid = ", ".join(f"--{option.name}" for option in method.options)
    rule = f"--method {method.name} accepts only its own options"
    require(wrong is None, "evaluate", rule, wrong, f"Its options are {valid}")


def _check(method: Method, options: dict[str, Any]) -> None:
    counts = {o.name: options[o.name] for o in method.options if isinstance(o.default, int)}
    check_count("evaluate", **counts, num_data=options["num_data"])
    check_positive("evaluate", **{o.name: options[o.name] for o in method.options if o.type is float})
    check_seed(options["seed"])
    for option in method.options:
        if options[option.name] is None:
            options[option.name] = option.default
    if "inflate" in options:
        _set_inflation(options)


def _set_inflation(options: dict[str, Any]) -> None:
    """Set the default factor of the inflated proposal; refuse a factor for other proposals."""
    factor, inflated = options["inflate"], options["proposal"] == "inflated"
    valid = factor is None or inflated
    require(valid, "--inflate", "must come with --proposal inflated", f"{factor} alone")
    options["inflate"] = INFLATION if inflated and factor is None else factor


def _parser(method: Method) -> argparse.ArgumentParser:
    """The common options and those of the method."""
    parser = _common()
    _add_options(parser, method)
    parser.set_defaults(num_data=method.num_data)
    return parser


def _common() -> argparse.ArgumentParser:
    parser = Parser(prog="pyro-vae evaluate", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--method", choices=METHODS, metavar="METHOD", help=_METHODS)
    parser.add_argument("--split", choices=["test", "validation", "train"], default="test", help="(default test)")
    defaults = ", ".join(f"{m.num_data} for {m.name}" for m in METHODS.values() if m.num_data)
    parser.add_argument("--num_data", type=int, help=f"number of examples, from the first (default all; {defaults})")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default 0)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON to write instead of one in the run folder")
    parser.add_argument(
        "--overwrite", action="store_true", help="evaluate again, and replace the result of the same options"
    )
    add_place(parser)
    return parser


def _add_options(parser: argparse.ArgumentParser, method: Method) -> None:
    """Add the method's options; None marks an omitted one until the defaults are set."""
    group = parser.add_argument_group(f"--method {method.name}", method.summary)
    for option in method.options:
        text = option.help if option.default is None else f"{option.help} (default {option.default})"
        group.add_argument(
            f"--{option.name}", type=option.type, choices=option.choices or None, help=text.replace("%", "%%")
        )


def _help(methods: list[Method]) -> str:
    """Common options, then a section for each method, since methods may share names of options."""
    sections = [_common().format_help().rstrip("\n")]
    for method in methods:
        parser = Parser(usage=argparse.SUPPRESS, add_help=False)
        _add_options(parser, method)
        sections.append(parser.format_help().strip("\n"))
    return "\n\n".join(sections)
