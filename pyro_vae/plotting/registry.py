"""The figure of each kind of result."""

from __future__ import annotations

from functools import singledispatch

from matplotlib.figure import Figure

from pyro_vae._core.checks import refusal
from pyro_vae.evaluation import Result


@singledispatch
def result_figure(result: Result, *, caption: str = "") -> Figure:
    """Draw the figure of a result of any kind.

    ``@result_figure.register(Kind)`` registers the decorated function as the figure of a kind of result, which commands
    and reports draw.

    Args:
        result: of one of the evaluations.
        caption: printed below, for example ``result.caption()``.

    Raises:
        ValueError: the numbers are not finite, or no figure is registered.
    """
    raise refusal("result_figure", "a figure must be registered for the kind of result", type(result).__name__)
