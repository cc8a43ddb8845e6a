"""Finished batches of an evaluation on disk, from which an interrupted evaluation resumes."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.utils._pytree import tree_flatten

from pyro_vae._core.attributes import Attributes
from pyro_vae._core.checks import CheckedArguments
from pyro_vae._core.files import read_bytes, write_atomically
from pyro_vae._core.fingerprint import fingerprint_of
from pyro_vae._core.owners import Owners
from pyro_vae._core.version import __version__

_KEY = re.compile("[0-9a-f]{32}")
_IN_KEY_OTHERWISE = {"model", "guide", "classifier", "data", "batch_size"}  # by the programs and the batch's data
_WITHOUT_EFFECT = {"labels", "log_likelihood", "protocol", "progress", "finished"}  # on the numbers of a batch


class FinishedBatches(CheckedArguments):
    """Folder that stores the numbers of every finished batch of an evaluation.

    Passed as ``finished`` to an evaluation that was interrupted, it makes the same call read the batches that are there
    instead of computing them; the result has the same bits as that of the uninterrupted evaluation. The name of a
    batch's file is a hash of everything that its numbers depend on: the function with its options and seed, the
    programs (tensors, plain attributes, code of the user's functions and classes), the data of the batch, and the
    versions. Files of other evaluations are ignored, and damaged ones computed anew. Nothing is unpickled. Several
    evaluations, and the processes of ``torchrun``, may share one folder.

    Args:
        folder: the folder; created, with its parents, when the first batch is finished.

    Attributes:
        num_read: number of batches that were read instead of computed.

    Example:
        >>> import tempfile
        >>> from pyro_vae import VAE, log_likelihood
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> finished = FinishedBatches(tempfile.mkdtemp())
        >>> for _ in range(2):
        ...     result = log_likelihood(vae.model, vae.guide, torch.ones(30, 5), num_samples=10, finished=finished)
        >>> finished.num_read
        2
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.num_read, self._writable = Path(folder), 0, True

    def numbers(
        self, key: Callable[[], str], compute: Callable[[], dict[str, Tensor]], entries: dict[str, Any]
    ) -> dict[str, Tensor]:
        """Read the numbers of a batch, or compute and write them.

        Args:
            key: gives the key of the batch; called again after the computation, in which modules may be noticed.
            compute: computes the numbers, and adds protocol entries to ``entries``.
            entries: the protocol entries so far, to which those of a batch that is read are added.
        """
        stored = _read(self._file(key()))
        if stored is None:
            tensors = compute()
            self._write(key(), tensors, entries)
            return tensors
        entries.update(stored[1])
        self.num_read += 1
        return stored[0]

    def files(self) -> list[Path]:
        """The files of finished batches, of any evaluation."""
        return [file for file in self.folder.glob("*.safetensors") if _KEY.fullmatch(file.stem)]

    def remove(self) -> None:
        """Remove the finished batches, and the folder if nothing else is in it."""
        with suppress(OSError):
            for file in self.files():
                file.unlink()
            self.folder.rmdir()

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _write(self, key: str, tensors: Mapping[str, Tensor], entries: Mapping[str, Any]) -> None:
        """Write the numbers of a batch, with the protocol entries after it, atomically."""
        if not self._writable:
            return
        # clones, because safetensors refuses tensors that share memory
        clones = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        head = torch.tensor(list(_json([_digest(clones, entries), entries])), dtype=torch.uint8)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file(key), save({**clones, "": head}), overwrite=True)
        except OSError as error:  # a full disk must not end the evaluation
            self._writable = False
            warnings.warn(f"{self.folder}: finished batches are not stored from now on: {error}.", stacklevel=2)


class Keys:
    """Keys of the batches of an evaluation.

    Args:
        owner: name of the evaluation.
        options: its arguments by name; functions and modules among them must be among the programs.
        owners: the programs' modules, in eval mode when keys are computed.
        num_batches: number of batches of this process, on which the choice of an engine depends.
    """

    def __init__(self, owner: str, options: Mapping[str, Any], owners: Owners, num_batches: int) -> None:
        skipped = _IN_KEY_OTHERWISE | _WITHOUT_EFFECT
        settings = {k: v for k, v in options.items() if k not in skipped and not callable(v)}
        machine = [__version__, torch.__version__, torch.get_num_threads(), str(owners.placement()[0])]
        self._shared, self._owners = [owner, settings, machine, num_batches], owners
        self._num_tensors, self._programs = -1, ""

    def of_batch(self, number: int, args: tuple[Any, ...]) -> str:
        """The key of a batch by its number and data."""
        leaves = tree_flatten(args)[0]
        tensors = {str(i): leaf for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        others = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
        return _hash([self._shared, self._of_programs(), number, fingerprint_of(tensors), others])

    def _of_programs(self) -> str:
        """The part of a key for the programs, computed anew if they have called modules that were not known."""
        tensors = {str(i): tensor for i, tensor in enumerate(self._owners.all_tensors())}
        if len(tensors) != self._num_tensors:
            self._num_tensors, owners = len(tensors), self._owners
            self._programs = _hash([fingerprint_of(tensors), Attributes(owners).named(), owners.code()])
        return self._programs


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The numbers of a batch and the protocol entries after it; None if the file is missing or damaged."""
    try:
        tensors = load(read_bytes(file))
        digest, entries = json.loads(bytes(tensors.pop("").tolist()))
        return (tensors, dict(entries)) if digest == _digest(tensors, entries) else None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _digest(tensors: Mapping[str, Tensor], entries: Mapping[str, Any]) -> str:
    return _hash([fingerprint_of(tensors), list(entries.items())])


def _hash(content: Any) -> str:
    return hashlib.sha256(_json(content)).hexdigest()[:32]


def _json(content: Any) -> bytes:
    return json.dumps(content, default=repr).encode()
