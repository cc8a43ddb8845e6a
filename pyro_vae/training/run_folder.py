"""The folder of a run: what is needed to resume it, to rebuild its model and to draw its curves."""

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

from pyro_vae._core.files import json_ready, write_atomically

FORMAT = 1
_KEYS = ("metrics_bytes",)  # what every state holds; the training loop adds its own


class RunFolder:
    """A run folder: ``config.yaml``, ``weights.safetensors``, ``state.pt``, ``metrics.jsonl``, ``figures/``.

    Every file is written atomically, and nothing is read that could execute code.

    Args:
        path: the folder, which must exist; :meth:`create` makes one.

    Raises:
        FileNotFoundError: no such folder.

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
        """Make a new run folder, whole or not at all.

        Args:
            path: the folder; its parents are made as needed.
            config: text of ``config.yaml``.

        Raises:
            FileExistsError: something is at ``path`` already.
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
        """The folder of the figures."""
        folder = self.path / "figures"
        folder.mkdir(exist_ok=True)
        return folder

    def config(self) -> str:
        """The text of ``config.yaml``.

        Raises:
            FileNotFoundError: the run has none.
        """
        file = self.path / "config.yaml"
        if not file.is_file():
            raise FileNotFoundError(f"RunFolder: {self.path} must hold config.yaml, got none. Is it a run folder?")
        return file.read_text()

    def save_state(self, state: dict[str, Any]) -> None:
        """Write the state to resume from, and how far the metrics reach."""
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, **state, "metrics_bytes": self._sync_metrics()}, buffer)
        write_atomically(self.path / "state.pt", buffer.getvalue(), overwrite=True)

    def load_state(self) -> dict[str, Any] | None:
        """The state to resume from, with the metrics cut back to it; None where nothing was saved yet.

        Raises:
            ValueError: the file is damaged or was not written by this package.
        """
        file = self.path / "state.pt"
        if not file.exists():
            self._cut_metrics(0)
            return None
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            found = state["format"]
            if found == FORMAT and not set(_KEYS) <= set(state):
                raise KeyError(f"no entry {sorted(set(_KEYS) - set(state))[0]!r}")
        except Exception as error:
            raise _unreadable(file, error) from None
        if found != FORMAT:
            raise _unreadable(file, f"format {found}")
        self._cut_metrics(int(state["metrics_bytes"]))
        return state

    def save_weights(self, weights: dict[str, Tensor]) -> None:
        """Write ``weights.safetensors``."""
        # Clones, because safetensors refuses tensors that share memory (a prior that goes through the guide).
        tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
        write_atomically(self.path / "weights.safetensors", save_safetensors(tensors), overwrite=True)

    def load_weights(self) -> dict[str, Tensor]:
        """The tensors of ``weights.safetensors``.

        Raises:
            FileNotFoundError: the run has none yet.
            ValueError: the file is damaged.
        """
        file = self.path / "weights.safetensors"
        if not file.is_file():
            raise FileNotFoundError(f"RunFolder: {self.path} must hold weights.safetensors, got none. Train it first.")
        try:
            return load_safetensors(file.read_bytes())
        except Exception as error:
            raise _unreadable(file, error) from None

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add a line to ``metrics.jsonl``."""
        with self._open_metrics() as file:
            file.write(json.dumps(json_ready(record), allow_nan=False) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``."""
        file = self.path / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []

    def _sync_metrics(self) -> int:
        with self._open_metrics() as file:
            os.fsync(file.fileno())
            return file.tell()

    def _cut_metrics(self, size: int) -> None:
        with self._open_metrics() as file:
            file.truncate(min(size, file.tell()))  # to a greater size it would be filled up with zeros

    def _open_metrics(self) -> IO[str]:
        """The metrics, for appending; a link in the folder is not followed out of it."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        return os.fdopen(os.open(self.path / "metrics.jsonl", flags, 0o644), "a")


def _unreadable(file: Path, reason: object) -> ValueError:
    first_line = (str(reason).splitlines() or [""])[0][:120]
    return ValueError(
        f"RunFolder: {file} must be a whole file of a pyro_vae run, got an unreadable one ({first_line}). "
        "Restore it from a copy, or train anew under another name."
    )
