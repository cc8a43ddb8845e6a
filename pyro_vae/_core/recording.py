"""Running Pyro programs once, and from then on the tensor operations that they did, without their Python.

A small model's evaluation is mostly Python: handlers, traces, distributions. Recorded, it is a graph of tensor
operations that torch compiles.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import CodeType
from typing import Any

import pyro.infer.trace_elbo
import pyro.infer.trace_mean_field_elbo
import pyro.infer.traceenum_elbo
import pyro.infer.tracegraph_elbo
import pyro.infer.util
import pyro.poutine.trace_struct
import torch
from pyro.infer.util import Dice
from torch import Tensor
from torch.fx import GraphModule
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from pyro_vae._core.contexts import isolated_rng, tracing
from pyro_vae._core.decompositions import DECOMPOSITIONS

_LOCK = threading.RLock()  # the patches below are the process's
_ELBOS = (
    pyro.infer.trace_elbo,
    pyro.infer.trace_mean_field_elbo,
    pyro.infer.traceenum_elbo,
    pyro.infer.tracegraph_elbo,
    pyro.poutine.trace_struct,
)


_MOST = 64  # recordings of a function: one costs as much as hundreds of steps


class RecordingError(RuntimeError):
    """A program could not be recorded; the message is the cause, on one line."""


class Recorded:
    """A function of tensors that is recorded at its first call, and replayed from then on.

    There is one recording for each combination of the arguments' shapes, dtypes, devices and of the values of those
    that are not tensors. Random numbers come from torch's default generators at every replay, as the function itself
    would draw them. What else is Python (numbers, branches, other generators) is what it was at the recording.

    Args:
        function: returns any nest of tuples and dictionaries of tensors and None; it may call ``torch.autograd.grad``.
        state: tensors that the function reads besides its arguments, and may write: parameters, buffers. Whatever
            they hold at a replay is what it reads.
        compiled: whether the first recording is compiled by torch; later ones, of other shapes, are replayed operation
            by operation, since shapes other than the first are rare (the last batch of an epoch).
        tolerance: of a recording, relative to the norm of each tensor.
        scale: of a result as a whole, such as the norm of all gradients: differences below a thirtieth of the tolerance
            times this scale are rounding, also in a tensor that is zero in exact arithmetic.

    Raises:
        RecordingError: at a call, if the function cannot be recorded: it looks at a tensor's value in Python, draws
            from another generator than torch's, does what the compiler does not know, or is called with arguments
            that are never the same.

    Example:
        >>> import torch
        >>> weight = torch.ones(2)
        >>> twice = Recorded(lambda x: (x * weight).sum(), [weight], compiled=False)
        >>> twice(torch.ones(2)), weight.mul_(3), twice(torch.ones(2))
        (tensor(2.), tensor([3., 3.]), tensor(6.))
    """

    def __init__(
        self,
        function: Callable[..., Any],
        state: Sequence[Tensor],
        *,
        compiled: bool = True,
        tolerance: float = 1e-3,
        scale: Callable[[Any], Tensor] | None = None,
    ) -> None:
        self.function, self.state, self.compiled, self.tolerance = function, list(state), compiled, tolerance
        self.scale = scale
        self._replays: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *args: Any) -> Any:
        return self.prepare(*args)(*args)

    def prepare(self, *args: Any) -> Callable[..., Any]:
        """Record for arguments like ``args``, if that was not done; state and generators stay as they are."""
        key = tuple(_kind(a) for a in args)
        if key not in self._replays:
            if len(self._replays) == _MOST:
                raise RecordingError(
                    f"it was called with more than {_MOST} kinds of arguments; pass numbers as tensors"
                )
            self._replays[key] = self._record(args)
        return self._replays[key]

    def _record(self, args: tuple[Any, ...]) -> Callable[..., Any]:
        graph, spec, values, where = self._trace(args)
        inputs = [*self.state, *(args[i] for i in where)]
        run: Callable[..., Any] = graph
        if self.compiled and not self._replays:
            run = _compile(graph, inputs)
        state = self.state

        def replay(*args: Any) -> Any:
            with torch.no_grad():
                return tree_unflatten(list(run(*state, *(args[i] for i in where))), spec)

        self._check(replay, args, values, spec)
        return replay

    def _trace(self, args: tuple[Any, ...]) -> tuple[GraphModule, TreeSpec, list[Any], list[int]]:
        """The graph, the form of the result, its values, and the places of the tensors among the arguments."""
        where = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
        results: list[tuple[list[Any], TreeSpec]] = []

        def flat(*tensors: Tensor) -> list[Any]:
            filled = list(args)
            for i, tensor in zip(where, tensors[len(self.state) :], strict=True):
                filled[i] = tensor
            results.append(tree_flatten(self.function(*filled)))
            return results[-1][0]

        from torch._guards import TracingContext
        from torch._guards import tracing as in_context
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.proxy_tensor import make_fx  # loads a computer algebra system: not with the package

        one_mode = in_context(TracingContext(FakeTensorMode()))  # make_fx would build a mode for every value
        inputs = [*self.state, *(args[i] for i in where)]
        with self._rehearsal():  # the first run may draw more: Pyro looks for a model's plates once
            self.function(*args)
        with self._rehearsal(), _causes(), recordable(), one_mode:
            graph = make_fx(flat, decomposition_table=DECOMPOSITIONS)(*inputs)
        with self._rehearsal(), recordable():
            again, _ = tree_flatten(self.function(*args))
        values, spec = results[-1]
        values = [v.detach().clone() if isinstance(v, Tensor) else v for v in values]
        if not self._agree(again, values, spec):
            raise RecordingError("two runs at one state of torch's generators differ; draw with torch alone")
        return graph, spec, values, where

    @contextmanager
    def _rehearsal(self) -> Iterator[None]:
        """What runs within it leaves the state and the generators as they were."""
        before = [t.detach().clone() for t in self.state]
        try:
            with isolated_rng():
                yield
        finally:
            with torch.no_grad():
                for tensor, value in zip(self.state, before, strict=True):
                    if not torch.equal(tensor, value):
                        tensor.copy_(value)

    def _agree(self, found: list[Any], values: list[Any], spec: TreeSpec) -> bool:
        noise = 1e-6
        if self.scale is not None:
            noise += self.tolerance / 30 * float(self.scale(tree_unflatten(values, spec)))
        return _all_close(found, values, self.tolerance, noise)

    def follows(self, *args: Any) -> bool:
        """Whether the recording still gives the function's numbers for these arguments; nothing outside changes."""
        replay = self.prepare(*args)
        with self._rehearsal():
            values, spec = tree_flatten(self.function(*args))
        with self._rehearsal():
            found, _ = tree_flatten(replay(*args))
        return self._agree(found, values, spec)

    def _check(self, replay: Callable[..., Any], args: tuple[Any, ...], values: list[Any], spec: TreeSpec) -> None:
        """Refuse a recording that does not reproduce the run it was made from."""
        with self._rehearsal(), _causes():
            found, _ = tree_flatten(replay(*args))
        if not self._agree(found, values, spec):
            raise RecordingError("the recording does not give the program's numbers back")


