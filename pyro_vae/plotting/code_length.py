"""Figure of a code length: the file, its bounds and other coders."""

from __future__ import annotations

from matplotlib.figure import Figure

from pyro_vae._core.checks import check_arguments
from pyro_vae.evaluation import CodeLength
from pyro_vae.evaluation.code_length import OTHER_CODERS
from pyro_vae.plotting.panels import PALETTE, page
from pyro_vae.plotting.registry import result_figure

_BOUNDS = ("-log p(x)", "-ELBO")


@result_figure.register(CodeLength)
def code_lengths(result: CodeLength, *, caption: str = "") -> Figure:
    """Bars of bits per dimension: the bounds, the file, and other coders of the same data.

    Args:
        result: from :func:`~pyro_vae.compression.codelength`.
        caption: printed below.

    Example:
        >>> import torch
        >>> rows, others = torch.ones(3), torch.full((5,), 12.0)
        >>> protocol = {"file_bytes": 2, "dimensions": 4}
        >>> figure = code_lengths(CodeLength(rows, -rows, -rows, rows, torch.ones(1), others, protocol=protocol))
        >>> figure.axes[0].get_xlabel()
        'Bits per dimension'
    """
    check_arguments(code_lengths, locals())
    bits = result.bits_per_dim()
    labels = [label for label in (*_BOUNDS, "file", *OTHER_CODERS) if label in bits]
    colors = [PALETTE[4 if label in _BOUNDS else 0 if label == "file" else 8] for label in labels]
    with page(0.22 * len(labels) + 0.5, caption) as (figure, (ax,)):
        bars = ax.barh(range(len(labels)), [bits[label] for label in labels], 0.7, color=colors)
        ax.bar_label(bars, fmt="%.4f", padding=2, fontsize=7)
        ax.set_yticks(range(len(labels)), labels)
        ax.invert_yaxis()
        ax.margins(x=0.18)
        ax.set_xlabel("Bits per dimension")
    return figure
