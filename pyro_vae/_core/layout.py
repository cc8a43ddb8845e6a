"""Log-probabilities per datum, read off the traces of a Pyro model and guide.

What measures (:mod:`pyro_vae.evaluation`) and what trains (:mod:`pyro_vae.objectives`) form their weights from these.
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
from pyro_vae._core.traces import check_shape, frames, losses, masked, observations, plate_size, sites

Mode = Literal["vectorised", "flattened", "looped"]
_SAMPLE_OR_SUM = "Sample it in the guide, or sum over it in the model"


@dataclass(frozen=True)
class Layout:
    """Where draws and data are in the shapes of a program that runs for K draws of each datum.

    Attributes:
        owner: name to begin messages with.
        depth: number of dimensions that the program's own plates take.
        dims: those of the data, negative; every site is within their plates.
        mode: ``"vectorised"``, K in a plate before all others; ``"flattened"``, each datum K times in one batch, in
            rounds; ``"looped"``, one run a draw, each like a flattened one of K = 1.
        axis: which of ``dims`` the rounds are in.
        outside: observed sites of the guide that are no part of its density.
        blocks: for latents that a guide draws as one vector for all data: the datum of each entry.
    """

    owner: str
    depth: int
    dims: tuple[int, ...]
    mode: Mode = "vectorised"
    axis: int = 0
    outside: frozenset[str] = frozenset()
    blocks: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def in_front(self) -> bool:
        """Whether the draws have a dimension of their own."""
        return self.mode == "vectorised"

    @property
    def free_dim(self) -> int:
        """The first dimension before those of draws and plates, negative."""
        return -self.depth - 1 - self.in_front

    def log_prob(self, site: Any, counterpart: Any = None) -> Tensor:
        """Log-probability of a site, masked and not scaled: scales are no part of a density.

        Args:
            site: of a trace.
            counterpart: of a guide's latent site, the model's. A draw counts as long as either counts it: its density
                is that of the distribution that it was drawn from.
        """
        if counterpart is not None and is_masked(site):
            value = log_density(site, counterpart)
        else:
            value = masked(site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]), site["mask"])
        check_shape(self.owner, site, value)
        return value

    def density(self, guide_trace: Trace) -> list[Any]:
        """The sites of a guide's density: what it draws, and reverse models of its auxiliary variables."""
        return [site for site in sites(guide_trace) if site["name"] not in self.outside]

    def factors(self, guide_trace: Trace) -> list[Any]:
        """The reverse models of a guide's auxiliary variables."""
        return [site for site in observations(guide_trace) if site["name"] not in self.outside]

    def losses(self, guide_trace: Trace) -> list[Any]:
        """Factors of a guide that are losses beside the bound, such as a classifier's."""
        extra = [
            s for s in observations(guide_trace) if s["name"] in self.outside and isinstance(unmasked(s["fn"])[0], Unit)
        ]
        return [*losses(guide_trace), *extra]

    def sum(self, num_samples: int, sites: Iterable[Any], model_trace: Trace | None = None) -> Tensor:
        """Sum of the sites' log-probabilities, ``(K, data)``, over every plate but those of samples and data."""
        nodes = {} if model_trace is None else model_trace.nodes
        parts = [self._density(num_samples, site, nodes.get(site["name"])) for site in sites]
        return sum(parts[1:], parts[0]) if parts else torch.zeros(())

    def _density(self, num_samples: int, site: Any, counterpart: Any) -> Tensor:
        if site["name"] not in self.blocks:
            return self.per_datum(num_samples, site, self.log_prob(site, counterpart))
        block = self.blocks[site["name"]]
        each = per_element(site["fn"], site["value"]).reshape(num_samples, len(block))
        return each.new_zeros(num_samples, int(block.max()) + 1).index_add(1, block.to(each.device), each)

    def per_datum(self, num_samples: int, site: Any, value: Tensor, *, event_dim: int = 0) -> Tensor:
        """``(K, data, *event)``: a tensor in the site's plates, summed over those that are not of the data."""
        value = self._of_the_data(value, event_dim)
        sizes = [plate_size(site, dim) for dim in self.dims]
        event = value.shape[value.dim() - event_dim :]
        if self.in_front:
            return value.expand(num_samples, *sizes, *event).flatten(1, len(self.dims))
        value = value.expand(*sizes, *event).unflatten(self.axis, (num_samples, -1))
        return value.movedim(self.axis, 0).flatten(1, len(self.dims))

    def per_value(self, num_samples: int, site: Any, value: Tensor) -> Tensor:
        """``(*values, K, B)``: the same for data in one plate, with the values of enumerated sites before."""
        value, size = self._of_the_data(value, 0), plate_size(site, self.dims[0])
        if self.in_front:
            return value.expand(*value.shape[:-2], num_samples, size)
        return value.expand(*value.shape[:-1], size).unflatten(-1, (num_samples, -1))

    def _of_the_data(self, value: Tensor, event_dim: int) -> Tensor:
        """With a dimension for the samples in front and for each of the data, summed over the other plates."""
        dims = self.depth + self.in_front + event_dim
        value = value.reshape((1,) * (dims - value.dim()) + tuple(value.shape))
        others = [dim - event_dim for dim in range(-self.depth, 0) if dim not in self.dims]
        return value.sum(others) if others else value

    def check_summed(self, site: Any) -> None:
        """Refuse a site that cannot be summed over for each datum by itself.

        Raises:
            ValueError: it is within another plate than that of the data.
        """
        dims = {frame.dim for frame in frames(site).values() if frame.dim >= -self.depth}
        if dims != set(self.dims):
            rule = "a site that is summed out must be in the plate of the data alone"
            advice = "Use TraceEnumELBO, or sample it" if "ELBO" in self.owner else _SAMPLE_OR_SUM
            raise refusal(self.owner, rule, f"site {site['name']!r} in {len(dims)} plates", advice)

    def spread(self, site: Any, value: Tensor, *, event_dim: int = 0) -> Tensor:
        """The reverse: ``(K, data)`` as a tensor that multiplies values of the site, ``event_dim`` of their own."""
        num = 1 if self.in_front else len(value)
        sizes = [plate_size(site, dim) // (num if place == self.axis else 1) for place, dim in enumerate(self.dims)]
        value = value if len(sizes) == 1 else value.reshape(len(value), *sizes)
        if not self.in_front:
            value = value.movedim(0, self.axis).flatten(self.axis, self.axis + 1)
        lead = value.shape[: value.dim() - len(self.dims)]
        shape = [value.shape[len(lead) + self.dims.index(dim)] if dim in self.dims else 1 for dim in self._plates()]
        return value.reshape(*lead, *shape, *[1] * event_dim)

    def _plates(self) -> range:
        return range(-self.depth, 0)

    def to_front(self, num_samples: int, site: Any) -> Tensor:
        """The site's value as ``(K, *plates, *event)``, whatever the mode."""
        value, event_dim = site["value"], site["fn"].event_dim
        event = value.shape[value.dim() - event_dim :]
        batch = value.shape[: value.dim() - event_dim]
        if self.in_front:
            return value.reshape(*(1,) * (self.depth + 1 - len(batch)), *batch, *event).expand(
                num_samples, *(-1,) * (self.depth + event_dim)
            )
        value = value.reshape(*(1,) * (self.depth - len(batch)), *batch, *event)
        place = self.depth + self.dims[self.axis]
        return value.unflatten(place, (num_samples, -1)).movedim(place, 0)

    def from_front(self, site: Any, value: Tensor, depth: int) -> Tensor:
        """The reverse of :meth:`to_front`, for a program that does not run vectorised.

        Args:
            site: whose value it is.
            value: ``(K, *plates, *event)``.
            depth: number of plate dimensions that the site's value has where the program runs by itself.
        """
        place = self.depth + self.dims[self.axis]
        value = value.movedim(0, place).flatten(place, place + 1)
        return value.reshape(value.shape[self.depth - depth :]) if depth < self.depth else value
