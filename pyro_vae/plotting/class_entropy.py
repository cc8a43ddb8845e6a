"""How certain a model is of the classes."""

from __future__ import annotations

import math

import torch
from matplotlib.figure import Figure

from pyro_vae.evaluation.label_posterior import ClassPosterior
from pyro_vae.plotting.panels import PALETTE, number, page


def class_entropy(result: ClassPosterior, *, caption: str = "") -> Figure:
    """How uncertain the model is of the class of each datum: the entropy of p(y | x), between 0 and log C nats.

    Args:
        result: from :func:`~pyro_vae.evaluation.class_posterior`.

    Raises:
        ValueError: it is not finite.
    """
    entropy, most = result.entropy, math.log(result.num_classes)
    if not entropy.isfinite().all():
        raise ValueError("class_entropy: the class posterior must be finite, got others. Check the model.")
    mean = float(entropy.mean())
    with page(2.1, caption) as (figure, (ax,)):
        ax.hist(entropy.numpy(), torch.linspace(0, most, 31).tolist(), color=PALETTE[4])
        ax.axvline(mean, color=PALETTE[3], ls="--", lw=0.9, label=f"mean {number(mean, '.3f')}")
        ax.set(xlabel=r"Entropy of $p(y|x)$ (nats)", ylabel="Number of data", xlim=(0, most))
        figure.legend(loc="outside upper center")
    return figure
