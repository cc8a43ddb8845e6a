"""Local optimisation: the member of a guide's family with the largest ELBO, for each datum separately."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from types import MethodType
from typing import Any, NamedTuple, cast

import torch
from pyro.distributions import TorchDistribution, TransformedDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_vae._core.checks import refusal
from pyro_vae._core.owners import Owners
from pyro_vae._core.rows import verified_axes
from pyro_vae._core.traces import latents
from pyro_vae._core.types import Program
from pyro_vae.evaluation.weights import ImportanceWeights
from pyro_vae.flows import FlowDistribution
from pyro_vae.guides import AmortizedGuide, Guide, SemiAmortizedGuide

_OWNER = "inference_gaps"
LOCAL_LR, COPY_LR = 0.01, 0.003
"""Adam's initial learning rates for the outputs of a network, and for the weights of a network."""
_COPIES = count()


class LocalGuide(Guide):
    """A member of a guide's family for each datum of one batch, whatever the argument of the call.

    Args:
        family: the guide; parameters that data share, such as a flow's weights, stay fixed.
        params: local parameters of the data, ``(B, *param_shape)``; an ``nn.Parameter`` becomes this module's.

    Example:
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> local = LocalGuide(DiagonalNormalGuide((5,), 2), torch.zeros(7, 2, 2))
        >>> local.posterior(torch.ones(7, 5)).batch_shape
        torch.Size([7])
    """

    def __init__(self, family: AmortizedGuide, params: Tensor) -> None:
        super().__init__(family.data_shape, family.latent_dim)
        self.infer = family.infer
        self.params = params
        self._distribution = family.distribution  # a method, so that the family is not a submodule

    def posterior(self, x: Tensor, *context: Tensor) -> TorchDistribution:
        return self._distribution(self.params)


@dataclass(frozen=True)
class LocalGuides:
    """A guide with free parameters for one datum, or for each datum of a batch.

    Attributes:
        guide: the program.
        free: the tensors to optimise; for several data, their first dimension is the batch.
        args: the data, as the programs' arguments.
        constant: the same guide with its parameters detached, if its density can be evaluated at any z.
    """

    guide: Program
    free: list[Tensor]
    args: tuple[Any, ...]
    constant: Program | None = None

    def zeros(self) -> list[Tensor]:
        """Zeros of the free tensors' shapes."""
        return [torch.zeros_like(tensor.detach()) for tensor in self.free]

    def set(self, values: list[Tensor]) -> None:
        """Set the free tensors."""
        with torch.no_grad():
            for tensor, value in zip(self.free, values, strict=True):
                tensor.copy_(value)

    def keep(self, better: Tensor, start: list[Tensor]) -> None:
        """Reset the parameters of data that are not ``better``, ``(B,)``, to their initial values."""
        with torch.no_grad():
            for tensor, first in zip(self.free, start, strict=True):
                mask = better.reshape(-1, *[1] * (tensor.dim() - 1)) if len(better) > 1 else better[0]
                tensor.copy_(torch.where(mask, tensor, first))


def family_of(guide: Program) -> AmortizedGuide | None:
    """The amortized guide whose local parameters can be optimised for a whole batch; None for any other guide.

    Example:
        >>> from pyro_vae.guides import AuxiliaryGuide, IAFGuide, SemiAmortizedGuide
        >>> [type(family_of(kind((5,), 2))).__name__ for kind in (IAFGuide, SemiAmortizedGuide, AuxiliaryGuide)]
        ['IAFGuide', 'DiagonalNormalGuide', 'NoneType']
    """
    inner = guide.guide if isinstance(guide, SemiAmortizedGuide) else guide
    standard = {AmortizedGuide.posterior, SemiAmortizedGuide.posterior}  # an override may give another family
    if not isinstance(guide, Guide) or not isinstance(inner, AmortizedGuide) or type(guide).forward != Guide.forward:
        return None
    return inner if {type(guide).posterior, type(inner).posterior} <= standard else None


def local_guides(weights: ImportanceWeights, guide: Program) -> Iterator[LocalGuides]:
    """Guides to optimise for the data of a batch: one for the whole batch if possible, else a copy for each datum.

    Raises:
        ValueError: the data cannot be selected from the arguments.
    """
    family, args = family_of(guide), weights.args
    if family is not None:
        params = nn.Parameter(family.net(*args).clone())
        is_flow = isinstance(family.distribution(params), FlowDistribution | TransformedDistribution)
        constant = None if is_flow else LocalGuide(family, params.detach())  # shares memory with the parameters
        yield LocalGuides(LocalGuide(family, params), [params], args, constant)
        return
    axes = verified_axes(weights.pair, weights.plate)
    if axes is None:
        rule = "the data must be arguments of the programs, to be selected one by one"
        raise refusal(_OWNER, rule, "none of the batch's length", "Pass them as tensors")
    for row in range(weights.num_data):
        yield _copy(weights.pair.owners, guide, axes.take(args, range(row, row + 1)))


