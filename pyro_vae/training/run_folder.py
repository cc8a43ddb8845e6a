"""The folder of a run, from which it is resumed, its model rebuilt and its curves drawn."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from pyro_vae._core.checks import refusal
from pyro_vae._core.files import json_ready, write_atomically

FORMAT = 1
_METRICS_BYTES = "metrics_bytes"  # entry of every state: length of metrics.jsonl at the time


class RunFolder:
    """A run folder: ``config.yaml``, ``weights.safetensors``, ``state.pt``, ``metrics.jsonl``, ``figures/``.

    Every file is written atomically, and reading a file never executes code.

    Args:
        path: an existing folder; :meth:`create` makes one.

    Raises:
        FileNotFoundError: the folder does not exist.

    Example:
        >>> import tempfile
        >>> run = RunFolder.create(tempfile.mkdtemp() + "/mine")
        >>> run.append_metrics({"epoch": 1})
        >>> run.metrics()
        [{'epoch': 1}]
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise FileNotFoundError(f"RunFolder: the run folder must exist, got {self.path}. Check the name with ls.")

    @classmethod
    def create(cls, path: str | Path, *, config: str | None = None) -> RunFolder:
        """Create a run folder, completely or not at all.

        Args:
            path: the folder; its parents are created as needed.
            config: text of ``config.yaml``.

        Raises:
            FileExistsError: ``path`` exists.
        """
        target = Path(path)
        if target.exists():
            raise FileExistsError(
                f"RunFolder: the run folder must not exist yet, got {target}. Choose another name, or --resume it."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            if config is not None:
                write_atomically(temporary / "config.yaml", config.encode())
            (temporary / "figures").mkdir()
            temporary.chmod(0o755)
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return cls(target)

    @property
    def figures(self) -> Path:
        """The folder of the figures, created at the first use."""
        folder = self.path / "figures"
        folder.mkdir(exist_ok=True)
        return folder

    def config(self) -> str:
        """The text of ``config.yaml``.

        Raises:
            FileNotFoundError: the run has no configuration.
        """
        file = self.path / "config.yaml"
        if not file.is_file():
            raise FileNotFoundError(
                f"RunFolder: {self.path} must hold config.yaml, got no such file. Is it a run folder?"
            )
        return file.read_text()

    def save_state(self, state: dict[str, Any]) -> None:
        """Write the state to resume from, and the current length of the metrics."""
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, **state, _METRICS_BYTES: self._sync_metrics()}, buffer)
        write_atomically(self.path / "state.pt", buffer.getvalue(), overwrite=True)

    def load_state(self) -> dict[str, Any] | None:
        """Read the state to resume from, and truncate the metrics to it; None if nothing was saved yet.

        Raises:
            ValueError: the file is damaged or was not written by this package.
        """
        file = self.path / "state.pt"
        if not file.exists():
            self._truncate_metrics(0)
            return None
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            version = state["format"]
            if version == FORMAT and _METRICS_BYTES not in state:
                raise KeyError(f"no entry {_METRICS_BYTES!r}")
        except Exception as error:
            raise _unreadable(file, error) from None
        if version != FORMAT:
            raise _unreadable(file, f"format {version}")
        self._truncate_metrics(int(state[_METRICS_BYTES]))
        return state

    def save_weights(self, weights: dict[str, Tensor], *, raw: bool = False) -> None:
        """Write ``weights.safetensors``; or, of a training that averages them, the last ``weights-raw.safetensors``."""
        # Clones, because safetensors refuses tensors that share memory (a VampPrior contains the guide).
        tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
        write_atomically(self._weights(raw), save_safetensors(tensors), overwrite=True)

    def load_weights(self, *, raw: bool = False) -> dict[str, Tensor]:
        """Read ``weights.safetensors``, or ``weights-raw.safetensors``.

        Raises:
            FileNotFoundError: the run has no weights yet, or was trained without ``ema``.
            ValueError: the file is damaged.
        """
        file = self._weights(raw)
        if not file.is_file():
            advice = "Only trainings with ema have raw ones" if raw else "Train it first"
            raise FileNotFoundError(f"RunFolder: {self.path} must hold {file.name}, got no such file. {advice}.")
        try:
            return load_safetensors(file.read_bytes())
        except Exception as error:
            raise _unreadable(file, error) from None

    def _weights(self, raw: bool) -> Path:
        return self.path / ("weights-raw.safetensors" if raw else "weights.safetensors")

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``."""
        with self._open_metrics() as file:
            file.write(json.dumps(json_ready(record), allow_nan=False) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Read the lines of ``metrics.jsonl``.

        Raises:
            ValueError: a line is damaged.
        """
        file = self.path / "metrics.jsonl"
        try:
            return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
        except ValueError as error:
            raise refusal("RunFolder", "metrics.jsonl must hold one JSON record a line", f"{file} ({error})") from None

    def _sync_metrics(self) -> int:
        with self._open_metrics() as file:
            os.fsync(file.fileno())
            return file.tell()

    def _truncate_metrics(self, size: int) -> None:
        with self._open_metrics() as file:
            file.truncate(min(size, file.tell()))  # a greater size would append zeros

    def _open_metrics(self) -> IO[str]:
        """Open the metrics for appending, without following a symbolic link out of the folder."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        return os.fdopen(os.open(self.path / "metrics.jsonl", flags, 0o644), "a")


def _unreadable(file: Path, reason: object) -> ValueError:
    first_line = (str(reason).splitlines() or [""])[0][:120]
    value, advice = f"an unreadable one ({first_line})", "Restore it from a copy, or train again under another name"
    return refusal("RunFolder", f"{file} must be a whole file of a pyro_vae run", value, advice)
