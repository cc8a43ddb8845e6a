"""Bits back coding: a datum costs minus its ELBO, since the bits that choose its latents are returned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from pyro.distributions import Independent as IndependentDistribution
from pyro.distributions import Normal

from pyro_vae._core.checks import refusal, require, with_article
from pyro_vae._core.owners import evaluating
from pyro_vae.compression.ans import Stacks
from pyro_vae.compression.conditionals import Conditional, OneByOne
from pyro_vae.compression.exact import ExactFunction
from pyro_vae.compression.families import family_of
from pyro_vae.compression.family import WIDTH, Family, Sizes
from pyro_vae.compression.sequential import sequential
from pyro_vae.compression.symbols import FRACTION, I64
from pyro_vae.models import VAE, AutoregressiveModel, BottomUpGuide, HierarchicalVAE, SemiSupervisedVAE
from pyro_vae.priors import FlowPrior
from pyro_vae.priors.flow import MAX_LOG_SCALE


class Factor:
    """A conditional distribution of a model or guide, evaluated in fixed-point arithmetic.

    Args:
        function: from the values of other sites, ``(batch, *shape)`` each, to a distribution.
        shapes: shape of one value of each.
        sizes: of the alphabets.
        rows: number of data that are coded side by side.
        dtype: dtype of the model.
        family: of a function that returns the family's parameters as one tensor.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        shapes: list[tuple[int, ...]],
        *,
        sizes: Sizes,
        rows: int,
        dtype: torch.dtype,
        family: Family | None = None,
    ) -> None:
        self.rows, self._limit = rows, max(WIDTH, sizes.num_values)
        if family is None:
            with torch.no_grad():
                family = family_of(function(*(torch.zeros(2, *shape, dtype=dtype) for shape in shapes)), sizes)
        self.family = family
        self._parameters = self._exact(
            lambda *inputs: self.family.parameters(_unwrapped(function(*inputs))), shapes, dtype
        )
        self._constant = None if shapes else self._parameters()

    @classmethod
    def of_guide(cls, guide: Any, shapes: list[tuple[int, ...]], **options: Any) -> Factor:
        """The posterior of an amortized guide."""
        if getattr(guide, "random_posterior", False):
            rule, advice = "the decoder must be able to repeat q(z | x)", "Fit another guide with pyro-vae refit"
            raise refusal("compress", rule, f"the random one of {with_article(type(guide))}", advice)
        family = sequential(guide, options["sizes"])
        return cls(guide.posterior if family is None else guide.net, shapes, family=family, **options)

    def _exact(self, function: Callable[..., Any], shapes: list[tuple[int, ...]], dtype: torch.dtype) -> ExactFunction:
        return ExactFunction(function, shapes, bits=FRACTION, limit=self._limit, dtype=dtype)

    def __call__(self, num: int, *inputs: I64) -> Conditional:
        """The coder at fixed-point inputs ``(num, n)``; always evaluated for the same number of rows."""
        if self._constant is not None:
            return self.family.build({name: _rows(_integers(v)[None], num) for name, v in self._constant.items()})
        padded = [np.concatenate([x, np.zeros((self.rows - num, x.shape[1]), dtype=x.dtype)]) for x in inputs]
        results = self._parameters(*map(torch.from_numpy, padded))
        return self.family.build({name: _integers(v)[:num] for name, v in results.items()})


