"""Options of ``fit``: averaged weights, warm-up of the learning rate, skipped steps, threads."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.optim import SGD, Adam

from pyro_vae import fit, load_run, log_likelihood
from pyro_vae.training import RunFolder, threads, trainer
from pyro_vae.training.average import WeightAverage
from tests.linear_gaussian import LinearGaussian

FAST = partial(SGD, lr=0.02)


def _train(**options):
    torch.manual_seed(1)
    case = LinearGaussian(latent_dim=2, dim=4)
    data = case.data(40)
    result = fit(case.vae.model, case.vae.guide, data, **{"epochs": 3, "batch_size": 8, "optimizer": FAST, **options})
    return case.vae, result


def test_the_final_weights_are_the_average_and_the_raw_ones_are_kept(tmp_path) -> None:
    validation = LinearGaussian(latent_dim=2, dim=4).data(50)
    vae, result = _train(ema=0.9, validation=validation, run=tmp_path / "run")
    plain, _ = _train()
    run = RunFolder(tmp_path / "run")
    final, raw = run.load_weights(), run.load_weights(raw=True)
    assert all(torch.equal(t, final[f"model.{name}"]) for name, t in vae.model.state_dict().items())
    assert all(torch.equal(t, raw[f"model.{name}"]) for name, t in plain.model.state_dict().items())
    assert any(not torch.equal(final[name], raw[name]) for name in final)
    for weights, name in ((vae, "validation_elbo"), (plain, "validation_elbo_raw")):
        again = log_likelihood(weights.model, weights.guide, validation, num_samples=1, batch_size=1000, seed=0)
        assert result.history[-1][name] == again.mean("elbo")
    _train(run=tmp_path / "plain")
    with pytest.raises(FileNotFoundError, match=r"weights-raw.safetensors.*Only trainings with ema have raw ones"):
        RunFolder(tmp_path / "plain").load_weights(raw=True)


def test_the_average_is_that_of_the_weights_after_every_step(monkeypatch) -> None:
    """Against the definition, from the weights that a training without averaging has after every step."""
    history, count = [], trainer.Trainer._count

    def counting(self, *args) -> None:
        count(self, *args)
        history.append({name: p.detach().clone() for name, p in self.parameters.tensors.items()})

    monkeypatch.setattr(trainer.Trainer, "_count", counting)
    torch.manual_seed(1)
    start = LinearGaussian(latent_dim=2, dim=4).vae
    expected = {f"model.{n}": p.detach().clone() for n, p in start.model.named_parameters()}
    expected |= {f"guide.{n}": p.detach().clone() for n, p in start.guide.named_parameters()}
    _train()
    for step, weights in enumerate(history):
        decay = min(0.3, (2 + step) / (11 + step))
        expected = {name: decay * mean + (1 - decay) * weights[name] for name, mean in expected.items()}
    vae, _ = _train(ema=0.3)
    final = {f"model.{n}": p for n, p in vae.model.named_parameters()}
    final |= {f"guide.{n}": p for n, p in vae.guide.named_parameters()}
    for name, mean in expected.items():
        torch.testing.assert_close(final[name].detach(), mean, rtol=1e-12, atol=1e-12)


def test_patience_keeps_the_best_average() -> None:
    case = LinearGaussian(latent_dim=2, dim=4)  # starts at the optimum: every step makes it worse
    options = {"epochs": 50, "batch_size": 5, "optimizer": partial(SGD, lr=0.05), "clip_norm": 1.0, "ema": 0.5}
    validation = case.data(200)
    result = fit(case.vae.model, case.vae.guide, case.data(20), validation=validation, patience=3, **options)
    again = log_likelihood(case.vae.model, case.vae.guide, validation, num_samples=1, batch_size=1000, seed=0)
    assert again.mean("elbo") == max(r["validation_elbo"] for r in result.history)
    assert result.stopped == "patience"


def test_the_learning_rate_rises_linearly_and_the_schedule_does_not_notice() -> None:
    """SGD of a loss without noise moves in proportion to the rate."""
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    rates = [record["lr"] for record in _train(epochs=4, lr_schedule=schedule, lr_warmup=8)[1].history]
    assert rates == pytest.approx([0.02 * 5 / 8, 0.01, 0.005, 0.0025])
    moved = []
    for warm_up in (0, 100):
        torch.manual_seed(1)
        start = LinearGaussian(latent_dim=2, dim=4).vae.state_dict()
        start = {name: t.clone() for name, t in start.items()}
        vae, _ = _train(epochs=1, batch_size=40, lr_warmup=warm_up)
        moved.append(torch.cat([(t - start[name]).flatten() for name, t in vae.state_dict().items()]))
    torch.testing.assert_close(moved[1], moved[0] / 100, rtol=1e-9, atol=1e-15)


def test_skipped_steps_are_counted_and_change_nothing() -> None:
    torch.manual_seed(1)
    start = {name: t.clone() for name, t in LinearGaussian(latent_dim=2, dim=4).vae.state_dict().items()}
    vae, result = _train(skip_norm=1e-9)
    assert [record["skipped"] for record in result.history] == [5, 5, 5]
    assert all(torch.equal(t, start[name]) for name, t in vae.state_dict().items())
    assert all("skipped" not in record for record in _train()[1].history)
    assert [record["skipped"] for record in _train(skip_norm=1e9)[1].history] == [0, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ema": 1.0}, "fit: ema must lie between 0 and 1, got ema=1.0"),
        ({"ema": 0.0}, "fit: ema must lie between 0 and 1, got ema=0.0"),
        ({"lr_warmup": -1}, "fit: lr_warmup must be at least 0, got lr_warmup=-1"),
        ({"skip_norm": 0.0}, "fit: skip_norm must be positive and finite, got skip_norm=0.0"),
        ({"threads": "all"}, "fit: threads must be an integer or one of 'auto' or None, got threads='all'"),
        ({"threads": 0}, "fit: threads must be at least 1, got threads=0"),
    ],
)
def test_bad_values_raise(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _train(**options)


@pytest.mark.parametrize("option", [{"ema": 0.5}, {"lr_warmup": 3}])
def test_a_run_resumes_only_with_the_same_options(option: dict, tmp_path) -> None:
    _train(epochs=1, run=tmp_path / "run")
    (name,) = option
    with pytest.raises(ValueError, match=f"^fit: {name} must be that of the run to resume"):
        _train(run=tmp_path / "run", resume=True, **option)


# ---------------------------------------------------------------- threads


@pytest.fixture
def two_threads(monkeypatch) -> list[int]:
    """Torch with two threads; the list collects the numbers that are set."""
    numbers = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: numbers[-1])
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    return numbers


@pytest.mark.parametrize("fastest", [1, 2])
def test_the_faster_number_of_threads_is_chosen_kept_and_restored(
    fastest: int, two_threads: list, monkeypatch, tmp_path, capsys
) -> None:
    seconds = {fastest: 0.001, 3 - fastest: 0.002}
    monkeypatch.setattr(threads, "_seconds", lambda *_: seconds[two_threads[-1]])
    epoch, used = trainer.Trainer._epoch, []
    monkeypatch.setattr(trainer.Trainer, "_epoch", lambda *args: used.append(two_threads[-1]) or epoch(*args))
    _train(epochs=1, threads="auto", run=tmp_path / "run")
    assert f"threads: {fastest} (a step takes 2 ms with" in capsys.readouterr().err.replace("1 ms with", "2 ms with")
    assert two_threads[-1] == 2
    seconds = {1: seconds[2], 2: seconds[1]}
    monkeypatch.setattr(threads, "_seconds", lambda *_: pytest.fail("timed again"))
    _train(epochs=2, threads="auto", run=tmp_path / "run", resume=True)
    assert used == [fastest, fastest]
    assert two_threads[-1] == 2


def test_timing_changes_nothing() -> None:
    plain, _ = _train(optimizer=partial(Adam, lr=0.1))
    timed, _ = _train(optimizer=partial(Adam, lr=0.1), threads="auto")
    assert all(map(torch.equal, plain.state_dict().values(), timed.state_dict().values()))


def test_a_number_of_threads_holds_during_the_training(two_threads: list) -> None:
    _train(threads=1)
    assert two_threads == [2, 1, 2]


def test_an_average_is_loaded_in_place() -> None:
    average = WeightAverage(0.5, {"a": torch.zeros(2)})
    before = average.tensors["a"]
    average.load({"a": torch.ones(2)})
    assert average.tensors["a"] is before
    assert torch.equal(before, torch.ones(2))


@pytest.mark.usefixtures("single_precision")
def test_either_weights_of_a_run_are_loaded_and_evaluated(tmp_path, capsys) -> None:
    from pyro_vae.cli.main import main

    run = str(tmp_path / "run")
    main(["train", "--epochs", "2", "--ema", "0.9", "--num_samples", "5", "--latent_dim", "2", "--out", run])
    final, raw = load_run(run), load_run(run, weights="raw")
    assert raw.protocol["weights"] == "raw"
    assert "weights" not in final.protocol
    assert not torch.equal(next(final.vae.parameters()), next(raw.vae.parameters()))
    main(["evaluate", run, "--num_samples", "5", "--num_data", "20", "--weights", "raw"])
    assert "-raw.json" in capsys.readouterr().out
    main(["sample", run, "--num", "2"])
    main(["sample", run, "--num", "2", "--weights", "raw"])
    assert {"drawn-0.png", "drawn-0-raw.png"} <= {file.name for file in (tmp_path / "run" / "figures").iterdir()}
    with pytest.raises(ValueError, match="load_run: weights must be one of 'final', 'raw', got weights='best'"):
        load_run(run, weights="best")
