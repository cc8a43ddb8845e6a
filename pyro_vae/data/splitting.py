"""Seeded random streams and splits that do not change the global random state."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

TEST_SEED = 0  # of the test split of a data set without one, whatever the user's seed


def stream(seed: int, name: str) -> torch.Generator:
    """A CPU generator that depends only on ``(seed, name)``; different names give independent streams.

    Example:
        >>> import torch
        >>> a, b = (torch.rand(3, generator=stream(0, "test")) for _ in range(2))
        >>> bool((a == b).all())
        True
    """
    return torch.Generator(device="cpu").manual_seed(stream_seed(seed, name))


def stream_seed(seed: int, name: str) -> int:
    """The 32-bit seed of the stream of that name."""
    # hashed, since torch's CPU generator keeps 32 bits of a seed, and seed + k would share streams between seeds
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "big")


def hold_out(count: int, size: int, *, seed: int, name: str) -> tuple[Tensor, Tensor]:
    """Split the positions ``0..count-1`` by a seeded permutation; both results are in ascending order.

    Args:
        count: number of images.
        size: number of images to hold out.
        seed: seed of the permutation.
        name: name of the stream, so that two splits with one seed are independent.

    Returns:
        The positions kept, ``(count - size,)``, and those held out, ``(size,)``.

    Example:
        >>> kept, held = hold_out(10, 3, seed=0, name="test")
        >>> len(kept), len(held)
        (7, 3)
    """
    order = torch.randperm(count, generator=stream(seed, name), device="cpu")
    return order[size:].sort().values, order[:size].sort().values
