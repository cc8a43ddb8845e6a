"""Sparse matrices of scipy as arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae._core.checks import refusal
from pyro_vae.data.arrays import read_npz

SPARSE = {"data", "indices", "indptr", "shape"}
"""Keys of a file of ``scipy.sparse.save_npz``."""


def dense(matrix: Any) -> np.ndarray:
    """A sparse matrix as an array; whole numbers become int32, which takes half the memory of float64."""
    matrix = matrix.tocsr() if hasattr(matrix, "tocsr") else matrix  # the X of an AnnData may be an array
    has_values = matrix.dtype.kind == "f" and hasattr(matrix, "nnz") and matrix.nnz
    if has_values and (matrix.data == np.rint(matrix.data)).all():
        low, high = matrix.data.min(), matrix.data.max()
        matrix = matrix.astype(np.int32) if abs(low) < 2**31 and abs(high) < 2**31 else matrix
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix)


def saved_matrix(path: Path, owner: str) -> Any:
    """Read a matrix in csr or csc format; nothing is unpickled.

    Raises:
        ValueError: the file holds none.
    """
    from scipy.sparse import csc_matrix, csr_matrix  # type: ignore[import-untyped]

    arrays = read_npz(path, owner=owner, layouts=[[*SPARSE]], optional=("format",))
    kind = {b"csr": csr_matrix, b"csc": csc_matrix}.get(bytes(arrays.get("format", np.array(b"csr")).item()))
    advice = "Save matrix.tocsr()"
    try:
        if kind is None:
            raise ValueError("another format")
        matrix = kind((arrays["data"], arrays["indices"], arrays["indptr"]), shape=tuple(arrays["shape"]))
        matrix.check_format()
    except (ValueError, TypeError) as error:
        raise refusal(
            owner, f"{path} must hold a sparse matrix in csr or csc format", str(error)[:80], advice
        ) from None
    return matrix
