"""``pyro-vae outliers``: the data of a run, or images, that are unlike its training data."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from pyro_vae._core.checks import check_count, require
from pyro_vae._core.distributed import join
from pyro_vae.cli.arguments import Parser
from pyro_vae.cli.console import add_place, check_out, check_seed, load, say
from pyro_vae.cli.results import evaluate_once
from pyro_vae.cli.tables import aligned
from pyro_vae.evaluation import FinishedBatches, OutlierDetector, OutlierScores
from pyro_vae.experiments.methods import METHODS
from pyro_vae.experiments.outlier_data import read_run_inputs
from pyro_vae.experiments.trained_model import TrainedModel

_DESCRIPTION = """\
Score how unlike the training data each image is: those of the test split, or of image files. A p-value is the share of
held-out validation images that are at least as strange, so that p <= 0.01 rejects at most about 1% of images like the
training data. Without image files, writes a JSON and a figure of the scores to the run folder."""
_METHOD = METHODS["outliers"]


def outliers(argv: list[str]) -> None:
    """Print the strangest images with their p-values."""
    options = vars(_parser().parse_args(argv))
    images, num_shown = options.pop("images"), options.pop("num_shown")
    counts = ("num_data", "num_reference", "num_samples", "regret_steps", "batch_size")
    check_count("outliers", num_shown=num_shown, **{name: options[name] for name in counts})
    check_seed(options["seed"])
    folder, overwrite, out = Path(options["run"]), options.pop("overwrite"), options.pop("out")
    of_split = {"split": options["split"], "num_data": options["num_data"], "out": out, "overwrite": overwrite or None}
    for name, value in of_split.items():
        given = value is not None and bool(images)
        require(not given, f"--{name}", "must come without image files", "both", "Omit one")
    options["split"] = options["split"] or "test"
    check_out(out, overwrite and out is not None, ".json")
    trained = load(options)
    if images:
        result, names = _scores_of_files(folder, trained, images, options)
    else:
        saved = evaluate_once(folder, trained, _METHOD, options, overwrite=overwrite, out=out)
        if not saved:
            return
        result, names = cast(OutlierScores, saved[0].result), []
        saved[0].print()
        say(f"figure: {saved[0].figure or 'none'}\n")
    if join().first:
        say(_table(result, names, num_shown, str(options["split"])))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="pyro-vae outliers", description=_DESCRIPTION)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="image files (default the images of --split)")
    parser.add_argument("--split", choices=["test", "validation", "train"], help="(default test)")
    parser.add_argument("--num_data", type=int, help="number of images of the split, from the first (default all)")
    for option in _METHOD.options:
        text = option.help if option.default is None else f"{option.help} (default {option.default})"
        kind: dict[str, Any] = {"type": option.type, "choices": option.choices or None, "default": option.default}
        parser.add_argument(f"--{option.name}", help=text.replace("%", "%%"), **kind)
    parser.add_argument("--num_shown", type=int, default=10, help="number of images in the table (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of samples and binarization (default 0)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON to write instead of one in the run folder")
    parser.add_argument("--overwrite", action="store_true", help="score again, and replace the result")
    add_place(parser)
    return parser


def stored_detector(folder: Path, trained: TrainedModel, **options: Any) -> OutlierDetector:
    """The detector of a run; the scores of its reference are kept in the run folder, and read by the next command."""
    finished = FinishedBatches(folder / "reference.batches")
    detector = trained.outlier_detector(**options, finished=finished, progress=sys.stderr.isatty())
    detector.statistics = replace(detector.statistics, finished=None, progress=False)
    return detector


def _scores_of_files(
    folder: Path, trained: TrainedModel, paths: list[str], options: dict[str, Any]
) -> tuple[OutlierScores, list[str]]:
    """The scores of all images in files, and their names."""
    require(options.pop("against") is None, "--against", "must come without image files", "both", "Omit one")
    options = {name: options[name] for name in (*(o.name for o in _METHOD.options if o.name != "against"), "seed")}
    inputs = read_run_inputs(trained, paths, owner="outliers", seed=options["seed"])
    detector = stored_detector(folder, trained, **options)
    results = [detector(file.images.to(next(trained.vae.parameters()).device)) for file in inputs]
    tensors = [torch.cat([getattr(result, name) for result in results]) for name in ("scores", "p_values")]
    whole = OutlierScores(tensors[0], tensors[1], detector.calibration, protocol=results[0].protocol)
    return whole, [name for file in inputs for name in file.names]


def _table(result: OutlierScores, names: list[str], num_shown: int, split: str) -> str:
    """The strangest images, strangest first, with the p-value of every score."""
    header = ["image", *(f"p {name}" for name in result.names)]
    rows = result.strangest(num_shown).tolist()
    labels = names or [f"{split}[{i}]" for i in range(len(result))]
    return aligned(header, [[labels[i], *(f"{p:.4f}" for p in result.p_values[i].tolist())] for i in rows])