def check_guide(weights: ImportanceWeights, guide: Program) -> None:
    """Require a guide that can be optimised by reparameterised gradients.

    Raises:
        ValueError: the guide is a function, has no parameters, or has a site that is not reparameterised.
    """
    if not latents(weights.pair.guide_traces[0]):
        rule = "the model must have latent sites, or there is no gap"
        raise refusal(_OWNER, rule, "none", "Use log_likelihood, which is then exact")
    module = _module(guide)
    if module is None or not list(module.parameters()):
        got = "a function" if module is None else f"{type(module).__name__} without any"
        rule = "the guide must be a module whose parameters can be optimised for each datum"
        raise refusal(_OWNER, rule, got, "Write it as an nn.Module with its parameters in the constructor")
    for site in latents(weights.pair.guide_traces[0]):
        if not site["fn"].has_rsample:
            rule, got = "every site of the guide must be reparameterised", f"site {site['name']!r} that is not"
            raise refusal(_OWNER, rule, got, "Use a guide with continuous latents; log_likelihood takes any")


class Optimum(NamedTuple):
    """Means of the free tensors over the last quarter of the optimisation, and over the quarter before."""

    last: list[Tensor]
    before: list[Tensor]


def optimise(
    weights: ImportanceWeights,
    local: LocalGuides,
    *,
    num_steps: int,
    lr: float,
    num_particles: int,
    data_plate: str | None,
    advance: Callable[[int], object],
) -> Optimum:
    r"""Ascend the ELBO of each datum, :math:`\max_\lambda E_{q_\lambda}[\log p(x, z) - \log q_\lambda(z)]`.

    Data do not interact: the gradient of the sum of their ELBOs separates, and Adam's state is per entry. If the
    guide's density can be evaluated at any z, the gradient omits the score term, whose mean is 0, so that its noise
    vanishes as the guide approaches the posterior; the density of a flow is known at its own samples only. Parameters
    are averaged over the last steps to reduce the noise of the gradient.

    Args:
        weights: log-weights of the model and the local guide.
        local: the guide; its free tensors are changed.
        num_steps: steps of Adam, whose learning rate decreases to 0 along half a cosine.
        lr: initial learning rate.
        num_particles: samples per datum and step.
        data_plate: name of the plate over the data.
        advance: callback after each step, for the progress bar.

    References:
        Sticking the landing: simple, lower-variance gradient estimators for variational inference (Roeder et al.,
        2017), eq. 7. https://arxiv.org/abs/1703.09194
        Acceleration of stochastic approximation by averaging (Polyak and Juditsky, 1992).
        https://doi.org/10.1137/0330046
    """
    optimizer, quarter = Adam(local.free, lr=lr), max(1, num_steps // 4)
    schedule, sums = CosineAnnealingLR(optimizer, num_steps), [local.zeros(), local.zeros()]
    constant = None
    if local.constant is not None:
        constant = ImportanceWeights(weights.model, local.constant, local.args, data_plate=data_plate)
    with torch.enable_grad():
        for left in reversed(range(num_steps)):
            elbos = _log_weights(weights, constant, num_particles).mean(0)
            # By the free tensors only: gradients of the model and of shared weights must not accumulate.
            gradients = torch.autograd.grad(elbos.sum(), local.free, allow_unused=True)
            for tensor, gradient in zip(local.free, gradients, strict=True):
                tensor.grad = None if gradient is None else -gradient.nan_to_num(0.0, 0.0, 0.0)
            optimizer.step()
            schedule.step()
            for total, tensor in zip(sums[left // quarter] if left < 2 * quarter else (), local.free, strict=False):
                total += tensor.detach()
            advance(1)
    last, before = ([total / quarter for total in totals] for totals in sums)
    return Optimum(last, before if num_steps > 1 else last)


def _log_weights(weights: ImportanceWeights, constant: ImportanceWeights | None, num_particles: int) -> Tensor:
    """Log-weights ``(num_particles, B)``, without the gradient of the score if a detached guide is available."""
    if constant is None:
        return weights(num_particles).total
    trace = weights.propose(num_particles, weights.args)
    density = weights.density(num_particles, weights.args, trace)
    return density.log_likelihood + density.log_prior - constant.log_guide(num_particles, weights.args, trace)


def _copy(owners: Owners, guide: Program, args: tuple[Any, ...]) -> LocalGuides:
    """A copy of the guide for one datum; modules outside the guide, such as the model, are shared."""
    module = cast(nn.Module, _module(guide))  # checked by check_guide
    inside = {id(submodule) for submodule in module.modules()}  # a VampPrior may contain the guide, which is copied
    outside = [submodule for submodule in owners.submodules() if id(submodule) not in inside]
    copy = deepcopy(module, {id(submodule): submodule for submodule in outside})
    if isinstance(copy, PyroModule):
        # Pyro reads its parameters from the store by name, and id() may be that of a copy that no longer exists.
        copy._pyro_set_supermodule(f"{copy._pyro_name}-copy-{next(_COPIES)}", copy._pyro_context)
    free = [p for p in copy.parameters() if p.requires_grad] or list(copy.requires_grad_().parameters())
    program = MethodType(guide.__func__, copy) if isinstance(guide, MethodType) else copy
    return LocalGuides(program, [*free], args)


def _module(guide: Program) -> nn.Module | None:
    """The module that a guide is, or is a method of."""
    module = guide.__self__ if isinstance(guide, MethodType) else guide
    return module if isinstance(module, nn.Module) else None
