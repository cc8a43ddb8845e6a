"""Requirements of objectives on the latent sites: a single one, or factorised distributions."""

from __future__ import annotations

from typing import Any

from pyro.poutine import Trace
from torch import Size
from torch.distributions import Distribution, Independent

from pyro_vae._core.checks import refusal
from pyro_vae._core.layout import Layout
from pyro_vae._core.traces import latents


def scalar_factors(owner: str, site: Any, role: str, advice: str) -> Distribution:
    """Distributions of the single dimensions, whose product is that of a site.

    Args:
        owner: class name for the error.
        site: site of a trace.
        role: "prior" or "posterior", for the error.
        advice: advice for the error.

    Raises:
        ValueError: the distribution does not factorise.
    """
    fn = site["fn"]
    if isinstance(fn, Independent) and fn.base_dist.event_shape == Size():
        return fn.base_dist
    rule = f"the {role} must factorise over the dimensions"
    raise refusal(owner, rule, f"a {type(fn).__name__} at site {site['name']!r}", advice)


def single_latent(layout: Layout, model_trace: Trace) -> Any:
    """The one latent site of a model whose only plate is that of the data.

    Raises:
        ValueError: there are several latent sites, masks, or plates within that of the data.
    """
    candidates = latents(model_trace)
    if len(candidates) != 1:
        what = f"sites {[site['name'] for site in candidates]}"
        raise refusal(layout.owner, "the model must have one latent site", what, "Use ELBO or BetaELBO")
    mask = candidates[0]["mask"]
    if layout.depth != 1 or layout.dims != (-1,) or not (mask is None or mask is True):
        what = f"plates in {layout.depth} dimensions, mask={mask}"
        rule = "the latent site must be in the plate of the data alone, without a mask"
        raise refusal(layout.owner, rule, what, "Use ELBO or BetaELBO")
    return candidates[0]
