"""Give the command line bad arguments, generated from its own parsers, and check that each prints one good line.

    python -m tools.attack_command_lines               every option of every command and component
    python -m tools.attack_command_lines --every 10    every tenth command line

A line is good if it is the only one on standard error, names the option and ends as a sentence. Nothing is trained or
evaluated: a command stops where its work would begin, and has then accepted its arguments.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from unittest import mock

import numpy as np
import torch
import yaml
from tabulate import tabulate

from pyro_vae.cli.arguments import Parser
from pyro_vae.cli.main import COMMANDS, main
from pyro_vae.data.base import RawArrays
from pyro_vae.experiments.components import KINDS, component_parser, find_component
from pyro_vae.experiments.experiment import parse_options, to_yaml
from pyro_vae.experiments.experiment import parser as training_parser
from pyro_vae.experiments.methods import METHODS
from pyro_vae.experiments.option_values import _members
from pyro_vae.networks import CausalNetwork

_TRAIN = {"--device": "cpu", "--latent_dim": "2", "--out": "run"}
_AUTOREGRESSIVE = ("--likelihood", "AutoregressiveLikelihood")
_PLACES = {
    "net": "--guide.net",
    "beta": "--objective.beta",
    "decoder": "--likelihood.decoder",
    "base": "--likelihood.base",
    "discriminator": "--objective.discriminator",
    "ratio": "--objective.ratio",
}
_PRECEDING = {  # arguments with which the option of a kind is used
    "prior_guide": ("--prior", "VampPrior", "--prior.num_components", "5"),
    "classifier": ("--model", "M2", "--data.labels", "100"),
    "label_prior": ("--model", "M2", "--data.labels", "100"),
    "beta": ("--objective", "BetaELBO"),
    "decoder": _AUTOREGRESSIVE,
    "base": _AUTOREGRESSIVE,
    "discriminator": ("--likelihood", "ImplicitLikelihood", "--objective", "AdversarialReconstruction"),
    "ratio": ("--guide", "ImplicitGuide", "--objective", "AdversarialELBO"),
}
_UNFIT = {"decoder": ("ConvEncoder",), "discriminator": ("ConvDecoder",), "ratio": ("ConvEncoder", "ConvDecoder")}
_NEEDED = {
    "Files": {"root": "images.npy"},
    "PolynomialLR": {"total_iters": "100"},
    "OneCycleLR": {"total_steps": "100"},
    "MNIST": {"validation": "5"},
    "FashionMNIST": {"validation": "5"},
}
_NO_CLASSES = (
    *("Nonsense", "photos/", "/tmp", "3", "[1]", "os.path.join", "torch.nn.Linear", "no.X"),
    *("{", "{class_path:", "{class_path: 3}", "{init_args: 3}", "{class_path: X, more: 3}", "{3: 4}"),
)
_WRONG = {int: ("abc", "1.5", "1e3", "[1, 2]", "true"), float: ("abc", "[1, 2]", "{}", "1,5")}
_EXTREME: dict[Any, tuple[str, ...]] = {int: ("-1", str(10**20)), float: ("-1", "nan", "inf")}
_GOOD = {int: "2", float: "0.5"}
_TORCHS = ("--optimizer: ", "--lr_schedule: ")  # precede messages of torch, which name its arguments in words
_INSIDES = ("<class", "typing.", "NoneType", "Parser key", "Namespace(")


class Accepted(KeyboardInterrupt):
    """Raised where the work of a command would begin."""


@dataclass(frozen=True)
class Trial:
    """A bad command line.

    Args:
        mistake: its kind.
        argv: the arguments.
        name: must occur in the message.
        may_pass: whether the value may be a good one, such as -1 for some numbers.
    """

    mistake: str
    argv: tuple[str, ...]
    name: str
    may_pass: bool = False


def trials(folder: Path) -> Iterator[Trial]:
    """All command lines; configurations are written to the folder."""
    for action in _options(training_parser()):
        option = f"--{action.dest}"
        yield from _of_option(_train(without=option), option, action._typehint)
        yield from _of_configuration(folder, action.dest, action._typehint)
    for kind in KINDS:
        yield from _of_kind(kind)
    run = folder / "a-run"
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(parse_options([])))
    starts = [["evaluate", str(run), "--method", method] for method in METHODS]
    starts += [["classify", str(run), "--split", "test"], ["train"]]
    starts += [[name, str(run)] for name in ("sample", "figures", "report", "explore", "compare", "refit")]
    starts += [["interpolate", str(run), "0", "1"], ["traverse", str(run), "0"], ["edit", str(run), "0", "--to", "1"]]
    starts.append(["complete", str(run), "0"])
    for start in starts:
        for action in _parser(start)._actions:
            if action.option_strings and action.dest != "help":
                yield from _of_argument(start, action)
        yield Trial("misspelling", (*start, "--nonsense", "3"), "nonsense")
    yield Trial("misspelling", ("trian",), "trian")


def _options(parser: Any) -> list[Any]:
    return [a for a in parser._actions if hasattr(a, "_typehint") and not a.dest.endswith(".help")]


def _train(without: str = "") -> tuple[str, ...]:
    return ("train", *(word for pair in _TRAIN.items() if pair[0] != without for word in pair))


def _of_kind(kind: str) -> Iterator[Trial]:
    """Wrong classes, and wrong values of the options of every class."""
    start = before = (*_train(), *_PRECEDING.get(kind, ()))
    place = _PLACES.get(kind, f"--{kind}")
    for text in _NO_CLASSES:
        yield Trial("class", (*start, place, text), place[2:], may_pass=kind == "beta" and text == "3")
    for name in KINDS[kind].names():
        component = find_component(kind, name)
        if name.endswith(_UNFIT.get(kind, ())):
            continue  # which is what its message says whatever the options
        causal = kind == "net" and issubclass(component, CausalNetwork)
        option = "--likelihood.net" if causal or (kind == "net" and name.endswith("Decoder")) else place
        start = (*before, *(_AUTOREGRESSIVE if causal else ()))
        yield Trial("class", (*start, option, name[:-2] + name[-1]), name[:-2])
        actions = _options(component_parser(kind, component))
        required = {a.dest: (f"{option}.{a.dest}", _good_value(a)) for a in actions if a.required}
        required |= {key: (f"{option}.{key}", value) for key, value in _NEEDED.get(name, {}).items()}
        for action in actions:
            others = [word for key, words in required.items() if key != action.dest for word in words]
            argv = (*start, option, name, *others)
            if action.required:
                yield Trial("missing", argv, action.dest)
            yield from _of_option(argv, f"{option}.{action.dest}", action._typehint)


def _good_value(action: Any) -> str:
    return next((_GOOD[m] for m in _members(action._typehint) if m in _GOOD), "[1, 2]")


def _of_option(start: Sequence[str], option: str, hint: Any) -> Iterator[Trial]:
    """Wrong values of an option of a training."""
    name = option.rpartition(".")[2].removeprefix("--")
    for value in _wrong_values(hint):
        yield Trial("type", (*start, option, value), name)
    for value in dict.fromkeys(v for member in _members(hint) for v in _EXTREME.get(member, ())):
        yield Trial("range", (*start, option, value), name, may_pass=True)
    yield Trial("misspelling", (*start, f"{option[:-1]}q", "1"), f"{option[:-1]}q")
    yield Trial("empty", (*start, option, ""), name)
    yield Trial("missing", (*start, option), name)


def _wrong_values(hint: Any) -> list[str]:
    """Texts of a wrong type; none for classes, see :func:`_of_kind`, and for text."""
    members = _members(hint)
    if str in members or "Callable" in str(hint) or "Schedule" in str(hint):
        return []
    good = {str(choice) for m in members if get_origin(m) is Literal for choice in get_args(m)}
    good |= {"1e3", "1.5"} if float in members else set()
    good |= {"{}"} if any(get_origin(m) in (dict, Mapping) for m in members) else set()
    good |= {"[1, 2]"} if any(get_origin(m) in (list, tuple) for m in members) else set()
    values = [value for m in members for value in _WRONG.get(m, ())] or ["nonsense", "3.7", "{}"]
    return [value for value in dict.fromkeys(values) if value not in good]


def _of_configuration(folder: Path, name: str, hint: Any) -> Iterator[Trial]:
    for number, value in enumerate([*_wrong_values(hint)[:2], {"x": 1}, [[1]]]):
        file = folder / f"{name}-{number}.yaml"
        file.write_text(yaml.safe_dump({name: value}))
        yield Trial("configuration", (*_train(without=f"--{name}"), "--config", str(file)), name)


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    """The parser with the most options that a command uses."""
    parsers: list[argparse.ArgumentParser] = []
    parse = Parser.parse_known_args

    def catch(parser: Any, *args: Any, **options: Any) -> Any:
        parsers.append(parser)
        return parse(parser, *args, **options)

    with mock.patch.object(Parser, "parse_known_args", catch), contextlib.redirect_stderr(io.StringIO()):
        main(argv)
    return max(parsers, key=lambda parser: len(parser._actions))


def _of_argument(start: Sequence[str], action: argparse.Action) -> Iterator[Trial]:
    """Wrong values of an option of another command."""
    option = action.option_strings[-1]
    name = option.removeprefix("--")
    yield Trial("misspelling", (*start, f"{option[:-1]}q", "1"), f"{name[:-1]}q")
    if action.nargs == 0:
        yield Trial("type", (*start, f"{option}=3"), name)
        return
    yield Trial("empty", (*start, option, ""), name)
    yield Trial("empty", (*start, f"{option}="), name)
    yield Trial("missing", (*start, option), name)
    for value in ("nonsense", "tset") if action.choices else _WRONG.get(action.type, ()):  # type: ignore[call-overload]
        if (action.type, value) != (float, "1e3"):
            yield Trial("type", (*start, option, value), name)
    for value in _EXTREME.get(action.type, ()):  # type: ignore[call-overload]
        yield Trial("range", (*start, option, value), name, may_pass=True)


def _names(line: str, name: str) -> bool:
    """Whether a message names the option; that of a path as ``--data`` names the argument that it becomes."""
    return name in line or line.startswith(_TORCHS) or (name == "data" and "root=" in line)


def judge(trial: Trial) -> str:
    """Run a command line: "good", "accepted", or what is wrong with its output."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            code = main(trial.argv)
        except BaseException as error:  # whatever passes through is a failure
            return f"raised {type(error).__name__}: {error}"
    lines = [line for line in errors.getvalue().splitlines() if not line.startswith("warning: ")]
    if code in (0, 130):
        return "accepted"
    if code not in (1, 2) or len(lines) != 1:
        return f"exit {code}, {len(lines)} lines: {' / '.join(lines)[:300]}"
    faults = {
        "does not name the option": not _names(lines[0], trial.name),
        "is no sentence": not lines[0].endswith((".", "?")) or lines[0].endswith(("..", "?.")),
        "shows types of Python": any(word in lines[0] for word in _INSIDES),
    }
    fault = next((fault for fault, holds in faults.items() if holds), None)
    return "good" if fault is None else f"{fault}: {lines[0]}"


