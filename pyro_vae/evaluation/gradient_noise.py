"""Signal-to-noise ratio of gradient estimators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor

from pyro_vae._core.checks import check_arguments, refusal, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.failures import program_errors
from pyro_vae._core.owners import Owners
from pyro_vae._core.types import Program

Groups = Mapping[str, Iterable[Tensor]]


class GradientSNR(NamedTuple):
    """Signal-to-noise ratio ``|mean| / std`` of each element of a group's gradient, ``(P,)`` each."""

    mean: Tensor
    """Mean of the gradient of the loss, a sum over the batch."""
    std: Tensor
    """Standard deviation of one sample of the gradient."""
    snr: Tensor
    """``|mean| / std``; 0 if the gradient is always 0, infinite if it is constant and not 0."""
    standard_error: Tensor
    """Standard error of ``snr``, by the delta method for normal gradients."""

    def quantile(self, q: float) -> float:
        """A quantile of the ratio over the elements; 0.5 is the median."""
        return float(self.snr.quantile(q))


def gradient_snr(
    model: Program,
    guide: Program,
    x: Any,
    objective: ELBO,
    *,
    num_draws: int = 100,
    groups: Groups | None = None,
    seed: int = 0,
) -> dict[str, GradientSNR]:
    r"""Signal-to-noise ratio :math:`|E[g]| / \sqrt{Var[g]}` of an objective's gradient, element by element.

    The gradient of the loss on one batch is sampled many times; the programs run in their current mode. Random state,
    gradients, buffers and Pyro's parameter store are restored. With few samples, ratios near 0 are biased upwards: that
    of a gradient without signal is estimated as about :math:`\sqrt{2 / (\pi n)}` from n samples.

    Args:
        model: Pyro model.
        guide: Pyro guide.
        x: the batch that both are called with; a tuple for several arguments.
        objective: any Pyro ELBO with ``differentiable_loss``.
        num_draws: number of sampled gradients n, at least 2.
        groups: parameters by name; None for ``"model"``, ``"guide"``, and each tensor by its own name, such as
            ``"guide.net.layers.0.weight"``.
        seed: of the samples.

    Returns:
        For each group the ratio of each element, with its standard error, in the order of the group's tensors.

    Raises:
        ValueError: ``num_draws`` is less than 2, or no parameter requires a gradient.

    References:
        Tighter variational bounds are not necessarily better (Rainforth et al., 2018), eq. 11.
        https://arxiv.org/abs/1802.04537

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, objectives
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> iwae = objectives.IWAE(num_particles=5)
        >>> ratios = gradient_snr(vae.model, vae.guide, torch.ones(7, 5), iwae, num_draws=10)
        >>> ratios["guide"].quantile(0.5) > 0
        True
    """
    check_arguments(gradient_snr, locals(), num_draws=2)
    args = x if isinstance(x, tuple) else (x,)
    with Owners(model=model, guide=guide).unchanged(), isolated_rng(seed), program_errors("gradient_snr", args, model):
        chosen = {k: list(v) for k, v in (groups or _default_groups(model, guide, args)).items()}
        moments = _moments(objective, model, guide, args, num_draws, _unique(chosen))
    return {name: _ratio(moments, tensors, num_draws) for name, tensors in chosen.items()}


def _moments(
    objective: ELBO, model: Program, guide: Program, args: Any, num: int, tensors: list[Tensor]
) -> dict[int, tuple[Tensor, Tensor]]:
    """Mean and sum of squared deviations of the gradients by each tensor, updated draw by draw (Welford)."""
    moments = {id(t): (torch.zeros_like(t), torch.zeros_like(t)) for t in tensors}
    for n in range(1, num + 1):
        with torch.enable_grad():
            loss = objective.differentiable_loss(model, guide, *args)
            require(bool(loss.isfinite()), "gradient_snr", "the loss of x must be finite", f"{loss}")
            gradients = torch.autograd.grad(loss, tensors, allow_unused=True)
        for tensor, gradient in zip(tensors, gradients, strict=True):
            mean, squares = moments[id(tensor)]
            deviation = (torch.zeros_like(mean) if gradient is None else gradient) - mean
            moments[id(tensor)] = (mean + deviation / n, squares + deviation.square() * (n - 1) / n)
    return moments


def _ratio(moments: dict[int, tuple[Tensor, Tensor]], tensors: list[Tensor], num: int) -> GradientSNR:
    mean = torch.cat([moments[id(t)][0].flatten() for t in tensors])
    std = (torch.cat([moments[id(t)][1].flatten() for t in tensors]) / (num - 1)).sqrt()
    snr = torch.where(mean == 0, 0.0, mean.abs() / std)
    return GradientSNR(mean, std, snr, (1 / num + snr.square() / (2 * (num - 1))).sqrt())


def _default_groups(model: Program, guide: Program, args: Any) -> dict[str, list[Tensor]]:
    groups: dict[str, list[Tensor]] = {}
    for name, program in (("model", model), ("guide", guide)):
        owners = Owners(**{name: program})
        with poutine.trace(param_only=True) as capture, torch.no_grad(), owners.noticing():
            poutine.block(program, hide_types=["sample"])(*args)
        tensors = {k.removeprefix(f"{name}."): p for k, p in owners.named_parameters().items()}
        named = {k: p for k, p in tensors.items() if p.requires_grad}
        stored = {k: s["value"].unconstrained() for k, s in capture.trace.nodes.items()}
        known = {id(p) for p in named.values()}
        named |= {k: p for k, p in stored.items() if id(p) not in known}
        if named:
            groups |= {name: list(named.values()), **{f"{name}.{k}": [p] for k, p in named.items()}}
    if not groups:
        rule = "model or guide must have parameters"
        raise refusal("gradient_snr", rule, "none", "Pass groups={'name': [tensor]}")
    return groups


def _unique(groups: dict[str, list[Tensor]]) -> list[Tensor]:
    unique = {id(t): t for tensors in groups.values() for t in tensors}
    if not unique:
        raise refusal("gradient_snr", "groups must hold parameters", "none", "Pass groups={'name': [tensor]}")
    return list(unique.values())
