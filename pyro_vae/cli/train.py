"""``pyro-vae train`` and ``pyro-vae refit``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from pyro_vae._core.checks import require
from pyro_vae._core.distributed import join
from pyro_vae.cli.arguments import Parser, names_first
from pyro_vae.cli.betas import train_betas
from pyro_vae.cli.console import TRUST, say
from pyro_vae.cli.errors import log_errors_in
from pyro_vae.cli.results import final_evaluation
from pyro_vae.cli.seeds import train_seeds
from pyro_vae.cli.train_help import format_component, format_options
from pyro_vae.cli.train_options import check_names, density_of, parse_args, refit_options, resume_options, say_data
from pyro_vae.experiments.experiment import instantiate, to_yaml
from pyro_vae.experiments.experiment import train as run_training
from pyro_vae.training import RunFolder

_TRAIN = """\
Train a VAE, the semi-supervised model M2, a ConditionalVAE or an AutoregressiveModel in a new run folder; then evaluate
it on the test images and draw its figures. Components are chosen by class name, and their own options follow after a
dot; pyro-vae train --guide IAFGuide --help shows those of IAFGuide too."""
_REFIT = """\
Train another guide for the model of a run, in a new run folder, and evaluate it. Data, prior and likelihood are those
of the run; all other options of pyro-vae train can be added."""
_RESUME = """\
run folder to resume; --epochs, --optimizer.lr, --lr_schedule, --patience, --clip_norm and --skip_norm can be changed"""
_SEEDS = """\
train one run for each seed, in the folders OUT-SEED, and print the mean of their results; after an interruption, the
same command resumes"""
_BETAS = """\
train one VAE for each weight of the KL, in the folders OUT-betaBETA, and draw rate against distortion with samples of
each, and of two latent dimensions the posteriors; inf is the KL alone; after an interruption, the same command
resumes"""
_DOWNLOAD: dict[str, Any] = {
    "choices": ["true", "false"],
    "help": "download missing files (default true; false if the data are those of a configuration file or of a run)",
}


def train(argv: list[str]) -> None:
    """Train a model in a run folder, or resume a training."""
    parser = Parser(prog="pyro-vae train", usage="pyro-vae train [options]", description=_TRAIN, add_help=False)
    parser.add_argument("--out", help="run folder to create (default runs/DATA-TIME)")
    parser.add_argument("--resume", metavar="RUN", help=_RESUME)
    parser.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help=_SEEDS)
    parser.add_argument("--betas", type=float, nargs="+", metavar="BETA", help=_BETAS)
    parser.add_argument("--trust", **TRUST)
    parser.add_argument("--data.download", **_DOWNLOAD)
    place, options = parser.parse_known_args(argv)
    download, has_config = vars(place)["data.download"], any(word.split("=")[0] == "--config" for word in options)
    may_download = download == "true" or (download is None and not has_config)
    check_names(options, *vars(place), "help")
    if {"-h", "--help"} & set(options):
        parser.add_argument("--config", metavar="FILE", help="YAML file with options, such as RUN/config.yaml")
        say(f"{parser.format_help()}\n{format_options(options)}")
    elif options and options[0].endswith(".help"):
        say(format_component(options[0][2 : -len(".help")], *options[1:2]))
    elif several := [name for name in ("seeds", "betas") if getattr(place, name) is not None]:
        option, advice = f"--{several[0]}", "Repeat the command of the runs"
        require(not place.resume, option, "must stand without --resume", "both", advice)
        require(len(several) == 1, option, "must stand without --betas", "both", "Give one of them")
        train_all = train_seeds if place.seeds is not None else train_betas
        train_all(getattr(place, several[0]), place.out, options, place.trust, may_download=may_download)
    elif place.resume:
        require(not download, "--resume", "must stand without --data.download", "both", "Omit --data.download")
        _resume(place.resume, place.out, options, place.trust)
    else:
        _start(place.out, parse_args(options, place.trust), place.trust, may_download)


def refit(argv: list[str]) -> None:
    """Train another guide for a run's model."""
    parser = Parser(prog="pyro-vae refit", description=_REFIT)
    parser.add_argument("run", metavar="RUN", help="run folder whose prior and likelihood are kept")
    parser.add_argument("--out", help="run folder to create (default runs/DATA-TIME)")
    parser.add_argument("--trust", **TRUST)
    parser.add_argument("--data.download", **_DOWNLOAD)
    place, options = parser.parse_known_args(names_first(argv))
    check_names(options, "out", "trust", "help")
    run = RunFolder(place.run)
    run.load_weights()  # which must exist
    _start(
        place.out, refit_options(run, options, trust=place.trust), place.trust, vars(place)["data.download"] == "true"
    )


def _start(out: str | None, options: Namespace, trust: Sequence[str], may_download: bool) -> None:
    name = options.data.class_path.rsplit(".", 1)[-1].lower()
    folder = Path(out or f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    if folder.exists() and join().first:
        raise FileExistsError(f"--out: the run folder must not exist yet, got {folder}. Choose another or --resume it.")

    say_data(options)

    def create() -> RunFolder:
        run = RunFolder.create(folder, config=to_yaml(options))
        log_errors_in(folder)
        say(f"run folder: {folder}{_note_on_binarization(options)}")
        return run

    with _advising_to_resume(folder):
        result = run_training(**instantiate(options), run=create, may_download=may_download, trust=trust)
        final_evaluation(folder, result)


def _resume(path: str, out: str | None, argv: list[str], trust: Sequence[str]) -> None:
    require(out is None, "--resume", "must stand without --out", "both", "Omit --out: the run keeps its folder")
    run = RunFolder(path)
    log_errors_in(run.path)
    with _advising_to_resume(run.path):
        with run.locked() if join().first else nullcontext():
            options = resume_options(run, argv, trust=trust)
            run.set_config(to_yaml(options))  # written once every check has passed
            result = run_training(**instantiate(options), run=run, resume=True, trust=trust)
        final_evaluation(run.path, result)


@contextmanager
def _advising_to_resume(folder: Path) -> Iterator[None]:
    """Name the command that resumes after an interruption outside the steps, which name it themselves.

    The same command, which an interrupted evaluation names, would be refused, since the folder exists.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        if "--resume" in str(stop) or not folder.exists():
            raise
        raise type(stop)(f"resume with --resume {folder}") from None


def _note_on_binarization(options: Namespace) -> str:
    likelihood = density_of(options)[1]
    binarize = options.data.init_args.get("binarize", "none")
    if binarize == "none" or likelihood == "BernoulliLikelihood" or options.m1 is not None:
        return ""
    return f"\nnote: {likelihood} models binarized data, 0 or 1; --data.binarize none keeps their values"
