"""Version of the package."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path

__version__ = "0.1.0"


@cache
def full_version(package: Path = Path(__file__).parents[1]) -> str:
    """The version and, in a git repository, the commit that is checked out: ``0.1.0+3f650f3``.

    Args:
        package: folder of the package; its parent is the repository.
    """
    with suppress(OSError, StopIteration, IndexError, UnicodeDecodeError):
        return f"{__version__}+{_commit(package.parent / '.git')[:7]}"
    return __version__


def _commit(git: Path) -> str:
    """Read the commit from the files of a repository, or of a work tree of one."""
    folder = git.parent / git.read_text().split()[1] if git.is_file() else git
    head = (folder / "HEAD").read_text().split()
    if head[0] != "ref:":
        return head[0]
    pointer = folder / "commondir"
    common = folder / pointer.read_text().strip() if pointer.is_file() else folder
    if (common / head[1]).is_file():
        return (common / head[1]).read_text().strip()
    packed = (line.split() for line in (common / "packed-refs").read_text().splitlines())
    return next(words[0] for words in packed if words[-1] == head[1])
