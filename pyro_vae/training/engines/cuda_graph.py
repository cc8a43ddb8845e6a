"""The CUDA-graph engine: whole steps captured once and replayed, the host reading what they did from time to time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import Optimizer

from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.recording import RecordingError
from pyro_vae._core.shared_random import Share
from pyro_vae.data.batches import Batch
from pyro_vae.objectives import Objective, Terms
from pyro_vae.training.engines.base import EagerEngine, Engine, Step, StepResult, restore
from pyro_vae.training.engines.compiled import Recording, record, warn_eager
from pyro_vae.training.loss import Gradients, LossFunction, accumulated

Replay = Callable[[], None]


class CudaGraphEngine(Engine):
    """Fetching the data, binarization, loss, gradient, its checks and the optimizer in one CUDA graph of many steps.

    The recorded operations of a :class:`~pyro_vae.training.CompiledEngine` are captured, so that a step costs no
    Python and no launches. Data that lie on the device are fetched by index inside the graph; other batches are copied
    into it. After a step that is not finite all later ones of the group change nothing.

    Args:
        problem: what is trained, on a CUDA device.
        optimizer: over the problem's parameters, one of torch's fused or capturable ones.
        batch: one of the usual shape.
        clip_norm: largest norm of the whole gradient; None for no limit.
        capture: from a function without arguments to its replay; torch's CUDA graphs.

    References:
        CUDA C++ programming guide, section on CUDA graphs. https://docs.nvidia.com/cuda/
    """

    def __init__(
        self,
        problem: LossFunction,
        optimizer: Optimizer,
        batch: Batch,
        *,
        clip_norm: float | None = None,
        capture: Callable[[Replay], Replay] | None = None,
    ) -> None:
        super().__init__(problem, optimizer, clip_norm=clip_norm)
        self.name, self.stride, self._capture = "cuda-graph", 32, capture or capture_cuda_graph
        self._gradients: Recording | None = record(problem, batch)
        self._graphs: dict[Any, _Group] = {}
        self._warm = 0
        self._eager = EagerEngine(problem, optimizer, clip_norm=clip_norm)
        _make_capturable(optimizer)

    def recheck(self) -> None:
        if self._gradients is not None:
            self._gradients.due = True

    @property
    def records(self) -> bool:
        """Whether the programs were recorded; without a recording this engine cannot run."""
        return self._gradients is not None

    def gradients(self, args: tuple[Any, ...], share: Share | None = None) -> Gradients:
        assert self._gradients is not None
        return self._gradients(share, *args)

    def run(self, steps: Sequence[Step]) -> list[StepResult]:
        results: list[StepResult] = []
        while len(results) < len(steps) and (not results or results[-1].finite):
            rest = steps[len(results) :]
            try:
                if self._gradients and self._gradients.is_doubtful():
                    self._follow(rest[0].batches[0])
                results += self._part(rest) if self._gradients else self._eagerly(rest[0])
            except RecordingError as cause:  # another shape, another path through the program
                self._gradients, self.name = None, "eager"
                warn_eager(cause)
        return results

    def _follow(self, batch: Batch) -> None:
        """Compare the recording with the program on a batch, which is drawn beside the steps' own random numbers."""
        assert self._gradients is not None
        with isolated_rng():
            args = batch.args if batch.fetch is None or batch.index is None else batch.fetch(batch.index)
            if self._gradients.follow(None, *args):
                self._graphs = {}  # they replay the recording before

    def _part(self, steps: Sequence[Step]) -> list[StepResult]:
        """Take as many of the steps as one graph holds: a whole stride of one kind, or one step."""
        kinds = [_kind(step) for step in steps[: self.stride]]
        whole = len(kinds) == self.stride and len(set(kinds)) == 1 and self._warm >= 3
        chosen = steps[: self.stride] if whole else steps[:1]
        key = (kinds[0], len(chosen))
        group = self._graphs.get(key) or self._graphs.setdefault(key, self._group(chosen))
        group.fill(chosen)
        if self._warm < 3:  # the first steps make the optimizer's state and the libraries' workspaces
            results = group.read(group.body)
            self._warm += results[-1].finite
            return results
        return group.read(group.replay(self._capture))

    def _group(self, steps: Sequence[Step]) -> _Group:
        """Room for such steps, and the recordings that they need: none can be made within a capture."""
        group = _Group(self, steps)
        assert self._gradients is not None
        with isolated_rng():
            for held in group.inputs[0]:
                self._gradients.prepare(None, *held.args())
        return group

    def _eagerly(self, step: Step) -> list[StepResult]:
        buffers = [buffer.clone() for buffer in self.problem.buffers]
        self._eager.check = self.check
        results = self._eager.run([step])
        if not results[-1].finite:
            restore(self.problem.buffers, buffers)
        return results

    def update(self, total: Gradients, ok: Tensor) -> None:
        """Apply a gradient where ``ok`` holds, on the device."""
        for parameter, gradient in zip(self.problem.parameters, total.gradients, strict=True):
            parameter.grad = gradient
        if self.clip_norm is not None:
            clip_grads_with_norm_(self.problem.parameters, self.clip_norm, total.norm)
        if self._warm < 3 and not ok:  # the optimizer's state begins with a step that is taken
            return
        if all(group.get("fused") for group in self.optimizer.param_groups):  # they skip a step by themselves
            self.optimizer.found_inf, self.optimizer.grad_scale = (~ok).float(), None  # type: ignore[attr-defined]
            self.optimizer.step()
            del self.optimizer.found_inf, self.optimizer.grad_scale  # type: ignore[attr-defined]
        else:
            with kept(_tensors(self.optimizer), ok):
                self.optimizer.step()