def _images(dataset: Any = None) -> RawArrays:
    images, labels = torch.zeros(400, 1, 8, 8, dtype=torch.uint8), torch.arange(400) % 10
    return RawArrays(images, labels, images, labels, 255)


@contextlib.contextmanager
def stopped() -> Iterator[Path]:
    """Work in an empty folder, and stop every command where its work begins."""

    def stop(*args: Any, **options: Any) -> None:
        raise Accepted

    before, dtype = Path.cwd(), torch.get_default_dtype()
    places = ["training.trainer.Trainer.train", "training.RunFolder.create", "experiments.experiment.restore_model"]
    places += ["cli.report.load", "cli.compare.read_runs", "cli.evaluate.load", "cli.classify.load"]
    places += ["cli.generate.load", "cli.use.load", "cli.explore.load"]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        with contextlib.redirect_stdout(io.StringIO()):
            for command in COMMANDS:
                main([command, "--help"])  # imports it
        for place in places:
            stack.enter_context(mock.patch(f"pyro_vae.{place}", stop))
        stack.enter_context(mock.patch("pyro_vae.training.RunFolder.load_weights"))
        for data_set in ("mnist.MNIST", "mnist.FashionMNIST", "frey_faces.FreyFaces"):
            stack.enter_context(mock.patch(f"pyro_vae.data.{data_set}.raw", _images))
        np.save(Path(folder) / "images.npy", _images().train.numpy())
        stack.callback(os.chdir, before)
        stack.callback(torch.set_default_dtype, dtype)
        os.chdir(folder)
        torch.set_default_dtype(torch.float32)
        yield Path(folder)


def attack(every: int = 1, first: int = 0) -> tuple[str, int, list[tuple[Trial, str]]]:
    """Try every n-th command line from the first; return the table, the number of trials and the failures."""
    counts: dict[str, Counter[str]] = {}
    failures = []
    with stopped() as folder:
        for trial in list(trials(folder))[first::every]:
            verdict = judge(trial)
            column = verdict if verdict in ("good", "accepted") else "failure"
            counts.setdefault(trial.mistake, Counter())[column] += 1
            if column == "failure" or (column == "accepted" and not trial.may_pass):
                failures.append((trial, verdict))
    total = sum(counts.values(), Counter[str]())
    columns = "good", "accepted", "failure"
    rows = [[name, sum(c.values()), *(c[key] for key in columns)] for name, c in [*counts.items(), ("all", total)]]
    table = tabulate(rows, ["mistake", "trials", "one good line", "accepted", "failures"])
    return table, sum(total.values()), failures


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="try only every n-th command line")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    table, _, failures = attack(**vars(parser.parse_args()))
    for trial, verdict in failures:
        print(" ".join(map(repr, trial.argv)), "->", verdict)
    print(table)
    return len(failures) > 0


if __name__ == "__main__":
    sys.exit(_main())
