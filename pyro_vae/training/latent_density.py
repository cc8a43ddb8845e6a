"""A distribution of the codes of a trained autoencoder, from which to sample."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_vae._core.checks import check_arguments, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.owners import evaluating, placement
from pyro_vae._core.param_store import register
from pyro_vae.data.batches import Batches, Data
from pyro_vae.models import VAE, MixtureModel, NormalComponents
from pyro_vae.priors import MixtureOfNormalsPrior, Prior
from pyro_vae.training.em import fit_em
from pyro_vae.training.fitting import fit


def fit_latent_density(
    vae: VAE,
    data: Data,
    *,
    density: Callable[[int], Prior] = MixtureOfNormalsPrior,
    seed: int = 0,
    **options: Any,
) -> VAE:
    r"""Fit a density to the codes of a trained model, :math:`\max_p \sum_n \log p(z_n)`, and use it as the prior.

    The codes are samples of q(z | x), those of a :class:`~pyro_vae.guides.DeltaGuide` its points. An autoencoder, which
    has no distribution of z, can then be sampled; a VAE gets a prior that is closer to its aggregate posterior.
    Likelihood and guide are shared with the given model and do not change.

    Args:
        vae: a trained model.
        data: the training data, as for :func:`pyro_vae.fit`.
        density: builds the density from the number of latents, such as ``partial(MixtureOfNormalsPrior,
            num_components=50)``, which is fitted by EM, or ``FlowPrior``, which is fitted by gradient steps.
        seed: seed of the codes, the initial density and its fit.
        options: of :func:`~pyro_vae.training.fit_em` for a mixture, otherwise of :func:`pyro_vae.fit`.

    Returns:
        The model with the new prior.

    Raises:
        ValueError: the density is not a continuous one with parameters, or an option is invalid.

    References:
        From variational to deterministic autoencoders (Ghosh et al., 2020), section 4.
        https://arxiv.org/abs/1903.12436

    Example:
        >>> from pyro_vae.guides import DeltaGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DeltaGuide((5,), 2))
        >>> fit_latent_density(vae, torch.rand(50, 5).round()).sample(3).shape
        torch.Size([3, 5])
    """
    check_arguments(fit_latent_density, locals())
    with isolated_rng(seed):
        prior = _built(density, vae)
        z = codes(vae, data)
    if isinstance(prior, MixtureOfNormalsPrior):
        _fit_mixture(prior, z, seed=seed, **options)
    else:
        program = _LatentProgram(prior)
        fit(program, program.guide, z, seed=seed, **{"batch_size": min(100, len(z)), "progress": False, **options})
    return VAE(prior.eval(), vae.likelihood, vae.guide, missing=vae.missing)


def codes(vae: VAE, data: Data) -> Tensor:
    """A sample of q(z | x) for every datum, ``(N, L)``."""
    device, dtype = placement(vae)
    batches = Batches(data, 1000, device=device, dtype=dtype, owner="fit_latent_density")
    parts = []
    with evaluating(vae):
        for batch in batches.epoch():
            x, advice = batch.args[0], "Impute missing entries, or train a VAE(missing=True)"
            complete = vae.missing or not bool(x.isnan().any())
            require(complete, "fit_latent_density", "data must be numbers", "NaN", advice)
            parts.append(vae.encode(x).sample())
    z = torch.cat(parts)
    require(bool(z.isfinite().all()), "fit_latent_density", "the codes must be finite", "nan or inf", "Check the data")
    return z


def _built(density: Callable[[int], Prior], vae: VAE) -> Prior:
    prior = density(vae.latent_dim) if "guide" not in inspect.signature(density).parameters else None
    usable = isinstance(prior, Prior) and not (prior.discrete or prior.conditional)
    rule = "density must build a continuous prior with parameters from the number of latents"
    got = getattr(density, "__name__", type(density).__name__)
    advice = "Use MixtureOfNormalsPrior or FlowPrior"
    trained = usable and any(p.requires_grad for p in prior.parameters())  # type: ignore[union-attr]
    require(trained, "fit_latent_density", rule, got, advice)
    return prior.to(next(vae.parameters()))  # type: ignore[union-attr]


@torch.no_grad()
def _fit_mixture(prior: MixtureOfNormalsPrior, z: Tensor, **options: Any) -> None:
    mixture = MixtureModel(NormalComponents((prior.latent_dim,), len(prior.logits), covariance="diagonal")).to(z)
    with torch.enable_grad():
        fit_em(mixture, z, **options)
    normals = mixture.likelihood(torch.eye(len(prior.logits)).to(z)).base_dist
    prior.logits.copy_(mixture.prior.logits[0])
    prior.locs.copy_(normals.loc)
    prior.log_scales.copy_(normals.scale.log())


class _LatentProgram(nn.Module):
    """The prior as a model of observed codes."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, z: Tensor) -> None:
        register(self)
        with pyro.plate("data", len(z), dim=-1):
            pyro.sample("z", self.prior(), obs=z)

    def guide(self, z: Tensor) -> None:
        """The guide without sites."""
