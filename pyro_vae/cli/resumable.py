"""Evaluations of the command line that resume from their finished batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyro_vae._core.distributed import join
from pyro_vae.cli.console import say
from pyro_vae.evaluation import FinishedBatches, Result
from pyro_vae.experiments.commands import with_commands


@contextmanager
def resumable(path: Path) -> Iterator[FinishedBatches]:
    """Context of an evaluation: its finished batches lie beside its result until this is written.

    Args:
        path: file of the result.
    """
    finished = FinishedBatches(path.with_suffix(".batches"))
    try:
        yield finished
    except KeyboardInterrupt as stop:
        count = len(finished.files())
        hint = f"{count} finished batches are in {finished.folder}, from which the same command resumes"
        raise type(stop)(*([hint] if count else [])) from None
    if join().first:
        finished.remove()


def print_numbers(results: list[Result], finished: FinishedBatches | None = None) -> None:
    """Print results before they are written, so that a full disk loses no number."""
    if finished is not None and finished.num_read:
        say(f"resumed: {finished.num_read} batches were already finished in {finished.folder}")
    for result in results:
        say(with_commands(f"{result.protocol['split']} {result}"))


def files_at(out: Path, methods: list[str]) -> list[Path]:
    """Files of several results: the main one is ``out``, and the others lie beside it, named after their methods."""
    return [out, *(out.with_name(f"{out.stem}-{method}.json") for method in methods[1:])]
