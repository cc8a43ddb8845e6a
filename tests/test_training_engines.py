"""Trainings under every engine: equal weights, equal errors, and resumed runs equal to uninterrupted ones.

The CUDA-graph engine runs here on a CPU: its graphs are tapes of operations (``tests/tape.py``), recordings are not
compiled. Only torch's CUDA graphs themselves require a GPU.
"""

from __future__ import annotations

import signal
import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import StepLR

from pyro_vae import VAE, fit, objectives
from pyro_vae.data import ImageSet
from pyro_vae.data.batches import Batch, Batches
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.networks import MLP
from pyro_vae.objectives import BetaELBO, BetaMeanFieldELBO, FactorVAE, LinearWarmUp
from pyro_vae.priors import StandardNormalPrior
from pyro_vae.training import (
    CompiledEngine,
    CudaGraphEngine,
    EagerEngine,
    LossFunction,
    NonFiniteError,
    Step,
    checkpoint,
    fitting,
    trainer,
)
from pyro_vae.training.engines import select
from pyro_vae.training.engines.base import restore
from pyro_vae.training.engines.cuda_graph import _make_capturable
from pyro_vae.training.engines.update import Update
from pyro_vae.training.state import EpochMeter
from tests.tape import capture
from tools.kill_and_resume import kill_and_resume

STRIDE = 4  # steps of one graph
SKIP_NORM = 1.4  # some gradients are larger


def _graph_engine(*args, **options) -> CudaGraphEngine:
    engine = CudaGraphEngine(*args, capture=options.pop("capture", capture), **options)
    engine.stride = STRIDE
    return engine


@pytest.fixture
def engines(monkeypatch, uncompiled) -> list:
    """Every engine by its name, the CUDA-graph engine too; the list collects the losses of the steps that are taken."""
    monkeypatch.setattr(select, "CudaGraphEngine", _graph_engine)
    resolve = select.resolve_engine
    for module in (select, checkpoint, fitting, trainer):
        anywhere = lambda name, *args, **kw: name if name == "cuda-graph" else resolve(name, *args, **kw)  # noqa: E731
        monkeypatch.setattr(module, "resolve_engine", anywhere)
    losses, add = [], EpochMeter.add
    monkeypatch.setattr(EpochMeter, "add", lambda *args: losses.append(float(args[1].loss)) or add(*args))
    return losses


class Normalized(nn.Module):
    """A network with running statistics."""

    def __init__(self, in_shape, out_shape) -> None:
        super().__init__()
        self.norm, self.net = nn.BatchNorm1d(in_shape[0]), MLP(in_shape, out_shape, hidden=(6,))

    def forward(self, x):
        return self.net(self.norm(x))


def _vae(net=partial(MLP, hidden=(6,), dropout=0.2), shape=(5,)) -> VAE:  # noqa: B008
    likelihood = BernoulliLikelihood(2, shape, net=net)
    return VAE(StandardNormalPrior(2), likelihood, DiagonalNormalGuide(shape, 2, net=net))


