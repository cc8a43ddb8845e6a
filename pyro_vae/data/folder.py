"""Reading of image files, one by one or a folder as the rows of an array."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae._core.checks import refusal, require
from pyro_vae._core.files import open_regular
from pyro_vae.data.mapped import changed, stamp_of

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


@dataclass(frozen=True)
class FolderRows:
    """Image files of one size as the rows of an array, decoded at every call.

    Attributes:
        root: the folder.
        names: of the files, relative to ``root``.
        shape: ``(N, C, H, W)``, with C, H and W of the first image.
        dtype: that of the first image.
        stamps: size and time stamp of every file when the folder was opened, ``(N, 2)``.
        owner: name that messages begin with.
        size: as of :func:`read_image`.
    """

    root: Path
    names: list[str]
    shape: tuple[int, ...]
    dtype: np.dtype
    stamps: np.ndarray
    owner: str
    since: int
    size: int | None = None

    @classmethod
    def open(cls, root: Path, names: list[str], *, owner: str, size: int | None = None) -> FolderRows:
        """Open the files; the first is read."""
        since, first = time.time_ns(), read_image(root / names[0], owner=owner, size=size)
        stamps = np.array([stamp_of(root / name) for name in names])
        return cls(root.resolve(), names, (len(names), *first.shape), first.dtype, stamps, owner, since, size)

    @property
    def files(self) -> Iterable[Path]:
        """The files."""
        return (self.root / name for name in self.names)

    @property
    def layout(self) -> str:
        """Shape of the array."""
        return str(self.shape)

    def rows(self, index: np.ndarray) -> np.ndarray:
        """Decode the images at ``index``, ``(B, C, H, W)``.

        Raises:
            OSError: a file is missing or unreadable.
            ValueError: a file is damaged, of another size than the first one, or has changed since it was opened.
        """
        rows = np.empty((len(index), *self.shape[1:]), self.dtype)
        for row, i in zip(rows, index.tolist(), strict=True):
            row[...] = self._image(i)
        return rows

    def _image(self, i: int) -> np.ndarray:
        path = self.root / self.names[i]
        image, stamp = read_image(path, owner=self.owner, size=self.size), stamp_of(path)
        if stamp != tuple(self.stamps[i]):
            raise changed(path, self.owner, stamp, tuple(self.stamps[i].tolist()))
        image = np.repeat(image, 3, 0) if (len(image), self.shape[1]) == (1, 3) else image
        check_same(self.names[0], self.shape[1:], self.dtype, self.names[i], image, self.owner)
        return image


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
    first = images[0]
    for file, image in zip(files, images, strict=True):
        check_same(files[0].name, first.shape, first.dtype, file.name, image, owner)
    return np.stack(images)  # (N, C, H, W)


def check_same(first: str, shape: tuple[int, ...], dtype: np.dtype, name: str, image: np.ndarray, owner: str) -> None:
    """Require an image to have the shape and the dtype of the first one.

    Raises:
        ValueError: naming both files.
    """
    shapes = f"{first} of (C, H, W)={shape} and {name} of (C, H, W)={image.shape}"
    advice = "Crop and resize them with size=32 (train: --data.size 32), or convert them"
    require(image.shape == shape, owner, "images must share one size", shapes, advice)
    depths = f"{first} of {dtype} and {name} of {image.dtype}"
    require(image.dtype == dtype, owner, "images must share one depth", depths, "Convert them")


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
