"""Images from a user's npz or npy file, or from a folder of image files."""

from __future__ import annotations

import math
import os
import warnings
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from pyro_vae._core.checks import check_count, refusal, require
from pyro_vae.data.arrays import as_images, as_labels, read_npy, read_npz
from pyro_vae.data.base import Dataset, RawArrays
from pyro_vae.data.binarization import Binarization
from pyro_vae.data.folder import FolderRows, open_folder
from pyro_vae.data.lazy import LazyRows, chunks, default_workers, memory_size
from pyro_vae.data.mapped import NpyRows
from pyro_vae.data.splitting import TEST_SEED, hold_out, hold_out_by_name

_LAYOUTS = (("images",), ("train", "test"))
_MEMORY_SHARE = 1 / 4  # of larger arrays, which are copied when they are split, too much would be taken
_LABELS = ("labels", "train_labels", "test_labels")


class Files(Dataset):
    """Images from a file or folder.

    - ``.npz``: ``images`` with optional ``labels``; or ``train`` and ``test`` with optional ``train_labels``
      and ``test_labels``. ``.npy``: the images.
    - a folder of png, jpg or bmp files, grey or colour, all of one size; sub-folders, sorted by name, are the
      classes 0, 1, ... The splits follow from a hash of each file's name, so that a new file moves no other one.

    Arrays are ``(N, H, W)``, ``(N, C, H, W)`` or ``(N, D)``: integers in 0..255 or floating numbers. Integers
    are grey levels, divided by 255; those with no value above 1 are taken as binary (``max_value`` 1). Counts are saved
    as floating numbers and loaded with ``binarize="none"``. Nothing is ever unpickled.

    Args:
        root: the file or folder.
        binarize: ``"dynamic"``, at random for every batch; ``"fixed"``, at random once; ``"threshold"``, at one half;
            ``"none"``, the values as they are, which counts and floating data outside [0, 1] require.
        validation: number of training images held out; ``None`` is a sixth of them, of a folder about a sixth.
        seed: seed of the validation split and of fixed binarization.
        labels, label_seed, context: see :class:`Dataset`.
        test: number of test images held out if the data have no test split, the same ones for every ``seed``;
            ``None`` is a sixth of all, of a folder about a sixth.
        in_memory: ``False`` reads an npy file or a folder by batches, with the same numbers; of pixels that are sampled
            or thresholded once, one bit each is in memory. ``"auto"`` does so if the images take more than a quarter of
            the machine's memory, and warns.
        num_workers: processes that read ahead if images are read by batches; ``None`` is none for an npy file, and for
            a folder one for each other core, at most four.

    Shape:
        ``data_shape`` is ``(C, H, W)``, or ``(D,)`` for ``(N, D)`` arrays.

    Raises:
        FileNotFoundError: by ``load``, if ``root`` does not exist.
        ValueError: by ``load``, if the file or its arrays cannot be used.

    Example:
        >>> import os, tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "mine.npz")
        ...     np.savez(path, images=np.zeros((60, 4, 4), dtype=np.uint8))
        ...     splits = Files(path, test=10, validation=5).load()
        >>> len(splits.train), len(splits.validation), len(splits.test), splits.data_shape
        (45, 5, 10, (1, 4, 4))
    """

    def __init__(
        self,
        root: str | PathLike[str] | None = None,
        *,
        binarize: Binarization = "dynamic",
        validation: int | None = None,
        seed: int = 0,
        test: int | None = None,
        labels: int | None = None,
        label_seed: int = 0,
        context: str | None = None,
        in_memory: bool | Literal["auto"] = "auto",
        num_workers: int | None = None,
    ) -> None:
        check_count("Files", 0, num_workers=num_workers)
        advice = "Pass an npz or npy file or a folder of images"
        require(root is not None, "Files", "root must be a path", "root=None", advice)
        options: dict[str, Any] = {"labels": labels, "label_seed": label_seed, "context": context}
        super().__init__(root, binarize=binarize, validation=validation, seed=seed, **options)
        self.test, self.in_memory, self.num_workers = test, in_memory, num_workers

    def raw(self) -> RawArrays:
        path = Path(os.path.expanduser(self.root or ""))
        place, arrays = f" in {self.root}", self._read(path)
        if "images" in arrays:
            names = arrays["names"] if self.by_name and "names" in arrays else None
            raw = self._hold_out_test(*_images_and_labels(arrays, "images", "labels", place), names)
            return raw._replace(files=arrays.get("files", [path]))
        require(self.test is None, "Files", "test must be None if the file has a test split", f"test={self.test}")
        train, train_labels = _images_and_labels(arrays, "train", "train_labels", place)
        test, test_labels = _images_and_labels(arrays, "test", "test_labels", place)
        _check_same_kind(train, test)
        return RawArrays(train, train_labels, test, test_labels, _max_value(train, test), files=[path])

    def _read(self, path: Path) -> dict[str, Any]:
        """The arrays of a file or folder by name, its images as :class:`LazyRows` if they are read by batches."""
        arrays: dict[str, Any] = {}
        if path.is_dir():
            arrays = open_folder(path, owner="Files")
            source: NpyRows | FolderRows = arrays["images"]
            if not self._reads_by_batches(math.prod(source.shape)):
                return {**arrays, "files": source.files, "images": source.rows(np.arange(source.shape[0]))}
        elif path.suffix == ".npy" and path.is_file() and self._reads_by_batches(path.stat().st_size):
            source = NpyRows.open(path, owner="Files")
        else:
            rule, advice = "in_memory=False requires an npy file or a folder", "Save the images with np.save"
            require(self.in_memory is not False or path.suffix != ".npz", "Files", rule, f"root={self.root!r}", advice)
            return _read_file(path)
        workers = default_workers() if arrays else 0
        convert = partial(as_images, owner="Files", name=f"images in {self.root}")
        rows = LazyRows.of(source, convert, num_workers=workers if self.num_workers is None else self.num_workers)
        return {**arrays, "files": source.files, "images": rows}

    def _reads_by_batches(self, size: int) -> bool:
        """Whether images of a number of bytes are read by batches; if this is decided here, a warning says so."""
        if self.in_memory != "auto":
            return not self.in_memory
        memory = memory_size()
        if size <= _MEMORY_SHARE * memory:
            return False
        warnings.warn(
            f"Files: {self.root} is read by batches, since its {size / 1e9:.3g} GB of images exceed a quarter of the "
            f"{memory / 1e9:.3g} GB of memory; in_memory=True reads it at once, in_memory=False omits this line.",
            stacklevel=2,
        )
        return True

    def _hold_out_test(self, images: Tensor | LazyRows, labels: Tensor | None, names: list[str] | None) -> RawArrays:
        count = len(images)
        size = max(1, count // 6) if self.test is None else self.test
        rule = f"test must be at least 1 and less than the {count} images"
        require(1 <= size < count, "Files", rule, f"test={size}")
        if names is None:
            kept, test = hold_out(count, size, seed=TEST_SEED, name="test")
        else:
            kept, test = hold_out_by_name(names, self.test, seed=TEST_SEED, name="test")
        kept_labels, test_labels = (None, None) if labels is None else (labels[kept], labels[test])
        arrays = images[kept], kept_labels, images[test], test_labels, _max_value(images)
        train_names = None if names is None else [names[i] for i in kept]
        return RawArrays(*arrays, rows=(kept, test), train_names=train_names)


def _read_file(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        raise FileNotFoundError(
            f"Files: root must be an npz or npy file or a folder of images, got root={str(path)!r}, which does not "
            f"exist. Check the path; it is relative to {os.getcwd()}."
        )
    if path.suffix == ".npz":
        return read_npz(path, owner="Files", layouts=_LAYOUTS, optional=_LABELS)
    if path.suffix == ".npy":
        return {"images": read_npy(path, owner="Files")}
    rule, advice = "root must end in .npz or .npy or be a folder", "Save the images with np.savez"
    raise refusal("Files", rule, f"root={str(path)!r}", advice)


def _images_and_labels(
    arrays: dict[str, Any], name: str, labels_name: str, place: str
) -> tuple[Tensor | LazyRows, Tensor | None]:
    images = arrays[name]
    images = images if isinstance(images, LazyRows) else as_images(images, owner="Files", name=name + place)
    if labels_name not in arrays:
        return images, None
    return images, as_labels(arrays[labels_name], len(images), owner="Files", name=labels_name + place)


def _check_same_kind(train: Tensor | LazyRows, test: Tensor | LazyRows) -> None:
    same = train.shape[1:] == test.shape[1:] and train.is_floating_point() == test.is_floating_point()
    value = f"train={train.dtype} {tuple(train.shape)}, test={test.dtype} {tuple(test.shape)}"
    require(same, "Files", "train and test must share image shape and kind of number", value)


def _max_value(*splits: Tensor | LazyRows) -> int:
    if splits[0].is_floating_point():
        return 1
    return 255 if any(int(part.max()) > 1 for split in splits for part in chunks(split)) else 1
