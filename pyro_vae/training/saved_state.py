"""Reading and checking of ``state.pt`` and of records of the metrics, which may be damaged or written by others."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from pyro_vae._core.checks import refusal
from pyro_vae._core.files import INFINITE, open_regular

_MAX_THREADS = 1024
_MAPPINGS = {"changed"}  # entries of a record that are no number
_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", dict: "a mapping", list: "a list"}


def read_state(file: Path) -> dict[str, Any]:
    """Read a file of ``torch.save``; nothing in it is executed, and no more memory is taken than it has bytes.

    Raises:
        Exception: of any class; the file is missing, damaged, or of another kind.
    """
    with open_regular(file) as stream:
        with zipfile.ZipFile(stream) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("compressed entries")
            if damaged := archive.testzip():
                raise ValueError(f"damaged entry {damaged}")
        stream.seek(0)
        state = torch.load(stream, map_location="cpu", weights_only=True)
    size = state.get("metrics_bytes", 0) if isinstance(state, dict) else None
    if type(size) is not int or size < 0:
        raise ValueError("no mapping" if size is None else f"metrics_bytes={size!r:.40}")
    if not isinstance(state.get("config"), str | None):
        raise ValueError("config that is no text")
    return dict(state)


def read_record(line: str) -> dict[str, Any]:
    """A record of ``metrics.jsonl``.

    Raises:
        ValueError: no JSON, no mapping, or an entry that is no number.
    """
    try:
        record = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError(f"a {type(record).__name__} instead of a mapping")
    record = {name: INFINITE.get(value, value) if type(value) is str else value for name, value in record.items()}
    for name, value in record.items():
        if not isinstance(value, int | float | None) and not (isinstance(value, dict) and name in _MAPPINGS):
            raise ValueError(f"{name}={value!r:.40}, which is no number")
    if type(record.get("epoch", 1)) is not int or not 0 < record.get("epoch", 1) < 2**31:
        raise ValueError(f"epoch={record['epoch']!r:.40}")
    return record


def check_state(saved: Mapping[str, Any], fresh: Mapping[str, Any]) -> None:
    """Require entries of the types and shapes that a training of the same model and optimizer has.

    Args:
        saved: the checkpoint.
        fresh: the state of a new training.

    Raises:
        ValueError: naming the entry.
    """
    _match(saved["weights"], {}, "weights")
    for name, tensor in saved["weights"].items():
        _match(tensor, fresh["weights"].get(name, tensor if isinstance(tensor, Tensor) else torch.empty(0)), name)
    for name in ("progress", "has_terms", "average", "objective"):
        if fresh[name] is not None:
            _match(saved.get(name), fresh[name], name)
    for name, value in saved["progress"].items():
        _match(value, 0.0, f"progress.{name}")
    _match(saved["rng"], {"cpu": fresh["rng"]["cpu"]}, "rng")
    _match(saved["best"], {"elbo": 0.0}, "best")
    if saved["best"].get("weights") is not None:
        _match(saved["best"]["weights"], fresh["weights"], "best.weights")
    if saved.get("threads") is not None:
        _match(saved["threads"], 1, "threads")
        if not 1 <= saved["threads"] <= _MAX_THREADS:
            _refuse(f"threads must be in 1..{_MAX_THREADS}", saved["threads"])
    _check_optimizer(saved["optimizer"], fresh)
    start = saved.get("start")
    is_kept = start is None or start["lr_schedule"] == fresh["start"]["lr_schedule"]
    if fresh["lr_schedule"] is not None and is_kept:  # a new one replaces that of the checkpoint
        _match(saved["lr_schedule"], {}, "lr_schedule")
        for name in saved["lr_schedule"].keys() & fresh["lr_schedule"].keys():
            _match(saved["lr_schedule"][name], fresh["lr_schedule"][name], f"lr_schedule.{name}")


def _check_optimizer(saved: Any, fresh: Mapping[str, Any]) -> None:
    """The state of the optimizer has one entry per parameter, with numbers and tensors of the parameter's shape."""
    pairs = zip(fresh["optimizer"]["param_groups"], fresh["start"]["optimizer"], strict=True)
    groups = [{"params": group["params"], **options} for group, options in pairs]  # without those of a schedule
    _match(saved, {"state": {}, "param_groups": groups}, "optimizer")
    shapes = [tuple(tensor.shape) for tensor in fresh["parameters"]]
    for index, values in saved["state"].items():
        name = f"optimizer.state.{index}"
        if type(index) is not int or not 0 <= index < len(shapes):
            _refuse(f"{name} must be that of one of {len(shapes)} parameters", "another")
        _match(values, {}, name)
        for key, value in values.items():
            if not isinstance(value, Tensor | int | float | None):
                _refuse(f"{name}.{key} must be a tensor or a number", _described(value))
            if isinstance(value, Tensor) and tuple(value.shape) not in ((), shapes[index]):
                _refuse(f"{name}.{key} must be of shape {shapes[index]}", tuple(value.shape))


def _match(value: Any, expected: Any, name: str) -> None:
    """Require the type, and of tensors the shape, of an expected value; None matches anything."""
    if isinstance(expected, Tensor):
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            _refuse(f"{name} must be a tensor", _described(value))
        if value.shape != expected.shape or value.dtype.is_floating_point != expected.dtype.is_floating_point:
            rule = f"{name} must be {expected.dtype} of shape {tuple(expected.shape)}"
            _refuse(rule, f"{value.dtype} of shape {tuple(value.shape)}")
    elif isinstance(expected, dict):
        if not isinstance(value, dict):
            _refuse(f"{name} must be a mapping", _described(value))
        if missing := [key for key in expected if key not in value]:
            _refuse(f"{name} must have the entry {missing[0]!r}", "none")
        for key, entry in expected.items():
            _match(value[key], entry, f"{name}.{key}")
    elif isinstance(expected, list | tuple):
        if not isinstance(value, list | tuple) or len(value) != len(expected):
            _refuse(f"{name} must be a list of {len(expected)} entries", _described(value))
        for number, (entry, other) in enumerate(zip(value, expected, strict=True)):
            _match(entry, other, f"{name}.{number}")
    elif type(expected) in _KINDS and not _is_like(value, expected):
        _refuse(f"{name} must be {_KINDS[type(expected)]}", _described(value))


def _is_like(value: Any, expected: Any) -> bool:
    if isinstance(expected, bool | str):
        return type(value) is type(expected)
    number = type(value) in (int, float) or (isinstance(value, Tensor) and value.numel() == 1)
    return number and (isinstance(expected, float) or float(value).is_integer())


def _described(value: Any) -> str:
    return f"{value!r:.40}" if type(value) in (bool, int, float, str, type(None)) else f"a {type(value).__name__}"


def _refuse(rule: str, got: object) -> NoReturn:
    raise refusal("RunFolder", f"state.pt: {rule}", f"{got!s:.200}", "Restore it from a copy, or start a new run")
