"""One pair in every style in which Pyro programs are written: training, resumption, objectives and evaluations."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro
import pytest
import torch
from pyro.distributions import Normal
from torch import Tensor
from torch.optim import SGD, Adam

from pyro_vae import fit
from pyro_vae.data.batches import Batches
from tests.linear_styles import MODULE, STYLES, Style, Written, data

EVERY_STYLE = pytest.mark.parametrize("style", STYLES, ids=repr)
MODULAR = pytest.mark.parametrize("style", [style for style in STYLES if style.modular], ids=repr)
OFF = {"inflate": 1.4, "shift": 0.3}  # a guide that is not the posterior
ONCE: dict[str, Any] = {"epochs": 1, "batch_size": 8, "optimizer": partial(SGD, lr=0.1), "seed": 4, "engine": "eager"}


def _close(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and bool((found - wanted).abs().max() < 1e-9)


# Training


def _hand_written_step(x: Tensor, *, rate: float, seed: int) -> dict[str, Tensor]:
    """The parameters after one step on minus the ELBO per datum, in plain torch."""
    parameters = {k: t.requires_grad_() for k, t in MODULE.build(**OFF).snapshot().items()}
    weight, bias, log_sigma, gain, offset, log_scale = parameters.values()
    order = next(Batches(x, len(x), shuffle_seed=seed).epoch()).args[0]
    q = Normal(order @ gain.T + offset, log_scale.exp())
    torch.manual_seed(seed)
    z = q.rsample()
    log_joint = Normal(z @ weight.T + bias, log_sigma.exp()).log_prob(order).sum() + Normal(0.0, 1.0).log_prob(z).sum()
    gradients = torch.autograd.grad((q.log_prob(z).sum() - log_joint) / len(x), list(parameters.values()))
    return {k: p.detach() - rate * g for (k, p), g in zip(parameters.items(), gradients, strict=True)}


@EVERY_STYLE
@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_one_step_moves_every_parameter_along_its_gradient(style: Style, engine: str, uncompiled: None) -> None:
    x = data()
    pair = style.build(**OFF)
    fit(pair.model, pair.guide, x, **(ONCE | {"engine": engine}))
    wanted = _hand_written_step(x, rate=0.1, seed=4)
    found = pair.tensors()
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert _close(found[name].detach(), wanted[name]), name


@MODULAR
def test_running_statistics_and_dropout_in_training_are_those_of_the_modules(style: Style) -> None:
    x, found = data(), []
    for each in (MODULE, style):
        pair = each.build(noisy=True, **OFF)
        fit(pair.model, pair.guide, x, **(ONCE | {"epochs": 3, "batch_size": 4}))
        found.append(pair)
        assert not any(part.training for module in pair.modules for part in module.modules())
    reference, mine = (list(pair.snapshot().values()) for pair in found)
    assert len(mine) == len(reference) == 9  # six parameters, three statistics
    assert all(_close(a, b) for a, b in zip(mine, reference, strict=True))
    assert any(bool((b != 0).any()) for module in found[1].modules for b in module.buffers())


def _train(pair: Written, run: Any, epochs: int, **options: Any) -> None:
    adam = partial(Adam, lr=1e-2)
    fit(pair.model, pair.guide, data(), epochs=epochs, batch_size=4, optimizer=adam, run=run, engine="eager", **options)


@EVERY_STYLE
def test_a_resumed_training_has_the_bits_of_an_uninterrupted_one(style: Style, tmp_path) -> None:
    whole = style.build(noisy=True, **OFF)
    _train(whole, tmp_path / "whole", 4)
    wanted = whole.snapshot()
    pyro.clear_param_store()
    _train(style.build(noisy=True, **OFF), tmp_path / "parts", 2)
    pyro.clear_param_store()
    resumed = style.build(noisy=True)  # from other numbers: those of the run folder replace them
    _train(resumed, tmp_path / "parts", 4, resume=True)
    found = resumed.snapshot()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@MODULAR
def test_a_checkpoint_holds_the_buffers(style: Style, tmp_path) -> None:
    pair = style.build(noisy=True, **OFF)
    _train(pair, tmp_path / "run", 1)
    saved = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["weights"]
    for kind in ("running_mean", "running_var", "num_batches_tracked"):
        (mine,) = [b for module in pair.modules for name, b in module.named_buffers() if name.endswith(kind)]
        stored = [t for name, t in saved.items() if name.endswith(kind)]
        assert stored  # twice, if both programs have the module
        assert all(torch.equal(tensor, mine) for tensor in stored)


def test_parameters_in_another_layout_of_memory_are_trained_once(tmp_path) -> None:
    """Pyro keeps contiguous copies of them, which nothing depends on."""
    x, closure = data(), next(style for style in STYLES if style.name == "closure")
    pair = closure.build(**OFF)
    layer = pair.modules[0].linear
    layer.weight = torch.nn.Parameter(layer.weight.detach().T.contiguous().T)
    fit(pair.model, pair.guide, x, run=tmp_path / "run", **ONCE)
    wanted = _hand_written_step(x, rate=0.1, seed=4)
    assert all(_close(tensor.detach(), wanted[name]) for name, tensor in pair.tensors().items())
    assert len(torch.load(tmp_path / "run" / "state.pt", weights_only=True)["weights"]) == 6


# Objectives

FAMILIES: dict[str, Callable[[], Any]] = {
    "ELBO": partial(objectives.ELBO, num_particles=2),
    "MeanFieldELBO": objectives.MeanFieldELBO,
    "BetaELBO": partial(objectives.BetaELBO, beta=0.3, reconstruction_weight=0.7),
    "IWAE": partial(objectives.IWAE, num_particles=3),
    "MIWAE": partial(objectives.MIWAE, num_particles=2, num_batches=2),
    "Renyi": partial(objectives.Renyi, alpha=0.5, num_particles=3),
    "StickingTheLanding": partial(objectives.StickingTheLanding, num_particles=3),
    "DoublyReparameterized": partial(objectives.DoublyReparameterized, num_particles=3),
    "ScoreFunction": partial(objectives.ScoreFunction, num_particles=2),
    "VIMCO": partial(objectives.VIMCO, num_particles=3),
    "ReweightedWakeSleep": partial(objectives.ReweightedWakeSleep, num_particles=3, guide_phase="both"),
    "WakeSleep": partial(objectives.WakeSleep, num_particles=2),
    "FreeBits": partial(objectives.FreeBits, nats=0.5, num_particles=2),
    "SummedELBO": partial(objectives.SummedELBO, num_particles=2),
    "BetaTC": partial(objectives.BetaTC, num_particles=2),
    "InfoVAE": partial(objectives.InfoVAE, num_particles=2),
}
PER_DATUM = sorted(set(FAMILIES) - {"ELBO", "MeanFieldELBO", "BetaELBO"})
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
HOLDING = ("StickingTheLanding", "DoublyReparameterized")  # what takes the parameters of q as constants


def _loss(family: str, pair: Written, x: Tensor, *, seed: int = 5) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Loss and gradient at a seed."""
    objective = FAMILIES[family]()
    torch.manual_seed(7)
    objective.differentiable_loss(pair.model, pair.guide, x)  # an objective looks for the plates at its first call
    torch.manual_seed(seed)
    loss = objective.differentiable_loss(pair.model, pair.guide, x)
    tensors = pair.tensors()
    gradients = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True)
    return loss.detach(), dict(zip(tensors, gradients, strict=True))


