"""Figure of lossy codes: squared error against bits, beside image formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from pyro_vae._core.checks import check_arguments, require
from pyro_vae.compression.image_formats import Point
from pyro_vae.evaluation import LossyCode
from pyro_vae.plotting.panels import PALETTE, page
from pyro_vae.plotting.registry import result_figure


@result_figure.register(LossyCode)
def _one(result: LossyCode, *, caption: str = "") -> Figure:
    return rate_distortion_curve([result], caption=caption)


def rate_distortion_curve(
    results: Sequence[LossyCode], formats: Mapping[str, Sequence[Point]] | None = None, *, caption: str = ""
) -> Figure:
    """Mean squared error against bits per dimension, of files, of VAEs' KL, and of image formats.

    Args:
        results: from :func:`~pyro_vae.compression.rate_distortion`, of the same data.
        formats: from :func:`~pyro_vae.compression.image_formats.image_formats`, of the same images.
        caption: printed below.

    Raises:
        ValueError: there are no results, or they are of different data.

    Example:
        >>> import torch
        >>> protocol = {"file_bytes": 2, "dimensions": 4}
        >>> result = LossyCode(torch.ones(3), torch.ones(3), torch.ones(3), protocol=protocol)
        >>> rate_distortion_curve([result]).axes[0].get_xlabel()
        'Bits per dimension'
    """
    check_arguments(rate_distortion_curve, locals())
    sizes = sorted({len(result) for result in results})
    rule = "results must be of the same data"
    require(len(sizes) == 1, "rate_distortion_curve", rule, f"{sizes} data", "Evaluate the runs on one split")
    with page(2.4, caption) as (figure, (ax,)):
        for coded, label, style in ((True, "File", "o-"), (False, "VAE, KL", "s--")):
            chosen = [result for result in results if bool(result.protocol["file_bytes"]) == coded]
            pairs = [(next(iter(r.bits_per_dim().values())), r.mean("squared_error")) for r in chosen]
            if pairs:
                ax.plot(*zip(*sorted(pairs), strict=True), style, color=PALETTE[0 if coded else 3], label=label)
        for rank, (name, points) in enumerate((formats or {}).items()):
            bits, errors = [p.bits for p in points], [p.squared_error for p in points]
            ax.plot(bits, errors, ".-", color=PALETTE[(7, 8)[rank % 2]], lw=0.8, label=name)
        ax.set(xscale="log", yscale="log", xlabel="Bits per dimension", ylabel="Mean squared error")
        figure.legend(loc="outside upper center", ncols=4)
    return figure
