"""Distributions that are products over the dimensions of z."""

from __future__ import annotations

from typing import Any

from pyro.poutine import Trace
from torch import Size
from torch.distributions import Distribution, Independent

from pyro_vae._core.checks import refusal
from pyro_vae._core.layout import Layout
from pyro_vae._core.traces import latents


def scalar_factors(owner: str, site: Any, role: str, advice: str) -> Distribution:
    """The distributions of the single dimensions that a site's is the product of.

    Args:
        owner: name to begin the message with.
        site: of a trace.
        role: what the distribution is, for the message.
        advice: what to do instead.

    Raises:
        ValueError: it is no such product.
    """
    fn = site["fn"]
    if isinstance(fn, Independent) and fn.base_dist.event_shape == Size():
        return fn.base_dist
    rule = f"the {role} must factorise over the dimensions"
    raise refusal(owner, rule, f"a {type(fn).__name__} at site {site['name']!r}", advice)


def single_latent(layout: Layout, model_trace: Trace) -> Any:
    """The one latent site of a model whose only plate is that of the data.

    Raises:
        ValueError: there are several, masks, or plates within that of the data.
    """
    found = latents(model_trace)
    if len(found) != 1:
        what = f"sites {[site['name'] for site in found]}"
        raise refusal(layout.owner, "the model must have one latent site", what, "Use ELBO or BetaELBO")
    if layout.depth != 1 or layout.dims != (-1,) or not (found[0]["mask"] is None or found[0]["mask"] is True):
        what = f"plates in {layout.depth} dimensions, mask={found[0]['mask']}"
        rule = "the latent site must be in the plate of the data alone, without a mask"
        raise refusal(layout.owner, rule, what, "Use ELBO or BetaELBO")
    return found[0]
