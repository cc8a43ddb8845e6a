"""The page of a figure, and panels that several figures share."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from torch import Tensor
from torchvision.utils import make_grid

from pyro_vae._core.checks import require

# Okabe and Ito's colours (Color Universal Design, 2008, https://jfly.uni-koeln.de/color/); grey and wine make ten.
PALETTE = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#000000", "#999999", "#882255"]
WIDTH = 3.3  # inches: a column of a two-column paper
_LINE = 68  # characters of a caption
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@contextmanager
def page(
    height: float, caption: str, *, rows: int = 1, columns: int = 1, share: bool = True
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure and its panels in the common style; ``height`` in inches excludes caption and image grid.

    Panels below each other have a common horizontal axis, unless ``share`` is False.
    """
    lines = _wrap(caption)
    with rc_context(STYLE):
        figure = Figure((WIDTH, height + 0.12 * len(lines) + (0.18 if lines else 0.08)), dpi=200, layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False, sharex=share and columns == 1).flat)
        for ax in panels:
            ax.tick_params(which="both", labelsize=7, width=0.6)  # also for ticks made outside the style, on saving
        yield figure, panels
        if lines:
            figure.supxlabel("\n".join(lines), fontsize=6, parse_math=False)


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
