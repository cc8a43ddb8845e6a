"""Diagnosis of a loss or a gradient that is not finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pyro import poutine, validation_enabled
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae._core.axes import leading
from pyro_vae._core.contexts import isolated_rng, rng_state, set_rng_state
from pyro_vae._core.owners import evaluating
from pyro_vae._core.precision import NetworkPrecision
from pyro_vae._core.support import SupportCheck, SupportError
from pyro_vae._core.types import Program
from pyro_vae.training.engines.base import Engine, Step, restore
from pyro_vae.training.engines.rows import BatchRows
from pyro_vae.training.loss import LossFunction
from pyro_vae.training.run_folder import RunFolder


class NonFiniteError(FloatingPointError):
    """The loss or its gradient is not finite; the parameters are those before the step.

    Attributes:
        site: name of the sample site whose log-probability is not finite, or None.
        datum: index of the datum in the data before they were split (in the batch, for an iterable), or None.
        step: number of the step that was not taken.
    """

    def __init__(self, message: str, *, site: str | None, datum: int | None, step: int) -> None:
        super().__init__(message)
        self.site, self.datum, self.step = site, datum, step


class Snapshot(NamedTuple):
    """Random state and buffers before a group of steps."""

    rng: dict[str, Any]
    buffers: list[Tensor]


def take_snapshot(buffers: Sequence[Tensor]) -> Snapshot:
    """Store what :func:`rewind_to_last` needs."""
    return Snapshot(rng_state(), [buffer.clone() for buffer in buffers])


def rewind_to_last(engine: Engine, steps: Sequence[Step], before: Snapshot, buffers: Sequence[Tensor]) -> None:
    """Restore random state and buffers to those before the last of the steps."""
    set_rng_state(before.rng)
    if engine.stride == 1:
        restore(buffers, before.buffers)
        return
    values = [buffer.clone() for buffer in buffers]  # the engine has restored them
    for batch in (batch for step in steps[:-1] for batch in step.batches):
        engine.loss.gradients(*batch.args)  # advances the generators
    restore(buffers, values)


def diagnose(
    loss: LossFunction, batches: Sequence[BatchRows], parameters: dict[str, Tensor], step: int, *, hint: str = ""
) -> NonFiniteError:
    """Run the step again from the same random state and name the first site and datum that are not finite.

    Args:
        loss: the loss function.
        batches: this process's rows of the step's batches.
        parameters: parameters of the loss function, by name.
        step: number of the step.
        hint: sentence to end the message with.

    Raises:
        ValueError: the data are outside the likelihood's support.
    """
    buffers = [buffer.clone() for buffer in loss.buffers]
    try:
        names = _bad_gradients(loss, batches, parameters)
        causes = [(_first_cause(loss, batch), batch.indices) for batch in batches]
    finally:  # restores running statistics too
        restore(loss.buffers, buffers)
    (site, row), indices = next((cause for cause in causes if cause[0] != (None, None)), causes[0])
    datum = None if row is None else int(indices[row]) if indices is not None else row
    place = f"site {site!r}" if site else f"the gradient of {', '.join(names[:3]) or 'the loss'}"
    place += "" if datum is None else f" for datum {datum}" + ("" if indices is not None else " of the batch")
    return NonFiniteError(
        f"fit: loss and gradient must stay finite, got a value that is not at {place}, step {step}. "
        "The parameters are those before that step; lower the learning rate, set clip_norm, or inspect the datum."
        f"{hint}",
        site=site,
        datum=datum,
        step=step,
    )


def resume_hint(run: RunFolder | None, optimizer: Optimizer) -> str:
    """The sentence on how to resume a run at a tenth of its learning rate."""
    if run is None:
        return ""
    rate = float(optimizer.param_groups[0]["lr"]) / 10
    start = "Start again" if run.is_new else "Go back to the last checkpoint"
    return f" {start} at a lower rate: --resume {run.path} --optimizer.lr {rate:.3g} (in Python: resume=True)."


def _bad_gradients(loss: LossFunction, batches: Sequence[BatchRows], parameters: dict[str, Tensor]) -> list[str]:
    """Names of the parameters whose gradient is not finite; an engine may have overwritten it since."""
    with isolated_rng():
        gradients = [loss.gradients(*batch.args, flag=False).gradients for batch in batches]
    bad = [any(g is not None and not torch.isfinite(g).all() for g in row) for row in zip(*gradients, strict=True)]
    return [name for name, is_bad in zip(parameters, bad, strict=True) if is_bad]


def _first_cause(loss: LossFunction, batch: BatchRows) -> tuple[str | None, int | None]:
    """The first site and row of a batch that are not finite."""
    size = (loss.axes or leading(batch.args)).length(batch.args)
    try:
        with NetworkPrecision(loss.precision):
            site, row = _first_bad_site(loss.model, loss.guide, batch.args, size)
            return (site, row) if site is not None else (None, _first_bad_gradient(loss, batch.args))
    except SupportError as error:
        raise error.in_data(batch.indices) from None


@torch.no_grad()
def _first_bad_site(model: Program, guide: Program, args: tuple[Any, ...], size: int) -> tuple[str | None, int | None]:
    with validation_enabled(False), SupportCheck("fit"):
        guide_trace = poutine.trace(guide).get_trace(*args)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args)
        for trace in (guide_trace, model_trace):
            for name, site in trace.nodes.items():
                if site["type"] == "sample" and isinstance(site["value"], Tensor):
                    bad = ~torch.isfinite(torch.as_tensor(site["fn"].log_prob(site["value"])))
                    if bad.any():
                        return name, _row(bad, size)
    return None, None


def _row(bad: Tensor, batch: int) -> int | None:
    """The first bad datum, along the leftmost dimension that is as long as the batch; None if all of several are."""
    for dim, size in enumerate(bad.shape):
        if size == batch:
            rows = bad.transpose(0, dim).reshape(size, -1).any(1)
            return None if size > 1 and bool(rows.all()) else int(rows.nonzero()[0])
    return None


def _first_bad_gradient(loss: LossFunction, args: tuple[Any, ...]) -> int | None:
    """The first datum whose gradient is not finite, each evaluated alone and in eval mode."""
    axes = loss.axes or leading(args)
    for row in range(axes.length(args)):
        datum = axes.take(args, range(row, row + 1))
        with validation_enabled(False), evaluating(loss.model, loss.guide), torch.enable_grad():
            gradients = loss.gradients(*datum, flag=False).gradients
        if not all(torch.isfinite(g).all() for g in gradients if g is not None):
            return row
    return None
