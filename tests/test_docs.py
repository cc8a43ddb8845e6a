"""What docs/engine.md says is so: its Python runs, its files exist, what it says cannot be recorded is refused so."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.infer
import pytest
import torch
from pyro.distributions import Normal, Poisson, VonMises
from pyro.infer import ELBO
from torch import Tensor

from pyro_vae import objectives
from pyro_vae.training import build_engine
from pyro_vae.training.choice import ENGINES, WORTH_COMPILING
from tests.test_readme import ROOT, run_python

PAGE = (ROOT / "docs/engine.md").read_text()
REFUSED = PAGE.split("## What cannot be recorded")[1].split("## And")[0]
LOOKS, SHAPES, DIFFER = "looks at a tensor's value in Python", "shape of a tensor depends on values", "two runs at one"


@pytest.mark.slow
def test_its_python_runs_in_order() -> None:
    names = run_python("docs/engine.md", PAGE)
    assert names["engine"].name == "compiled"
    assert len(names["result"].history) == 2


def test_its_files_exist() -> None:
    found = re.findall(r"`((?:examples|benchmarks|docs)/[\w./-]+)`", PAGE)
    assert found
    assert [path for path in found if not (ROOT / path).exists()] == []


def test_it_names_the_engines_and_when_auto_compiles() -> None:
    assert set(re.findall(r'^\| `"([\w-]+)"` \|', PAGE, re.MULTILINE)) == set(ENGINES)
    assert f"below {WORTH_COMPILING:,} planned steps" in PAGE


def test_it_names_the_objectives_that_no_engine_runs() -> None:
    classes = [getattr(pyro.infer, name) for name in dir(pyro.infer)]
    elbos = [c for c in classes if isinstance(c, type) and issubclass(c, ELBO) and c is not ELBO]
    without = {c.__name__ for c in elbos if not hasattr(c, "differentiable_loss") and not c.__name__.startswith("Jit")}
    (sentence,) = re.findall(r"([^.]*) have no `differentiable_loss`", REFUSED)
    assert set(re.findall(r"`(\w+)`", sentence)) == without


def validated(x: Tensor, z: Tensor) -> None:
    with pyro.validation_enabled(True):
        pyro.sample("more", Normal(z, 1.0).to_event(1), obs=x)


def in_turn(x: Tensor, z: Tensor) -> None:
    for t in pyro.plate("t", 2):
        pyro.sample(f"more_{t}", Normal(z[:, t], 1.0), obs=x[:, t])


def branch(x: Tensor, z: Tensor) -> None:
    if z.mean() > 0:
        pyro.factor("more", z.sum(-1))


def check(x: Tensor, z: Tensor) -> None:
    assert (x >= 0).all()


def rejection(x: Tensor, z: Tensor) -> None:
    VonMises(z.detach(), 1.0).sample()


CAUSES: dict[str, tuple[Callable[[Tensor, Tensor], Any], str]] = {
    ".item()": (lambda x, z: x.mean().item(), LOOKS),
    "int(x.max())": (lambda x, z: int(x.max()), LOOKS),
    "if z.mean() > 0:": (branch, LOOKS),
    "assert": (check, LOOKS),
    'for t in pyro.plate("t", 5)': (in_turn, LOOKS),
    "VonMises": (rejection, LOOKS),
    "validate_args=True": (
        lambda x, z: pyro.sample("more", Poisson(z.exp(), validate_args=True).to_event(1), obs=x),
        LOOKS,
    ),
    "validation_enabled(True)": (validated, LOOKS),
    "x[x > 3]": (lambda x, z: pyro.factor("more", x[x > 3].sum() + z.sum(-1)), SHAPES),
    "NumPy": (lambda x, z: pyro.factor("more", float(np.random.default_rng().normal()) * z.sum(-1)), DIFFER),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_what_cannot_be_recorded_is_said_as_quoted(cause: str) -> None:
    more, message = CAUSES[cause]
    (row,) = [line for line in REFUSED.splitlines() if f"`{cause}`" in line or (cause == "NumPy" and "NumPy" in line)]
    assert message in row or ("the same" in row and message == LOOKS)
    loc = torch.zeros(2, requires_grad=True)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", Poisson(z.exp()).to_event(1), obs=x)
            more(x, z)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(loc, 1.0).to_event(1))

    batch = (torch.poisson(torch.full((8, 2), 2.0)),)
    adam = torch.optim.Adam([loc])
    with pytest.warns(UserWarning, match="^engine: runs eagerly, since the programs cannot be recorded: ") as warned:
        engine = build_engine("compiled", objectives.ELBO(), model, guide, adam, [loc], args=batch)
    assert message in str(warned[0].message)
    assert engine.name == "eager"
    assert engine.step(batch).finite
