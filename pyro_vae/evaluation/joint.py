"""The density of a Pyro model at given latents, per datum, discrete sites summed out."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.traces import Layout, latents, masked, observations

Program = Callable[..., Any]


class Density(NamedTuple):
    """log p(x, z) in two parts, each ``(num_samples, batch)``, in nats."""

    log_likelihood: Tensor
    """log p(x | z)."""
    log_prior: Tensor
    """log p(z)."""


class Joint:
    r"""log p(x, z) of a Pyro model, with :math:`p(x, z) = \sum_y p(x, y, z)` where it has discrete sites y.

    Args:
        model: the Pyro model.
        layout: where the data are among its plates.
        trace: of a run of it.
        summed: names of the sites that are summed out.

    Raises:
        ValueError: a summed site is within another plate than that of the data.

    References:
        Tensor variable elimination for plated factor graphs (Obermeyer et al., 2019); here every combination of the
        discrete sites of a datum is formed. https://arxiv.org/abs/1902.03210
    """

    def __init__(self, model: Program, layout: Layout, trace: Trace, summed: Collection[str]) -> None:
        self.model, self.layout, self.summed = model, layout, frozenset(summed)
        for name in sorted(self.summed):
            layout.check_summed(trace.nodes[name])

    def __call__(self, num_samples: int, args: tuple[Any, ...], latent: Trace) -> Density:
        """The density at the latents of a trace of as many samples; differentiable."""
        if not self.summed:
            trace = self._trace(self.model, num_samples, args, latent)
            parts = (self.layout.sum(num_samples, found) for found in (observations(trace), latents(trace)))
            return Density(*parts)
        kept = latent.copy()
        for name in self.summed & set(kept.nodes):
            kept.remove_node(name)
        model = poutine.enum(self._replayed(self.model, num_samples, kept), -self.layout.depth - 2)
        trace = poutine.trace(model).get_trace(*args)
        prior = self._sum_out(num_samples, latents(trace))
        return Density(self._sum_out(num_samples, [*latents(trace), *observations(trace)]) - prior, prior)

    def _trace(self, model: Program, num_samples: int, args: tuple[Any, ...], latent: Trace) -> Trace:
        return poutine.trace(self._replayed(model, num_samples, latent)).get_trace(*args)

    def _replayed(self, model: Program, num_samples: int, latent: Trace) -> Program:
        return poutine.replay(repeated(model, num_samples, self.layout), trace=latent)

    def _sum_out(self, num_samples: int, found: list[Any]) -> Tensor:
        """log of the sum over all combinations of the sum of the sites' log-probabilities, ``(K, B)``."""
        parts = [self._enumerated(num_samples, site) for site in found]
        most = max(part.dim() for part in parts)
        total = sum((p.reshape((1,) * (most - p.dim()) + tuple(p.shape)) for p in parts), torch.zeros(()))
        return total.flatten(0, most - 3).logsumexp(0) if most > 2 else total

    def _enumerated(self, num_samples: int, site: Any) -> Tensor:
        """``(*values, K, B)``: as :meth:`Layout.per_datum`, with the enumerated values before."""
        value = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        # Of a site that is masked, the sum over its values is to be 1.
        absent = -math.log(len(site["fn"].enumerate_support(expand=False))) if site["name"] in self.summed else 0.0
        return self.layout.per_value(num_samples, site, masked(value, site["mask"], absent))


def repeated(program: Program, num_samples: int, layout: Layout) -> Program:
    """The program within a plate of samples, before all of its own."""
    return pyro.plate("importance_samples", num_samples, dim=-layout.depth - 1)(program)


def summed_sites(model_trace: Trace, guide_trace: Trace) -> list[str]:
    """Names of the discrete latent sites that the model asks to be enumerated and the guide does not sample."""
    found = (s for s in latents(model_trace) if s["name"] not in guide_trace.nodes)
    return [site["name"] for site in found if is_enumerated(site)]


def is_enumerated(site: Any) -> bool:
    """Whether the model asks for all values of the site; with ``num_samples`` Pyro would draw some instead."""
    asked = site["infer"].get("enumerate") == "parallel" and not site["infer"].get("num_samples")
    return asked and bool(getattr(site["fn"], "has_enumerate_support", False))
