"""Results as tables of pandas and xarray, which are optional dependencies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import product
from typing import Any

from torch import Tensor

from pyro_vae._core.checks import refusal
from pyro_vae._core.files import json_ready


def dataframe_of(tensors: Mapping[str, Tensor], layout: Mapping[str, str], entries: Mapping[str, Any]) -> Any:
    """A ``pandas.DataFrame`` with a row per datum and a column per number.

    Args:
        tensors: numbers by name; the rows of the first one are the data.
        layout: as of :class:`~pyro_vae.evaluation.Result`.
        entries: become ``attrs``.
    """
    pandas = _optional("pandas", "Result.to_dataframe")
    rows = _per_datum(tensors, layout)
    columns = {name: value for field, values in rows.items() for name, value in _columns(field, values)}
    table = pandas.DataFrame(columns, index=pandas.RangeIndex(len(next(iter(rows.values()))), name="datum"))
    table.attrs = json_ready(dict(entries))
    return table


def dataset_of(tensors: Mapping[str, Tensor], layout: Mapping[str, str], entries: Mapping[str, Any]) -> Any:
    """An ``xarray.Dataset`` of all tensors; the arguments are those of :func:`dataframe_of`."""
    xarray = _optional("xarray", "Result.to_xarray")
    rows = _per_datum(tensors, layout)
    arrays = {name: (_dims(name, value, name in rows), value.cpu().numpy()) for name, value in tensors.items()}
    return xarray.Dataset(arrays, attrs=_attributes(entries))


def inference_data_of(sites: Mapping[str, Tensor], num_chains: int) -> Any:
    """An ``arviz.InferenceData`` whose ``posterior`` has the dimensions chain, draw, datum and those of a site.

    Args:
        sites: ``(num_draws * num_chains, N, *event)`` by name; consecutive samples are of consecutive chains.
        num_chains: number of chains.
    """
    arviz, xarray = (_optional(name, "PosteriorSamples.to_arviz") for name in ("arviz", "xarray"))
    arrays = {}
    for name, site in sites.items():
        by_chain = site.cpu().unflatten(0, (-1, num_chains)).transpose(0, 1)
        dims = ["chain", "draw", "datum", *(f"{name}_dim_{i}" for i in range(site.dim() - 2))]
        arrays[name] = (dims, by_chain.numpy())
    return arviz.InferenceData(posterior=xarray.Dataset(arrays))


def _optional(name: str, owner: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        advice = "Run pip install 'pyro-vae[results]'"
        raise refusal(owner, f"{name} must be installed", "no such package", advice) from None


def _per_datum(tensors: Mapping[str, Tensor], layout: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors whose rows are those of the first one."""
    letters = {name: shape[0] for shape, names in layout.items() for name in names.split()}
    name, first = next(iter(tensors.items()))
    return {
        other: value.cpu()
        for other, value in tensors.items()
        if value.dim() and len(value) == len(first) and letters.get(other, letters.get(name)) == letters.get(name)
    }


def _columns(field: str, rows: Tensor) -> Iterator[tuple[str, Any]]:
    """The columns of a tensor: ``curve[0]``, ``curve[1]``, ..."""
    for index, column in zip(product(*map(range, rows.shape[1:])), rows.reshape(len(rows), -1).T, strict=True):
        suffix = f"[{', '.join(map(str, index))}]" if index else ""
        yield f"{field}{suffix}", column.numpy()


def _dims(name: str, value: Tensor, is_per_datum: bool) -> list[str]:
    names = [f"{name}_dim_{i}" for i in range(value.dim())]
    return ["datum", *names[1:]] if is_per_datum else names


def _attributes(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Entries that files of xarray can hold; mappings, lists and truth values as JSON."""
    plain = {key: json_ready(value) for key, value in protocol.items()}
    return {k: v if type(v) in (int, float, str) else json.dumps(v) for k, v in plain.items()}
