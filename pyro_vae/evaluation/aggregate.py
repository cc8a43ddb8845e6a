"""The aggregate posterior of given data, and the parts of the ELBO that it tells apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from pyro_vae._core.contexts import reseed
from pyro_vae._core.owners import placement
from pyro_vae.data.batches import Batches, Data
from pyro_vae.evaluation.marginals import factorises, marginals
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
MOST_DATA, MOST_DATA_INVERTED = 2_000, 200
"""Data that are taken apart by default; the second where a density costs the inversion of a flow or the like."""
PAIRS = 2**18  # numbers per block: the memory, whatever the number of data; more would leave the cache


class AggregatePosterior:
    r"""The aggregate posterior of given data, :math:`q(z) = \frac1N \sum_n q(z | x_n)`, evaluated in full.

    Every z is compared with every posterior, in blocks at fixed memory, in log space and with sums in float64.

    Args:
        posteriors: q(z | x) of all data, each of a batch: batch shape ``(B,)``, event shape ``(L,)``.

    Attributes:
        num_data: N, their number.

    References:
        ELBO surgery: yet another way to carve up the variational evidence lower bound (Hoffman and Johnson, 2016),
        section 2. http://approximateinference.org/accepted/HoffmanJohnson2016.pdf

    Example:
        >>> from torch.distributions import Independent, Normal
        >>> q = AggregatePosterior([Independent(Normal(torch.tensor([[-2.0], [2.0]]), 1.0), 1)])
        >>> q.log_prob(torch.zeros(1, 1)).exp()  # as far from both: N(2; 0, 1)
        tensor([0.0540], dtype=torch.float64)
    """

    def __init__(self, posteriors: Sequence[Distribution]) -> None:
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
        """log q(z), ``(M,)``, and log q(z_j), ``(M, L)``; the latter None where margins have no closed form."""
        size = max(1, PAIRS // (max(q.batch_shape[0] for q in self.posteriors) * z.shape[-1]))
        blocks = [self._block(part) for part in z.split(size)]
        each = [margin for _, margin in blocks if margin is not None]
        return torch.cat([joint for joint, _ in blocks]), torch.cat(each) if each else None

    def _block(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        joint = torch.full_like(z[:, 0], -torch.inf, dtype=torch.float64)  # (C,)
        each = torch.full_like(z, -torch.inf, dtype=torch.float64) if self._margins_known else None  # (C, L)
        for q in self.posteriors:
            log_q, margin = _pairs(q, z.unsqueeze(1).expand(-1, q.batch_shape[0], -1))
            joint = torch.logaddexp(joint, log_q.logsumexp(1))
            each = None if margin is None or each is None else torch.logaddexp(each, margin.logsumexp(1))
        shift = math.log(self.num_data)
        return joint - shift, None if each is None else each - shift

    @property
    def _margins_known(self) -> bool:
        return all(marginals(q) is not None for q in self.posteriors)


def _pairs(q: Distribution, z: Tensor) -> tuple[Tensor, Tensor | None]:
    """``(C, B)`` and ``(C, B, L)`` log densities of ``z``, ``(C, B, L)``."""
    single = marginals(q)
    each = None if single is None else single.log_prob(z).double()
    return (each.sum(-1) if each is not None and factorises(q) else q.log_prob(z).double()), each


def log_density(q: Distribution, z: Tensor) -> Tensor:
    """log q(z) in float64, of draws ``(S, B, L)`` under their own posteriors: ``(S, B)``."""
    return _pairs(q, z)[0]


@dataclass
class Decomposition:
    """The parts of the ELBO at each draw, by their names in :data:`TERMS`.

    Attributes:
        terms: ``(S, M)`` each, float64, nats; without those that are not available.
        unavailable: why, by the name of the term.
        draws: ``(M, L)``, one draw of each posterior: draws of the aggregate posterior.
    """

    terms: dict[str, Tensor]
    unavailable: dict[str, str]
    draws: Tensor

    def per_datum(self) -> dict[str, Tensor]:
        """The mean over the draws, ``(M,)`` each."""
        return {name: value.mean(0).cpu() for name, value in self.terms.items()}

    def errors(self) -> Tensor:
        """``(M, len(TERMS))``: Monte Carlo standard errors of these means; nan where there is no term."""
        missing = self.draws.new_full(self.draws.shape[:1], torch.nan, dtype=torch.float64)
        found = [self.terms[n].std(0) / math.sqrt(len(self.terms[n])) if n in self.terms else missing for n in TERMS]
        return torch.stack(found, -1).cpu()


@dataclass
class _Encoded:
    """The posteriors of the data and what their draws have by themselves."""

    posteriors: list[Distribution] = field(default_factory=list)
    draws: list[Tensor] = field(default_factory=list)
    log_likelihood: list[Tensor] = field(default_factory=list)
    supported: bool = True


def decompose(
    vae: VAE, data: Data, *, num_data: int | None, num_draws: int, batch_size: int, seed: int
) -> Decomposition:
    r"""Take the ELBO of the first data apart, at draws of their posteriors.

    .. math:: \log\frac{q(z|x_n)}{p(z)} = \log\frac{q(z|x_n)}{q(z)} + \log\frac{q(z)}{\prod_j q(z_j)}
        + \sum_j \log\frac{q(z_j)}{p(z_j)}

    holds for every draw. To be called within ``evaluating`` and ``isolated_rng``.

    Args:
        vae: the model.
        data: as for :func:`latent_diagnostics`.
        num_data: the number of data M that q(z) is made of; None chooses.
        num_draws: draws per datum S.
        batch_size: data at a time.
        seed: of the draws.

    Returns:
        The terms, and why others are not available.
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
        unavailable |= dict.fromkeys(TERMS[5:], "the margins of the posterior have no closed form")
    elif "dimension_kl" not in terms:
        unavailable["dimension_kl"] = "the prior does not factorise over the dimensions"
    return Decomposition(terms, unavailable, z[0])


