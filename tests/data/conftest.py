"""Fixtures of the data tests: checked error messages and an unchanged random state."""

import contextlib
import random
from pathlib import Path

import numpy as np
import pytest
import torch

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def shared_data():
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared data at {SHARED}, which is absent")
    return SHARED


@pytest.fixture
def raises():
    """``with raises(Error, owner, *words)``: one line "<owner>: ..., got ...." that contains the words."""

    @contextlib.contextmanager
    def check(kind, owner, *words):
        with pytest.raises(kind) as caught:
            yield
        message = str(caught.value)
        assert type(caught.value) is kind
        assert message.startswith(f"{owner}: ")
        assert ", got " in message
        assert message.endswith(".")
        assert "\n" not in message
        assert [word for word in words if word not in message] == [], message

    return check


@pytest.fixture
def untouched():
    """``with untouched():`` fails if the global random state changes."""

    def states():
        _, keys, *rest = np.random.get_state()  # noqa: NPY002 - the global state is checked
        return torch.get_rng_state().tolist(), random.getstate(), keys.tolist(), rest

    @contextlib.contextmanager
    def check():
        before = states()
        yield
        assert states() == before

    return check
