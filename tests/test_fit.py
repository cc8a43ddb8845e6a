"""``fit``: which parameters it trains, what it reports, when it stops."""

from __future__ import annotations

import copy
import math
import signal
from functools import partial

import pyro
import pyro.infer
import pyro.optim
import pytest
import torch
from pyro.distributions import Normal
from pyro.infer import Trace_ELBO
from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau, StepLR

from pyro_vae import VAE, data, fit, log_likelihood
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import NormalLikelihood
from pyro_vae.networks import MLP
from pyro_vae.objectives import BetaELBO, LinearWarmUp
from pyro_vae.priors import StandardNormalPrior
from pyro_vae.training import NonFiniteError, RunFolder
from pyro_vae.training.parameters import build_optimizer
from tests.linear_gaussian import LinearGaussian

FAST = partial(Adam, lr=2e-2)


def _vae(dim: int = 4) -> VAE:
    net = partial(MLP, hidden=(8,))
    likelihood = NormalLikelihood(2, (dim,), net=net, scale=0.5)
    return VAE(StandardNormalPrior(2), likelihood, DiagonalNormalGuide((dim,), 2, net=net))


def _snapshot(vae: VAE) -> list[torch.Tensor]:
    return [p.detach().clone() for p in vae.parameters()]


def _changed(vae: VAE, before: list[torch.Tensor]) -> list[bool]:
    return [not torch.equal(p, q) for p, q in zip(vae.parameters(), before, strict=True)]


@pytest.mark.slow
def test_a_trained_guide_reaches_the_evidence() -> None:
    case = LinearGaussian(latent_dim=2, dim=4)
    x = case.data(512)
    for p in case.vae.model.parameters():
        p.requires_grad_(False)
    for p in case.vae.guide.parameters():
        torch.nn.init.normal_(p, std=0.3)
    options = {"optimizer": partial(Adam, lr=5e-2), "lr_schedule": partial(MultiStepLR, milestones=[100, 130])}
    fit(case.vae.model, case.vae.guide, x, epochs=150, batch_size=128, **options)
    result = log_likelihood(case.vae.model, case.vae.guide, x, num_samples=500, chunk_size=500, batch_size=512)
    truth = case.log_prob(x)
    assert 0 <= float((truth - result.elbo).mean()) < 0.01
    z = (result.log_likelihood - truth).mean() / result.monte_carlo_error()
    assert abs(float(z)) < 3


def test_every_parameter_of_this_vae_trains_and_of_no_other() -> None:
    x = torch.randn(60, 4)
    first, second = _vae(), _vae()
    copied, swapped = copy.deepcopy(first), first.with_guide(DiagonalNormalGuide((4,), 2))
    for vae in (first, second, copied):
        others = [v for v in (first, second, copied) if v is not vae]
        before, untouched = _snapshot(vae), [_snapshot(v) for v in others]
        history = fit(vae.model, vae.guide, x, epochs=15, batch_size=20, optimizer=FAST).history
        assert all(_changed(vae, before))
        assert history[-1]["loss"] < history[0]["loss"] - 0.3
        assert not any(any(_changed(v, b)) for v, b in zip(others, untouched, strict=True))
    guide_before = _snapshot(first)[-4:]
    fit(swapped.model, swapped.guide, x, epochs=2, batch_size=20)
    assert [torch.equal(a, b) for a, b in zip(_snapshot(first)[-4:], guide_before, strict=True)] == [True] * 4
    assert len(pyro.get_param_store()) == 0


def test_loss_is_per_datum_and_exact_on_a_ragged_last_batch() -> None:
    case = LinearGaussian()
    x = case.data(10)
    record = fit(case.vae.model, case.vae.guide, x, epochs=1, batch_size=4, optimizer=partial(SGD, lr=1e-300)).history[
        0
    ]
    truth = float(case.log_prob(x).mean())  # the guide is exact, so each batch's ELBO is, too
    assert record["loss"] == pytest.approx(-truth, abs=1e-9)
    assert record["elbo"] == pytest.approx(truth, abs=1e-9)
    assert -record["distortion"] - record["rate"] == pytest.approx(truth, abs=1e-9)
    assert record["step"] == 3


