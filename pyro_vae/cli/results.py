"""Compute, save, print and plot the results of a run."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_vae._core.checks import require
from pyro_vae._core.distributed import join
from pyro_vae._core.files import remove_abandoned
from pyro_vae.cli.console import note, say
from pyro_vae.cli.resumable import files_at, print_numbers, resumable
from pyro_vae.evaluation import Result
from pyro_vae.experiments.methods import METHODS, Method
from pyro_vae.experiments.results import place_of
from pyro_vae.experiments.trained_model import TrainedModel
from pyro_vae.training import RunFolder

_LAST_FIGURE = "log_likelihood.png"  # of :func:`pyro_vae.plotting.save_figures`
_NUM_DISTRIBUTIONS = 200  # of the annealing at the end of a training, so that it takes less than a minute


@dataclass(frozen=True)
class Saved:
    """A result in a file.

    Attributes:
        path: the JSON.
        result: its content.
        figure: its figure; None if the numbers cannot be drawn.
    """

    path: Path
    result: Result
    figure: Path | None

    def print(self) -> None:
        """Print the name of the file; :func:`evaluate_once` has printed the result."""
        say(f"result: {self.path}")


def evaluate_once(
    folder: Path,
    trained: TrainedModel,
    method: Method,
    options: dict[str, Any],
    *,
    overwrite: bool = False,
    out: Path | None = None,
) -> list[Saved]:
    """Evaluate a run, print and save the results, unless its folder holds them for the same weights and options.

    Batches that an interrupted evaluation has finished are not computed again.

    Args:
        folder: the run folder.
        trained: the run, loaded or just trained.
        method: the method of evaluation.
        options: its options.
        overwrite: evaluate in any case, and replace files.
        out: file to write instead of one in the run folder.

    Returns:
        The results, the main one first; empty if this is not the first process.
    """
    size, num_data = len(trained.images(options["split"])), options["num_data"]
    options = {**options, "num_data": None if num_data is None or num_data >= size else num_data}  # None is all
    weights = trained.protocol.get("weights_sha256", "")
    stem = method.file_stem(options) + ("-raw" if trained.protocol.get("weights") == "raw" else "")
    existing = _existing(folder, method, stem, weights) if join().first and not (overwrite or out) else []
    _check_data(existing, trained)
    run, kinds = RunFolder(folder), [kind.method for kind in method.results]
    main = out or place_of(run, kinds[0], stem, weights, overwrite=overwrite)[0]
    with resumable(main) as finished:
        if join().from_first(bool(existing)):
            print_numbers([saved.result for saved in existing])
            for entry in existing[:1]:  # none in other processes than the first
                note(f"not computed again: {entry.path} has these weights and options (--overwrite computes anew)")
            return existing
        results = method.run(trained, {**options, "progress": sys.stderr.isatty(), "finished": finished})
        print_numbers(results, finished)
        if not join().first:
            return []
        if out:
            places = [(path, overwrite) for path in files_at(out, kinds)]
        else:
            new = (place_of(run, result.method, stem, weights, overwrite=overwrite) for result in results)
            places = [(path, overwrite or exists) for path, exists in new]
        figures = None if out else run.figures
        # the main one last, since a result is there if it is
        saved = [_save(result, *place, figures) for result, place in reversed(list(zip(results, places, strict=False)))]
    return saved[::-1]


def _existing(folder: Path, method: Method, stem: str, weights: str) -> list[Saved]:
    """The saved results of a method; none without the main one, which is saved last."""
    run = RunFolder(folder)
    places = [place_of(run, kind.method, stem, weights) for kind in method.results]
    if not places[0][1]:
        return []
    figures = {path: run.figures / f"{path.stem}.png" for path, _ in places}
    for file in (*figures, *figures.values()):
        remove_abandoned(file)  # of another process that was killed
    files = [path for path, exists in places if exists]
    return [Saved(path, Result.load(path), figures[path] if figures[path].exists() else None) for path in files]


def _check_data(existing: list[Saved], trained: TrainedModel) -> None:
    """Require saved results to be of the present data: of the images, and of the labels if they depend on these."""
    for saved in existing:
        split, data = saved.result.protocol["split"], saved.result.protocol.get("data_sha256")
        known = [protocol(split).get("data_sha256") for protocol in (trained.protocol_of, trained.labelled_protocol_of)]
        rule, advice = f"{saved.path} must be of the present images and labels", "Restore these, or add --overwrite"
        require(data in (None, *known), "evaluate", rule, "others", advice)


def _save(result: Result, path: Path, overwrite: bool, figures: Path | None) -> Saved:
    """Write the figure of a result, if it can be drawn, and then the result, whose file shows that both are there."""
    from pyro_vae.plotting import result_figure  # here, since it loads matplotlib
    from pyro_vae.plotting.save import save_png

    figure = None
    try:
        drawn = result_figure(result, caption=result.caption())
        figure = save_png(drawn, (figures or path.parent) / f"{path.stem}.png")
    except ValueError as reason:
        warnings.warn(f"no figure: {reason}", stacklevel=2)
    result.save(path, overwrite=overwrite)
    return Saved(path, result, figure)


def final_evaluation(folder: Path, trained: TrainedModel) -> Result | None:
    """Evaluate a trained model on the test split and draw the figures of the run.

    Args:
        folder: the run folder.
        trained: its model.

    Returns:
        The main result; None if this is not the first process, or for an autoencoder, which has none.
    """
    from pyro_vae.plotting import caption_of, save_figures  # here, since it loads matplotlib

    options = {name: _options(name, trained.num_samples) for name in _final_methods(trained)}
    lists = {name: evaluate_once(folder, trained, METHODS[name], chosen) for name, chosen in options.items()}
    if not join().first:
        return None
    run, saved = RunFolder(folder), {name: results[0] for name, results in lists.items()}
    results: dict[str, Any] = {name: entry.result for name, entry in saved.items()}
    inputs, classes = (run.figures, trained.vae, trained.splits, run.metrics()), results.get("classification")
    line = caption_of(trained.protocol)
    figures = save_figures(*inputs, result=results.get("importance"), classes=classes, caption=line)
    for entry in saved.values():
        entry.print()
        figures += [entry.figure] if entry.figure else []
    say(f"figures: {run.figures}/ ({', '.join(figure.name for figure in figures)})")
    return next(iter(results.values()), None)


def final_result(folder: Path, *, classifies: bool, num_samples: int) -> Result | None:
    """The main result of :func:`final_evaluation` if it is complete and of the run's weights, otherwise None."""
    if not (folder / "figures" / _LAST_FIGURE).exists() or not RunFolder(folder).has_weights():
        return None
    weights = RunFolder(folder).provenance()["weights_sha256"]
    names = ("classification", "importance") if classifies else ("importance",)
    stems = {name: METHODS[name].file_stem(_options(name, num_samples)) for name in names}
    existing = [_existing(folder, METHODS[name], stem, weights) for name, stem in stems.items()]
    return existing[0][0].result if all(existing) else None


def _final_methods(trained: TrainedModel) -> tuple[str, ...]:
    """The methods at the end of a training; without a density of x or of z, those that need none, if there are any."""
    implicit = {name for name in ("likelihood", "guide") if _is(trained, name, "implicit")}
    if "likelihood" in implicit:
        return ("sample_quality",)
    if implicit:
        return ("ais",)
    if _is(trained, "guide", "deterministic"):
        return ()
    if _is(trained, "guide", "bounded"):
        return ("rate_distortion",)
    return ("classification", "importance") if trained.classifies else ("importance",)


def _is(trained: TrainedModel, component: str, attribute: str) -> bool:
    return bool(getattr(getattr(trained.vae, component, None), attribute, False))


def _options(name: str, num_samples: int) -> dict[str, Any]:
    changes = {"importance": {"num_samples": num_samples}, "ais": {"num_distributions": _NUM_DISTRIBUTIONS}}
    return {**METHODS[name].defaults(), **changes.get(name, {})}
