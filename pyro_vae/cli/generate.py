"""``pyro-vae generate``, with its alias ``pyro-vae sample``."""

from __future__ import annotations

from typing import Any

import torch

from pyro_vae._core.checks import check_count, require
from pyro_vae.cli.console import check_seed, load, run_parser
from pyro_vae.cli.pictures import add_output, place, write
from pyro_vae.experiments.trained_model import TrainedModel


def generate(argv: list[str], command: str = "generate") -> None:
    """Draw images from the model of a run."""
    parser = run_parser(command, "Draw images from a trained model: z from the prior, then p(x | z).")
    parser.add_argument("--num", type=int, default=64, help="number of images (default 64)")
    parser.add_argument("--draws", action="store_true", help="sample x from p(x | z) instead of showing its mean")
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples (default 0)")
    parser.add_argument("--label", type=int, help="with a semi-supervised model: class of the images (default: all)")
    add_output(parser, "RUN/figures/drawn-SEED.png, ending in -raw for --weights raw")
    options = vars(parser.parse_args(argv))
    check_count(command, num=options["num"])
    check_seed(options["seed"])
    suffix = "" if options["label"] is None else f"-label{options['label']}"
    path = place(options, f"drawn-{options['seed']}{suffix}")
    trained = load({key: options[key] for key in ("run", "device", "root", "weights", "trust")})
    torch.manual_seed(options["seed"])
    images = trained.vae.sample(options["num"], mean=not options["draws"], **_labels(trained, options)).cpu()

    def figure() -> Any:
        from pyro_vae.plotting import image_grid  # here, since it loads matplotlib

        return image_grid(images, columns=max(1, round(len(images) ** 0.5)))

    write(images, [f"{i:05}" for i in range(len(images))], figure, path, options)


def sample(argv: list[str]) -> None:
    """Draw images from the model of a run, as :func:`generate`."""
    generate(argv, "sample")


def _labels(trained: TrainedModel, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    label = options["label"]
    if label is None:
        return {}
    trained.require_classifier("--label")
    largest = trained.vae.num_classes - 1
    require(0 <= label <= largest, "--label", f"must be in 0..{largest}", label)
    return {"y": torch.full((options["num"],), label, device=next(trained.vae.parameters()).device)}
