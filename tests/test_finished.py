"""Interrupted evaluations resume from their finished batches, with the bits of the uninterrupted one."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyro
import pytest
import torch
from pyro.distributions import Normal
from torch import Tensor, nn

from pyro_vae import VAE, SemiSupervisedVAE, log_likelihood
from pyro_vae.data import ImageSet
from pyro_vae.evaluation import (
    FinishedBatches,
    InflatedProposal,
    accurate_log_likelihood,
    annealed_log_likelihood,
    bidirectional,
    class_posterior,
    classification,
    harmonic,
    harmonic_log_likelihood,
    inference_gaps,
    posterior,
    posterior_samples,
    sandwich,
)
from pyro_vae.evaluation import finished as finished_batches
from pyro_vae.evaluation.batched import BatchedEvaluation
from pyro_vae.guides import AuxiliaryGuide, CategoricalGuide, DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.networks import ContextNetwork
from pyro_vae.priors import StandardNormalPrior

NUM_BATCHES = 3


def images() -> ImageSet:
    """Grey images whose pixels are sampled when a batch is taken."""
    pixels = torch.randint(256, (4 * NUM_BATCHES - 1, 5), generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels.to(torch.uint8), torch.arange(len(pixels)) % 3, 255, dynamic=True)


def vae() -> VAE:
    torch.manual_seed(1)
    return VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))


def auxiliary() -> VAE:
    """A VAE whose guide is copied for each datum, to be optimised."""
    torch.manual_seed(1)
    return VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), AuxiliaryGuide((5,), 2))


def semi_supervised() -> SemiSupervisedVAE:
    torch.manual_seed(1)
    net = partial(ContextNetwork, context_dim=3)
    pieces = BernoulliLikelihood(2, (5,), net=net), DiagonalNormalGuide((5,), 2, net=net)
    return SemiSupervisedVAE(StandardNormalPrior(2), *pieces, CategoricalGuide((5,), 3))


def over(function: Callable[..., Any], build: Callable[[], Any] = vae, **options: Any) -> Callable[..., Any]:
    """The function on programs that are built anew at every call, as in a new process."""

    def call(**more: Any) -> Any:
        built = build()
        programs = (built,) if function is classification else (built.model, built.guide)
        return function(*programs, images(), batch_size=4, **{**options, **more})

    return call


def inflated(**more: Any) -> Any:
    built = vae()
    return log_likelihood(
        built.model, InflatedProposal(built.guide, 1.2), images(), num_samples=9, batch_size=4, **more
    )


PATH = {"num_chains": 2, "num_steps": 1}
EVALUATIONS = {
    "importance": over(log_likelihood, num_samples=9, chunk_size=4),
    "inflated": inflated,
    "optimised": over(log_likelihood, num_samples=5, proposal="optimised"),
    "accurate": over(accurate_log_likelihood, accuracy=5.0, num_simulated=8, max_samples=1024),
    "ais": over(annealed_log_likelihood, num_distributions=4, **PATH),
    "sandwich": over(sandwich, num_distributions=4, start="guide", **PATH),
    "harmonic": over(harmonic_log_likelihood, num_samples=52, num_fitted=52, num_chains=13, num_steps=1, warmup=2),
    "posterior": over(posterior_samples, num_samples=4, warmup=2, **PATH),
    "gaps": over(inference_gaps, num_samples=6, num_steps=2, num_particles=2),
    "gaps of a copy": over(inference_gaps, auxiliary, num_samples=6, num_steps=2, num_particles=2),
    "class posterior": over(class_posterior, semi_supervised, num_classes=3, num_samples=6),
    "classification": over(classification, semi_supervised),
}


def interrupted(monkeypatch: pytest.MonkeyPatch, evaluation: Callable[..., Any], folder: Path, after: int) -> None:
    """Interrupt the evaluation when it has computed a number of batches."""
    compute, calls = BatchedEvaluation._compute, iter(range(after))

    def stop(*args: Any) -> dict[str, Tensor]:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return compute(*args)

    with monkeypatch.context() as patch:
        patch.setattr(BatchedEvaluation, "_compute", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluation(finished=FinishedBatches(folder))


def computes_nothing(*args: Any) -> dict[str, Tensor]:
    raise AssertionError("every batch is there")


def numbers(result: Any) -> dict[str, Any]:
    assert is_dataclass(result)
    values = {f.name: getattr(result, f.name) for f in fields(result)}
    sites = values.pop("sites", {})
    return {**values, **sites}


def assert_same(result: Any, expected: Any) -> None:
    result, expected = numbers(result), numbers(expected)
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(result[name], value, rtol=0, atol=0, equal_nan=True, msg=name)
        else:
            assert result[name] == value, name


@pytest.mark.parametrize("name", EVALUATIONS)
def test_a_resumed_evaluation_has_the_bits_of_the_uninterrupted_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bidirectional, "DECORRELATION_STEPS", 2)
    monkeypatch.setattr(posterior, "NUM_BRIDGES", 3)
    monkeypatch.setattr(harmonic, "NUM_BRIDGES", 3)
    evaluation, finished = EVALUATIONS[name], FinishedBatches(tmp_path)
    expected = evaluation()
    interrupted(monkeypatch, evaluation, tmp_path, 1)
    assert len(list(tmp_path.iterdir())) == 1
    assert_same(evaluation(finished=finished), expected)
    assert finished.num_read == 1
    read = FinishedBatches(tmp_path)
    monkeypatch.setattr(BatchedEvaluation, "_compute", computes_nothing)
    assert_same(evaluation(finished=read), expected)
    assert read.num_read == len(list(tmp_path.iterdir())) >= NUM_BATCHES


class Beta(nn.Module):
    """A model and its guide with a number and a switch that are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.options = 1.0, {"shift": 0.0}
        self.loc = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Normal(self.loc, 1.0).expand([len(x), 2]).to_event(1))
            pyro.sample("x", Normal(z + self.options["shift"], self.scale).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(x / 2, 0.8).to_event(1))


