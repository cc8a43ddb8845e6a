"""What may change when a training is resumed, and what that does."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from pyro_vae import VAE, fit
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import NormalLikelihood
from pyro_vae.networks import MLP
from pyro_vae.priors import StandardNormalPrior
from pyro_vae.training import RunFolder
from pyro_vae.training.resumption import merged
from tests.linear_gaussian import LinearGaussian

HALVE = partial(StepLR, step_size=1, gamma=0.5)
COSINE = partial(CosineAnnealingLR, T_max=6)


def _train(run: Path | None = None, **options):
    torch.manual_seed(1)
    case = LinearGaussian(latent_dim=2, dim=4)
    defaults = {"epochs": 3, "batch_size": 20, "optimizer": partial(SGD, lr=0.02, momentum=0.5), "resume": bool(run)}
    result = fit(case.vae.model, case.vae.guide, case.data(40), run=run, **{**defaults, **options})
    return case.vae, result.history


def _two_stages(in_sequence) -> SequentialLR:
    return SequentialLR(in_sequence, [LinearLR(in_sequence, 0.1, total_iters=2), HALVE(in_sequence)], milestones=[2])


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({}, {"optimizer": partial(SGD, lr=0.002, momentum=0.5)}),
        ({"lr_schedule": HALVE}, {"optimizer": partial(SGD, lr=0.002, momentum=0.5)}),
        ({"lr_schedule": COSINE}, {"optimizer": partial(SGD, lr=0.002, momentum=0.5)}),
        ({}, {"lr_schedule": HALVE}),
        ({"lr_schedule": HALVE}, {"lr_schedule": None}),
        ({"lr_schedule": HALVE}, {"lr_schedule": partial(HALVE, gamma=0.9)}),
        ({"lr_schedule": partial(MultiStepLR, milestones=[4])}, {"lr_schedule": partial(MultiStepLR, milestones=[2])}),
        ({"lr_schedule": HALVE}, {"lr_schedule": _two_stages}),
        ({"lr_schedule": HALVE}, {"lr_schedule_unit": "step"}),
        ({}, {"lr_schedule": partial(OneCycleLR, max_lr=0.1, total_steps=12), "lr_schedule_unit": "step"}),
    ],
)
def test_a_new_rate_or_schedule_acts_as_if_it_had_been_there(first: dict, then: dict, tmp_path: Path) -> None:
    """SGD's rate is in every record, so the rates are those of a training that had them from the start."""
    _train(tmp_path / "run", **first)
    _, history = _train(tmp_path / "run", **{**first, **then, "epochs": 6})
    _, expected = _train(**{**first, **then, "epochs": 6})
    assert [r["lr"] for r in history[3:]] == pytest.approx([r["lr"] for r in expected[3:]], rel=1e-12)
    name = {"optimizer": "optimizer.lr"}.get(next(iter(then)), next(iter(then)))
    assert {"epochs", name} <= history[3]["changed"].keys()
    assert all("changed" not in record for record in history[:3] + history[4:])


def test_the_next_step_has_the_new_rate_and_the_momentum_of_the_run(tmp_path: Path) -> None:
    """A step is lr (momentum * buffer + gradient): with a tenth of the rate exactly a tenth as long."""
    _train(tmp_path / "run", batch_size=40)
    state, moved = RunFolder(tmp_path / "run").load_state(), []
    for rate in (0.02, 0.002):
        run = RunFolder.create(tmp_path / f"run-{rate}")
        run.save_state(dict(state))
        _train(run.path, epochs=4, batch_size=40, optimizer=partial(SGD, lr=rate, momentum=0.5))
        after = run.load_state()["weights"]
        moved.append(torch.cat([(tensor - state["weights"][name]).flatten() for name, tensor in after.items()]))
    torch.testing.assert_close(moved[1], moved[0] / 10, rtol=1e-9, atol=1e-14)
    assert float(moved[0].norm()) > 0.01


