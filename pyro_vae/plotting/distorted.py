"""The figure of distorted images under several distances."""

from __future__ import annotations

from matplotlib.figure import Figure

from pyro_vae._core.checks import check_arguments
from pyro_vae.evaluation import DistortedImages
from pyro_vae.evaluation.image_distortions import DISTORTIONS
from pyro_vae.plotting.panels import PALETTE, as_images, page, show_grid


def distortion_ranks(result: DistortedImages, *, caption: str = "") -> Figure:
    """An image with its distortions, and below the mean distance of each, relative to the largest of its measure.

    Args:
        result: from :func:`~pyro_vae.evaluation.distorted_images`.
        caption: printed below.

    Example:
        >>> import torch
        >>> from pyro_vae.evaluation import distorted_images
        >>> result = distorted_images(torch.rand(5, 1, 8, 8), lambda x: x.mean((2, 3)))
        >>> distortion_ranks(result).axes[1].get_ylabel()
        'Distance / largest'
    """
    check_arguments(distortion_ranks, locals())
    with page(1.5, caption, rows=2, share=False) as (figure, (top, bottom)):
        show_grid(top, as_images(result.images, "distortion_ranks"), len(result.images))
        top.set_axis_off()
        width = 0.8 / len(result.distances)
        for number, (name, values) in enumerate(result.distances.items()):
            means = values.mean(0)
            places = [1 + i + (number - (len(result.distances) - 1) / 2) * width for i in range(len(DISTORTIONS))]
            bottom.bar(places, (means / means.max()).tolist(), width, color=PALETTE[number], label=name)
        bottom.set_xticks(range(len(DISTORTIONS) + 1), ["image", *DISTORTIONS])
        bottom.set(xlim=(-0.5, len(DISTORTIONS) + 0.5), ylabel="Distance / largest")
        options = {"ncols": len(result.distances), "handlelength": 1.0, "columnspacing": 1.0}
        bottom.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), **options)
    return figure
