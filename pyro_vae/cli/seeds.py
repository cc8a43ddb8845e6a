"""``pyro-vae train --seeds``: a run for each of several seeds, and their mean."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from pyro_vae._core.checks import refusal, require
from pyro_vae._core.distributed import join
from pyro_vae._core.files import json_ready, write_atomically
from pyro_vae.cli.console import check_seed, say
from pyro_vae.cli.errors import log_errors_in
from pyro_vae.cli.results import final_evaluation, final_result
from pyro_vae.cli.tables import aligned
from pyro_vae.cli.train_options import parse_args, say_data
from pyro_vae.evaluation import Result, mean_interval
from pyro_vae.experiments.experiment import instantiate, load_run, parse_config, to_yaml
from pyro_vae.experiments.experiment import train as run_training
from pyro_vae.networks.conditioned import factory_options
from pyro_vae.training import RunFolder

_SEED_OPTIONS = ("--seed", "--data.label_seed")


def train_seeds(
    seeds: Sequence[int], out: str | None, argv: Sequence[str], trust: Sequence[str], *, may_download: bool
) -> None:
    """Train a run for each seed, except the finished ones; print and save a table of their results.

    Args:
        seeds: each is the seed of a training and, for M2, of the choice of its labels.
        out: the run folders are called ``OUT-SEED``, and the files of all ``OUT-seeds.json`` and ``OUT-seeds.png``.
        argv: the other command-line arguments.
        trust: packages that a configuration may name.
        may_download: whether missing files of the data set are downloaded.
    """
    check_out("--seeds", out)
    _check(seeds, argv)
    runs = {Path(f"{out}-{seed}"): _options(seed, argv, trust) for seed in seeds}
    results = train_all("--seeds", runs, trust, may_download=may_download)
    if join().first:
        _present(Path(str(out)), dict(zip(map(str, seeds), results, strict=True)), list(runs))


def check_out(option: str, out: str | None) -> None:
    """Require --out, the beginning of the names of the run folders."""
    if out is None:
        raise refusal(option, "must come with --out", "it alone", "Give the beginning of the run folders' names")


def train_all(option: str, runs: Mapping[Path, Namespace], trust: Sequence[str], *, may_download: bool) -> list[Result]:
    """Train every run, or resume it, unless it is finished.

    Args:
        option: of the command line, for error messages.
        runs: the options of each run, by its folder.
        trust: packages that a configuration may name.
        may_download: whether missing files of the data set are downloaded.

    Returns:
        The main result of each run; None in a process that is not the first.

    Raises:
        FileExistsError: a folder exists and is a run of other options; nothing has been trained.
        ValueError: the models have no log-likelihood and no error.
    """
    _check_model(option, next(iter(runs.values())))
    for folder, options in runs.items():
        _check_folder(option, folder, options, trust)
    say_data(next(iter(runs.values())))
    return [_result(folder, options, trust, may_download) for folder, options in runs.items()]


def _present(out: Path, results: Mapping[str, Result], folders: Sequence[Path]) -> None:
    """Print a row per seed and the mean, and write ``OUT-seeds.json`` and the curves in ``OUT-seeds.png``."""
    from pyro_vae.plotting import seed_curves  # here, since it loads matplotlib
    from pyro_vae.plotting.save import save_png

    first = next(iter(results.values()))
    name, unit = ("error", "%") if hasattr(first, "error") else ("log_likelihood", "nats per datum")
    values = {seed: result.mean(name) for seed, result in results.items()}
    errors = {seed: result.sampling_error(name) for seed, result in results.items()}
    interval = mean_interval(list(values.values()))
    rows = [[seed, f"{values[seed]:.3f}", f"{errors[seed]:.3f}"] for seed in results]
    say(aligned(["seed", f"{name.replace('_', '-')} [{unit}]", "+- over data"], rows))
    mean = f"mean test {name.replace('_', '-')} in {unit}: {interval.mean:.2f}"
    if len(values) > 1:
        mean += (
            f" +- {interval.margin:.2f}, {interval.level:.0%} interval of the mean over {len(values)} seeds (Student)"
        )
    say(mean)
    ends = interval.interval if len(values) > 1 else None
    content: dict[str, Any] = {
        "quantity": name,
        "unit": unit,
        "runs": list(map(str, folders)),
        "values": values,
        "errors": errors,
    }
    content |= {"mean": interval.mean, "interval": ends, "level": interval.level, "protocol": _shared(results.values())}
    file = out.with_name(f"{out.name}-seeds.json")
    write_atomically(file, (json.dumps(json_ready(content), indent=1) + "\n").encode(), overwrite=True)
    say(f"result: {file}")
    histories = {f"seed {seed}": RunFolder(folder).metrics() for seed, folder in zip(results, folders, strict=True)}
    figure = save_png(seed_curves(histories, caption=mean), file.with_suffix(".png"))
    say(f"figure: {figure}")


def _shared(results: Iterable[Result]) -> dict[str, Any]:
    """The protocol entries that are those of every run."""
    first, *others = (result.protocol for result in results)
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def _check(seeds: Sequence[int], argv: Sequence[str]) -> None:
    for seed in seeds:
        check_seed(seed)
    require(len(set(seeds)) == len(seeds), "--seeds", "must be distinct", " ".join(map(str, seeds)))
    options = [argument.split("=")[0] for argument in argv]
    for option in _SEED_OPTIONS:
        require(option not in options, "--seeds", "must be the only seeds", f"{option} too", f"Omit {option}")


def _check_model(option: str, options: Namespace) -> None:
    """Require a main result, which an autoencoder and a generator do not have."""
    pieces = instantiate(options)
    for name, attribute in (("guide", "deterministic"), ("guide", "bounded"), ("likelihood", "implicit")):
        kind, _ = factory_options(pieces[name])
        rule, advice = "must come with a model that has a log-likelihood", "Train one run at a time"
        require(not getattr(kind, attribute, False), option, rule, str(getattr(kind, "__name__", kind)), advice)


def _options(seed: int, argv: Sequence[str], trust: Sequence[str]) -> Namespace:
    options = parse_args([*argv, "--seed", str(seed)], trust)
    if options.model != "M2":
        return options
    return parse_args([*argv, "--seed", str(seed), "--data.label_seed", str(seed)], trust)


def _check_folder(option: str, folder: Path, options: Namespace, trust: Sequence[str]) -> None:
    """Require a folder that exists to hold a run of the same options."""
    if not folder.exists():
        return
    texts = to_yaml(parse_config(RunFolder(folder), trust=trust)), to_yaml(options)
    existing, expected = (yaml.safe_load(text) or {} for text in texts)
    wrong = next((key for key in expected if existing.get(key) != expected[key]), None)
    if wrong:
        raise FileExistsError(
            f"{option}: {folder} must be a run of the same options, got another {wrong}. Choose another --out."
        )


def _result(folder: Path, options: Namespace, trust: Sequence[str], may_download: bool) -> Result:
    """The main result of a run, which is trained, or resumed, unless it is finished."""
    expected = {"classifies": options.model == "M2", "num_samples": options.num_samples}
    result = final_result(folder, **expected)
    if result is None:
        trained = _trained(folder, options, trust, may_download)
        return final_evaluation(folder, trained)  # type: ignore[return-value]
    load_run(folder, device=options.device, trust=trust)  # raises if its data have changed
    say(f"run folder: {folder}, finished")
    return result


def _trained(folder: Path, options: Namespace, trust: Sequence[str], may_download: bool) -> Any:
    resume = folder.exists()

    def open_folder() -> RunFolder:
        run = RunFolder(folder) if resume else RunFolder.create(folder, config=to_yaml(options))
        log_errors_in(folder)
        say(f"run folder: {folder}{', resumed' if resume else ''}")
        return run

    process: dict[str, Any] = {"resume": resume, "may_download": may_download, "trust": trust}
    return run_training(**instantiate(options), run=open_folder, **process)
