"""The run folder: atomic, safe to read, never overwritten."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from pyro_vae._core.files import write_atomically
from pyro_vae.training import RunFolder


class _Evil:
    def __reduce__(self):
        return (Path("executed").touch, ())


def test_create_raises_on_existing_files_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(FileExistsError, match="must not exist yet"):
        RunFolder.create(tmp_path / "run", config="a: 1")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert RunFolder.create(tmp_path / "deep" / "er", config="a: 1").config() == "a: 1"


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must exist, got .*nothing"):
        RunFolder(tmp_path / "nothing")


def test_state_and_weights_are_restored(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    tensor = torch.randn(3, 4)
    run.save_weights({"a": tensor, "shared": tensor, "slice": tensor[:, 1]})
    run.save_state({"x": tensor, "n": 3, "none": None})
    weights, state = run.load_weights(), run.load_state()
    assert torch.equal(weights["a"], tensor)
    assert torch.equal(weights["slice"], tensor[:, 1])
    assert torch.equal(state["x"], tensor)
    assert (state["n"], state["none"]) == (3, None)


def test_metrics_are_truncated_to_the_state(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.append_metrics({"epoch": 1})
    run.save_state({})
    run.append_metrics({"epoch": 2})
    assert [r["epoch"] for r in run.metrics()] == [1, 2]
    run.load_state()
    assert [r["epoch"] for r in run.metrics()] == [1]


def test_metrics_without_a_state_are_discarded(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.append_metrics({"epoch": 1})
    assert run.load_state() is None
    assert run.metrics() == []


@pytest.mark.parametrize("name", ["state.pt", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a file of ours", None, "half"])
def test_damaged_files_raise_one_line_errors(tmp_path: Path, name: str, content: bytes | str | None) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.save_state({"x": torch.ones(50)})
    run.save_weights({"x": torch.ones(50)})
    file = run.path / name
    whole = file.read_bytes()
    file.write_bytes(
        pickle.dumps({"format": 1}) if content is None else whole[: len(whole) // 2] if content == "half" else content
    )
    with pytest.raises(ValueError, match="must be a whole file of a pyro_vae run") as error:
        run.load_state() if name == "state.pt" else run.load_weights()
    assert "\n" not in str(error.value)


def test_loading_executes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunFolder.create(tmp_path / "run")
    for content in ({"format": 1, "metrics_bytes": 0, "x": _Evil()}, _Evil()):
        torch.save(content, run.path / "state.pt")
        (run.path / "weights.safetensors").write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match="must be a whole file"):
            run.load_state()
        with pytest.raises(ValueError, match="must be a whole file"):
            run.load_weights()
    assert not (tmp_path / "executed").exists()


def test_a_state_of_another_format_raises(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    torch.save({"format": 99}, run.path / "state.pt")
    with pytest.raises(ValueError, match="format 99"):
        run.load_state()


def test_write_is_atomic_and_does_not_overwrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"one")
    with pytest.raises(FileExistsError, match="must not exist yet"):
        write_atomically(file, b"two")
    write_atomically(file, b"two", overwrite=True)

    def no_space(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, b"three", overwrite=True)
    assert file.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_unwritable_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_atomically(tmp_path / "missing" / "file", b"x")


def test_a_link_is_not_followed_out_of_the_folder(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    (run.path / "metrics.jsonl").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link"):
        run.load_state()
    assert precious.read_text() == "keep me"


def test_metrics_that_are_too_short_are_not_padded(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.append_metrics({"epoch": 1, "validation_elbo": -float("inf")})
    run.save_state({})
    (run.path / "metrics.jsonl").write_text("")
    run.load_state()
    assert run.metrics() == []


def test_nonfinite_metrics_are_valid_json(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.append_metrics({"a": float("-inf"), "b": float("nan")})
    assert run.metrics() == [{"a": "-inf", "b": None}]


def test_a_damaged_line_of_metrics_is_named(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    (run.path / "metrics.jsonl").write_text('{"epoch": 1}\nnope\n')
    with pytest.raises(ValueError, match=r"^RunFolder: metrics\.jsonl must hold one JSON record a line, got .*jsonl"):
        run.metrics()
