"""Reconstruction in the features of a fixed network in place of the pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from pyro_vae._core.checks import check_positive
from pyro_vae.distributions import Implicit
from pyro_vae.objectives.per_datum import Estimate, PerDatumObjective
from pyro_vae.objectives.programs import Programs
from pyro_vae.objectives.schedules import Schedule

Features: TypeAlias = Callable[[Tensor], Tensor]
_LEAST, _LEAST_SHARE = 1e-8, 1e-2  # variance of features, and the same relative to their mean square


def feature_log_prob(features: Features, p: Implicit, x: Tensor, scale: float | None = None) -> Tensor:
    r"""Log of :math:`\mathcal{N}(f(x); f(\tilde x), \sigma^2 I)` without its constant, for an image :math:`\tilde x`.

    Args:
        features: f, from images ``(N, *data_shape)`` to features ``(N, ...)``.
        p: the point of :math:`\tilde x`.
        x: ``(*batch, *data_shape)``.
        scale: sigma; None for the root of the mean variance of the entries of f(x) over the batch.

    Returns:
        ``batch``, at most 0.
    """
    if not p.has_mean:
        raise p.refusal()
    image, dims = p.mean, len(p.event_shape)
    batch = image.shape[: image.dim() - dims]
    real = features(x.reshape(-1, *p.event_shape)).flatten(1)
    made = features(image.reshape(-1, *p.event_shape)).flatten(1).unflatten(0, (-1, len(real)))  # (K, B, F)
    variance = _variance(real.detach()) if scale is None else scale**2
    return -(real - made).square().sum(-1).reshape(batch) / (2 * variance)


def _variance(features: Tensor) -> Tensor:
    """Mean variance over the batch, ``(B, F)``; at least a hundredth of the mean square, for batches of few data."""
    least = _LEAST_SHARE * features.square().mean()
    return torch.maximum(features.var(0, unbiased=False).mean(), least).clamp_min(_LEAST)


class PerceptualReconstruction(PerDatumObjective):
    r"""Reconstruction in fixed features f, :math:`E_q[\log \mathcal{N}(f(x); f(\tilde x), \sigma^2 I)] - \beta KL`.

    For a VAE with an :class:`~pyro_vae.likelihoods.ImplicitLikelihood`, whose decoder gives the image
    :math:`\tilde x`. With f the features of a classifier (:class:`~pyro_vae.evaluation.image_features.ImageFeatures`)
    it is the sober alternative to :class:`AdversarialReconstruction`: nothing else is trained. The value is no bound
    on log p(x), which such a model does not have.

    Args:
        features: f, of images ``(N, *data_shape)``; a module's parameters are constants.
        scale: sigma, in units of the features: small values weight the reconstruction.
        beta: weight of the KL.
        num_particles: number of particles K per datum.

    Raises:
        ValueError: ``scale`` is not positive; at a call: a site other than the data has no density.

    References:
        Deep feature consistent variational autoencoder (Hou et al., 2017), section 3; there the features are those of
        VGG-19. https://arxiv.org/abs/1610.00291

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, objectives
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import ImplicitLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), ImplicitLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> objective = objectives.PerceptualReconstruction(torch.nn.Linear(5, 3), scale=0.1)
        >>> objective(vae.model, vae.guide)(torch.ones(7, 5)).backward()
    """

    has_terms = False

    def __init__(
        self, features: Features, *, scale: float = 1.0, beta: float | Schedule = 1.0, num_particles: int = 1
    ) -> None:
        super().__init__(num_particles=num_particles, beta=beta)
        check_positive("PerceptualReconstruction", scale=scale)
        if isinstance(features, nn.Module):
            features.requires_grad_(False).eval()
        self.features, self.scale = features, float(scale)

    def score(self, p: Implicit, x: Tensor) -> Tensor:
        """Minus half the squared distance of the features, ``batch``, in units of ``scale``."""
        return feature_log_prob(self.features, p, x, self.scale)

    def _estimate(self, programs: Programs) -> Estimate:
        particles = programs.sample()
        bound = (particles.log_likelihood - self._weight * particles.kl).mean(0)
        return Estimate(bound, bound, particles)
