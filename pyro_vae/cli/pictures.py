"""Output of the commands that make images: a figure, an array, or a folder of single images."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pyro_vae._core.checks import require
from pyro_vae._core.distributed import join
from pyro_vae._core.files import create_folder, write_atomically
from pyro_vae.cli.console import check_out, say
from pyro_vae.training import RunFolder


def add_output(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the options for kind and place of the output; ``default`` describes the default file."""
    help = "one figure, or a folder of PNG files with one image each (default grid)"
    parser.add_argument("--format", choices=["grid", "images"], default="grid", help=help)
    help = f"file to write, .png or .npz; with --format images a folder (default {default})"
    parser.add_argument("--out", type=Path, help=help)
    parser.add_argument("--overwrite", action="store_true", help="replace existing files of these names")


def place(options: dict[str, Any], name: str) -> Path:
    """The path of the output, by default ``name`` in the figures of the run, which can be written.

    Raises:
        FileExistsError: it exists and is not to be overwritten.
        ValueError: its name does not fit the format.
    """
    single, overwrite = options["format"] == "images", options["overwrite"]
    name += "-raw" if options["weights"] == "raw" else ""
    path = Path(options["out"] or RunFolder(options["run"]).figures / (name if single else f"{name}.png"))
    if not single:
        check_out(path, overwrite, ".png", ".npz")
        return path
    require(path.suffix not in (".png", ".npz"), "--out", "must be a folder with --format images", path)
    require(path.parent.is_dir(), "--out", "must be in a folder that exists", path, f"Create {path.parent}")
    require(not path.is_file(), "--out", "must be a folder with --format images", f"{path}, which is a file")
    if path.exists() and not overwrite and join().first:
        raise FileExistsError(f"--out: {path} must not exist yet. Replace its files with --overwrite.")
    return path


def write(
    images: Tensor,
    names: Sequence[str],
    figure: Callable[[], Any],
    path: Path,
    options: dict[str, Any],
    **arrays: Tensor,
) -> None:
    """Write images as a figure, an array or single files, and print where.

    Args:
        images: ``(N, *data_shape)``.
        names: names of single files, without suffix.
        figure: draws the figure.
        path: from :func:`place`.
        options: of the command.
        **arrays: further arrays for an ``.npz``.
    """
    if options["format"] == "images":
        contents = {f"{name}.png": _picture(x) for name, x in zip(names, images.cpu(), strict=True)}
        if path.exists():
            for name, content in contents.items():
                write_atomically(path / name, content, overwrite=True)
        else:
            create_folder(path, contents)
    else:
        write_atomically(
            path, _encoded({"images": images, **arrays}, figure, path.suffix), overwrite=options["overwrite"]
        )
    say(f"{len(images)} images: {path}")


def _encoded(arrays: dict[str, Tensor], figure: Callable[[], Any], suffix: str) -> bytes:
    buffer = io.BytesIO()
    if suffix == ".npz":
        content: dict[str, Any] = {name: values.cpu().numpy() for name, values in arrays.items()}
        np.savez_compressed(buffer, **content)
    else:
        _check_shape("--out", tuple(arrays["images"].shape[1:]))
        figure().savefig(buffer, format="png", dpi=200)
    return buffer.getvalue()


def _check_shape(option: str, shape: tuple[int, ...]) -> None:
    rule, valid = (
        "data of a png must be images (C, H, W) with C 1 or 3, or (H, W)",
        len(shape) == 2 or shape[0] in (1, 3),
    )
    require(len(shape) in (2, 3) and valid, option, rule, f"data_shape={shape}", "Use --out FILE.npz")


def _picture(x: Tensor) -> bytes:
    """One image ``(C, H, W)`` or ``(H, W)`` as PNG, a pixel for a pixel, values clamped to [0, 1]."""
    from PIL import Image

    shape = tuple(x.shape)
    _check_shape("--format images", shape)
    pixels = (x.detach().double().clamp(0, 1) * 255).round().numpy().astype(np.uint8)
    pixels = pixels.transpose(1, 2, 0) if x.ndim == 3 and len(x) == 3 else pixels.reshape(shape[-2:])
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
