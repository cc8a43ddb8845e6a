"""Read torch data sets and lists item by item."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import DataLoader, SubsetRandomSampler, WeightedRandomSampler

from pyro_vae._core.checks import require


def read_items(data: Any, *, owner: str) -> tuple[np.ndarray, str, np.ndarray | None, tuple[str, ...]]:
    """Read the items of a torch Dataset, DataLoader or list, each a datum or a tuple of a datum and its class.

    Returns:
        The data ``(N, *data_shape)``, their name, the classes ``(N,)`` if all are integers, and the names of these.

    Raises:
        ValueError: no data, data of several shapes, or a DataLoader of a part of its data set.
    """
    data = _data_set_of(data, owner) if isinstance(data, DataLoader) else data
    items = [data[i] for i in range(len(data))] if hasattr(data, "__len__") else list(data)
    require(bool(items), owner, "data must not be empty", "0 data", "Pass at least one datum")
    pairs = [item if isinstance(item, tuple | list) else (item,) for item in items]
    arrays = [np.asarray(pair[0]) for pair in pairs]
    same = all(array.shape == arrays[0].shape and array.dtype.kind in "biuf" for array in arrays)
    shapes = sorted({f"{array.dtype} {array.shape}" for array in arrays})[:3]
    require(same, owner, "all data must be numbers of one shape", ", ".join(shapes), "Resize or encode them first")
    array = np.stack(arrays)
    if array.ndim == 4 and array.shape[3] in (3, 4) and array.shape[1] > 4:  # of Pillow's images
        array = array.transpose(0, 3, 1, 2)
    labels = np.asarray([pair[1] for pair in pairs if len(pair) > 1])
    has_labels = labels.shape == (len(arrays),) and labels.dtype.kind in "iu"
    return array, "the data set", labels if has_labels else None, tuple(getattr(data, "classes", ()) or ())


def _data_set_of(loader: DataLoader[Any], owner: str) -> Any:
    """The data set of a loader that iterates over all of it."""
    part = isinstance(loader.sampler, SubsetRandomSampler | WeightedRandomSampler)
    advice = "Pass the data set, or Subset(data, indices) for a part of it"
    require(not part, owner, "a DataLoader must iterate over all data", f"a {type(loader.sampler).__name__}", advice)
    return loader.dataset
