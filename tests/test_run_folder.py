"""The run folder: atomic, safe to read, never overwritten."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import signal
import subprocess
import sys
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


@pytest.mark.parametrize("rest", ["metrics", "weights"])
def test_a_trained_run_without_a_state_is_not_trained_anew(rest: str, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    assert run.load_state() is None  # killed before its first checkpoint
    run.append_metrics({"epoch": 1}) if rest == "metrics" else run.save_weights({"x": torch.ones(2)})
    before = {file.name: file.read_bytes() for file in run.path.iterdir() if file.is_file()}
    with pytest.raises(ValueError, match=r"a trained run must hold state.pt to be resumed, got no such file in .*/run"):
        run.load_state()
    assert {file.name: file.read_bytes() for file in run.path.iterdir() if file.is_file()} == before


def test_every_changed_byte_of_the_weights_is_an_error(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", config="epochs: 1")
    run.save_weights({"x": torch.arange(3.0)}, metadata={"epoch": "1", "note": "\u00e9"})
    file = run.path / "weights.safetensors"
    content = file.read_bytes()
    name = content.index(b"checksum")
    for place in set(range(len(content))) - set(range(name, name + 8)):  # without its name there is no checksum
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"weights.safetensors must be a whole file of a pyro_vae run"):
            run.provenance()


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
    run.save_state({})
    (run.path / "metrics.jsonl").unlink()
    (run.path / "metrics.jsonl").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link"):
        run.load_state()
    assert precious.read_text() == "keep me"


def test_metrics_that_are_too_short_are_not_padded(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.append_metrics({"epoch": 1, "validation_elbo": -float("inf")})
    run.save_state({})
    (run.path / "metrics.jsonl").write_text("")
    with pytest.warns(UserWarning, match=r"metrics.jsonl must have 40 bytes, got 0; records are missing"):
        run.load_state()
    assert run.metrics() == []


def test_nonfinite_metrics_are_valid_json(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.append_metrics({"a": float("-inf"), "b": float("nan")})
    assert run.metrics() == [{"a": float("-inf"), "b": None}]


def test_a_damaged_line_of_metrics_is_named(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    (run.path / "metrics.jsonl").write_text('{"epoch": 1}\nnope\n')
    with pytest.raises(ValueError, match=r"^RunFolder: metrics\.jsonl must hold one JSON record a line, got .*jsonl"):
        run.metrics()


def test_a_link_of_figures_is_not_followed_out_of_the_folder(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.figures.rmdir()
    (run.path / "figures").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"run/figures must lie in the run folder, got a link out of it"):
        _ = run.figures


def test_a_line_that_was_cut_off_is_dropped_and_then_truncated(tmp_path: Path) -> None:
    run, file = RunFolder.create(tmp_path / "run"), tmp_path / "run" / "metrics.jsonl"
    run.append_metrics({"epoch": 1})
    run.save_state({})
    file.write_text('{"epoch": 1}\n{"epo')
    with pytest.warns(UserWarning, match=r"dropped the last line of .*metrics.jsonl, which is incomplete"):
        assert run.metrics() == [{"epoch": 1}]
    file.write_text('{"epoc')  # the disk was full before, too
    with pytest.warns(UserWarning, match="records are missing"):
        run.load_state()
    run.append_metrics({"epoch": 2})
    assert run.metrics() == [{"epoch": 2}]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_file_modes_follow_the_umask(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        run = RunFolder.create(tmp_path / "run", config="a: 1")
        run.append_metrics({"epoch": 1})
        run.save_state({})
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (run.path, run.figures)}
    assert modes == {0o777 & ~mask}
    files = [path for path in run.path.iterdir() if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~mask}
    assert len(files) == 3


def test_a_full_disk_names_the_file_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = RunFolder.create(tmp_path / "run")
    monkeypatch.setattr("os.fsync", no_space)
    for write, name in ((run.save_weights, "weights.safetensors"), (run.save_state, "metrics.jsonl")):
        with pytest.raises(OSError, match=r"No space left on device for .* MB; free as much") as error:
            write({"x": torch.ones(2)})
        assert error.value.filename == str(run.path / name)
    assert [path.name for path in run.path.iterdir() if path.name[0] == "."] == []


def test_what_killed_processes_leave_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """A temporary file is locked for as long as its process lives."""
    run = RunFolder.create(tmp_path / "run")
    dead = [run.path / ".state.pt.0123abcd", run.path / ".weights.safetensors.abcdef01", tmp_path / ".run.01234567"]
    kept = [
        run.path / name for name in (".state.pt.backup-1", ".state.pt.mine", ".other.pt.0123abcd", ".state.pt.link")
    ]
    for path in (*dead[:2], *kept[:3]):
        path.write_text("half")
    kept[3].symlink_to(kept[0])
    dead[2].mkdir()
    (dead[2] / "config.yaml").write_text("a: 1")
    (tmp_path / ".run.89abcdef").mkdir()
    (tmp_path / ".run.89abcdef" / "thesis.tex").write_text("mine")
    living, young = run.path / ".state.pt.11111111", run.path / ".state.pt.22222222"
    living.write_text("half")
    for path in (*dead, living, tmp_path / ".run.89abcdef"):
        os.utime(path, (0, 0))
    young.write_text("half")
    with living.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        run.load_state()
        assert [path for path in dead if path.exists()] == []
        assert all(path.is_symlink() or path.exists() for path in (*kept, living, young))
    assert (tmp_path / ".run.89abcdef" / "thesis.tex").exists()
    os.utime(young, (0, 0))
    run.save_state({})  # the next writer of the same file
    assert not living.exists()
    assert not young.exists()


def test_an_interrupted_write_of_another_process_is_not_removed(tmp_path: Path, monkeypatch) -> None:
    """The second of two writers of a file leaves the first one's temporary file alone, however old it is."""
    fsync, nested = os.fsync, []

    def fsync_amid_another_write(handle: int) -> None:
        fsync(handle)
        if not nested:
            nested.append(next(path for path in tmp_path.iterdir() if path.name.startswith(".file.")))
            os.utime(nested[0], (0, 0))
            write_atomically(tmp_path / "file", b"second", overwrite=True)

    monkeypatch.setattr("os.fsync", fsync_amid_another_write)
    write_atomically(tmp_path / "file", b"first")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


