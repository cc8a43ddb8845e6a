"""The folder of a run, from which it is resumed, its model rebuilt and its curves drawn."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.checks import check_arguments, refusal, require
from pyro_vae._core.files import create_folder, read_bytes, remove_abandoned, write_atomically
from pyro_vae._core.fingerprint import fingerprint_of
from pyro_vae._core.locks import locked_folder
from pyro_vae._core.machine import machine_entries
from pyro_vae._core.weights import read_weights, write_weights
from pyro_vae.training.metrics_file import MetricsFile
from pyro_vae.training.saved_state import read_state

FORMAT = 1
_MAX_CONFIG = 1_000_000  # bytes
_CONFIG, _STATE, _FIGURES = "config.yaml", "state.pt", "figures"
_WEIGHTS, _RAW_WEIGHTS = "weights.safetensors", "weights-raw.safetensors"
_TRAINED = (_STATE, _WEIGHTS, _RAW_WEIGHTS)  # files of a training, beside the metrics
_METRICS_BYTES = "metrics_bytes"  # entry of every state: length of metrics.jsonl at the time


class RunFolder:
    """A run folder: ``config.yaml``, ``weights.safetensors``, ``state.pt``, ``metrics.jsonl``, ``figures/``.

    Every file is written atomically, and reading a file never executes code.

    Args:
        path: an existing folder; :meth:`create` makes one.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: ``path`` is the empty string.

    Example:
        >>> import tempfile
        >>> run = RunFolder.create(tempfile.mkdtemp() + "/mine")
        >>> run.append_metrics({"epoch": 1})
        >>> run.metrics()
        [{'epoch': 1}]
    """

    def __init__(self, path: str | Path) -> None:
        check_arguments(RunFolder.__init__, locals(), "RunFolder")
        self.path = _as_path(path)
        self._config: str | None = None  # the text of the configuration that is trained, once known
        self._is_locked = False
        self._metrics = MetricsFile(self.path / "metrics.jsonl")
        self.metadata: dict[str, str] = {}  # provenance that all weights of a training share
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
        target = _as_path(path)
        if target.exists():
            raise FileExistsError(
                f"RunFolder: the run folder must not exist yet, got {target}. Choose another name, or --resume it."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(target, content=(_CONFIG, _FIGURES))
        create_folder(target, {} if config is None else {_CONFIG: config.encode()}, folders=[_FIGURES])
        return cls(target)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Context in which no other process can train in the folder; contexts of one object may be nested.

        Raises:
            ValueError: another process trains in it.
        """
        if self._is_locked:
            yield
            return
        with locked_folder("RunFolder", self.path):
            self._is_locked = True
            try:
                yield
            finally:
                self._is_locked = False

    @property
    def figures(self) -> Path:
        """The folder of the figures, created at the first use.

        Raises:
            ValueError: it is a link out of the run folder.
        """
        return self.folder(_FIGURES)

    def folder(self, name: str) -> Path:
        """A folder within the run folder, created at the first use.

        Raises:
            ValueError: it is a link out of the run folder.
        """
        folder = self.path / name
        inside = folder.resolve().is_relative_to(self.path.resolve())
        require(inside, "RunFolder", f"{folder} must lie in the run folder", "a link out of it", "Remove the link")
        folder.mkdir(exist_ok=True)
        return folder

    def config(self) -> str:
        """The text of ``config.yaml``.

        Raises:
            FileNotFoundError: the run has no configuration.
            OSError: the file is not a regular file, or larger than 1 MB.
            ValueError: it is not text.
        """
        file = self.path / _CONFIG
        if not file.is_file():
            raise FileNotFoundError(
                f"RunFolder: {self.path} must hold config.yaml, got no such file. Is it a run folder?"
            )
        try:
            return read_bytes(file, limit=_MAX_CONFIG).decode()
        except UnicodeDecodeError as error:
            raise _unreadable(file, error) from None

    def set_config(self, text: str) -> None:
        """Choose the configuration to train, which :meth:`write_config` writes."""
        self._config = text

    def write_config(self) -> None:
        """Write ``config.yaml`` if it is not the configuration that is trained; call it after every check."""
        file = self.path / _CONFIG
        current = file.read_text() if file.is_file() else None
        self._config = current if self._config is None else self._config
        if self._config is not None and self._config != current:
            write_atomically(file, self._config.encode(), overwrite=True)

    def trained_config(self) -> str | None:
        """The configuration that the saved state was trained with; None if unknown or nothing is saved.

        Raises:
            ValueError: ``state.pt`` is damaged.
        """
        state = self._read_state()
        return None if state is None else state.get("config")

    @property
    def is_run(self) -> bool:
        """Whether it is a run folder or empty but for hidden files, rather than a folder of other files."""
        names = {file.name for file in self.path.iterdir() if file.name[0] != "."}
        others = names - {_FIGURES, "tensorboard", "wandb", "error.log"}
        return not others or not self.is_new or (self.path / _CONFIG).exists()

    @property
    def is_new(self) -> bool:
        """Whether nothing has been trained in the folder."""
        return not any((self.path / name).exists() for name in _TRAINED) and not len(self._metrics)

    def save_state(self, state: dict[str, Any]) -> None:
        """Write the state to resume from, with the current length of the metrics and the configuration."""
        buffer = io.BytesIO()
        own = {_METRICS_BYTES: self._metrics.sync(), "config": self._config}
        torch.save({"format": FORMAT, **state, **own}, buffer)
        write_atomically(self.path / _STATE, buffer.getvalue(), overwrite=True)

    def load_state(self) -> dict[str, Any] | None:
        """Read the state to resume from, and truncate the metrics to it; None if nothing was trained yet.

        Temporary files that a killed training left are removed.

        Raises:
            ValueError: the file is damaged or was not written by this package; or it is missing in a trained run.
        """
        for name in (_CONFIG, *_TRAINED):
            remove_abandoned(self.path / name)
        remove_abandoned(self.path, content=(_CONFIG, _FIGURES))
        state = self._read_state()
        if state is None:
            rule, advice = (
                "a trained run must hold state.pt to be resumed",
                "Restore it from a copy, or start a new run",
            )
            require(self.is_new, "RunFolder", rule, f"no such file in {self.path}", advice)
            return None
        self._metrics.truncate(int(state[_METRICS_BYTES]))
        self._config = state.get("config") if self._config is None else self._config
        return state

    def _read_state(self) -> dict[str, Any] | None:
        file = self.path / _STATE
        if not file.exists():
            return None
        try:
            state = read_state(file)
            version = state["format"]
            if version == FORMAT and _METRICS_BYTES not in state:
                raise KeyError(f"no entry {_METRICS_BYTES!r}")
        except Exception as error:
            raise _unreadable(file, error) from None
        if version != FORMAT:
            raise _unreadable(file, f"format {version}")
        return state

    def save_weights(
        self, weights: dict[str, Tensor], *, raw: bool = False, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Write ``weights.safetensors``; or, of a training that averages them, the last ``weights-raw.safetensors``.

        Args:
            weights: parameters and buffers by name.
            raw: whether they are raw ones.
            metadata: their provenance, stored in the same file with the versions of the package and of torch, the
                machine, the configuration and the attribute ``metadata``, which takes precedence.
        """
        device = next((tensor.device for tensor in weights.values()), torch.device("cpu"))
        entries = {**machine_entries(device), "config": self._config or "", **(metadata or {}), **self.metadata}
        write_weights(self._weights(raw), weights, entries, overwrite=True)

    def provenance(self, *, raw: bool = False) -> dict[str, str]:
        """The metadata of the weights with their fingerprints: ``weights_sha256`` and, without the guide,
        ``model_sha256``.

        Raises:
            FileNotFoundError: the run has no weights yet, or was trained without ``ema``.
            ValueError: the file is damaged.
        """
        weights, metadata = self._read_weights(raw)
        model = {name: tensor for name, tensor in weights.items() if name.startswith("model.")}
        hashes = {"weights_sha256": fingerprint_of(weights)} | (
            {"model_sha256": fingerprint_of(model)} if model else {}
        )
        return {**metadata, **hashes}

    def has_weights(self, *, raw: bool = False) -> bool:
        """Whether ``weights.safetensors``, or ``weights-raw.safetensors``, exists."""
        return self._weights(raw).is_file()

    def load_weights(self, *, raw: bool = False) -> dict[str, Tensor]:
        """Read ``weights.safetensors``, or ``weights-raw.safetensors``.

        Raises:
            FileNotFoundError: the run has no weights yet, or was trained without ``ema``.
            ValueError: the file is damaged.
        """
        return self._read_weights(raw)[0]

    def _read_weights(self, raw: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
        file = self._weights(raw)
        if not file.is_file():
            advice = "Only trainings with ema have raw ones" if raw else "Train it first"
            raise FileNotFoundError(f"RunFolder: {self.path} must hold {file.name}, got no such file. {advice}.")
        try:
            return read_weights(file)
        except Exception as error:
            raise _unreadable(file, error) from None

    def _weights(self, raw: bool) -> Path:
        return self.path / (_RAW_WEIGHTS if raw else _WEIGHTS)

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``."""
        self._metrics.append(record)

    def metrics(self) -> list[dict[str, Any]]:
        """Read the lines of ``metrics.jsonl``; an incomplete last line, of a killed process, is dropped with a warning.

        Raises:
            ValueError: a line is damaged.
        """
        return self._metrics.read()


def _as_path(path: str | Path) -> Path:
    require(str(path) != "", "RunFolder", "the run folder must have a name", "''", "Pass runs/NAME, for example")
    return Path(path)


def _unreadable(file: Path, reason: object) -> ValueError:
    first_line = (str(reason).replace(str(file), "").lstrip(": ").splitlines() or [""])[0][:120]
    value, advice = f"an unreadable one ({first_line})", "Restore it from a copy, or train again under another name"
    return refusal("RunFolder", f"{file} must be a whole file of a pyro_vae run", value, advice)
