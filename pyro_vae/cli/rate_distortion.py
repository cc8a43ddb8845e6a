"""``pyro-vae rate-distortion``: bits against squared error of several runs and of image formats."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pyro_vae._core.checks import require
from pyro_vae._core.contexts import isolated_rng, reseed
from pyro_vae._core.distributed import join
from pyro_vae._core.files import json_ready, write_atomically
from pyro_vae.cli.arguments import Parser
from pyro_vae.cli.console import add_place, check_out, load, say
from pyro_vae.cli.results import evaluate_once
from pyro_vae.cli.tables import aligned
from pyro_vae.compression.image_formats import Point, bits_at, image_formats
from pyro_vae.evaluation import LossyCode
from pyro_vae.evaluation.caption import caption_of
from pyro_vae.experiments.methods import METHODS
from pyro_vae.experiments.trained_model import TrainedModel

_DESCRIPTION = """\
Compress the test images of each run to a file, and print bits per dimension and squared error, beside JPEG and WebP of
the same images, all on one sheet. Runs with a QuantizedGuide and a FactorizedPrior or HyperPrior have a file; of other
VAEs the rate is the KL. Files include their headers, but neither the model nor the formats' decoders."""
_HEADER = ("run", "bits, file", "bits, estimate", "squared error", "PSNR (dB)")


def compare_rates(argv: list[str]) -> None:
    """Print the table of rates and errors, and write it with its figure to the file of ``--out``."""
    parser = Parser(prog="pyro-vae rate-distortion", description=_DESCRIPTION)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, of the same data")
    parser.add_argument("--split", choices=["test", "validation"], default="test", help="(default test)")
    parser.add_argument("--out", type=Path, help="also write the table, .json, and beside it the figure, .png")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    add_place(parser)
    options = vars(parser.parse_args(argv))
    out, overwrite, split = options["out"], options["overwrite"], options["split"]
    check_out(out, overwrite, ".json")
    loaded = {name: load({**options, "run": name}) for name in options["runs"]}
    method = METHODS["rate_distortion"]
    results: dict[str, Any] = {}
    for name, trained in loaded.items():
        require(method.applies(trained.vae), "rate-distortion", "runs must be of VAEs", type(trained.vae).__name__)
        for saved in evaluate_once(Path(name), trained, method, {**method.defaults(), "split": split}):
            results[name] = saved.result
    if join().first:
        _check(results)
        first = next(iter(loaded.values()))
        formats = _formats(first, split)
        say(as_text(results, formats))
        if out:
            _write(out, results, formats, overwrite)


def as_text(results: Mapping[str, LossyCode], formats: Mapping[str, Sequence[Point]]) -> str:
    """A row per run, with the bits of each format at the run's squared error."""
    rows = []
    for name, result in results.items():
        bits, error = result.bits_per_dim(), result.mean("squared_error")
        numbers = [bits.get("file", math.nan), bits["estimate"], error]
        at = [bits_at(points, error) for points in formats.values()]
        cells = [f"{v:.5f}" for v in numbers] + [f"{result.psnr():.2f}"] + [f"{v:.5f}" for v in at]
        rows.append([name, *("-" if cell == "nan" else cell for cell in cells)])
    header = [*_HEADER, *(f"bits, {name}" for name in formats)]
    return aligned(header, rows) + "\nbits per dimension; those of the formats at the run's squared error"


def _formats(trained: TrainedModel, split: str) -> dict[str, list[Point]]:
    """Those of images; none of other data."""
    images = trained.images(split)
    if len(images.data_shape) != 3 or images.data_shape[0] not in (1, 3):
        return {}
    with isolated_rng():
        reseed(0, 0)
        return image_formats(images.batch(slice(None), dtype=torch.float32).cpu())


def _check(results: Mapping[str, LossyCode]) -> None:
    data = {result.protocol.get("data_sha256") for result in results.values()}
    rule, got = "runs must be of the same images", f"{len(data)} sets"
    require(len(data) == 1, "rate-distortion", rule, got, "Give the runs of one data set and binarization")


def _write(
    out: Path, results: Mapping[str, LossyCode], formats: Mapping[str, Sequence[Point]], overwrite: bool
) -> None:
    from pyro_vae.plotting import rate_distortion_curve  # here, since it loads matplotlib
    from pyro_vae.plotting.save import save_png

    runs = {Path(name).name: {**result.summary(), "protocol": result.protocol} for name, result in results.items()}
    content = {"runs": runs, "formats": {name: [p._asdict() for p in points] for name, points in formats.items()}}
    text = json.dumps(json_ready(content), allow_nan=False, indent=1) + "\n"
    write_atomically(out, text.encode(), overwrite=overwrite)
    common = next(iter(results.values())).protocol
    caption = caption_of({key: common[key] for key in ("dataset", "binarize", "test") if key in common})
    figure = save_png(rate_distortion_curve(list(results.values()), formats, caption=caption), out.with_suffix(".png"))
    say(f"table: {out}\nfigure: {figure}")