def test_a_plateau_is_kept_with_a_scaled_rate(tmp_path: Path) -> None:
    plateau = partial(ReduceLROnPlateau, patience=0, factor=0.5, threshold=1e9)  # no epoch is better by that much
    _train(tmp_path / "run", lr_schedule=plateau)
    new = partial(SGD, lr=0.002, momentum=0.5)
    _, history = _train(tmp_path / "run", lr_schedule=plateau, optimizer=new, epochs=4)
    _, expected = _train(lr_schedule=plateau, optimizer=new, epochs=4)
    assert history[-1]["lr"] == pytest.approx(expected[-1]["lr"], rel=1e-12)
    other = partial(plateau, factor=0.1)  # starts afresh
    assert _train(tmp_path / "run", lr_schedule=other, optimizer=new, epochs=5)[1][-1]["lr"] == 0.002


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lr_schedule": COSINE},
        {"lr_schedule": _two_stages},
        {"lr_schedule": partial(OneCycleLR, max_lr=0.1, total_steps=6)},
        {"optimizer": Adam, "lr_schedule": partial(ReduceLROnPlateau, patience=1)},
    ],
)
def test_nothing_changes_without_a_change(options: dict, tmp_path: Path) -> None:
    _train(tmp_path / "run", **options)
    resumed, history = _train(tmp_path / "run", **options, epochs=6)
    whole, expected = _train(**options, epochs=6)
    assert all(map(torch.equal, resumed.state_dict().values(), whole.state_dict().values()))
    assert [r["lr"] for r in history] == [r["lr"] for r in expected]
    assert history[3]["changed"] == {"epochs": [3, 6]}


def test_limits_of_the_gradient_take_effect_and_are_recorded(tmp_path: Path) -> None:
    _train(tmp_path / "run")
    before = RunFolder(tmp_path / "run").load_weights()
    _, history = _train(tmp_path / "run", epochs=4, clip_norm=2.0, skip_norm=1e-9)
    assert history[-1]["changed"] == {"epochs": [3, 4], "clip_norm": [None, 2.0], "skip_norm": [None, 1e-9]}
    assert history[-1]["skipped"] == 2
    after = RunFolder(tmp_path / "run").load_weights()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_patience_that_is_new_counts_from_the_resume(tmp_path: Path) -> None:
    """At the optimum every step makes it worse, so that the first epoch is the best."""
    options = {"optimizer": partial(SGD, lr=0.05), "clip_norm": 1.0, "batch_size": 5}
    options["validation"] = LinearGaussian(latent_dim=2, dim=4).data(200)
    _train(tmp_path / "run", **options, epochs=6)
    _, history = _train(tmp_path / "run", **options, epochs=60, patience=3)
    elbos = [record["validation_elbo"] for record in history[6:]]
    assert len(elbos) == elbos.index(max(elbos)) + 1 + 3
    weights = RunFolder(tmp_path / "run").load_weights()
    last = RunFolder(tmp_path / "run").load_state()["weights"]
    assert any(not torch.equal(weights[name], last[name]) for name in weights)  # the best ones since the resume
    _train(tmp_path / "run", **options, epochs=len(history) + 1)  # without patience the last weights count
    weights, last = RunFolder(tmp_path / "run").load_weights(), RunFolder(tmp_path / "run").load_state()["weights"]
    assert all(torch.equal(weights[name], last[name]) for name in weights)


def test_a_change_is_recorded_even_if_the_process_is_killed_before_the_record(tmp_path: Path) -> None:
    _train(tmp_path / "run")

    def interrupt() -> dict:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        _train(tmp_path / "run", epochs=5, clip_norm=1.0, monitor=interrupt, checkpoint_seconds=0.0)
    _, history = _train(tmp_path / "run", epochs=5, clip_norm=2.0, checkpoint_seconds=0.0)
    assert history[3]["changed"] == {"epochs": [3, 5], "clip_norm": [None, 2.0], "checkpoint_seconds": [60.0, 0.0]}
    assert merged({"a": [1, 2]}, {"a": [2, 1]}) == {}


