"""Compilation of recorded graphs, kept on disk: the next process loads in milliseconds what took seconds to compile.

On a CPU a graph becomes one shared library (torch's AOTInductor), which runs without Python between its kernels and is
loaded without the compiler's modules. On other devices it is compiled as by ``torch.compile``.
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule

from pyro_vae._core.cache import read_cached, user_cache
from pyro_vae._core.files import write_atomically

LIBRARIES = sys.platform == "linux"
"""Whether graphs on a CPU become libraries; many small graphs of one process compile faster without."""
_MAX_FILES = 200  # of about 400 kB; the least recently used are deleted
_COMMON = {"fallback_random": True}  # the compiler's random numbers would differ from those of the program
_ON_CPU = {
    **_COMMON,
    "pattern_matcher": False,  # its patterns undo the decomposition of ``addmm``
    "cpp.vec_isa_ok": True,  # compilers support the instructions that the processor has; a test takes 5 s
    "aot_inductor.precompile_headers": False,  # takes longer than the graph
    "aot_inductor.enable_line_tables": False,
}


def compile_graph(graph: GraphModule, inputs: Sequence[Tensor], *, kept: bool = True) -> Callable[..., Any]:
    """Compile a graph of tensor operations, or load it if this user has compiled it before.

    Libraries of graphs are kept in :func:`cache_folder` under a hash of the graph's operations, shapes, dtypes and
    strides, the processor, the number of threads, and the version and settings of torch. An operation that AOTInductor
    does not support makes the graph be compiled as by ``torch.compile``, in every process anew.

    Args:
        graph: a recording; its results are tensors or None.
        inputs: tensors like those that it will be called with.
        kept: whether to make a library that is kept.

    Returns:
        A function of such tensors that returns the list of results.
    """
    if kept and LIBRARIES and all(tensor.device.type == "cpu" for tensor in inputs):
        with suppress(Exception):  # errors of the graph itself are raised below
            return _Library(graph, inputs)
    from torch._inductor import compile as compile_in_process

    on_cpu = all(tensor.device.type == "cpu" for tensor in inputs)
    options = {**_COMMON, "pattern_matcher": False} if on_cpu else _COMMON
    return compile_in_process(graph, _examples(inputs), options=options)


def cache_folder() -> Path:
    """Folder of compiled graphs, in the user's cache: ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    return user_cache("graphs")


class _Library:
    """A graph in a shared library; its larger constants are further inputs."""

    def __init__(self, graph: GraphModule, inputs: Sequence[Tensor]) -> None:
        results: Any = graph.graph.output_node().args[0]
        self._num_results = len(results)
        self._tensors = [i for i, result in enumerate(results) if result is not None]
        graph, self._constants = _for_library(graph)
        self._layouts = _layouts(inputs)
        path = cache_folder() / f"{_key(graph, [*inputs, *self._constants])}.so"
        try:
            self._runner = _load(path)
        except (OSError, RuntimeError):  # missing or damaged
            _build(graph, [*inputs, *self._constants], path)
            self._runner = _load(path)

    def __call__(self, *inputs: Tensor) -> list[Tensor | None]:
        if _layouts(inputs) != self._layouts:  # the library reads memory without checks
            raise RuntimeError("shape, strides, dtype or device of a tensor have changed since the recording")
        results: list[Tensor | None] = [None] * self._num_results
        for i, result in zip(self._tensors, self._runner.run([*inputs, *self._constants]), strict=True):
            results[i] = result
        return results