IMAGES = torch.randint(0, 256, (34, 1, 1, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
X = (IMAGES > 127).double().reshape(34, 5)
DYNAMIC = {"data": ImageSet(IMAGES, dynamic=True), "shape": (1, 1, 5)}
CASES = {
    "Adam": {"optimizer": partial(Adam, lr=1e-2)},
    "unfused Adam, Pyro's ELBO": {"optimizer": partial(Adam, lr=1e-2, fused=False), "objective": Trace_ELBO},
    "clipped AdamW, schedule by epochs": {
        **{"optimizer": partial(AdamW, lr=1e-2, weight_decay=0.1), "clip_norm": 0.5},
        "lr_schedule": partial(StepLR, step_size=1, gamma=0.5),
    },
    "momentum, batch norm": {"net": Normalized, "optimizer": partial(SGD, lr=1e-2, momentum=0.9)},
    "RMSprop, accumulated, warm-up by steps": {
        **{"optimizer": partial(RMSprop, lr=1e-2), "accumulate": 2, "clip_norm": 1.0},
        "objective": lambda: BetaELBO(beta=LinearWarmUp(9, unit="steps")),
    },
    "warm-up, analytic KL": {"objective": lambda: BetaMeanFieldELBO(beta=LinearWarmUp(2), num_particles=3)},
    "averaged, rate warmed up, some steps skipped": {"ema": 0.9, "lr_warmup": 7, "skip_norm": SKIP_NORM},
    "averaged momentum, some steps skipped": {
        "optimizer": partial(SGD, lr=0.1, momentum=0.9),
        "ema": 0.9,
        "skip_norm": SKIP_NORM,
    },
    "objective with a network, some steps skipped": {
        "objective": lambda: FactorVAE(gamma=LinearWarmUp(9, end=5.0, unit="steps"), hidden=(6,), lr=1e-2),
        "skip_norm": 2.0,
    },
    "binarized anew, accumulated": {**DYNAMIC, "accumulate": 3},
    "loader, schedule by steps": {
        "data": list(X.split(8)),
        **{"lr_schedule": partial(StepLR, step_size=2, gamma=0.9), "lr_schedule_unit": "step"},
    },
}


def _train(engine: str, case: dict, *, epochs: int = 3, vae: VAE | None = None, **options) -> VAE:
    """Five batches an epoch, the last of them of two data; with the same weights at the start."""
    options = {**case, **options}
    torch.manual_seed(5)
    built = _vae(options.pop("net", _vae.__defaults__[0]), options.pop("shape", (5,)))
    vae = vae or built
    data = options.pop("data", X)
    objective = options.pop("objective", objectives.ELBO)()
    fit(vae.model, vae.guide, data, epochs=epochs, batch_size=8, engine=engine, objective=objective, **options)
    return vae


def _tensors(vae: VAE) -> list[torch.Tensor]:
    return [t.detach().clone() for t in vae.state_dict().values()]


def _assert_close(one, two, tolerance: float = 1e-10) -> None:
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------- equality


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_engine_takes_the_same_steps(case: str, engines: list, monkeypatch) -> None:
    if "unfused" in case or "RMSprop" in case:  # on a CPU they read their step count
        monkeypatch.setattr(select, "CudaGraphEngine", partial(_graph_engine, capture=lambda body: body))
    results = {}
    for name in ("eager", "compiled", "cuda-graph"):
        engines.clear()
        results[name] = (_tensors(_train(name, CASES[case])), list(engines))
    weights, losses = results["eager"]
    assert len(losses) == 3 * -(-5 // CASES[case].get("accumulate", 1))
    assert len(set(losses)) == len(losses)
    for name in ("compiled", "cuda-graph"):
        assert results[name][1] == pytest.approx(losses, rel=1e-10), name
        _assert_close(results[name][0], weights)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["momentum, batch norm"])
def test_compiled_code_takes_the_same_steps(case: str) -> None:
    _assert_close(_tensors(_train("compiled", CASES[case])), _tensors(_train("eager", CASES[case])))


def _model_of_parameters(x) -> None:
    scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), scale))
        pyro.sample("x", dist.Normal(z, 0.1), obs=x)


def _guide_of_parameters(x) -> None:
    spread = pyro.param("spread", torch.tensor(1.0), constraint=dist.constraints.interval(0.1, 2.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, spread))


def test_parameters_of_pyro_s_store_train_equally(engines: list) -> None:
    results = []
    for name in ("eager", "compiled", "cuda-graph"):
        pyro.clear_param_store()
        engines.clear()
        options = {"epochs": 4, "batch_size": 8, "optimizer": partial(Adam, lr=0.1), "engine": name}
        fit(_model_of_parameters, _guide_of_parameters, X[:, 0], **options)
        store = pyro.get_param_store()
        results.append((list(engines), [store[key].detach().clone() for key in ("scale", "loc", "spread")]))
    for losses, parameters in results[1:]:
        assert losses == pytest.approx(results[0][0], rel=1e-10)
        _assert_close(parameters, results[0][1])
    assert all((p != start).all() for p, start in zip(results[0][1], (1.0, 0.0, 1.0), strict=True))


class Fixed(nn.Module):
    """A model without a latent site: its loss has no noise."""

    def __init__(self) -> None:
        super().__init__()
        self.net = MLP((5,), (5,), hidden=(6,))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.net(x), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("name", ["eager", "compiled", "cuda-graph"])
def test_two_batches_are_one_of_twice_the_length(name: str, engines: list) -> None:
    results = []
    for batch_size, accumulate in ((20, 1), (10, 2), (5, 4)):  # 34 data: two steps, the second of 14
        torch.manual_seed(5)
        model = Fixed()
        options = {"optimizer": partial(SGD, lr=0.1, momentum=0.5), "clip_norm": 0.5, "engine": name}
        history = fit(model, _nothing, X, epochs=4, batch_size=batch_size, accumulate=accumulate, **options).history
        results.append([*model.state_dict().values(), torch.tensor([r["loss"] for r in history])])
        assert history[-1]["step"] == 8
    for other in results[1:]:
        _assert_close(other, results[0], 1e-12)


