"""MNIST, read by torchvision."""

from __future__ import annotations

import contextlib
import io
import math
import os
from os import PathLike
from pathlib import Path
from typing import Any

from pyro_vae._core.checks import require
from pyro_vae._core.files import open_regular
from pyro_vae._core.fingerprint import fingerprint_of
from pyro_vae.data.base import Dataset, RawArrays
from pyro_vae.data.binarization import Binarization

_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


_FASHION = {"train": "80e7100602306a15", "test": "72e555a8b3b4c6ac"}  # of the first 1000 images


class MNIST(Dataset):
    """The 60000 + 10000 hand-written 28 x 28 digits, in torchvision's layout.

    Args:
        root: folder that contains ``MNIST/raw``; ``None`` is ``"data"``. If one of the four idx files is missing, they
            are downloaded there; otherwise nothing is written.
        binarize: ``"dynamic"``, at random for every batch; ``"fixed"``, at random once; ``"threshold"``, at one half;
            ``"none"``, grey levels in [0, 1].
        validation: number of the 60000 training images held out.
        seed: seed of the validation split and of fixed binarization.
        labels, label_seed, context: see :class:`Dataset`.

    Shape:
        ``data_shape`` is ``(1, 28, 28)``, ``max_value`` is 255.

    Raises:
        FileNotFoundError: by ``load``, if a file is missing and cannot be downloaded.
        OSError: by ``load``, if a file is unreadable or not a regular file.
        ValueError: by ``load``, if a file is truncated, not an idx file, or of Fashion-MNIST.

    References:
        "Gradient-based learning applied to document recognition" (LeCun, Bottou, Bengio and Haffner, 1998),
        https://doi.org/10.1109/5.726791.

    Example:
        >>> MNIST(binarize="fixed")
        MNIST(root='data', binarize='fixed', validation=10000, seed=0)
    """

    def __init__(
        self,
        root: str | PathLike[str] | None = None,
        *,
        binarize: Binarization = "dynamic",
        validation: int = 10000,
        seed: int = 0,
        labels: int | None = None,
        label_seed: int = 0,
        context: str | None = None,
    ) -> None:
        root = "data" if root is None else root
        options: dict[str, Any] = {"labels": labels, "label_seed": label_seed, "context": context}
        super().__init__(root, binarize=binarize, validation=validation, seed=seed, **options)

    def raw(self) -> RawArrays:
        from torchvision.datasets import mnist as torchvision  # whose MNIST would prefer processed files to raw ones

        folder = Path(os.path.expanduser(self.root or "data"))
        files = [folder / "MNIST" / "raw" / name for name in _FILES]
        if not all(file.exists() for file in files):
            _download(torchvision.MNIST, folder, self.may_download)
        for file in files:
            _check_idx(file)
        for image_file, label_file in (files[:2], files[2:]):
            counts = _count(image_file), _count(label_file)
            rule = f"{image_file} and {label_file.name} must have as many images as labels"
            require(counts[0] == counts[1], "MNIST", rule, f"{counts[0]} and {counts[1]}", "Copy both again")
        images = [torchvision.read_image_file(str(file)).unsqueeze(1) for file in files[::2]]
        labels = [torchvision.read_label_file(str(file)) for file in files[1::2]]
        raw = RawArrays(images[0], labels[0], images[1], labels[1], 255, files=files)
        for split, first in (("train", raw.train[:1000]), ("test", raw.test[:1000])):
            other = fingerprint_of({"images": first}) == _FASHION[split]
            got = f"the {split} images of Fashion-MNIST in {files[0].parent}"
            advice = "Read them by Files from an npz file"
            require(not other, "MNIST", "the files must be those of MNIST", got, advice)
        return raw


def _download(torchvision_mnist: type, folder: Path, allowed: bool) -> None:
    if not allowed:
        raise FileNotFoundError(
            f"MNIST: the files {', '.join(_FILES)} must lie in {folder / 'MNIST' / 'raw'}, got root={str(folder)!r} "
            "from a run folder or a configuration, to which nothing is downloaded. Specify the folder of the data with "
            "--root (train: --data.root), or add --data.download true to train."
        )
    quiet = io.StringIO()  # suppresses torchvision's progress bars and prints
    try:
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            torchvision_mnist(str(folder), download=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"MNIST: the files {', '.join(_FILES)} must lie in {folder / 'MNIST' / 'raw'} or be downloadable, got "
            f"root={str(folder)!r} and a failed download ({_one_line(error)}). Put the four files there, or pass as "
            "root the folder that contains MNIST/raw."
        ) from error


def _check_idx(file: Path) -> None:
    """The idx format: magic 0x0801 (labels) or 0x0803 (images), one 4-byte size per dimension, then bytes."""
    dims = 3 if "idx3" in file.name else 1
    with open_regular(file) as stream:
        head = stream.read(4 * (1 + dims))
    fields = [int.from_bytes(head[i : i + 4], "big") for i in range(0, 4 * (1 + dims), 4)]
    size = 4 * (1 + dims) + math.prod(fields[1:])
    whole = fields[0] == 0x0800 + dims and file.stat().st_size == size
    rule = f"{file} must be a whole idx file with {dims} dimension(s)"
    value = f"one that is truncated or damaged ({file.stat().st_size} bytes)"
    require(whole, "MNIST", rule, value, "Delete it and load again to download it, or copy it again")


def _count(file: Path) -> int:
    """The number of images or labels of an idx file."""
    with open_regular(file) as stream:
        return int.from_bytes(stream.read(8)[4:], "big")


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