class OrderedFactor:
    """A distribution whose sites are coded in an order, as each depends on those before it.

    Decoding takes a pass of the network for each.

    Args:
        function: from values of the site, ``(batch, *shape)``, to their distribution.
        shape: shape of one value.
        order: positions of the sites.
        size: symbols of a site: the channels of a pixel, or one.
        options: of :class:`Factor`.
    """

    def __init__(
        self, function: Any, shape: tuple[int, ...], order: Sequence[int], *, size: int = 1, **options: Any
    ) -> None:
        self.order, self.size, self.factor = order, size, Factor(function, [shape], **options)
        self.family = self.factor.family

    @classmethod
    def of_model(cls, model: AutoregressiveModel, **options: Any) -> OrderedFactor:
        """The distribution of an autoregressive model."""
        net, base = model.net, model.base
        rule, advice = "the model must have no context", "Train one without"
        require(not net.context_shape, "compress", rule, f"context_shape={net.context_shape}", advice)
        size = net.channels_per_site
        return cls(lambda x: base.distribution(net(x), base.offset), net.in_shape, net.order, size=size, **options)

    @classmethod
    def of_flow(cls, prior: FlowPrior, **options: Any) -> OrderedFactor:
        """The distribution of a prior of one autoregressive flow; several have no order."""
        rule, got = "a FlowPrior must have one autoregressive flow", f"kind={prior.kind!r} and {len(prior.nets)} flows"
        one, advice = prior.kind == "autoregressive" and len(prior.nets) == 1, "Train it with num_flows=1"
        require(one, "compress", rule, got, advice)
        dim = prior.latent_dim
        return cls(partial(_conditionals, prior.nets[0]), (dim,), range(dim), **options)

    def __call__(self, num: int, *inputs: I64) -> Conditional:
        """The coder of ``num`` data."""
        return OneByOne(lambda values: self._given(num, values), self.order, num, self.size)

    def _given(self, num: int, values: I64) -> Any:
        return self.factor(num, self.family.numbers(values))


def _conditionals(net: Any, z: torch.Tensor) -> Normal:
    """p(z_i | z_0, ..., z_{i-1}) of the flow from z to standard normal noise, mu + exp(s) z."""
    shift, raw = net(z).unbind(-2)
    scale = ((raw / MAX_LOG_SCALE).tanh() * -MAX_LOG_SCALE).exp()
    return Normal(-(shift * scale), scale)


def _prior(prior: Any, options: dict[str, Any]) -> Factor | OrderedFactor:
    return OrderedFactor.of_flow(prior, **options) if isinstance(prior, FlowPrior) else Factor(prior, [], **options)


@dataclass(frozen=True)
class Operation:
    """A step of coding a datum: the symbols of a site are pushed or popped by a factor, given other sites."""

    action: Literal["push", "pop"]
    site: str
    factor: Factor | OrderedFactor
    given: tuple[str, ...] = ()


class BitsBack:
    r"""Codes data by a model and its guide.

    For each datum the latents are popped off the stack by the guide, then x is pushed by p(x | z), then the latents by
    the prior: the stack grows by :math:`-\log_2 p(x, z) + \log_2 q(z | x)` bits, whose mean is minus the ELBO. A
    hierarchy with a bottom-up guide pops and pushes layer by layer (Bit-Swap), so that few initial bits are needed; for
    a model with classes, the class is one more latent. An autoregressive model has none: the stack grows by the exact
    :math:`-\log_2 p(x)` bits, and needs no initial ones.

    Args:
        vae: the model, on the CPU.
        sizes: of the alphabets.
        rows: number of data that are coded side by side.

    Raises:
        ValueError: the model has a part that cannot be coded.

    References:
        Practical lossless compression with latent variables using bits back coding (Townsend et al., 2019).
        https://arxiv.org/abs/1901.04866
        Bit-Swap: recursive bits-back coding for lossless compression with hierarchical latent variables (Kingma et
        al., 2019). https://arxiv.org/abs/1905.06845
    """

    def __init__(self, vae: Any, sizes: Sizes, *, rows: int) -> None:
        dtype = next(vae.parameters()).dtype
        popped = {"sizes": sizes, "rows": rows, "dtype": dtype}
        with evaluating(vae):  # statistics of batches do not change
            self.operations = _operations(vae, popped, {**popped, "sizes": sizes._replace(everywhere=True)})
        self.families = {o.site: o.factor.family for o in self.operations if o.action == "push"}
        if self.data_family.continuous:
            advice = "Train a discrete likelihood, such as DiscretizedLogisticLikelihood"
            raise refusal("compress", "p(x | z) must be discrete", "a density, which has no code length", advice)

    @property
    def data_family(self) -> Family:
        """The family of p(x | z)."""
        return self.families["x"]

    def push(self, stacks: Stacks, x: I64) -> dict[str, I64]:
        """Push the symbols of a datum ``(num, n)`` onto each of the first stacks; returns those of all sites."""
        values = {"x": x}
        for operation in self.operations:
            coder = self._coder(operation, values, len(x))
            if operation.action == "pop":
                stacks.mix(len(x))
                values[operation.site] = coder.pop(stacks)
            else:
                coder.push(stacks, values[operation.site])
        return values

    def pop(self, stacks: Stacks, num: int) -> I64:
        """Pop the symbols of a datum off each of the first stacks."""
        values: dict[str, I64] = {}
        for operation in reversed(self.operations):
            coder = self._coder(operation, values, num)
            if operation.action == "push":
                values[operation.site] = coder.pop(stacks)
            else:
                coder.push(stacks, values[operation.site])
                stacks.unmix(num)
        return values["x"]

    def _coder(self, operation: Operation, values: dict[str, I64], num: int) -> Conditional:
        return operation.factor(num, *(self.families[site].numbers(values[site]) for site in operation.given))