def test_checkpoints_of_version_0_1_resume(tmp_path: Path) -> None:
    """Which hold neither the settings nor the configuration, but the class of the schedule."""
    _train(tmp_path / "run", lr_schedule=HALVE)
    run = RunFolder(tmp_path / "run")
    state = run.load_state()
    for name in ("start", "changed", "config", "metrics_bytes"):
        del state[name]
    state["identity"] |= {"lr_schedule": "StepLR", "skip_norm": None}
    run.save_state(state)
    for options in ({"lr_schedule": HALVE}, {"lr_schedule": None}):
        file = (run.path / "state.pt").read_bytes()
        _, history = _train(run.path, **options, epochs=4)
        assert history[-1]["lr"] == _train(**options, epochs=4)[1][-1]["lr"]
        (run.path / "state.pt").write_bytes(file)
    _, history = _train(run.path, lr_schedule=HALVE, optimizer=partial(SGD, lr=0.2, momentum=0.5), epochs=4)
    assert history[-1]["changed"]["optimizer.lr"] == [0.02, 0.2]


def test_a_model_that_is_built_otherwise_is_refused_by_name(tmp_path: Path) -> None:
    """Neither an activation nor the bounds of a scale leave a trace in the tensors' names and shapes."""

    def train(activation: str = "relu", bounds: tuple[float, float] = (-12.0, 12.0), **options):
        net = partial(MLP, hidden=(4,), activation=activation)
        guide = DiagonalNormalGuide((3,), 2, net=net, log_scale_bounds=bounds)
        vae = VAE(StandardNormalPrior(2), NormalLikelihood(2, (3,)), guide)
        return fit(vae.model, vae.guide, torch.ones(8, 3), batch_size=4, run=tmp_path / "run", **options)

    train(epochs=1)
    with pytest.raises(ValueError, match=r"guide\.log_scale_bounds=\(-5\.0, 5\.0\), and \(-12\.0, 12\.0\) in the run"):
        train(bounds=(-5.0, 5.0), epochs=2, resume=True)
    with pytest.raises(ValueError, match="='Tanh', and 'ReLU' in the run"):
        train("tanh", epochs=2, resume=True)
    train(epochs=2, resume=True)


# ---------------------------------------------------------------- refused before the folder is made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": partial(SGD, lr=0.0)}, r"the learning rate must be positive and finite, got lr=0.0"),
        ({"optimizer": partial(Adam, lr=float("inf"))}, "the learning rate must be positive and finite, got lr=inf"),
        ({"optimizer": partial(Adam, lr=-1.0)}, r"optimizer must run, got Adam\(lr=-1\.0\), which fails: .*learning"),
        (
            {"optimizer": partial(SGD, lr=1.0, momentum=5)},
            "momentum must be at least 0 and less than 1, got momentum=5",
        ),
        ({"optimizer": partial(Adam, maximize=True)}, "maximize must be False, got maximize=True"),
        ({"optimizer": partial(Adam, differentiable=True)}, "differentiable must be False"),
        (
            {"optimizer": partial(Adam, capturable=True, fused=False)},
            "optimizer must run, got Adam.*, which fails: Ass",
        ),
        ({"optimizer": partial(Adam, foo=1)}, "optimizer must run, got Adam.*, which fails: TypeError: .*foo"),
        (
            {"lr_schedule": partial(CosineAnnealingLR, T_max=0)},
            "lr_schedule must run, got CosineAnnealingLR.*, which",
        ),
        ({"lr_schedule": partial(StepLR, step_size=0)}, "lr_schedule must run, got StepLR, which fails: ZeroDivision"),
        ({"lr_schedule": partial(StepLR, foo=0)}, "lr_schedule must run, got StepLR.foo=0., which fails: TypeError"),
        (
            {"lr_schedule": partial(OneCycleLR, max_lr=1.0, total_steps=2)},
            "the schedule must last for the 3 epochs of the training, got OneCycleLR of 2",
        ),
        (
            {"lr_schedule": partial(OneCycleLR, max_lr=1.0, total_steps=3), "lr_schedule_unit": "step"},
            "the schedule must last for the 6 steps of the training, got OneCycleLR of 3",
        ),
        (
            {"lr_schedule": partial(PolynomialLR, total_iters=4), "epochs": 7},
            "got PolynomialLR, whose learning rate is 0 in the last 3. Make it 7 epochs long",
        ),
        ({"checkpoint_seconds": -1.0}, "checkpoint_seconds must be at least 0, got checkpoint_seconds=-1.0"),
        ({"checkpoint_seconds": float("nan")}, "checkpoint_seconds must be a number"),
    ],
)
def test_what_cannot_train_leaves_no_folder(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^fit: .*{message}") as error:
        _train(tmp_path / "run", **options)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_cosine_that_rises_again_warns() -> None:
    with pytest.warns(UserWarning, match="lowest learning rate after T_max=2 of 3 epochs and rises again. Use T_max=3"):
        _train(lr_schedule=partial(CosineAnnealingLR, T_max=2))
    _train(lr_schedule=partial(CosineAnnealingLR, T_max=3))


def test_the_dry_run_touches_neither_parameters_nor_hooks() -> None:
    calls = []

    def hooked(parameters) -> SGD:
        optimizer = SGD(parameters, lr=1e-300)
        optimizer.register_step_post_hook(lambda *_: calls.append(0))
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, torch.nan)  # of the user, before the training
        return optimizer

    torch.manual_seed(1)
    start = LinearGaussian(latent_dim=2, dim=4).vae.state_dict()
    vae, _ = _train(optimizer=hooked)
    assert len(calls) == 6
    for value, before in zip(vae.state_dict().values(), start.values(), strict=True):
        torch.testing.assert_close(value, before, rtol=0, atol=1e-290)


