"""Finding out where a loss or a gradient stopped being finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro import poutine, validation_enabled
from torch import Tensor

from pyro_vae._core.axes import leading
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.owners import evaluating
from pyro_vae._core.precision import NetworkPrecision
from pyro_vae._core.support import SupportCheck, SupportError
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Batch
from pyro_vae.training.engines.base import restore
from pyro_vae.training.loss import LossFunction


class NonFiniteError(FloatingPointError):
    """The loss or its gradient is not finite; the parameters are as they were before the step.

    Attributes:
        site: name of the sample site whose log-probability is not finite, or None.
        datum: index of the datum in the data set (in the batch, for an iterable of batches), or None.
        step: number of the step that could not be taken.
    """

    def __init__(self, message: str, *, site: str | None, datum: int | None, step: int) -> None:
        super().__init__(message)
        self.site, self.datum, self.step = site, datum, step


def diagnose(
    problem: LossFunction, batches: Sequence[Batch], parameters: dict[str, Tensor], step: int
) -> NonFiniteError:
    """Run the step again at the same random state and name the first site and datum that are not finite.

    Args:
        problem: what is trained.
        batches: those of the step.
        parameters: those of the problem, by name.
        step: number of the step.

    Raises:
        ValueError: the data are outside the likelihood's support.
    """
    buffers = [buffer.clone() for buffer in problem.buffers]
    try:
        names = _bad_gradients(problem, batches, parameters)
        found = [(_of_batch(problem, batch), batch.index) for batch in batches]
    finally:  # running statistics are those before the step too
        restore(problem.buffers, buffers)
    (site, row), index = next((f for f in found if f[0] != (None, None)), found[0])
    datum = None if row is None else int(index[row]) if index is not None else row
    what = f"site {site!r}" if site else f"the gradient of {', '.join(names[:3]) or 'the loss'}"
    where = "" if datum is None else f" for datum {datum}" + ("" if index is not None else " of the batch")
    return NonFiniteError(
        f"fit: loss and gradient must stay finite, got a value that is not at {what}{where}, step {step}. "
        "The parameters are those before that step; lower the learning rate, set clip_norm, or look at the datum.",
        site=site,
        datum=datum,
        step=step,
    )


def _bad_gradients(problem: LossFunction, batches: Sequence[Batch], parameters: dict[str, Tensor]) -> list[str]:
    """Parameters by whose gradient the step was none; an engine may have overwritten it since."""
    with isolated_rng():
        found = [problem.gradients(*batch.args, flag=False).gradients for batch in batches]
    bad = [any(g is not None and not torch.isfinite(g).all() for g in row) for row in zip(*found, strict=True)]
    return [name for name, is_bad in zip(parameters, bad, strict=True) if is_bad]


def _of_batch(problem: LossFunction, batch: Batch) -> tuple[str | None, int | None]:
    try:
        return _first_bad_datum(problem, batch.args)
    except SupportError as error:
        raise error.in_data(batch.index) from None


def _first_bad_datum(problem: LossFunction, args: tuple[Any, ...]) -> tuple[str | None, int | None]:
    with NetworkPrecision(problem.precision):
        size = (problem.axes or leading(args)).length(args)
        site, row = _first_bad_site(problem.model, problem.guide, args, size)
        return (site, row) if site is not None else (None, _first_bad_gradient(problem, args))


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
    """The first bad datum: the leading plate dimension that has the length of the batch."""
    for dim, size in enumerate(bad.shape):
        if size == batch:
            return int(bad.transpose(0, dim).flatten(1).any(1).nonzero()[0]) if bad.dim() > 1 else int(bad.nonzero()[0])
    return None


def _first_bad_gradient(problem: LossFunction, args: tuple[Any, ...]) -> int | None:
    """The first datum whose own gradient is not finite, each evaluated alone, without statistics of a batch."""
    axes = problem.axes or leading(args)
    for row in range(axes.length(args)):
        one = axes.take(args, range(row, row + 1))
        with validation_enabled(False), evaluating(problem.model, problem.guide), torch.enable_grad():
            gradients = problem.gradients(*one, flag=False).gradients
        if not all(torch.isfinite(g).all() for g in gradients if g is not None):
            return row
    return None
