"""Protocols in words, for the captions of figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro_vae._core.checks import check_arguments

PHRASES = {
    "dataset": "{}",
    "binarize": "{} binarization",
    "context": "given {}",
    "likelihood": "{}",
    "guide": "{}",
    "net": "{}",
    "latent_dim": "{} latent dimensions",
    "objective": "{}",
    "beta": "beta {}",
    "epoch": "epoch {}",
    "weights": "{} weights",
    "train": "{} training examples",
    "labels": "{} of them labelled",
    "label_seed": "label seed {}",
    "m1": "M2 on the latents of {}",
    "data_seed": "data seed {}",
    "num_samples": "{} samples",
    "split": "{} split",
    "num_data": "{} examples",
    "num_distributions": "{} distributions",
    "num_chains": "{} chains",
    "num_steps": "{} leapfrog steps",
    "start": "from the {}",
    "schedule": "{} schedule",
    "num_simulations": "{} simulations",
    "precision": "{}",
    "sample_seed": "seed {}",
}
"""The phrase of each protocol entry that a caption names, in the order of a caption."""


def caption_of(protocol: Mapping[str, Any], phrases: Mapping[str, str] | None = None) -> str:
    """Describe a protocol in one line; entries without a phrase are left out.

    Args:
        protocol: of a result or a data set.
        phrases: phrases that differ from :data:`PHRASES`, by entry.

    Example:
        >>> caption_of({"dataset": "Digits", "binarize": "none", "data_seed": 0, "num_samples": 1000, "dtype": "x"})
        'Digits, no binarization, data seed 0, 1000 samples'
        >>> caption_of({"guide": "IAFGuide", "latent_dim": 8, "beta": 4.0, "epoch": 60, "weights": "raw"})
        'IAFGuide, 8 latent dimensions, beta 4, epoch 60, raw weights'
    """
    check_arguments(caption_of, locals())
    values = {key: f"{value:g}" if isinstance(value, float) else value for key, value in protocol.items()}
    values |= {"binarize": "no"} if protocol.get("binarize") == "none" else {}
    if protocol.get("estimator") == "exact":
        values.pop("num_samples", None)
    return ", ".join(p.format(values[key]) for key, p in {**PHRASES, **(phrases or {})}.items() if key in values)
