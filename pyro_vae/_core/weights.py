"""Files of tensors: safetensors with a checksum."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from pyro_vae._core.files import open_regular, write_atomically
from pyro_vae._core.fingerprint import fingerprint_of
from pyro_vae._core.version import full_version

_CHECKSUM = "checksum"
_MAX_HEADER = 100_000_000  # bytes, as in safetensors


def write_weights(
    file: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str], *, overwrite: bool = False
) -> None:
    """Write tensors with their metadata, to which the versions of the package and of torch and a checksum are added.

    Raises:
        FileExistsError: the file exists and ``overwrite`` is False.
    """
    # Clones, because safetensors refuses tensors that share memory (a VampPrior contains the guide).
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
    entries = {"version": full_version(), "torch": torch.__version__, **metadata}
    content = save(tensors, {**entries, _CHECKSUM: _checksum_of(tensors, entries)})
    write_atomically(file, content, overwrite=overwrite)


def read_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and their metadata; the size must be that of the header's tensors, and the checksum theirs.

    Files of safetensors have no checksum of their own, and some of version 0.1 of this package have none.

    Raises:
        Exception: of any class; the file is missing, damaged, or of another kind.
    """
    with open_regular(file) as stream:
        size, length = os.fstat(stream.fileno()).st_size, int.from_bytes(stream.read(8), "little")
        if not 0 < length <= min(size, _MAX_HEADER):
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(stream.read(length))
        metadata = header.pop("__metadata__", {})
        end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        if size != 8 + length + end:
            raise ValueError(f"{size} bytes for {8 + length + end}")
        stream.seek(0)
        weights = load(stream.read())
    if _CHECKSUM in metadata and metadata[_CHECKSUM] != _checksum_of(weights, metadata):
        raise ValueError("a checksum of other contents")
    return weights, metadata


def _checksum_of(weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """The checksum of weights and their metadata, whose entry ``checksum`` holds it."""
    text = json.dumps({name: value for name, value in sorted(metadata.items()) if name != _CHECKSUM})
    return fingerprint_of({**weights, "": torch.tensor(list(text.encode()), dtype=torch.uint8, device="cpu")})
