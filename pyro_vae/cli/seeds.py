"""``pyro-vae train --seeds``: a run for each of several seeds, and their mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from pyro_vae._core.distributed import join
from pyro_vae.cli.console import check_seed, say
from pyro_vae.cli.results import final_evaluation, final_result_paths
from pyro_vae.cli.train_options import arguments_of, parse_args
from pyro_vae.evaluation import Result, mean_interval
from pyro_vae.experiments.experiment import to_yaml
from pyro_vae.experiments.experiment import train as run_training
from pyro_vae.training import RunFolder

_OURS = ("--seed", "--data.label_seed")


def train_seeds(seeds: Sequence[int], out: str | None, words: Sequence[str], trust: Sequence[str]) -> None:
    """Train a run for each seed, those that are finished left as they are, and print the mean of their results.

    Args:
        seeds: each is that of a training and, for M2, of the choice of its labels.
        out: how the run folders' names begin; ``-SEED`` follows.
        words: the other options.
        trust: packages that a configuration may name.
    """
    if out is None:
        raise ValueError("--seeds: must come with --out, got it alone. Give the beginning of the run folders' names.")
    _check(seeds, words)
    runs = {Path(f"{out}-{seed}"): _options(seed, words, trust) for seed in seeds}
    for folder, options in runs.items():
        arguments_of(options)
        _check_folder(folder, options)
    results = [_result(folder, options, trust) for folder, options in runs.items()]
    if join().first:
        say(mean_over_runs(results))


def mean_over_runs(results: Sequence[Result]) -> str:
    """The mean of the runs' main result, its 95% interval, and the values.

    Args:
        results: test errors, or log-likelihoods; of one run each.
    """
    name, unit = ("error", "%") if hasattr(results[0], "error") else ("log_likelihood", "nats per datum")
    values = [result.mean(name) for result in results]
    each = ", ".join(f"{value:.2f}" for value in values)
    return f"mean test {name.replace('_', '-')} in {unit}: {mean_interval(values)}; each: {each}"


def _check(seeds: Sequence[int], words: Sequence[str]) -> None:
    for seed in seeds:
        check_seed(seed)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds: each must be another, got {' '.join(map(str, seeds))}. Give every seed once.")
    wrong = next((w for w in words if w.split("=")[0] in _OURS), None)
    if wrong:
        raise ValueError(f"--seeds: must be the only seeds, got {wrong.split('=')[0]} too. Leave it away.")


def _options(seed: int, words: Sequence[str], trust: Sequence[str]) -> Namespace:
    options = parse_args([*words, "--seed", str(seed)], trust)
    if options.model == "VAE":
        return options
    return parse_args([*words, "--seed", str(seed), "--data.label_seed", str(seed)], trust)


def _check_folder(folder: Path, options: Namespace) -> None:
    """Refuse a folder that is not one of the same command's."""
    if not folder.exists():
        return
    there, asked = (yaml.safe_load(text) or {} for text in (RunFolder(folder).config(), to_yaml(options)))
    wrong = next((key for key in asked if there.get(key) != asked[key]), None)
    if wrong:
        raise FileExistsError(
            f"--seeds: {folder} must be a run of the same options, got another {wrong}. Choose another --out."
        )


def _result(folder: Path, options: Namespace, trust: Sequence[str]) -> Result:
    """The main result of a run, which is made or gone on with where it is not finished."""
    how = {"classifies": options.model != "VAE", "num_samples": options.num_samples}
    files = final_result_paths(folder, **how)
    if files and all(file.exists() for file in files.values()):
        say(f"run folder: {folder}, finished")
    else:
        final_evaluation(folder, _trained(folder, options, trust))
    return Result.load(next(iter(final_result_paths(folder, **how).values()))) if join().first else None  # type: ignore[return-value]


def _trained(folder: Path, options: Namespace, trust: Sequence[str]) -> Any:
    there = folder.exists()

    def make() -> RunFolder:
        say(f"run folder: {folder}{', resumed' if there else ''}")
        return RunFolder(folder) if there else RunFolder.create(folder, config=to_yaml(options))

    return run_training(**arguments_of(options), run=make, resume=there, trust=trust)
