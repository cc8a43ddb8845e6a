"""``pyro-vae interpolate``, ``traverse`` and ``edit``: use of the latents of images; and ``pyro-vae complete``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from pyro_vae import latents
from pyro_vae._core.checks import check_count, check_shape, require, with_article
from pyro_vae._core.owners import placement
from pyro_vae.cli.console import check_seed, load, run_parser
from pyro_vae.cli.pictures import add_output, place, write
from pyro_vae.data.arrays import read_npy
from pyro_vae.data.image_set import ImageSet
from pyro_vae.evaluation.caption import caption_of
from pyro_vae.experiments.outlier_data import read_run_inputs
from pyro_vae.experiments.trained_model import TrainedModel
from pyro_vae.latents.interpolation import PathName
from pyro_vae.latents.space import Codes, LatentSpace
from pyro_vae.models import AutoregressiveModel

_NUM_AGGREGATE, _NUM_LABELLED = 2000, 10_000  # images for the aggregate posterior, and for the vector of a class
_IMAGES = "A word of digits is the position of an image in the split; all others are files: png, jpg, bmp, npy, npz."


def interpolate(argv: list[str]) -> None:
    """Decode paths between pairs of images."""
    parser = _parser("interpolate", f"Decode the path between the codes of images, pair by pair. {_IMAGES}")
    help = "straight, spherical, through the quantiles of a normal prior, or shortest in pixels (default slerp)"
    parser.add_argument("--path", choices=get_args(PathName), default="slerp", help=help)
    parser.add_argument("--num", type=int, default=11, help="images on a path, with both ends (default 11)")
    options = _options(parser, argv, num=2)
    path = place(options, _name("interpolation", [*options["images"], options["path"]]))
    trained, space, codes = _loaded(options)
    require(len(codes) % 2 == 0, "interpolate", "images must be given in pairs", f"{len(codes)} of them")
    result = latents.interpolate(space, codes[::2], codes[1::2], num=options["num"], path=options["path"])

    def figure() -> Any:
        from pyro_vae.plotting import interpolation_grid

        return interpolation_grid(result, caption=caption_of(trained.protocol))

    names = [f"{i:03}-{t:03}" for i in range(len(result.means)) for t in range(options["num"])]
    write(result.means.flatten(0, 1), names, figure, path, options)


def traverse(argv: list[str]) -> None:
    """Vary latent dimensions of an image."""
    description = "Vary one latent dimension of an image at a time over the quantiles of the aggregate posterior."
    parser = _parser("traverse", f"{description} {_IMAGES}")
    help = "dimensions from 1, as in the figures (default: the active ones, from the largest KL to the smallest)"
    parser.add_argument("--dims", type=int, nargs="+", metavar="J", help=help)
    parser.add_argument("--num", type=int, default=7, help="quantiles, from 1%% to 99%% (default 7)")
    options = _options(parser, argv, num=2)
    require(len(options["images"]) == 1, "traverse", "one image must be given", f"{len(options['images'])} of them")
    dims = options["dims"]
    check_count("--dims", **{"each": min(dims)} if dims else {})
    path = place(options, _name("traversal", [*options["images"], *(dims or [])]))
    trained, space, codes = _loaded(options)
    require(len(codes) == 1, "traverse", "one image must be given", f"{len(codes)} of them")
    chosen: Any = [j - 1 for j in dims] if dims else "active"
    largest = int(getattr(trained.vae, "latent_dim", 0))
    require(not dims or max(dims) <= largest, "--dims", f"must be at most {largest}", dims)
    data = trained.images(options["split"], _NUM_AGGREGATE)
    result = latents.traverse(space, codes, data, dims=chosen, num=options["num"])

    def figure() -> Any:
        from pyro_vae.plotting import traversal_strip

        return traversal_strip(result, num=len(result.dims), caption=caption_of(trained.protocol))

    names = [f"z{j + 1:03}-{t:03}" for j in result.dims for t in range(options["num"])]
    write(result.means[0].flatten(0, 1), names, figure, path, options)


def edit(argv: list[str]) -> None:
    """Move codes of images along the direction of a class, or to a class of M2."""
    description = """\