def _operations(vae: Any, popped: dict[str, Any], pushed: dict[str, Any]) -> list[Operation]:
    """The steps of a model, with the options of the factors that latents are popped and pushed by."""
    if isinstance(vae, VAE):
        return _of_vae(vae, popped, pushed)
    if isinstance(vae, SemiSupervisedVAE):
        return _of_classes(vae, popped, pushed)
    if isinstance(vae, HierarchicalVAE) and isinstance(vae.guide, BottomUpGuide) and not vae.model.skip:
        return _of_layers(vae, popped, pushed)
    if isinstance(vae, AutoregressiveModel):
        return [Operation("push", "x", OrderedFactor.of_model(vae, **pushed))]
    rule = "the model must be a VAE, an M2, an AutoregressiveModel or a hierarchy with a BottomUpGuide"
    advice = "Bits back needs q(z | x) in the order in which the model is sampled"
    raise refusal("compress", rule, with_article(type(vae)), advice)


def _of_vae(vae: VAE, popped: dict[str, Any], pushed: dict[str, Any]) -> list[Operation]:
    return [
        Operation("pop", "z", Factor.of_guide(vae.guide, [vae.data_shape], **popped), ("x",)),
        Operation("push", "x", Factor(vae.likelihood, [(vae.latent_dim,)], **pushed), ("z",)),
        Operation("push", "z", _prior(vae.prior, pushed)),
    ]


def _of_classes(vae: SemiSupervisedVAE, popped: dict[str, Any], pushed: dict[str, Any]) -> list[Operation]:
    classes, guide, latent = (vae.num_classes,), vae.guide.guide, (vae.latent_dim,)
    return [
        Operation("pop", "y", Factor.of_guide(vae.classifier, [vae.data_shape], **popped), ("x",)),
        Operation("pop", "z", Factor.of_guide(guide, [vae.data_shape, classes], **popped), ("x", "y")),
        Operation("push", "x", Factor(vae.likelihood, [latent, classes], **pushed), ("z", "y")),
        Operation("push", "z", _prior(vae.prior, pushed)),
        Operation("push", "y", Factor(vae.label_prior, [], **pushed)),
    ]


def _of_layers(vae: HierarchicalVAE, popped: dict[str, Any], pushed: dict[str, Any]) -> list[Operation]:
    dims, model = vae.latent_dims, vae.model
    first = Factor.of_guide(vae.guide.layers[0], [vae.data_shape], **popped)
    operations = [
        Operation("pop", "z1", first, ("x",)),
        Operation("push", "x", Factor(model.likelihood, [dims[:1]], **pushed), ("z1",)),
    ]
    for layer, (guide, conditional) in enumerate(zip(list(vae.guide.layers)[1:], model.conditionals, strict=True), 1):
        below, above = f"z{layer}", f"z{layer + 1}"
        posterior = Factor.of_guide(guide, [dims[layer - 1 : layer]], **popped)
        generative = Factor.of_guide(conditional, [dims[layer : layer + 1]], **pushed)
        operations += [Operation("pop", above, posterior, (below,)), Operation("push", below, generative, (above,))]
    return [*operations, Operation("push", f"z{len(dims)}", _prior(model.prior, pushed))]


def _unwrapped(distribution: Any) -> Any:
    while isinstance(distribution, IndependentDistribution):
        distribution = distribution.base_dist
    return distribution


def _integers(value: torch.Tensor) -> I64:
    return value.numpy().astype(np.int64)


def _rows(value: I64, num: int) -> I64:
    return np.broadcast_to(value, (num, *value.shape[1:]))
