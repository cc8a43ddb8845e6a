"""Mixture-of-logistics likelihood of grey levels and colours."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.nn.functional import softplus

from pyro_vae._core.checks import check_count, check_positive
from pyro_vae.likelihoods.base import SiteLikelihood
from pyro_vae.likelihoods.discretized_logistic import DiscretizedLogistic
from pyro_vae.likelihoods.grey_levels import GreyLevels
from pyro_vae.networks import MLP, NetworkFactory, Shape, build_network

_NO_SHAPE = torch.Size()
_RAW_SCALE = -2.25  # softplus(-2.25) = 0.10, times pi/sqrt(3) is a standard deviation of 0.18 of the grey range


class MixtureOfLogistics(TorchDistribution):
    r"""Independent pixels, each a mixture of discretized logistics, autoregressive over the channels.

    :math:`P(x) = \sum_k \pi_k \prod_c \mathrm{DLogistic}(x_c; \mu_{kc} + \sum_{j < c} a_{kcj} (x_j - 1/2), s_{kc})`.

    Args:
        logits: ``(*batch, K, P)``, of the K components of P pixels.
        loc: ``(*batch, K, C, P)``, in grey values.
        scale: ``(*batch, K, C, P)``, in grey values.
        coefficients: ``(*batch, K, C (C - 1) / 2, P)``, the a of channel 1 on 0, then of 2 on 0 and on 1, and so on.
        event_shape: shape of one datum of C P numbers, channels first.
        levels: number of grey values.
    """

    arg_constraints = {
        "logits": constraints.real,
        "loc": constraints.real,
        "scale": constraints.positive,
        "coefficients": constraints.real,
    }

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        coefficients: Tensor,
        event_shape: Shape,
        levels: int = 256,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.loc, self.scale, self.coefficients = logits, loc, scale, coefficients
        self.levels = levels
        super().__init__(logits.shape[:-2], torch.Size(event_shape), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True)
    def support(self) -> Constraint:
        return constraints.independent(GreyLevels(self.levels), len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """Mean: exact for the first channel; later ones are evaluated at the component's mean of those before.

        That is exact unless their logistics reach black or white, which makes their mean nonlinear.
        """
        channels: list[Tensor] = []
        for c in range(self.loc.shape[-2]):
            channels.append(self._channel(c, self.loc, self.scale, self.coefficients, channels).mean)
        mean = (self.logits.softmax(-2).unsqueeze(-2) * torch.stack(channels, -2)).sum(-3)  # (*batch, C, P)
        return mean.reshape(self.batch_shape + self.event_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> MixtureOfLogistics:
        new = self._get_checked_instance(MixtureOfLogistics, _instance)
        shape = torch.Size(batch_shape)
        for name in self.arg_constraints:
            tensor = getattr(self, name)
            setattr(new, name, tensor.expand(shape + tensor.shape[len(self.batch_shape) :]))
        new.levels = self.levels
        super(MixtureOfLogistics, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        with torch.no_grad():
            shape = torch.Size(sample_shape)
            noise = -torch.empty(shape + self.logits.shape).to(self.logits).exponential_().log()
            k = (self.logits + noise).argmax(-2, keepdim=True).unsqueeze(-2)  # (*shape, *batch, 1, 1, P)
            loc, scale, coefficients = (
                t.expand(shape + t.shape).take_along_dim(k, -3) for t in (self.loc, self.scale, self.coefficients)
            )
            channels: list[Tensor] = []
            for c in range(self.loc.shape[-2]):
                channels.append(self._channel(c, loc, scale, coefficients, channels).sample())  # (*shape, *batch, 1, P)
            return torch.stack(channels, -2).reshape(self._extended_shape(shape))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self._pixel_log_prob(value).sum(-1)

    @property
    def has_independent_entries(self) -> bool:
        """Whether there is one channel; several are dependent."""
        return self.loc.shape[-2] == 1

    def entry_log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of every entry of one channel, ``(*batch, *event_shape)``."""
        return self._pixel_log_prob(value).unflatten(-1, self.event_shape)

    def _pixel_log_prob(self, value: Tensor) -> Tensor:
        """``(*batch, P)``."""
        x = value.reshape(*value.shape[: value.dim() - len(self.event_shape)], 1, *self.loc.shape[-2:])
        channels = list(x.unbind(-2))  # C of (*batch, 1, P)
        log_probs = self.logits.log_softmax(-2)  # (*batch, K, P)
        for c, channel in enumerate(channels):
            component = self._channel(c, self.loc, self.scale, self.coefficients, channels[:c])
            log_probs = log_probs + component.log_prob(channel)
        return log_probs.logsumexp(-2)

    def _channel(
        self, c: int, loc: Tensor, scale: Tensor, coefficients: Tensor, before: list[Tensor]
    ) -> DiscretizedLogistic:
        """Channel c of every component, given the channels before it."""
        mu, start = loc[..., c, :], c * (c - 1) // 2
        for j, x in enumerate(before):
            mu = mu + coefficients[..., start + j, :] * (x - 0.5)
        return DiscretizedLogistic(mu, scale[..., c, :], self.levels, validate_args=False)


