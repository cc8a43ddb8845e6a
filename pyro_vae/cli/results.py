"""Keeping a result in its run folder: the JSON, and its figure beside it."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from pyro_vae._core.files import write_atomically
from pyro_vae.cli.console import say
from pyro_vae.evaluation import Result
from pyro_vae.experiments.results import result_path
from pyro_vae.training import RunFolder


def save_result(run: RunFolder, result: Result, stem: str, *, overwrite: bool) -> tuple[Path, Path | None]:
    """Write a result and its figure, which is derived from it and therefore replaced with it.

    Returns:
        The JSON; the figure, None where the numbers do not allow one.
    """
    from pyro_vae.plotting import result_figure  # here, since it loads matplotlib

    path = result_path(run, result.method, stem)
    result.save(path, overwrite=overwrite)
    buffer, drawn = io.BytesIO(), run.figures / f"{path.stem}.png"
    try:
        result_figure(result, caption=result.caption()).savefig(buffer, format="png")
    except ValueError as reason:
        warnings.warn(f"no figure: {reason}", stacklevel=2)
        return path, None
    write_atomically(drawn, buffer.getvalue(), overwrite=True)
    return path, drawn


def print_result(result: Result, path: Path) -> None:
    """Print a result and where it lies."""
    say(f"{result.protocol['split']} {result}\nresult: {path}")