def test_the_gradient_is_that_of_the_mean_over_the_batch() -> None:
    case = LinearGaussian(inflate=1.3)
    x = case.data(6)
    twin = copy.deepcopy(case.vae)
    fit(case.vae.model, case.vae.guide, x, epochs=1, batch_size=6, optimizer=partial(SGD, lr=0.1), seed=4)
    order = next(data.batches.Batches(x, 6, shuffle_seed=4).epoch()).args[0]
    torch.manual_seed(4)
    (Trace_ELBO()(twin.model, twin.guide)(order) / 6).backward()
    for trained, start in zip(case.vae.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(trained, start - 0.1 * start.grad, atol=1e-12)


def test_clipping_is_of_the_global_norm() -> None:
    moved, x = {}, torch.randn(6, 7)
    for clip in (None, 0.01):
        vae = LinearGaussian(inflate=1.5, shift=1.0).vae
        before = _snapshot(vae)
        fit(
            vae.model,
            vae.guide,
            x,
            epochs=1,
            batch_size=6,
            optimizer=partial(SGD, lr=1.0),
            clip_norm=clip,
        )
        steps = [p.detach() - q for p, q in zip(vae.parameters(), before, strict=True)]
        moved[clip] = torch.cat([s.flatten() for s in steps])
    assert float(moved[0.01].norm()) == pytest.approx(0.01, rel=1e-4)
    assert torch.allclose(moved[0.01] / moved[0.01].norm(), moved[None] / moved[None].norm(), atol=1e-9)


def test_seed_decides_and_global_state_stays() -> None:
    x = torch.randn(40, 4)
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        vae = _vae()
        torch.manual_seed(seed + 100)
        before, validating = torch.get_rng_state(), pyro.distributions.distribution.torch.distributions.Distribution
        flag = validating._validate_args if hasattr(validating, "_validate_args") else None
        fit(vae.model, vae.guide, x, epochs=2, batch_size=10, seed=seed)
        assert torch.equal(before, torch.get_rng_state())
        assert getattr(validating, "_validate_args", None) == flag
        weights.append(torch.cat([p.flatten() for p in vae.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_first_batch_is_validated() -> None:
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", pyro.distributions.Bernoulli(logits=z).to_event(1), obs=x)

    with pytest.raises(ValueError, match="site 'x'"):
        fit(model, DiagonalNormalGuide((2,), 2), torch.rand(10, 2), batch_size=5)


def test_plain_functions_with_pyro_param_train_and_resume(tmp_path) -> None:
    x = torch.randn(200) * 2 + 3

    def model(x):
        loc, scale = (
            pyro.param("loc", torch.tensor(0.0)),
            pyro.param("scale", torch.tensor(1.0), Normal.arg_constraints["scale"]),
        )
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Normal(loc, scale))
            pyro.sample("x", Normal(z, 0.1), obs=x)

    def guide(x):
        spread = pyro.param("spread", torch.tensor(1.0), Normal.arg_constraints["scale"])
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(x, spread))

    fit(model, guide, x, epochs=80, batch_size=50, optimizer=partial(Adam, lr=0.1), run=tmp_path / "run")
    assert pyro.param("loc").item() == pytest.approx(float(x.mean()), abs=0.2)
    assert pyro.param("scale").item() == pytest.approx(float(x.std()), abs=0.2)
    learned = pyro.param("loc").item()
    pyro.clear_param_store()
    fit(model, guide, x, epochs=80, optimizer=partial(Adam, lr=0.1), batch_size=50, run=tmp_path / "run", resume=True)
    assert pyro.param("loc").item() == learned


def test_pyro_s_elbo_and_a_loader_are_accepted() -> None:
    x = torch.randn(30, 4)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=7)
    vae = _vae()
    history = fit(vae.model, vae.guide, loader, epochs=3, objective=Trace_ELBO(), optimizer=FAST).history
    assert "rate" not in history[0]
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["step"] == 15


def test_beta_is_scheduled_by_the_epoch() -> None:
    vae = _vae()
    objective = BetaELBO(beta=LinearWarmUp(4, unit="epochs"))
    history = fit(vae.model, vae.guide, torch.randn(40, 4), epochs=6, batch_size=10, objective=objective).history
    assert [r["beta"] for r in history] == pytest.approx([0.1875, 0.4375, 0.6875, 0.9375, 1.0, 1.0])


def test_learning_rate_schedules_count_epochs_or_steps() -> None:
    x = torch.randn(40, 4)
    for unit, expected in (("epoch", [0.1, 0.05]), ("step", [0.1 / 16, 0.1 / 256])):
        vae = _vae()
        halve = partial(StepLR, step_size=1, gamma=0.5)
        options = {"optimizer": partial(SGD, lr=0.1), "lr_schedule": halve, "lr_schedule_unit": unit}
        history = fit(vae.model, vae.guide, x, epochs=2, batch_size=10, clip_norm=0.01, **options).history
        assert [r["lr"] for r in history] == pytest.approx(expected)


def test_plateau_schedule_sees_the_validation_elbo() -> None:
    case = LinearGaussian()
    x = case.data(20)
    options = {"optimizer": partial(SGD, lr=1e-300), "lr_schedule": partial(ReduceLROnPlateau, patience=0)}
    history = fit(case.vae.model, case.vae.guide, x, epochs=3, batch_size=20, validation=x, **options).history
    assert [r["validation_elbo"] for r in history] == pytest.approx([float(case.log_prob(x).mean())] * 3, abs=1e-9)


def test_early_stopping_restores_the_best_weights() -> None:
    case = LinearGaussian(latent_dim=2, dim=4)  # starts at the optimum: every step makes it worse
    train, validation = case.data(20), case.data(200)
    result = fit(
        *(case.vae.model, case.vae.guide, train),
        **{"epochs": 50, "batch_size": 5, "optimizer": partial(SGD, lr=0.05), "clip_norm": 1.0},
        **{"validation": validation, "patience": 3},
    )
    assert result.stopped == "patience"
    assert len(result.history) == result.best_epoch + 3
    elbos = [r["validation_elbo"] for r in result.history]
    assert max(elbos) == elbos[result.best_epoch - 1]
    again = log_likelihood(case.vae.model, case.vae.guide, validation, num_samples=1, batch_size=1000, seed=0)
    assert again.mean("elbo") == max(elbos)


class _Poisoned(torch.nn.Module):
    """A model that is infinite, or has an infinite gradient, at a datum above 90."""

    def __init__(self, gradient: bool) -> None:
        super().__init__()
        self.loc, self.gradient = Parameter(torch.tensor(0.5)), gradient

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Normal(0.0, 1.0))
            loc = self.loc.expand(len(x))
            if self.gradient and (x > 90).any():  # the value of a square root at 0 is finite, its slope is not
                loc = loc + (x > 90) * (self.loc - self.loc.detach()).sqrt()
            elif not self.gradient:
                loc = loc / (x <= 90)
            pyro.sample("x", Normal(loc + 0 * z, 1.0), obs=x.clamp(max=1.0))


