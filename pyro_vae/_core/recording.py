"""Recording of a function's tensor operations, which are then replayed without its Python.

For a small model most of the time of a step is Python's: handlers, traces, distributions. A recording is a graph of
tensor operations that torch compiles.
"""

from __future__ import annotations

import copy
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from pyro_vae._core.compilation import compile_graph
from pyro_vae._core.contexts import exactly, isolated_rng
from pyro_vae._core.decompositions import DECOMPOSITIONS
from pyro_vae._core.precision import TOLERANCE, current_precision
from pyro_vae._core.pyro_patches import recordable

_MAX_RECORDINGS = 64  # of a function; one costs as much as hundreds of steps
_LIBRARIES = tuple(
    os.path.dirname(str(f)) + os.sep for f in (torch.__file__, pyro.__file__, traceback.__file__, __file__)
)


class RecordingError(RuntimeError):
    """A program could not be recorded; the message is the cause, in one line."""


class Replay(NamedTuple):
    """A recorded graph as a function of the arguments.

    Attributes:
        run: the graph, a function of tensors that returns a list.
        state: its first arguments.
        positions: of the tensors among the arguments.
        spec: structure of the result.
    """

    run: Callable[..., Any]
    state: list[Tensor]
    positions: list[int]
    spec: TreeSpec

    def flat(self, *args: Any) -> list[Any]:
        """The tensors of the result."""
        with torch.no_grad():
            return list(self.run(*self.state, *(args[i] for i in self.positions)))

    def __call__(self, *args: Any) -> Any:
        return tree_unflatten(self.flat(*args), self.spec)


