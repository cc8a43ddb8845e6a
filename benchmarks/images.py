"""The training images: a pool of different batches, binarized in advance.

Training on a single batch would memorise it, with denormal gradients, which slow down every step.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from pyro_vae import MNIST, Digits
from pyro_vae.data import ImageSet

POOL = 100
IMAGES = 60_000  # as many as MNIST: at batch size 8192 the pool has 7 batches


def load(root: str | None, *, test: bool = False) -> tuple[str, ImageSet]:
    """The name and the images of MNIST, if in ``root``, or else of scikit-learn's digits, enlarged to 28 x 28."""
    if root is not None and (Path(root) / "MNIST" / "raw").is_dir():
        splits = MNIST(root, validation=0).load()
        return "MNIST", splits.test if test else splits.train
    splits = Digits(validation=0).load()
    digits = splits.test if test else splits.train
    large = digits.images.repeat_interleave(3, -1).repeat_interleave(3, -2)  # (N, 1, 24, 24)
    return "Digits enlarged to 28 x 28", ImageSet(pad(large, (2, 2, 2, 2)), max_value=digits.max_value, dynamic=True)


def pool(images: ImageSet, batch: int, shape: tuple[int, ...], *, size: int = POOL, seed: int = 0) -> Tensor:
    """Batches of images in random order, binarized at random, ``(P, batch, *shape)``."""
    size = max(1, min(size, IMAGES // batch))
    generator = torch.Generator().manual_seed(seed)
    rounds = range(-(-size * batch // len(images)))
    order = torch.cat([torch.randperm(len(images), generator=generator) for _ in rounds])[: size * batch]
    x = images.batch(order, dtype=torch.float32, generator=generator)
    return x.reshape(size, batch, *shape)
