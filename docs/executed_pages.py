"""Execute pages with code cells when they are read.

Each page runs in a fork of the process of Sphinx, which has imported the package: a dozen kernels that import torch
would take longer than all cells together.
"""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import torch
from IPython.core.displayhook import CapturingDisplayHook
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbformat import NotebookNode
from nbformat.v4 import new_output
from traitlets.config import Config


def executed(create_reader: Callable[..., Any]) -> Callable[..., Any]:
    """Make the readers of notebooks execute what they read."""

    def create(*args: Any) -> Any:
        reader = create_reader(*args)
        return reader and replace(reader, read=lambda text: execute(reader.read(text)))

    return create


def execute(notebook: NotebookNode) -> NotebookNode:
    """Fill in the outputs of a notebook. Exceptions and messages on the error stream fail the build."""
    with get_context("fork").Pool(1) as pool:
        return pool.apply(_execute, (notebook,))


def _execute(notebook: NotebookNode) -> NotebookNode:
    torch.set_num_threads(1)
    shell, displayed = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}})), []
    shell.display_trap.hook = CapturingDisplayHook(shell, displayed)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
            with capture_output() as captured:
                done = shell.run_cell(cell.source)
            problem = done.error_before_exec or done.error_in_exec or captured.stderr
            if problem:
                raise RuntimeError(f"this cell failed: {problem!r}\n\n{cell.source}")
            cell.execution_count = number
            cell.outputs = [new_output("stream", text=captured.stdout)] if captured.stdout else []
            cell.outputs += [_result(**output, execution_count=number) for output in displayed]
            displayed.clear()
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "python"}
    return notebook


def _result(data: dict[str, Any], **fields: Any) -> NotebookNode:
    encoded = {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in data.items()}
    return new_output("execute_result", encoded, **fields)