def _nothing(x) -> None:
    """A guide without a site."""


# ---------------------------------------------------------------- steps that cannot be taken


class Poisoned(nn.Module):
    """A model with running statistics, and bad in its loss, its gradient or its support at a datum above 90.

    It has no branch and no noise: engines may draw more before they read that a step was not taken.
    """

    def __init__(self, place: str) -> None:
        super().__init__()
        self.loc, self.norm, self.place = nn.Parameter(torch.tensor(0.5)), nn.BatchNorm1d(1), place

    def forward(self, x):
        bad = (x > 90).to(x)
        loc = self.loc + self.norm(x.unsqueeze(-1)).squeeze(-1)
        if self.place == "loss":
            loc = loc / (1 - bad)
        if self.place == "gradient":  # the value of a square root at 0 is finite, its slope is not
            loc = loc + ((self.loc - self.loc.detach()) * bad + (1 - bad)).sqrt() - (1 - bad)
        with pyro.plate("data", len(x)):
            if self.place == "support":
                pyro.sample("x", dist.Bernoulli(logits=loc), obs=(x > 0).to(x) - 0.5 * bad)
            else:
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x.clamp(max=1.0))


PLACES = ["loss", "gradient", "support"]
FACTORIES = {
    "fused Adam": partial(Adam, lr=0.1, fused=True),
    "fused momentum": partial(SGD, lr=0.1, momentum=0.9, fused=True),
    "momentum": partial(SGD, lr=0.1, momentum=0.9),
    "RMSprop": partial(RMSprop, lr=0.1),
}


BAD_STEPS = [  # with a stride of 4 there are three steps before the first graph, then groups of four
    *((place, "fused Adam", bad) for place in PLACES for bad in (0, 3, 6)),
    *(("loss", optimizer, bad) for optimizer in ("fused momentum", "momentum", "RMSprop") for bad in (0, 11)),
]


def _engine(name: str, place: str, factory, like: torch.Tensor, clip_norm: float | None = None):
    torch.manual_seed(5)
    model = Poisoned(place)
    loss = LossFunction(objectives.ELBO(), model, _nothing, list(model.parameters()), list(model.buffers()))
    optimizer = factory(loss.parameters)
    update = Update(optimizer, loss.parameters, clip_norm=clip_norm)
    if name == "eager":
        return EagerEngine(loss, update)
    if name == "compiled":
        return CompiledEngine(loss, update, Batch((like,)))
    taped = optimizer.defaults.get("fused")  # on a CPU the others read tensor values
    play = capture if taped else lambda body: body
    return _graph_engine(loss, update, Batch((like,)), capture=play)


def _steps_taken(engine, batches: list) -> list[float | None]:
    """The losses; None for a skipped step, after which the caller of a stepwise engine restores the buffers."""
    losses: list[float | None] = []
    while len(losses) < len(batches):
        rest = [Step([Batch((x,))]) for x in batches[len(losses) :]]
        before = [buffer.clone() for buffer in engine.loss.buffers]
        try:
            results = engine.run(rest if engine.stride > 1 else rest[:1])
        except ValueError:  # outside the support, raised by the eager engine
            results = []
        losses += [float(r.loss) if r.finite else None for r in results] or [None]
        if losses[-1] is None and engine.stride == 1:
            restore(engine.loss.buffers, before)
    return losses


def _kept_by(engine) -> list[torch.Tensor]:
    """Parameters, running statistics, and the optimizer's state."""
    state = engine.update.optimizer.state_dict()["state"]
    tensors = [v for values in state.values() for _, v in sorted(values.items()) if isinstance(v, torch.Tensor)]
    return [t.detach().clone() for t in (*engine.loss.parameters, *engine.loss.buffers, *tensors)]


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(("place", "optimizer", "bad"), BAD_STEPS)
def test_a_nonfinite_step_changes_nothing(place: str, optimizer: str, bad: int) -> None:
    factory, batches = FACTORIES[optimizer], list(torch.randn(13, 4))
    expected = _engine("eager", place, factory, batches[0])
    losses = _steps_taken(expected, batches[:bad] + batches[bad + 1 :])
    poisoned = [x.clone() for x in batches]
    poisoned[bad][1] = 99.0
    for name in ("eager", "compiled", "cuda-graph"):
        engine = _engine(name, place, factory, batches[0])
        results = _steps_taken(engine, poisoned)
        assert results.pop(bad) is None
        assert results == pytest.approx(losses, rel=1e-12)
        _assert_close(_kept_by(engine), _kept_by(expected), 1e-12)