def _kl_terms(encoded: _Encoded, z: Tensor, p: Distribution) -> dict[str, Tensor]:
    pairs = zip(encoded.posteriors, encoded.draws, strict=True)
    own = torch.cat([log_density(q, draws) for q, draws in pairs], 1)  # (S, M)
    joint, each = AggregatePosterior(encoded.posteriors).log_densities(z.flatten(0, 1))
    joint, log_p = joint.view_as(own), log_density(p, z)
    terms = {"rate": own - log_p, "information": own - joint, "marginal_kl": joint - log_p}
    if each is not None:
        product = each.sum(-1).view_as(own)
        terms["total_correlation"] = joint - product
        if factorises(p):
            terms["dimension_kl"] = product - log_p
    return terms


def _encode(vae: VAE, data: Data, num_data: int | None, num_draws: int, batch_size: int, seed: int) -> _Encoded:
    found = _Encoded()
    for x in first_data(vae, data, num_data, batch_size, seed):
        q = vae.encode(x)
        z = q.sample(Size([num_draws]))  # (S, B, L)
        likelihood = vae.decode(z)
        found.supported &= supports(likelihood, x)
        found.posteriors.append(q)
        found.draws.append(z)
        found.log_likelihood.append(likelihood.log_prob(x).double())
    return found


def supports(p: Distribution, x: Tensor) -> bool:
    """Whether the data lie in the support; where it is not known they are taken to."""
    try:
        return p.support is None or bool(p.support.check(x).all())
    except NotImplementedError:
        return True


def first_data(vae: VAE, data: Data, num_data: int | None, batch_size: int, seed: int) -> Iterator[Tensor]:
    """The first data in batches, the random numbers of each by ``seed`` and its number."""
    device, dtype = placement(vae)
    left = num_data
    for number, batch in enumerate(Batches(data, batch_size, device=device, dtype=dtype).epoch()):
        reseed(seed, number)
        x = batch.args[0]
        if left is None:
            left = MOST_DATA if marginals(vae.encode(x[:1])) is not None else MOST_DATA_INVERTED
        yield x[:left]
        left -= len(x[:left])
        if not left:
            return