Edit images: add a multiple of the mean code of a class minus that of the others; with a model that has classes, keep
the style and change the class, at an amount of 0.5 if it is the context of a ConditionalVAE."""
    parser = _parser("edit", f"{description} {_IMAGES}")
    parser.add_argument("--to", type=int, metavar="CLASS", help="class that the images move towards")
    help = "class to subtract (default: all others); it needs a model without classes"
    parser.add_argument("--from", type=int, metavar="CLASS", dest="origin", help=help)
    parser.add_argument("--vector", type=Path, metavar="FILE", help="npy file of a direction (L,), instead of --to")
    help = "multiples of the direction, one image each (default 0 0.25 0.5 0.75 1)"
    parser.add_argument("--amounts", type=float, nargs="+", default=[0, 0.25, 0.5, 0.75, 1], metavar="A", help=help)
    options = _options(parser, argv)
    both = "both" if options["vector"] else "neither"
    one = (options["to"] is None) != (options["vector"] is None)
    require(one, "edit", "either --to or --vector must be given", both)
    require(options["origin"] is None or options["to"] is not None, "--from", "must come with --to", "it alone")
    same = options["to"] is not None and options["to"] == options["origin"]
    require(not same, "--from", "must be another class than --to", options["origin"])
    finite = torch.tensor(options["amounts"]).isfinite().all()
    require(bool(finite), "--amounts", "must be finite", options["amounts"])
    goal = f"class {options['to']}" if options["vector"] is None else options["vector"].stem
    path = place(options, _name("edit", [*options["images"], goal]))
    trained, space, codes = _loaded(options)
    with space:
        moved = _change(trained, space, codes, options)
        means = torch.stack([space.decode(moved(amount)) for amount in options["amounts"]], 1)  # (N, A, *data_shape)
    amounts = ", ".join(f"{amount:g}" for amount in options["amounts"])
    caption = f"Columns: amounts {amounts} towards {goal}, {caption_of(trained.protocol)}"

    def figure() -> Any:
        from pyro_vae.plotting import image_grid

        return image_grid(means.flatten(0, 1), columns=means.shape[1], caption=caption)

    names = [f"{i:03}-{k:03}" for i in range(len(means)) for k in range(means.shape[1])]
    write(means.flatten(0, 1), names, figure, path, options)


def complete(argv: list[str]) -> None:
    """Sample the lower rows of images given the upper ones."""
    description = "Sample the lower rows of images given the upper ones from an AutoregressiveModel, exactly."
    parser = _parser("complete", f"{description} {_IMAGES}")
    parser.add_argument("--rows", type=int, metavar="N", help="number of rows given (default: the upper half)")
    parser.add_argument("--num", type=int, default=4, help="samples for each image (default 4)")
    options = _options(parser, argv, num=1)
    rows, num = options["rows"], options["num"]
    path = place(options, _name("completion", [*options["images"], *([] if rows is None else [f"rows{rows}"])]))
    trained = load({key: options[key] for key in ("run", "device", "root", "weights", "trust")})
    rule, advice = "the run must be of an AutoregressiveModel", "A ConditionalVAE completes with pyro-vae sample"
    require(isinstance(trained.vae, AutoregressiveModel), "complete", rule, with_article(type(trained.vae)), advice)
    x, *context = _arguments(trained, options)  # (N, *data_shape), and classes (N,) if these are the context
    x = x.to(next(trained.vae.parameters()))
    torch.manual_seed(options["seed"])
    known = x.shape[-2] // 2 if rows is None else rows
    draws = trained.vae.complete(x.expand(num, *x.shape), known, *context).transpose(0, 1)  # (N, num, *data_shape)

    def figure() -> Any:
        from pyro_vae.plotting import image_grid

        caption = f"Each row: an image, and samples given its first {known} rows, {caption_of(trained.protocol)}"
        return image_grid(torch.cat([x.unsqueeze(1), draws], 1).flatten(0, 1), columns=num + 1, caption=caption)

    names = [f"{i:03}-{k:03}" for i in range(len(x)) for k in range(num)]
    write(draws.flatten(0, 1), names, figure, path, options, given=x)


def _change(
    trained: TrainedModel, space: LatentSpace, codes: Codes, options: dict[str, Any]
) -> Callable[[float], Codes]:
    """The codes as a function of the amount."""
    if options["vector"] is None and (trained.classifies or trained.images("train").paired):
        other = _in_class(trained, codes, options)
        return lambda amount: codes.towards(other, amount, codes.z)
    vector = _direction(trained, space, options).to(codes.z)
    return lambda amount: codes.at(codes.z + amount * vector)


def _in_class(trained: TrainedModel, codes: Codes, options: dict[str, Any]) -> Codes:
    """The codes with another class."""
    labels: Any = trained.images("train").labels
    largest = trained.vae.num_classes - 1 if trained.classifies else int(labels.max())
    require(0 <= options["to"] <= largest, "--to", f"must be in 0..{largest}", options["to"])
    require(options["origin"] is None, "--from", "needs a model without classes", type(trained.vae).__name__)
    if not trained.classifies:  # a ConditionalVAE, whose context is the class
        return replace(codes, args=(codes.args[0], torch.full_like(codes.args[1], options["to"])))
    label = torch.zeros_like(codes.held["y"])
    label[..., options["to"]] = 1
    return replace(codes, held={**codes.held, "y": label})


def _direction(trained: TrainedModel, space: LatentSpace, options: dict[str, Any]) -> Tensor:
    """The vector ``(L,)``."""
    if options["vector"] is not None:
        vector = torch.from_numpy(read_npy(options["vector"], owner="--vector"))
        check_shape("--vector", str(options["vector"]), vector.shape, (trained.vae.latent_dim,))
        require(bool(vector.isfinite().all()), "--vector", "must be finite", f"nan or inf in {options['vector']}")
        return vector
    images = trained.images("train")
    require(images.labels is not None, "--to", "the data must have labels", "none", "Use --vector FILE.npy")
    return _class_vector(space, images, options["to"], options["origin"])


def _class_vector(space: LatentSpace, images: ImageSet, to: int, origin: int | None) -> Tensor:
    labels: Any = images.labels
    for option, label in (("--to", to), ("--from", origin)):
        classes = labels[labels >= 0].unique().tolist()
        known = label is None or label in classes
        require(known, option, f"must be a class of the data ({', '.join(map(str, classes))})", label)
    used = labels >= 0 if origin is None else (labels == to) | (labels == origin)
    rows = used.nonzero().flatten()[:_NUM_LABELLED]
    return latents.attribute_vector(space, images.subset(rows), labels[rows] == to)


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = run_parser(command, description)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="position in the split, or image file")
    help = "split that positions refer to (default test)"
    parser.add_argument("--split", choices=["test", "validation", "train"], default="test", help=help)
    help = "seed of binarization and of estimated means (default 0)"
    parser.add_argument("--seed", type=int, default=0, help=help)
    add_output(parser, "RUN/figures/NAME.png, named after command and images")
    return parser


def _options(parser: argparse.ArgumentParser, argv: list[str], **at_least: int) -> dict[str, Any]:
    options = vars(parser.parse_args(argv))
    check_seed(options["seed"])
    for name, smallest in at_least.items():
        check_count(parser.prog.split()[-1], smallest, **{name: options[name]})
    return options


def _name(kind: str, words: Sequence[object]) -> str:
    """A file name from image positions, the stems of image files and settings."""
    return "-".join([kind, *(re.sub(r"\W+", "", Path(str(word)).stem) for word in words)])[:100]


def _loaded(options: dict[str, Any]) -> tuple[TrainedModel, LatentSpace, Codes]:
    """The run, its latent space, and the codes of the images."""
    trained = load({key: options[key] for key in ("run", "device", "root", "weights", "trust")})
    args = _arguments(trained, options)
    space = LatentSpace(trained.vae, seed=options["seed"])
    with space:
        return trained, space, space.encode(args)


def _arguments(trained: TrainedModel, options: dict[str, Any]) -> tuple[Tensor, ...]:
    """Arguments of the programs: the images, and their classes if these are the context."""
    batches, dtype = [], placement(trained.vae)[1]
    for word in options["images"]:
        for images in [_indexed(trained, word, options)] if word.isdecimal() else _read(trained, word, options):
            batches.append(images.arguments(slice(None), dtype=dtype))
    return tuple(torch.cat(column) for column in zip(*batches, strict=True))


def _indexed(trained: TrainedModel, word: str, options: dict[str, Any]) -> ImageSet:
    images, split = trained.images(options["split"]), options["split"]
    largest = len(images) - 1
    require(int(word) <= largest, "images", f"positions must be in 0..{largest}, those of the {split} split", word)
    return images.subset([int(word)])


def _read(trained: TrainedModel, word: str, options: dict[str, Any]) -> list[ImageSet]:
    known, rule = not trained.images(options["split"]).paired, "with a class as context, images must be positions"
    require(known, "images", rule, word, "Encode (x, c) with pyro_vae.latents")
    inputs = read_run_inputs(trained, [word], owner="images", seed=options["seed"])
    return [entry.images for entry in inputs]
