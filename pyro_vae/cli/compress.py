"""``pyro-vae compress`` and ``pyro-vae decompress``."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae._core.checks import check_count, require
from pyro_vae._core.contexts import isolated_rng, reseed
from pyro_vae._core.distributed import join
from pyro_vae._core.files import read_bytes, write_atomically
from pyro_vae.cli.arguments import Parser
from pyro_vae.cli.console import add_place, check_out, check_seed, load, say
from pyro_vae.compression import compress, decompress
from pyro_vae.data.inputs import read_inputs
from pyro_vae.experiments.trained_model import TrainedModel

_COMPRESS = """\
Compress images without loss with a trained model, to about minus its ELBO. An image file is png, jpg or bmp; npy and
npz (key images) hold any number of images. The images must have the size of the training images and are first binarized
in the same way; random binarization depends on --seed."""
_DECOMPRESS = "Restore compressed images with the model that compressed them, as an npz file with the key images."


def compress_images(argv: list[str]) -> None:
    """Compress image files or images of the run's data."""
    parser = Parser(prog="pyro-vae compress", description=_COMPRESS)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("files", nargs="+", metavar="FILE", help="image files, and last the file to write, .pvz")
    parser.add_argument("--split", choices=["test", "validation", "train"], help="compress the run's data instead")
    parser.add_argument("--seed", type=int, default=0, help="seed of the binarization (default 0)")
    parser.add_argument("--chunk_size", type=int, default=2500, help="images per chunk (default 2500)")
    parser.add_argument(
        "--num_particles", type=int, default=1, help="samples of z per image; more give a smaller file (default 1)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    add_place(parser)
    options = vars(parser.parse_args(argv))
    *images, out = map(Path, options["files"])
    check_out(out, options["overwrite"], ".pvz", name="last FILE")
    one, both = bool(images) != bool(options["split"]), "both" if options["split"] else "neither"
    require(one, "compress", "either images or --split must be given", both)
    check_seed(options["seed"])
    coding = {name: options[name] for name in ("chunk_size", "num_particles")}
    check_count("compress", **coding)
    trained = load(options)
    x = _images(trained, images, options)
    content = compress(trained.vae.cpu(), x, progress=sys.stderr.isatty(), **coding)
    if join().first:
        write_atomically(out, content, overwrite=options["overwrite"])
        rate = 8 * len(content) / max(x.numel(), 1)
        say(f"{len(x)} images: {len(content)} bytes, {rate:.4f} bits per dimension\nfile: {out}")


def decompress_images(argv: list[str]) -> None:
    """Restore compressed images."""
    parser = Parser(prog="pyro-vae decompress", description=_DECOMPRESS)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("file", metavar="FILE", type=Path, help="file of pyro-vae compress")
    parser.add_argument("out", metavar="OUT", type=Path, help="file to write, .npz")
    parser.add_argument("--omit_damaged", action="store_true", help="restore the images of the undamaged chunks")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    add_place(parser)
    options = vars(parser.parse_args(argv))
    out = options["out"]
    check_out(out, options["overwrite"], ".npz", name="OUT")
    content, trained = read_bytes(options["file"]), load(options)
    damaged: Any = "omit" if options["omit_damaged"] else "raise"
    x = decompress(trained.vae.cpu(), content, damaged=damaged, progress=sys.stderr.isatty())
    if join().first:
        write_atomically(out, _encoded(trained, x), overwrite=options["overwrite"])
        say(f"{len(x)} images: {out}")


def _images(trained: TrainedModel, files: list[Path], options: dict[str, Any]) -> torch.Tensor:
    """The images as the model's data, ``(N, *data_shape)``."""
    if options["split"]:
        sets = [trained.images(options["split"])]
    else:
        inputs = read_inputs(
            files,
            owner="compress",
            data_shape=trained.splits.data_shape,
            max_value=trained.splits.max_value,
            binarization=trained.protocol["binarize"],
            seed=options["seed"],
        )
        sets = [part.images for part in inputs]
    with isolated_rng(options["seed"]):
        reseed(options["seed"], 0)
        return torch.cat([images.batch(slice(None), dtype=torch.float32).cpu() for images in sets])


def _encoded(trained: TrainedModel, x: torch.Tensor) -> bytes:
    """The images as integers of the data set's grey levels, or as zeros and ones."""
    largest = trained.splits.max_value if trained.protocol["binarize"] == "none" else 1
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=(x.double() * largest).round().to(torch.uint8).numpy())
    return buffer.getvalue()