class _Guide(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loc = Parameter(torch.tensor(0.0))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(self.loc, 1.0))


@pytest.mark.parametrize("gradient", [False, True])
def test_a_nonfinite_value_stops_and_names_site_datum_and_step(gradient: bool, tmp_path) -> None:
    x = torch.randn(40)
    x[23] = 99.0
    model, guide = _Poisoned(gradient), _Guide()
    order = next(iter(data.batches.Batches(x, 40, shuffle_seed=0).epoch())).index.tolist()
    step = order.index(23) // 5
    assert step > 0
    with pytest.raises(NonFiniteError, match=f"for datum 23, step {step}") as error:
        fit(model, guide, x, epochs=1, batch_size=5, run=tmp_path / "run")
    assert (error.value.datum, error.value.step) == (23, step)
    assert error.value.site == (None if gradient else "x")
    assert ("the gradient of model.loc" in str(error.value)) == gradient
    assert all(torch.isfinite(p) for p in (model.loc, guide.loc))
    assert f"--resume {tmp_path}/run --optimizer.lr 0.0001" in str(error.value)
    assert RunFolder(tmp_path / "run").is_new  # a state just before that step would fail at once, at any rate


@pytest.mark.parametrize("value", [1e200, torch.nan])
def test_the_datum_is_named_by_its_row_before_the_split(value: float) -> None:
    x = torch.randn(40, 4)
    x[23, 1] = value
    images, vae = data.ImageSet(x).subset(torch.arange(40).flip(0)).subset(slice(10, 40)), _vae()
    with pytest.raises((NonFiniteError, ValueError), match="datum 23"):
        fit(vae.model, vae.guide, images, epochs=1, batch_size=5)


