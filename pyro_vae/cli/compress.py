"""``pyro-vae compress`` and ``pyro-vae decompress``."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae._core.checks import check_count, require
from pyro_vae._core.contexts import isolated_rng, reseed
from pyro_vae._core.distributed import join
from pyro_vae._core.files import atomic_file, open_regular
from pyro_vae.cli.arguments import Parser
from pyro_vae.cli.console import add_place, check_out, check_seed, load, say
from pyro_vae.compression import Restored, compress_to
from pyro_vae.data import ImageSet
from pyro_vae.data.image_files import write_images
from pyro_vae.experiments.outlier_data import read_run_inputs, read_run_rows
from pyro_vae.experiments.trained_model import TrainedModel

_COMPRESS = """\
Compress images without loss with a trained model, to about minus its ELBO. An image file is png, jpg or bmp; npy and
npz (key images) hold any number of images, as does a folder. The images must have the size of the training images and
are first binarized in the same way; random binarization depends on --seed. A folder and a large npy file are read by
batches."""
_DECOMPRESS = """\
Restore compressed images with the model that compressed them: to an npz file with the key images, an npy file, or a
folder of png files."""
_LARGE = 2**26  # bytes from which an npy file is read by batches


def compress_images(argv: list[str]) -> None:
    """Compress image files or images of the run's data."""
    parser = Parser(prog="pyro-vae compress", description=_COMPRESS)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("files", nargs="+", metavar="FILE", help="images, and last the file to write, .pvz")
    parser.add_argument("--split", choices=["test", "validation", "train"], help="compress the run's data instead")
    parser.add_argument("--seed", type=int, default=0, help="seed of the binarization (default 0)")
    parser.add_argument("--chunk_size", type=int, default=2500, help="images per chunk (default 2500)")
    parser.add_argument(
        "--num_particles", type=int, default=1, help="samples of z per image; more give a smaller file (default 1)"
    )
    _add_common(parser)
    options = vars(parser.parse_args(argv))
    *images, out = map(Path, options["files"])
    check_out(out, options["overwrite"], ".pvz", name="last FILE")
    one, both = bool(images) != bool(options["split"]), "both" if options["split"] else "neither"
    require(one, "compress", "either images or --split must be given", both)
    check_seed(options["seed"])
    coding = {name: options[name] for name in ("chunk_size", "num_particles", "workers", "seed")}
    check_count("compress", **{name: coding[name] for name in ("chunk_size", "num_particles", "workers")})
    trained = load(options)
    data = _images(trained, images, options)
    if join().first:
        with atomic_file(out, overwrite=options["overwrite"]) as file:
            length = compress_to(file, trained.vae.cpu(), data, progress=sys.stderr.isatty(), **coding)
        rate = 8 * length / max(len(data) * math.prod(trained.vae.data_shape), 1)
        say(f"{len(data)} images: {length} bytes, {rate:.4f} bits per dimension\nfile: {out}")


def decompress_images(argv: list[str]) -> None:
    """Restore compressed images."""
    parser = Parser(prog="pyro-vae decompress", description=_DECOMPRESS)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("file", metavar="FILE", type=Path, help="file of pyro-vae compress")
    help_out = "file to write, .npz or .npy; or, without an ending, a folder of png files"
    parser.add_argument("out", metavar="OUT", type=Path, help=help_out)
    parser.add_argument("--omit_damaged", action="store_true", help="restore the images of the undamaged chunks")
    _add_common(parser)
    options = vars(parser.parse_args(argv))
    out = options["out"]
    check_out(out, options["overwrite"], *([".npz", ".npy"] if out.suffix else [""]), name="OUT")
    folder = out.suffix == "" and out.exists()
    require(not folder, "decompress", "a folder must not exist yet", out, "Choose another name")
    check_count("decompress", workers=options["workers"])
    coding: Any = {"damaged": "omit" if options["omit_damaged"] else "raise", "workers": options["workers"]}
    with open_regular(options["file"]) as file:
        trained = load(options)
        restored = Restored(file, trained.vae.cpu(), progress=sys.stderr.isatty(), **coding)
        if join().first:
            scale, dtype = _integers(trained, restored.header.num_values, folder=out.suffix == "")
            parts = ((x.double() * scale).round().numpy() for x in restored)
            write_images(
                out, (part.astype(dtype) for part in parts), restored.shape, dtype, overwrite=options["overwrite"]
            )
            say(f"{restored.shape[0]} images: {out}")


def _add_common(parser: Parser) -> None:
    parser.add_argument("--workers", type=int, default=1, help="processes; the result is the same (default 1)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    add_place(parser)


def _images(trained: TrainedModel, files: list[Path], options: dict[str, Any]) -> ImageSet | Tensor:
    """The images as the model's data, ``(N, *data_shape)``."""
    reading: Any = {"owner": "compress", "seed": options["seed"]}
    if options["split"]:
        return trained.images(options["split"]).to("cpu")
    sets = [read_run_rows(trained, path, **reading) for path in files if _by_batches(path)]
    others = [path for path in files if not _by_batches(path)]
    sets += [part.images for part in (read_run_inputs(trained, others, **reading) if others else [])]
    if len(sets) == 1:
        return sets[0]
    with isolated_rng(options["seed"]):
        reseed(options["seed"], 0)
        return torch.cat([images.batch(slice(None), dtype=torch.float32).cpu() for images in sets])


def _by_batches(path: Path) -> bool:
    return path.is_dir() or (path.suffix == ".npy" and path.is_file() and path.stat().st_size >= _LARGE)


def _integers(trained: TrainedModel, num_values: int, *, folder: bool) -> tuple[int, np.dtype]:
    """Integers as which images are written: the one that stands for 1, and their dtype; counts have no limit."""
    grey = trained.protocol["binarize"] == "none"
    scale = trained.splits.max_value if grey else 1
    if folder:
        rule, got = "images in png files must have 2 or 256 grey levels", f"{scale + 1}"
        require(scale in (1, 255) and num_values <= 2, "decompress", rule, got, "Choose an .npz or .npy file")
        scale = 255  # white
    return scale, np.dtype(np.uint8 if (num_values - 1) * scale <= 255 else np.int64)
