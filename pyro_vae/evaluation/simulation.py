"""Data drawn from a model together with the latents they came from: exact draws from the posterior."""

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
    """A batch that the model itself drew."""

    args: tuple[Any, ...]
    """The batch's arguments with the observed ones replaced."""
    trace: Trace
    """The latents that each datum came from: one exact draw of its posterior."""


def simulate(owner: str, model: Program, args: tuple[Any, ...]) -> Simulated:
    """Draw latents and data from a model, as many as there are in a batch.

    The pair (z, x) has the law p(z) p(x | z), so z is an exact draw from p(z | x): what bidirectional Monte Carlo and
    simulation-based calibration rest on.

    Args:
        owner: name to begin messages with.
        model: Pyro model with observed sites, each of which is given an argument of the model as it is.
        args: a batch, which tells how many data there are; its observed values are not used.

    Raises:
        ValueError: an observed value is not an argument, so that a drawn one could not take its place, or the data have
            another part in the model.

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
        >>> drawn = simulate("example", vae.model, (torch.ones(7, 5),))
        >>> drawn.args[0].shape, drawn.trace.nodes["z"]["value"].shape
        (torch.Size([7, 5]), torch.Size([7, 2]))
    """
    with torch.no_grad(), no_registration():
        observed = observations(poutine.trace(model).get_trace(*args))
        places = {site["name"]: _place(owner, site, args) for site in observed}
        trace = poutine.trace(poutine.uncondition(model)).get_trace(*args)
        drawn = list(args)
        for name, place in places.items():
            drawn[place] = trace.nodes[name]["value"].detach()
        _check(owner, model, tuple(drawn), trace, places)
    kept = {site["name"] for site in latents(trace)} - set(places)
    for name in [n for n, node in trace.nodes.items() if node["type"] == "sample" and n not in kept]:
        trace.remove_node(name)
    return Simulated(tuple(drawn), trace)


def _check(owner: str, model: Program, drawn: tuple[Any, ...], trace: Trace, places: dict[str, int]) -> None:
    """Run on the drawn data, the model must give every site the probability it was drawn with.

    It does not where the data have another part in it than to be observed, or two sites observe one argument: then the
    latents would be no draw from the posterior.
    """
    own = trace.copy()
    for name in places:
        own.remove_node(name)
    again = poutine.trace(poutine.replay(model, trace=own)).get_trace(*drawn)
    for site in [*latents(again), *observations(again)]:
        other = trace.nodes[site["name"]]
        densities = [s["fn"].log_prob(s["value"], *s["args"], **s["kwargs"]) for s in (site, other)]
        same = densities[0].shape == densities[1].shape and torch.allclose(
            densities[0], densities[1], rtol=1e-4, equal_nan=True
        )
        if not same:
            rule = "data must be nothing but observed in the model, once, so that it can draw its own"
            advice = "Write the model so, or use annealed_log_likelihood"
            raise refusal(owner, rule, f"site {site['name']!r} with another density given the drawn data", advice)


def _place(owner: str, site: Any, args: tuple[Any, ...]) -> int:
    """Which argument a site observes."""
    for number, argument in enumerate(args):
        if isinstance(argument, Tensor) and _same_tensor(argument, site["value"]):
            return number
    raise refusal(
        owner,
        "an observed value must be an argument of the model as it is, so that simulated data can take its place",
        f"site {site['name']!r}",
        "Pass it to the model as it is observed",
    )


def _same_tensor(one: Tensor, other: Any) -> bool:
    same_place = isinstance(other, Tensor) and one.data_ptr() == other.data_ptr() and one.numel() > 0
    return same_place and one.shape == other.shape and one.stride() == other.stride()
