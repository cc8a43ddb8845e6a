"""Save, print and plot the results of a run."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

from pyro_vae._core.distributed import join
from pyro_vae.cli.console import say
from pyro_vae.evaluation import Result
from pyro_vae.experiments.methods import METHODS
from pyro_vae.experiments.results import result_path
from pyro_vae.experiments.trained_model import TrainedModel
from pyro_vae.training import RunFolder


def save_result(run: RunFolder, result: Result, stem: str, *, overwrite: bool) -> tuple[Path, Path | None]:
    """Write a result and its figure; an existing figure is replaced, since it follows from the result.

    Returns:
        The JSON; the figure, None if the numbers cannot be drawn.
    """
    from pyro_vae.plotting import result_figure  # here, since it loads matplotlib
    from pyro_vae.plotting.save import save_png

    path = result_path(run, result.method, stem)
    result.save(path, overwrite=overwrite)
    try:
        figure = result_figure(result, caption=result.caption())
        return path, save_png(figure, run.figures / f"{path.stem}.png")
    except ValueError as reason:
        warnings.warn(f"no figure: {reason}", stacklevel=2)
        return path, None


def print_result(result: Result, path: Path) -> None:
    """Print a result and its file."""
    say(f"{result.protocol['split']} {result}\nresult: {path}")


def final_evaluation(folder: Path, trained: TrainedModel) -> None:
    """Evaluate a trained model on the test split, for the first time, and draw the figures of the run.

    Args:
        folder: the run folder.
        trained: its model.
    """
    from pyro_vae.plotting import caption_of, save_figures  # here, since it loads matplotlib

    results = {name: _evaluate(name, trained) for name in _final_methods(trained.classifies)}
    if not join().first:
        return
    run, main = RunFolder(folder), results["importance"]
    inputs = (run.figures, trained.vae, trained.splits, run.metrics())
    classes = results.get("classification")
    figures = save_figures(*inputs, result=main, classes=classes, caption=caption_of(trained.protocol))
    names = [figure.name for figure in figures]
    for name, result in results.items():
        path, figure = save_result(run, result, _stem(name, trained.num_samples), overwrite=True)
        print_result(result, path)
        names += [figure.name] if figure else []
    say(f"figures: {run.figures}/ ({', '.join(names)})")


def final_result_paths(folder: Path, *, classifies: bool, num_samples: int) -> dict[str, Path]:
    """The files of :func:`final_evaluation` by method, the main one first; empty if the folder does not exist."""
    if not folder.exists():
        return {}
    names = _final_methods(classifies)
    return {name: result_path(RunFolder(folder), name, _stem(name, num_samples)) for name in names}


def _final_methods(classifies: bool) -> tuple[str, ...]:
    return ("classification", "importance") if classifies else ("importance",)


def _stem(name: str, num_samples: int) -> str:
    return METHODS[name].file_stem(_options(name, num_samples))


def _options(name: str, num_samples: int) -> dict[str, Any]:
    changes = {"num_samples": num_samples} if name == "importance" else {}
    return {**METHODS[name].defaults(), **changes}


def _evaluate(name: str, trained: TrainedModel) -> Any:
    options = {**_options(name, trained.num_samples), "progress": sys.stderr.isatty()}
    return METHODS[name].run(trained, options)[0]