class MixtureOfLogisticsLikelihood(SiteLikelihood):
    r"""Pixels that are independent given z, each a mixture of discretized logistics, as in PixelCNN++.

    :math:`P(x | z) = \prod_d \sum_k \pi_{dk} \prod_c \mathrm{DLogistic}(x_{dc}; \mu_{dkc} + \sum_{j < c} a_{dkcj}
    (x_{dj} - 1/2), s_{dkc})`. The channels of a pixel share the component, and each shifts those after it; with one
    channel it is a plain mixture. A probability, comparable in bits per dimension with other likelihoods of the same
    levels. ``mean`` is exact for the first channel, and for the others if their logistics do not reach black or white.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum, ``(C, H, W)`` for images; other data have one channel. Values are
            k / (levels - 1).
        net: builds the decoder, ``net((latent_dim,), (N, H, W))``, or ``net((latent_dim,), (N, *data_shape))`` for
            data that are not images, with N = K (1 + 2 C + C (C - 1) / 2) for K components: 3 K for one channel, 10 K
            for three. Of each component in turn: logit, locs, scales before the softplus, coefficients before the tanh.
        num_components: number K of components.
        levels: number of grey values, 256 for bytes.
        min_scale: lower limit of the scales, in grey values.

    Attributes:
        offset: ``(*data_shape)``, added to every component's loc.

    Shape:
        ``(*batch, latent_dim)`` to a distribution with batch shape ``batch`` and event shape ``data_shape``.

    References:
        PixelCNN++: improving the PixelCNN with discretized logistic mixture likelihood and other modifications
        (Salimans et al., 2017), section 2.1 and 2.2. The scale is a softplus here, an exponential there.
        https://arxiv.org/abs/1701.05517

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import MixtureOfLogisticsLikelihood
        >>> p = MixtureOfLogisticsLikelihood(2, (3, 8, 8), num_components=5)(torch.zeros(4, 2))
        >>> p.log_prob(p.sample()).shape
        torch.Size([4])
    """

    joint_channels = True

    def __init__(
        self,
        latent_dim: int,
        data_shape: Shape,
        *,
        net: NetworkFactory = MLP,
        num_components: int = 10,
        levels: int = 256,
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__(latent_dim, data_shape)
        name = type(self).__name__
        check_count(name, num_components=num_components)
        check_count(name, at_least=2, levels=levels)
        check_positive(name, min_scale=min_scale)
        self.num_components, self.levels, self.min_scale = num_components, levels, min_scale
        image = len(self.data_shape) == 3
        self.num_channels = c = self.data_shape[0] if image else 1
        self.sizes = (1, c, c, c * (c - 1) // 2)  # logits, locs, scales and coefficients of one component
        outputs = num_components * sum(self.sizes)
        self.net = build_network(net, (latent_dim,), (outputs, *(self.data_shape[1:] if image else self.data_shape)))

    def distribution(self, outputs: Tensor, offset: Tensor) -> TorchDistribution:
        batch = outputs.shape[: outputs.dim() - (3 if len(self.data_shape) == 3 else len(self.data_shape) + 1)]
        outputs = outputs.reshape(*batch, self.num_components, sum(self.sizes), -1)  # (*batch, K, N/K, P)
        logits, loc, raw, coefficients = outputs.split(self.sizes, -2)
        loc = loc + offset.reshape(self.num_channels, -1)
        scale = self.min_scale + softplus(raw + _RAW_SCALE)
        logits = logits.squeeze(-2)  # (*batch, K, P)
        return MixtureOfLogistics(logits, loc, scale, coefficients.tanh(), tuple(offset.shape), self.levels)

    @property
    def mean_tolerance(self) -> float:  # type: ignore[override]
        """Clipping to [0, 1] moves the mean of a logistic by at most s log 2, binning by half a bin."""
        scale = self.min_scale + math.log1p(math.exp(_RAW_SCALE))
        return scale * math.log(2) + 0.5 / (self.levels - 1)

    def mean_to_output(self, mean: Tensor) -> Tensor:
        return mean
