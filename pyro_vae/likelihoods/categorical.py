"""Categorical likelihood of grey levels or class codes: a free probability for every level of every pixel."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_vae._core.checks import check_count
from pyro_vae.likelihoods.base import SiteLikelihood
from pyro_vae.likelihoods.grey_levels import GreyLevels, stacked_shape, unstacked
from pyro_vae.likelihoods.tilting import slope_of_mean, tilted_grid_mean
from pyro_vae.networks import MLP, NetworkFactory, Shape, build_network

_NO_SHAPE = torch.Size()


class CategoricalLevels(TorchDistribution):
    r"""Independent pixels with values k / (levels - 1), :math:`P(x_d = k / (\text{levels} - 1)) \propto e^{l_{kd}}`.

    The levels are the first dimension of an event, as in the output of a convolution, which avoids a transposition.

    Args:
        logits: ``(*batch, levels, *event)``.
        event_dim: number of dimensions of an event.
        codes: whether values are the codes k = 0, ..., levels - 1 themselves.

    Shape:
        batch shape ``batch``, event shape ``event``.
    """

    arg_constraints = {"logits": constraints.real}
    has_independent_entries = True

    def __init__(
        self, logits: Tensor, event_dim: int, *, codes: bool = False, validate_args: bool | None = None
    ) -> None:
        self.logits, self.level_dim = logits, -event_dim - 1
        self.codes = codes
        batch, event = logits.shape[: self.level_dim], logits.shape[logits.dim() - event_dim :]
        super().__init__(batch, event, validate_args=validate_args)

    @property
    def levels(self) -> int:
        """Number of grey values."""
        return self.logits.shape[self.level_dim]

    @property
    def _steps(self) -> int:
        """Number of levels per unit of the values."""
        return 1 if self.codes else self.levels - 1

    @constraints.dependent_property(is_discrete=True)
    def support(self) -> Constraint:
        one = constraints.integer_interval(0, self.levels - 1) if self.codes else GreyLevels(self.levels)
        return constraints.independent(one, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        fraction = (self.logits.softmax(self.level_dim) * grid(self.logits, self.level_dim)).sum(self.level_dim)
        return fraction * (self.levels - 1) if self.codes else fraction

    def expand(self, batch_shape: Any, _instance: Any = None) -> CategoricalLevels:
        new = self._get_checked_instance(CategoricalLevels, _instance)
        shape = torch.Size(batch_shape)
        new.logits, new.level_dim = self.logits.expand(*shape, self.levels, *self.event_shape), self.level_dim
        new.codes = self.codes
        super(CategoricalLevels, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            probs = self.logits.softmax(self.level_dim).movedim(self.level_dim, -1)  # (*batch, *event, levels)
            level = torch.multinomial(probs.reshape(-1, self.levels), shape.numel(), replacement=True)
            return level.T.reshape(self._extended_shape(shape)).to(self.logits) / self._steps

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self.entry_log_prob(value).flatten(-len(self.event_shape)).sum(-1)

    def entry_log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of every entry, ``(*batch, *event)``."""
        event_dim = len(self.event_shape)
        log_probs = self.logits.log_softmax(self.level_dim)
        level = (value * self._steps).round().long()
        shape = torch.broadcast_shapes(level.shape[: level.dim() - event_dim], self.batch_shape)
        level = level.expand(*shape, *self.event_shape).unsqueeze(self.level_dim)
        log_probs = log_probs.expand(*shape, self.levels, *self.event_shape)  # no copy
        return log_probs.gather(self.level_dim, level).squeeze(self.level_dim)


class CategoricalLikelihood(SiteLikelihood):
    r"""Independent pixels with any distribution of grey levels, :math:`P(x_d = k/n) \propto e^{f_{kd}(z) + o_d k/n}`.

    Here n = levels - 1. A probability, comparable in bits per dimension with other likelihoods of the same levels. The
    levels are unordered: the similarity of neighbouring levels has to be learned. With ``codes`` it is the likelihood
    of categorical variables.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum; values are k / (levels - 1).
        net: builds the decoder, which returns logits: ``net((latent_dim,), (levels * C, H, W))`` for images
            ``(C, H, W)``, channel k C + c being level k of channel c; ``net((latent_dim,), (levels, *data_shape))``
            for other data.
        levels: number of grey values, 256 for bytes, or of classes.
        codes: whether values are class codes, k = 0, ..., levels - 1, instead of k / (levels - 1).

    Attributes:
        offset: ``(*data_shape)``, the slope o of a tilt of all levels. :meth:`initialise_mean` sets it so that, for a
            network output of 0, the mean is the given one and the entropy the largest with that mean. Means are clamped
            to [0.001, 0.999], for codes to these fractions of levels - 1.

    Shape:
        ``(*batch, latent_dim)`` to a distribution with batch shape ``batch`` and event shape ``data_shape``.

    References:
        Pixel recurrent neural networks (van den Oord et al., 2016), section 3.2, has the softmax over 256 levels.
        https://arxiv.org/abs/1601.06759

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import CategoricalLikelihood
        >>> likelihood = CategoricalLikelihood(2, (3,), levels=4).initialise_mean(torch.tensor([0.1, 0.5, 0.9]))
        >>> p = likelihood(torch.zeros(5, 2))
        >>> p.log_prob(torch.tensor([0.0, 1 / 3, 1.0])).shape
        torch.Size([5])
        >>> p.mean[0].detach()
        tensor([0.1000, 0.5000, 0.9000])
    """

    def __init__(
        self,
        latent_dim: int,
        data_shape: Shape,
        *,
        net: NetworkFactory = MLP,
        levels: int = 256,
        codes: bool = False,
    ) -> None:
        super().__init__(latent_dim, data_shape)
        check_count("CategoricalLikelihood", at_least=2, levels=levels)
        self.levels, self.codes = levels, codes
        self.net = build_network(net, (latent_dim,), stacked_shape(levels, self.data_shape))

    def distribution(self, outputs: Tensor, offset: Tensor) -> TorchDistribution:
        logits = unstacked(outputs, self.levels, tuple(offset.shape))
        return CategoricalLevels(logits + offset * grid(logits, -offset.dim() - 1), offset.dim(), codes=self.codes)

    @property
    def mean_tolerance(self) -> float:  # type: ignore[override]
        """A thousandth of the range, by the clamp of the mean."""
        return 1e-3 * self._range

    def mean_to_output(self, mean: Tensor) -> Tensor:
        return slope_of_mean(lambda slope: tilted_grid_mean(slope, self.levels), mean / self._range)

    @property
    def _range(self) -> int:
        return self.levels - 1 if self.codes else 1


def grid(like: Tensor, dim: int) -> Tensor:
    """The grey values 0, ..., 1 along the dimension ``dim`` of ``like``, counted from the end."""
    levels = like.shape[dim]
    values = torch.arange(levels, dtype=like.dtype, device=like.device) / (levels - 1)
    return values.reshape(levels, *(1,) * (-dim - 1))