def test_no_datum_is_named_if_the_cause_is_another() -> None:
    vae = _vae()
    with torch.no_grad():
        vae.likelihood.offset.fill_(1e200)
    with pytest.raises(NonFiniteError, match="at site 'x', step 0") as error:
        fit(vae.model, vae.guide, torch.randn(40, 4), epochs=1, batch_size=5)
    assert error.value.datum is None


def test_a_run_resumed_after_ctrl_c_equals_the_uninterrupted_run(tmp_path) -> None:
    before = signal.getsignal(signal.SIGINT)
    x = torch.randn(60, 4)
    torch.manual_seed(0)
    whole = _vae()
    stopped, resumed = copy.deepcopy(whole), copy.deepcopy(whole)
    options = {"epochs": 6, "batch_size": 7, "optimizer": FAST}
    fit(whole.model, whole.guide, x, **options)

    calls = []

    def interrupting(x):
        calls.append(len(x))
        if len(calls) == 27:  # three of them before the first step
            signal.raise_signal(signal.SIGINT)
        return stopped.guide(x)

    with pytest.raises(KeyboardInterrupt, match="after step 24"):
        fit(stopped.model, _Wrapped(stopped.guide, interrupting), x, run=tmp_path / "run", **options)
    assert signal.getsignal(signal.SIGINT) is before
    fit(resumed.model, _Wrapped(resumed.guide), x, run=tmp_path / "run", resume=True, **options)
    assert not any(_changed(resumed, _snapshot(whole)))


class _Wrapped(torch.nn.Module):
    def __init__(self, guide, call=None) -> None:
        super().__init__()
        self.inner = guide
        object.__setattr__(self, "call", call or guide)

    def forward(self, x):
        return self.call(x)


def test_fused_optimizers_give_the_same_weights() -> None:
    weights = {}
    for fused in (False, None):
        torch.manual_seed(0)
        vae = _vae()
        fit(vae.model, vae.guide, torch.randn(40, 4), epochs=3, batch_size=10, optimizer=partial(AdamW, fused=fused))
        weights[fused] = torch.cat([p.detach().flatten() for p in vae.parameters()])
    assert (weights[None] - weights[False]).abs().max() < 1e-12
    assert build_optimizer(Adam, list(_vae().parameters())).param_groups[0]["fused"] is True
    assert build_optimizer(partial(SGD, lr=1.0, foreach=True), list(_vae().parameters())).defaults["foreach"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got epochs=0"),
        ({"batch_size": 100}, "batch_size must not exceed the data, got batch_size=100, data=10"),
        ({"clip_norm": -1.0}, "clip_norm must be positive"),
        ({"patience": 3}, "patience requires validation data"),
        ({"engine": "warp"}, "engine must be one of 'auto', 'eager', 'compiled', 'cuda-graph', got engine='warp'"),
        ({"engine": "cuda-graph"}, "engine: 'cuda-graph' must have parameters on a GPU, got cpu"),
        ({"precision": "fp16"}, "precision must be one of 'fp32', 'bf16', got precision='fp16'"),
        ({"accumulate": 0}, "accumulate must be at least 1, got accumulate=0"),
        (
            {"objective": pyro.infer.RenyiELBO()},
            "objective must be a Pyro ELBO with differentiable_loss, got RenyiELBO",
        ),
        ({"objective": pyro.infer.JitTrace_ELBO()}, "got JitTrace_ELBO. Use Trace_ELBO: the engines compile it"),
        ({"objective": pyro.infer.Trace_ELBO}, r"got objective=the class Trace_ELBO. Write Trace_ELBO\(\)"),
        ({"optimizer": lambda p: pyro.optim.Adam({})}, "the optimizer must be one of torch.optim, got a PyroOptim"),
        ({"resume": True}, "resume requires a run folder"),
        ({"tensorboard": True}, "tensorboard requires a run folder"),
    ],
)
def test_bad_arguments_raise(options: dict, message: str) -> None:
    vae = _vae()
    with pytest.raises(ValueError, match=message) as error:
        fit(vae.model, vae.guide, torch.randn(10, 4), **{"batch_size": 5, **options})
    assert "\n" not in str(error.value)


def test_no_parameters_and_no_data_raise() -> None:
    with pytest.raises(ValueError, match="must have parameters to train"):
        fit(_model_without_parameters, _guide_without_parameters, torch.randn(10), batch_size=5)
    vae = _vae()
    with pytest.raises(ValueError, match="data must not be empty"):
        fit(vae.model, vae.guide, [])


