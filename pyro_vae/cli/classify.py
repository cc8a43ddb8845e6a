"""``pyro-vae classify``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.checks import check_count, require
from pyro_vae._core.contexts import isolated_rng, reseed
from pyro_vae._core.distributed import join
from pyro_vae._core.files import json_ready, write_atomically
from pyro_vae._core.owners import evaluating, placement
from pyro_vae.cli.arguments import Parser
from pyro_vae.cli.console import add_place, check_out, check_seed, load, say
from pyro_vae.cli.tables import aligned, comma_separated
from pyro_vae.data.inputs import Input, read_inputs
from pyro_vae.evaluation.label_posterior import class_posterior
from pyro_vae.experiments.trained_model import TrainedModel

_DESCRIPTION = """\
Classify images with a trained semi-supervised model (pyro-vae train --model M2) and print the three most probable
classes of each. An image file is png, jpg or bmp; npy and npz (key images) hold any number of images. The images must
have the size of the training images, and are binarized in the same way; random binarization depends on --seed."""
_NUM_SHOWN = 3
_BATCH_SIZE = 500


def classify(argv: list[str]) -> None:
    """Print the most probable classes of images, and write all probabilities if a file is given."""
    options = vars(_parser().parse_args(argv))
    _check(options)
    trained = load({key: options[key] for key in ("run", "device", "root", "weights", "trust")})
    trained.require_classifier("classify")
    inputs = _inputs(trained, options)
    rows = [row for images in inputs for row in _rows(images, _probabilities(trained, images, options))]
    if join().first:
        say(_table(rows))
        if options["out"]:
            write_atomically(options["out"], _encoded(rows, options), overwrite=options["overwrite"])
            say(f"\nprobabilities: {options['out']}")


def _parser() -> Parser:
    parser = Parser(prog="pyro-vae classify", description=_DESCRIPTION)
    parser.add_argument("run", metavar="RUN", help="run folder of a semi-supervised model")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="image files")
    parser.add_argument("--split", choices=["test", "validation"], help="classify images of the run's data instead")
    parser.add_argument("--num_data", type=int, metavar="N", help="with --split: only the first N images (default all)")
    parser.add_argument(
        "--num_samples",
        type=int,
        metavar="N",
        help="use p(y | x) of the model, by importance sampling with N samples per class, instead of q(y | x)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of binarization and samples (default 0)")
    parser.add_argument("--out", type=Path, help="file for all probabilities, .csv or .json")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    add_place(parser)
    return parser


def _check(options: dict[str, Any]) -> None:
    both = "both" if options["split"] else "neither"
    one = bool(options["images"]) != bool(options["split"])
    require(one, "classify", "either images or --split must be given", both)
    with_split = options["num_data"] is None or options["split"]
    require(with_split, "--num_data", "must come with --split", "it alone", "Give fewer images instead")
    check_count("classify", num_data=options["num_data"], num_samples=options["num_samples"])
    check_seed(options["seed"])
    check_out(options["out"], options["overwrite"], ".csv", ".json")


def _inputs(trained: TrainedModel, options: dict[str, Any]) -> list[Input]:
    split = options["split"]
    if split:
        images = trained.images(split, options["num_data"])
        return [Input(images, [f"{split}[{i}]" for i in range(len(images))])]
    return read_inputs(
        options["images"],
        owner="classify",
        data_shape=trained.splits.data_shape,
        max_value=trained.splits.max_value,
        binarization=trained.protocol["binarize"],
        seed=options["seed"],
    )


def _probabilities(trained: TrainedModel, inputs: Input, options: dict[str, Any]) -> Tensor:
    """``(N, C)``, on the CPU."""
    vae, seed = trained.vae, options["seed"]
    device, dtype = placement(vae)
    images = inputs.images.to(device or "cpu")
    if options["num_samples"] is not None:
        sampling = {"num_classes": vae.num_classes, "num_samples": options["num_samples"], "seed": seed}
        return class_posterior(vae.model, vae.guide, images, **sampling).probabilities()
    probabilities = []
    with evaluating(vae), isolated_rng(seed):
        for number, rows in enumerate(torch.arange(len(images)).split(_BATCH_SIZE)):
            reseed(seed, number)
            probabilities.append(vae.classify(images.batch(rows, dtype=dtype)).double().cpu())
    return torch.cat(probabilities)


def _rows(inputs: Input, probabilities: Tensor) -> Iterator[dict[str, Any]]:
    labels = inputs.images.labels
    for i, (name, p) in enumerate(zip(inputs.names, probabilities.tolist(), strict=True)):
        label = None if labels is None or int(labels[i]) < 0 else int(labels[i])
        yield {"image": name, "class": max(range(len(p)), key=p.__getitem__), "label": label, "probabilities": p}


def _table(rows: list[dict[str, Any]]) -> str:
    """The most probable classes, with the true classes if some are known."""
    has_labels = any(row["label"] is not None for row in rows)
    num_shown = min(_NUM_SHOWN, len(rows[0]["probabilities"]))
    header = ["image", *(["label"] if has_labels else []), *(["class", "probability"] * num_shown)]
    lines = []
    for row in rows:
        best = sorted(enumerate(row["probabilities"]), key=lambda pair: -pair[1])[:num_shown]
        label = ["-" if row["label"] is None else str(row["label"])] if has_labels else []
        lines.append([row["image"], *label, *(cell for c, p in best for cell in (str(c), f"{p:.4f}"))])
    return aligned(header, lines)


def _encoded(rows: list[dict[str, Any]], options: dict[str, Any]) -> bytes:
    if options["out"].suffix == ".json":
        method = "classifier" if options["num_samples"] is None else "class_posterior"
        protocol = {key: options[key] for key in ("num_samples", "seed", "weights")}
        record = {"run": str(options["run"]), "by": method, **protocol, "images": rows}
        return (json.dumps(json_ready(record), allow_nan=False, indent=1) + "\n").encode()
    header = ["image", "label", "class", *(f"probability of {c}" for c in range(len(rows[0]["probabilities"])))]
    lines = [
        [r["image"], "" if r["label"] is None else str(r["label"]), str(r["class"]), *map(repr, r["probabilities"])]
        for r in rows
    ]
    return comma_separated(header, lines).encode()
