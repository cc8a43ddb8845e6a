"""Compiled graphs are kept on disk under all that they depend on, and never give other numbers than the graph."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pyro_vae._core import compilation, recording
from pyro_vae._core.compilation import cache_folder, compile_graph
from pyro_vae._core.recording import _graph

TABLE = torch.tensor([0.5, -1.0, 2.0])


def program(x: Tensor, weight: Tensor) -> list[Tensor | None]:
    y = torch.tanh(x @ weight + TABLE) * torch.tensor(1.5)
    noise = torch.poisson(torch.empty_like(y).normal_().exp())  # by name: AOTInductor has no function for it
    weight.add_(y.sum())
    return [y, None, noise, x]


def inputs(rows: int = 4) -> list[Tensor]:
    return [torch.rand(rows, 2), torch.rand(2, 3)]


def run(function, *args: Tensor) -> list[Tensor | None]:
    torch.manual_seed(1)
    return [*function(*args), args[1]]


def same(results: list[Tensor | None], expected: list[Tensor | None]) -> bool:
    pairs = list(zip(results, expected, strict=True))
    return all(a is b is None or torch.allclose(a, b, rtol=1e-12, atol=0) for a, b in pairs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder of the compiled program."""
    parent = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation, "LIBRARIES", True)
        patch.setattr(compilation, "cache_folder", lambda: parent)
        torch.set_default_dtype(torch.float64)
        compile_graph(_graph(program, inputs()), inputs())
    return parent


@pytest.fixture(autouse=True)
def kept(folder: Path, monkeypatch) -> list[Path]:
    """The files of the graphs that are built, without building them."""
    built: list[Path] = []
    monkeypatch.setattr(compilation, "LIBRARIES", True)
    monkeypatch.setattr(compilation, "cache_folder", lambda: folder)
    monkeypatch.setattr(compilation, "_build", lambda graph, inputs, path: built.append(path))
    return built


@pytest.mark.slow
def test_a_kept_graph_gives_the_program_s_numbers(kept: list[Path]) -> None:
    compiled = compile_graph(_graph(program, inputs()), inputs())
    for args in (inputs(), inputs()):
        copies = [arg.clone() for arg in args]
        assert same(run(compiled, *args), run(program, *copies))
    assert not kept


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", ["shape", "dtype", "strides", "operation", "number", "threads", "processor", "torch", "flags"]
)
def test_another_graph_is_built(change: str, kept: list[Path], monkeypatch) -> None:
    args, function = inputs(), program
    if change == "shape":
        args = inputs(rows=5)
    elif change == "dtype":
        args = [arg.float() for arg in args]
    elif change == "strides":
        args[0] = args[0].mT.contiguous().mT
    elif change == "operation":
        function = lambda x, weight: [program(x, weight)[0].exp(), None, x, x]  # noqa: E731
    elif change == "number":
        tensor = torch.tensor
        monkeypatch.setattr(torch, "tensor", lambda value: tensor(value + 1e-15))
    elif change == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 17)
    elif change == "processor":
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": "perhaps"})
    elif change == "torch":
        monkeypatch.setattr(torch, "__version__", "3.0")
    else:
        monkeypatch.setenv("TORCHINDUCTOR_CPP_ENABLE_UNSAFE_MATH_OPT_FLAG", "1")
    with pytest.raises(FileNotFoundError):  # not built here
        compilation._Library(_graph(function, args), args)
    assert len(kept) == 1


@pytest.mark.slow
def test_a_table_is_read_by_the_library_and_not_part_of_it(monkeypatch, kept: list[Path]) -> None:
    monkeypatch.setitem(globals(), "TABLE", TABLE + 1)
    args = inputs()
    copies = [arg.clone() for arg in args]
    assert same(run(compile_graph(_graph(program, inputs()), inputs()), *args), run(program, *copies))
    assert not kept


@pytest.mark.slow
def test_a_damaged_file_is_built_again(folder: Path, tmp_path: Path, monkeypatch) -> None:
    (good,) = folder.glob("*.so")
    damaged = tmp_path / good.name
    damaged.write_bytes(good.read_bytes()[:-1000])
    for file in folder.glob("*.json"):
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(compilation, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(compilation, "_build", lambda graph, inputs, path: path.write_bytes(good.read_bytes()))
    args = inputs()
    copies = [arg.clone() for arg in args]
    assert same(run(compile_graph(_graph(program, inputs()), inputs()), *args), run(program, *copies))
    assert damaged.read_bytes() == good.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("change", [lambda w: w.float(), lambda w: w[:1], lambda w: w.mT.contiguous().mT])
def test_a_tensor_of_another_layout_raises(change) -> None:
    compiled = compile_graph(_graph(program, inputs()), inputs())
    x, weight = inputs()
    with pytest.raises(RuntimeError, match="have changed since the recording"):
        compiled(x, change(weight))


def test_a_graph_that_cannot_be_a_library_is_compiled_in_the_process(monkeypatch, tmp_path: Path) -> None:
    def fail(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(compilation, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(compilation, "_build", fail)
    monkeypatch.setattr("torch._inductor.compile", lambda graph, *args, **options: "in the process")
    assert compile_graph(_graph(program, inputs()), inputs()) == "in the process"


@pytest.mark.slow
def test_a_library_that_somebody_else_could_have_written_is_not_loaded(kept: list[Path], folder: Path, monkeypatch):
    monkeypatch.setattr(compilation.os, "geteuid", lambda: 12345)
    with pytest.raises(OSError, match="could have been written by somebody else"):
        compilation._load(next(folder.glob("*.so")))


def test_the_cache_is_the_user_s(monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/shared")  # torch sets it to a folder that others may write
    assert cache_folder() == Path("/somewhere/pyro_vae/graphs")


def test_a_library_that_gives_other_numbers_is_not_used(monkeypatch) -> None:
    compiled = []

    def compile_wrongly(graph, inputs, *, kept=True):
        compiled.append(kept)
        return (lambda *tensors: [2 * result for result in graph(*tensors)]) if kept else graph

    monkeypatch.setattr(recording, "_compile", compile_wrongly)
    recorded = recording.Recorded(lambda x: x.sum(), [])
    assert float(recorded(torch.ones(3))) == 3
    assert compiled == [True, False]
