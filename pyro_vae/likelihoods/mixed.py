"""Likelihood of the columns of a table, each of its own kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae._core.checks import refusal, require
from pyro_vae.distributions import Columns
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.networks import MLP, Network, NetworkFactory, Shape, build_network

Part: TypeAlias = tuple[Sequence[int], Callable[..., Likelihood]]


class _Outputs(Network):
    """The network of a part: its share of the outputs of the common decoder."""

    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__(in_shape, out_shape)
        self.in_shape = (self.out_size,)

    def transform(self, x: Tensor) -> Tensor:
        return x


class MixedLikelihood(Likelihood):
    r"""Columns of several kinds with one decoder, :math:`p(x | z) = \prod_g p_g(x_g | f_g(z))`.

    Every likelihood of independent entries may be the part of a group of columns; the outputs of the decoder are split
    among the parts. If some parts are densities, the product is one, whose value depends on the units of these columns:
    standardize them, or compare only models of the same units.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum, ``(D,)`` for a table of D columns.
        parts: pairs of columns and likelihood, which is built by ``likelihood(latent_dim, (number of columns,),
            net=...)``: ``([0, 3], NormalLikelihood)``, ``([1], partial(CategoricalLikelihood, levels=3, codes=True))``.
            Each column of the flattened datum belongs to one part. On the command line and in
            :func:`~pyro_vae.vae_for` they follow from the table.
        net: builds the common decoder, ``net((latent_dim,), (number of outputs,))``.

    Attributes:
        parts: the likelihoods of the groups.
        order: ``(D,)``, the columns, group by group.
        offset: ``(*data_shape)``, of :meth:`initialise_mean`, which sets the offsets of the parts.

    Shape:
        ``(*batch, latent_dim)`` to a distribution with batch shape ``batch`` and event shape ``data_shape``.

    Raises:
        ValueError: no parts, a column that belongs to none or to several, or a part with size factors.

    References:
        Handling incomplete heterogeneous data using VAEs (Nazabal et al., 2020). https://arxiv.org/abs/1807.03653

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from pyro_vae.likelihoods import BernoulliLikelihood, CategoricalLikelihood
        >>> from pyro_vae.likelihoods import MixedLikelihood, NormalLikelihood
        >>> species = partial(CategoricalLikelihood, levels=3, codes=True)
        >>> parts = [([0, 1], NormalLikelihood), ([2], species), ([3], BernoulliLikelihood)]
        >>> likelihood = MixedLikelihood(2, (4,), parts=parts)
        >>> likelihood(torch.zeros(7, 2)).log_prob(torch.tensor([0.3, -1.2, 2.0, 1.0])).shape
        torch.Size([7])
        >>> likelihood.net.out_shape
        (6,)
    """

    order: Tensor

    def __init__(
        self, latent_dim: int, data_shape: Shape, *, parts: Sequence[Part] | None = None, net: NetworkFactory = MLP
    ) -> None:
        super().__init__(latent_dim, data_shape)
        if parts is None:
            advice = "Pass parts=[([0, 1], NormalLikelihood), ...], or read a table, from which they follow"
            raise refusal("MixedLikelihood", "parts must be pairs of columns and likelihood", "None", advice)
        self.register_buffer("order", self._checked_order([list(columns) for columns, _ in parts]))
        built: list[Any] = [likelihood(latent_dim, (len(columns),), net=_Outputs) for columns, likelihood in parts]
        sized = [type(part).__name__ for part in built if getattr(part, "size_factor", False)]
        require(not sized, "MixedLikelihood", "parts must have no size factors", f"{sized}", "Set size_factor=False")
        self.parts = nn.ModuleList(built)
        self.net = build_network(net, (latent_dim,), (sum(part.net.out_size for part in built),))

    def _checked_order(self, columns: list[list[int]]) -> Tensor:
        order, total = [c for group in columns for c in group], self.offset.numel()
        rule, advice = f"each of the columns 0 to {total - 1} must belong to one part", "Number them from 0"
        require(all(columns) and sorted(order) == list(range(total)), "MixedLikelihood", rule, f"{columns}", advice)
        return torch.tensor(order)

    def forward(self, z: Tensor, *context: Tensor) -> TorchDistribution:
        parts: list[Any] = list(self.parts)
        outputs = self.net(z, *context).split([part.net.out_size for part in parts], -1)
        distributions = [part(output) for part, output in zip(parts, outputs, strict=True)]
        return Columns(distributions, self.order, self.data_shape)

    def _groups(self) -> Iterator[tuple[Any, Tensor]]:
        parts: list[Any] = list(self.parts)
        yield from zip(parts, self.order.split([part.data_shape[0] for part in parts]), strict=True)

    @property
    def mean_tolerance(self) -> float:  # type: ignore[override]
        """The largest of the parts."""
        return max(part.mean_tolerance for part, _ in self._groups())

    def mean_to_output(self, mean: Tensor) -> Tensor:
        flat = mean.flatten()
        output = torch.empty_like(flat)
        for part, columns in self._groups():
            output[columns] = part.mean_to_output(flat[columns])
        return output.reshape(mean.shape)

    def set_offset(self, output: Tensor) -> None:
        super().set_offset(output)
        for part, columns in self._groups():
            part.set_offset(output.flatten()[columns])

    def set_unit(self, unit: Tensor) -> None:
        """Set the units of the parts that have units, see :meth:`LocationScaleLikelihood.set_unit`."""
        for part, columns in self._groups():
            if hasattr(part, "set_unit"):
                part.set_unit(unit.flatten()[columns])
