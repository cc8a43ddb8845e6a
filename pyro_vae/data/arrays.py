"""Safe reading of numpy files, and checks of their arrays of images and labels."""

from __future__ import annotations

import contextlib
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae._core.checks import refusal, require
from pyro_vae._core.files import open_regular

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_MAX_LABEL = 100_000  # tables and figures list all classes up to the largest
_MAX_RATIO, _SMALL = 100, 100_000_000  # of compression, beyond a number of bytes: greater ones fill the memory
_DAMAGE = (
    tokenize.TokenError,
    OSError,
    ValueError,
    EOFError,
    KeyError,
    NotImplementedError,
    SyntaxError,
    TypeError,
    OverflowError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(
    path: Path, *, owner: str, layouts: Sequence[Sequence[str]], optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Read the arrays of the first layout whose keys the file holds, and the optional ones; nothing is unpickled.

    Args:
        path: the ``.npz`` file.
        owner: class named in the errors.
        layouts: alternative lists of keys.
        optional: keys that are read if the file holds them.

    Raises:
        OSError: the file is missing, unreadable, or not a regular file.
        ValueError: the file is damaged, holds pickled objects, or lacks the keys of every layout.
    """
    with open_regular(path) as file:
        if not zipfile.is_zipfile(file):
            raise _damaged(path, owner, "npz")
        with _readable(path, owner, "npz"):
            archive = zipfile.ZipFile(file)
            names = [name.removesuffix(".npy") for name in archive.namelist()]
        keys = [*_layout(names, path, owner, layouts), *(k for k in optional if k in names)]
        arrays = {}
        for key in keys:
            with _readable(path, owner, "npz", key):
                info = archive.getinfo(f"{key}.npy")
                if info.file_size > _MAX_RATIO * info.compress_size + _SMALL:
                    raise ValueError(f"{info.file_size} bytes from {info.compress_size}")
                with archive.open(info) as member:
                    arrays[key] = _array(member, info.file_size)
    return arrays


def npz_keys(path: Path, *, owner: str) -> list[str]:
    """The names of the arrays in an ``.npz`` file.

    Raises:
        OSError: the file is missing, unreadable, or not a regular file.
        ValueError: the file is damaged.
    """
    with open_regular(path) as file:
        if not zipfile.is_zipfile(file):
            raise _damaged(path, owner, "npz")
        with _readable(path, owner, "npz"):
            return [name.removesuffix(".npy") for name in zipfile.ZipFile(file).namelist()]


def read_npy(path: Path, *, owner: str) -> np.ndarray:
    """Read an ``.npy`` file; nothing is unpickled.

    Raises:
        OSError: the file is missing, unreadable, or not a regular file.
        ValueError: the file is damaged or holds pickled objects.
    """
    with open_regular(path) as file, _readable(path, owner, "npy"):
        return _array(file, os.fstat(file.fileno()).st_size)


def read_npy_header(path: Path, *, owner: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Read shape, whether the order is Fortran's, dtype and the position of the first byte of an ``.npy`` file's array.

    Raises:
        OSError: the file is missing, unreadable, or not a regular file.
        ValueError: the file is damaged or truncated, or holds pickled objects.
    """
    with open_regular(path) as file, _readable(path, owner, "npy"):
        size = os.fstat(file.fileno()).st_size
        shape, fortran, dtype = _header(file, size)
        if file.tell() + math.prod(shape) * dtype.itemsize != size:
            raise ValueError(f"shape {shape} in {size} bytes")
        return shape, fortran, dtype, file.tell()


def _array(file: Any, size: int) -> np.ndarray:
    """Read the array of an ``.npy`` file of ``size`` bytes."""
    shape, fortran, dtype = _header(file, size)
    count = math.prod(shape)
    content = bytearray(file.read(count * dtype.itemsize + 1))
    if len(content) != count * dtype.itemsize:
        raise ValueError(f"{len(content)} bytes for {count * dtype.itemsize}")
    return np.ndarray(shape, dtype, content, order="F" if fortran else "C")


def _header(file: Any, size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the order is Fortran's, and dtype of an array that fits into ``size`` bytes."""
    version = np.lib.format.read_magic(file)
    read_header = _HEADERS.get(version)
    if read_header is None:
        raise ValueError(f"version {version}")
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded")
    count = math.prod(shape)
    if not all(type(length) is int and length >= 0 for length in shape) or count * dtype.itemsize > size:
        raise ValueError(f"shape {shape} in {size} bytes")
    return shape, fortran, dtype


def are_numbers(data: Any) -> bool:
    """Whether nested lists end in numbers."""
    while isinstance(data, list) and data:
        data = data[0]
    return isinstance(data, int | float)


def as_images(array: np.ndarray, positions: np.ndarray | None = None, *, owner: str, name: str) -> Tensor:
    """Convert an array to images: ``(N, H, W)`` to ``(N, 1, H, W)``, integers to uint8; floats keep their dtype.

    Args:
        array: the images.
        positions: their positions in the whole array, by which errors name them, if they are a part of it.
        owner: class named in the errors.
        name: of the array.

    Raises:
        ValueError: another number of dimensions, zero-length data, integers outside 0..255, NaN or infinite pixels, or
            an array that does not hold numbers.
    """
    check_shape(array, owner, name)
    if array.dtype.kind == "f":
        images = _floating(array, positions, owner, name)
    elif array.dtype.kind in "biu":
        images = _integer(array, owner, name)
    else:
        raise _not_numbers(owner, name, str(array.dtype))
    return images.unsqueeze(1) if array.ndim == 3 else images


def check_array(array: np.ndarray, positions: np.ndarray | None = None, *, owner: str, name: str) -> None:
    """Require an array of numbers ``(N, D)``, ``(N, H, W)`` or ``(N, C, H, W)`` without infinite ones; NaN is allowed.

    Args:
        array: the array, or a part of it.
        positions: of the rows in the whole array, by which errors name them; None if it is whole.
        owner: name that errors begin with.
        name: of the array.

    Raises:
        ValueError: another number of dimensions, zero-length data, channels last, infinite or missing values alone, or
            an array that does not hold numbers.
    """
    check_shape(array, owner, name)
    if array.dtype.kind not in "biuf":
        raise _not_numbers(owner, name, str(array.dtype))
    if array.dtype.kind == "f":
        bad = np.isinf(array).reshape(len(array), -1).any(1)  # (N,)
        if bad.any():
            first = int(bad.argmax() if positions is None else positions[bad].min())
            value = f"infinite values in {int(bad.sum())} of them, the first at index {first}"
            raise refusal(owner, f"{name} must be finite", value, "Remove or repair them")
        require(not np.isnan(array).all(), owner, f"{name} must hold numbers", "NaN alone", "Check the file")


def as_labels(array: np.ndarray, count: int, *, owner: str, name: str) -> Tensor:
    """Convert an array to int64 labels ``(count,)``.

    Raises:
        ValueError: another shape, or labels that are not integers in -1..100000.
    """
    right = array.dtype.kind in "iu" and array.shape == (count,)
    value, advice = f"{array.dtype} of shape={array.shape}", "Save one integer class per image, or omit the labels"
    require(right, owner, f"{name} must be {count} integers, one per image", value, advice)
    low, high = (int(array.min()), int(array.max())) if count else (0, 0)
    rule, got = f"{name} must be classes numbered from 0 to at most {_MAX_LABEL}, or -1", f"{low}..{high}"
    require(low >= -1 and high <= _MAX_LABEL, owner, rule, got, "Number the classes from 0")
    return torch.from_numpy(array.astype(np.int64))


def _layout(keys: Sequence[str], path: Path, owner: str, layouts: Sequence[Sequence[str]]) -> Sequence[str]:
    for layout in layouts:
        if set(layout) <= set(keys):
            return layout
    choices = " or ".join(" and ".join(layout) for layout in layouts)
    advice = f"Save it with np.savez(path, {layouts[0][0]}=array)"
    raise refusal(owner, f"{path} must hold the keys {choices}", f"keys={sorted(keys)}", advice)


@contextlib.contextmanager
def _readable(path: Path, owner: str, kind: str, key: str = "the array") -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        if "Object arrays cannot be loaded" in str(error):  # numpy raises a plain ValueError
            raise _not_numbers(owner, f"{key} in {path}", "pickled objects") from None
        raise _damaged(path, owner, kind) from error


def _damaged(path: Path, owner: str, kind: str) -> ValueError:
    value = f"one of {path.stat().st_size} bytes that is truncated or of another format"
    advice = f"Save it again with {'np.savez' if kind == 'npz' else 'np.save'}"
    return refusal(owner, f"{path} must be a whole .{kind} file", value, advice)


def _not_numbers(owner: str, name: str, kind: str) -> ValueError:
    advice = "Save it as one uint8 or floating array; objects are never unpickled"
    return refusal(owner, f"{name} must hold numbers", kind, advice)


def check_shape(array: np.ndarray, owner: str, name: str) -> None:
    """Require data in rows, a table or images with their channels first."""
    shape = f"shape={array.shape}"
    require(array.ndim in (2, 3, 4), owner, f"{name} must be (N, D), (N, H, W) or (N, C, H, W)", shape)
    require(array.size > 0, owner, f"{name} must hold at least one image", f"zero-length data of {shape}")
    channels_last = array.ndim == 4 and array.shape[1] > 4 and array.shape[3] in (1, 3, 4)
    advice = "Save it transposed, array.transpose(0, 3, 1, 2)"
    require(not channels_last, owner, f"{name} must have channels first, (N, C, H, W)", shape, advice)


def _integer(array: np.ndarray, owner: str, name: str) -> Tensor:
    low, high = int(array.min()), int(array.max())
    advice = "Rescale grey levels to bytes, or save counts as floating numbers"
    within = low >= 0 and high <= 255
    require(within, owner, f"integer {name} must lie in 0..255", f"values from {low} to {high}", advice)
    return torch.from_numpy(array.astype(np.uint8))


def _floating(array: np.ndarray, positions: np.ndarray | None, owner: str, name: str) -> Tensor:
    bad = ~np.isfinite(array).reshape(len(array), -1).all(1)  # (N,)
    if bad.any():
        first = int(bad.argmax() if positions is None else positions[bad].min())
        value = f"NaN or infinite pixels in {int(bad.sum())} image(s), the first at index {first}"
        raise refusal(owner, f"{name} must be finite", value, "Remove or repair them")
    # native byte order and at most 8 bytes, which torch requires
    return torch.from_numpy(array.astype(f"=f{min(array.dtype.itemsize, 8)}"))
