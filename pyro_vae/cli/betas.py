"""``pyro-vae train --betas``: a run for each of several weights of the KL, and what the weight does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from pyro_vae._core.checks import require
from pyro_vae._core.distributed import join
from pyro_vae.cli.console import say
from pyro_vae.cli.seeds import check_out, train_all
from pyro_vae.cli.train_options import parse_args
from pyro_vae.evaluation.caption import caption_of
from pyro_vae.experiments.experiment import load_run

_WEIGHTS = ("--objective.beta", "--objective.reconstruction_weight")
_NUM_SAMPLES, _NUM_POSTERIORS = 10, 60  # samples of each run, and test data in the figure of posteriors


def train_betas(
    betas: Sequence[float], out: str | None, argv: Sequence[str], trust: Sequence[str], *, may_download: bool
) -> None:
    """Train a VAE for each weight of the KL, except the finished ones, and draw their rates and distortions.

    Args:
        betas: weights of the KL; infinity is the KL alone, without the reconstruction.
        out: the run folders are called ``OUT-betaBETA``, and the figures ``OUT-betas.png`` and, of two latent
            dimensions, ``OUT-posteriors.png``.
        argv: the other command-line arguments.
        trust: packages that a configuration may name.
        may_download: whether missing files of the data set are downloaded.
    """
    check_out("--betas", out)
    _check(betas, argv)
    names = [f"{beta:g}" for beta in betas]
    require(len(set(names)) == len(names), "--betas", "must be distinct", " ".join(names))
    runs = {Path(f"{out}-beta{name}"): _options(beta, argv, trust) for name, beta in zip(names, betas, strict=True)}
    results = dict(zip(names, train_all("--betas", runs, trust, may_download=may_download), strict=True))
    if join().first:
        for name, result in results.items():
            say(f"beta {name}: rate {result.mean('rate'):.2f}, distortion {result.mean('distortion'):.2f} nats")
        _draw(Path(str(out)), results, dict(zip(names, runs, strict=True)), trust)


def _check(betas: Sequence[float], argv: Sequence[str]) -> None:
    require(all(beta >= 0 for beta in betas), "--betas", "must be at least 0", " ".join(map(str, betas)))
    options = [argument.split("=")[0] for argument in argv]
    for option in _WEIGHTS:
        require(option not in options, "--betas", "must be the only weights", f"{option} too", f"Omit {option}")


def _options(beta: float, argv: Sequence[str], trust: Sequence[str]) -> Namespace:
    """The options of a run; infinity is the ratio of the weights 1 of the KL and 0 of the reconstruction."""
    weights = (1.0, 0.0) if math.isinf(beta) else (beta,)
    words = [word for pair in zip(_WEIGHTS, map(str, weights), strict=False) for word in pair]
    options = parse_args([*argv, *words], trust, first=[("objective", "BetaELBO")])
    advice = "Train the others one by one with --objective.beta"
    require(options.model == "VAE", "--betas", "must come with --model VAE", options.model, advice)
    return options


def _draw(out: Path, results: dict[str, Any], folders: dict[str, Path], trust: Sequence[str]) -> None:
    from pyro_vae.plotting import posterior_ellipses, rate_distortion  # here, since it loads matplotlib
    from pyro_vae.plotting.save import save_png

    runs = {name: load_run(folder, trust=trust) for name, folder in folders.items()}
    first = next(iter(runs.values()))
    caption = caption_of({key: value for key, value in first.protocol.items() if key not in ("beta", "epoch")})
    shape, models = first.splits.data_shape, {name: run.vae for name, run in runs.items()}
    drawn = models if len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3)) else None  # None omits the samples
    figures = {"betas": rate_distortion(results, drawn, num_samples=_NUM_SAMPLES, caption=caption)}
    if first.vae.latent_dim == 2:
        test = first.images("test", _NUM_POSTERIORS)
        titled = {_title(name): vae for name, vae in models.items()}
        figures["posteriors"] = posterior_ellipses(titled, test.batch(slice(None)), test.labels, caption=caption)
    for name, figure in figures.items():
        say(f"figure: {save_png(figure, out.with_name(f'{out.name}-{name}.png'))}")


def _title(name: str) -> str:
    """Two lines, of which the second names the extremes."""
    remark = {"0": "reconstruction only", "inf": "KL only"}.get(name, "")
    return rf"$\beta$ = {name}".replace("inf", r"$\infty$") + f"\n{remark}"