def test_a_damaged_state_is_reported_in_one_line(tmp_path: Path) -> None:
    _train(tmp_path / "run", lr_schedule=HALVE)
    run = RunFolder(tmp_path / "run")
    state = run.load_state()
    damages = [{"start": 3}, {"start": {"optimizer": []}}, {"identity": {}}, {"optimizer": {}}, {"best": None}]
    for damage in [*damages, {"progress": {}}, {"changed": 7}, {"lr_schedule": None}, {"rng": {"cpu": "x"}}]:
        run.save_state({**state, **damage})
        with pytest.raises(ValueError, match=r"^(RunFolder: state\.pt|fit: .* the run to resume)") as error:
            _train(run.path, lr_schedule=HALVE)
        assert "\n" not in str(error.value)


def test_a_folder_of_other_files_is_not_taken_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.tex").write_text("mine")
    for name in (tmp_path, ".", str(tmp_path)):
        with pytest.raises(ValueError, match=r"^fit: run must be a run folder or a new one, got .*, which holds other"):
            _train(name)
    with pytest.raises(ValueError, match=r"^RunFolder: the run folder must have a name, got ''"):
        _train(run="", resume=False)
    assert os.listdir(tmp_path) == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    assert len(_train(tmp_path / "empty", epochs=1)[1]) == 1


def test_a_run_cannot_be_trained_while_it_is_locked(tmp_path: Path) -> None:
    _train(tmp_path / "run", epochs=1)
    before = {file: file.read_bytes() for file in (tmp_path / "run").iterdir() if file.is_file()}
    with RunFolder(tmp_path / "run").locked(), pytest.raises(ValueError, match="being trained by another process"):
        _train(tmp_path / "run", epochs=2)
    assert {file: file.read_bytes() for file in before} == before
    _train(tmp_path / "run", epochs=2)


def test_metrics_are_written_after_a_state_to_resume_from(tmp_path: Path) -> None:
    """So that a training that is killed at any moment is resumed, or begun again if nothing was saved."""
    seen = []

    def monitor() -> dict:
        seen.append(sorted(file.name for file in (tmp_path / "run").iterdir() if file.is_file()))
        return {}

    _train(tmp_path / "run", monitor=monitor)
    assert {"state.pt", "weights.safetensors"} <= set(seen[0])
    assert len(RunFolder(tmp_path / "run").metrics()) == 3
