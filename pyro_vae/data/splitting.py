"""Seeded random streams and splits that do not change the global random state."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

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


def hold_out_by_name(files: Sequence[str], size: int | None, *, seed: int, name: str) -> tuple[Tensor, Tensor]:
    """Split files by a hash of their names, so that a new file moves no other one.

    Args:
        files: distinct names.
        size: number of files to hold out, those of the smallest hashes, of which a new file may replace one; None for
            the files whose hash is below a sixth of its range, at least one if another one is kept.
        seed: hashed with the names.
        name: of the split, hashed too.

    Returns:
        The positions kept and those held out, each in ascending order.

    Example:
        >>> [len(part) for part in hold_out_by_name([f"{i}.png" for i in range(100)], None, seed=0, name="test")]
        [81, 19]
    """
    hashes = [hashlib.sha256(f"{seed}/{name}/{file}".encode()).digest()[:8] for file in files]
    ranks = torch.tensor([int.from_bytes(digest, "big") / 2**64 for digest in hashes], dtype=torch.float64)
    if size is None:
        size = min(max(1, int((ranks < 1 / 6).sum())), len(files) - 1)
    order = ranks.argsort()
    return order[size:].sort().values, order[:size].sort().values
