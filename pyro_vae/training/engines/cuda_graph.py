"""The CUDA-graph engine: whole steps are captured once and replayed; results are read once per group of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.recording import RecordingError
from pyro_vae._core.shared_random import Share
from pyro_vae.data.batches import Batch
from pyro_vae.objectives import Objective
from pyro_vae.training.engines.base import Engine, Step, StepResult, restore
from pyro_vae.training.engines.compiled import Recording, record, warn_eager
from pyro_vae.training.engines.eager import EagerEngine
from pyro_vae.training.engines.update import Update, summary
from pyro_vae.training.loss import Gradients, LossFunction, accumulate_gradients

Replay = Callable[[], None]
_WARM_UP_STEPS = 3  # steps that create the optimizer's state and the libraries' workspaces


class CudaGraphEngine(Engine):
    """Captures loss, gradient, checks and update of many steps in one CUDA graph.

    The recorded operations of a :class:`~pyro_vae.training.CompiledEngine` are captured, so that a step costs no
    Python and no launches; the batches of a group are copied to the graph's memory. After a step that is not finite,
    all later ones of the group change nothing.

    Args:
        loss: the loss function, on a CUDA device.
        update: the update of the loss function's parameters, by a fused or capturable optimizer.
        batch: a batch of the usual shape.
        whole: whether each step takes one batch, so that the update can be recorded too.
        capture: captures a function without arguments and returns its replay; torch's CUDA graphs by default.

    References:
        CUDA C++ programming guide, section on CUDA graphs. https://docs.nvidia.com/cuda/
    """

    def __init__(
        self,
        loss: LossFunction,
        update: Update,
        batch: Batch,
        *,
        whole: bool = True,
        capture: Callable[[Replay], Replay] | None = None,
    ) -> None:
        super().__init__(loss, update)
        self.name, self.stride, self._capture = "cuda-graph", 32, capture or capture_cuda_graph
        self._recording: Recording | None = record(loss, batch, update=update if whole else None)
        self._graphs: dict[Any, _Group] = {}
        self._num_warm = 0
        self._eager = EagerEngine(loss, update)

    def recheck(self) -> None:
        if self._recording is not None:
            self._recording.due = True

    @property
    def records(self) -> bool:
        """Whether the programs were recorded; without a recording this engine cannot run."""
        return self._recording is not None

    def gradients(self, args: tuple[Any, ...], share: Share | None = None) -> Gradients:
        assert self._recording is not None
        return self._recording(share, *args)

    def run(self, steps: Sequence[Step]) -> list[StepResult]:
        results: list[StepResult] = []
        while len(results) < len(steps) and (not results or results[-1].finite):
            rest = steps[len(results) :]
            try:
                if self._recording and self._recording.may_be_stale():
                    self._follow(rest[0].batches[0])
                results += self._run_group(rest) if self._recording else self._run_eagerly(rest[0])
            except RecordingError as cause:  # another shape, another path through the program
                self._recording, self.name = None, "eager"
                warn_eager(cause)
        return results

    def _follow(self, batch: Batch) -> None:
        """Compare the recording with the program on a batch, without advancing the random numbers of the steps."""
        assert self._recording is not None
        with isolated_rng():
            if self._recording.follow(None, *batch.args):
                self._graphs = {}  # they replay the recording before

    def _run_group(self, steps: Sequence[Step]) -> list[StepResult]:
        """Take as many of the steps as one graph holds: a whole stride of one kind, or one step."""
        kinds = [_kind(step) for step in steps[: self.stride]]
        whole = len(kinds) == self.stride and len(set(kinds)) == 1 and self._num_warm >= _WARM_UP_STEPS
        chosen = steps[: self.stride] if whole else steps[:1]
        assert self._recording is not None
        key = (kinds[0], len(chosen), self._recording.takes_steps)
        group = self._graphs.get(key) or self._graphs.setdefault(key, self._new_group(chosen))
        group.fill(chosen)
        self.reached = self._recording.reached
        if self._num_warm < _WARM_UP_STEPS:
            results = group.read(group.body)
            self._num_warm += results[-1].finite and not results[-1].skipped
            return results
        return group.read(group.replay(self._capture))

    def _new_group(self, steps: Sequence[Step]) -> _Group:
        """Allocate a group, and record what it needs, which is impossible during a capture."""
        assert self._recording is not None
        if not self._recording.takes_steps or len(steps[0].batches) > 1:
            _make_capturable(self.update.optimizer)
        group = _Group(self, steps, recorded=self._recording.takes_steps)
        with isolated_rng():
            for batch_input in group.inputs[0]:
                self._recording.prepare(None, *batch_input.args())
        return group

    def _run_eagerly(self, step: Step) -> list[StepResult]:
        buffers = [buffer.clone() for buffer in self.loss.buffers]
        self._eager.check = self.check
        results = self._eager.run([step])
        self.reached = self._eager.reached
        if results[-1].skipped or not results[-1].finite:
            restore(self.loss.buffers, buffers)
        return results

    def take(self, batches: Sequence[tuple[tuple[Any, ...], int]], numbers: Tensor, alive: Tensor) -> Tensor:
        """Take a step on the device if ``alive``; return its summary, with whether it was finite.

        Args:
            batches: the arguments and the length of each batch.
            numbers: those of :meth:`Update.numbers`.
            alive: whether all earlier steps of the group were finite.
        """
        recording = self._recording
        assert recording is not None
        if recording.takes_steps and len(batches) == 1:
            numbers[0].mul_(alive)
            return recording.replay(numbers, None, *batches[0][0])[1]
        parts = [(recording(None, *args), length) for args, length in batches]
        total = accumulate_gradients(parts, sum(length for _, length in batches))
        apply = alive & total.finite
        if self.update.skip_norm is not None:
            apply = apply & (total.norm <= self.update.skip_norm)
        self._apply(total, numbers[1], apply)
        return summary(total)

    def _apply(self, total: Gradients, weight: Tensor, apply: Tensor) -> None:
        """Update by torch's optimizer if ``apply`` holds, on the device."""
        if self._num_warm < _WARM_UP_STEPS and not apply:  # the optimizer's state begins with a step that is taken
            return
        optimizer = self.update.optimizer
        if all(group.get("fused") for group in optimizer.param_groups):  # fused kernels skip a step by themselves
            optimizer.found_inf, optimizer.grad_scale = (~apply).float(), None  # type: ignore[attr-defined]
            with _unchanged_unless(apply, self.update.averages):
                self.update(total, weight)
            del optimizer.found_inf, optimizer.grad_scale  # type: ignore[attr-defined]
        else:
            with _unchanged_unless(apply, [*_tensors(optimizer), *self.update.averages]):
                self.update(total, weight)


