"""``pyro-vae classify``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
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
from pyro_vae.cli.console import add_place, check_out, check_seed, load, note, say
from pyro_vae.cli.outliers import stored_detector
from pyro_vae.cli.tables import aligned, comma_separated
from pyro_vae.data.inputs import Input
from pyro_vae.evaluation import OutlierDetector
from pyro_vae.evaluation.label_posterior import class_posterior
from pyro_vae.experiments.outlier_data import read_run_inputs
from pyro_vae.experiments.provenance import PROVENANCE
from pyro_vae.experiments.trained_model import TrainedModel

_DESCRIPTION = """\
Classify images with a trained semi-supervised model (pyro-vae train --model M2) and print the three most probable
classes of each, or that it is unlike the training data. An image file is png, jpg or bmp; npy and npz (key images) hold
any number of images. The images must have the size of the training images, and are binarized in the same way; random
binarization depends on --seed."""
_NUM_SHOWN = 3
_BATCH_SIZE = 500
_REJECT = 0.01
_ENTRIES = ("label", "class")


def classify(argv: list[str]) -> None:
    """Print the most probable classes of images, and write all probabilities if a file is given."""
    options = vars(_parser().parse_args(argv))
    _check(options)
    trained = load({key: options[key] for key in ("run", "device", "root", "weights", "trust")})
    trained.require_classifier("classify")
    inputs = _inputs(trained, options)
    detector = _detector(trained, options)
    rows = [
        row
        for images in inputs
        for row in _rows(images, _probabilities(trained, images, options), _p_values(images, detector), options)
    ]
    if join().first:
        say(_table(rows, trained.splits.train.classes))
        if options["out"]:
            write_atomically(options["out"], _encoded(rows, trained, options), overwrite=options["overwrite"])
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
    parser.add_argument(
        "--reject",
        type=float,
        metavar="LEVEL",
        help="give no class to images whose p-value, from the validation images, is at most LEVEL: the share of images "
        f"like the training data that are rejected; 0 classifies every image (default {_REJECT})".replace("%", "%%"),
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
    valid = options["reject"] is None or 0 <= options["reject"] < 1
    require(valid, "--reject", "must be at least 0 and below 1", options["reject"], "Use 0.01, or 0 to reject nothing")
    check_count("classify", num_data=options["num_data"], num_samples=options["num_samples"])
    check_seed(options["seed"])
    check_out(options["out"], options["overwrite"], ".csv", ".json")


def _inputs(trained: TrainedModel, options: dict[str, Any]) -> list[Input]:
    split = options["split"]
    if split:
        images = trained.images(split, options["num_data"])
        return [Input(images, [f"{split}[{i}]" for i in range(len(images))])]
    return read_run_inputs(trained, options["images"], owner="classify", seed=options["seed"])


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


def _detector(trained: TrainedModel, options: dict[str, Any]) -> OutlierDetector | None:
    """The detector that rejects images; None if nothing is to be rejected, or by default if nothing can be."""
    level = _REJECT if options["reject"] is None else options["reject"]
    if not level:
        return None
    try:
        detector = stored_detector(Path(options["run"]), trained)
        detector.rejects(level)
    except ValueError as error:
        if options["reject"] is not None:
            raise
        note(f"no image is rejected: {error}")
        return None
    options["reject"] = level
    return detector


def _p_values(inputs: Input, detector: OutlierDetector | None) -> list[float | None]:
    if detector is None:
        return [None] * len(inputs.images)
    images = inputs.images.unpaired() if inputs.images.paired else inputs.images
    values: list[float | None] = detector(images.to(detector.reference.device)).p_value().tolist()  # type: ignore
    return values


def _rows(
    inputs: Input, probabilities: Tensor, p_values: list[float | None], options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """A record for each image; the class of a rejected one is None."""
    labels = inputs.images.labels
    for i, (name, p) in enumerate(zip(inputs.names, probabilities.tolist(), strict=True)):
        label = None if labels is None or int(labels[i]) < 0 else int(labels[i])
        p_value = p_values[i]
        rejected = p_value is not None and p_value <= options["reject"]
        best = None if rejected else max(range(len(p)), key=p.__getitem__)
        yield {"image": name, "class": best, "label": label, "p_value": p_value, "probabilities": p}


def _table(rows: list[dict[str, Any]], names: Sequence[str]) -> str:
    """The most probable classes, with the true classes if some are known; of rejected images only the p-value."""
    has_labels = any(row["label"] is not None for row in rows)
    num_shown = min(_NUM_SHOWN, len(rows[0]["probabilities"]))
    header = ["image", *(["label"] if has_labels else []), *(["class", "probability"] * num_shown)]
    lines = []
    for row in rows:
        best = sorted(enumerate(row["probabilities"]), key=lambda pair: -pair[1])[:num_shown]
        label = ["-" if row["label"] is None else _name(row["label"], names)] if has_labels else []
        cells = [cell for c, p in best for cell in (_name(c, names), f"{p:.4f}")]
        if row["class"] is None:
            cells = ["-"] * len(cells) + [f"unlike the training data (p = {row['p_value']:.4f})"]
        lines.append([row["image"], *label, *cells])
    width = max(map(len, lines))
    return aligned(header + [""] * (width - len(header)), [line + [""] * (width - len(line)) for line in lines])


def _name(label: int, names: Sequence[str]) -> str:
    return names[label] if label < len(names) else str(label)


def _encoded(rows: list[dict[str, Any]], trained: TrainedModel, options: dict[str, Any]) -> bytes:
    if options["out"].suffix == ".json":
        method = "classifier" if options["num_samples"] is None else "class_posterior"
        protocol = {key: options[key] for key in ("num_samples", "seed", "weights", "reject")}
        protocol |= {key: trained.protocol[key] for key in PROVENANCE if key in trained.protocol}
        record = {"run": str(options["run"]), "by": method, **protocol, "images": rows}
        return (json.dumps(json_ready(record), allow_nan=False, indent=1) + "\n").encode()
    header = ["image", *_ENTRIES, *(f"probability of {c}" for c in range(len(rows[0]["probabilities"]))), "p-value"]
    lines = []
    for row in rows:
        entries = ["" if row[key] is None else str(row[key]) for key in (*_ENTRIES, "p_value")]
        lines.append([row["image"], *entries[:-1], *map(repr, row["probabilities"]), entries[-1]])
    return comma_separated(header, lines).encode()
