"""Choice of the device that a process computes on."""

from __future__ import annotations

from typing import Literal

import torch

from pyro_vae._core.checks import require
from pyro_vae._core.distributed import local_rank

Device = Literal["auto", "cpu", "cuda"]


def choose_device(name: Device) -> torch.device:
    """The device of a name; ``"auto"`` is this process's GPU, or the CPU if there is no GPU.

    Raises:
        ValueError: CUDA is requested but not available.
    """
    available = torch.cuda.is_available()
    require(name != "cuda" or available, "device", "cuda must be available", "none", "Use --device cpu or auto")
    return torch.device("cuda", local_rank()) if name != "cpu" and available else torch.device("cpu")
