"""Reading of image files, one by one or a folder as one array."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pyro_vae._core.checks import refusal, require
from pyro_vae._core.files import open_regular

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_GREY = ("1", "L", "LA")
_COLOUR = ("P", "RGB", "RGBA", "CMYK", "YCbCr")


def read_folder(root: Path, *, owner: str) -> dict[str, np.ndarray]:
    """Read all png, jpg and bmp images under ``root``, in the order of their names.

    Args:
        root: folder of images, or of one sub-folder of images per class: the classes, sorted by name, are labelled
            0, 1, ... Other files and hidden ones are ignored.
        owner: class named in the errors.

    Returns:
        uint8 ``images``, ``(N, C, H, W)`` with C = 1 for grey and 3 for colour; ``names``, ``(N,)``, relative to
        ``root``; and of sub-folders ``labels``, ``(N,)``.

    Raises:
        ValueError: no images, images of mixed sizes, or an unreadable image.
    """
    classes = {f.name: _images(f) for f in sorted(root.iterdir()) if f.is_dir() and not f.name.startswith(".")}
    classes = {name: files for name, files in classes.items() if files}
    top = _images(root)
    _check_folder(root, top, list(classes), owner)
    files = top or [file for group in classes.values() for file in group]
    arrays = {"images": _stack(files, owner), "names": np.array([file.relative_to(root).as_posix() for file in files])}
    if not top:
        arrays["labels"] = np.repeat(np.arange(len(classes)), [len(group) for group in classes.values()])
    return arrays


def _images(folder: Path) -> list[Path]:
    files = (f for f in sorted(folder.iterdir()) if f.is_file() and not f.name.startswith("."))
    return [f for f in files if f.suffix.lower() in _SUFFIXES]


def _check_folder(root: Path, top: list[Path], classes: list[str], owner: str) -> None:
    place = f"in root={str(root)!r}"
    if not top and not classes:
        rule = "root must hold png, jpg or bmp images, or sub-folders of them"
        raise refusal(owner, rule, f"zero-length data {place}", "Check the path")
    if top and classes:
        rule = "images must lie either in root or in sub-folders, one per class"
        raise refusal(owner, rule, f"{top[0].name} next to the folder {classes[0]} {place}")
    splits = {"train", "test"} <= set(classes)
    advice = "Save both splits in one npz file with the keys train and test"
    require(not splits, owner, "sub-folders of root must be classes", f"the folders train and test {place}", advice)


def _stack(files: list[Path], owner: str) -> np.ndarray:
    images = [read_image(file, owner=owner) for file in files]
    for file, image in zip(files, images, strict=True):
        shapes = f"{files[0].name} of (C, H, W)={images[0].shape} and {file.name} of (C, H, W)={image.shape}"
        require(image.shape == images[0].shape, owner, "images must share one size", shapes, "Resize or convert them")
    return np.stack(images)  # (N, C, H, W)


def read_image(file: Path, *, owner: str) -> np.ndarray:
    """Read an image file as uint8 ``(C, H, W)``, with C = 1 for grey and 3 for colour.

    Raises:
        ValueError: the file is damaged, not an image, or has more than 8 bits per channel.
    """
    from PIL import Image

    try:
        with open_regular(file) as stream, Image.open(stream) as image:
            mode = image.mode
            pixels = np.asarray(image.convert("L" if mode in _GREY else "RGB"), dtype=np.uint8)
    except Exception as error:  # the decoders raise errors of many classes
        value = f"{file}, which is damaged or not an image"
        raise refusal(owner, "every image must be readable", value, "Remove or replace it") from error
    advice = "Convert it, or save floating numbers in an npz file"
    right = mode in _GREY + _COLOUR
    require(right, owner, "images must have 8 bits per channel", f"{file} of mode {mode}", advice)
    return pixels[None].copy() if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy()  # (C, H, W)
