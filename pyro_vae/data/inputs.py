"""Images from files, as data of a model trained on a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from pyro_vae._core.checks import refusal, require
from pyro_vae.data.arrays import as_images, read_npy, read_npz
from pyro_vae.data.binarization import Binarization, binarize
from pyro_vae.data.folder import PICTURES, read_image
from pyro_vae.data.image_set import ImageSet
from pyro_vae.data.kinds import DataKind, converted
from pyro_vae.data.loading import as_set
from pyro_vae.data.sources import Options, read

_IN_UNITS = ("counts", "real", "mixed")  # kinds whose numbers are not scaled


@dataclass(frozen=True)
class Input:
    """The images of a file, ``(N, *data_shape)``, with their names."""

    images: ImageSet
    names: list[str]


def read_inputs(
    paths: Sequence[str | Path],
    *,
    owner: str,
    data_shape: tuple[int, ...],
    max_value: int,
    binarization: Binarization,
    kind: DataKind | None = None,
    seed: int = 0,
) -> list[Input]:
    """Read images in the form of a model's training data; they are never resized.

    Args:
        paths: image files (png, jpg, webp, tif, bmp, gif) of one image each; npy files, and npz files with the key
            ``images``, of any number of images ``(N, H, W)``, ``(N, C, H, W)`` or ``(N, D)``, or of one image of the
            model's shape.
        owner: name that error messages begin with.
        data_shape: shape of one training image.
        max_value: the integer that stood for 1 in the training data, and does in integer arrays here; in image files
            255 stands for 1, and in arrays of zeros and ones 1 does.
        kind: the kind of the training data, if it is known; counts, real and mixed data keep their units.
        binarization: protocol of the training data; ``"dynamic"`` and ``"fixed"`` sample the pixels of each file once.
        seed: seed of these pixels.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is damaged, of another kind, or its images are not of ``data_shape``.
    """
    files = [_read(Path(path), owner, data_shape, max_value, kind) for path in paths]
    return [Input(binarize(images, binarization, split="test", seed=seed), names) for images, names in files]


def read_rows(
    path: Path,
    *,
    owner: str,
    data_shape: tuple[int, ...],
    max_value: int,
    binarization: Binarization,
    kind: DataKind | None = None,
    seed: int = 0,
) -> ImageSet:
    """Images of an npy file or a folder, as :func:`read_inputs` reads them, but by batches.

    They are read once to detect their kind. Of pixels that are binarized one bit each is in memory.
    """
    source = read(path, Options(), owner=owner, by_batches=lambda size: True)
    images = as_set(source, kind=kind if kind in _IN_UNITS else None, max_value=None, owner=owner)
    if kind not in _IN_UNITS and images.kind not in ("binary", "fractions"):
        images = as_set(source, kind="grey", max_value=source.max_value or max_value, owner=owner)
    rule, got = f"images must be of shape {data_shape}, as the training data", f"{images.data_shape} in {path}"
    require(images.data_shape == data_shape, owner, rule, got, "Convert them to that size and number of channels")
    plain = ImageSet(images.images, max_value=images.max_value)
    return binarize(plain, binarization, split="test", seed=seed)


def _read(
    path: Path, owner: str, data_shape: tuple[int, ...], max_value: int, kind: DataKind | None
) -> tuple[ImageSet, list[str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{owner}: images must be files, got {path}, which is not a file. Check the path.")
    if path.suffix.lower() in PICTURES:
        pixels = read_image(path, owner=owner)[None]  # (1, C, H, W)
        images, top = converted(pixels, _kind_of(pixels, kind), owner=owner, name=str(path), max_value=255)
        names = [str(path)]
    else:
        array = _array(path, owner, data_shape)
        array = array.astype(float) if kind in _IN_UNITS and array.dtype.kind in "biu" else array  # without limits
        images = as_images(array, owner=owner, name=str(path))
        names = [str(path)] if len(images) == 1 else [f"{path}[{i}]" for i in range(len(images))]
        if kind in _IN_UNITS:
            images, top = converted(images.numpy(), kind, owner=owner, name=str(path))
        else:
            images, top = _scaled(images, max_value, path, owner)
    shape, rule = tuple(images.shape[1:]), f"images must be of shape {data_shape}, as the training data"
    advice = "Convert it to that size and number of channels"
    require(shape == data_shape, owner, rule, f"{shape} in {path}", advice)
    return ImageSet(images, max_value=top), names


def _kind_of(pixels: np.ndarray, kind: DataKind | None) -> DataKind:
    """The kind as which the pixels of an image file are read."""
    if kind in _IN_UNITS or (kind == "binary" and pixels.max() <= 1):
        return kind
    return "fractions" if pixels.dtype == np.uint16 else "real" if pixels.dtype.kind == "f" else "grey"


def _array(path: Path, owner: str, data_shape: tuple[int, ...]) -> np.ndarray:
    if path.suffix == ".npz":
        array = read_npz(path, owner=owner, layouts=(("images",),))["images"]
    elif path.suffix == ".npy":
        array = read_npy(path, owner=owner)
    else:
        raise refusal(
            owner, "images must be image files (png, jpg, webp, tif, bmp, gif) or npz or npy files", path, "Convert it"
        )
    single = array.shape in (data_shape, data_shape[1:] if data_shape[0] == 1 else data_shape)
    return array[None] if single else array


def _scaled(images: Tensor, max_value: int, path: Path, owner: str) -> tuple[Tensor, int]:
    """Images and the integer that stands for 1; grey levels that are stored as floating numbers become fractions."""
    low, high, floating = float(images.min()), float(images.max()), images.is_floating_point()
    if floating and (max_value == 1 or high <= 1):
        return images, 1
    rule = f"integers must lie in 0..{max_value}, as in the training data"
    require(high <= max_value, owner, rule, f"{high:g} in {path}", "Rescale them")
    rule, got = "floating grey levels must be whole numbers, or fractions in [0, 1]", f"{low:g} to {high:g} in {path}"
    require(low >= 0 and bool((images == images.round()).all()) if floating else True, owner, rule, got, "Rescale them")
    return (images / max_value, 1) if floating else (images, 1 if high <= 1 else max_value)
