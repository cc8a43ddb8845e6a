"""The trainer: takes a training from its first batch through the epochs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, nullcontext
from functools import cached_property
from typing import Any

import torch

from pyro_vae._core.attributes import construction
from pyro_vae._core.checks import require
from pyro_vae._core.contexts import interruptible
from pyro_vae._core.distributed import Ranks
from pyro_vae._core.interrupts import interruption
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Batches
from pyro_vae.data.image_set import fingerprint
from pyro_vae.objectives import Objective
from pyro_vae.training.callbacks.base import Training
from pyro_vae.training.callbacks.hooks import Callbacks
from pyro_vae.training.checkpoint import checkpoint, restore
from pyro_vae.training.engines.base import Engine, Step, StepResult
from pyro_vae.training.engines.base import restore as restore_tensors
from pyro_vae.training.engines.rows import take_rows
from pyro_vae.training.engines.select import EngineName, build_engine, resolve_engine
from pyro_vae.training.nonfinite import diagnose, resume_hint, rewind_to_last, take_snapshot
from pyro_vae.training.preparation import check_validation, no_batch, prepare
from pyro_vae.training.progress import Progress
from pyro_vae.training.record import epoch_record
from pyro_vae.training.resumption import initial_state
from pyro_vae.training.run_folder import RunFolder
from pyro_vae.training.settings import FitResult, Reason, Settings
from pyro_vae.training.state import EpochMeter
from pyro_vae.training.steps import epochs_before, remaining_steps
from pyro_vae.training.structure import StructureCheck
from pyro_vae.training.threads import choose_threads
from pyro_vae.training.validation import Validation
from pyro_vae.training.warm_up import scaled_rate, step_schedule, warm_up_factor

_STEPS_PER_MESSAGE = 8  # after which several processes tell each other whether one was interrupted


class Trainer:
    """Trains a model and a guide on batches.

    Args:
        model: Pyro model.
        guide: Pyro guide.
        batches: the data.
        settings: the options.
        ranks: the processes that share every batch.

    Raises:
        ValueError: the data, the programs and the options do not go together.
    """

    def __init__(self, model: Program, guide: Program, batches: Batches, settings: Settings, ranks: Ranks) -> None:
        self.model, self.guide, self.batches, self.settings, self.ranks = model, guide, batches, settings, ranks
        self.objective = settings.objective
        self.args, self.parameters = prepare(batches, self.objective, model, guide, alone=ranks.alone)
        self.state = initial_state(settings, self.parameters, self._planned_steps())
        self.validation = Validation(model, guide, self.state, settings)
        self.callbacks = Callbacks(settings.callbacks if ranks.first else (), settings.seed)
        if settings.validation is not None:
            check_validation(settings.validation, batches, self.parameters, self.objective, model, guide)
        self.engine_name: EngineName = settings.engine
        self.run: RunFolder | None = None

    def _planned_steps(self) -> int:
        """Steps of the whole training; 0 if the length of an epoch is unknown."""
        return self.settings.epochs * -(-len(self.batches) // self.settings.accumulate)

    def attach(self, run: RunFolder | None, *, resume: bool) -> None:
        """Write to a run folder from now on; with ``resume``, restore its last checkpoint first.

        Of several processes the first has the run folder and sends the checkpoint to the others.

        Raises:
            ValueError: nothing to resume from, or the checkpoint is of another training.
            FileExistsError: the run folder holds a training, and ``resume`` is False.
        """
        self.run = run
        missing = run is None and self.ranks.first and resume
        require(not missing, "fit", "resume requires a run folder", "run=None", "Pass run='runs/NAME'")
        if run is not None and not resume and not run.is_new:
            raise FileExistsError(f"fit: the run folder must be new, got {run.path}. Pass resume=True or another name.")
        saved = self.ranks.from_first(run.load_state() if run else None) if resume else None
        if saved is not None:
            self._resume(saved)
            self.callbacks.load_state_dict(saved.get("callbacks", {}))
        epoch = self.state.epoch + (self.state.position > 0)
        value, advice = f"epochs={self.settings.epochs} in epoch {epoch}", f"Pass at least {epoch}"
        require(self.settings.epochs >= epoch, "fit", "epochs must not be fewer than are begun", value, advice)

    def _resume(self, saved: dict[str, Any]) -> None:
        self.engine_name = restore(self.state, saved, self._identity(), self.ranks)
        if isinstance(self.objective, Objective):  # the record of the epoch contains the last beta
            position = max(0, self.state.position - self.settings.accumulate)
            epochs = epochs_before(self.batches, self.state, position)
            self.objective.set_progress(max(0, self.state.step - 1), epochs)

    def _identity(self) -> dict[str, Any]:
        """Settings that must not change between a run and its resumption."""
        return {
            **self.settings.identity(),
            "batch_size": self.batches.batch_size,
            "num_data": self.batches.num_data,
            "optimizer": type(self.state.optimizer).__name__,
            "objective": type(self.objective).__name__,
            "engine": self.engine_name,
            **self._fingerprints,
            **construction(self.parameters.owners.modules),
        }

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        sets = {"training data": self.batches.data, "validation data": self.settings.validation}
        return {name: value for name, data in sets.items() if (value := fingerprint(data)) is not None}

    def _save_weights(self, *, raw: bool = False) -> None:
        """Write the weights of the best epoch if training stops early, else the present ones, with their provenance."""
        best = self.state.best if not raw and self.state.best["weights"] is not None else None
        position = {"epoch": best["epoch"]} if best else {"epoch": self.state.epoch, "step": self.state.step}
        metadata = {name: str(value) for name, value in position.items()} | {"data": json.dumps(self._fingerprints)}
        if self.run:
            self.run.save_weights(best["weights"] if best else self.parameters.weights(), raw=raw, metadata=metadata)

    def train(self) -> FitResult:
        """Train to the last epoch, or until patience or a callback ends it."""
        with self.callbacks.ending():
            with ExitStack() as stack:
                stack.callback(self.parameters.owners.training, False)
                shown = self.settings.progress if self.ranks.first else False
                bar = stack.enter_context(closing(Progress(shown, self.batches.num_data, self.settings, self.state)))
                engine = self._build_engine()  # while the bar is shown
                if self.run:
                    self.run.write_config()
                self.history = self.run.metrics() if self.run else []
                interrupted = stack.enter_context(interruptible())
                self._saved_at = time.monotonic()
                view = self.model, self.guide, self.args, self.run, self._options(), self.history, self.state
                self.callbacks.start(Training(*view))
                while (reason := self.ranks.from_first(self._reason_to_stop())) is None:
                    self._epoch(engine, bar, interrupted)
                    self._finish_epoch()
                    self._save_if_due(interrupted)
            self._finish()
        return FitResult(self.history, self.state.best["epoch"], reason)

    def _options(self) -> dict[str, Any]:
        """All options by name, for callbacks."""
        optimizer = {f"optimizer.{name}": value for name, value in self.state.start["optimizer"][0].items()}
        return {**self.settings.changeable(), **self._identity(), **optimizer}

    def _reason_to_stop(self) -> Reason | None:
        if self.validation.out_of_patience():
            return "patience"
        if self.state.epoch >= self.settings.epochs:
            return "epochs"
        return "callback" if self.callbacks.training.stopped else None

    def _build_engine(self) -> Engine:
        # "auto" resolves to the engine and the threads of the run, so that a resumed run has the same bits
        self.engine_name = resolve_engine(self.engine_name, self.parameters.device, self._planned_steps(), self.ranks)
        self.parameters.owners.training(True)  # the mode in which the programs are recorded
        rule, advice = "threads='auto' requires one process", "Set OMP_NUM_THREADS for several"
        require(self.ranks.alone or self.settings.threads != "auto", "fit", rule, "several", advice)
        if self.settings.threads == "auto" and self.state.threads is None:
            engine, self.state.threads = choose_threads(self._new_engine, self.args)
            return engine
        threads = self.state.threads if self.settings.threads == "auto" else self.settings.threads
        if threads is not None:
            torch.set_num_threads(threads)
        return self._new_engine()

    def _new_engine(self) -> Engine:
        settings = self.settings
        return build_engine(
            self.engine_name,
            self.objective,
            self.model,
            self.guide,
            self.state.optimizer,
            list(self.parameters.tensors.values()),
            args=self.args,
            clip_norm=settings.clip_norm,
            skip_norm=settings.skip_norm,
            average=self.state.average,
            accumulate=settings.accumulate,
            precision=settings.precision,
            ranks=self.ranks,
            owners=self.parameters.owners,
            watch=StructureCheck(self.objective, self.model, self.guide, self.parameters),
            axes=self.batches.axes,
        )

    def _epoch(self, engine: Engine, bar: Progress, interrupted: list[int]) -> None:
        self.parameters.owners.training(True)
        self._buffers = self.parameters.buffers()
        engine.check = self.state.epoch == 0  # every datum once
        of_the_user = (self.settings.monitor, self.settings.lr_schedule, self.batches.num_data is None or None)
        if self.state.epoch == 1 or (self.state.epoch > 0 and any(code is not None for code in of_the_user)):
            engine.recheck()
        clock = time.perf_counter()
        by_steps = self.state.scheduler is not None and self.settings.lr_schedule_unit == "step"
        by_steps = by_steps or warm_up_factor(self.state.step, self.settings.lr_warmup) < 1
        size, accumulate = 1 if by_steps else engine.stride, self.settings.accumulate
        for steps in remaining_steps(self.batches, self.state, accumulate=accumulate, size=size):
            if self.callbacks.ran():
                engine.recheck()
            self._run(engine, steps)
            clock, before = time.perf_counter(), clock
            self.state.meter.sums["seconds"] += clock - before
            bar.update(sum(map(len, steps)))
            self.callbacks.call("steps")
            self._save_if_due(interrupted)
        if self.state.position == 0:
            raise no_batch()
        if self.run and self.run.is_new:  # metrics without a state could not be resumed
            self.save()

    def _run(self, engine: Engine, steps: list[Step]) -> None:
        buffers = self._buffers
        before = take_snapshot(buffers)
        factor = warm_up_factor(self.state.step, self.settings.lr_warmup)
        try:
            with scaled_rate(self.state.optimizer, factor):
                results = engine.run(steps)
        except ValueError:  # a program rejected the batch: undo its changes of running statistics
            restore_tensors(buffers, before.buffers)
            raise
        for step, result in zip(steps, results, strict=False):
            if not result.finite:
                rewind_to_last(engine, steps[: len(results)], before, buffers)
                rows = [take_rows(batch, self.ranks) for batch in step.batches]
                hint = resume_hint(self.run, self.state.optimizer)
                raise diagnose(engine.loss, rows, self.parameters.tensors, self.state.step, hint=hint)
            if result.skipped and engine.stride == 1:
                restore_tensors(buffers, before.buffers)
            self._count(step, result, engine.reached)

    def _count(self, step: Step, result: StepResult, reached: Sequence[bool]) -> None:
        if self.state.step == 0:
            self.parameters.await_gradients()
        if self.state.epoch == 0:
            self.parameters.notice_gradients(reached)
        self.state.meter.add(result, len(step))
        self.state.step, self.state.position = self.state.step + 1, self.state.position + len(step.batches)
        if self.state.scheduler and self.settings.lr_schedule_unit == "step":
            self.state.scheduler.step()

    def _finish_epoch(self) -> None:
        if self.state.epoch == 0:
            self.parameters.warn_idle()
        self.state.epoch, self.state.position = self.state.epoch + 1, 0
        record = epoch_record(self.state, self.settings)
        record |= self.validation.numbers(record)
        if self.state.changed:
            record["changed"], self.state.changed = self.state.changed, {}
        if self.settings.lr_schedule_unit == "epoch":
            step_schedule(self.state.scheduler, record)
        self.state.meter = EpochMeter()
        self.history.append(record)
        if self.run:
            self.run.append_metrics(record)
        self.callbacks.call("epoch")

    def _finish(self) -> None:
        self.save()
        if self.state.average is not None:
            self.state.average.apply()
        if self.state.best["weights"] is not None:
            self.parameters.load(self.state.best["weights"])
        self._save_weights()

    def _save_if_due(self, interrupted: list[int]) -> None:
        due = self.ranks.alone or self.state.step % _STEPS_PER_MESSAGE == 0 or self.state.position == 0
        if due and self.ranks.any(interrupted):
            self.save()
            hint = f". Resume with --resume {self.run.path} (in Python: resume=True)" if self.run else ""
            stop = interruption(interrupted[0]) if interrupted else KeyboardInterrupt  # perhaps another rank's
            raise stop(f"stopped after step {self.state.step}{hint}")
        if self.run and time.monotonic() - self._saved_at >= self.settings.checkpoint_seconds:
            self.save()

    def save(self) -> None:
        """Write the checkpoint, if there is a run folder."""
        if self.run is None:
            return
        self.run.save_state({**checkpoint(self.state, self._identity()), "callbacks": self.callbacks.state_dict()})
        if self.state.average is not None:
            self._save_weights(raw=True)
        with self.state.average.applied() if self.state.average else nullcontext():
            self._save_weights()
        self.callbacks.call("checkpoint")
        self._saved_at = time.monotonic()
