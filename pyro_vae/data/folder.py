"""Reading of image files, one by one or a folder as the rows of an array."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae._core.checks import refusal, require
from pyro_vae._core.files import open_regular
from pyro_vae.data.mapped import changed, stamp_of

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_GREY = ("1", "L", "LA")
_COLOUR = ("P", "RGB", "RGBA", "CMYK", "YCbCr")


@dataclass(frozen=True)
class FolderRows:
    """Image files of one size as the rows of an array, decoded at every call.

    Attributes:
        root: the folder.
        names: of the files, relative to ``root``.
        shape: ``(N, C, H, W)``, with C, H and W of the first image.
        stamps: size and time stamp of every file when the folder was opened, ``(N, 2)``.
        owner: name that messages begin with.
    """

    root: Path
    names: list[str]
    shape: tuple[int, ...]
    stamps: np.ndarray
    owner: str
    since: int

    @classmethod
    def open(cls, root: Path, names: list[str], *, owner: str) -> FolderRows:
        """Open the files; the first is read."""
        since, first = time.time_ns(), read_image(root / names[0], owner=owner)
        stamps = np.array([stamp_of(root / name) for name in names])
        return cls(root.resolve(), names, (len(names), *first.shape), stamps, owner, since)

    @property
    def files(self) -> Iterable[Path]:
        """The files."""
        return (self.root / name for name in self.names)

    @property
    def layout(self) -> str:
        """Shape of the array."""
        return str(self.shape)

    def rows(self, index: np.ndarray) -> np.ndarray:
        """Decode the images at ``index``, uint8 ``(B, C, H, W)``.

        Raises:
            OSError: a file is missing or unreadable.
            ValueError: a file is damaged, of another size than the first one, or has changed since it was opened.
        """
        rows = np.empty((len(index), *self.shape[1:]), np.uint8)
        for row, i in zip(rows, index.tolist(), strict=True):
            row[...] = self._image(i)
        return rows

    def _image(self, i: int) -> np.ndarray:
        path = self.root / self.names[i]
        image, stamp = read_image(path, owner=self.owner), stamp_of(path)
        if stamp != tuple(self.stamps[i]):
            raise changed(path, self.owner, stamp, tuple(self.stamps[i].tolist()))
        shapes = f"{self.names[0]} of (C, H, W)={self.shape[1:]} and {self.names[i]} of (C, H, W)={image.shape}"
        same = image.shape == self.shape[1:]
        require(same, self.owner, "images must share one size", shapes, "Resize or convert them")
        return image


def open_folder(root: Path, *, owner: str) -> dict[str, Any]:
    """Find all png, jpg and bmp images under ``root``, in the order of their names.

    Args:
        root: folder of images, or of one sub-folder of images per class: the classes, sorted by name, are labelled
            0, 1, ... Other files and hidden ones are ignored.
        owner: class named in the errors.

    Returns:
        ``images``, :class:`FolderRows` with C = 1 for grey and 3 for colour; their ``names``, relative to ``root``; and
        of sub-folders ``labels``, ``(N,)``.

    Raises:
        ValueError: no images, or an unreadable first image.
    """
    classes = {f.name: _images(f) for f in sorted(root.iterdir()) if f.is_dir() and not f.name.startswith(".")}
    classes = {name: files for name, files in classes.items() if files}
    top = _images(root)
    _check_folder(root, top, list(classes), owner)
    files = top or [file for group in classes.values() for file in group]
    names = [file.relative_to(root).as_posix() for file in files]
    arrays: dict[str, Any] = {"images": FolderRows.open(root, names, owner=owner), "names": names}
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
