"""Images that were not part of a data set: from files, to be shown to a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.arrays import as_images, read_npy, read_npz
from pyro_vae.data.binarization import Binarization, binarize
from pyro_vae.data.folder import read_image
from pyro_vae.data.image_set import ImageSet

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True)
class Input:
    """The images of a file, ``(N, *data_shape)``, and their names."""

    images: ImageSet
    names: list[str]


def read_inputs(
    paths: Sequence[str | Path],
    *,
    owner: str,
    data_shape: tuple[int, ...],
    max_value: int,
    binarization: Binarization,
    seed: int = 0,
) -> list[Input]:
    """Images of files as a model takes them that was trained on others; they are never resized.

    Args:
        paths: png, jpg and bmp files of one image each; npy files, and npz files with the key ``images``, of any number
            of images ``(N, H, W)``, ``(N, C, H, W)`` or ``(N, D)``, or of one, of the model's shape.
        owner: named in the errors.
        data_shape: shape of one image of the model's data.
        max_value: the integer that stood for 1 in the data: that of arrays of integers. In files of pictures 255 stands
            for 1, and in arrays of zeros and ones 1 does.
        binarization: the data's; ``"dynamic"`` and ``"fixed"`` draw each file's pixels once, by the seed.
        seed: of these draws.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is damaged, of another kind, or its images are not of ``data_shape``.
    """
    read = [_read(Path(path), owner, data_shape, max_value) for path in paths]
    return [Input(binarize(found, binarization, part="test", seed=seed), names) for found, names in read]


def _read(path: Path, owner: str, data_shape: tuple[int, ...], max_value: int) -> tuple[ImageSet, list[str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{owner}: images must be files, got {path}, which is none. Check the path.")
    if path.suffix.lower() in _PICTURES:
        images, names = torch.from_numpy(read_image(path, owner=owner)).unsqueeze(0), [str(path)]
        top = 255
    else:
        images = as_images(_array(path, owner, data_shape), owner=owner, name=str(path))
        names = [str(path)] if len(images) == 1 else [f"{path}[{i}]" for i in range(len(images))]
        top = _max_value(images, max_value, path, owner)
    if tuple(images.shape[1:]) != data_shape:
        raise ValueError(
            f"{owner}: images must be of shape {data_shape}, as those of the training, got {tuple(images.shape[1:])} "
            f"in {path}. Bring it to that size and number of channels."
        )
    return ImageSet(images, max_value=top), names


def _array(path: Path, owner: str, data_shape: tuple[int, ...]) -> np.ndarray:
    if path.suffix == ".npz":
        array = read_npz(path, owner=owner, layouts=(("images",),))["images"]
    elif path.suffix == ".npy":
        array = read_npy(path, owner=owner)
    else:
        raise ValueError(f"{owner}: images must be png, jpg, bmp, npy or npz files, got {path}. Convert it.")
    alone = array.shape in (data_shape, data_shape[1:] if data_shape[0] == 1 else data_shape)
    return array[None] if alone else array


def _max_value(images: Tensor, max_value: int, path: Path, owner: str) -> int:
    if images.is_floating_point():
        return 1
    top = int(images.max())
    if top > max_value:
        raise ValueError(
            f"{owner}: integers must lie in 0..{max_value}, as those of the training, got {top} in {path}. "
            "Rescale them."
        )
    return 1 if top <= 1 else max_value
