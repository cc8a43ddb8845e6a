"""What follows a training: the results on the test images, and all figures of the run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pyro_vae._core.distributed import join
from pyro_vae.cli.console import say
from pyro_vae.cli.results import print_result, save_result
from pyro_vae.evaluation import Result
from pyro_vae.experiments.methods import METHODS
from pyro_vae.experiments.results import result_path
from pyro_vae.experiments.trained_model import TrainedModel
from pyro_vae.training import RunFolder


def final_evaluation(folder: Path, trained: TrainedModel) -> None:
    """Evaluate a trained model on the test images, which nothing has looked at before, and draw its figures.

    Args:
        folder: the run folder.
        trained: its model.
    """
    from pyro_vae.plotting import caption_of, save_figures  # here, since it loads matplotlib

    results = {name: _evaluated(name, trained) for name in _methods(trained.classifies)}
    if not join().first:
        return
    run, told = RunFolder(folder), results["importance"]
    figures = [
        file.name
        for file in save_figures(
            run.figures,
            trained.vae,
            trained.splits,
            run.metrics(),
            result=told,
            classes=results.get("classification"),
            caption=caption_of(told.protocol),
        )
    ]
    for name, result in results.items():
        path, figure = save_result(run, result, _stem(name, trained.num_samples), overwrite=True)
        print_result(result, path)
        figures += [figure.name] if figure else []
    say(f"figures: {run.figures}/ ({', '.join(figures)})")


def results_at_the_end(folder: Path, *, classifies: bool, num_samples: int) -> dict[str, Path]:
    """The files of a run that is finished, by method, the main one first; none of a run that there is not yet."""
    if not folder.exists():
        return {}
    return {name: result_path(RunFolder(folder), name, _stem(name, num_samples)) for name in _methods(classifies)}


def _methods(classifies: bool) -> tuple[str, ...]:
    return ("classification", "importance") if classifies else ("importance",)


def _stem(name: str, num_samples: int) -> str:
    return METHODS[name].file_stem(_options(name, num_samples))


def _options(name: str, num_samples: int) -> dict[str, Any]:
    given = {"num_samples": num_samples} if name == "importance" else {}
    return {**METHODS[name].defaults(), **given}


def _evaluated(name: str, trained: TrainedModel) -> Any:
    options = {**_options(name, trained.num_samples), "progress": sys.stderr.isatty()}
    found: list[Result] = METHODS[name].run(trained, options)
    return found[0]
