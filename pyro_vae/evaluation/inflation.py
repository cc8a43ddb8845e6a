"""A guide with wider distributions, as a proposal for importance sampling."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import Any

from pyro import distributions as dist
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.distributions import (
    Cauchy,
    Distribution,
    Independent,
    Laplace,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    StudentT,
    TransformedDistribution,
)

from pyro_vae._core.checks import CheckedArguments, check_positive
from pyro_vae._core.owners import Owners
from pyro_vae._core.support import OneLineError
from pyro_vae._core.traces import is_point
from pyro_vae.distributions import AuxiliaryJoint, MixtureOfNormals
from pyro_vae.flows import FlowDistribution


class InflatedProposal(nn.Module, CheckedArguments):
    r"""A guide whose scales are ``factor`` times as large: :math:`q_c(z | x)` with :math:`\sigma \to c\,\sigma`.

    Guides fitted by the ELBO are narrower than the posterior, and importance weights under them have heavy tails,
    because the tails of the posterior are rarely sampled. A factor of 1.1 to 1.5 often improves the estimate and its
    Pareto k; a large one makes both worse, the more so the more latent dimensions there are. Any factor gives a valid
    estimate. For flows the base distribution is widened, and for guides with auxiliary variables only z.

    Args:
        guide: the Pyro guide.
        factor: positive factor of all scales.

    Raises:
        ValueError: ``factor`` is not positive; at a call: a site's distribution has no scale.

    References:
        Monte Carlo theory, methods and examples (Owen, 2013), chapter 9, on proposals with tails heavier than the
        target's. https://artowen.su.domains/mc/

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, log_likelihood
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> wide = InflatedProposal(vae.guide, 1.2)
        >>> log_likelihood(vae.model, wide, torch.ones(3, 5), num_samples=100).protocol["proposal"]
        'guide, scale x 1.2'
    """

    def __init__(self, guide: Callable[..., Any], factor: float) -> None:
        super().__init__()
        check_positive("InflatedProposal", factor=factor, advice="Use for example 1.2")
        self.guide, self.factor = guide, float(factor)
        self.owners = nn.ModuleList(Owners(guide=guide).modules.values())

    @property
    def proposal_name(self) -> str:
        """Name of the proposal in protocols."""
        return f"guide, scale x {self.factor:g}"

    def forward(self, *args: Any) -> Any:
        """Run the guide with widened latent sites."""
        with _Widening(self.factor):
            return self.guide(*args)


class _Widening(Messenger):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not is_point(msg) and isinstance(msg["fn"], Distribution):
            msg["fn"] = _widened(msg["fn"], self.factor)


@singledispatch
def _widened(fn: Any, factor: float) -> Any:
    raise OneLineError(
        f"InflatedProposal: every latent site of the guide must have a scale, got a {type(fn).__name__}. "
        "Use the guide as it is."
    )


@_widened.register(Normal)
@_widened.register(Laplace)
@_widened.register(Cauchy)
def _(fn: Any, factor: float) -> Any:
    return type(fn)(fn.loc, fn.scale * factor, validate_args=False)


@_widened.register(StudentT)
def _(fn: Any, factor: float) -> Any:
    return type(fn)(fn.df, fn.loc, fn.scale * factor, validate_args=False)


@_widened.register(MultivariateNormal)
def _(fn: Any, factor: float) -> Any:
    return type(fn)(fn.loc, scale_tril=fn.scale_tril * factor, validate_args=False)


@_widened.register(LowRankMultivariateNormal)
def _(fn: Any, factor: float) -> Any:
    return type(fn)(fn.loc, fn.cov_factor * factor, fn.cov_diag * factor**2, validate_args=False)


@_widened.register(Independent)
def _(fn: Any, factor: float) -> Any:
    return type(fn)(_widened(fn.base_dist, factor), fn.reinterpreted_batch_ndims, validate_args=False)


@_widened.register(TransformedDistribution)
def _(fn: Any, factor: float) -> Any:  # not type(fn): a LogNormal has other arguments
    return dist.TransformedDistribution(_widened(fn.base_dist, factor), fn.transforms, validate_args=False)


@_widened.register(FlowDistribution)
def _(fn: Any, factor: float) -> Any:
    return FlowDistribution(_widened(fn.base, factor), fn.transforms)


@_widened.register(MixtureOfNormals)
def _(fn: Any, factor: float) -> Any:
    return MixtureOfNormals(fn.logits, fn.locs, fn.scales * factor, validate_args=False)


@_widened.register(AuxiliaryJoint)
def _(fn: Any, factor: float) -> Any:
    return AuxiliaryJoint(fn.auxiliary, lambda a: _widened(fn.conditional(a), factor), fn.latent_dim)
