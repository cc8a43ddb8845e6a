"""Callbacks of a training: when they are called, that they change nothing, and what loggers write."""

from __future__ import annotations

import csv
import os
import random
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyro
import pytest
import torch
from pyro.distributions import Normal
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.optim import SGD

from pyro_vae import VAE, fit
from pyro_vae._core import distributed
from pyro_vae.evaluation.marginals import kl_per_dimension
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood, NormalLikelihood
from pyro_vae.networks import MLP
from pyro_vae.priors import StandardNormalPrior
from pyro_vae.training import CSV, Callback, MLflow, OptunaPruner, RunFolder, TensorBoard, WandB
from pyro_vae.training.engines.compiled import CompiledEngine


def _vae(shape: tuple[int, ...] = (4,)) -> VAE:
    net = partial(MLP, hidden=(5,), dropout=0.3)
    likelihood = NormalLikelihood(2, shape, net=net) if len(shape) == 1 else BernoulliLikelihood(2, shape, net=net)
    return VAE(StandardNormalPrior(2), likelihood, DiagonalNormalGuide(shape, 2, net=net))


def _train(*callbacks: Callback, shape: tuple[int, ...] = (4,), **options: Any) -> tuple[VAE, Any]:
    torch.manual_seed(1)
    vae, x = _vae(shape), torch.rand(40, *shape).round()
    options = {"epochs": 3, "batch_size": 10, "engine": "eager", "validation": x[:20], **options}
    return vae, fit(vae.model, vae.guide, x, callbacks=callbacks, **options)


def _assert_same(a: VAE, b: VAE) -> None:
    for (name, tensor), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name