def _layouts(tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    shapes, strides = [t.shape for t in tensors], [t.stride() for t in tensors]
    return shapes, strides, [t.dtype for t in tensors], [t.is_cpu for t in tensors]


def _for_library(graph: GraphModule) -> tuple[GraphModule, list[Tensor]]:
    """A copy without None among the results, with constants as further inputs, and these constants."""
    constants: list[Tensor] = []
    copy = Graph()
    results: Any = copy.graph_copy(graph.graph, {})
    copy.output([result for result in results if result is not None])
    first = next(node for node in copy.nodes if node.op != "placeholder")
    for node in copy.find_nodes(op="get_attr"):
        value = getattr(graph, node.target).detach()
        with copy.inserting_before(node if value.numel() == 1 else first):
            if value.numel() == 1:  # written into the kernels
                options = {"dtype": value.dtype, "device": value.device}
                new = copy.call_function(torch.ops.aten.full.default, (list(value.shape), value.item()), options)
            else:
                new = copy.placeholder(f"constant_{len(constants)}")
                constants.append(value)
        node.replace_all_uses_with(new)
    for node in copy.find_nodes(op="get_attr"):
        copy.erase_node(node)
    for node in copy.nodes:
        node.meta.clear()  # of the recording's fake tensors
    copy.lint()
    return GraphModule(torch.nn.Module(), copy), constants


def _key(graph: GraphModule, inputs: Sequence[Tensor]) -> str:
    """A hash of all that the library depends on."""
    layouts = [(tuple(t.shape), t.stride(), t.dtype) for t in inputs]
    settings = {name: value for name, value in os.environ.items() if name.startswith("TORCHINDUCTOR_")}
    settings |= {name: os.environ.get(name, "") for name in ("ATEN_CPU_CAPABILITY", "CXX")}
    machine = sorted(torch.cpu.get_capabilities().items()), torch.get_num_threads(), sys.version_info[:2]
    modes = torch.are_deterministic_algorithms_enabled(), torch.get_default_dtype()
    parts = [graph.code, layouts, torch.__version__, sorted(settings.items()), sorted(_ON_CPU.items())]
    return hashlib.sha256(repr([*parts, machine, modes]).encode()).hexdigest()


def _load(path: Path) -> Any:
    content = read_cached(path)
    if _digest(content[:-32]) != content[-32:]:
        raise OSError(f"{path} is damaged")  # would end the process when it is loaded
    with suppress(OSError):
        os.utime(path)  # its last use
    return torch._C._aoti.AOTIModelContainerRunnerCpu(str(path), 1)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _build(graph: GraphModule, inputs: Sequence[Tensor], path: Path) -> None:
    """Compile the graph into the file."""
    instructions = _Later(_find_instructions)  # beside the import, and the passes over the graph
    from torch._inductor.compile_fx import compile_fx_aot

    examples = _examples(inputs)
    for node, example in zip(graph.graph.find_nodes(op="placeholder"), examples, strict=True):
        node.meta["val"] = example
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pyro_vae") as folder, _parallel_builds(), _quiet():
        options = {**_ON_CPU, "aot_inductor.output_path": folder}
        library = Path(str(compile_fx_aot(graph, examples, config_patches=options)))
        instructions.result()
        subprocess.run(["strip", library], check=False, capture_output=True)
        content, names = library.read_bytes(), library.with_suffix(".json")
        if names.exists():  # of operations that are called by name
            write_atomically(path.with_suffix(".json"), names.read_bytes(), overwrite=True)
        write_atomically(path, content + _digest(content), overwrite=True)
    with suppress(OSError):  # another process deletes files too
        for old in sorted(path.parent.glob("*.so"), key=os.path.getmtime)[:-_MAX_FILES]:
            old.unlink(missing_ok=True)
            old.with_suffix(".json").unlink(missing_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings about operations that the library calls by their names."""
    logger = logging.getLogger("torch._inductor.ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Later:
    """A call in another thread."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:
            self._error = error

    def result(self) -> None:
        """Wait, and raise the call's error."""
        self._thread.join()
        if self._error is not None:
            raise self._error


def _find_instructions() -> None:
    """Let the compiler determine the processor's vector instructions, by test programs."""
    from torch._inductor import config
    from torch._inductor.cpu_vec_isa import valid_vec_isa_list

    with config.patch({"cpp.vec_isa_ok": True}):
        valid_vec_isa_list()


@contextmanager
def _parallel_builds() -> Iterator[None]:
    """Compile the C++ files of this thread's graph side by side; linking waits for them."""
    from torch._inductor.cpp_builder import CppBuilder

    builders: Any = CppBuilder
    build, this, running = builders.build, threading.get_ident(), []

    def build_later(builder: Any) -> None:
        links = not builder._build_option.get_compile_only()
        if threading.get_ident() == this and not links and builder._name.endswith((".wrapper", ".kernel")):
            running.append(_Later(partial(build, builder)))
            return
        for later in running if threading.get_ident() == this and links else ():
            later.result()
        build(builder)

    builders.build = build_later
    try:
        yield
    finally:
        builders.build = build


def _examples(inputs: Sequence[Tensor]) -> list[Any]:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # Without a ShapeEnv, torch bypasses its cache of compiled graphs on disk.
    mode = FakeTensorMode(shape_env=ShapeEnv(allow_scalar_outputs=False, allow_dynamic_output_shape_ops=False))
    return [mode.from_tensor(tensor, static_shapes=True) for tensor in inputs]
