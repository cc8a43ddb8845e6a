"""Frey Faces: 1965 video frames of one face."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from pyro_vae._core.checks import require
from pyro_vae.data.arrays import read_npz
from pyro_vae.data.base import Dataset, RawArrays
from pyro_vae.data.binarization import Binarization
from pyro_vae.data.splitting import TEST_SEED, hold_out

_SHAPE = (1965, 28, 20)


class FreyFaces(Dataset):
    """The 1965 grey 28 x 20 faces, split 1565 / 200 / 200; the test images are the same for every ``seed``.

    Args:
        root: folder with ``FreyFaces/frey_faces.npz`` or ``frey_faces.npz``, or the file itself, with the key
            ``images``, uint8 ``(1965, 28, 20)``; ``None`` is ``"data"``.
        binarize: ``"dynamic"``, at random for every batch; ``"fixed"``, at random once; ``"threshold"``, at one half;
            ``"none"``, grey levels in [0, 1], as published.
        validation: number of the 1765 training images held out.
        seed: seed of the validation split and of fixed binarization.
        context: see :class:`Dataset`.

    Shape:
        ``data_shape`` is ``(1, 28, 20)``, ``max_value`` is 255.

    Raises:
        FileNotFoundError: by ``load``, if none of these files exists.
        ValueError: by ``load``, if the file is damaged or holds other arrays.

    References:
        "VAE with a VampPrior" (Tomczak and Welling, 2018), https://arxiv.org/abs/1705.07120, uses these
        sizes; it permutes the images by numpy, this package by torch.

    Example:
        >>> FreyFaces(seed=1)
        FreyFaces(root='data', binarize='none', validation=200, seed=1)
    """

    def __init__(
        self,
        root: str | PathLike[str] | None = None,
        *,
        binarize: Binarization = "none",
        validation: int = 200,
        seed: int = 0,
        context: str | None = None,
    ) -> None:
        root = "data" if root is None else root
        super().__init__(root, binarize=binarize, validation=validation, seed=seed, context=context)

    def raw(self) -> RawArrays:
        path = _find(Path(os.path.expanduser(self.root or "data")))
        array = read_npz(path, owner="FreyFaces", layouts=(("images",),))["images"]
        right = array.shape == _SHAPE and array.dtype == np.uint8
        value, advice = f"{array.dtype} of shape={array.shape} in {path}", "Use Files(root) for other images"
        require(right, "FreyFaces", f"images must be uint8 of shape {_SHAPE}", value, advice)
        images = torch.from_numpy(array).unsqueeze(1)  # (1965, 1, 28, 20)
        kept, test = hold_out(len(images), 200, seed=TEST_SEED, name="test")
        return RawArrays(images[kept], None, images[test], None, 255, rows=(kept, test))


def _find(root: Path) -> Path:
    paths = (root, root / "FreyFaces" / "frey_faces.npz", root / "frey_faces.npz")
    for path in paths:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"FreyFaces: the file must be {paths[1]}, {paths[2]} or root itself, got root={str(root)!r}. Save the frames "
        "of https://cs.nyu.edu/~roweis/data/frey_rawface.mat there, as images=uint8 (1965, 28, 20)."
    )