def _model_without_parameters(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", Normal(pyro.sample("z", Normal(0.0, 1.0)), 1.0), obs=x)


def _guide_without_parameters(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", Normal(x / 2, 1.0))


def test_examples_per_second_and_seconds_are_recorded() -> None:
    vae = _vae()
    record = fit(vae.model, vae.guide, torch.randn(40, 4), epochs=1, batch_size=10).history[0]
    assert record["examples_per_second"] == pytest.approx(40 / record["seconds"])
    assert math.isfinite(record["seconds"])


def _stop_after(step: int, vae: VAE):
    """A guide that interrupts the training during the given step."""
    calls = []

    def call(x):
        calls.append(0)
        if len(calls) == step + 3:  # the first three calls examine the programs
            signal.raise_signal(signal.SIGINT)
        return vae.guide(x)

    return _Wrapped(vae.guide, call)


@pytest.mark.parametrize("step", [4, 6, 11])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_loader_resumes_exactly(step: int, shuffle: bool, tmp_path) -> None:
    data_set = torch.utils.data.TensorDataset(torch.randn(40, 4))
    loader = torch.utils.data.DataLoader(data_set, batch_size=7, shuffle=shuffle)
    vaes = [_vae()]
    vaes += [copy.deepcopy(vaes[0]), copy.deepcopy(vaes[0])]
    fit(vaes[0].model, _Wrapped(vaes[0].guide), loader, epochs=3, optimizer=FAST)
    with pytest.raises(KeyboardInterrupt):
        fit(vaes[1].model, _stop_after(step, vaes[1]), loader, epochs=3, optimizer=FAST, run=tmp_path / "run")
    torch.rand(5)
    fit(vaes[2].model, _Wrapped(vaes[2].guide), loader, epochs=3, optimizer=FAST, run=tmp_path / "run", resume=True)
    assert not any(_changed(vaes[2], _snapshot(vaes[0])))


@pytest.mark.parametrize("objective", [BetaELBO(beta=LinearWarmUp(4)), Trace_ELBO()])
def test_records_are_complete_after_a_stop_at_the_end_of_an_epoch(objective, tmp_path) -> None:
    x, whole = torch.randn(20, 4), _vae()
    stopped = copy.deepcopy(whole)
    options = {"epochs": 3, "batch_size": 5, "objective": objective}
    expected = fit(whole.model, _Wrapped(whole.guide), x, **options).history
    with pytest.raises(KeyboardInterrupt, match="after step 8"):
        fit(stopped.model, _stop_after(8, stopped), x, run=tmp_path / "run", **options)
    history = fit(stopped.model, _Wrapped(stopped.guide), x, run=tmp_path / "run", resume=True, **options).history
    for record in expected + history:
        record.pop("seconds"), record.pop("examples_per_second")
    assert history == expected


def test_a_folder_with_metrics_but_no_state_is_not_new(tmp_path) -> None:
    vae, x = _vae(), torch.randn(20, 4)
    fit(vae.model, vae.guide, x, epochs=1, batch_size=5, run=tmp_path / "run")
    (tmp_path / "run" / "state.pt").unlink()
    with pytest.raises(FileExistsError, match="must be new"):
        fit(vae.model, vae.guide, x, epochs=1, batch_size=5, run=tmp_path / "run")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 5}, "seed must be that of the run"),
        ({"batch_size": 4}, "batch_size must be that of the run"),
        ({"optimizer": partial(SGD, lr=0.1)}, "optimizer must be that of the run"),
        ({"optimizer": partial(Adam, lr=2e-2, eps=1e-4)}, r"optimizer.eps must be that of .*eps=0.0001, and 1e-08 in"),
        ({"objective": Trace_ELBO()}, "objective must be that of the run"),
        ({"epochs": 1}, "epochs must not be fewer"),
    ],
)
def test_a_run_resumes_only_with_its_settings(changed: dict, message: str, tmp_path) -> None:
    vae, x = _vae(), torch.randn(20, 4)
    options = {"epochs": 2, "batch_size": 5, "optimizer": FAST, "run": tmp_path / "run"}
    fit(vae.model, vae.guide, x, **options)
    with pytest.raises(ValueError, match=message):
        fit(vae.model, vae.guide, x, **{**options, "resume": True, **changed})


