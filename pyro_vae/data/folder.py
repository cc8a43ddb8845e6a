"""A folder of image files as one array."""

from __future__ import annotations

from pathlib import Path

import numpy as np

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_GREY = ("1", "L", "LA")
_COLOUR = ("P", "RGB", "RGBA", "CMYK", "YCbCr")


def read_folder(root: Path, *, owner: str) -> tuple[np.ndarray, np.ndarray | None]:
    """All png, jpg and bmp images under ``root``, in the order of their names.

    Args:
        root: holds images, or one sub-folder of images per class: the classes, sorted by name, are labelled
            0, 1, ... Other files and hidden ones are passed over.
        owner: class named in the errors.

    Returns:
        uint8 images ``(N, C, H, W)``, with C = 1 for grey and 3 for colour, and labels ``(N,)`` or ``None``.

    Raises:
        ValueError: for no images, images of mixed sizes, or an unreadable one.
    """
    classes = {f.name: _images(f) for f in sorted(root.iterdir()) if f.is_dir() and not f.name.startswith(".")}
    classes = {name: files for name, files in classes.items() if files}
    top = _images(root)
    _check_folder(root, top, list(classes), owner)
    files = top or [file for group in classes.values() for file in group]
    labels = None if top else np.repeat(np.arange(len(classes)), [len(group) for group in classes.values()])
    return _stack(files, owner), labels


def _images(folder: Path) -> list[Path]:
    files = (f for f in sorted(folder.iterdir()) if f.is_file() and not f.name.startswith("."))
    return [f for f in files if f.suffix.lower() in _SUFFIXES]


def _check_folder(root: Path, top: list[Path], classes: list[str], owner: str) -> None:
    if not top and not classes:
        raise ValueError(
            f"{owner}: root must hold png, jpg or bmp images, or sub-folders of them, got zero-length data "
            f"in root={str(root)!r}. Check the path."
        )
    if top and classes:
        raise ValueError(
            f"{owner}: images must lie either in root or in sub-folders, one per class, got {top[0].name} "
            f"next to the folder {classes[0]} in root={str(root)!r}. Move them."
        )
    if {"train", "test"} <= set(classes):
        raise ValueError(
            f"{owner}: sub-folders of root are classes, got the folders train and test in "
            f"root={str(root)!r}. Save both parts in one npz file with the keys train and test."
        )


def _stack(files: list[Path], owner: str) -> np.ndarray:
    images = [read_image(file, owner=owner) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"{owner}: images must share one size, got {files[0].name} of (C, H, W)={images[0].shape} "
                f"and {file.name} of (C, H, W)={image.shape}. Resize or convert them to one size."
            )
    return np.stack(images)  # (N, C, H, W)


def read_image(file: Path, *, owner: str) -> np.ndarray:
    """The pixels of an image file, uint8 ``(C, H, W)``, with C = 1 for grey and 3 for colour.

    Raises:
        ValueError: it is damaged, no image, or of more than 8 bits per channel.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            mode = image.mode
            pixels = np.asarray(image.convert("L" if mode in _GREY else "RGB"), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{owner}: every image must be readable, got {file}, which is damaged or no image. Remove or replace it."
        ) from error
    if mode not in _GREY + _COLOUR:
        raise ValueError(
            f"{owner}: images must have 8 bits per channel, got {file} of mode {mode}. Convert it, or save "
            "floating numbers in an npz file."
        )
    return pixels[None].copy() if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy()  # (C, H, W), of its own
