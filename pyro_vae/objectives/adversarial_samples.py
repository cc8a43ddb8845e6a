"""The generator's loss of a generative adversarial network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_vae.distributions import Implicit
from pyro_vae.networks import ConvEncoder, NetworkFactory
from pyro_vae.objectives.discriminator import DiscriminatorObjective, images_of
from pyro_vae.objectives.per_datum import Estimate
from pyro_vae.objectives.programs import Programs


class AdversarialSamples(DiscriminatorObjective):
    r"""Generative adversarial network: maximises :math:`E_{p(z)}[\log D(g(z))]`, D the discriminator.

    For an :class:`~pyro_vae.models.ImplicitModel`, whose guide is its prior. The discriminator takes one step of its
    own Adam on :math:`-E[\log D(x)] - E[\log(1 - D(g(z)))]` after the gradient of each batch. The value is no bound on
    anything: with an ideal discriminator it tends to -log 2 as the samples become those of the data.

    Args:
        discriminator: builds the discriminator's network, ``discriminator(data_shape, (1,))``; its last layer must be
            linear.
        num_particles: number of samples per datum.
        lr: learning rate of the discriminator.
        betas: decay of the averages of its Adam.
        spectral_norm, gradient_penalty: see :class:`~pyro_vae.objectives.RatioNetwork` and
            :class:`~pyro_vae.objectives.RatioTraining`.

    Raises:
        ValueError: a rate is not positive; at a call: the likelihood is not implicit.

    Warns:
        UserWarning: at the end of an epoch, if the samples have less than 5% of the variance of the data.

    References:
        Generative adversarial nets (Goodfellow et al., 2014), algorithm 1, with the loss of the generator that section
        3 recommends. https://arxiv.org/abs/1406.2661
        Which training methods for GANs do actually converge? (Mescheder, Geiger and Nowozin, 2018), eq. 9, for the
        penalty. https://arxiv.org/abs/1801.04406

    Example:
        >>> import torch
        >>> from pyro_vae import fit
        >>> from pyro_vae.likelihoods import ImplicitLikelihood
        >>> from pyro_vae.models import ImplicitModel
        >>> from pyro_vae.networks import MLP
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> from pyro_vae.objectives import AdversarialSamples
        >>> gan, x = ImplicitModel(StandardNormalPrior(2), ImplicitLikelihood(2, (5,))), torch.rand(200, 5)
        >>> result = fit(gan.model, gan.guide, x, epochs=2, objective=AdversarialSamples(discriminator=MLP))
        >>> sorted(set(result.history[0]) & {"loss", "spread", "ratio_loss"})
        ['loss', 'ratio_loss', 'spread']
    """

    def __init__(
        self,
        *,
        discriminator: NetworkFactory = ConvEncoder,
        num_particles: int = 1,
        lr: float = 2e-4,
        betas: Sequence[float] = (0.5, 0.999),
        spectral_norm: bool = False,
        gradient_penalty: float = 1.0,
    ) -> None:
        options = {"lr": lr, "betas": betas, "spectral_norm": spectral_norm, "gradient_penalty": gradient_penalty}
        super().__init__(discriminator, num_particles=num_particles, **options)  # type: ignore[arg-type]

    def score(self, p: Implicit, x: Tensor) -> Tensor:
        """log D(g(z)), ``batch``; it does not depend on x, which the discriminator is trained on."""
        network, images = self._discriminate(p, x), images_of(p)
        self._samples = x.detach().reshape(-1, *p.event_shape), images.detach()
        return logsigmoid(network(images)).reshape(p.batch_shape)

    def _estimate(self, programs: Programs) -> Estimate:
        particles = programs.sample()
        bound = particles.log_weight.mean(0)
        return Estimate(bound, bound, particles)