@cache
def _reference(family: str) -> tuple[Tensor, dict[str, Tensor | None]]:
    return _loss(family, MODULE.build(**OFF), data())


@EVERY_FAMILY
@EVERY_STYLE
def test_losses_and_gradients_do_not_depend_on_the_style(style: Style, family: str) -> None:
    pair, (wanted, gradients) = style.build(**OFF), _reference(family)
    loss, found = _loss(family, pair, data())
    assert _close(loss, wanted)
    for name, gradient in gradients.items():
        mine = found[name]
        assert (mine is None) == (gradient is None), name
        assert mine is None or _close(mine, gradient), name


BOUNDS = sorted(set(FAMILIES) - {"MeanFieldELBO", "BetaELBO", "FreeBits", "BetaTC", "InfoVAE"})


@EVERY_STYLE
def test_at_the_exact_posterior_every_bound_is_the_evidence(style: Style) -> None:
    x, pair = data(), style.build()
    for family in BOUNDS:
        loss, gradients = _loss(family, pair, x)
        assert float(loss) == pytest.approx(-float(log_evidence(x).sum()), abs=1e-9), family
        if family in HOLDING:
            for name in ("gain", "offset", "log_scale"):
                gradient = gradients[name]
                assert gradient is not None, (family, name)
                assert gradient.abs().max() < 1e-9, (family, name)


