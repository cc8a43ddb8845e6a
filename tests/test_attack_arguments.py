"""Bad arguments get one line that names owner and argument, and the attack finds those that do not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from pyro_vae import VAE
from pyro_vae._core.checks import CheckedArguments, check_arguments
from pyro_vae.data import Digits
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.objectives import IWAE, BetaELBO, BetaTC, InfoVAE, Renyi
from tools import attack_arguments
from tools.attack_arguments import Trial, judge, report, trials


def test_one_in_thirteen_bad_arguments_is_refused_or_meaningful() -> None:
    done = list(trials(every=13))
    assert len(done) > 400
    assert len({trial.folder for trial in done}) == len(attack_arguments.FOLDERS)
    failures = [str(t) for t in done if t.outcome not in ("good", "legitimate")]
    assert failures == []
    assert sum(trial.outcome == "legitimate" for trial in done) < 0.05 * len(done)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BetaELBO(beta=math.inf), "BetaELBO: beta must be finite and at least 0, got beta=inf."),
        (lambda: BetaTC(alpha=math.nan), "BetaTC: alpha must be a number, got alpha=nan."),
        (lambda: Renyi(alpha=math.nan), "Renyi: alpha must be a number, got alpha=nan."),
        (lambda: InfoVAE(mmd_weight=math.inf), "InfoVAE: mmd_weight must be at least 1 - alpha and finite, got"),
        (lambda: IWAE(num_particles=1.5), "IWAE: num_particles must be an integer, got num_particles=1.5."),
        (lambda: IWAE(num_particles=True), "IWAE: num_particles must be an integer, got num_particles=True."),
        (lambda: Digits(seed="a"), "Digits: seed must be an integer, got seed='a'."),
        (
            lambda: BernoulliLikelihood(2, (5,)).initialise_mean(torch.full((5,), math.nan)),
            "BernoulliLikelihood: mean must be finite, got another value. Pass the mean of the training data.",
        ),
        (lambda: VAE(*[nn.Linear(1, 1)] * 3), "VAE: prior must be a Prior, got prior=a Linear."),
        (
            lambda: DiagonalNormalGuide((5,), 2, log_scale_bounds=(0.0, math.nan)),
            "DiagonalNormalGuide: log_scale_bounds must be 2 values, each a number, got log_scale_bounds=(0.0, nan).",
        ),
    ],
)
def test_nonsense_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        call()
    assert str(error.value).startswith(message)


def everything(
    count: int = 1,
    number: float | None = None,
    choice: Literal["a", "b"] | Callable[[], int] = "a",
    shape: tuple[int, ...] = (),
    modules: Sequence[nn.Module] = (),
    tensor: Tensor | None = None,
    anything: Any = None,
) -> None:
    check_arguments(everything, locals())


@pytest.mark.parametrize(
    "values",
    [
        {"count": torch.zeros(3).numpy().size, "number": 2, "choice": int, "shape": [1, 2]},
        {"number": math.inf, "shape": torch.Size([3]), "modules": nn.ModuleList([nn.Identity()])},
        {"modules": [nn.Identity()], "tensor": torch.ones(2, dtype=torch.int64), "anything": "x"},
    ],
)
def test_what_an_annotation_allows_passes(values: dict[str, Any]) -> None:
    everything(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": None}, "count must be an integer, got count=None"),
        ({"number": "1"}, "number must be a number or None, got number='1'"),
        ({"choice": "c"}, "choice must be one of 'a', 'b' or callable, got choice='c'"),
        ({"shape": (2, 0)}, r"shape must be a tuple of positive integers, got shape=\(2, 0\)"),
        ({"shape": (True,)}, r"shape must be a tuple of positive integers, got shape=\(True,\)"),
        ({"modules": [nn.Identity(), 3]}, "modules must be a sequence, each entry a Module, got modules="),
        ({"modules": nn.Identity}, r"modules must be .*, got modules=the class Identity\. Write Identity\(\)\.$"),
        ({"tensor": torch.ones(2, 2).cfloat()}, "tensor must be a real tensor or None, got tensor=a Tensor"),
    ],
)
def test_what_it_does_not_allow_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^everything: {message}"):
        everything(**values)


def test_the_annotations_of_a_users_class_are_not_enforced() -> None:
    class Narrow(DiagonalNormalGuide):
        def __init__(self, width: int) -> None:
            super().__init__((5,), width)  # the annotations of the base are

    class Other(nn.Module, CheckedArguments):
        def __init__(self, width: int) -> None:
            super().__init__()

    Other("a")
    with pytest.raises(ValueError, match=r"^Narrow: latent_dim must be an integer, got latent_dim='a'\.$"):
        Narrow("a")


def foreign(count: int) -> None:
    torch.zeros(count)


def hasty(count: int) -> None:
    raise ValueError("hasty: this does not say which argument is wrong")


@pytest.mark.parametrize(
    ("function", "outcome"),
    [
        (lambda count: None, "silent"),
        (foreign, "foreign"),
        (hasty, "foreign"),
        (lambda count: time.sleep(5), "endless"),
        (partial(everything), "good"),
    ],
)
def test_the_attack_finds_every_kind_of_failure(
    monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], outcome: str
) -> None:
    monkeypatch.setattr(attack_arguments, "SECONDS", 0.1)
    owner = "everything" if outcome == "good" else getattr(function, "__name__", "")
    trial = judge(Trial("folder", owner, "count", "text"), function, {"count": "a"})
    assert trial.outcome == outcome
    listed = report([trial])
    assert ("folder." in listed) == (outcome != "good")
    assert listed.splitlines()[-1].split()[:2] == ["all", "1"]
