"""The command line: ``pyro-vae train | refit | evaluate | sample``."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae import __version__
from pyro_vae.arguments import Parser, exact_words, one_line
from pyro_vae.evaluation import LogLikelihood
from pyro_vae.experiment import Trained, load_run, parse_config, parser, refit_options, to_yaml, train
from pyro_vae.files import write_atomically
from pyro_vae.ranks import join
from pyro_vae.training import NonFiniteError, Run

_HELP = """\
Variational autoencoders as probabilistic programs.

commands:
  pyro-vae train [options]           train a VAE, evaluate it, draw its figures, in a run folder
  pyro-vae train --resume RUN        go on where a run stopped, to the same weights bit for bit
  pyro-vae refit RUN [options]       train another guide for a run's model, in a run folder of its own
  pyro-vae evaluate RUN [options]    estimate the log-likelihood of a split, with its error
  pyro-vae sample RUN [options]      draw images from the model

examples:
  pyro-vae train                                      digits, embedded, half a minute
  pyro-vae train --data mnist --data.root data --latent_dim 50 --epochs 100 --out runs/mnist
  pyro-vae train --likelihood.net GatedMLP --likelihood.net.hidden '[300, 300]' --optimizer.lr 5e-4
  pyro-vae train --objective BetaELBO --objective.beta LinearWarmUp --objective.beta.length 50
  pyro-vae train --config runs/mnist/config.yaml --out runs/again
  pyro-vae train --prior VampPrior --prior.num_components 100
  pyro-vae refit runs/mnist --guide IAFGuide --epochs 20 --out runs/mnist-iaf
  pyro-vae evaluate runs/mnist --num_samples 5000
  torchrun --nproc-per-node 2 -m pyro_vae train --out runs/two       two processes share every batch