class Recorded:
    """A function of tensors that is recorded at its first call and replayed from then on.

    There is one recording for each combination of the shapes, dtypes and devices of the arguments and of the values of
    those that are not tensors. Every replay draws random numbers from torch's default generators, as the function
    does. Everything else in Python (numbers, branches, other generators) is fixed at the recording.

    Args:
        function: returns a nest of tuples and dictionaries of tensors and None; it may call ``torch.autograd.grad``.
        state: tensors that the function reads in addition to its arguments, and may write: parameters, buffers. A
            replay reads their current values.
        compiled: whether torch compiles the first recording; later ones, of other shapes, are replayed operation by
            operation, since they are rare (the last batch of an epoch).
        tolerance: largest difference between recording and function, relative to the norm of each tensor; None is that
            of the current precision.
        scale: function from a result to its scale, such as the norm of all gradients: differences below a thirtieth of
            the tolerance times this scale count as rounding, also in a tensor that is zero in exact arithmetic.

    Raises:
        RecordingError: at a call, if the function cannot be recorded: it reads a tensor's value in Python, draws from
            generators other than torch's, uses operations that the compiler does not support, or is called with ever
            new kinds of arguments.

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
        tolerance: float | None = None,
        scale: Callable[[Any], Tensor] | None = None,
    ) -> None:
        self.function, self.state, self.compiled = function, list(state), compiled
        self.tolerance = TOLERANCE[current_precision()] if tolerance is None else tolerance
        self.scale = scale
        self._replays: dict[Any, Replay] = {}
        self._exact: dict[Any, Replay] = {}  # in float32, of programs that convert to bfloat16 in networks only

    def __call__(self, *args: Any) -> Any:
        return self.prepare(*args)(*args)

    def last(self, *args: Any) -> Tensor:
        """The last tensor of the result, without the time that it takes to nest all of them."""
        return self.prepare(*args).flat(*args)[-1]

    def prepare(self, *args: Any) -> Replay:
        """Record for arguments like ``args``, unless that was done before; state and generators do not change."""
        key = tuple(_kind(a) for a in args)
        if key not in self._replays:
            if len(self._replays) == _MAX_RECORDINGS:
                what = f"it was called with more than {_MAX_RECORDINGS} kinds of arguments"
                raise RecordingError(f"{what}; pass numbers as tensors")
            self._replays[key] = self._record(args)
        return self._replays[key]

    def _record(self, args: tuple[Any, ...]) -> Replay:
        graph, spec, values, positions = self._trace(args)
        replay = Replay(graph, self.state, positions, spec)
        if self.tolerance > TOLERANCE["fp32"]:
            exact = replay._replace(run=_in_float32(graph))
            if self._reproduces(exact, args, self._values(args, exactly), in_float32=True):
                self._exact[tuple(map(_kind, args))] = exact
        if self.compiled and not self._replays:
            inputs = [*self.state, *(args[i] for i in positions)]
            replay = replay._replace(run=_compile(graph, inputs))
            with suppress(RecordingError):
                if self._reproduces(replay, args, values):
                    return replay
            if not isinstance(replay.run, GraphModule):  # a damaged library, or a fault of the compiler to libraries
                replay = replay._replace(run=_compile(graph, inputs, kept=False))
        if not self._reproduces(replay, args, values):
            raise RecordingError("the recording does not reproduce the program's numbers")
        return replay

    def _trace(self, args: tuple[Any, ...]) -> tuple[GraphModule, TreeSpec, list[Any], list[int]]:
        """The graph, the structure of the result, its values, and the positions of the tensors among the arguments."""
        positions = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
        results: list[tuple[list[Any], TreeSpec]] = []

        def flat(*tensors: Tensor) -> list[Any]:
            filled = list(args)
            for i, tensor in zip(positions, tensors[len(self.state) :], strict=True):
                filled[i] = tensor
            results.append(tree_flatten(self.function(*filled)))
            return results[-1][0]

        inputs = [*self.state, *(args[i] for i in positions)]
        with self._rehearsal():  # the first run may draw more: Pyro determines the plates of a model once
            self.function(*args)
        with self._rehearsal() as written, _causes(), recordable():
            graph = _graph(flat, inputs)
        again = self._values(args, recordable)
        values, spec = results[-1]
        values = [*(v.detach().clone() if isinstance(v, Tensor) else v for v in values), *written]
        if not self._agree(again, values, spec, args):
            raise RecordingError("two runs at one state of torch's generators differ; draw with torch alone")
        return graph, spec, values, positions

    @contextmanager
    def _rehearsal(self) -> Iterator[list[Tensor]]:
        """Context that restores the state and the generators; the list then contains the state that was written."""
        before = [t.detach().clone() for t in self.state]
        written: list[Tensor] = []
        try:
            with isolated_rng():
                yield written
        finally:
            written += [t.detach().clone() for t in self.state]
            with torch.no_grad():
                for tensor, value in zip(self.state, before, strict=True):
                    if not torch.equal(tensor, value):
                        tensor.copy_(value)

    def _agree(self, results: list[Any], values: list[Any], spec: TreeSpec, args: tuple[Any, ...] | None) -> bool:
        """Whether results are the function's values up to rounding, which is measured at ``args``; None: in float32."""
        tolerance, noise = TOLERANCE["fp32"] if args is None else self.tolerance, 1e-6
        if self.scale is not None:
            result = tree_unflatten(values[: len(values) - len(self.state)], spec)
            noise += tolerance / 30 * float(self.scale(result))
        if _all_close(results, values, values, tolerance, noise):
            return True
        if args is None or tolerance <= TOLERANCE["fp32"]:
            return False
        once, again, exact = self._values(args), self._values(args), self._values(args, exactly)
        if not _all_close(once, again, again, TOLERANCE["fp32"], noise):
            return False  # random numbers that are not torch's
        return _all_close(results, values, exact, tolerance, noise)  # importance weights multiply the rounding

    def _values(self, args: tuple[Any, ...], context: Callable[[], Any] = nullcontext) -> list[Any]:
        """Results and written state of a run, without side effects."""
        with self._rehearsal() as written, context():
            values, _ = tree_flatten(self.function(*args))
        return [*values, *written]

    def follows(self, *args: Any) -> bool:
        """Whether the recording still gives the function's numbers for these arguments; without side effects.

        If networks multiply in bfloat16, they are compared in float32, where rounding cannot be what differs.
        """
        replay, exact = self.prepare(*args), self._exact.get(tuple(map(_kind, args)))
        if exact is None:
            return self._reproduces(replay, args, self._values(args))
        return self._reproduces(exact, args, self._values(args, exactly), in_float32=True)

    def _reproduces(
        self, replay: Replay, args: tuple[Any, ...], values: list[Any], *, in_float32: bool = False
    ) -> bool:
        """Whether the recording reproduces the values of a run."""
        with self._rehearsal() as written, _causes():
            results = replay.flat(*args)
        return self._agree([*results, *written], values, replay.spec, None if in_float32 else args)


