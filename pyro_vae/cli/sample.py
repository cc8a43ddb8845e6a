"""``pyro-vae sample``."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae._core.files import write_atomically
from pyro_vae.cli.console import check_counts, check_seed, load, run_parser, say
from pyro_vae.experiments.trained_model import TrainedModel
from pyro_vae.training import RunFolder


def sample(words: list[str]) -> None:
    """Draw images from the model of a run."""
    made = run_parser("sample", "Draw images from a run's model: z from the prior, then p(x | z).")
    made.add_argument("--num", type=int, default=64, help="number of images (default 64)")
    made.add_argument("--draws", action="store_true", help="draw x from p(x | z) instead of showing its mean")
    made.add_argument("--seed", type=int, default=0, help="(default 0)")
    made.add_argument("--out", help="file to write, .png or .npz; default: RUN/figures/drawn-SEED.png")
    made.add_argument("--overwrite", action="store_true", help="replace the file")
    made.add_argument("--label", type=int, help="class to draw from, for a model with classes (default: all of them)")
    options = vars(made.parse_args(words))
    check_counts(options, num=64)
    check_seed(options["seed"])
    run = RunFolder(options["run"])
    label = "" if options["label"] is None else f"-label{options['label']}"
    path = Path(options["out"] or run.figures / f"drawn-{options['seed']}{label}.png")
    if path.suffix not in (".png", ".npz"):
        raise ValueError(f"--out: must end in .png or .npz, got {path}. Choose one of the two.")
    trained = load({k: options[k] for k in ("run", "device", "root", "trust")})
    torch.manual_seed(options["seed"])
    images = trained.vae.sample(options["num"], mean=not options["draws"], **_labels(trained, options)).cpu()
    write_atomically(path, _rendered(images, path.suffix), overwrite=options["overwrite"])
    say(f"{options['num']} images: {path}")


def _labels(trained: TrainedModel, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    label = options["label"]
    if label is None:
        return {}
    trained.need_classes("--label")
    if not 0 <= label < trained.vae.num_classes:
        raise ValueError(f"--label: must be in 0..{trained.vae.num_classes - 1}, got {label}. Give one of the classes.")
    return {"y": torch.full((options["num"],), label, device=next(trained.vae.parameters()).device)}


def _rendered(images: torch.Tensor, suffix: str) -> bytes:
    buffer = io.BytesIO()
    if suffix == ".npz":
        np.savez_compressed(buffer, images=images.numpy())
    else:
        from pyro_vae.plotting import image_grid  # here, since it loads matplotlib

        image_grid(images, columns=max(1, round(len(images) ** 0.5))).savefig(buffer, format="png", dpi=200)
    return buffer.getvalue()
