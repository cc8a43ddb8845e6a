"""The markup of a report: macros, results as text, and pictures."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from pyro_vae.evaluation import Result
from pyro_vae.experiments.commands import with_commands
from pyro_vae.plotting import result_figure

_ENVIRONMENT = Environment(loader=PackageLoader("pyro_vae.experiments", ""), autoescape=True, undefined=StrictUndefined)
_ENVIRONMENT.tests["number"] = lambda cell: re.fullmatch(r"[\N{MINUS SIGN}\d.%]+|-", str(cell)) is not None
html: Any = _ENVIRONMENT.get_template("report.html.jinja").module
"""The macros of the template, which return markup."""


def text_of(result: Result) -> Markup:
    """A result as it is printed."""
    return Markup(html.code(with_commands(str(result)).splitlines()))


def figures_of(results: Sequence[Result]) -> list[Any]:
    """The registered figure of each result."""
    pictures = []
    for result in results:
        text = result.alternative_text or result.title
        pictures += drawn(result_figure, result, alt=text, caption=result.caption())
    return pictures


def drawn(function: Callable[..., Figure], *args: Any, alt: str, caption: str, **options: Any) -> list[Any]:
    """The picture of a plotting function; empty if the numbers or the data cannot be drawn."""
    buffer = io.BytesIO()
    try:
        function(*args, **options).savefig(buffer, format="png", metadata={"Software": None})
    except ValueError:
        return []
    return [{"data": base64.b64encode(buffer.getvalue()).decode(), "alt": alt, "caption": caption}]
