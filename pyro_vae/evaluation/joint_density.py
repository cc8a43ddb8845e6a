"""Joint density log p(x, z) of a Pyro model at given latents, per datum, with discrete sites summed out."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._core.layout import Layout
from pyro_vae._core.modes import Runs, joined
from pyro_vae._core.traces import latents, masked, observations


class Density(NamedTuple):
    """log p(x, z) as the sum of two terms, each ``(num_samples, batch)``, in nats."""

    log_likelihood: Tensor
    """log p(x | z)."""
    log_prior: Tensor
    """log p(z)."""


class Joint:
    r"""log p(x, z) of a Pyro model, with :math:`p(x, z) = \sum_y p(x, y, z)` over its discrete sites y.

    Args:
        layout: positions of samples and data in the model's shapes.
        trace: of the model.
        summed: names of the sites that are summed out.

    Raises:
        ValueError: a summed site is within plates other than that of the data.

    References:
        Tensor variable elimination for plated factor graphs (Obermeyer et al., 2019); here all
        combinations of the discrete sites of a datum are enumerated. https://arxiv.org/abs/1902.03210
    """

    def __init__(self, layout: Layout, trace: Trace, summed: Collection[str]) -> None:
        self.summed = frozenset(summed)
        for name in sorted(self.summed):
            layout.check_summed(trace.nodes[name], "Sample it in the guide, or sum over it in the model")

    def __call__(self, runs: Runs, num_samples: int, args: tuple[Any, ...], latent: Trace) -> Density:
        """The density at latents ``(K, *plates, *event)``; differentiable."""
        return self.read(runs, num_samples, self.traces(runs, num_samples, args, latent))

    def traces(self, runs: Runs, num_samples: int, args: tuple[Any, ...], latent: Trace) -> list[Trace]:
        """Run the model at these latents."""
        kept = latent.copy()
        for name in self.summed & set(kept.nodes):
            kept.remove_node(name)
        return runs.run_model(kept, num_samples, args, {}, enum=bool(self.summed))

    def read(self, runs: Runs, num_samples: int, traces: Sequence[Trace]) -> Density:
        """The density in traces of the model."""
        layout, num_each = runs.model_layout, num_samples // len(traces)
        if not self.summed:
            terms = [[layout.sum(num_each, kind(trace)) for trace in traces] for kind in (observations, latents)]
            return Density(*map(joined, terms))
        prior = joined([self._sum_out(layout, num_each, latents(trace)) for trace in traces])
        whole = [self._sum_out(layout, num_each, [*latents(trace), *observations(trace)]) for trace in traces]
        return Density(joined(whole) - prior, prior)

    def _sum_out(self, layout: Layout, num_samples: int, sites: list[Any]) -> Tensor:
        """Log of the sites' joint probability summed over all combinations of enumerated values, ``(K, B)``."""
        terms = [self._enumerated(layout, num_samples, site) for site in sites]
        most = max(term.dim() for term in terms)
        total = sum((t.reshape((1,) * (most - t.dim()) + tuple(t.shape)) for t in terms), torch.zeros(()))
        return total.flatten(0, most - 3).logsumexp(0) if most > 2 else total

    def _enumerated(self, layout: Layout, num_samples: int, site: Any) -> Tensor:
        """Log-probabilities of a site, ``(*values, K, B)``."""
        value = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        # The probabilities of a masked site must sum to 1 over its values.
        absent = -math.log(len(site["fn"].enumerate_support(expand=False))) if site["name"] in self.summed else 0.0
        return layout.per_value(num_samples, site, masked(value, site["mask"], absent))


def summed_sites(model_trace: Trace, guide_trace: Trace) -> list[str]:
    """Names of the discrete latent sites that the model asks to be enumerated and the guide does not sample."""
    return [s["name"] for s in latents(model_trace) if s["name"] not in guide_trace.nodes and is_enumerated(s)]


def is_enumerated(site: Any) -> bool:
    """Whether the model marks the site for enumeration; with ``num_samples`` Pyro would sample values instead."""
    marked = site["infer"].get("enumerate") == "parallel" and not site["infer"].get("num_samples")
    return marked and bool(getattr(site["fn"], "has_enumerate_support", False))
