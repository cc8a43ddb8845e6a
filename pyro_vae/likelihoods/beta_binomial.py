"""Beta-binomial likelihood of grey levels."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import Beta, Binomial, TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

from pyro_vae._core.checks import check_count
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.grey_levels import GreyLevels, stacked_shape, unstacked
from pyro_vae.networks import MLP, NetworkFactory, Shape, build_network

_NO_SHAPE = torch.Size()
_SHIFT = 8  # above it Stirling's series below is exact to 1e-14
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)


def log_rising(a: Tensor, log_a: Tensor, k: Tensor, unit: Tensor) -> Tensor:
    r""":math:`\log [\Gamma(a + k) / (\Gamma(a)\, u^k)] + k` for whole k >= 0, without the cancellation of ``lgamma``.

    A difference of two ``lgamma`` loses :math:`a \log a` times the rounding, 0.03 nats at a = 1e5 in float32. Here
    :math:`\Gamma` is shifted to a + 8 by its recurrence, and the two Stirling formulas are subtracted analytically.

    Args:
        a: positive, or 0 by underflow.
        log_a: its logarithm.
        k: number of factors.
        unit: u, which keeps the numbers small.
    """
    positive = k > 0
    first = torch.where(positive, log_a - torch.where(positive, a + k, 1.0).log(), 0.0)  # a / (a + k), also for a = 0
    ratio = torch.ones_like(first)
    for i in range(1, _SHIFT):
        ratio = ratio * (1 + k / (a + i))
    b = a + _SHIFT
    return (
        first
        - ratio.log()
        + (b - 0.5) * torch.log1p(k / b)
        + k * ((b + k) / unit).log()
        + _stirling(b + k)
        - _stirling(b)
    )


def _stirling(a: Tensor) -> Tensor:
    r""":math:`\log \Gamma(a) - (a - 1/2) \log a + a - \log(2 \pi) / 2`, for a >= 8."""
    inverse, total = 1 / a, torch.zeros_like(a)
    for c in reversed(_STIRLING):
        total = total * inverse.square() + c
    return total * inverse


class BetaBinomialLevels(TorchDistribution):
    r"""x = k/n with k of n trials whose common probability is beta distributed, n = levels - 1.

    :math:`P(k) = \binom{n}{k} B(k + \alpha, n - k + \beta) / B(\alpha, \beta)` with :math:`\alpha = c\, \sigma(l)`,
    :math:`\beta = c\, \sigma(-l)`.

    Args:
        logits: l, the logit of the mean.
        concentration: c, positive.
        levels: number of grey values.
    """

    arg_constraints = {"logits": constraints.real, "concentration": constraints.positive}

    def __init__(
        self, logits: Tensor, concentration: Tensor, levels: int = 256, *, validate_args: bool | None = None
    ) -> None:
        self.logits, self.concentration = broadcast_all(logits, concentration)
        self.levels = levels
        super().__init__(self.logits.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Constraint:
        return GreyLevels(self.levels)

    @property
    def mean(self) -> Tensor:
        return self.logits.sigmoid()

    def expand(self, batch_shape: Any, _instance: Any = None) -> BetaBinomialLevels:
        new = self._get_checked_instance(BetaBinomialLevels, _instance)
        new.logits, new.concentration = self.logits.expand(batch_shape), self.concentration.expand(batch_shape)
        new.levels = self.levels
        super(BetaBinomialLevels, new).__init__(new.logits.shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        with torch.no_grad():
            tiny = torch.finfo(self.logits.dtype).eps
            alpha, beta = (self.concentration * s.sigmoid() for s in (self.logits, -self.logits))
            probs = Beta(alpha.clamp_min(tiny), beta.clamp_min(tiny), validate_args=False).sample(sample_shape)
            return Binomial(self.levels - 1, probs, validate_args=False).sample() / (self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        n = self.levels - 1
        k = (value * n).round()
        # C(n, k) in double, since float32 would lose 1e-4; it depends on the data alone.
        ways = math.lgamma(n + 1) - (k.double() + 1).lgamma() - (n - k.double() + 1).lgamma()
        c, log_c = self.concentration, self.concentration.log()
        unit = c + n
        return (
            ways.to(value)
            + log_rising(c * self.logits.sigmoid(), log_c + logsigmoid(self.logits), k, unit)
            + log_rising(c * (-self.logits).sigmoid(), log_c + logsigmoid(-self.logits), n - k, unit)
            - log_rising(c, log_c, torch.full_like(k, n), unit)
        )


class BetaBinomialLikelihood(Likelihood):
    r"""Independent grey levels, :math:`P(x | z) = \prod_d \mathrm{BetaBin}(n x_d; n, c_d \mu_d, c_d (1 - \mu_d))`.

    Here :math:`n = \text{levels} - 1`, :math:`\mu = \sigma(f(z))` is the mean, and the concentration is
    :math:`c = 10\, e^{7 \tanh(g(z) / 7)}`, between 0.009 and 11000: a large c gives a binomial distribution, c = 2 with
    mean 1/2 a uniform one, a small c black and white. A probability, comparable in bits per dimension with other
    likelihoods of the same levels.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum; values are k / (levels - 1).
        net: builds the decoder, which returns f, then g: ``net((latent_dim,), (2 * C, H, W))`` for images
            ``(C, H, W)``, ``net((latent_dim,), (2, *data_shape))`` for other data.
        levels: number of grey values, 256 for bytes.

    Attributes:
        offset: ``(*data_shape)``, added to the logit of the mean; :meth:`initialise_mean` sets it to the logit of the
            given mean, clamped to [0.001, 0.999].

    Shape:
        ``(*batch, latent_dim)`` to a distribution with batch shape ``batch`` and event shape ``data_shape``.

    References:
        A probability distribution derived from the binomial distribution by regarding the probability of success as
        variable between the sets of trials (Skellam, 1948).
        https://doi.org/10.1111/j.2517-6161.1948.tb00014.x

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import BetaBinomialLikelihood
        >>> p = BetaBinomialLikelihood(2, (1,), levels=4)(torch.zeros(1, 2))
        >>> total = sum(p.log_prob(torch.tensor([k / 3])).exp() for k in range(4))
        >>> bool((total - 1).abs() < 1e-6)
        True
    """

    mean_tolerance = 1e-3

    def __init__(self, latent_dim: int, data_shape: Shape, *, net: NetworkFactory = MLP, levels: int = 256) -> None:
        super().__init__(latent_dim, data_shape)
        check_count("BetaBinomialLikelihood", at_least=2, levels=levels)
        self.levels = levels
        self.net = build_network(net, (latent_dim,), stacked_shape(2, self.data_shape))

    def forward(self, z: Tensor, *context: Tensor) -> TorchDistribution:
        outputs = unstacked(self.net(z, *context), 2, self.data_shape)
        logits, raw = outputs.unbind(-len(self.data_shape) - 1)
        # At a concentration of 10 a pixel's standard deviation is 0.15 of the grey range.
        concentration = 10 * (7 * torch.tanh(raw / 7)).exp()
        return BetaBinomialLevels(logits + self.offset, concentration, self.levels).to_event(len(self.data_shape))

    def mean_to_output(self, mean: Tensor) -> Tensor:
        return mean.clamp(1e-3, 1 - 1e-3).logit()
