"""The page of a figure, and panels that several figures share."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib import rc_context, rc_params_from_file
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from torch import Tensor
from torchvision.utils import make_grid

from pyro_vae._core.checks import require

STYLE = rc_params_from_file(Path(__file__).with_name("paper.mplstyle"), use_default_template=False)
"""The style of all figures; ``plt.style.use("pyro_vae.plotting.paper")`` draws others in it."""
PALETTE = STYLE["axes.prop_cycle"].by_key()["color"]
WIDTH = 3.3  # inches: a column of a two-column paper
_LINE = 68  # characters of a caption
_MARGIN = 0.08  # inches


class NotebookFigure(Figure):
    """A figure that notebooks show as an image, also if ``matplotlib.pyplot`` was never imported."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


@contextmanager
def page(
    height: float, caption: str, *, rows: int = 1, columns: int = 1, share: bool = True
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure and its panels in the common style; ``height`` in inches excludes caption and image grid.

    Panels below each other have a common horizontal axis, unless ``share`` is False.
    """
    lines = _wrap(caption)
    with rc_context(STYLE):
        figure = NotebookFigure((WIDTH, height + _MARGIN + _height_of(lines)), dpi=200, layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False, sharex=share and columns == 1).flat)
        for ax in panels:
            ax.tick_params(which="both", labelsize=7, width=0.6)  # also for ticks made outside the style, on saving
        yield figure, panels
        if lines:
            figure.supxlabel("\n".join(lines), fontsize=6, parse_math=False)


def remove_caption(figure: Figure) -> str:
    """Remove the caption of a :func:`page`, and the space that it takes; return it as one line."""
    lines = figure.get_supxlabel().splitlines()
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height - _height_of(lines))
    figure.supxlabel("")
    return " ".join(lines)


def _height_of(lines: Sequence[str]) -> float:
    """Height of a caption in inches."""
    return 0.12 * len(lines) + (0.1 if lines else 0.0)


def _wrap(caption: str) -> list[str]:
    """Lines of a caption, broken after commas unless a phrase is longer than a line."""
    joined = re.sub("(?<!,) ", "\N{NO-BREAK SPACE}", caption)
    whole = max(map(len, joined.split(" "))) <= _LINE
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in textwrap.wrap(joined if whole else caption, _LINE)]


def number(value: float, form: str) -> str:
    """Format a number with a typographic minus sign."""
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def log_axis(ax: Axes, sizes: Sequence[int], label: str) -> None:
    """A logarithmic horizontal axis of counts."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator() if max(sizes) >= 10 * min(sizes) else LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_xlabel(label)


def as_images(x: Tensor, owner: str) -> Tensor:
    """``(N, C, H, W)`` images of data in one of the image shapes.

    Raises:
        ValueError: the data are not images; the message begins with ``owner``.
    """
    images = x.detach().unsqueeze(1) if x.ndim == 3 else x.detach()  # (N, C, H, W)
    rule, shape = "data must be images (C, H, W) with C 1 or 3, or (H, W)", f"data_shape={tuple(x.shape[1:])}"
    valid = images.ndim == 4 and images.shape[1] in (1, 3)
    require(valid, owner, rule, shape, "Draw other data with latent_scatter or active_units")
    require(bool(images.isfinite().all()), owner, "images must be finite", "nan or inf")
    return images


def show_grid(
    ax: Axes, images: Tensor, columns: int, *, pad: int | None = None, margin: float = 0.0, **options: Any
) -> int:
    """Draw images as one mosaic, as wide as the figure minus ``margin`` inches.

    Returns:
        The number of pixels between images.
    """
    pad = max(1, images.shape[-2] // 14) if pad is None else pad
    mosaic = make_grid(images.double().clamp(0, 1), nrow=columns, padding=pad, pad_value=1.0).cpu()  # (3, H, W)
    ratio, (width, height) = mosaic.shape[1] / mosaic.shape[2], ax.figure.get_size_inches()
    ax.figure.set_size_inches(width, height + (width - 0.08 - margin) * ratio)
    options |= {"origin": "upper", "interpolation": "antialiased", "aspect": ratio if "extent" in options else 1}
    ax.imshow(mosaic.permute(1, 2, 0).numpy(), **options)
    return pad


def frame_tiles(ax: Axes, images: Tensor, pad: int, places: Sequence[tuple[int, int]], color: str) -> None:
    """Frame the images at (row, column) of a mosaic of :func:`show_grid`."""
    height, width = (n + pad for n in images.shape[-2:])
    for row, column in places:
        corner = (pad / 2 - 0.5 + column * width, pad / 2 - 0.5 + row * height)
        ax.add_patch(Rectangle(corner, width, height, fill=False, color=color, lw=1.0))
