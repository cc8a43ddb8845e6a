"""Autoregressive distributions: a causal network, and a distribution of each site given its outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions.constraints import Constraint

from pyro_vae._core.checks import CheckedArguments, check_arguments, check_count, check_shape, require, shown
from pyro_vae._core.contexts import validating

_NO_SHAPE = torch.Size()
Base: TypeAlias = Callable[[Tensor, Tensor], TorchDistribution]


def mean_or_sample(p: TorchDistribution) -> Tensor:
    """Return the mean of a distribution, or a sample of one whose mean has no closed form.

    Args:
        p: the distribution.
    """
    check_arguments(mean_or_sample, locals())
    return p.mean if getattr(p, "has_mean", True) else p.sample()


class Autoregressive(TorchDistribution, CheckedArguments):
    r"""The distribution :math:`p(x | c) = \prod_s p(x_s | f_s(x_{<s}, c))` of a causal network f, with exact densities.

    The log-probability takes one pass of the network. A sample takes one step per site; with a cache all of them
    together cost about one pass.

    Args:
        net: a :class:`~pyro_vae.networks.CausalNetwork`.
        base: distribution of independent sites from the network's outputs ``(*batch, *out_shape)`` and the offset, such
            as ``distribution`` of :class:`~pyro_vae.likelihoods.SiteLikelihood`; it is also called with the outputs and
            the offset of one site.
        context: ``(*batch, *context_shape)``, if the network takes one.
        offset: ``(*in_shape)``, passed to ``base``; 0 by default.

    Shape:
        batch shape ``batch``, event shape ``in_shape``.

    Raises:
        ValueError: the context or the offset has another shape.

    References:
        Pixel recurrent neural networks (van den Oord et al., 2016). https://arxiv.org/abs/1601.06759
        Fast generation for convolutional autoregressive models (Ramachandran et al., 2017): the cache.
        https://arxiv.org/abs/1704.06001

    Example:
        >>> from pyro.distributions import Bernoulli
        >>> from pyro_vae.networks import MaskedMLP
        >>> net = MaskedMLP((1, 2, 2), (1, 2, 2))
        >>> p = Autoregressive(net, lambda outputs, offset: Bernoulli(logits=outputs + offset).to_event(3))
        >>> x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).reshape(16, 1, 2, 2)
        >>> bool((p.log_prob(x).exp().sum() - 1).abs() < 1e-6)
        True
    """

    arg_constraints: dict[str, Any] = {}
    has_mean = False

    def __init__(
        self,
        net: Any,
        base: Base,
        context: Tensor | None = None,
        offset: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        require(hasattr(net, "advance"), "Autoregressive", "net must be a CausalNetwork", f"net={shown(net)}")
        self.net, self.base, self.context = net, base, context
        self.offset = next(net.parameters()).new_zeros(net.in_shape) if offset is None else offset
        check_shape("Autoregressive", "offset", self.offset.shape, net.in_shape)
        net.broadcast(self.offset, context)
        batch = _NO_SHAPE if context is None else context.shape[: context.dim() - len(net.context_shape)]
        super().__init__(batch, torch.Size(net.in_shape), validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        """Support of the base."""
        return self.base(self.offset.new_zeros(()).expand(self.net.out_shape), self.offset).support

    @property
    def mean(self) -> Tensor:
        """Not available.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("Autoregressive: the mean has no closed form. Average samples instead.")

    def expand(self, batch_shape: Any, _instance: Any = None) -> Autoregressive:
        new = self._get_checked_instance(Autoregressive, _instance)
        shape = torch.Size(batch_shape)
        new.net, new.base, new.offset = self.net, self.base, self.offset
        new.context = None if self.context is None else self.context.expand(*shape, *self.net.context_shape)
        super(Autoregressive, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        result = self.base(self.net(value, self.context), self.offset).log_prob(value)
        return result.expand(torch.broadcast_shapes(result.shape, self.batch_shape))

    def sample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        return self.complete(self.offset.new_zeros(self._extended_shape(torch.Size(sample_shape))), 0)

    @torch.no_grad()
    def complete(self, x: Tensor, num_known: int, *, cached: bool = True) -> Tensor:
        """Sample the sites that follow the first ones, given these: an exact conditional sample.

        Args:
            x: ``(*sample, *batch, *in_shape)``, of which the first ``num_known`` sites in the network's order are kept.
            num_known: number of known sites; for an image of one channel, ``k * W`` are the first k rows.
            cached: whether the network stores its features, so that each site costs its share of a pass; otherwise
                each takes a full pass. The random numbers are the same.

        Returns:
            A copy of x with the other sites sampled.
        """
        net = self.net
        check_count("Autoregressive", at_least=0, num_known=num_known)
        x = x.expand(torch.broadcast_shapes(x.shape, self.batch_shape + self.event_shape)).clone(
            memory_format=torch.contiguous_format
        )
        _, context = net.broadcast(x, self.context)
        context = None if context is None else context.reshape(-1, *net.context_shape)
        rows = x.reshape(-1, *net.in_shape)  # of the clone, without a copy
        sites, offset = (t.reshape(*t.shape[: -len(net.in_shape)], -1, net.num_sites) for t in (rows, self.offset))
        # A site, as an image or as other data of its channels.
        of_outputs, of_offset = (1,) * (len(net.out_shape) - 1), (1,) * (len(net.in_shape) - 1)
        store: dict[Any, Any] = {}
        with validating(False):  # once per site
            for step, site in enumerate(net.order):
                if step < num_known and not cached:
                    continue
                outputs = net.advance(rows, context, step, store) if cached else net.outputs_at(rows, context, step)
                if step >= num_known:
                    p = self.base(outputs.reshape(*outputs.shape, *of_outputs), offset[:, site].reshape(-1, *of_offset))
                    sites[..., site] = p.sample().reshape(len(rows), -1)
        return x