Every component (data, prior, likelihood, guide, net, objective, optimizer, lr_schedule) is chosen by its class name,
and its constructor's arguments follow after a dot. `pyro-vae train --guide.help DiagonalNormalGuide` shows them.
PYRO_VAE_TRACEBACK=1 shows the traceback of an error.
"""


_REFIT_HELP = "Train another guide for the model of a run, which stays as it is, and evaluate it."
_TRUST: dict[str, Any] = {
    "action": "append",
    "default": [],
    "metavar": "PACKAGE",
    "help": "package that a config may import classes from; repeatable",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the words after the program's name; None takes those of the process.

    Returns:
        The exit code: 0; 1 where training became non-finite; 2 for bad input; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    if words[0] == "--version":
        print(f"pyro-vae {__version__}")
        return 0
    commands = {"train": _train, "refit": _refit, "evaluate": _evaluate, "sample": _sample}
    if words[0] not in commands:
        return _fail(f"pyro-vae: the command must be one of {', '.join(commands)}, got {words[0]!r}. See --help.", 2)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            commands[words[0]](words[1:])
    except KeyboardInterrupt as stop:
        return _fail(f"pyro-vae: interrupted{f', {stop}' if stop.args else ''}", 130)
    except NonFiniteError as error:
        return _fail(str(error), 1)
    except (ValueError, OSError, argparse.ArgumentError, TypeError, RuntimeError, MemoryError) as error:
        return _fail(one_line(error), 2)
    return 0


def _train(words: list[str]) -> None:
    own = Parser(prog="pyro-vae train", add_help=False, allow_abbrev=False)
    own.add_argument("--out", help="run folder to make; default: runs/DATA-TIME")
    own.add_argument("--resume", metavar="RUN", help="run folder to go on with; only --epochs may be given besides")
    own.add_argument("--trust", **_TRUST)
    mine, rest = own.parse_known_args(words)
    if {"-h", "--help"} & set(rest):
        print(parser().format_help() + own.format_help().split("options:")[-1], end="")
        return
    if mine.resume:
        _resume(mine.resume, mine.out, rest, mine.trust)
    else:
        _start(mine.out, parser().parse_args(exact_words(rest, mine.trust)))


def _refit(words: list[str]) -> None:
    own = Parser(prog="pyro-vae refit", description=_REFIT_HELP, add_help=False, allow_abbrev=False)
    own.add_argument("run", metavar="RUN", help="run folder whose prior and likelihood are taken and kept")
    own.add_argument("--out", help="run folder to make; default: runs/DATA-TIME")
    own.add_argument("--trust", **_TRUST)
    if {"-h", "--help"} & set(words):
        print(own.format_help() + "\nand the options of `pyro-vae train` for guide and training.")
        return
    mine, rest = own.parse_known_args(words)
    run = Run(mine.run)
    run.load_weights()
    _start(mine.out, refit_options(run, exact_words(rest, mine.trust), trust=mine.trust))


def _start(out: str | None, options: Any) -> None:
    name = options.data.class_path.rsplit(".", 1)[-1].lower()
    target = Path(out or f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    if target.exists() and join().first:
        raise FileExistsError(f"--out: the run folder must not exist yet, got {target}. Choose another or --resume it.")

    def make() -> Run:
        print(f"run folder: {target}", flush=True)
        return Run.create(target, config=to_yaml(options))

    _report(target, train(**_arguments(options), run=make))


def _resume(path: str, out: str | None, words: list[str], trust: Sequence[str]) -> None:
    if out is not None:
        raise ValueError("--resume: must stand alone, got --out too. Leave --out away: the run goes on in its folder.")
    run = Run(path)
    options = parse_config(run, trust=trust)
    longer = Parser(prog="pyro-vae train --resume", add_help=False, allow_abbrev=False)
    longer.add_argument("--epochs", type=int, default=options.epochs)
    given, unknown = longer.parse_known_args(words)
    if unknown:
        raise ValueError(f"--resume: only --epochs may be given besides, got {unknown[0]}. Start a new run instead.")
    if given.epochs != options.epochs and join().first:  # so that a resumption without --epochs goes to the new end
        options.epochs = given.epochs
        write_atomically(run.path / "config.yaml", to_yaml(options).encode(), overwrite=True)
    options.epochs = given.epochs
    _report(run.path, train(**_arguments(options), run=run, resume=True))


def _arguments(options: Any) -> dict[str, Any]:
    """The arguments of :func:`train`, with what can be refused at once refused."""
    arguments = dict(vars(parser().instantiate(options)))
    arguments.pop("config", None)
    for name in ("epochs", "batch_size", "num_samples", "latent_dim"):
        if arguments[name] < 1:
            raise ValueError(f"--{name}: must be at least 1, got {arguments[name]}. Use a positive number.")
    if not 0 <= arguments["seed"] < 2**63:
        raise ValueError(f"--seed: must be in 0..2^63-1, got {arguments['seed']}. Use a small number.")
    for name in ("data", "prior", "likelihood", "guide", "objective", "optimizer"):
        if arguments[name] is None:
            raise ValueError(f"--{name}: must be a class, got null. Leave the option away for its default.")
    return arguments


def _report(folder: Path, trained: Trained) -> None:
    from pyro_vae.plotting import caption_of, save_figures

    result = trained.evaluate(progress=sys.stderr.isatty())
    if not join().first:
        return
    run = Run(folder)
    path = _path(run, result.protocol)
    result.save(path, overwrite=True)
    caption = caption_of(result.protocol)
    parts = trained.vae, trained.splits, run.metrics()
    figures = save_figures(run.figures, *parts, result=result, caption=caption)
    _print_result(result, path)
    print(f"figures: {run.figures}/ ({', '.join(f.name for f in figures)})")


def _evaluate(words: list[str]) -> None:
    made = _run_parser("evaluate", "Importance-weighted log-likelihood of a run's data, with its error.")
    made.add_argument("--num_samples", type=int, default=5000, help="draws of z per image (default 5000)")
    made.add_argument("--split", choices=["test", "validation", "train"], default="test", help="(default test)")
    made.add_argument("--num_data", type=int, help="only the first so many images (default all)")
    made.add_argument("--proposal", choices=["guide", "prior"], default="guide", help="prior is the naive baseline")
    made.add_argument("--batch_size", type=int, default=20, help="images at a time (default 20)")
    made.add_argument("--chunk_size", type=int, default=50, help="draws at a time (default 50)")
    made.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    made.add_argument("--engine", choices=["auto", "eager", "compiled"], default="auto", help="(default auto)")
    made.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of the networks' products")
    made.add_argument("--overwrite", action="store_true", help="replace a result of the same protocol")
    options = vars(made.parse_args(words))
    overwrite = options.pop("overwrite")
    run = Run(options["run"])
    for key, size in (("num_samples", 5000), ("num_data", 1000)):
        if options[key] is not None and options[key] < 1:
            raise ValueError(f"--{key}: must be at least 1, got {options[key]}. Use {size}.")
    name = {"split": options["split"], "proposal": options["proposal"], "sample_seed": options["seed"]}
    first = "" if options["num_data"] is None else f"-first{options['num_data']}"
    path = _path(run, {**name, "num_samples": options["num_samples"]}, first)
    if path.exists() and not overwrite and join().first:
        raise FileExistsError(f"evaluate: {path} must not exist yet, got one. Read it, or replace it with --overwrite.")
    trained = _load(options)
    result = trained.evaluate(options.pop("split"), **options, progress=sys.stderr.isatty())
    if join().first:
        result.save(path, overwrite=overwrite)
        _print_result(result, path)


def _sample(words: list[str]) -> None:
    made = _run_parser("sample", "Draw images from a run's model: z from the prior, then p(x | z).")
    made.add_argument("--num", type=int, default=64, help="number of images (default 64)")
    made.add_argument("--draws", action="store_true", help="draw x from p(x | z) instead of showing its mean")
    made.add_argument("--seed", type=int, default=0, help="(default 0)")
    made.add_argument("--out", help="file to write, .png or .npz; default: RUN/figures/drawn-SEED.png")
    made.add_argument("--overwrite", action="store_true", help="replace the file")
    options = vars(made.parse_args(words))
    if options["num"] < 1:
        raise ValueError(f"--num: must be at least 1, got {options['num']}. Use 64.")
    run = Run(options["run"])
    path = Path(options["out"] or run.figures / f"drawn-{options['seed']}.png")
    if path.suffix not in (".png", ".npz"):
        raise ValueError(f"--out: must end in .png or .npz, got {path}. Choose one of the two.")
    trained = _load({k: options[k] for k in ("run", "device", "root", "trust")})
    torch.manual_seed(options["seed"])
    images = trained.vae.sample(options["num"], mean=not options["draws"]).cpu()
    write_atomically(path, _rendered(images, path.suffix), overwrite=options["overwrite"])
    print(f"{options['num']} images: {path}")


def _rendered(images: torch.Tensor, suffix: str) -> bytes:
    import io

    buffer = io.BytesIO()
    if suffix == ".npz":
        np.savez_compressed(buffer, images=images.numpy())
    else:
        from pyro_vae.plotting import image_grid

        image_grid(images, columns=max(1, round(len(images) ** 0.5))).savefig(buffer, format="png", dpi=200)
    return buffer.getvalue()


def _run_parser(command: str, description: str) -> argparse.ArgumentParser:
    made = Parser(prog=f"pyro-vae {command}", description=description, allow_abbrev=False)
    made.add_argument("run", metavar="RUN", help="run folder")
    made.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default auto)")
    made.add_argument("--root", help="where the data set lies, if not where it lay in training")
    made.add_argument("--trust", **_TRUST)
    return made


def _load(options: dict[str, Any]) -> Trained:
    place = {key: options.pop(key) for key in ("device", "root", "trust")}
    return load_run(options.pop("run"), **place)


def _path(run: Run, p: dict[str, Any], first: str = "") -> Path:
    name = f"log_likelihood-{p['split']}-{p['proposal']}-{p['num_samples']}-seed{p['sample_seed']}{first}.json"
    return run.path / name


def _print_result(result: LogLikelihood, path: Path) -> None:
    print(f"{result.protocol['split']} {result}\nresult: {path}")


def _show_warning(message: Warning | str, *args: object, **kwargs: object) -> None:
    print(f"warning: {one_line(Exception(str(message)))}", file=sys.stderr)


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