# Evaluations

FEW: dict[str, Any] = {"num_distributions": 4, "num_chains": 3, "num_steps": 2, "engine": "eager"}
GAPS: dict[str, Any] = {"num_samples": 20, "num_steps": 3, "num_particles": 2, "lr": 1e-3}
EVALUATIONS: dict[str, Callable[..., Result]] = {
    "log_likelihood": partial(log_likelihood, num_samples=30, chunk_size=11, batch_size=4),
    "prior": partial(log_likelihood, num_samples=30, batch_size=4, proposal="prior"),
    "ais": partial(annealed_log_likelihood, batch_size=4, **FEW),
    "ais-from-guide": partial(annealed_log_likelihood, batch_size=4, start="guide", **FEW),
    "gaps": partial(inference_gaps, batch_size=4, **GAPS),
}
EVERY_EVALUATION = pytest.mark.parametrize("name", EVALUATIONS)


@contextmanager
def _unnoticed(pair: Written) -> Iterator[None]:
    """What runs within leaves random state, modes, tensors and Pyro's store as they are."""

    def state() -> list[Any]:
        store = pyro.get_param_store()
        modes = [part.training for module in pair.modules for part in module.modules()]
        tensors = list(pair.snapshot().values())
        return [torch.get_rng_state(), *tensors, modes, {k: id(store._params[k]) for k in store._params}]

    before = state()
    yield
    for one, other in zip(before, state(), strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


def _noisy(style: Style, **options: Any) -> Written:
    """With dropout and batch normalization in train mode, and one part in eval mode."""
    pair = style.build(noisy=True, **options)
    for module in pair.modules:
        module.train()
    if pair.modules:
        pair.modules[0].linear.eval()
    return pair


@cache
def _reference_result(name: str) -> dict[str, Tensor]:
    pair = _noisy(MODULE, **OFF)
    return EVALUATIONS[name](pair.model, pair.guide, data(), seed=2).tensors()


def _is_refused(style: Style, name: str) -> bool:
    return name == "gaps" and "function" in style.traits


@EVERY_EVALUATION
@EVERY_STYLE
def test_evaluations_do_not_depend_on_the_style_and_leave_no_trace(style: Style, name: str) -> None:
    pair = _noisy(style, **OFF)
    with _unnoticed(pair):
        if _is_refused(style, name):
            message = (
                r"^inference_gaps: the guide must be a module whose parameters can be optimised .*, got a function"
            )
            with pytest.raises(ValueError, match=message):
                EVALUATIONS[name](pair.model, pair.guide, data(), seed=2)
            return
        found = EVALUATIONS[name](pair.model, pair.guide, data(), seed=2).tensors()
    wanted = _reference_result(name)
    for key in wanted:
        torch.testing.assert_close(found[key], wanted[key], rtol=0, atol=1e-9, equal_nan=True, msg=key)


@EVERY_STYLE
def test_with_the_exact_posterior_evaluations_are_the_evidence(style: Style) -> None:
    x, pair = data(6), _noisy(style)
    wanted = log_evidence(x)
    for name, columns in {
        "log_likelihood": ("log_likelihood", "elbo"),
        "ais-from-guide": ("log_likelihood", "mean_log_weight"),
        "gaps": ("elbo",),
    }.items():
        if not _is_refused(style, name):
            result = EVALUATIONS[name](pair.model, pair.guide, x)
            for column in columns:
                assert _close(getattr(result, column), wanted), (name, column)
            assert result.protocol.get("way", "vectorised") == "vectorised"
    quiet = style.build()
    weights = log_weights(quiet.model, quiet.guide, x, num_samples=3)
    assert _close(weights.detach(), wanted.expand(3, 6))


def test_module_of_functions_are_not_entered_into_pyro_s_store_by_evaluations() -> None:
    for style in STYLES:
        if style.modular:
            pair = style.build()
            for name in ("log_likelihood", "ais"):
                EVALUATIONS[name](pair.model, pair.guide, data())
            assert not len(pyro.get_param_store()), style