@contextmanager
def recordable() -> Iterator[None]:
    """Lifts what keeps Pyro's objectives from being recorded, and puts it back: values read for messages and checks."""
    changes: list[tuple[Any, str, Any]] = [
        (module, name, new) for module in _ELBOS for name, new in _LIFTED.items() if hasattr(module, name)
    ]
    changes.append((pyro.infer.util, "_fulldot", _dot_where_positive(pyro.infer.util._fulldot)))
    changes.append((torch.distributions.Distribution, "_validate_sample", _unchecked))
    with _LOCK, ExitStack() as stack:
        for module, name, new in changes:
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, new)
        stack.enter_context(tracing())
        stack.enter_context(_Looks())
        yield


class _Looks(TorchFunctionMode):
    """Refuses what reads numbers out of tensors unnoticed by the recorder, which would keep them for good.

    Pyro's DiCE sum looks whether every term has a probability: it is taken by the branch that keeps all, and those
    that have none are nulled in the sum.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__bool__ and _caller() is Dice.compute_expectation.__code__:
            return True
        if func is functional.one_hot and len(args) > 1:
            return _one_hot(*args)
        if func in _READS or (func in _CONVERTS and args and _holds_tensors(args[0])):
            raise RuntimeError(f"{func.__name__} of a tracing tensor")
        return func(*args, **(kwargs or {}))


_LIBRARIES = tuple(
    os.path.dirname(str(f)) + os.sep for f in (torch.__file__, pyro.__file__, traceback.__file__, __file__)
)
_READS = {Tensor.tolist, Tensor.numpy, Tensor.__array__}
_CONVERTS = {torch.tensor, torch.as_tensor, torch.asarray}


def _caller() -> CodeType:
    """Who called the function that a mode has been told of, through other modes."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_name == "__torch_function__":
        frame = frame.f_back
    return frame.f_code


