"""The positions of samples and data in the shapes of a program, and log-probabilities per sample and datum.

A program runs for K samples of each of B data in one of three modes:

- *vectorised*: one run with a particle dimension of size K to the left of the program's own plates;
- *flattened*: one run on an ordinary batch that repeats all data K times, so a plate has K * B entries;
- *looped*: K runs of the program as it is.

:class:`Layout` maps tensors between these shapes and ``(K, B)``, so that other code does not depend on the mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pyro.distributions import Unit
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._core.blocks import per_element
from pyro_vae._core.checks import refusal
from pyro_vae._core.masks import is_masked, log_density, unmasked
from pyro_vae._core.trace_checks import check_log_prob_shape
from pyro_vae._core.traces import frames, losses, masked, observations, plate_size, sites

Mode = Literal["vectorised", "flattened", "looped"]


@dataclass(frozen=True)
class Layout:
    """Positions of samples and data in the shapes of a program that runs for K samples of each datum.

    Attributes:
        owner: name that messages begin with.
        depth: number of batch dimensions that the program's own plates occupy.
        dims: dimensions of the plates over the data, negative; every site is within these plates.
        mode: ``"vectorised"``, ``"flattened"`` or ``"looped"``; see the module's docstring. A looped run is a flattened
            one with K = 1.
        axis: index into ``dims`` of the plate whose data are repeated in a flattened run.
        outside: observed sites of the guide that are not terms of its density.
        blocks: for latents that a guide samples as one vector for all data: the datum that each entry belongs to.
    """

    owner: str
    depth: int
    dims: tuple[int, ...]
    mode: Mode = "vectorised"
    axis: int = 0
    outside: frozenset[str] = frozenset()
    blocks: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def vectorised(self) -> bool:
        """Whether the samples have a dimension of their own."""
        return self.mode == "vectorised"

    @property
    def free_dim(self) -> int:
        """The first dimension, negative, to the left of those of samples and plates."""
        return -self.depth - 1 - self.vectorised

    def log_prob(self, site: Any, counterpart: Any = None) -> Tensor:
        """Log-probability of a site with its mask and without its scale, which does not belong to a density.

        Args:
            site: a trace's site.
            counterpart: the model's site, for a latent site of a guide. A sample counts unless both sites mask it, with
                the density of the distribution that it was drawn from.
        """
        if counterpart is not None and is_masked(site):
            value = log_density(site, counterpart)
        else:
            value = masked(site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]), site["mask"])
        check_log_prob_shape(self.owner, site, value)
        return value

    def density(self, guide_trace: Trace) -> list[Any]:
        """The sites of a guide's density: its latents, and the reverse models of its auxiliary variables."""
        return [site for site in sites(guide_trace) if site["name"] not in self.outside]

    def factors(self, guide_trace: Trace) -> list[Any]:
        """The reverse models of a guide's auxiliary variables."""
        return [site for site in observations(guide_trace) if site["name"] not in self.outside]

    def losses(self, guide_trace: Trace) -> list[Any]:
        """Factors of a guide that add to the loss and not to the bound, such as a classifier's cross entropy."""
        unmarked = [
            s for s in observations(guide_trace) if s["name"] in self.outside and isinstance(unmasked(s["fn"])[0], Unit)
        ]
        return [*losses(guide_trace), *unmarked]

    def sum(self, num_samples: int, sites: Iterable[Any], model_trace: Trace | None = None) -> Tensor:
        """Sum of the sites' log-probabilities over all plates except those of samples and data, ``(K, B)``."""
        nodes = {} if model_trace is None else model_trace.nodes
        terms = [self._density(num_samples, site, nodes.get(site["name"])) for site in sites]
        return sum(terms[1:], terms[0]) if terms else torch.zeros(())

    def _density(self, num_samples: int, site: Any, counterpart: Any) -> Tensor:
        if site["name"] not in self.blocks:
            return self.per_datum(num_samples, site, self.log_prob(site, counterpart))
        block = self.blocks[site["name"]]
        terms = per_element(site["fn"], site["value"]).reshape(num_samples, len(block))
        return terms.new_zeros(num_samples, int(block.max()) + 1).index_add(1, block.to(terms.device), terms)

    def per_datum(self, num_samples: int, site: Any, value: Tensor, *, event_dim: int = 0) -> Tensor:
        """A tensor with the site's batch shape, summed over the plates that are not the data's: ``(K, B, *event)``."""
        value = self._sum_other_plates(value, event_dim)
        sizes = [plate_size(site, dim) for dim in self.dims]
        event = value.shape[value.dim() - event_dim :]
        if self.vectorised:
            return value.expand(num_samples, *sizes, *event).flatten(1, len(self.dims))
        value = value.expand(*sizes, *event).unflatten(self.axis, (num_samples, -1))
        return value.movedim(self.axis, 0).flatten(1, len(self.dims))

    def per_value(self, num_samples: int, site: Any, value: Tensor) -> Tensor:
        """:meth:`per_datum` for one data plate, with enumeration dimensions on the left: ``(*values, K, B)``."""
        value, size = self._sum_other_plates(value, 0), plate_size(site, self.dims[0])
        if self.vectorised:
            return value.expand(*value.shape[:-2], num_samples, size)
        return value.expand(*value.shape[:-1], size).unflatten(-1, (num_samples, -1))

    def _sum_other_plates(self, value: Tensor, event_dim: int) -> Tensor:
        """Sum over the plates that are not the data's; dimensions of samples and data that are missing are added."""
        dims = self.depth + self.vectorised + event_dim
        value = value.reshape((1,) * (dims - value.dim()) + tuple(value.shape))
        others = [dim - event_dim for dim in range(-self.depth, 0) if dim not in self.dims]
        return value.sum(others) if others else value

    def check_summed(self, site: Any, advice: str) -> None:
        """Require a site that can be summed out for each datum separately; ``advice`` is what to do otherwise.

        Raises:
            ValueError: the site is within plates other than those of the data.
        """
        dims = {frame.dim for frame in frames(site).values() if frame.dim >= -self.depth}
        if dims != set(self.dims):
            rule = "a site that is summed out must be in the plate of the data alone"
            raise refusal(self.owner, rule, f"site {site['name']!r} in {len(dims)} plates", advice)

    def broadcast(self, site: Any, value: Tensor, *, event_dim: int = 0) -> Tensor:
        """Reshape ``(K, B)`` to broadcast against a value of the site with ``event_dim`` event dimensions.

        The inverse of :meth:`per_datum`.
        """
        num = 1 if self.vectorised else len(value)
        sizes = [plate_size(site, dim) // (num if index == self.axis else 1) for index, dim in enumerate(self.dims)]
        value = value if len(sizes) == 1 else value.reshape(len(value), *sizes)
        if not self.vectorised:
            value = value.movedim(0, self.axis).flatten(self.axis, self.axis + 1)
        left = value.shape[: value.dim() - len(self.dims)]
        plates = range(-self.depth, 0)
        shape = [value.shape[len(left) + self.dims.index(dim)] if dim in self.dims else 1 for dim in plates]
        return value.reshape(*left, *shape, *[1] * event_dim)

    def samples_first(self, num_samples: int, site: Any) -> Tensor:
        """The site's value as ``(K, *plates, *event)``, for every mode."""
        value, event_dim = site["value"], site["fn"].event_dim
        event = value.shape[value.dim() - event_dim :]
        batch = value.shape[: value.dim() - event_dim]
        if self.vectorised:
            return value.reshape(*(1,) * (self.depth + 1 - len(batch)), *batch, *event).expand(
                num_samples, *(-1,) * (self.depth + event_dim)
            )
        value = value.reshape(*(1,) * (self.depth - len(batch)), *batch, *event)
        plate = self.depth + self.dims[self.axis]
        return value.unflatten(plate, (num_samples, -1)).movedim(plate, 0)

    def samples_in_batch(self, value: Tensor, depth: int) -> Tensor:
        """The inverse of :meth:`samples_first` for flattened and looped programs.

        Args:
            value: ``(K, *plates, *event)``.
            depth: number of batch dimensions of the site's value in a run for one sample.
        """
        plate = self.depth + self.dims[self.axis]
        value = value.movedim(0, plate).flatten(plate, plate + 1)
        return value.reshape(value.shape[self.depth - depth :]) if depth < self.depth else value
