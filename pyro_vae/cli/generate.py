"""``pyro-vae generate``, with the alias ``pyro-vae sample``."""

from __future__ import annotations

import re
from typing import Any

import torch

from pyro_vae._core.checks import check_count, require, with_article
from pyro_vae.cli.console import check_seed, load, run_parser
from pyro_vae.cli.pictures import add_output, place, write
from pyro_vae.evaluation.caption import caption_of
from pyro_vae.experiments.contexts import contexts_of
from pyro_vae.experiments.trained_model import TrainedModel
from pyro_vae.models import AutoregressiveModel

_DESCRIPTION = """\
Draw images from a trained model: z from the prior, then p(x | z); from an AutoregressiveModel, pixel by pixel. A
model of data given a context draws several samples for each."""
_CONTEXT = """\
with a ConditionalVAE, or an AutoregressiveModel of classes: a class (default: every class); or, separated by commas,
values of the columns in their order or image files, of which the model is given its part (default: the first test
data)"""


def generate(argv: list[str], command: str = "generate") -> None:
    """Draw images from the model of a run."""
    parser = run_parser(command, _DESCRIPTION)
    parser.add_argument("--num", type=int, default=64, help="number of images (default 64)")
    parser.add_argument("--draws", action="store_true", help="sample x from p(x | z) instead of showing its mean")
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples (default 0)")
    parser.add_argument("--label", type=int, help="with a semi-supervised model: class of the images (default: all)")
    parser.add_argument("--context", help=_CONTEXT)
    add_output(parser, "RUN/figures/drawn-SEED.png, ending in -raw for --weights raw")
    options = vars(parser.parse_args(argv))
    check_count(command, num=options["num"])
    check_seed(options["seed"])
    suffix = "" if options["label"] is None else f"-label{options['label']}"
    suffix += "-context-" + re.sub(r"\W+", "_", options["context"])[-40:] if options["context"] else ""
    path = place(options, f"drawn-{options['seed']}{suffix}")
    trained = load({key: options[key] for key in ("run", "device", "root", "weights", "trust")})
    torch.manual_seed(options["seed"])
    arrays, columns = _draws(trained, options)
    images = arrays.pop("images")

    def figure() -> Any:
        from pyro_vae.plotting import image_grid  # here, since it loads matplotlib

        mean = not (options["draws"] or isinstance(trained.vae, AutoregressiveModel))
        shown = "Means of p(x | z) at samples of the prior" if mean else "Samples of the model"
        given = [f"{name} {options[name]}" for name in ("label", "context") if options[name] is not None]
        protocol = caption_of({**trained.protocol, "sample_seed": options["seed"]})
        return image_grid(images, columns=columns, caption=", ".join([shown, *given, protocol]))

    write(images, [f"{i:05}" for i in range(len(images))], figure, path, options, **arrays)


def sample(argv: list[str]) -> None:
    """Draw images from the model of a run, as :func:`generate`."""
    generate(argv, "sample")


def _draws(trained: TrainedModel, options: dict[str, Any]) -> tuple[dict[str, torch.Tensor], int]:
    """Samples, with the contexts of a model that takes one, those of a context in a row; and the length of a row."""
    num, mean, exact = options["num"], not options["draws"], isinstance(trained.vae, AutoregressiveModel)
    columns = max(1, round(num**0.5))
    require(mean or not exact, "--draws", "must come with latent variables", "a model without", "Omit it")
    shown: dict[str, Any] = {} if exact else {"mean": mean}
    if not trained.takes_context:
        value, rule = options["context"], "the run must be of a model given a context"
        require(value is None, "--context", rule, type(trained.vae).__name__, "Omit it")
        return {"images": trained.vae.sample(num, **shown, **_labels(trained, options)).cpu()}, columns
    rule = "must come with a model with classes"
    require(options["label"] is None, "--label", rule, with_article(type(trained.vae)), "Use --context")
    contexts = contexts_of(trained, options["context"], columns)[:num]
    each = num // len(contexts)
    given = {"context": contexts, "num_samples": each}
    draws = trained.vae.sample(**given, **shown).transpose(0, 1)  # (N, each, *data_shape)
    arrays = {"images": draws.flatten(0, 1).cpu(), "contexts": contexts.repeat_interleave(each, 0).cpu()}
    return arrays, each if len(contexts) > 1 else columns


def _labels(trained: TrainedModel, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    label = options["label"]
    if label is None:
        return {}
    trained.require_classifier("--label")
    largest = trained.vae.num_classes - 1
    require(0 <= label <= largest, "--label", f"must be in 0..{largest}", label)
    return {"y": torch.full((options["num"],), label, device=next(trained.vae.parameters()).device)}