def test_a_nonfinite_step_does_not_change_running_statistics(tmp_path) -> None:
    class Normed(_Guide):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(1)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", Normal(self.loc + self.norm(x.unsqueeze(-1)).squeeze(-1), 1.0))

    x = torch.randn(20)
    x[7] = torch.nan
    guide = Normed()
    with pytest.raises((NonFiniteError, ValueError)):
        fit(_Poisoned(False), guide, x, epochs=1, batch_size=2, run=tmp_path / "run")
    assert guide.norm.running_mean.isfinite()
    assert not guide.training


def test_data_outside_the_support_stop_the_first_epoch_in_any_batch() -> None:
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", pyro.distributions.Bernoulli(logits=pyro.sample("z", Normal(0.0, 1.0))), obs=x)

    x = torch.ones(40)
    x[list(data.batches.Batches(x, 5, shuffle_seed=0).epoch())[6].index[2]] = 0.5
    with pytest.raises(ValueError, match=r"fit: data must lie in the support of site 'x'"):
        fit(model, _Guide(), x, epochs=1, batch_size=5)


class _Classic(torch.nn.Module):
    """A VAE as in Pyro's tutorial, with methods that call ``pyro.module``."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = torch.nn.Linear(4, 2), torch.nn.Linear(2, 4)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Normal(torch.zeros(2), 1.0).expand((len(x), 2)).to_event(1))
            pyro.sample("x", Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(self.encoder(x), 0.5).to_event(1))


def test_the_second_vae_of_the_tutorial_style_trains_and_resumes(tmp_path) -> None:
    x = torch.randn(20, 4)
    for name in ("first", "second"):
        vae = _Classic()
        before = _snapshot(vae)
        fit(vae.model, vae.guide, x, epochs=2, batch_size=5, optimizer=FAST, run=tmp_path / name)
        assert all(_changed(vae, before))
        fit(vae.model, vae.guide, x, epochs=4, batch_size=5, optimizer=FAST, run=tmp_path / name, resume=True)
        assert not vae.training


def test_a_module_trains_if_its_name_in_the_store_is_taken() -> None:
    x = torch.randn(20, 4)
    for _ in range(2):
        vae = _Classic()
        before = [p.detach().clone() for p in vae.parameters()]
        fit(lambda x, vae=vae: vae.model(x), lambda x, vae=vae: vae.guide(x), x, epochs=1, batch_size=5)
        assert all(not torch.equal(p, value) for p, value in zip(vae.parameters(), before, strict=True))


def test_beta_changes_by_whole_epochs_if_their_length_is_unknown() -> None:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from torch.ones(12, 4)

    vae = _vae()
    loader = torch.utils.data.DataLoader(Stream(), batch_size=4)
    history = fit(vae.model, vae.guide, loader, epochs=3, objective=BetaELBO(beta=LinearWarmUp(10))).history
    assert [r["beta"] for r in history] == pytest.approx([0.0, 0.1, 0.2])


def test_ambiguous_data_raise() -> None:
    vae, x = _vae(), torch.randn(20, 4)
    for wrong in ((x,), iter([x]), (b for b in [x])):
        with pytest.raises(ValueError, match="Wrap it: DataLoader"):
            fit(vae.model, vae.guide, wrong)


def test_a_pair_that_cannot_be_validated_raises_before_training() -> None:
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))
            pyro.sample("extra", Normal(0.0, 1.0), infer={"is_auxiliary": True})

    calls = []

    def model(x):
        calls.append(0)
        with pyro.plate("data", len(x)):
            pyro.sample("x", Normal(pyro.sample("z", Normal(0.0, 1.0)), 1.0), obs=x)

    with pytest.raises(
        ValueError, match=r"must have a reverse model r\(a \| x, z\), as a factor of the guide, got \['ex"
    ):
        fit(model, guide, torch.randn(20), validation=torch.randn(5), batch_size=5, epochs=1)
    assert len(calls) <= 2  # of the examination


def test_an_iterable_is_read_once_before_the_first_epoch() -> None:
    class Counted:
        def __init__(self) -> None:
            self.count = 0

        def __iter__(self):
            self.count += 1
            return iter([torch.randn(10, 4)] * 2)

        def __len__(self) -> int:
            return 2

    batches, vae = Counted(), _vae()
    fit(vae.model, vae.guide, batches, epochs=3, engine="eager")
    assert batches.count == 1 + 3