class _Group:
    """Steps of one kind, with the tensors that they read and write."""

    def __init__(self, engine: CudaGraphEngine, steps: Sequence[Step]) -> None:
        self.engine = engine
        self._replay: Replay | None = None
        device = engine.problem.parameters[0].device
        self.inputs = [[_Input(batch) for batch in step.batches] for step in steps]
        self.betas = torch.zeros(len(steps), dtype=torch.float64, device=device)
        self.results = torch.zeros(len(steps), 4, dtype=torch.float64, device=device)
        self.has_terms = isinstance(engine.problem.objective, Objective)

    def fill(self, steps: Sequence[Step]) -> None:
        """Put the steps' data and weights where the graph reads them."""
        for inputs, step in zip(self.inputs, steps, strict=True):
            for held, batch in zip(inputs, step.batches, strict=True):
                held.fill(batch)
        objective = self.engine.problem.objective
        if isinstance(objective, Objective):
            betas = []
            for step in steps:
                if step.progress is not None:
                    objective.set_progress(*step.progress)
                betas.append(objective.beta)
            self.betas.copy_(torch.tensor(betas, dtype=torch.float64))

    def body(self) -> None:
        """The steps themselves, without a look at any value."""
        engine, ok = self.engine, None
        weights = _scheduled(engine.problem)
        for i, inputs in enumerate(self.inputs):
            for weight in weights:
                weight.copy_(self.betas[i])
            before = [buffer.clone() for buffer in engine.problem.buffers]
            batches = [(held.args(), held.length) for held in inputs]  # drawn before the losses' numbers are
            parts = [(engine.gradients(args), length) for args, length in batches]
            total = accumulated(parts, sum(length for _, length in batches))
            ok = total.finite if ok is None else ok & total.finite
            for buffer, value in zip(engine.problem.buffers, before, strict=True):
                buffer.copy_(torch.where(ok, buffer, value))
            engine.update(total, ok)
            terms = total.terms or Terms(total.loss, total.loss)
            self.results[i].copy_(torch.stack([t.double() for t in (total.loss, *terms, ok)]))

    def replay(self, capture: Callable[[Replay], Replay]) -> Replay:
        """The captured body."""
        if self._replay is None:
            self._replay = capture(self.body)
        return self._replay

    def read(self, run: Replay) -> list[StepResult]:
        """Run, and see what came out, up to the first step that is not finite."""
        run()
        found: list[StepResult] = []
        for loss, reconstruction, kl, ok in self.results.to("cpu", copy=True):
            terms = Terms(reconstruction, kl) if self.has_terms else None
            found.append(StepResult(loss, terms, bool(ok)))
            if not ok:
                break
        return found


class _Input:
    """Where a batch of a captured step lies: an index into data on the device, or the arguments themselves."""

    def __init__(self, batch: Batch) -> None:
        self.length, self.fetch = len(batch), batch.fetch
        self.index = None if batch.index is None else batch.index.clone()
        self.held = None if batch.fetch else [a.clone() if isinstance(a, Tensor) else a for a in batch.args]

    def fill(self, batch: Batch) -> None:
        if self.index is not None and batch.index is not None:
            self.index.copy_(batch.index)
        for held, given in zip(self.held or [], batch.args if self.held else [], strict=True):
            if isinstance(held, Tensor):
                held.copy_(given)

    def args(self) -> tuple[Any, ...]:
        if self.fetch is not None and self.index is not None:
            return self.fetch(self.index)
        return tuple(self.held or ())


class kept:
    """Within it tensors change only where ``ok`` holds."""

    def __init__(self, tensors: Sequence[Tensor], ok: Tensor) -> None:
        self.tensors, self.ok = tensors, ok

    def __enter__(self) -> None:
        self.before = [t.detach().clone() for t in self.tensors]

    def __exit__(self, *error: object) -> None:
        with torch.no_grad():
            for tensor, value in zip(self.tensors, self.before, strict=True):
                tensor.copy_(torch.where(self.ok, tensor, value))


def capture_cuda_graph(body: Replay) -> Replay:
    """Capture what ``body`` does on the device; the generators are registered by torch."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph.replay


def _kind(step: Step) -> tuple[Any, ...]:
    return tuple(
        (len(batch), batch.fetch if batch.fetch else tuple(getattr(a, "shape", a) for a in batch.args))
        for batch in step.batches
    )


def _scheduled(problem: LossFunction) -> list[Tensor]:
    objective = problem.objective
    return objective.state(problem.parameters[0]) if isinstance(objective, Objective) else []


def _tensors(optimizer: Optimizer) -> list[Tensor]:
    own = [p for group in optimizer.param_groups for p in group["params"]]
    state = [v for values in optimizer.state.values() for v in values.values() if isinstance(v, Tensor)]
    return own + state


def _make_capturable(optimizer: Optimizer) -> None:
    """The state and the learning rate on the device, where graphs read them."""
    for group in optimizer.param_groups:
        device = group["params"][0].device
        if device.type == "cuda" and "capturable" in group:
            group["capturable"] = True
        # A restored one is on the CPU, where a graph would read it once.
        lr = group["lr"]
        group["lr"] = lr.to(device) if isinstance(lr, Tensor) else torch.tensor(lr, device=device)
