"""Classes with a closed form for everything: y ~ Cat(pi), x = W_y z + b_y + sigma eps, z ~ N(0, I)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pyro_vae.guides import CategoricalGuide, DiagonalNormalGuide
from pyro_vae.likelihoods import NormalLikelihood
from pyro_vae.models import SemiSupervisedVAE
from pyro_vae.priors import CategoricalPrior, StandardNormalPrior


class AffinePerClass(nn.Module):
    """Affine network of a value and a class: A_y v + a_y, for one-hot y.

    Args:
        weight: ``(C, *out_shape, I)``.
        bias: ``(C, *out_shape)``.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.out_shape = bias.shape[1:]
        self.weight, self.bias = nn.Parameter(weight.flatten(1, -2)), nn.Parameter(bias.flatten(1))

    def forward(self, v: Tensor, y: Tensor) -> Tensor:
        """``(*batch, I)`` and ``(*batch', C)`` to ``(*all, *out_shape)``."""
        outputs = torch.einsum("coi,...i->...co", self.weight, v) + self.bias
        return (y.unsqueeze(-1) * outputs).sum(-2).unflatten(-1, self.out_shape)


class Quadratic(nn.Module):
    """Logits of C classes, each a quadratic function of x: -x' P_c x / 2 + h_c' x + k_c."""

    def __init__(self, precision: Tensor, linear: Tensor, constant: Tensor) -> None:
        super().__init__()
        self.precision, self.linear, self.constant = map(nn.Parameter, (precision, linear, constant))

    def forward(self, x: Tensor) -> Tensor:
        """``(*batch, D)`` to ``(*batch, 1, C)``."""
        square = torch.einsum("...i,cij,...j->...c", x, self.precision, x)
        return (-square / 2 + x @ self.linear.T + self.constant).unsqueeze(-2)


class MixtureOfLinearGaussians:
    """An M2 with known weights, its exact evidence and class posterior, and guides that are exact or perturbed.

    The columns of every W_c are orthogonal, so that the posterior of z in each class is a diagonal normal.

    Args:
        num_classes: C.
        latent_dim: L.
        dim: D, size of a datum.
        scale: sigma.
        inflate: factor on the standard deviation of q(z | x, y); 1 is exact.
        shift: added to its mean.
        temper: factor on the logits of q(y | x); 1 is exact, 0 is uniform.
        estimator: the classifier's.
        classification_weight: the VAE's.
    """

    def __init__(
        self,
        num_classes: int = 3,
        latent_dim: int = 2,
        dim: int = 5,
        *,
        scale: float = 0.5,
        inflate: float = 1.0,
        shift: float = 0.0,
        temper: float = 1.0,
        estimator: Literal["enumerate", "score", "relaxed"] = "enumerate",
        classification_weight: float = 0.0,
    ) -> None:
        g = torch.Generator().manual_seed(1)
        columns = [torch.linalg.qr(torch.randn(dim, latent_dim, generator=g))[0] for _ in range(num_classes)]
        scales = 0.4 + torch.rand(num_classes, 1, latent_dim, generator=g)
        self.weight = torch.stack(columns) * scales  # (C, D, L)
        self.bias = 0.6 * torch.randn(num_classes, dim, generator=g)  # (C, D); the classes overlap
        self.logits = torch.randn(num_classes, generator=g)  # of p(y), deliberately not normalised
        self.scale, self.num_classes = scale, num_classes
        label_prior = CategoricalPrior(num_classes, learn=True)
        with torch.no_grad():
            label_prior.logits.copy_(self.logits.unsqueeze(0))
        decoder = AffinePerClass(self.weight, self.bias)
        self.vae = SemiSupervisedVAE(
            StandardNormalPrior(latent_dim),
            NormalLikelihood(latent_dim, (dim,), net=decoder, scale=scale),
            DiagonalNormalGuide((dim,), latent_dim, net=self._encoder(inflate, shift)),
            CategoricalGuide((dim,), num_classes, net=self._classifier(temper), estimator=estimator),
            label_prior,
            classification_weight=classification_weight,
        )

    def _encoder(self, inflate: float, shift: float) -> AffinePerClass:
        variance = self.posterior_variance()  # (C, L)
        gain = variance.unsqueeze(-1) * self.weight.mT / self.scale**2  # (C, L, D)
        loc = shift - (gain @ self.bias.unsqueeze(-1)).squeeze(-1)
        log_scale = variance.sqrt().mul(inflate).log()
        return AffinePerClass(torch.stack([gain, torch.zeros_like(gain)], 1), torch.stack([loc, log_scale], 1))

    def _classifier(self, temper: float) -> Quadratic:
        precision = torch.linalg.inv(self.covariance())
        linear = (precision @ self.bias.unsqueeze(-1)).squeeze(-1)
        constant = self.logits - (linear * self.bias).sum(-1) / 2 - torch.logdet(self.covariance()) / 2
        return Quadratic(temper * precision, temper * linear, temper * constant)

    def covariance(self) -> Tensor:
        """(C, D, D), of p(x | y), W W' + sigma^2 I."""
        return self.weight @ self.weight.mT + self.scale**2 * torch.eye(self.bias.shape[1])

    def posterior_variance(self) -> Tensor:
        """(C, L), of p(z | x, y), the diagonal of (I + W'W / sigma^2)^-1."""
        return 1 / (1 + self.weight.square().sum(1) / self.scale**2)

    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x, y) for every class, (B, C)."""
        classes = MultivariateNormal(self.bias, self.covariance())
        return self.logits.log_softmax(-1) + classes.log_prob(x.unsqueeze(-2))

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), (B,)."""
        return self.log_joint(x).logsumexp(-1)

    def class_posterior(self, x: Tensor) -> Tensor:
        """p(y | x), (B, C)."""
        return self.log_joint(x).softmax(-1)

    def log_evidence(self, x: Tensor, y: Tensor) -> Tensor:
        """log p(x, y) where the label is known and log p(x) where it is -1, (B,)."""
        labelled = self.log_joint(x).gather(-1, y.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        return torch.where(y == -1, self.log_prob(x), labelled)

    def data(self, num: int) -> tuple[Tensor, Tensor]:
        """(num, D) and (num,), drawn from the model."""
        y = torch.distributions.Categorical(logits=self.logits).sample((num,))
        return self.vae.sample(y=y), y
