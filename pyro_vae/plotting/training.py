"""Training curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from pyro_vae._core.checks import check_arguments, require
from pyro_vae.plotting.panels import PALETTE, page

_PANELS = {
    "ELBO": ("elbo", "validation_elbo"),
    "Loss": ("loss",),
    "Distortion": ("distortion",),
    "Rate": ("rate",),
    "Error": ("validation_error",),
}
_UNITS = {"Error": "%"}


def training_curves(history: Sequence[Mapping[str, Any]], *, caption: str = "") -> Figure:
    """ELBO, distortion, rate and validation error against the epoch; the loss if there is no ELBO.

    Beyond 20 epochs the axis is logarithmic, and outliers in the first epochs are cut off.

    Args:
        history: one record per epoch, as in ``FitResult.history`` and ``metrics.jsonl``; terms may be missing.
        caption: printed below.

    Raises:
        ValueError: no record holds a finite term.

    Example:
        >>> [ax.get_ylabel() for ax in training_curves([{"epoch": 1, "elbo": -9.0, "rate": 2.0}]).axes]
        ['ELBO\\n(nats per datum)', 'Rate\\n(nats per datum)']
    """
    check_arguments(training_curves, locals())
    curves = {key: curve for keys in _PANELS.values() for key in keys if (curve := _curve(history, key))}
    panels = {name: {key: curves[key] for key in keys if key in curves} for name, keys in _PANELS.items()}
    panels = {name: panel for name, panel in panels.items() if panel and not (name == "Loss" and "elbo" in curves)}
    require(bool(panels), "training_curves", "history must hold a finite elbo or loss", f"{len(history)} records")
    with page(1.1 * len(panels) + 0.3, caption, rows=len(panels)) as (figure, axes):
        for ax, (name, panel) in zip(axes, panels.items(), strict=True):
            for key, curve in panel.items():
                split, color = ("validation", PALETTE[3]) if key.startswith("validation") else ("training", PALETTE[0])
                ax.plot(*zip(*curve, strict=True), "o-" if len(curve) <= 20 else "-", color=color, label=split)
            ax.set_ylabel(f"{name}\n({_UNITS.get(name, 'nats per datum')})")
            _cut_off_outliers(ax, [point for curve in panel.values() for point in curve])
        _epoch_axis(axes[-1], [epoch for curve in curves.values() for epoch, _ in curve])
        axes[0].legend(loc="best")
        figure.align_ylabels(axes)
    return figure


def seed_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], *, caption: str = "") -> Figure:
    """One term of several trainings against the epoch: validation error, else validation ELBO, ELBO or loss.

    Args:
        histories: the records of each training, as of :func:`training_curves`, by its label.
        caption: printed below.

    Raises:
        ValueError: the trainings share no finite term.

    Example:
        >>> figure = seed_curves({"seed 0": [{"epoch": 1, "elbo": -9.0}], "seed 1": [{"epoch": 1, "elbo": -8.0}]})
        >>> figure.axes[0].get_ylabel()
        'ELBO (nats per datum)'
    """
    check_arguments(seed_curves, locals())
    names = {
        "validation_error": "Validation error (%)",
        "validation_elbo": "Validation ELBO (nats per datum)",
        "elbo": "ELBO (nats per datum)",
        "loss": "Loss (nats per datum)",
    }
    shared = (key for key in names if histories and all(_curve(history, key) for history in histories.values()))
    key = next(shared, "")
    require(key != "", "seed_curves", "histories must share a finite term", f"{len(histories)} trainings")
    curves = {label: _curve(history, key) for label, history in histories.items()}
    with page(2.4, caption) as (figure, axes):
        for number, (label, curve) in enumerate(curves.items()):
            style = "o-" if len(curve) <= 20 else "-"
            axes[0].plot(*zip(*curve, strict=True), style, color=PALETTE[number % len(PALETTE)], label=label)
        points = [point for curve in curves.values() for point in curve]
        axes[0].set_ylabel(names[key])
        _cut_off_outliers(axes[0], points)
        _epoch_axis(axes[0], [epoch for epoch, _ in points])
        axes[0].legend(loc="best")
    return figure


def _curve(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """``(epoch, value)`` of the records with a finite value."""
    pairs = ((int(r.get("epoch", i + 1)), r.get(key)) for i, r in enumerate(history))
    return [(epoch, float(value)) for epoch, value in pairs if value is not None and math.isfinite(value)]


def _cut_off_outliers(ax: Axes, points: list[tuple[int, float]]) -> None:
    """Exclude the first quarter of the (logarithmic) epochs from the view if it would take 3/4 of the height."""
    values = [value for _, value in points]
    settled = [value for epoch, value in points if epoch > max(e for e, _ in points) ** 0.25]
    low, high = min(settled, default=0.0), max(settled, default=0.0)
    if len(settled) > 5 and max(values) - min(values) > 4 * (high - low) > 0:
        ax.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))


def _epoch_axis(ax: Axes, epochs: list[int]) -> None:
    """Integer epochs, on a logarithmic axis beyond 20."""
    ax.set_xlabel("Epoch")
    if len(set(epochs)) == 1:
        ax.set_xticks(epochs[:1])
        return
    if max(epochs) <= 20 or min(epochs) < 1:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        return
    ax.set_xscale("log")
    ax.set_xlabel("Epoch (logarithmic)")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(epochs) <= 300 else (1,)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
