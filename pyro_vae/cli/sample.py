"""``pyro-vae sample``."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae._core.checks import check_count, require
from pyro_vae._core.files import write_atomically
from pyro_vae.cli.console import check_out, check_seed, load, run_parser, say
from pyro_vae.experiments.contexts import contexts_of
from pyro_vae.experiments.trained_model import TrainedModel
from pyro_vae.models import ConditionalVAE
from pyro_vae.training import RunFolder

_DESCRIPTION = """\
Draw images from a trained model: z from the prior, then p(x | z). A ConditionalVAE draws
several samples for each context."""
_CONTEXT = """\
with a ConditionalVAE: a class (default: every class); or, separated by commas, values of the columns in their order or
image files, of which the model is given its part (default: the first test data)"""


def sample(argv: list[str]) -> None:
    """Draw images from the model of a run."""
    parser = run_parser("sample", _DESCRIPTION)
    parser.add_argument("--num", type=int, default=64, help="number of images (default 64)")
    parser.add_argument("--draws", action="store_true", help="sample x from p(x | z) instead of showing its mean")
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples (default 0)")
    parser.add_argument(
        "--out",
        help="file to write, .png or .npz (default RUN/figures/drawn-SEED.png, ending in -raw for --weights raw)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    parser.add_argument("--label", type=int, help="with a semi-supervised model: class of the images (default: all)")
    parser.add_argument("--context", help=_CONTEXT)
    options = vars(parser.parse_args(argv))
    check_count("sample", num=options["num"])
    check_seed(options["seed"])
    run = RunFolder(options["run"])
    suffix = "" if options["label"] is None else f"-label{options['label']}"
    suffix += "-context-" + re.sub(r"\W+", "_", options["context"])[-40:] if options["context"] else ""
    suffix += "-raw" if options["weights"] == "raw" else ""
    path = Path(options["out"] or run.figures / f"drawn-{options['seed']}{suffix}.png")
    check_out(path, options["overwrite"], ".png", ".npz")
    trained = load({key: options[key] for key in ("run", "device", "root", "weights", "trust")})
    torch.manual_seed(options["seed"])
    if isinstance(trained.vae, ConditionalVAE):
        arrays, columns = _conditional(trained, options)
    else:
        value = options["context"]
        require(
            value is None, "--context", "the run must be of a ConditionalVAE", type(trained.vae).__name__, "Omit it"
        )
        draws = trained.vae.sample(options["num"], mean=not options["draws"], **_labels(trained, options))
        arrays, columns = {"images": draws.cpu()}, None
    write_atomically(path, _encoded(arrays, path.suffix, columns), overwrite=options["overwrite"])
    say(f"{len(arrays['images'])} images: {path}")


def _conditional(trained: TrainedModel, options: dict[str, Any]) -> tuple[dict[str, torch.Tensor], int | None]:
    """Samples, those of a context in a row, with their contexts; and the length of a row."""
    require(
        options["label"] is None, "--label", "must come with a model with classes", "a ConditionalVAE", "Use --context"
    )
    num = options["num"]
    contexts = contexts_of(trained, options["context"], max(1, round(num**0.5)))[:num]
    each = num // len(contexts)
    draws = trained.vae.sample(contexts, each, mean=not options["draws"]).transpose(0, 1)  # (N, each, *data_shape)
    arrays = {"images": draws.flatten(0, 1).cpu(), "contexts": contexts.repeat_interleave(each, 0).cpu()}
    return arrays, each if len(contexts) > 1 else None


def _labels(trained: TrainedModel, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    label = options["label"]
    if label is None:
        return {}
    trained.require_classifier("--label")
    largest = trained.vae.num_classes - 1
    require(0 <= label <= largest, "--label", f"must be in 0..{largest}", label)
    return {"y": torch.full((options["num"],), label, device=next(trained.vae.parameters()).device)}


def _encoded(arrays: dict[str, torch.Tensor], suffix: str, columns: int | None) -> bytes:
    buffer = io.BytesIO()
    if suffix == ".npz":
        content: dict[str, Any] = {name: values.numpy() for name, values in arrays.items()}
        np.savez_compressed(buffer, **content)
    else:
        from pyro_vae.plotting import image_grid  # here, since it loads matplotlib

        images, columns = arrays["images"], columns or max(1, round(len(arrays["images"]) ** 0.5))
        image_grid(images, columns=columns).savefig(buffer, format="png", dpi=200)
    return buffer.getvalue()
