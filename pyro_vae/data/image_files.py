"""Writing of images part by part: to an npz or npy file, or to a folder of png files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np

from pyro_vae._core.checks import refusal
from pyro_vae._core.files import atomic_file, atomic_folder


def write_images(
    path: Path, parts: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype, *, overwrite: bool = False
) -> None:
    """Write images completely or not at all; one part is in memory at a time.

    Args:
        path: an ``.npz`` file, with the key ``images``; an ``.npy`` file; or, without an ending, a new folder, of png
            files that are numbered from 0.
        parts: images ``(n, *data_shape)``, of which a folder takes bytes ``(n, 1, H, W)`` or ``(n, 3, H, W)``.
        shape: of all images, ``(N, *data_shape)``.
        dtype: of all images.
        overwrite: replace an existing file.

    Raises:
        ValueError: a folder of images that png files cannot hold.
        OSError: the file or folder exists, or cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "two.npy"
        ...     write_images(path, [np.ones((1, 3)), np.ones((1, 3))], (2, 3), np.dtype(float))
        ...     np.load(path).shape
        (2, 3)
    """
    if path.suffix == "":
        _write_folder(path, parts, shape, dtype)
        return
    with atomic_file(path, overwrite=overwrite) as file:
        if path.suffix == ".npy":
            _write_array(file, parts, shape, dtype)
            return
        archive = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED)
        with archive, archive.open("images.npy", "w", force_zip64=True) as member:
            _write_array(member, parts, shape, dtype)


def _write_array(file: IO[bytes], parts: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> None:
    layout = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, layout)
    for part in parts:
        file.write(part.astype(dtype).tobytes())


def _write_folder(path: Path, parts: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> None:
    from PIL import Image

    if len(shape) != 4 or shape[1] not in (1, 3) or dtype != np.uint8:
        rule, got = "images in png files must be bytes (N, 1, H, W) or (N, 3, H, W)", f"{dtype} of shape={shape}"
        raise refusal("write_images", rule, got, "Choose an .npz or .npy file")
    width, number = len(str(max(shape[0] - 1, 0))), 0
    with atomic_folder(path) as folder:
        for image in (image for part in parts for image in part):
            pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            Image.fromarray(pixels).save(folder / f"{number:0{width}}.png")
            number += 1
