"""Numpy files read safely, and checked arrays of images and labels made of them."""

from __future__ import annotations

import contextlib
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_DAMAGE = (
    tokenize.TokenError,
    OSError,
    ValueError,
    EOFError,
    KeyError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(
    path: Path, *, owner: str, layouts: Sequence[Sequence[str]], optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The arrays of the first layout whose keys are all there, and the optional ones; nothing is unpickled.

    Args:
        path: of the ``.npz`` file.
        owner: class named in the errors.
        layouts: alternative lists of keys.
        optional: keys that are read where they are there.

    Raises:
        ValueError: for a damaged file, pickled objects, or when no layout is there.
    """
    if not zipfile.is_zipfile(path):
        raise _damaged(path, owner, "npz")
    with _readable(path, owner, "npz"):
        archive = np.load(path, allow_pickle=False)
    with archive:
        wanted = [*_layout(archive.files, path, owner, layouts), *(k for k in optional if k in archive.files)]
        arrays = {}
        for key in wanted:
            with _readable(path, owner, "npz", key):
                arrays[key] = archive[key]
    return arrays


def read_npy(path: Path, *, owner: str) -> np.ndarray:
    """The array of an ``.npy`` file; nothing is unpickled.

    Raises:
        ValueError: for a damaged file or pickled objects.
    """
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise _damaged(path, owner, "npy")
    with _readable(path, owner, "npy"):
        return np.load(path, allow_pickle=False)


def as_images(array: np.ndarray, *, owner: str, name: str) -> Tensor:
    """Checked images: ``(N, H, W)`` becomes ``(N, 1, H, W)``; integers become uint8, floats stay floating.

    Raises:
        ValueError: for another number of dimensions, zero-length data, integers outside 0..255, NaN or
            infinite pixels, or an array that holds no numbers.
    """
    _check_shape(array, owner, name)
    if array.dtype.kind == "f":
        images = _floating(array, owner, name)
    elif array.dtype.kind in "biu":
        images = _integer(array, owner, name)
    else:
        raise _not_numbers(owner, name, str(array.dtype))
    return images.unsqueeze(1) if array.ndim == 3 else images


def as_labels(array: np.ndarray, count: int, *, owner: str, name: str) -> Tensor:
    """Checked labels ``(count,)``, int64.

    Raises:
        ValueError: for another shape, or labels that are not integers.
    """
    if array.dtype.kind not in "iu" or array.shape != (count,):
        raise ValueError(
            f"{owner}: {name} must be {count} integers, one per image, got {array.dtype} of "
            f"shape={array.shape}. Save one integer class per image, or leave {name} out."
        )
    return torch.from_numpy(array.astype(np.int64))


def _layout(keys: Sequence[str], path: Path, owner: str, layouts: Sequence[Sequence[str]]) -> Sequence[str]:
    for layout in layouts:
        if set(layout) <= set(keys):
            return layout
    choices = " or ".join(" and ".join(layout) for layout in layouts)
    raise ValueError(
        f"{owner}: {path} must hold the keys {choices}, got keys={sorted(keys)}. Save it with "
        f"np.savez(path, {layouts[0][0]}=array)."
    )


@contextlib.contextmanager
def _readable(path: Path, owner: str, kind: str, key: str = "the array") -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        if "Object arrays cannot be loaded" in str(error):  # numpy gives them no class of their own
            raise _not_numbers(owner, f"{key} in {path}", "pickled objects") from None
        raise _damaged(path, owner, kind) from error


def _damaged(path: Path, owner: str, kind: str) -> ValueError:
    return ValueError(
        f"{owner}: {path} must be a whole .{kind} file, got one of {path.stat().st_size} bytes that is "
        f"truncated or of another format. Save it again with {'np.savez' if kind == 'npz' else 'np.save'}."
    )


def _not_numbers(owner: str, name: str, found: str) -> ValueError:
    return ValueError(
        f"{owner}: {name} must hold numbers, got {found}. Save it as one uint8 or floating array; objects "
        "are never unpickled."
    )


def _check_shape(array: np.ndarray, owner: str, name: str) -> None:
    if array.ndim not in (2, 3, 4):
        raise ValueError(
            f"{owner}: {name} must be (N, D), (N, H, W) or (N, C, H, W), got shape={array.shape}. Reshape the array."
        )
    if array.size == 0:
        raise ValueError(
            f"{owner}: {name} must hold at least one image, got zero-length data of shape={array.shape}. "
            "Save at least one image."
        )
    if array.ndim == 4 and array.shape[1] > 4 and array.shape[3] in (1, 3, 4):
        raise ValueError(
            f"{owner}: {name} must have channels first, (N, C, H, W), got shape={array.shape}. Save "
            f"{name}.transpose(0, 3, 1, 2)."
        )


def _integer(array: np.ndarray, owner: str, name: str) -> Tensor:
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 255:
        raise ValueError(
            f"{owner}: integer {name} must lie in 0..255, got values from {low} to {high}. Rescale them to "
            "bytes, or save them as floating numbers."
        )
    return torch.from_numpy(array.astype(np.uint8))


def _floating(array: np.ndarray, owner: str, name: str) -> Tensor:
    bad = ~np.isfinite(array).reshape(len(array), -1).all(1)  # (N,)
    if bad.any():
        raise ValueError(
            f"{owner}: {name} must be finite, got NaN or infinite pixels in {int(bad.sum())} image(s), the "
            f"first at index {int(bad.argmax())}. Remove or repair them."
        )
    # native byte order, and at most 8 bytes: torch knows no other floats
    return torch.from_numpy(array.astype(f"=f{min(array.dtype.itemsize, 8)}"))
