"""Errors as one line: what the user can correct is reported, a bug is logged."""

from __future__ import annotations

import os
import re
import shlex
import sysconfig
import tempfile
import textwrap
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dis import opname
from pathlib import Path
from types import TracebackType

import torch

from pyro_vae._core.files import write_atomically
from pyro_vae._core.version import __version__
from pyro_vae.training import NonFiniteError

_log_folder: ContextVar[Path | None] = ContextVar("log_folder", default=None)
_SITES = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib")})
_STANDARD = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})
_DEPENDENCIES = {
    *("torch", "torchvision", "pyro", "sklearn", "scipy", "safetensors", "jsonargparse", "matplotlib", "tqdm"),
    *("numpy", "PIL", "yaml", "jinja2", "tabulate", "tensorboard", "mlflow", "wandb", "sympy", "opt_einsum"),
}
_RERAISING = ("pyro_vae._core.pair", "pyro_vae._core.failures")  # modules that add the batch to a program's error
# of the parser, for a component that is one of several types of an option; its own error is the last of the list
_REJECTED_VALUE = re.compile(r"^Does not validate .*^  - (\w+: [^\n]+)\nGiven value type", re.DOTALL | re.MULTILINE)
_OUT_OF_MEMORY = re.compile("can't allocate memory|not enough memory|Storage size calculation overflowed")


def log_errors_in(folder: Path | None) -> None:
    """Choose the folder of the error log; None is the folder of temporary files."""
    _log_folder.set(folder)


def describe(error: Exception, argv: Sequence[str]) -> tuple[str, int]:
    """An error as one line, and the exit code: 1 for non-finite numbers, 2 for bad input, 70 for a bug.

    An error is the user's to correct if a file or an argument could not be read, or if a ``raise`` statement of this
    package raised it, or one of torch.optim, whose constructors check the options that are passed on to them. Every
    other error is a bug, whose traceback is written to a log.
    """
    if os.environ.get("PYRO_VAE_TRACEBACK"):
        traceback.print_exception(error)
    origin = _origin(error)
    if isinstance(origin, NonFiniteError):
        return str(origin), 1
    if isinstance(origin, MemoryError | torch.OutOfMemoryError) or _OUT_OF_MEMORY.search(str(origin)):
        return f"pyro-vae: out of memory ({_shortened(origin)}). Use a smaller batch or model.", 2
    if reason := _REJECTED_VALUE.search(str(origin)):
        return reason[1], 2
    if option := _option_of_torch(origin):
        return f"--{option}: {_sentence(origin)}", 2
    if isinstance(origin, OSError) or _is_deliberate(origin):
        return one_line(error), 2
    return _report(error, origin, argv), 70


def one_line(error: Exception) -> str:
    """The message of an error that the user can correct."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}."
    return _sentence(error)


def _option_of_torch(error: Exception) -> str:
    """The option whose class in torch.optim rejects its arguments or cannot work with them, if any."""
    module = _module(error)
    if not module.startswith("torch.optim.") or not (_is_deliberate(error) or isinstance(error, ArithmeticError)):
        return ""
    return "lr_schedule" if module.startswith("torch.optim.lr_scheduler") else "optimizer"


def _origin(error: Exception) -> Exception:
    """The error of a program, if it was raised again with the batch that the program failed on."""
    cause, module = error.__cause__, _module(error)
    is_program_error = isinstance(cause, Exception) and not isinstance(cause, ValueError) and module in _RERAISING
    return cause if is_program_error else error  # type: ignore[return-value]


def _module(error: Exception) -> str:
    """The module that raised the error."""
    name: str = _innermost(error).tb_frame.f_globals.get("__name__", "")
    return name


def _is_deliberate(error: Exception) -> bool:
    innermost, module = _innermost(error), _module(error)
    code = innermost.tb_frame.f_code
    checks_options = module.split(".")[0] == "pyro_vae" or module.startswith("torch.optim.")
    is_raise = opname[code.co_code[innermost.tb_lasti]] == "RAISE_VARARGS"
    return isinstance(error, ValueError | TypeError | RuntimeError) and checks_options and is_raise


def _report(error: Exception, origin: Exception, argv: Sequence[str]) -> str:
    text = f"pyro-vae {__version__}: {shlex.join(argv)}\n\n{''.join(traceback.format_exception(error))}"
    log = _write_log(text.encode())
    what = f"{type(origin).__name__}: {_shortened(origin)}"
    culprit = next(t for t in reversed(list(_tracebacks(origin))) if not _is_library(t.tb_frame.f_code.co_filename))
    if culprit.tb_frame.f_globals.get("__name__", "").split(".")[0] == "pyro_vae":
        return f"pyro-vae: {what}. This is a bug in pyro_vae: please report it with {log}."
    place = f"{culprit.tb_frame.f_code.co_filename}, line {culprit.tb_lineno}"
    return f"pyro-vae: {what}, in {place}. The traceback is in {log}."


def _write_log(content: bytes) -> str:
    """Write the log to its folder, or else beside other temporary files; where the traceback can be read."""
    with suppress(OSError):
        path = (_log_folder.get() or Path(os.devnull)) / "error.log"
        write_atomically(path, content, overwrite=True)
        return f"the log {path}"
    with suppress(OSError):
        handle, name = tempfile.mkstemp(prefix="pyro-vae-", suffix=".log")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            return f"the log {name}"
        except OSError:
            os.unlink(name)
    return "the output of PYRO_VAE_TRACEBACK=1, since no log could be written"


def _tracebacks(error: BaseException) -> Iterator[TracebackType]:
    entry = error.__traceback__
    while entry is not None:
        yield entry
        entry = entry.tb_next


def _innermost(error: BaseException) -> TracebackType:
    return list(_tracebacks(error))[-1]


def _is_library(filename: str) -> bool:
    """Whether a file belongs to Python or to a dependency; components of the user may be installed beside these."""
    site = next((site for site in _SITES if filename.startswith(site)), None)
    if site is not None:
        return Path(filename).relative_to(site).parts[0] in _DEPENDENCIES
    return filename.startswith(("<", *_STANDARD)) and not filename.startswith(str(Path(__file__).parents[1]))


def _flat(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error).split("Trace Shapes:")[0]).strip()


def _sentence(error: BaseException) -> str:
    text = _flat(error)
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _shortened(error: BaseException) -> str:
    return textwrap.shorten(_flat(error), 200).rstrip(".")
