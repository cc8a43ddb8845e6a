"""The machine that a computation runs on, and the versions of its software, for protocols."""

from __future__ import annotations

import platform
from contextlib import suppress
from functools import cache
from pathlib import Path

import pyro
import torch


def machine_entries(device: torch.device) -> dict[str, str]:
    """The names of the processor or accelerator and of the system, and the versions of Python and Pyro.

    Args:
        device: of the tensors that are computed.

    Returns:
        the entries ``machine``, ``system``, ``python`` and ``pyro-ppl``; the version of torch is an entry of every
        file of weights.

    Example:
        >>> list(machine_entries(torch.device("cpu")))
        ['machine', 'system', 'python', 'pyro-ppl']
    """
    name = f"{processor()}, threads: {torch.get_num_threads()}"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type != "cpu":
        name = f"{name}; {device.type}"
    system = f"{platform.system()} {platform.machine()}"
    return {"machine": name, "system": system, "python": platform.python_version(), "pyro-ppl": pyro.__version__}


@cache
def processor(info: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model name, or its architecture if the system has no such name.

    Args:
        info: Linux's description of the processors.
    """
    with suppress(OSError, UnicodeDecodeError, StopIteration):
        lines = (line.partition(":") for line in info.read_text().splitlines())
        return next(value.strip() for key, _, value in lines if key.strip() == "model name")
    return platform.processor() or platform.machine()