def _one_hot(index: Tensor, num_classes: int) -> Tensor:
    """Torch's own looks whether the index is in range; in draws of ``OneHotCategorical`` it is."""
    return (index.unsqueeze(-1) == torch.arange(num_classes, device=index.device)).long()


def _holds_tensors(value: Any) -> bool:
    """Whether it is a list of tensors, or of such lists."""
    return isinstance(value, list | tuple) and any(isinstance(v, Tensor) or _holds_tensors(v) for v in value)


def _dot_where_positive(fulldot: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda prob, cost: fulldot(prob, torch.where(prob > 0, cost, 0.0))  # 0 * inf is not 0


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _unchecked(value: Any, *args: Any, **kwargs: Any) -> Any:
    return value


_LIFTED = {"torch_item": _detached, "warn_if_nan": _unchecked}


def _kind(argument: Any) -> Any:
    if not isinstance(argument, Tensor):
        try:
            hash(argument)
        except TypeError:
            raise RecordingError(
                f"an argument of type {type(argument).__name__} is neither tensor nor number"
            ) from None
        return type(argument), argument
    return tuple(argument.shape), argument.dtype, argument.device, argument.requires_grad, argument.stride()


def _compile(graph: GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
    # Straight to the compiler of torch.compile: there is no Python left that would have to be guarded.
    with _causes(), isolated_rng(), torch.no_grad():
        from torch._inductor import compile as compile_graph
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        # Without a ShapeEnv, torch bypasses its cache of compiled graphs on disk.
        mode = FakeTensorMode(shape_env=ShapeEnv(allow_scalar_outputs=False, allow_dynamic_output_shape_ops=False))
        examples: list[Any] = [mode.from_tensor(tensor, static_shapes=True) for tensor in inputs]
        # Random numbers of its own would be others than those of the program; its patterns undo ``_addmm``.
        on_cpu = all(tensor.device.type == "cpu" for tensor in inputs)
        options = {"fallback_random": True, "pattern_matcher": not on_cpu}
        return compile_graph(graph, examples, options=options)


def _all_close(found: Sequence[Any], values: Sequence[Any], tolerance: float, noise: float) -> bool:
    return len(found) == len(values) and all(_close(a, b, tolerance, noise) for a, b in zip(found, values, strict=True))


def _close(a: Any, b: Any, tolerance: float, noise: float) -> bool:
    """Equal up to ``tolerance`` of the whole tensor's norm, or ``noise``; what is not finite must be so in both."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):  # no gradient, for one
        return a is b
    a, b = a.detach().double(), b.detach().double()
    finite = torch.isfinite(b)
    if a.shape != b.shape or not torch.equal(torch.isfinite(a), finite):
        return False
    a, b = a[finite], b[finite]
    return bool((a - b).norm() <= tolerance * b.norm() + noise)


@contextmanager
def _causes() -> Iterator[None]:
    """Whatever fails within becomes a :class:`RecordingError` with its cause and the place in the user's program."""
    try:
        yield
    except RecordingError:
        raise
    except Exception as error:
        raise RecordingError(_cause(error)) from error


def _cause(error: Exception) -> str:
    looks = "data-dependent" in str(error) or "tracing tensor" in str(error)
    lines = str(error).strip().splitlines() or [""]
    what = "the program looks at a tensor's value in Python" if looks else f"{type(error).__name__}: {lines[0]}"
    if type(error).__name__ == "DynamicOutputShapeException":  # of the compiler
        what = f"the shape of a tensor depends on values ({lines[0]})"
    own = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((*_LIBRARIES, "<string>"))]
    return f"{what} ({os.path.basename(own[-1].filename)}:{own[-1].lineno})" if own else what
