"""The best member of a guide's family for each datum, found by optimising it for that datum alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
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
from pyro_vae._core.traces import latents
from pyro_vae._core.types import Program
from pyro_vae.evaluation.weights import ImportanceWeights
from pyro_vae.flows import FlowDistribution
from pyro_vae.guides import AmortizedGuide, Guide, SemiAmortizedGuide

_OWNER = "inference_gaps"
LOCAL_LR, COPY_LR = 0.01, 0.003
"""Adam's first step sizes: for the numbers that a network puts out, and for a network's weights."""


class LocalGuide(Guide):
    """A member of a guide's family for each datum of one batch; it does not look at what it is called with.

    Args:
        family: the guide; what its data share, such as a flow's weights, stays as it is.
        params: their local parameters, ``(B, *param_shape)``; an ``nn.Parameter`` is this module's.

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
        self._distribution = family.distribution  # a method, so that the family is no part of this module

    def posterior(self, x: Tensor) -> TorchDistribution:
        return self._distribution(self.params)


@dataclass(frozen=True)
class Local:
    """A guide that belongs to some data alone.

    Attributes:
        guide: the program.
        free: the tensors to optimise; with several data, the first dimension of each is theirs.
        args: the data, as the programs' arguments.
        held: the same guide with its parameters as constants, where its density is known at any z.
    """

    guide: Program
    free: list[Tensor]
    args: tuple[Any, ...]
    held: Program | None = None

    def zeros(self) -> list[Tensor]:
        """As the free tensors."""
        return [torch.zeros_like(tensor.detach()) for tensor in self.free]

    def at(self, values: list[Tensor]) -> None:
        """Set the free tensors."""
        with torch.no_grad():
            for tensor, value in zip(self.free, values, strict=True):
                tensor.copy_(value)

    def keep(self, better: Tensor, start: list[Tensor]) -> None:
        """Take the data that are not ``better``, ``(B,)``, back to where they started."""
        with torch.no_grad():
            for tensor, first in zip(self.free, start, strict=True):
                here = better.reshape(-1, *[1] * (tensor.dim() - 1)) if len(better) > 1 else better[0]
                tensor.copy_(torch.where(here, tensor, first))


def family_of(guide: Program) -> AmortizedGuide | None:
    """The guide whose local parameters can be optimised for a batch at once; None where there is none.

    Example:
        >>> from pyro_vae.guides import AuxiliaryGuide, IAFGuide, SemiAmortizedGuide
        >>> [type(family_of(kind((5,), 2))).__name__ for kind in (IAFGuide, SemiAmortizedGuide, AuxiliaryGuide)]
        ['IAFGuide', 'DiagonalNormalGuide', 'NoneType']
    """
    inner = guide.guide if isinstance(guide, SemiAmortizedGuide) else guide
    usual = (AmortizedGuide.posterior, SemiAmortizedGuide.posterior)  # another may be of another family
    if not isinstance(guide, Guide) or not isinstance(inner, AmortizedGuide) or type(guide).forward != Guide.forward:
        return None
    return inner if {type(guide).posterior, type(inner).posterior} <= {*usual} else None


def local_guides(weigher: ImportanceWeights, guide: Program) -> Iterator[Local]:
    """Guides to optimise for the data of a batch: one for all if possible, else a copy for each.

    Raises:
        ValueError: the data cannot be told apart among the arguments.
    """
    family, args = family_of(guide), weigher.args
    if family is not None:
        params = nn.Parameter(family.net(args[0]).clone())
        drawn = isinstance(family.distribution(params), FlowDistribution | TransformedDistribution)
        held = None if drawn else LocalGuide(family, params.detach())  # shares its memory with the parameters
        yield Local(LocalGuide(family, params), [params], args, held)
        return
    axes = weigher.pair.axes(weigher.plate)
    if axes is None:
        rule, what = "the data must be arguments of the programs, to be taken one by one", "none that is as long"
        raise refusal(_OWNER, rule, what, "Pass them as tensors")
    for row in range(weigher.num_data):
        yield _copy(weigher.pair.owners, guide, axes.take(args, range(row, row + 1)))


def check_guide(weigher: ImportanceWeights, guide: Program) -> None:
    """Refuse a guide that cannot be optimised by the gradient of its draws.

    Raises:
        ValueError: a function, a guide without parameters, or a site that is not reparameterised.
    """
    if not latents(weigher.pair.guide_traces[0]):
        rule, what = "the model must have latent sites, or there is no gap", "none"
        raise refusal(_OWNER, rule, what, "Use log_likelihood, which is then exact")
    owner = _module(guide)
    if owner is None or not list(owner.parameters()):
        what = "a function" if owner is None else f"{type(owner).__name__} without any"
        rule = "the guide must be a module whose parameters can be optimised for each datum"
        raise refusal(_OWNER, rule, what, "Write it as an nn.Module with its parameters in the constructor")
    for site in latents(weigher.pair.guide_traces[0]):
        if not site["fn"].has_rsample:
            rule, what = "every site of the guide must be reparameterised", f"site {site['name']!r} that is not"
            raise refusal(_OWNER, rule, what, "Use a guide with continuous latents; log_likelihood takes any")


