"""Reading of image files, one by one or a folder as one array."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae._core.checks import refusal, require
from pyro_vae._core.files import open_regular

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")
"""Endings of image files."""
_GREY = ("1", "L", "LA")
_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # grey levels of 16 bits
_NAMED = 3  # skipped files that a message names


class Folder:
    """The image files under a folder, in the order of their names.

    Args:
        root: folder of images, or of one sub-folder of images per class, which may hold further folders. Hidden files
            and folders are ignored.
        owner: name that the errors begin with.

    Attributes:
        files: the image files.
        classes: the names of the sub-folders with images; empty if the images lie in ``root`` itself.
        labels: the position of each file's class, ``(N,)``; None without classes.
        skipped: the other files.

    Raises:
        ValueError: no images, images beside sub-folders of images, or sub-folders called train and test.
    """

    def __init__(self, root: Path, *, owner: str) -> None:
        paths = list(_walk(root))
        self.files = [path for path in paths if path.suffix.lower() in PICTURES]
        self.skipped = [path for path in paths if path.suffix.lower() not in PICTURES]
        parts = [path.relative_to(root).parts for path in self.files]
        top = [path for path, names in zip(self.files, parts, strict=True) if len(names) == 1]
        folders = [names[0] for names in parts if len(names) > 1]
        self.classes = tuple(dict.fromkeys(folders))
        _check_folder(root, top, list(self.classes), owner)
        self.labels = np.array([self.classes.index(name) for name in folders]) if self.classes else None
        self.names = ["/".join(names) for names in parts]

    def note(self) -> str:
        """The number and names of the files that are not images; empty if there are none."""
        if not self.skipped:
            return ""
        names = ", ".join(path.name for path in self.skipped[:_NAMED]) + (", ..." if self.skipped[_NAMED:] else "")
        many = "files that are not images were" if len(self.skipped) > 1 else "file that is not an image was"
        return f"{len(self.skipped)} {many} left out: {names}"


def _walk(folder: Path) -> Iterator[Path]:
    """The files under a folder, those of the folder itself first; sorted, and without hidden ones."""
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    yield from (entry for entry in entries if entry.is_file())
    for entry in entries:
        if entry.is_dir():
            yield from _walk(entry)


def _check_folder(root: Path, top: list[Path], classes: list[str], owner: str) -> None:
    place = f"in root={str(root)!r}"
    if not top and not classes:
        endings = ", ".join(ending[1:] for ending in PICTURES)
        rule = f"root must hold images ({endings}), or sub-folders of them"
        raise refusal(owner, rule, f"zero-length data {place}", "Check the path")
    if top and classes:
        rule = "images must lie either in root or in sub-folders, one per class"
        raise refusal(owner, rule, f"{top[0].name} next to the folder {classes[0]} {place}", "Move them")
    splits = {"train", "test"} <= set(classes)
    advice = "Save both splits in one npz file with the keys train and test"
    require(not splits, owner, "sub-folders of root must be classes", f"the folders train and test {place}", advice)


def read_images(files: list[Path], *, owner: str, size: int | None = None) -> np.ndarray:
    """Read image files as one array ``(N, C, H, W)``, with C = 1 for grey and 3 if one of them is in colour.

    Args:
        files: the files.
        owner: name that the errors begin with.
        size: crop each image at its centre to a square, and resize it to this number of pixels; None reads all pixels.

    Returns:
        uint8; uint16 if all images have 16 bits, floating if all are floating.

    Raises:
        ValueError: images of mixed sizes or depths, or an unreadable image.
    """
    images = [read_image(file, owner=owner, size=size) for file in files]
    if any(len(image) == 3 for image in images):
        images = [np.repeat(image, 3, 0) if len(image) == 1 else image for image in images]
    for file, image in zip(files, images, strict=True):
        first = images[0]
        shapes = f"{files[0].name} of (C, H, W)={first.shape} and {file.name} of (C, H, W)={image.shape}"
        advice = "Crop and resize them with size=32 (train: --data.size 32), or convert them"
        require(image.shape == first.shape, owner, "images must share one size", shapes, advice)
        depths = f"{files[0].name} of {first.dtype} and {file.name} of {image.dtype}"
        require(image.dtype == first.dtype, owner, "images must share one depth", depths, "Convert them")
    return np.stack(images)  # (N, C, H, W)


def read_image(file: Path, *, owner: str, size: int | None = None) -> np.ndarray:
    """Read an image file as ``(C, H, W)``, with C = 1 for grey and 3 for colour; of several frames the first.

    It is turned as its EXIF data say, and transparent pixels are laid over white.

    Returns:
        uint8, uint16 for grey levels of 16 bits, or float32.

    Raises:
        ValueError: the file is damaged, not an image, or in colour with 16 bits, which Pillow does not read.
    """
    from PIL import Image, ImageOps

    try:
        with open_regular(file) as stream, Image.open(stream) as image:
            mode, deep_colour = image.mode, image.mode not in _DEEP and _has_16_bits(image)
            pixels = np.asarray(_plain(ImageOps.exif_transpose(image), size))
    except Exception as error:  # the decoders raise errors of many classes
        value = f"{file}, which is damaged or not an image"
        raise refusal(owner, "every image must be readable", value, "Remove or replace it") from error
    rule, advice = "images in colour must have 8 bits per channel", "Convert it, or save the array in an npz file"
    right = mode in _GREY + _COLOUR + _DEEP + ("F",) and not deep_colour
    require(right, owner, rule, f"{file} of mode {mode}{' with 16 bits' if deep_colour else ''}", advice)
    if mode in _DEEP:
        low, high = int(pixels.min()), int(pixels.max())
        require(low >= 0 and high < 2**16, owner, f"{file} must have 16 bits", f"values from {low} to {high}", advice)
        pixels = pixels.astype(np.uint16)
    return pixels[None].copy() if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy()  # (C, H, W)


def _has_16_bits(image: Any) -> bool:
    """Whether a file in colour has 16 bits per channel, of which Pillow keeps eight."""
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _plain(image: Any, size: int | None) -> Any:
    """Grey levels or RGB over white, cropped and resized if a size is given."""
    from PIL import Image, ImageOps

    if image.mode not in _DEEP and image.mode != "F":
        grey = image.mode in _GREY
        if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
            layer = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        image = image.convert("L" if grey else "RGB")
    return image if size is None else ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
