"""VAE/GAN: reconstruction in the features of a discriminator that is trained along."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_vae._core.checks import check_positive, refusal
from pyro_vae._core.layout import Layout
from pyro_vae._core.traces import observations
from pyro_vae.distributions import Implicit
from pyro_vae.networks import ConvEncoder, NetworkFactory
from pyro_vae.objectives.discriminator import DiscriminatorObjective, images_of, stacked
from pyro_vae.objectives.per_datum import Estimate
from pyro_vae.objectives.perceptual import feature_log_prob
from pyro_vae.objectives.programs import Programs
from pyro_vae.objectives.schedules import Schedule


class AdversarialReconstruction(DiscriminatorObjective):
    r"""VAE/GAN: :math:`E_q[\log \mathcal{N}(f(x); f(\tilde x), s^2 I)] - KL` in features f of a discriminator D.

    For a VAE with an :class:`~pyro_vae.likelihoods.ImplicitLikelihood`. With :math:`\tilde x = g(z)`,
    :math:`z \sim q(z | x)`, and :math:`x_p = g(z_p)`, :math:`z_p \sim p(z)`, the three networks have three losses, as
    in the paper: the encoder's is :math:`L_{prior} + L_{llike}`; the decoder's is
    :math:`\gamma L_{llike} - \log D(\tilde x) - \log D(x_p)`, and none of its second part reaches the encoder; the
    discriminator's is :math:`-\log D(x) - \log(1 - D(\tilde x)) - \log(1 - D(x_p))`. The features, the input of the
    last layer of D, are trained by the last of these alone; s is the root of their mean variance over the batch.

    Such a model has no log-likelihood: p(x | z) is a point, and the features change while they are trained.

    Args:
        gamma: weight of the reconstruction in the decoder's loss, a number or a
            :class:`~pyro_vae.objectives.Schedule`.
        kl_weight: weight of the KL in the encoder's loss.
        discriminator: builds the discriminator's network, ``discriminator(data_shape, (1,))``; its last layer must be
            linear.
        num_particles: number of particles K per datum.
        lr: learning rate of the discriminator.
        betas: decay of the averages of its Adam.
        spectral_norm, gradient_penalty: see :class:`~pyro_vae.objectives.RatioNetwork` and
            :class:`~pyro_vae.objectives.RatioTraining`.

    Raises:
        ValueError: a negative weight or a rate that is not positive; at a call: the likelihood is not implicit.

    Warns:
        UserWarning: at the end of an epoch, if the samples have less than 5% of the variance of the data.

    References:
        Autoencoding beyond pixels using a learned similarity metric (Larsen et al., 2016), algorithm 1; there s = 1,
        for batch-normalized features, and the decoder's adversarial terms are :math:`\log(1 - D)`, whose gradient
        vanishes if D is sure.
        https://arxiv.org/abs/1512.09300

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, objectives
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import ImplicitLikelihood
        >>> from pyro_vae.networks import MLP
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), ImplicitLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> objective = objectives.AdversarialReconstruction(discriminator=MLP)
        >>> objective(vae.model, vae.guide)(torch.rand(7, 5)).backward()
        >>> loss = objective.update()
    """

    measured = ("spread", "feature_distance", "rate")

    def __init__(
        self,
        *,
        gamma: float | Schedule = 1.0,
        kl_weight: float = 0.1,
        discriminator: NetworkFactory = ConvEncoder,
        num_particles: int = 1,
        lr: float = 1e-3,
        betas: Sequence[float] = (0.5, 0.999),
        spectral_norm: bool = False,
        gradient_penalty: float = 1.0,
    ) -> None:
        if not isinstance(gamma, Schedule):
            check_positive("AdversarialReconstruction", at_least_zero=True, gamma=gamma)
        check_positive("AdversarialReconstruction", at_least_zero=True, kl_weight=kl_weight)
        options = {"lr": lr, "betas": betas, "spectral_norm": spectral_norm, "gradient_penalty": gradient_penalty}
        super().__init__(discriminator, gamma=gamma, num_particles=num_particles, num_terms=2, **options)  # type: ignore[arg-type]
        self.kl_weight = float(kl_weight)

    def score(self, p: Implicit, x: Tensor) -> Tensor:
        """Minus half the squared distance of the features, ``batch``, in units of their mean variance."""
        return feature_log_prob(self._discriminate(p, x).features, p, x)

    def _check(self, layout: Layout, model_trace: Trace, guide_trace: Trace) -> None:
        names = [site["name"] for site in observations(model_trace) if isinstance(site["fn"], Implicit)]
        if len(names) != 1:
            rule, advice = "the model must have one site without a density", "Use an ImplicitLikelihood"
            raise refusal(layout.owner, rule, f"sites {names}", advice)

    def _estimate(self, programs: Programs) -> Estimate:
        particles = programs.sample()
        # The same images, and those of the prior, as functions of the decoder's parameters alone.
        decoded = [_image(trace) for trace in programs.generate(particles.guide_traces)]
        sampled = [_image(trace) for trace in programs.generate()]
        fakes = [images_of(p) for p, _ in (*decoded, *sampled)]
        terms = [-particles.log_likelihood.detach().mean(), particles.kl.detach().mean()]
        self._samples = stacked([x.reshape(-1, *p.event_shape) for p, x in decoded]), stacked(fakes), *terms
        shape = particles.log_likelihood.shape  # (K, B)
        deceived = logsigmoid(self.discriminator(torch.cat(fakes))).reshape(2, *shape).sum(0).mean(0)
        reconstruction = torch.cat([self.score(p, x).reshape(-1) for p, x in decoded]).reshape(shape).mean(0)
        bound = (particles.log_likelihood - self.kl_weight * particles.kl).mean(0) + deceived
        return Estimate(bound, bound + (self._weight - 1) * reconstruction, particles)


def _image(trace: Trace) -> tuple[Implicit, Tensor]:
    """The decoder's output, and the datum."""
    (site,) = [site for site in observations(trace) if isinstance(site["fn"], Implicit)]
    return site["fn"], site["value"]