HOLD = """
import os, sys, time
from pathlib import Path
from pyro_vae._core.locks import locked_folder
with locked_folder("RunFolder", Path(sys.argv[1])):
    if os.fork() == 0:
        print(os.getpid(), flush=True)  # by the child, which has closed the folder by now
        time.sleep(60)
        os._exit(0)
    sys.stdin.read()
"""


def test_one_process_trains_in_a_folder_at_a_time(tmp_path: Path) -> None:
    """Also a stopped one; a killed one does not block, not even if a child of it lives on."""
    run = RunFolder.create(tmp_path / "run")
    command = [sys.executable, "-c", HOLD, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        child = int(holder.stdout.readline())
        for number in (signal.SIGCONT, signal.SIGSTOP):
            holder.send_signal(number)
            with pytest.raises(ValueError, match=r"got a run that is being trained by another process") as error:
                run.locked().__enter__()
            assert "\n" not in str(error.value)
        holder.kill()
    try:
        refused = pytest.raises(ValueError, match="being trained by another process")
        with run.locked(), run.locked(), refused:  # one object, twice
            RunFolder(run.path).locked().__enter__()
        with RunFolder(run.path).locked():
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_file_system_without_locks_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, flags: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    run = RunFolder.create(tmp_path / "run")
    warns = pytest.warns(UserWarning, match=r"run lies on a file system without locks \(.*No locks available\)")
    with warns, run.locked():
        run.save_state({})
    assert run.load_state() is not None


def test_a_state_that_is_no_file_does_not_block(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    os.mkfifo(run.path / "state.pt")
    with pytest.raises(ValueError, match=r"must be a regular file, got a FIFO"):
        run.load_state()
