"""``pyro-vae sample``."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae._core.checks import check_count, require
from pyro_vae._core.files import write_atomically
from pyro_vae.cli.console import check_seed, load, run_parser, say
from pyro_vae.experiments.trained_model import TrainedModel
from pyro_vae.training import RunFolder


def sample(argv: list[str]) -> None:
    """Draw images from the model of a run."""
    parser = run_parser("sample", "Draw images from a trained model: z from the prior, then p(x | z).")
    parser.add_argument("--num", type=int, default=64, help="number of images (default 64)")
    parser.add_argument("--draws", action="store_true", help="sample x from p(x | z) instead of showing its mean")
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples (default 0)")
    parser.add_argument(
        "--out",
        help="file to write, .png or .npz (default RUN/figures/drawn-SEED.png, ending in -raw for --weights raw)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    parser.add_argument("--label", type=int, help="with a semi-supervised model: class of the images (default: all)")
    options = vars(parser.parse_args(argv))
    check_count("sample", num=options["num"])
    check_seed(options["seed"])
    run = RunFolder(options["run"])
    suffix = "" if options["label"] is None else f"-label{options['label']}"
    suffix += "-raw" if options["weights"] == "raw" else ""
    path = Path(options["out"] or run.figures / f"drawn-{options['seed']}{suffix}.png")
    require(path.suffix in (".png", ".npz"), "--out", "must end in .png or .npz", path)
    if path.exists() and not options["overwrite"]:
        raise FileExistsError(f"--out: {path} must not exist yet. Replace it with --overwrite.")
    trained = load({key: options[key] for key in ("run", "device", "root", "weights", "trust")})
    torch.manual_seed(options["seed"])
    images = trained.vae.sample(options["num"], mean=not options["draws"], **_labels(trained, options)).cpu()
    write_atomically(path, _encoded(images, path.suffix), overwrite=options["overwrite"])
    say(f"{options['num']} images: {path}")


def _labels(trained: TrainedModel, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    label = options["label"]
    if label is None:
        return {}
    trained.require_classifier("--label")
    largest = trained.vae.num_classes - 1
    require(0 <= label <= largest, "--label", f"must be in 0..{largest}", label)
    return {"y": torch.full((options["num"],), label, device=next(trained.vae.parameters()).device)}


def _encoded(images: torch.Tensor, suffix: str) -> bytes:
    buffer = io.BytesIO()
    if suffix == ".npz":
        np.savez_compressed(buffer, images=images.numpy())
    else:
        from pyro_vae.plotting import image_grid  # here, since it loads matplotlib

        image_grid(images, columns=max(1, round(len(images) ** 0.5))).savefig(buffer, format="png", dpi=200)
    return buffer.getvalue()
