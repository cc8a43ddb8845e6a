"""Auxiliary variables of a guide: their reverse models, and latents that are deterministic functions of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta, Unit
from pyro.infer.autoguide import AutoGuide
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae._core.checks import refusal
from pyro_vae._core.masks import unmasked
from pyro_vae._core.traces import follows, is_auxiliary, latents, observations


class _AuxiliaryLeaves(Messenger):
    """Makes the values of auxiliary sites leaves of the autograd graph."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] or not msg["infer"].get("is_auxiliary") or not msg["value"].is_floating_point():
            return
        msg["value"] = self.values[msg["name"]] = msg["value"].detach().requires_grad_()


def observed_outside(guide: Callable[..., Any], trace: Trace, args: Any, kwargs: Mapping[str, Any]) -> frozenset[str]:
    """Observed sites of a guide that are not terms of its density, such as classifiers and their losses.

    Reverse models of auxiliary variables, the other kind, are factors that depend on an auxiliary variable.
    """
    observed = observations(trace)
    factors = [s["name"] for s in observed if isinstance(unmasked(s["fn"])[0], Unit)]
    auxiliary = [s for s in latents(trace) if is_auxiliary(s)]
    reverse: set[str] = set(factors) if auxiliary else set()
    if reverse and all(site["value"].is_floating_point() for site in auxiliary):
        with _AuxiliaryLeaves() as leaves, torch.enable_grad():
            again = poutine.trace(guide).get_trace(*args, **kwargs)
            reverse = {name for name in factors if _depends(again.nodes[name], leaves.values)}
    return frozenset(s["name"] for s in observed) - reverse


def _depends(site: Any, leaves: Mapping[str, Tensor]) -> bool:
    value = unmasked(site["fn"])[0].log_factor
    if not isinstance(value, Tensor) or not value.requires_grad:
        return False
    gradients = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True, retain_graph=True)
    return any(gradient is not None for gradient in gradients)


def determining_sites(
    owner: str,
    guide: Callable[..., Any],
    trace: Trace,
    modules: Sequence[nn.Module],
    args: Any,
    kwargs: Mapping[str, Any],
) -> frozenset[str]:
    r"""Auxiliary sites that determine latents one to one, so that they need no reverse model.

    In Pyro's autoguides the latents are Deltas with the log-density :math:`\log |\partial a / \partial z|`. For any
    other guide whose latents are all determined by auxiliary sites, the Jacobian is computed and compared.

    Raises:
        ValueError: the log-density differs, or auxiliary and latent dimensions differ in number.
    """
    auxiliary = {site["name"] for site in latents(trace) if is_auxiliary(site)}
    guides = [submodule for module in modules for submodule in module.modules() if isinstance(submodule, AutoGuide)]
    of_autoguides = {f"_{auto._pyro_name}_latent" for auto in guides}
    of_autoguides |= {
        f"{name}_unconstrained" for auto in guides if auto.prototype_trace for name in auto.prototype_trace.nodes
    }
    if auxiliary <= of_autoguides or not follows(trace) or observations(trace):
        return frozenset(auxiliary & of_autoguides)
    with _AuxiliaryLeaves() as leaves, torch.enable_grad():
        again = poutine.trace(guide).get_trace(*args, **kwargs)
        right = _has_log_det_density(again, list(leaves.values.values()))
    if not right:
        names = [site["name"] for site in latents(again) if not is_auxiliary(site)]
        rule = "latents that follow from auxiliary sites must have the log-determinant of that map as their density"
        advice = "Pass it to Delta as log_density, or sample the latents themselves"
        raise refusal(owner, rule, f"another at sites {names}", advice)
    return frozenset(auxiliary)


def _has_log_det_density(trace: Trace, inputs: list[Tensor]) -> bool:
    """Whether the latents' log-density is minus the log-determinant of the map from the auxiliary variables."""
    determined = [site for site in latents(trace) if not is_auxiliary(site)]
    values = torch.cat([site["value"].reshape(-1) for site in determined])
    density = torch.as_tensor(sum(_log_density(site).sum() for site in determined))
    if not values.requires_grad or len(values) != sum(x.numel() for x in inputs):
        return False
    rows = [torch.autograd.grad(v, inputs, allow_unused=True, retain_graph=True) for v in values]
    filled = [[torch.zeros_like(x) if g is None else g for x, g in zip(inputs, row, strict=True)] for row in rows]
    jacobian = torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in filled])
    return bool(torch.isclose(-jacobian.slogdet()[1], density.to(jacobian), atol=1e-3))


def _log_density(site: Any) -> Tensor:
    point = unmasked(site["fn"])[0]
    point = point if isinstance(point, Delta) else point.base_dist
    return torch.as_tensor(point.log_density)