class Diary(Callback):
    """Writes down every call with epoch and step."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def start(self, training):
        self.calls.append(("start", training.epoch, training.step))

    def steps(self, training):
        self.calls.append(("steps", training.epoch, training.step))

    def epoch(self, training):
        self.calls.append(("epoch", training.epoch, training.step))
        assert training.history[-1]["epoch"] == len(training.history) == training.epoch

    def checkpoint(self, training):
        self.calls.append(("checkpoint", training.epoch, training.step))

    def end(self, training):
        self.calls.append(("end", training.epoch, training.step))


def test_every_method_is_called_at_its_time(tmp_path: Path) -> None:
    diary = Diary()
    _train(diary, epochs=2, batch_size=20, run=tmp_path / "run", checkpoint_seconds=1e9)
    assert diary.calls == [
        *[("start", 0, 0), ("steps", 0, 1), ("steps", 0, 2), ("checkpoint", 0, 2), ("epoch", 1, 2)],
        *[("steps", 1, 3), ("steps", 1, 4), ("epoch", 2, 4), ("checkpoint", 2, 4), ("end", 2, 4)],
    ]


class Disturber(Callback):
    """Draws from every generator, and leaves modules in another mode."""

    def _disturb(self, training):
        assert not training.model.training
        assert not training.guide.net.layers.training
        assert not torch.is_grad_enabled()
        assert distributed._alone.get()
        torch.rand(7), np.random.rand(3), random.random()  # noqa: NPY002
        torch.manual_seed(3)
        training.model.train()
        training.guide.net.eval()
        random.seed(1), np.random.seed(2)  # noqa: NPY002

    start = steps = epoch = checkpoint = end = _disturb


@pytest.mark.parametrize("options", [{"engine": "eager"}, {"engine": "compiled"}, {"ema": 0.9}, {"patience": 1}])
def test_callbacks_change_no_weight(options: dict, uncompiled: None, tmp_path: Path) -> None:
    generators = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    with_callback, result = _train(Disturber(), run=tmp_path / "run", checkpoint_seconds=0.0, **options)
    assert generators == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    without, expected = _train(**options)
    _assert_same(with_callback, without)
    assert result.history[-1]["elbo"] == expected.history[-1]["elbo"]
    assert not any(m.training for part in (with_callback.model, with_callback.guide) for m in part.modules())


class Counter(Callback):
    """Counts steps, and raises after one of them."""

    def __init__(self, raise_after: int | None = None) -> None:
        self.count, self.raise_after, self.error = torch.zeros(()), raise_after, None

    def steps(self, training):
        if training.step == self.raise_after:
            raise ZeroDivisionError("mine")
        self.count += 1

    def end(self, training):
        self.error = training.error

    def state_dict(self):
        return {"count": self.count.clone()}

    def load_state_dict(self, state):
        self.count = state["count"]


@pytest.mark.parametrize("step", [1, 6, 8])  # before the first checkpoint, within an epoch, at its end
def test_an_error_of_a_callback_stops_a_training_that_can_be_resumed(step: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"run": tmp_path / "run", "checkpoint_seconds": 0.0, "patience": 2}
    failing, other = Counter(step), Counter()
    with pytest.raises(ZeroDivisionError, match=r"^mine$"):
        _train(other, failing, **options)
    assert type(failing.error) is type(other.error) is ZeroDivisionError
    resumed, twin = Counter(), Counter()
    vae, result = _train(resumed, twin, **options, resume=True)
    assert int(resumed.count) == int(twin.count) == 12
    assert resumed.error is None
    expected, uninterrupted = _train(patience=2)
    _assert_same(vae, expected)
    assert [r["validation_elbo"] for r in result.history] == [r["validation_elbo"] for r in uninterrupted.history]


def test_states_of_callbacks_of_one_class_are_kept_apart(tmp_path: Path) -> None:
    first, second = Counter(), Counter()
    second.count += 100
    _train(first, second, run=tmp_path / "run")
    states = RunFolder(tmp_path / "run").load_state()["callbacks"]
    assert {name: int(state["count"]) for name, state in states.items()} == {"Counter": 12, "Counter.1": 112}
    _train(run=tmp_path / "run", resume=True, epochs=4)  # without them, and with others
    _train(Diary(), run=tmp_path / "run", resume=True, epochs=5)


def test_a_state_that_could_not_be_read_again_is_refused(tmp_path: Path) -> None:
    counter = Counter()
    counter.state_dict = lambda: {"count": [1, {"of": Path()}]}  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"^Counter: state_dict must hold plain values and tensors, got a PosixPath\."):
        _train(counter, run=tmp_path / "run")
    _train(run=tmp_path / "run", resume=True)


class Stopper(Callback):
    def __init__(self, last: int) -> None:
        self.last = last

    def epoch(self, training):
        if training.epoch >= self.last:
            training.stop()

    start = epoch


def test_a_callback_can_stop_a_training(tmp_path: Path) -> None:
    vae, result = _train(Stopper(2), run=tmp_path / "run", epochs=5)
    assert (result.stopped, len(result.history)) == ("callback", 2)
    again, result = _train(Stopper(2), run=tmp_path / "run", epochs=5, resume=True)
    assert (result.stopped, len(result.history)) == ("callback", 2)
    _assert_same(vae, again)
    _, result = _train(run=tmp_path / "run", epochs=5, resume=True)
    assert (result.stopped, len(result.history)) == ("epochs", 5)


def test_callbacks_see_the_averaged_and_then_the_final_weights() -> None:
    seen: dict[str, list[torch.Tensor]] = {"epoch": [], "end": []}

    class Copies(Callback):
        def epoch(self, training):
            seen["epoch"].append(training.guide.net.layers[-1].bias.detach().clone())

        def end(self, training):
            seen["end"].append(training.guide.net.layers[-1].bias.detach().clone())

    _train(Copies(), ema=0.9, epochs=2)
    after_one, _ = _train(ema=0.9, epochs=1)
    after_two, _ = _train(ema=0.9, epochs=2)
    expected = [vae.guide.net.layers[-1].bias for vae in (after_one, after_two, after_two)]
    assert all(map(torch.equal, [*seen["epoch"], *seen["end"]], expected))
    best, result = _train(Copies(), ema=0.9, epochs=8, patience=1, optimizer=partial(SGD, lr=0.3))
    assert (result.stopped, torch.equal(seen["end"][-1], best.guide.net.layers[-1].bias)) == ("patience", True)


def test_a_callback_may_use_other_networks_but_not_freeze_the_trained_ones() -> None:
    class Uses(Callback):
        def __init__(self) -> None:
            self.net = nn.Linear(4, 2)

        def epoch(self, training):
            assert self.net(training.batch[0]).shape == (10, 2)

    class Freezes(Callback):
        def epoch(self, training):
            training.guide.requires_grad_(False)

    uses = Uses()
    _assert_same(_train(uses)[0], _train()[0])
    _assert_same(_train(monitor=lambda: {"norm": uses.net(torch.ones(4)).norm()})[0], _train()[0])
    with pytest.raises(ValueError, match="trained parameters must not change during a training"):
        _train(Freezes())


@pytest.mark.filterwarnings("ignore:engine. runs eagerly")
@pytest.mark.parametrize(("hook", "step"), [("steps", 3), ("checkpoint", 3), ("epoch", 10)])
def test_recordings_are_compared_again_after_each_call(
    hook: str, step: int, uncompiled: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The programs read a value that recordings do not watch."""

    class Changes(Callback):
        pass

    setattr(Changes, hook, lambda self, training: monkeypatch.setenv("SCALE", "2.0") if training.step == step else None)

    def weights(engine: str) -> torch.Tensor:
        monkeypatch.setenv("SCALE", "1.0")
        loc = nn.Parameter(torch.zeros(()))

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.loc = loc

            def forward(self, x):
                with pyro.plate("data", len(x)):
                    z = pyro.sample("z", Normal(0.0, 1.0))
                    return pyro.sample("x", Normal(self.loc + z * float(os.environ["SCALE"]), 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", Normal(x / 2, 1.0))

        data, run = torch.linspace(-1, 2, 50), tmp_path / engine
        options: dict[str, Any] = {"epochs": 3, "batch_size": 10, "run": run, "checkpoint_seconds": 0.0}
        fit(Model(), guide, data, engine=engine, optimizer=partial(SGD, lr=0.1), callbacks=[Changes()], **options)
        return loc.detach()

    torch.testing.assert_close(weights("compiled"), weights("eager"), rtol=1e-10, atol=0)
    assert os.environ["SCALE"] == "2.0"


def test_a_recording_is_not_compared_without_callbacks(uncompiled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(CompiledEngine, "recheck", lambda self: calls.append(0))
    _train(engine="compiled")
    assert len(calls) == 1  # after the first epoch
    _train(Counter(), engine="compiled")
    assert len(calls) == 1 + 1 + 12


def test_code_of_one_process_does_not_wait_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with distributed.acting_alone():
        assert distributed.join().alone
    assert not distributed._alone.get()


def test_bad_callbacks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^fit: callbacks must be a sequence, each entry a Callback, got callbacks="):
        _train(CSV)  # type: ignore[arg-type]  # the class
    with pytest.raises(ValueError, match=r"^CSV: a run folder is required, got run=None\. Pass run='runs/NAME'\."):
        _train(CSV())


@pytest.mark.parametrize("logger", [TensorBoard, MLflow, WandB, partial(OptunaPruner, None)])
def test_a_missing_package_is_named_in_one_line(logger, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboard", "mlflow", "wandb", "optuna"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ValueError, match=r"must be installed, got no such package\. Run pip install 'pyro-vae\[logg"):
        logger()


# ---------------------------------------------------------------- loggers


def test_csv_holds_the_records(tmp_path: Path) -> None:
    _train(CSV(), run=tmp_path / "run", epochs=2)
    _, result = _train(CSV(), run=tmp_path / "run", epochs=4, resume=True, skip_norm=1e9)
    with (tmp_path / "run/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["validation_elbo"]) for row in rows] == [r["validation_elbo"] for r in result.history]
    assert [row["skipped"] for row in rows] == ["", "", "0", "0"]


def _events(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return events


def test_tensorboard_shows_numbers_images_kl_and_options(tmp_path: Path) -> None:
    run = tmp_path / "run"
    kept: dict[str, Any] = {}

    class Keeps(Callback):
        def epoch(self, training):
            q = training.guide.posterior(training.batch[0])
            kept["kl"] = kl_per_dimension(q, training.model.prior(), 1).mean(0)
            kept["x"] = training.batch[0]

    _, result = _train(TensorBoard(num_images=3), Keeps(), shape=(1, 4, 6), run=run)
    events = _events(run)
    for name in ("loss", "validation_elbo", "rate"):
        values = [(event.step, event.value) for event in events.Scalars(name)]
        assert values == [(r["step"], pytest.approx(r[name], rel=1e-6)) for r in result.history]
    image = events.Images("reconstructions")[-1]
    assert (image.height, image.width) == (8, 18)  # data above reconstructions, side by side
    histogram = events.Histograms("KL per latent dimension")[-1].histogram_value
    assert histogram.num == 2
    assert histogram.sum == pytest.approx(float(kept["kl"].sum()), rel=1e-6)
    options = str(events.summary_metadata) + "".join(map(str, events.PluginTagToContent("hparams").values()))
    assert all(name in options for name in ("batch_size", "optimizer.lr", "guide.net"))


def test_tensorboard_without_a_vae_of_images(tmp_path: Path) -> None:
    _train(TensorBoard(), run=tmp_path / "a", epochs=1)
    assert _events(tmp_path / "a").Tags()["images"] == []
    assert _events(tmp_path / "a").Tags()["histograms"] == ["KL per latent dimension"]
    _train(run=tmp_path / "b", epochs=1, shape=(1, 4, 6), tensorboard=True)
    assert _events(tmp_path / "b").Tags()["images"] == ["reconstructions"]
    _train(TensorBoard(num_images=0), run=tmp_path / "c", epochs=1, shape=(1, 4, 6))
    assert _events(tmp_path / "c").Tags()["images"] == []
    exact = fit(_noise, _noise_guide, torch.randn(20), epochs=1, batch_size=10, run=tmp_path / "d", tensorboard=True)
    assert _events(tmp_path / "d").Scalars("loss")[0].value == pytest.approx(exact.history[0]["loss"], rel=1e-6)


def _noise(x):
    loc = pyro.param("loc", torch.zeros(()))
    with pyro.plate("data", len(x)):
        pyro.sample("x", Normal(pyro.sample("z", Normal(loc, 1.0)), 1.0), obs=x)


def _noise_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", Normal(x / 2, 0.7))


def test_tensorboard_shows_repeated_epochs_once(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        _train(TensorBoard(), Counter(11), run=tmp_path / "run", checkpoint_seconds=1e9)
    _train(TensorBoard(), run=tmp_path / "run", resume=True)
    assert [event.step for event in _events(tmp_path / "run").Scalars("elbo")] == [4, 8, 12]


@pytest.mark.slow
def test_mlflow_holds_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    def stored() -> Any:
        experiment = client.get_experiment_by_name("vaes")
        (run,) = client.search_runs([experiment.experiment_id])
        return run

    client = mlflow.MlflowClient()
    with pytest.raises(ZeroDivisionError):
        _train(MLflow(experiment="vaes"), Counter(9), run=tmp_path / "run")
    assert (stored().info.status, stored().info.run_name) == ("FAILED", "run")
    _, result = _train(MLflow(experiment="vaes"), run=tmp_path / "run", resume=True)
    run = stored()
    assert run.info.status == "FINISHED"
    assert (run.data.params["batch_size"], run.data.params["optimizer.lr"]) == ("10", "0.001")
    history = client.get_metric_history(run.info.run_id, "validation_elbo")
    assert {m.step: m.value for m in history} == {r["step"]: r["validation_elbo"] for r in result.history}


@pytest.mark.slow
def test_wandb_holds_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(name, value)
    import wandb

    _train(WandB(project="vaes"), run=tmp_path / "run", epochs=1)
    _, result = _train(WandB(project="vaes"), run=tmp_path / "run", epochs=2, resume=True)
    wandb.teardown()  # which waits until the files are written
    files = sorted((tmp_path / "run/wandb").glob("offline-run-*/run-*.wandb"))
    assert (len(files), len({file.name for file in files})) == (2, 1)  # two processes, one run
    content, elbo = files[-1].read_bytes(), str(result.history[-1]["validation_elbo"])
    assert [text for text in ("validation_elbo", elbo, "optimizer.lr", "vaes") if text.encode() not in content] == []


def test_optuna_prunes_by_the_reported_bound() -> None:
    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_categorical("lr", [0.01, 1e-9])
        _, result = _train(OptunaPruner(trial), optimizer=partial(SGD, lr=rate))
        histories.append(result.history)
        return result.history[-1]["validation_elbo"]

    histories: list[Any] = []
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.GridSampler({"lr": [0.01]}), pruner=optuna.pruners.NopPruner()
    )
    study.optimize(objective, n_trials=1)
    study.pruner = optuna.pruners.ThresholdPruner(lower=1e9, n_warmup_steps=2)  # no bound is above
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    study.optimize(objective, n_trials=1)
    first, second = study.trials
    assert first.intermediate_values == {r["epoch"]: r["validation_elbo"] for r in histories[0]}
    assert (first.state.name, second.state.name, len(histories)) == ("COMPLETE", "PRUNED", 1)
    assert list(second.intermediate_values) == [1, 2]
    with pytest.raises(ValueError, match=r"must be one of loss, .*, got name='validation_elbo'\. Pass validation"):
        _train(OptunaPruner(first), validation=None)
