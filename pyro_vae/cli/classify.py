"""``pyro-vae classify``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.contexts import isolated_rng, reseed
from pyro_vae._core.distributed import join
from pyro_vae._core.files import json_ready, write_atomically
from pyro_vae._core.owners import evaluating, placement
from pyro_vae.cli.arguments import Parser
from pyro_vae.cli.console import add_place, check_counts, check_seed, load, say
from pyro_vae.cli.tables import aligned, comma_separated
from pyro_vae.data.inputs import Input, read_inputs
from pyro_vae.evaluation.label_posterior import class_posterior
from pyro_vae.experiments.trained_model import TrainedModel

_DESCRIPTION = """\
Tell the classes of images by a run of a model with classes (pyro-vae train --model M2): the three most probable of each
image. Files: png, jpg, bmp, or npy and npz (key images) of any number of images, all of the size of the training
images. Their pixels are binarized as those of the test images were, drawn by --seed where they were drawn."""
_SUFFIXES = (".csv", ".json")
_TOP = 3
_BATCH = 500


def classify(words: list[str]) -> None:
    """Print the most probable classes of images, and write all probabilities if that is asked for."""
    made = Parser(prog="pyro-vae classify", description=_DESCRIPTION, allow_abbrev=False)
    made.add_argument("run", metavar="RUN", help="run folder of a model with classes")
    made.add_argument("images", nargs="*", metavar="IMAGE", help="files of images")
    made.add_argument("--split", choices=["test", "validation"], help="classify images of the run's data instead")
    made.add_argument("--num_data", type=int, help="with --split: only the first so many (default all)")
    made.add_argument(
        "--num_samples",
        type=int,
        help="use p(y | x) of the model, by importance sampling with so many draws per class, instead of q(y | x)",
    )
    made.add_argument("--seed", type=int, default=0, help="of what is drawn (default 0)")
    made.add_argument("--out", type=Path, help="file to write all probabilities to, .csv or .json")
    made.add_argument("--overwrite", action="store_true", help="replace the file")
    add_place(made)
    options = vars(made.parse_args(words))
    _check(options)
    trained = load({key: options[key] for key in ("run", "device", "root", "trust")})
    trained.need_classes("classify")
    found = [(part, _probabilities(trained, part, options)) for part in _inputs(trained, options)]
    if join().first:
        rows = [row for part, p in found for row in _rows(part, p)]
        say(_table(rows))
        if options["out"]:
            write_atomically(options["out"], _rendered(rows, options), overwrite=options["overwrite"])
            say(f"\nprobabilities: {options['out']}")


def _check(options: dict[str, Any]) -> None:
    if bool(options["images"]) == bool(options["split"]):
        got = "both" if options["split"] else "neither"
        raise ValueError(f"classify: either images or --split must be given, got {got}. Give one of them.")
    if options["num_data"] is not None and not options["split"]:
        raise ValueError("--num_data: must come with --split, got it alone. Give fewer images instead.")
    check_counts(options, num_data=100, num_samples=1000)
    check_seed(options["seed"])
    out = options["out"]
    if out and out.suffix not in _SUFFIXES:
        raise ValueError(f"--out: must end in {' or '.join(_SUFFIXES)}, got {out}. Choose one of them.")
    if options["overwrite"] and not out:
        raise ValueError("--overwrite: must come with --out, got it alone. Leave it away: nothing is written.")
    if out and out.exists() and not options["overwrite"] and join().first:
        raise FileExistsError(f"--out: {out} must not exist yet, got one. Replace it with --overwrite.")


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


def _probabilities(trained: TrainedModel, part: Input, options: dict[str, Any]) -> Tensor:
    """``(N, C)``, on the CPU."""
    vae, seed = trained.vae, options["seed"]
    device, dtype = placement(vae)
    images = part.images.to(device or "cpu")
    if options["num_samples"] is not None:
        draws = {"num_classes": vae.num_classes, "num_samples": options["num_samples"], "seed": seed}
        return class_posterior(vae.model, vae.guide, images, **draws).probabilities()
    found = []
    with evaluating(vae), isolated_rng(seed):
        for number, rows in enumerate(torch.arange(len(images)).split(_BATCH)):
            reseed(seed, number)
            found.append(vae.classify(images.batch(rows, dtype=dtype)).double().cpu())
    return torch.cat(found)


def _rows(part: Input, probabilities: Tensor) -> Iterator[dict[str, Any]]:
    labels = part.images.labels
    for i, (name, p) in enumerate(zip(part.names, probabilities.tolist(), strict=True)):
        known = None if labels is None or int(labels[i]) < 0 else int(labels[i])
        yield {"image": name, "class": max(range(len(p)), key=p.__getitem__), "label": known, "probabilities": p}


def _table(rows: list[dict[str, Any]]) -> str:
    """The most probable classes; the true one beside them where it is known."""
    told = any(row["label"] is not None for row in rows)
    ranks = range(min(_TOP, len(rows[0]["probabilities"])))
    header = ["image", *(["label"] if told else []), *(word for _ in ranks for word in ("class", "probability"))]
    lines = []
    for row in rows:
        best = sorted(enumerate(row["probabilities"]), key=lambda pair: -pair[1])[: len(ranks)]
        label = ["-" if row["label"] is None else str(row["label"])] if told else []
        lines.append([row["image"], *label, *(word for c, p in best for word in (str(c), f"{p:.4f}"))])
    return aligned(header, lines)


def _rendered(rows: list[dict[str, Any]], options: dict[str, Any]) -> bytes:
    if options["out"].suffix == ".json":
        kind = "classifier" if options["num_samples"] is None else "class_posterior"
        told = {"run": str(options["run"]), "by": kind, "num_samples": options["num_samples"], "seed": options["seed"]}
        return (json.dumps(json_ready({**told, "images": rows}), allow_nan=False, indent=1) + "\n").encode()
    header = ["image", "label", "class", *(f"probability of {c}" for c in range(len(rows[0]["probabilities"])))]
    lines = [
        [r["image"], "" if r["label"] is None else str(r["label"]), str(r["class"]), *map(repr, r["probabilities"])]
        for r in rows
    ]
    return comma_separated(header, lines).encode()
