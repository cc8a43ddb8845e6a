"""Bits back coding: a datum costs minus its ELBO, since the bits that choose its latents are returned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pyro.distributions import Independent as IndependentDistribution

from pyro_vae._core.checks import refusal
from pyro_vae.compression.ans import Stacks
from pyro_vae.compression.conditionals import Conditional
from pyro_vae.compression.exact import ExactFunction
from pyro_vae.compression.families import WIDTH, Family, Sizes, family_of, full_rank
from pyro_vae.compression.symbols import FRACTION, I64
from pyro_vae.guides import FullRankNormalGuide
from pyro_vae.models import VAE, BottomUpGuide, HierarchicalVAE, SemiSupervisedVAE


class Factor:
    """A conditional distribution of a model or guide, evaluated in fixed-point arithmetic.

    Args:
        function: from the values of other sites, ``(batch, *shape)`` each, to a distribution.
        shapes: shape of one value of each.
        sizes: of the alphabets.
        rows: number of data that are coded side by side.
        dtype: dtype of the model.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        shapes: list[tuple[int, ...]],
        *,
        sizes: Sizes,
        rows: int,
        dtype: torch.dtype,
    ) -> None:
        self.rows = rows
        with torch.no_grad():
            example = function(*(torch.zeros(2, *shape, dtype=dtype) for shape in shapes))
        self.family = family_of(example, sizes)
        self._parameters = self._exact(
            lambda *inputs: self.family.parameters(_unwrapped(function(*inputs))), shapes, dtype
        )
        self._constant = None if shapes else self._parameters()

    @classmethod
    def of_guide(cls, guide: Any, shapes: list[tuple[int, ...]], **options: Any) -> Factor:
        """The posterior of an amortized guide."""
        if not isinstance(guide, FullRankNormalGuide):
            return cls(guide.posterior, shapes, **options)
        factor = object.__new__(cls)
        factor.rows, factor._constant = options["rows"], None
        factor.family = full_rank(guide, options["sizes"])
        factor._parameters = factor._exact(
            lambda *inputs: factor.family.parameters(guide.net(*inputs)), shapes, options["dtype"]
        )
        return factor

    def _exact(self, function: Callable[..., Any], shapes: list[tuple[int, ...]], dtype: torch.dtype) -> ExactFunction:
        return ExactFunction(function, shapes, bits=FRACTION, limit=WIDTH, dtype=dtype)

    def __call__(self, num: int, *inputs: I64) -> Conditional:
        """The coder at fixed-point inputs ``(num, n)``; always evaluated for the same number of rows."""
        if self._constant is not None:
            return self.family.build({name: _rows(_integers(v)[None], num) for name, v in self._constant.items()})
        padded = [np.concatenate([x, np.zeros((self.rows - num, x.shape[1]), dtype=x.dtype)]) for x in inputs]
        results = self._parameters(*map(torch.from_numpy, padded))
        return self.family.build({name: _integers(v)[:num] for name, v in results.items()})


@dataclass(frozen=True)
class Operation:
    """A step of coding a datum: the symbols of a site are pushed or popped by a factor, given other sites."""

    action: Literal["push", "pop"]
    site: str
    factor: Factor
    given: tuple[str, ...] = ()


class BitsBack:
    r"""Codes data by a model and its guide.

    For each datum the latents are popped off the stack by the guide, then x is pushed by p(x | z), then the latents by
    the prior: the stack grows by :math:`-\log_2 p(x, z) + \log_2 q(z | x)` bits, whose mean is minus the ELBO. A
    hierarchy with a bottom-up guide pops and pushes layer by layer (Bit-Swap), so that few initial bits are needed; for
    a model with classes, the class is one more latent.

    Args:
        vae: the model, in eval mode, on the CPU.
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
        self.operations = _operations(vae, {"sizes": sizes, "rows": rows, "dtype": dtype})
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


def _operations(vae: Any, options: dict[str, Any]) -> list[Operation]:
    if isinstance(vae, VAE):
        return _of_vae(vae, options)
    if isinstance(vae, SemiSupervisedVAE):
        return _of_classes(vae, options)
    if isinstance(vae, HierarchicalVAE) and isinstance(vae.guide, BottomUpGuide) and not vae.model.skip:
        return _of_layers(vae, options)
    what = f"a {type(vae).__name__}"
    advice = "Bits back needs q(z | x) in the order in which the model is sampled"
    raise refusal("compress", "the model must be a VAE, an M2 or a hierarchy with a BottomUpGuide", what, advice)


def _of_vae(vae: VAE, options: dict[str, Any]) -> list[Operation]:
    return [
        Operation("pop", "z", Factor.of_guide(vae.guide, [vae.data_shape], **options), ("x",)),
        Operation("push", "x", Factor(vae.likelihood, [(vae.latent_dim,)], **options), ("z",)),
        Operation("push", "z", Factor(vae.prior, [], **options)),
    ]


def _of_classes(vae: SemiSupervisedVAE, options: dict[str, Any]) -> list[Operation]:
    classes, guide, latent = (vae.num_classes,), vae.guide.guide, (vae.latent_dim,)
    return [
        Operation("pop", "y", Factor.of_guide(vae.classifier, [vae.data_shape], **options), ("x",)),
        Operation("pop", "z", Factor.of_guide(guide, [vae.data_shape, classes], **options), ("x", "y")),
        Operation("push", "x", Factor(vae.likelihood, [latent, classes], **options), ("z", "y")),
        Operation("push", "z", Factor(vae.prior, [], **options)),
        Operation("push", "y", Factor(vae.label_prior, [], **options)),
    ]


def _of_layers(vae: HierarchicalVAE, options: dict[str, Any]) -> list[Operation]:
    dims, model = vae.latent_dims, vae.model
    first = Factor.of_guide(vae.guide.layers[0], [vae.data_shape], **options)
    operations = [
        Operation("pop", "z1", first, ("x",)),
        Operation("push", "x", Factor(model.likelihood, [dims[:1]], **options), ("z1",)),
    ]
    for layer, (guide, conditional) in enumerate(zip(list(vae.guide.layers)[1:], model.conditionals, strict=True), 1):
        below, above = f"z{layer}", f"z{layer + 1}"
        posterior = Factor.of_guide(guide, [dims[layer - 1 : layer]], **options)
        generative = Factor.of_guide(conditional, [dims[layer : layer + 1]], **options)
        operations += [Operation("pop", above, posterior, (below,)), Operation("push", below, generative, (above,))]
    return [*operations, Operation("push", f"z{len(dims)}", Factor(model.prior, [], **options))]


def _unwrapped(distribution: Any) -> Any:
    while isinstance(distribution, IndependentDistribution):
        distribution = distribution.base_dist
    return distribution


def _integers(value: torch.Tensor) -> I64:
    return value.numpy().astype(np.int64)


def _rows(value: I64, num: int) -> I64:
    return np.broadcast_to(value, (num, *value.shape[1:]))