class _Group:
    """Steps of one kind, with the tensors that they read and write."""

    def __init__(self, engine: CudaGraphEngine, steps: Sequence[Step], *, recorded: bool) -> None:
        self.engine, self.recorded = engine, recorded
        self._replay: Replay | None = None
        device = engine.loss.parameters[0].device
        self.inputs = [[_BatchInput(batch) for batch in step.batches] for step in steps]
        self.betas = torch.zeros(len(steps), dtype=torch.float64, device=device)
        width = len(engine.update.numbers(None)) if self.recorded else 2
        self.numbers = torch.zeros(len(steps), width, dtype=torch.float64, device=device)
        self.results = torch.zeros(len(steps), 5, dtype=torch.float64, device=device)

    def fill(self, steps: Sequence[Step]) -> None:
        """Copy the steps' data and weights to the memory that the graph reads."""
        for inputs, step in zip(self.inputs, steps, strict=True):
            for batch_input, batch in zip(inputs, step.batches, strict=True):
                batch_input.fill(batch)
        update = self.engine.update
        if self.recorded:
            update.adopt_state()
        rows = [update.numbers(s.number) if self.recorded else [1.0, update.weight(s.number)] for s in steps]
        self.numbers.copy_(torch.tensor(rows, dtype=torch.float64))
        objective = self.engine.loss.objective
        if isinstance(objective, Objective):
            betas = []
            for step in steps:
                if step.progress is not None:
                    objective.set_progress(*step.progress)
                betas.append(objective.beta)
            self.betas.copy_(torch.tensor(betas, dtype=torch.float64))

    def body(self) -> None:
        """The steps, without reading a value on the host."""
        engine, weights = self.engine, _scheduled_weights(self.engine.loss)
        alive = torch.ones((), dtype=torch.bool, device=self.results.device)
        for i, inputs in enumerate(self.inputs):
            for weight in weights:
                weight.copy_(self.betas[i])
            before = [buffer.clone() for buffer in engine.loss.buffers]
            batches = [(batch_input.args(), batch_input.length) for batch_input in inputs]
            result = engine.take(batches, self.numbers[i], alive)
            alive = alive & (result[-1] != 0)
            limit = engine.update.skip_norm
            taken = alive if limit is None else alive & (result[-2] <= limit)
            for buffer, value in zip(engine.loss.buffers, before, strict=True):
                buffer.copy_(torch.where(taken, buffer, value))
            self.results[i].copy_(result)

    def replay(self, capture: Callable[[Replay], Replay]) -> Replay:
        """The captured body."""
        if self._replay is None:
            self._replay = capture(self.body)
        return self._replay

    def read(self, run: Replay) -> list[StepResult]:
        """Run, and return the results up to the first step that is not finite."""
        run()
        results: list[StepResult] = []
        for values in self.results.to("cpu", copy=True):
            results.append(self.engine.result(values))
            if not results[-1].finite:
                break
        return results


class _BatchInput:
    """Memory of a captured batch."""

    def __init__(self, batch: Batch) -> None:
        self.length = len(batch)
        self.values = [a.clone() if isinstance(a, Tensor) else a for a in batch.args]

    def fill(self, batch: Batch) -> None:
        for value, new in zip(self.values, batch.args, strict=True):
            if isinstance(value, Tensor):
                value.copy_(new)

    def args(self) -> tuple[Any, ...]:
        return tuple(self.values)


@contextmanager
def _unchanged_unless(ok: Tensor, tensors: Sequence[Tensor]) -> Iterator[None]:
    """Undo the changes of tensors within it unless ``ok`` holds."""
    before = [t.detach().clone() for t in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(torch.where(ok, tensor, value))


def capture_cuda_graph(body: Replay) -> Replay:
    """Capture the device operations of ``body``; torch registers its generators."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph.replay


def _kind(step: Step) -> tuple[Any, ...]:
    return tuple((len(batch), tuple(getattr(a, "shape", a) for a in batch.args)) for batch in step.batches)


def _scheduled_weights(loss: LossFunction) -> list[Tensor]:
    objective = loss.objective
    return objective.state(loss.parameters[0]) if isinstance(objective, Objective) else []


def _tensors(optimizer: Optimizer) -> list[Tensor]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = [v for values in optimizer.state.values() for v in values.values() if isinstance(v, Tensor)]
    return parameters + state


def _make_capturable(optimizer: Optimizer) -> None:
    """Move the optimizer's step counts and learning rate to the device, where graphs read them."""
    for group in optimizer.param_groups:
        device = group["params"][0].device
        if device.type == "cuda" and "capturable" in group:
            group["capturable"] = True
        # A restored one is on the CPU, where a graph would read it once.
        lr = group["lr"]
        group["lr"] = lr.to(device) if isinstance(lr, Tensor) else torch.tensor(lr, device=device)
