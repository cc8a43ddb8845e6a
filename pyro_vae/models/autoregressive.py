"""Autoregressive models: exact densities without latent variables."""

from __future__ import annotations

import math
from typing import Any, cast

import pyro
import torch
from torch import Tensor, nn

from pyro_vae._core.checks import CheckedArguments, check_shape, refusal, require
from pyro_vae._core.html import DisplayedModule
from pyro_vae._core.param_store import register
from pyro_vae._core.saved_modules import SavedModule
from pyro_vae.distributions import Autoregressive
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.likelihoods.autoregressive import BaseFactory, causal_base
from pyro_vae.networks import CausalNetwork, CausalNetworkFactory, GatedPixelCNN, Shape
from pyro_vae.networks.context import as_vector


class AutoregressiveModel(nn.Module, DisplayedModule, SavedModule, CheckedArguments):
    r"""Autoregressive model, :math:`p(x | c) = \prod_s p(x_s | x_{<s}, c)`, as a Pyro program without latent sites.

    ``fit(m.model, m.guide, data)`` maximises the exact log-likelihood, and ``log_likelihood`` returns it.

    Args:
        data_shape: shape of one datum.
        net: builds the causal network, ``net(data_shape, out_shape, context_shape=..., joint_channels=...)``.
        base: likelihood of independent sites, such as ``partial(CategoricalLikelihood, levels=16)``;
            :class:`~pyro_vae.likelihoods.MixtureOfLogisticsLikelihood` with one component is a discretized logistic.
        context_shape: shape of the context c: empty for none, ``(K,)`` of one of K classes or of a vector,
            ``(C', H, W)`` of an image.

    Raises:
        ValueError: the base has no independent sites, or the shapes do not fit.

    References:
        Pixel recurrent neural networks (van den Oord et al., 2016). https://arxiv.org/abs/1601.06759
        Conditional image generation with PixelCNN decoders (van den Oord et al., 2016).
        https://arxiv.org/abs/1606.05328

    Example:
        >>> import torch
        >>> from pyro_vae import fit, log_likelihood
        >>> from pyro_vae.networks import MaskedMLP
        >>> m, x = AutoregressiveModel((5,), net=MaskedMLP), torch.ones(70, 5)
        >>> _ = fit(m.model, m.guide, x, epochs=3, batch_size=20)
        >>> result = log_likelihood(m.model, m.guide, x)
        >>> result.protocol["estimator"], result.monte_carlo_error()
        ('exact', 0.0)
    """

    def __init__(
        self,
        data_shape: Shape,
        *,
        net: CausalNetworkFactory = GatedPixelCNN,
        base: BaseFactory = BernoulliLikelihood,
        context_shape: Shape = (),
    ) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.base = causal_base(base, self.data_shape, net, context_shape=tuple(context_shape))

    @property
    def net(self) -> CausalNetwork:
        """The causal network."""
        return cast(CausalNetwork, self.base.net)

    @property
    def context_shape(self) -> tuple[int, ...]:
        """Shape of the context, empty for none."""
        return self.net.context_shape

    @property
    def by_rows(self) -> bool:
        """Whether the data are images, of which the network takes one row after the other."""
        pixels, width = math.prod(self.data_shape[1:]), self.data_shape[-1]
        rows = [site % pixels // width for site in self.net.order] if len(self.data_shape) == 3 else [1, 0]
        return rows == sorted(rows)

    def distribution(self, context: Tensor | None = None) -> Autoregressive:
        """p(x | c) for a context ``(*batch, *context_shape)``, or classes ``batch``: batch shape ``batch``.

        Raises:
            ValueError: the context has another shape, or a class is not in 0..K - 1.
        """
        if context is not None and len(self.net.context_shape) == 1:
            context = as_vector(context, self.net.context_shape[0], next(self.net.parameters()).dtype)
        return Autoregressive(self.net, self.base.distribution, context, self.base.offset)

    def model(self, x: Tensor | None = None, context: Tensor | None = None, *, batch_size: int = 1) -> Tensor:
        """Run the Pyro model: sample ``"x"`` within the plate ``"data"``.

        Args:
            x: ``(B, *data_shape)``, observed; None to sample x.
            context: ``(B, *context_shape)`` or classes ``(B,)``, if the model takes one.
            batch_size: number of data to sample if ``x`` is None.

        Returns:
            x, ``(B, *data_shape)``.
        """
        register(self)
        with pyro.plate("data", batch_size if x is None else x.shape[0], dim=-1):
            return pyro.sample("x", self.distribution(context), obs=x)

    @staticmethod  # so that the parameters are those of the model alone
    def guide(*args: Any, **kwargs: Any) -> None:
        """The Pyro guide, which has nothing to sample."""

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return log p(x | c), ``batch``, in nats, for x ``(*batch, *data_shape)`` and c as in :meth:`distribution`."""
        return self.distribution(context).log_prob(x)

    def sample(self, num_samples: int = 1, context: Tensor | None = None) -> Tensor:
        """Sample from the model, ``(num_samples, *batch, *data_shape)`` for c as in :meth:`distribution`."""
        return self.distribution(context).sample(torch.Size([num_samples]))

    def complete(self, x: Tensor, num_rows: int, context: Tensor | None = None) -> Tensor:
        """Sample the lower rows of images given the first ones, from the exact conditional distribution.

        Args:
            x: ``(*batch, *data_shape)``, images.
            num_rows: number of rows that are kept.
            context: ``(*batch, *context_shape)`` or classes ``batch``, if the model takes one.

        Returns:
            A copy of x with other rows from ``num_rows`` on.

        Raises:
            ValueError: the network's order is not that of the rows, or there are fewer rows.
        """
        height = self.data_shape[-2] if len(self.data_shape) == 3 else 0
        rule, got = "num_rows must be a number of rows of an image", f"num_rows={num_rows}, shape={self.data_shape}"
        if not 0 <= num_rows <= height:
            raise refusal("AutoregressiveModel", rule, got)
        check_shape("AutoregressiveModel", "x", x.shape[-3:], self.data_shape)
        rule, advice = "the order of the network must be that of the rows", "Use distribution().complete"
        require(self.by_rows, "AutoregressiveModel", rule, "another permutation", advice)
        return self.distribution(context).complete(x, num_rows * self.net.num_sites // height)
