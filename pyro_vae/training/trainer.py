"""The state of a training and its way through the epochs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import LBFGS
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils._pytree import tree_flatten

from pyro_vae._core.contexts import interruptible, is_tracing, isolated_rng, rng_state, set_rng_state, validating
from pyro_vae._core.rows import is_local, makes_local, rows_follow
from pyro_vae._core.support import SupportError
from pyro_vae._core.types import Program
from pyro_vae._core.watch import Watch
from pyro_vae.data.batches import Batches, Data
from pyro_vae.evaluation import ImportanceWeights, log_likelihood
from pyro_vae.objectives import Objective
from pyro_vae.objectives.per_datum import PerDatumObjective
from pyro_vae.training.checkpoint import restore, state_of
from pyro_vae.training.compatibility import check_additive, check_pair, data_axes, examine
from pyro_vae.training.engines.base import Engine, Step, StepResult
from pyro_vae.training.engines.select import EngineName, build_engine, resolve_engine
from pyro_vae.training.nonfinite import NonFiniteError, diagnose
from pyro_vae.training.parameters import ParameterSet, build_optimizer
from pyro_vae.training.progress import EpochMeter, Progress, Recorder, own_numbers
from pyro_vae.training.run_folder import RunFolder
from pyro_vae.training.settings import FitResult, Settings

T = TypeVar("T")


class Trainer:
    """The state of a training and its way through the epochs."""

    def __init__(self, model: Program, guide: Program, batches: Batches, settings: Settings) -> None:
        self.model, self.guide, self.batches, self.settings = model, guide, batches, settings
        self.objective = settings.objective
        self.example, self._index = _first_batch(batches)
        check_additive(self.objective, alone=batches.ranks.alone)
        self._check_autoguide()
        self.trainable = self._trainable()
        self.batches.axes = data_axes(self.trainable.pair)
        self._structures: set[Any] = set()
        self.ranks = batches.ranks
        self._check_whole()
        self._check_order()
        self._check_last_batch()
        parameters = list(self.trainable.parameters.values())
        self.optimizer = build_optimizer(settings.optimizer, parameters)
        self.scheduler = settings.lr_schedule(self.optimizer) if settings.lr_schedule else None
        self.engine_name: EngineName = settings.engine
        self.epoch = self.step = self.position = 0
        self.meter = EpochMeter()
        self.best: dict[str, Any] = {"elbo": -float("inf"), "epoch": None, "weights": None}
        self.run: RunFolder | None = None

    def _trainable(self) -> ParameterSet:
        """The parameters; integers are taken as floating-point numbers if the programs take no others."""
        try:
            return ParameterSet(self.objective, self.model, self.guide, self.example)
        except SupportError as error:
            raise error.in_data(self._index) from None
        except ValueError as error:
            if not self.batches.to_float():
                raise
            self.example, self._index = _first_batch(self.batches)
            try:
                return ParameterSet(self.objective, self.model, self.guide, self.example)
            except ValueError:
                raise error from None

    def _check_autoguide(self) -> None:
        """An autoguide is set up by its first run: refuse parts of the data before it has one.

        Raises:
            ValueError: its latents are of single data, of which it would see some at a time.
        """
        if len(self.batches) > 1 and makes_local(self.model, self.guide, self.example):
            raise _parts_alone(f"{len(self.batches)} batches an epoch")

    def _check_whole(self) -> None:
        """A guide with parameters for each datum has to see all of them at once, in one order.

        Raises:
            ValueError: the batches are smaller, or differ from epoch to epoch.
        """
        if not is_local(self.trainable.pair):
            return
        self.batches.shuffle_seed = None
        whole = len(self.batches) == 1 and self.ranks.alone
        pair = [next(self.batches.epoch(number)).whole for number in (0, 1)] if whole else [(), (0,)]
        first, second = (tree_flatten(args)[0] for args in pair)
        same = len(first) == len(second) and all(
            torch.equal(a, b) if isinstance(a, Tensor) else a is b for a, b in zip(first, second, strict=True)
        )
        if not same:
            what = f"{len(self.batches)} batches an epoch" if not whole else "another order in each epoch"
            raise _parts_alone(what)
        self.example, self._index = _first_batch(self.batches)

    def _check_order(self) -> None:
        """Data that are shuffled must all be arguments: what a program holds itself stays in its order.

        Raises:
            ValueError: the model's densities do not move with the arguments.
        """
        pair, plate = self.trainable.pair, self.trainable.pair.data_plate()
        shuffled = self.batches.num_data is not None and self.batches.shuffle_seed is not None
        if plate is None or not shuffled or pair.enum_dim is not None:
            return
        try:
            right = rows_follow(pair, plate, data_axes(pair))
        except Exception:  # no such rows
            return
        if not right:
            raise ValueError(
                "fit: what belongs to a datum must be among the arguments, which are shuffled, got other data in the "
                "model (a closure, poutine.condition, a scale or a mask of its own). Pass them: "
                "DataLoader(TensorDataset(x, w), batch_size=100)."
            )

    def _check_last_batch(self) -> None:
        """Batch normalization has no statistics of one datum.

        Raises:
            ValueError: naming a batch size without such a last batch.
        """
        num, size = self.batches.num_data, self.batches.batch_size
        modules = [part for owner in self.trainable.modules.values() for part in owner.modules()]
        if num is None or size == 1 or num % size != 1 or not any(isinstance(m, _BatchNorm) for m in modules):
            return
        args = self.batches.fetch(torch.zeros(1, dtype=torch.long, device=getattr(self.batches.data, "device", None)))
        owners = self.trainable.owners
        with owners.unchanged(), owners.evaluating(), isolated_rng(), torch.enable_grad():
            owners.training(True)
            try:
                self.objective.differentiable_loss(self.model, self.guide, *args)
            except ValueError as error:
                better = next(b for b in range(size + 1, num + 1) if num % b != 1)
                raise ValueError(
                    f"fit: batch normalization must see more than one datum, got a last batch of 1 ({num} data, "
                    f"batch_size={size}). Use batch_size={better}."
                ) from error

    def _check_validation(self, args: tuple[Any, ...]) -> None:
        ImportanceWeights(
            self.model, self.guide, args, owner="fit", owners=self.trainable.owners, data_plate=self._plate_name()
        )

    def _plate_name(self) -> str | None:
        plate = self.trainable.pair.data_plate()
        return None if plate is None else plate.name

    def check(self) -> None:
        """Refuse what would only fail after a step or an epoch."""
        if isinstance(self.scheduler, ReduceLROnPlateau) and self.settings.lr_schedule_unit == "step":
            raise ValueError(
                "fit: ReduceLROnPlateau must count epochs, got lr_schedule_unit='step'. Use lr_schedule_unit='epoch'."
            )
        if isinstance(self.optimizer, LBFGS):
            raise ValueError("fit: the optimizer must not need a closure, got LBFGS. Use Adam.")
        if self.settings.validation is not None:
            data = Batches(self.settings.validation, 1, device=self.batches.device, dtype=self.batches.dtype)
            with validating(True):
                self._check_validation(next(iter(data.epoch())).args)

    def attach(self, run: RunFolder | None, resume: bool) -> None:
        """Write to the run folder from now on; with ``resume``, go back to its last checkpoint first.

        Of several processes the first has the run folder; the others are told the checkpoint by it.
        """
        self.run = run
        if run is None and self.ranks.first and resume:
            raise ValueError("fit: resume must have a run folder, got run=None. Pass run='runs/NAME'.")
        if run is not None and not resume and ((run.path / "state.pt").exists() or run.metrics()):
            raise FileExistsError(f"fit: the run folder must be new, got {run.path}. Pass resume=True or another name.")
        if resume:
            state = self.ranks.from_first(run.load_state() if run else None)
            if state is not None:
                restore(self, state)

    def train(self, epochs: int, *, tensorboard: bool, progress: bool | None) -> FitResult:
        """Run to the given number of epochs."""
        if epochs < self.epoch + (self.position > 0):
            raise ValueError(
                f"fit: epochs must not be fewer than are begun, got epochs={epochs} in epoch {self.epoch + 1}. "
                f"Pass at least {self.epoch + 1}."
            )
        try:
            engine = self._build_engine(epochs)
        except BaseException:
            self.trainable.owners.training(False)
            raise
        n = self.batches.num_data
        done = 0 if n is None else self.epoch * n + int(self.meter.sums["data"])
        bar, recorder = (
            Progress(progress if self.ranks.first else False, None if n is None else epochs * n, done),
            Recorder(self.run, tensorboard=tensorboard),
        )
        self.saved = time.monotonic()
        try:
            with interruptible() as interrupted:
                while self.epoch < epochs and not self._out_of_patience():
                    self._epoch(engine, bar, interrupted)
                    recorder.add(self._finish_epoch())
                    self._checkpoint(interrupted)
        finally:
            bar.close()
            recorder.close()
            self.trainable.owners.training(False)
        return self._finish(recorder)

    def _build_engine(self, epochs: int) -> Engine:
        self.trainable.owners.training(True)  # as which the programs are recorded
        return build_engine(
            self._resolve(epochs),
            self.objective,
            self.model,
            self.guide,
            self.optimizer,
            list(self.trainable.parameters.values()),
            args=self.example,
            clip_norm=self.settings.clip_norm,
            precision=self.settings.precision,
            ranks=self.ranks,
            owners=self.trainable.owners,
            watch=self._watched,
            axes=self.batches.axes,
        )

    @contextmanager
    def _watched(self, args: tuple[Any, ...], size: int) -> Iterator[None]:
        """Look at the sites of a run of the loss; what was not seen before is checked."""
        plate = self.trainable.pair.data_plate()
        with Watch(None if plate is None else plate.name) as watch:
            try:
                yield
            except Exception:
                self._check_structure(watch, args)
                raise
        num = self.objective.num_draws if isinstance(self.objective, PerDatumObjective) else 1
        if watch.sizes and not watch.sizes & {size, size * num}:  # in one batch, each datum as often as it is drawn
            raise ValueError(
                f"fit: the plate of the data must be as long as the batch, got {min(watch.sizes)} in plate "
                f"{plate.name!r} and {size} in the batch. Pass batches of the data alone."
            )
        self._check_structure(watch, args)

    def _check_structure(self, watch: Watch, args: tuple[Any, ...]) -> None:
        """Check the sites of a run, if they were not seen before."""
        if watch.structure() not in self._structures and not is_tracing():
            if self._structures:
                owners = self.trainable.owners
                check_pair(self.objective, examine(self.objective, self.model, self.guide, args, owners))
            self._structures.add(watch.structure())

    def _resolve(self, epochs: int) -> EngineName:
        """The engine in effect: of ``auto`` the run's own, so that a resumed run has the same bits."""
        steps = epochs * len(self.batches) // self.settings.accumulate
        device = next(iter(self.trainable.parameters.values())).device
        self.engine_name = resolve_engine(self.engine_name, device, steps, self.ranks)
        return self.engine_name

    def _epoch(self, engine: Engine, bar: Progress, interrupted: list[int]) -> None:
        self.trainable.owners.training(True)
        engine.check = self.epoch == 0  # every datum once
        if self.epoch == 1 or self._user_code():
            engine.recheck()
        clock = time.perf_counter()
        for steps in self._groups(engine):
            self._run(engine, steps)
            now = time.perf_counter()
            self.meter.sums["seconds"] += now - clock
            clock = now
            bar.update(sum(map(len, steps)), self.epoch, self.meter)
            self._checkpoint(interrupted)
        if self.position == 0:
            raise ValueError("fit: data must not be empty, got an iterable without a batch. Pass at least one.")

    def _user_code(self) -> bool:
        """Whether code of the user's runs between the epochs, which may change what the programs compute."""
        settings = self.settings
        known = settings.monitor is None and settings.lr_schedule is None and self.batches.num_data is not None
        return self.epoch > 0 and not known

    def _groups(self, engine: Engine) -> Iterator[list[Step]]:
        """The rest of the epoch, in groups of as many steps as the engine likes at once."""
        batches = self.batches.epoch(self.epoch, start=self.position)
        every_step = self.scheduler is not None and self.settings.lr_schedule_unit == "step"
        number, position = self.step, self.position
        for group in _chunks(_chunks(batches, self.settings.accumulate), 1 if every_step else engine.stride):
            steps = []
            for part in group:
                steps.append(Step(part, self.progress(number, position)))
                number, position = number + 1, position + len(part)
            yield steps

    def _run(self, engine: Engine, steps: list[Step]) -> None:
        before = self._before(engine, steps)
        try:
            results = engine.run(steps)
        except ValueError:  # a program refused the batch: what it did to running statistics is undone
            self._restore_buffers(before[1])
            raise
        for step, result in zip(steps, results, strict=False):
            if not result.finite:
                raise self._not_finite(engine, steps[: len(results)], *before)
            self._count(step, result)

    def _before(self, engine: Engine, steps: list[Step]) -> tuple[dict[str, Any], list[Tensor]]:
        """What it takes to run the steps again."""
        if engine.stride == 1:
            for batch in steps[0].batches:
                _ = batch.args  # drawn now, and kept
        return rng_state(), [buffer.clone() for buffer in self.trainable.buffers()]

    def _count(self, step: Step, result: StepResult) -> None:
        if self.step == 0:
            self.trainable.await_gradients()
        if self.epoch == 0:
            self.trainable.notice_gradients()
        self.meter.add(result, len(step))
        self.step, self.position = self.step + 1, self.position + len(step.batches)
        if self.scheduler and self.settings.lr_schedule_unit == "step":
            self.scheduler.step()

    def progress(self, step: int, position: int) -> tuple[int, float]:
        """Where in the training a step is, for the schedules of weights."""
        length = len(self.batches)  # 0 where it is not known: then beta moves from epoch to epoch
        return step, self.epoch + (position / length if length else 0.0)

    def _finish_epoch(self) -> dict[str, Any]:
        if self.epoch == 0:
            self.trainable.warn_idle()
        self.epoch, self.position = self.epoch + 1, 0
        record: dict[str, Any] = {"epoch": self.epoch, "step": self.step, **self.meter.means()}
        record |= {"seconds": self.meter.sums["seconds"], "lr": float(self.optimizer.param_groups[0]["lr"])}
        if isinstance(self.objective, Objective):
            record["beta"] = self.objective.beta
        if self.settings.validation is not None:
            record["validation_elbo"] = self._validate(self.settings.validation)
        if self.settings.monitor is not None:
            with self.trainable.owners.evaluating(), isolated_rng(self.settings.seed):
                record |= own_numbers(self.settings.monitor(), record)
            self.trainable.check_same()
        if self.scheduler and self.settings.lr_schedule_unit == "epoch":
            plateau = isinstance(self.scheduler, ReduceLROnPlateau)
            self.scheduler.step(-record.get("validation_elbo", -record["loss"])) if plateau else self.scheduler.step()
        self.meter = EpochMeter()
        return record

    def _validate(self, data: Data) -> float:
        how = {"batch_size": 1000, "seed": self.settings.seed, "data_plate": self._plate_name()}
        result = log_likelihood(self.model, self.guide, data, num_samples=1, **how)  # type: ignore[arg-type]
        elbo = result.mean("elbo")
        if elbo > self.best["elbo"]:
            weights = {k: t.clone() for k, t in self.trainable.weights().items()} if self.settings.patience else None
            self.best = {"elbo": elbo, "epoch": self.epoch, "weights": weights}
        return elbo

    def _out_of_patience(self) -> bool:
        return self.settings.patience is not None and self.epoch - (self.best["epoch"] or 0) >= self.settings.patience

    def _finish(self, recorder: Recorder) -> FitResult:
        if self.run:
            self.save()
        stopped = self._out_of_patience()
        if self.best["weights"] is not None:
            self.trainable.load(self.best["weights"])
        if self.run:
            self.run.save_weights(self.trainable.weights())
        return FitResult(recorder.history, self.best["epoch"], "patience" if stopped else "epochs")

    def _checkpoint(self, interrupted: list[int]) -> None:
        """Save where it is time, or where the user wants to stop."""
        if self.ranks.any(interrupted):
            self.save()
            hint = f". Go on with --resume {self.run.path} (in Python: resume=True)" if self.run else ""
            raise KeyboardInterrupt(f"stopped after step {self.step}{hint}")
        if self.run and time.monotonic() - self.saved >= self.settings.checkpoint_seconds:
            self.save()

    def save(self) -> None:
        """Write the checkpoint, if there is a run folder."""
        if self.run is None:
            return
        self.run.save_state(state_of(self))
        self.run.save_weights(self.best["weights"] or self.trainable.weights())
        self.saved = time.monotonic()

    def _restore_buffers(self, values: list[Tensor]) -> None:
        for buffer, value in zip(self.trainable.buffers(), values, strict=True):
            buffer.copy_(value)

    def _not_finite(
        self, engine: Engine, steps: list[Step], rng: dict[str, Any], buffers: list[Tensor]
    ) -> NonFiniteError:
        """What to say of the last of the steps, at the random state that it had."""
        set_rng_state(rng)
        if engine.stride == 1:
            self._restore_buffers(buffers)
        else:  # the engine kept them; draw what the steps before have drawn
            buffers = [buffer.clone() for buffer in self.trainable.buffers()]
            for batch in (batch for step in steps[:-1] for batch in step.batches):
                engine.problem.gradients(*batch.args)
            self._restore_buffers(buffers)
        self.save()
        return diagnose(engine.problem, steps[-1].batches, self.trainable.parameters, self.step)


def _parts_alone(what: str) -> ValueError:
    return ValueError(
        f"fit: a guide with parameters for each datum must see all data in one batch and one order, got {what}. "
        "Use batch_size=len(data), or an amortised guide."
    )


def _first_batch(batches: Batches) -> tuple[tuple[Any, ...], torch.Tensor | None]:
    """The arguments of the first batch, and which data they are."""
    state = rng_state()
    found = next(((batch.whole, batch.index) for batch in batches.epoch()), None)
    set_rng_state(state)
    if found is None:
        raise ValueError("fit: data must not be empty, got an iterable without a batch. Pass at least one.")
    return found


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