@pytest.mark.usefixtures("uncompiled")
def test_steps_after_a_nonfinite_one_are_skipped() -> None:
    batches = list(torch.randn(12, 4))
    batches[6][1] = 99.0
    for name in ("eager", "compiled", "cuda-graph"):
        engine = _engine(name, "loss", FACTORIES["fused Adam"], batches[0])
        results = engine.run([Step([Batch((x,))]) for x in batches])
        assert [r.finite for r in results] == [True] * 6 + [False]


@pytest.mark.usefixtures("uncompiled")
def test_the_gradient_is_clipped_before_the_step() -> None:
    for name in ("eager", "compiled", "cuda-graph"):
        engine = _engine(name, "loss", partial(SGD, lr=1.0, fused=True), torch.randn(4), clip_norm=0.01)
        for _ in range(5):
            before = [p.detach().clone() for p in engine.loss.parameters]
            engine.step((5 + torch.randn(4),))
            moved = [(p.detach() - b).flatten() for p, b in zip(engine.loss.parameters, before, strict=True)]
            assert float(torch.cat(moved).norm()) == pytest.approx(0.01, rel=1e-3), name


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("place", PLACES)
def test_every_engine_stops_at_the_same_datum_with_the_same_message(
    place: str, accumulate: int, engines: list, tmp_path
):
    x = torch.randn(60)
    order = next(iter(Batches(x, 60, shuffle_seed=0).epoch())).index.tolist()
    datum, step = order[5 * 13 // 2], 6 // accumulate
    x[datum] = 99.0
    results = {}
    for name in ("eager", "compiled", "cuda-graph"):
        torch.manual_seed(5)
        model, run = Poisoned(place), tmp_path / name
        engines.clear()
        with pytest.raises((NonFiniteError, ValueError)) as error:
            fit(model, _nothing, x, epochs=2, batch_size=5, accumulate=accumulate, engine=name, run=run)
        message = str(error.value).replace(str(run), "RUN")
        results[name] = (message, list(engines), list(model.state_dict().values()))
        assert len(engines) == step
        assert not model.training
        if place != "support":
            assert (error.value.datum, error.value.step) == (datum, step)
            assert error.value.site == ("x" if place == "loss" else None)
            assert "Start again at a lower rate: --resume RUN --optimizer.lr 0.0001" in message
    message, losses, weights = results["eager"]
    assert "\n" not in message
    assert ("site 'x'" in message) == (place != "gradient")
    assert ("the gradient of model.loc for datum" in message) == (place == "gradient")
    for name in ("compiled", "cuda-graph"):
        assert results[name][0] == message
        assert results[name][1] == pytest.approx(losses, rel=1e-12)
        _assert_close(results[name][2], weights, 1e-12)


@pytest.mark.usefixtures("engines")
def test_a_program_that_takes_another_path_at_another_shape_continues_eagerly() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = _vae()

        def model(self, x):
            return self.inner.model(x)

        def guide(self, x):
            return self.inner.guide(x if len(x) > 3 else x * (2.0 if x.sum() > 0 else 1.0))

    results = []
    for name in ("eager", "compiled", "cuda-graph"):
        torch.manual_seed(5)
        program = Branching()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            fit(program.model, program.guide, X, epochs=3, batch_size=8, engine=name)
        assert [str(w.message)[:20] for w in warned] == ["engine: runs eagerly"] * (name != "eager")
        results.append(_tensors(program))
    for weights in results[1:]:
        _assert_close(weights, results[0])


@pytest.mark.parametrize("name", ["eager", "compiled", "cuda-graph"])
def test_skipped_steps_keep_running_statistics(name: str, engines: list) -> None:
    case = {"data": X[:32], "net": Normalized, "optimizer": partial(SGD, lr=1e-2, momentum=0.9)}
    skipped = _train(name, case, epochs=1, skip_norm=1e-9)
    torch.manual_seed(5)
    assert _identical(skipped, _vae(Normalized))
    assert not _identical(skipped, _train(name, case, epochs=1, skip_norm=1e9))


# ---------------------------------------------------------------- resuming


def _interrupt_after(monkeypatch, step: int) -> None:
    """Ctrl-C while the given step is counted."""
    add, calls = EpochMeter.add, []

    def counting(*args):
        calls.append(0)
        if len(calls) == step:
            signal.raise_signal(signal.SIGINT)
        return add(*args)

    monkeypatch.setattr(EpochMeter, "add", counting)


# Without a ragged last batch, which would be one more recording; and the step after which the training is stopped.
RESUMED = {
    "dropout": ({"data": X[:32], "optimizer": partial(Adam, lr=1e-2)}, 7),
    "batch norm": ({"data": X[:32], "net": Normalized, "optimizer": partial(SGD, lr=1e-2, momentum=0.9)}, 2),
    "warm-up": (
        {"data": X[:32], "objective": lambda: BetaELBO(beta=LinearWarmUp(9, unit="steps")), "accumulate": 2},
        3,
    ),
    "binarized": (
        {**DYNAMIC, "data": ImageSet(IMAGES[:32], dynamic=True), "lr_schedule": partial(StepLR, step_size=1)},
        4,
    ),
    "loader": ({"data": list(X[:32].split(8))}, 5),
    "averaged": ({"data": X[:32], "ema": 0.9, "lr_warmup": 7, "skip_norm": SKIP_NORM}, 6),
    "objective with a network": ({"data": X[:32], "objective": lambda: FactorVAE(hidden=(6,), lr=1e-2)}, 6),
}


def _interrupted(monkeypatch, name: str, case: dict, step: int, **options) -> VAE:
    """A training that is interrupted after the given step and resumed, as if in another process."""
    with monkeypatch.context() as patch:
        _interrupt_after(patch, step)
        with pytest.raises(KeyboardInterrupt, match="stopped after step"):
            _train(name, case, **options)
    torch.rand(7)
    return _train("auto", case, resume=True, **options)


def _identical(one: VAE, two: VAE) -> bool:
    return all(map(torch.equal, _tensors(one), _tensors(two)))


@pytest.mark.slow
@pytest.mark.parametrize("case", RESUMED)
@pytest.mark.parametrize("name", ["eager", "compiled", "cuda-graph"])
def test_a_resumed_run_equals_the_uninterrupted_run_bit_for_bit(
    name: str, case: str, engines, monkeypatch, tmp_path
) -> None:
    options, step = RESUMED[case]
    resumed = _interrupted(monkeypatch, name, options, step, run=tmp_path / "run")
    assert _identical(_train(name, options), resumed)
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["identity"]["engine"] == name


@pytest.mark.parametrize("first", ["eager", "compiled", "cuda-graph"])
def test_a_run_resumes_with_its_engine(first: str, engines: list, monkeypatch, tmp_path) -> None:
    built, build_engine = [], trainer.build_engine
    monkeypatch.setattr(
        trainer, "build_engine", lambda name, *args, **kw: built.append(name) or build_engine(name, *args, **kw)
    )
    run = tmp_path / "run"
    _train(first, {}, epochs=1, run=run)
    for other in {"eager", "compiled", "cuda-graph"} - {first}:
        message = f"^fit: engine must be that of the run to resume, got engine='{other}', and '{first}' in the run"
        with pytest.raises(ValueError, match=message) as error:
            _train(other, {}, epochs=2, run=run, resume=True)
        assert "\n" not in str(error.value)
    _train("auto", {}, epochs=2, run=run, resume=True)
    _train(first, {}, epochs=3, run=run, resume=True)
    assert built == [first] * 3


@pytest.mark.parametrize(("option", "value"), [("precision", "bf16"), ("accumulate", 2)])
def test_a_run_resumes_only_with_its_precision_and_accumulation(option: str, value, tmp_path) -> None:
    _train("eager", {}, epochs=1, run=tmp_path / "run")
    with pytest.raises(ValueError, match=f"^fit: {option} must be that of the run to resume, got {option}={value!r}"):
        _train("eager", {}, epochs=2, run=tmp_path / "run", resume=True, **{option: value})


def test_a_restored_learning_rate_moves_to_the_device_of_the_parameters() -> None:
    optimizer = Adam([nn.Parameter(torch.empty(2, device="meta"))], lr=0.1)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
    _make_capturable(optimizer)
    assert optimizer.param_groups[0]["lr"].device.type == "meta"


@pytest.mark.slow
def test_a_killed_compiled_run_equals_the_uninterrupted_run_bit_for_bit(tmp_path) -> None:
    assert kill_and_resume(tmp_path, kills=1, per_run=1, seed=1, engine="compiled") == 0
