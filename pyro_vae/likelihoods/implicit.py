"""The implicit likelihood: an image per z, without a density."""

from __future__ import annotations

from torch import Tensor

from pyro_vae.distributions import Implicit
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.networks import MLP, NetworkFactory, Shape, build_network

_ADVICE = (
    "x = g(z) has no log-likelihood: train with AdversarialReconstruction, PerceptualReconstruction or "
    "AdversarialSamples, and evaluate by sample_quality"
)


class ImplicitLikelihood(Likelihood):
    r"""A generator :math:`x = g(z)`: p(x | z) is a point, so that p(x) has no density on the space of images.

    Whatever needs log p(x | z) is refused: the ELBO, every log-likelihood, compression, outlier scores.
    :class:`~pyro_vae.objectives.AdversarialReconstruction` (VAE/GAN) and
    :class:`~pyro_vae.objectives.PerceptualReconstruction` train it as a decoder,
    :class:`~pyro_vae.objectives.AdversarialSamples` (GAN) without an encoder.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum.
        net: builds the generator, ``net((latent_dim,), data_shape)``.
        bounded: whether a sigmoid ends the generator, for images in [0, 1].

    Shape:
        ``(*batch, latent_dim)`` to a distribution with batch shape ``batch`` and event shape ``data_shape``.

    References:
        Generative adversarial nets (Goodfellow et al., 2014), section 3. https://arxiv.org/abs/1406.2661
        Autoencoding beyond pixels using a learned similarity metric (Larsen et al., 2016), section 2.
        https://arxiv.org/abs/1512.09300

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import ImplicitLikelihood
        >>> ImplicitLikelihood(20, (1, 28, 28))(torch.zeros(5, 20)).mean.shape
        torch.Size([5, 1, 28, 28])
    """

    implicit = True
    mean_tolerance = 1e-2

    def __init__(self, latent_dim: int, data_shape: Shape, *, net: NetworkFactory = MLP, bounded: bool = True) -> None:
        super().__init__(latent_dim, data_shape)
        self.net, self.bounded = build_network(net, (latent_dim,), self.data_shape), bounded

    def forward(self, z: Tensor, *context: Tensor) -> Implicit:
        outputs = self.net(z, *context) + self.offset
        x = outputs.sigmoid() if self.bounded else outputs  # (*batch, *data_shape)
        batch = x.shape[: x.dim() - len(self.data_shape)]
        return Implicit(
            lambda noise: x.expand(*noise.shape[:-1], *self.data_shape),
            z,
            batch_shape=batch,
            event_shape=self.data_shape,
            owner="ImplicitLikelihood",
            advice=_ADVICE,
        )

    def mean_to_output(self, mean: Tensor) -> Tensor:
        return mean.clamp(1e-2, 1 - 1e-2).logit() if self.bounded else mean
