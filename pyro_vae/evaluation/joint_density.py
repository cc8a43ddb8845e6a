"""The density of a Pyro model at given latents, per datum, discrete sites summed out."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._core.layout import Layout
from pyro_vae._core.traces import latents, masked, observations
from pyro_vae._core.ways import Runs, joined


class Density(NamedTuple):
    """log p(x, z) in two parts, each ``(num_samples, batch)``, in nats."""

    log_likelihood: Tensor
    """log p(x | z)."""
    log_prior: Tensor
    """log p(z)."""


class Joint:
    r"""log p(x, z) of a Pyro model, with :math:`p(x, z) = \sum_y p(x, y, z)` where it has discrete sites y.

    Args:
        layout: where the data are among the model's plates.
        trace: of a run of it.
        summed: names of the sites that are summed out.

    Raises:
        ValueError: a summed site is within another plate than that of the data.

    References:
        Tensor variable elimination for plated factor graphs (Obermeyer et al., 2019); here every combination of the
        discrete sites of a datum is formed. https://arxiv.org/abs/1902.03210
    """

    def __init__(self, layout: Layout, trace: Trace, summed: Collection[str]) -> None:
        self.summed = frozenset(summed)
        for name in sorted(self.summed):
            layout.check_summed(trace.nodes[name])

    def __call__(self, runs: Runs, num_samples: int, args: tuple[Any, ...], latent: Trace) -> Density:
        """The density at latents ``(K, *plates, *event)`` of as many samples; differentiable."""
        return self.read(runs, num_samples, self.traces(runs, num_samples, args, latent))

    def traces(self, runs: Runs, num_samples: int, args: tuple[Any, ...], latent: Trace) -> list[Trace]:
        """The model's runs at these latents."""
        kept = latent.copy()
        for name in self.summed & set(kept.nodes):
            kept.remove_node(name)
        return runs.run_model(kept, num_samples, args, {}, enum=bool(self.summed))

    def read(self, runs: Runs, num_samples: int, traces: Sequence[Trace]) -> Density:
        """The density that the model's runs have."""
        layout, each = runs.model_layout, num_samples // len(traces)
        if not self.summed:
            parts = [[layout.sum(each, found(trace)) for trace in traces] for found in (observations, latents)]
            return Density(*map(joined, parts))
        prior = joined([self._sum_out(layout, each, latents(trace)) for trace in traces])
        whole = [self._sum_out(layout, each, [*latents(trace), *observations(trace)]) for trace in traces]
        return Density(joined(whole) - prior, prior)

    def _sum_out(self, layout: Layout, num_samples: int, found: list[Any]) -> Tensor:
        """log of the sum over all combinations of the sum of the sites' log-probabilities, ``(K, B)``."""
        parts = [self._enumerated(layout, num_samples, site) for site in found]
        most = max(part.dim() for part in parts)
        total = sum((p.reshape((1,) * (most - p.dim()) + tuple(p.shape)) for p in parts), torch.zeros(()))
        return total.flatten(0, most - 3).logsumexp(0) if most > 2 else total

    def _enumerated(self, layout: Layout, num_samples: int, site: Any) -> Tensor:
        """``(*values, K, B)``: as :meth:`Layout.per_datum`, with the enumerated values before."""
        value = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        # Of a site that is masked, the sum over its values is to be 1.
        absent = -math.log(len(site["fn"].enumerate_support(expand=False))) if site["name"] in self.summed else 0.0
        return layout.per_value(num_samples, site, masked(value, site["mask"], absent))


def summed_sites(model_trace: Trace, guide_trace: Trace) -> list[str]:
    """Names of the discrete latent sites that the model asks to be enumerated and the guide does not sample."""
    found = (s for s in latents(model_trace) if s["name"] not in guide_trace.nodes)
    return [site["name"] for site in found if is_enumerated(site)]


def is_enumerated(site: Any) -> bool:
    """Whether the model asks for all values of the site; with ``num_samples`` Pyro would draw some instead."""
    asked = site["infer"].get("enumerate") == "parallel" and not site["infer"].get("num_samples")
    return asked and bool(getattr(site["fn"], "has_enumerate_support", False))
