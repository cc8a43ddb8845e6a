"""Settings of every test: float64, a fixed seed, an empty parameter store, validation on, one thread."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run side by side, and their tensors are small
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # otherwise every test process forks compilers

import pyro
import pytest
import torch

from pyro_vae._core import compilation, recording
from tests.linear_gaussian import LinearGaussian

torch.set_num_threads(1)  # the tests run side by side, and their tensors are small
compilation.LIBRARIES = False  # their graphs are many and small; test_compilation and processes of their own make some


@pytest.fixture(autouse=True)
def clean_state() -> Iterator[None]:
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    pyro.clear_param_store()
    with pyro.validation_enabled(True):
        yield
    torch.set_default_dtype(dtype)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replay recordings operation by operation, in milliseconds instead of the seconds that compiling takes."""
    monkeypatch.setattr(recording, "_compile", lambda graph, inputs, **options: graph)


@pytest.fixture
def exact() -> LinearGaussian:
    """A linear-Gaussian VAE whose guide is the exact posterior."""
    return LinearGaussian(latent_dim=3, dim=7)


@pytest.fixture
def single_precision() -> None:
    """Set torch's default dtype, float32, for scripts run as by a user; ``clean_state`` restores float64."""
    torch.set_default_dtype(torch.float32)
