"""Base class of likelihoods of counts."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, get_args

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae._core.checks import check_choice, require
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.grey_levels import stacked_shape, unstacked
from pyro_vae.networks import NetworkFactory, Shape, build_network

Dispersion = Literal["global", "pixel", "network"]
_MAX_LOG_MEAN = 30.0  # a mean of 1e13
_MAX_LOG_R = 15.0  # an inverse dispersion of 3e6, the inverse of which is the lower limit
_MIN_MEAN = 1e-6


class CountLikelihood(Likelihood):
    r"""Independent counts, :math:`p(x | z) = \prod_d p(x_d; \mu_d)` with :math:`\log \mu = f(z) + o`, or + log s.

    With size factors s, the exposure of each datum, such as the library size of a cell or the length of a document,
    the last context of a call is log s: ``likelihood(z, log_size)``, ``vae.model(x, log_size)``. The density
    p(x | z, s) is normalised for every s, so that log p(x | s) is exact. The total of x may be passed as s, as
    scvi-tools does by default; numbers are then comparable only with those given the same sizes.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum.
        net: builds the decoder, ``net((latent_dim,), data_shape)``; for several outputs per count with that many times
            the channels (for vectors ``(num_outputs, D)``).
        size_factor: whether calls end in the logarithm of the size factor of each datum, ``(*batch, 1)``.
        num_outputs: number of outputs per count, the first of which is the log mean.

    Raises:
        ValueError: a call without the log size factors.
    """

    mean_tolerance = _MIN_MEAN

    def __init__(
        self, latent_dim: int, data_shape: Shape, *, net: NetworkFactory, size_factor: bool, num_outputs: int = 1
    ) -> None:
        super().__init__(latent_dim, data_shape)
        self.size_factor, self.num_outputs = size_factor, num_outputs
        self.net = build_network(net, (latent_dim,), stacked_shape(num_outputs, self.data_shape))

    @abstractmethod
    def family(self, log_mean: Tensor, *outputs: Tensor) -> TorchDistribution:
        """The distribution of one count; the other outputs of the network are not bounded."""

    def forward(self, z: Tensor, *context: Tensor) -> TorchDistribution:
        dims = len(self.data_shape)
        log_size = self._log_size(context) if self.size_factor else None
        outputs = self.net(z, *(context[:-1] if self.size_factor else context))
        log_mean, *others = unstacked(outputs, self.num_outputs, self.data_shape).unbind(-dims - 1)
        log_mean = log_mean + self.offset
        if log_size is not None:
            log_mean = log_mean + log_size.reshape(*log_size.shape[:-1], *(1,) * dims)
        return self.family(log_mean.clamp(-_MAX_LOG_MEAN, _MAX_LOG_MEAN), *others).to_event(dims)

    def _log_size(self, context: tuple[Tensor, ...]) -> Tensor:
        shape = tuple(context[-1].shape) if context else "none"
        rule, advice = "a call must end in the log size factors (*batch, 1)", "Pass x.sum(-1, keepdim=True).log()"
        require(bool(context) and context[-1].shape[-1:] == (1,), type(self).__name__, rule, f"{shape}", advice)
        return context[-1]

    def mean_to_output(self, mean: Tensor) -> Tensor:
        return mean.clamp_min(_MIN_MEAN).log()


class InverseDispersion(nn.Module):
    r"""Logarithm of the inverse dispersion, :math:`\log r = 15 \tanh(a + g(z) / 15)`, for learned a.

    A small step of a is a large one of log r, which has a wide range and one value per entry for all data.

    Args:
        owner: name that error messages begin with.
        dispersion: ``"global"``, one learned r; ``"pixel"``, one learned per entry of the datum; ``"network"``, one per
            entry that depends on z.
        data_shape: shape of one datum.

    Raises:
        ValueError: an unknown ``dispersion``.
    """

    def __init__(self, owner: str, dispersion: Dispersion, data_shape: Shape) -> None:
        super().__init__()
        check_choice(owner, "dispersion", dispersion, get_args(Dispersion))
        self.raw = nn.Parameter(torch.zeros(() if dispersion == "global" else data_shape))

    def forward(self, *from_network: Tensor) -> Tensor:
        return _MAX_LOG_R * torch.tanh(self.raw + sum(from_network) / _MAX_LOG_R)