class Other(Beta):
    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(x / 3, 0.8).to_event(1))


def _set(name: str, value: Any) -> Callable[[Beta], Any]:
    return lambda beta: setattr(beta, name, value)


@torch.no_grad()
def _move(beta: Beta) -> None:
    beta.loc[1] += 1e-15


CHANGES: dict[str, tuple[Callable[[Beta], Any], dict[str, Any], int]] = {
    "nothing": (lambda beta: None, {}, 3),
    "progress": (lambda beta: None, {"progress": True, "protocol": {"a": 1}}, 3),
    "a parameter": (_move, {}, 0),
    "an attribute": (_set("scale", 2.0), {}, 0),
    "a dictionary": (_set("options", {"shift": 1.0}), {}, 0),
    "code": (_set("__class__", Other), {}, 0),
    "num_samples": (lambda beta: None, {"num_samples": 8}, 0),
    "chunk_size": (lambda beta: None, {"chunk_size": 2}, 0),
    "seed": (lambda beta: None, {"seed": 1}, 0),
    "proposal": (lambda beta: None, {"proposal": "prior"}, 0),
    "batch_size": (lambda beta: None, {"batch_size": 3}, 0),
    "one datum": (lambda beta: None, {"shift": 1e-15}, 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_batches_of_another_evaluation_are_not_taken(change: str, tmp_path: Path) -> None:
    def evaluate(beta: Beta, finished: FinishedBatches | None, shift: float = 0.0, **options: Any) -> Any:
        data = torch.linspace(0.0, 1.0, 12, dtype=torch.float64).reshape(6, 2)
        data[0, 0] += shift
        return log_likelihood(
            beta.model, beta.guide, data, finished=finished, **{"num_samples": 9, "batch_size": 2, **options}
        )

    evaluate(Beta(), FinishedBatches(tmp_path))
    alter, options, num_read = CHANGES[change]
    beta, finished = Beta(), FinishedBatches(tmp_path)
    alter(beta)
    assert_same(evaluate(beta, finished, **options), evaluate(beta, None, **options))
    assert finished.num_read == num_read


def test_damaged_batches_are_computed_anew(tmp_path: Path) -> None:
    evaluation = EVALUATIONS["importance"]
    expected = evaluation(finished=FinishedBatches(tmp_path))
    for number, file in enumerate(sorted(tmp_path.iterdir())):
        content = file.read_bytes()
        damaged = content[:-9], content[:-1] + bytes([content[-1] ^ 1]), b"{}" + content
        file.write_bytes(damaged[number])
    finished = FinishedBatches(tmp_path)
    assert_same(evaluation(finished=finished), expected)
    assert finished.num_read == 0
    (tmp_path / "mine.safetensors").touch()
    finished.remove()
    assert [file.name for file in tmp_path.iterdir()] == ["mine.safetensors"]  # only its own files
    (tmp_path / "mine.safetensors").unlink()
    finished.remove()
    assert not tmp_path.exists()


def test_all_guides_of_a_mixture_are_parts_of_the_key(tmp_path: Path) -> None:
    def evaluate(first: Beta) -> int:
        finished, guides = FinishedBatches(tmp_path), [first.guide, Other().guide]
        data = torch.ones(4, 2, dtype=torch.float64)
        log_likelihood(Beta().model, guides, data, num_samples=5, batch_size=2, finished=finished)
        return finished.num_read

    changed = Beta()
    changed.scale = 3.0
    assert [evaluate(Beta()), evaluate(Beta()), evaluate(changed)] == [0, 2, 0]


HIDDEN = SimpleNamespace(networks={"decoder": nn.Linear(2, 2).double()})


def model_of_a_hidden_network(x: Tensor) -> None:
    """A model that calls a module which no search for references finds."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", Normal(torch.zeros(2), 1.0).expand([len(x), 2]).to_event(1))
        pyro.sample("x", Normal(globals()["HIDDEN"].networks["decoder"](z), 1.0).to_event(1), obs=x)


def test_modules_that_are_noticed_when_they_are_called_are_parts_of_the_key(tmp_path: Path) -> None:
    def evaluate(finished: FinishedBatches | None) -> Any:
        data = torch.ones(6, 2, dtype=torch.float64)
        return log_likelihood(
            model_of_a_hidden_network, Beta().guide, data, num_samples=5, batch_size=2, finished=finished
        )

    evaluate(FinishedBatches(tmp_path))
    again = FinishedBatches(tmp_path)
    evaluate(again)
    with torch.no_grad():
        HIDDEN.networks["decoder"].weight += 1.0
    changed = FinishedBatches(tmp_path)
    assert_same(evaluate(changed), evaluate(None))
    assert (again.num_read, changed.num_read) == (2, 0)  # the first batch is computed, so that the module is noticed


def test_a_full_disk_does_not_end_the_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(args[0]))

    monkeypatch.setattr(finished_batches, "write_atomically", full)
    evaluation, expected = EVALUATIONS["importance"], EVALUATIONS["importance"]()
    with pytest.warns(UserWarning, match="finished batches are not stored from now on: .*No space left") as record:
        assert_same(evaluation(finished=FinishedBatches(tmp_path)), expected)
    assert len(record) == 1
