"""FactorVAE: the ELBO with a penalty of the total correlation, estimated by a density ratio."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._core.checks import check_positive
from pyro_vae._core.layout import Layout
from pyro_vae._core.traces import latents
from pyro_vae.networks import MLP, Shape
from pyro_vae.objectives.latent_structure import single_latent
from pyro_vae.objectives.per_datum import Estimate
from pyro_vae.objectives.programs import Programs
from pyro_vae.objectives.ratio import RatioNetwork, RatioTraining
from pyro_vae.objectives.ratio_objective import RatioObjective
from pyro_vae.objectives.schedules import Schedule


class FactorVAE(RatioObjective):
    r"""FactorVAE: :math:`\mathrm{ELBO} - \gamma\, E_{q(z)}[r(z)]`, r(z) an estimate of the total correlation's ratio.

    :math:`r(z) \approx \log q(z) - \sum_j \log q(z_j)` is a :class:`~pyro_vae.objectives.RatioNetwork`. After the
    gradient of each batch, the network takes one step of its own Adam, :class:`~pyro_vae.objectives.RatioTraining`, on
    the samples of the batch and on the same samples with each dimension permuted over the batch. ``fit`` saves and
    restores the network with the run, under every engine; its weights are not part of the model's.

    For reparameterised guides of models with one latent site; the posterior need not factorise. gamma = 0 is the ELBO.

    Args:
        gamma: weight of the total correlation, a number or a :class:`~pyro_vae.objectives.Schedule`.
        num_particles: number of particles K per datum.
        hidden: widths of the ratio network's layers.
        lr: learning rate of the ratio network.
        betas: decay of the averages of the ratio network's Adam.
        spectral_norm, gradient_penalty: see :class:`~pyro_vae.objectives.RatioNetwork` and
            :class:`~pyro_vae.objectives.RatioTraining`.

    Raises:
        ValueError: a negative weight or a rate that is not positive; at a call: several latent sites.

    References:
        Disentangling by factorising (Kim and Mnih, 2018), eq. 2 and algorithm 2. There the permuted samples are those
        of a second batch, and the network has six layers of 1000 units with leaky rectifiers.
        https://arxiv.org/abs/1802.05983

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, objectives
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> objective = objectives.FactorVAE(gamma=10.0)
        >>> objective(vae.model, vae.guide)(torch.ones(7, 5)).backward()
        >>> loss = objective.update()
    """

    advice = "ReweightedWakeSleep or ScoreFunction"

    def __init__(
        self,
        *,
        gamma: float | Schedule = 10.0,
        num_particles: int = 1,
        hidden: Shape = (256, 256),
        lr: float = 1e-3,
        betas: Sequence[float] = (0.5, 0.9),
        spectral_norm: bool = False,
        gradient_penalty: float = 0.0,
    ) -> None:
        if not isinstance(gamma, Schedule):
            check_positive("FactorVAE", at_least_zero=True, gamma=gamma)
        net = partial(MLP, hidden=hidden, activation="leaky_relu")
        network = partial(RatioNetwork, net=net, spectral_norm=spectral_norm)
        training = partial(RatioTraining, lr=lr, betas=betas, gradient_penalty=gradient_penalty)
        training(network((2,)))  # checks its options
        super().__init__(network, training, num_particles=num_particles, beta=gamma)

    def _sides(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.rand_like(samples).argsort(0)  # a permutation of the batch for each dimension
        return samples, samples.gather(0, order)

    def _check(self, layout: Layout, model_trace: Trace, guide_trace: Trace) -> None:
        site = single_latent(layout, model_trace)
        value = site["value"].detach()
        self._build((value.shape[value.dim() - site["fn"].event_dim :].numel(),), value)

    def _estimate(self, programs: Programs) -> Estimate:
        particles = programs.sample()
        name = latents(particles.model_trace)[0]["name"]
        z = particles.latent.nodes[name]["value"].flatten(2)  # (K, B, D)
        self._samples = z.detach().flatten(0, 1)
        bound = (particles.log_likelihood - particles.kl - self._weight * self._built().network(z)).mean(0)
        return Estimate(bound, bound, particles)
