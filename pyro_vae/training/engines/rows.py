"""The rows of a batch that one of several processes computes."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from pyro_vae._core.distributed import Ranks
from pyro_vae._core.shared_random import Share
from pyro_vae.data.batches import Batch


class BatchRows(NamedTuple):
    """One process's rows of a batch.

    Attributes:
        args: these rows of the arguments of a program.
        indices: their positions in the data set; None if unknown.
        share: the rows as :class:`~pyro_vae._core.shared_random.SharedRandom` takes them; None for all rows.
    """

    args: tuple[Any, ...]
    indices: Tensor | None
    share: Share | None


def count_rows(batch: Batch, ranks: Ranks) -> int:
    """Number of rows of the batch that fall to this process."""
    return len(ranks.share(len(batch)))


def take_rows(batch: Batch, ranks: Ranks) -> BatchRows:
    """This process's rows of a batch; the arguments of the whole batch are fetched first.

    Example:
        >>> import torch
        >>> batch = Batch((torch.arange(5.0),))
        >>> [take_rows(batch, Ranks(rank, 2)).args[0].tolist() for rank in range(2)]
        [[0.0, 1.0], [2.0, 3.0, 4.0]]
    """
    if ranks.alone:
        return BatchRows(batch.args, batch.index, None)
    rows = ranks.share(len(batch))
    indices = None if batch.index is None else batch.index[rows.start : rows.stop]
    return BatchRows(batch.axes.take(batch.args, rows), indices, Share(rows.start, len(rows), len(batch)))
