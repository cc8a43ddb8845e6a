"""The aggregate posterior of a data set, and the decomposition of the ELBO that it allows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from pyro.distributions import Delta
from torch import Size, Tensor
from torch.distributions import Distribution

from pyro_vae._core.checks import CheckedArguments, require
from pyro_vae._core.contexts import reseed
from pyro_vae._core.owners import placement
from pyro_vae.data.batches import Batches, Data
from pyro_vae.evaluation.marginals import factorises, marginal_distributions
from pyro_vae.models import VAE

TERMS = (
    "elbo",
    "reconstruction",
    "rate",
    "information",
    "marginal_kl",
    "total_correlation",
    "dimension_kl",
)
MAX_DATA, MAX_DATA_INVERTED = 2_000, 200
"""Default numbers of data of the decomposition; the second for posteriors whose density inverts a flow or similar."""
BLOCK_SIZE = 2**18  # numbers per block, which bounds the memory; larger blocks would exceed the cache


class AggregatePosterior(CheckedArguments):
    r"""The aggregate posterior of a data set, :math:`q(z) = \frac1N \sum_n q(z | x_n)`, evaluated without subsampling.

    Every z is evaluated under every posterior, in blocks at fixed memory, in log space and with sums in float64.

    Args:
        posteriors: q(z | x) of each batch of the data, with batch shape ``(B,)`` and event shape ``(L,)``.

    Attributes:
        num_data: number of data N.

    References:
        ELBO surgery: yet another way to carve up the variational evidence lower bound (Hoffman and Johnson, 2016),
        section 2. http://approximateinference.org/accepted/HoffmanJohnson2016.pdf

    Example:
        >>> from torch.distributions import Independent, Normal
        >>> q = AggregatePosterior([Independent(Normal(torch.tensor([[-2.0], [2.0]]), 1.0), 1)])
        >>> q.log_prob(torch.zeros(1, 1)).exp()  # at distance 2 from both means: N(2; 0, 1)
        tensor([0.0540], dtype=torch.float64)
    """

    def __init__(self, posteriors: Sequence[Distribution]) -> None:
        require(len(posteriors) > 0, "AggregatePosterior", "posteriors must not be empty", "[]")
        self.posteriors = list(posteriors)
        self.num_data = sum(q.batch_shape[0] for q in self.posteriors)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z), ``(M,)``, float64, in nats.

        Args:
            z: ``(M, L)``.

        Raises:
            NotImplementedError: a posterior has no density.
        """
        return self.log_densities(z)[0]

    def log_densities(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """log q(z), ``(M,)``, and log q(z_j), ``(M, L)``; the latter None if marginals have no closed form."""
        size = max(1, BLOCK_SIZE // (max(q.batch_shape[0] for q in self.posteriors) * z.shape[-1]))
        blocks = [self._block(block) for block in z.split(size)]
        marginals = [marginal for _, marginal in blocks if marginal is not None]
        return torch.cat([joint for joint, _ in blocks]), torch.cat(marginals) if marginals else None

    def _block(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        joint = torch.full_like(z[:, 0], -torch.inf, dtype=torch.float64)  # (C,)
        marginals = torch.full_like(z, -torch.inf, dtype=torch.float64) if self._has_marginals else None  # (C, L)
        for q in self.posteriors:
            log_q, log_marginals = _log_densities(q, z.unsqueeze(1).expand(-1, q.batch_shape[0], -1))
            joint = torch.logaddexp(joint, log_q.logsumexp(1))
            if marginals is not None and log_marginals is not None:
                marginals = torch.logaddexp(marginals, log_marginals.logsumexp(1))
        shift = math.log(self.num_data)
        return joint - shift, None if marginals is None else marginals - shift

    @property
    def _has_marginals(self) -> bool:
        return all(marginal_distributions(q) is not None for q in self.posteriors)


def _log_densities(q: Distribution, z: Tensor) -> tuple[Tensor, Tensor | None]:
    """Joint log-densities ``(C, B)`` and marginal ones ``(C, B, L)`` at z, ``(C, B, L)``."""
    distributions = marginal_distributions(q)
    marginals = None if distributions is None else distributions.log_prob(z).double()
    joint = marginals.sum(-1) if marginals is not None and factorises(q) else q.log_prob(z).double()
    return joint, marginals


def log_density(q: Distribution, z: Tensor) -> Tensor:
    """log q(z) in float64, of samples ``(S, B, L)`` under their own posteriors: ``(S, B)``."""
    return _log_densities(q, z)[0]


@dataclass
class Decomposition:
    """The terms of the ELBO at each sample, by their names in :data:`TERMS`.

    Attributes:
        terms: ``(S, M)`` each, float64, nats; the available ones.
        unavailable: the reason for each term that is not available.
        draws: ``(M, L)``, one sample of each posterior, which are samples of the aggregate posterior.
    """

    terms: dict[str, Tensor]
    unavailable: dict[str, str]
    draws: Tensor

    def per_datum(self) -> dict[str, Tensor]:
        """Means over the samples, ``(M,)`` each."""
        return {name: value.mean(0).cpu() for name, value in self.terms.items()}

    def errors(self) -> Tensor:
        """``(M, len(TERMS))``: Monte Carlo standard errors of these means; nan for a term that is not available."""
        missing = self.draws.new_full(self.draws.shape[:1], torch.nan, dtype=torch.float64)
        errors = [self.terms[n].std(0) / math.sqrt(len(self.terms[n])) if n in self.terms else missing for n in TERMS]
        return torch.stack(errors, -1).cpu()


@dataclass
class _Encoded:
    """The posteriors of the data, with samples and their likelihoods, each as a list over batches."""

    posteriors: list[Distribution] = field(default_factory=list)
    draws: list[Tensor] = field(default_factory=list)
    log_likelihood: list[Tensor] = field(default_factory=list)
    supported: bool = True


def decompose(
    vae: VAE, data: Data, *, num_data: int | None, num_draws: int, batch_size: int, seed: int
) -> Decomposition:
    r"""Decompose the ELBO of the first data, at samples of their posteriors.

    .. math:: \log\frac{q(z|x_n)}{p(z)} = \log\frac{q(z|x_n)}{q(z)} + \log\frac{q(z)}{\prod_j q(z_j)}
        + \sum_j \log\frac{q(z_j)}{p(z_j)}

    holds for every sample. To be called within ``evaluating`` and ``isolated_rng``.

    Args:
        vae: the model.
        data: as for :func:`latent_diagnostics`.
        num_data: number of data M in q(z); None chooses :data:`MAX_DATA` or :data:`MAX_DATA_INVERTED`.
        num_draws: number of samples per datum S.
        batch_size: data at a time.
        seed: of the samples.

    Returns:
        The terms, and the reasons for missing ones.
    """
    encoded = _encode(vae, data, num_data, num_draws, batch_size, seed)
    z, p = torch.cat(encoded.draws, 1), vae.prior()  # (S, M, L)
    terms: dict[str, Tensor] = {}
    unavailable: dict[str, str] = {}
    if encoded.supported:
        terms["reconstruction"] = torch.cat(encoded.log_likelihood, 1)
    else:
        unavailable |= dict.fromkeys(("reconstruction", "elbo"), "data outside the support of the likelihood")
    try:
        terms |= _kl_terms(encoded, z, p)
    except NotImplementedError:
        unavailable |= dict.fromkeys(TERMS[2:], "the posterior has no density in closed form")
        unavailable.setdefault("elbo", "the posterior has no density in closed form")
        return Decomposition(terms, unavailable, z[0])
    if encoded.supported:
        terms["elbo"] = terms["reconstruction"] - terms["rate"]
    if "total_correlation" not in terms:
        unavailable |= dict.fromkeys(TERMS[5:], "the marginals of the posterior have no closed form")
    elif "dimension_kl" not in terms:
        unavailable["dimension_kl"] = "the prior does not factorise over the dimensions"
    return Decomposition(terms, unavailable, z[0])


def _kl_terms(encoded: _Encoded, z: Tensor, p: Distribution) -> dict[str, Tensor]:
    if any(isinstance(q, Delta) for q in encoded.posteriors):
        raise NotImplementedError
    pairs = zip(encoded.posteriors, encoded.draws, strict=True)
    posterior = torch.cat([log_density(q, samples) for q, samples in pairs], 1)  # (S, M)
    joint, marginals = AggregatePosterior(encoded.posteriors).log_densities(z.flatten(0, 1))
    joint, log_p = joint.view_as(posterior), log_density(p, z)
    terms = {"rate": posterior - log_p, "information": posterior - joint, "marginal_kl": joint - log_p}
    if marginals is not None:
        product = marginals.sum(-1).view_as(posterior)
        terms["total_correlation"] = joint - product
        if factorises(p):
            terms["dimension_kl"] = product - log_p
    return terms


def _encode(vae: VAE, data: Data, num_data: int | None, num_draws: int, batch_size: int, seed: int) -> _Encoded:
    encoded = _Encoded()
    for x in first_data(vae, data, num_data, batch_size, seed):
        q = vae.encode(x)
        z = q.sample(Size([num_draws]))  # (S, B, L)
        likelihood = vae.model.observation(z)
        encoded.supported &= supports(likelihood, x)
        encoded.posteriors.append(q)
        encoded.draws.append(z)
        encoded.log_likelihood.append(likelihood.log_prob(x).double())
    return encoded


def supports(p: Distribution, x: Tensor) -> bool:
    """Whether the data lie in the support; True for an unknown support."""
    try:
        return p.support is None or bool(p.support.check(x).all())
    except NotImplementedError:
        return True


def first_data(vae: VAE, data: Data, num_data: int | None, batch_size: int, seed: int) -> Iterator[Tensor]:
    """The first data in batches, each with its own stream of random numbers, determined by ``seed`` and its number."""
    device, dtype = placement(vae)
    left = num_data
    for number, batch in enumerate(Batches(data, batch_size, device=device, dtype=dtype).epoch()):
        reseed(seed, number)
        x = batch.args[0]
        if left is None:
            left = MAX_DATA if marginal_distributions(vae.encode(x[:1])) is not None else MAX_DATA_INVERTED
        yield x[:left]
        left -= len(x[:left])
        if not left:
            return
