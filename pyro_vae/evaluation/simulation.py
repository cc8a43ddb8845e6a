"""Simulated data with the latents that they were generated from, which are exact samples from the posterior."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._core.checks import refusal
from pyro_vae._core.param_store import no_registration
from pyro_vae._core.traces import latents, observations
from pyro_vae._core.types import Program


class Simulated(NamedTuple):
    """A batch that the model generated."""

    args: tuple[Any, ...]
    """The batch's arguments with the observed ones replaced by simulated values."""
    trace: Trace
    """The latents of each datum: one exact sample from its posterior."""


def simulate(owner: str, model: Program, args: tuple[Any, ...]) -> Simulated:
    """Sample latents and data from a model, as many as a batch has.

    The pair (z, x) is distributed as p(z) p(x | z), so z is an exact sample from p(z | x), which bidirectional Monte
    Carlo and simulation-based calibration require.

    Args:
        owner: name that messages begin with.
        model: Pyro model with observed sites, whose observed values are arguments of the model, unchanged.
        args: a batch, which determines the number of data and which of their entries are missing (NaN); its observed
            values are not used.

    Raises:
        ValueError: an observed value is not an argument, so that it cannot be replaced by a simulated one, or the model
            also uses the data otherwise.

    References:
        Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse et al., 2015), section 4.2.
        https://arxiv.org/abs/1511.02543

    Example:
        >>> import torch
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> simulated = simulate("example", vae.model, (torch.ones(7, 5),))
        >>> simulated.args[0].shape, simulated.trace.nodes["z"]["value"].shape
        (torch.Size([7, 5]), torch.Size([7, 2]))
    """
    with torch.no_grad(), no_registration():
        observed = observations(poutine.trace(model).get_trace(*args))
        positions = {site["name"]: _position(owner, site, args) for site in observed}
        trace = poutine.trace(poutine.uncondition(model)).get_trace(*args)
        values = list(args)
        for name, position in positions.items():
            values[position] = _with_missing(trace.nodes[name]["value"].detach(), args[position])
            trace.nodes[name]["value"] = values[position]
        _check(owner, model, tuple(values), trace, positions)
    latent = {site["name"] for site in latents(trace)} - set(positions)
    for name in [n for n, node in trace.nodes.items() if node["type"] == "sample" and n not in latent]:
        trace.remove_node(name)
    return Simulated(tuple(values), trace)


def _check(owner: str, model: Program, args: tuple[Any, ...], trace: Trace, positions: dict[str, int]) -> None:
    """Require that the model, run on the simulated data, gives every site the density it was sampled with.

    It does not if the model uses the data otherwise than as observed values, or if two sites observe one argument; then
    the latents are not samples from the posterior.
    """
    latent = trace.copy()
    for name in positions:
        latent.remove_node(name)
    replayed = poutine.trace(poutine.replay(model, trace=latent)).get_trace(*args)
    for site in [*latents(replayed), *observations(replayed)]:
        pair = (site, trace.nodes[site["name"]])
        value, expected = (s["fn"].log_prob(s["value"], *s["args"], **s["kwargs"]) for s in pair)
        if value.shape != expected.shape or not torch.allclose(value, expected, rtol=1e-4, equal_nan=True):
            rule = "the model must use the data only as the observed value of one site, so that they can be simulated"
            got = f"site {site['name']!r} with another density given the simulated data"
            raise refusal(owner, rule, got, "Change the model, or use annealed_log_likelihood")


def _position(owner: str, site: Any, args: tuple[Any, ...]) -> int:
    """Index of the argument that a site observes."""
    for number, argument in enumerate(args):
        if isinstance(argument, Tensor) and _same_tensor(argument, site["value"]):
            return number
    raise refusal(
        owner,
        "an observed value must be an argument of the model, unchanged, so that simulated data can replace it",
        f"site {site['name']!r}",
        "Pass the value to the model as it is observed",
    )


def _with_missing(simulated: Tensor, value: Tensor) -> Tensor:
    fits = value.is_floating_point() and value.shape == simulated.shape
    return simulated.masked_fill(value.isnan(), torch.nan) if fits else simulated


def _same_tensor(one: Tensor, other: Any) -> bool:
    same_memory = isinstance(other, Tensor) and one.data_ptr() == other.data_ptr() and one.numel() > 0
    return same_memory and one.shape == other.shape and one.stride() == other.stride()