class Optimum(NamedTuple):
    """What an optimisation found: the mean of the free tensors over its last quarter, and over the quarter before."""

    last: list[Tensor]
    before: list[Tensor]


def optimise(
    weigher: ImportanceWeights,
    local: Local,
    *,
    num_steps: int,
    lr: float,
    num_particles: int,
    data_plate: str | None,
    advance: Callable[[int], object],
) -> Optimum:
    r"""Ascend the ELBO of each datum, :math:`\max_\lambda E_{q_\lambda}[\log p(x, z) - \log q_\lambda(z)]`.

    Data do not mix: the sum of their ELBOs has a gradient per datum, and Adam's state is per entry. Where the density
    of the guide is known at any z, the gradient leaves out its score, whose mean is 0: its noise vanishes as the guide
    nears the posterior. A flow knows it at its own draws alone. The mean over the last steps is taken since each of
    them is off by the noise of its gradient.

    Args:
        weigher: of the model and the local guide.
        local: the guide; its free tensors are changed.
        num_steps: steps of Adam, whose step size falls to 0 along half a cosine.
        lr: the first step size.
        num_particles: draws per datum and step.
        data_plate: name of the plate over the data.
        advance: told of every step.

    References:
        Sticking the landing: simple, lower-variance gradient estimators for variational inference (Roeder et al.,
        2017), eq. 7. https://arxiv.org/abs/1703.09194
        Acceleration of stochastic approximation by averaging (Polyak and Juditsky, 1992).
        https://doi.org/10.1137/0330046
    """
    optimizer, quarter = Adam(local.free, lr=lr), max(1, num_steps // 4)
    schedule, sums = CosineAnnealingLR(optimizer, num_steps), [local.zeros(), local.zeros()]
    held = (
        None if local.held is None else ImportanceWeights(weigher.model, local.held, local.args, data_plate=data_plate)
    )
    with torch.enable_grad():
        for left in reversed(range(num_steps)):
            elbos = _log_weights(weigher, held, num_particles).mean(0)
            # Of these tensors alone: the model and the guide's shared weights gather no gradient.
            slopes = torch.autograd.grad(elbos.sum(), local.free, allow_unused=True)
            for tensor, slope in zip(local.free, slopes, strict=True):
                tensor.grad = None if slope is None else -slope.nan_to_num(0.0, 0.0, 0.0)
            optimizer.step()
            schedule.step()
            for total, tensor in zip(sums[left // quarter] if left < 2 * quarter else (), local.free, strict=False):
                total += tensor.detach()
            advance(1)
    last, before = ([total / quarter for total in part] for part in sums)
    return Optimum(last, before if num_steps > 1 else last)


def _log_weights(weigher: ImportanceWeights, held: ImportanceWeights | None, num_particles: int) -> Tensor:
    """``(num_particles, B)``, without the gradient of the score where there is a guide that is held."""
    if held is None:
        return weigher(num_particles).total
    trace = weigher.propose(num_particles, weigher.args)
    density = weigher.density(num_particles, weigher.args, trace)
    return density.log_likelihood + density.log_prior - held.log_guide(num_particles, weigher.args, trace)


def _copy(owners: Owners, guide: Program, args: tuple[Any, ...]) -> Local:
    """A copy of the guide for one datum; a model that it refers to is not copied with it."""
    own = cast(nn.Module, _module(guide))  # check_guide saw to it that it is one
    inside = {id(module) for module in own.modules()}  # a VampPrior may hold the guide itself: that is copied
    outside = [m for owner in owners.modules.values() for m in owner.modules() if id(m) not in inside]
    copy = deepcopy(own, {id(module): module for module in outside})
    if isinstance(copy, PyroModule):  # its parameters are read from Pyro's store by name: the copy has names of its own
        copy._pyro_set_supermodule(f"{copy._pyro_name}-{id(copy)}", copy._pyro_context)
    free = [p for p in copy.parameters() if p.requires_grad] or list(copy.requires_grad_().parameters())
    program = MethodType(guide.__func__, copy) if isinstance(guide, MethodType) else copy
    return Local(program, [*free], args)


def _module(guide: Program) -> nn.Module | None:
    """The module that a guide is, or is a method of."""
    owner = guide.__self__ if isinstance(guide, MethodType) else guide
    return owner if isinstance(owner, nn.Module) else None