def _kind(argument: Any) -> Any:
    if not isinstance(argument, Tensor):
        try:
            hash(argument)
        except TypeError:
            what = f"an argument of type {type(argument).__name__} is neither tensor nor number"
            raise RecordingError(what) from None
        return type(argument), argument
    return tuple(argument.shape), argument.dtype, argument.device, argument.requires_grad, argument.stride()


def _graph(function: Callable[..., Any], inputs: Sequence[Tensor]) -> GraphModule:
    from torch._guards import TracingContext
    from torch._guards import tracing as in_context
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx  # loads sympy, so not with the package

    with in_context(TracingContext(FakeTensorMode())):  # make_fx would build a mode for every value
        return make_fx(function, decomposition_table=DECOMPOSITIONS)(*inputs)


def _in_float32(graph: GraphModule) -> GraphModule:
    """A copy without conversions to bfloat16."""
    copied = copy.deepcopy(graph)
    for node in copied.graph.nodes:
        parts = node.args, node.kwargs
        node.args, node.kwargs = tree_map(lambda x: torch.float32 if x is torch.bfloat16 else x, parts)
    copied.recompile()
    return copied


def _compile(graph: GraphModule, inputs: Sequence[Tensor], *, kept: bool = True) -> Callable[..., Any]:
    # Directly by the compiler of torch.compile: no Python is left that needs guards.
    with _causes(), isolated_rng(), torch.no_grad():
        return compile_graph(graph, inputs, kept=kept)


def _all_close(
    results: Sequence[Any], values: Sequence[Any], exact: Sequence[Any], tolerance: float, noise: float
) -> bool:
    triples = zip(results, values, exact, strict=False)
    return len(results) == len(values) and all(_close(a, b, c, tolerance, noise) for a, b, c in triples)


def _close(a: Any, b: Any, exact: Any, tolerance: float, noise: float) -> bool:
    """Equal up to ``tolerance`` of the tensor's norm, ten times the rounding of b, or ``noise``; equally finite."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):  # None for a missing gradient
        return a is b
    a, b = a.detach().double(), b.detach().double()
    finite = torch.isfinite(b)
    if a.shape != b.shape or not torch.equal(torch.isfinite(a), finite):
        return False
    a, b, exact = a[finite], b[finite], exact.detach().double()[finite]
    rounding = (exact - b).nan_to_num(0.0, 0.0, 0.0).norm()
    return bool((a - b).norm() <= tolerance * b.norm() + 10 * rounding + noise)


@contextmanager
def _causes() -> Iterator[None]:
    """Turn errors into a :class:`RecordingError` with the cause and the line of the user's program."""
    try:
        yield
    except RecordingError:
        raise
    except Exception as error:
        raise RecordingError(_cause(error)) from error


def _cause(error: Exception) -> str:
    reads = "data-dependent" in str(error) or "tracing tensor" in str(error)
    lines = str(error).strip().splitlines() or [""]
    what = "the program reads a tensor's value in Python" if reads else f"{type(error).__name__}: {lines[0]}"
    if type(error).__name__ == "DynamicOutputShapeException":  # of the compiler
        what = f"the shape of a tensor depends on values ({lines[0]})"
    frames = traceback.extract_tb(error.__traceback__)
    user_frames = [f for f in frames if not f.filename.startswith((*_LIBRARIES, "<string>"))]
    return f"{what} ({os.path.basename(user_frames[-1].filename)}:{user_frames[-1].lineno})" if user_frames else what
