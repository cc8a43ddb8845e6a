"""Classes with an auxiliary variable and a closed form for everything: given y, all of (z, a, x) is jointly normal."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, MultivariateNormal

from pyro_vae.guides import CategoricalGuide, DiagonalNormalGuide, MixtureOfNormalsGuide
from pyro_vae.likelihoods import NormalLikelihood
from pyro_vae.models import ADGM, SDGM
from pyro_vae.priors import CategoricalPrior, StandardNormalPrior

Z, A, X = slice(0, 1), slice(1, 2), slice(2, 5)  # places in (z, a, x)
AX = slice(1, 5)


class Affine(nn.Module):
    """b + W_1 v_1 + W_2 v_2 + ..., for any number of inputs.

    Args:
        bias: ``(*out_shape)``.
        weights: ``(*out_shape, I)`` for an input of size I.
    """

    def __init__(self, bias: Tensor, *weights: Tensor) -> None:
        super().__init__()
        self.out_shape = bias.shape
        self.bias = nn.Parameter(bias.flatten())
        self.weights = nn.ParameterList(weight.flatten(0, -2) for weight in weights)

    def forward(self, *inputs: Tensor) -> Tensor:
        parts = (v @ weight.T for v, weight in zip(inputs, self.weights, strict=True))
        return sum(parts, self.bias).unflatten(-1, self.out_shape)


def normal(variance: Tensor, offset: Tensor, *weights: Tensor) -> Affine:
    """The network of a diagonal normal of one dimension, its loc linear in the inputs, its scale fixed."""
    fixed = [torch.stack([w.reshape(1, -1), torch.zeros(1, w.numel())]) for w in weights]  # (2, 1, I)
    return Affine(torch.stack([offset.reshape(1), variance.sqrt().log().reshape(1)]), *fixed)


class LinearAuxiliary:
    r"""ADGM or SDGM with known weights, and the guide that is the exact posterior or wider than it.

    z ~ N(0, 1); ADGM: x = W z + V_y + sigma eps, a = c z + d'x + g_y + s eps'; SDGM: a = c z + g_y + s eps',
    x = W z + U a + V_y + sigma eps. The exact q(a | x) is a mixture over the classes.

    Args:
        kind: the class.
        blind: choose g so that p(a | x, y) is the same for all y: then q(a | x) is exact with a label, too.
        inflate: factor on the scales of q(a | x) and q(z | a, x, y); 1 is exact.
        temper: factor on the logits of q(y | a, x); 1 is exact.
        options: of the class; ``estimator`` is the classifier's.
    """

    def __init__(
        self,
        kind: type[ADGM] | type[SDGM],
        *,
        blind: bool = False,
        inflate: float = 1.0,
        temper: float = 1.0,
        estimator: str = "enumerate",
        **options: float,
    ) -> None:
        g = torch.Generator().manual_seed(1)
        self.w, self.v = torch.randn(3, generator=g), 0.4 * torch.randn(3, 3, generator=g)  # v: (C, D)
        self.d, self.u = 0.5 * torch.randn(3, generator=g), 0.3 * torch.randn(3, generator=g)
        self.g = 0.6 * torch.randn(3, generator=g)  # (C,)
        self.logits = torch.tensor([0.3, -0.4, 0.6])
        self.c, self.s, self.sigma = 0.9, 0.6, 0.5
        self.skip = kind is SDGM
        self._join()
        if blind:
            gain, offset, _ = self.conditional(A, X)
            self.g -= offset.squeeze(-1) / (1 - (gain @ self.u).item() * self.skip)
            self._join()
        self.vae = self._build(kind, inflate, temper, estimator, options)

    def _join(self) -> None:
        """Mean (C, 5) and covariance (5, 5) of (z, a, x) given y."""
        zero, one = torch.zeros(3), torch.eye(3)
        a = torch.cat([torch.tensor([self.c, self.s]), zero])  # of the noise of z, a, x
        x = torch.cat([self.w.unsqueeze(-1), zero.unsqueeze(-1), self.sigma * one], -1)
        mean_a, mean_x = self.g, self.v
        if self.skip:
            x, mean_x = x + torch.outer(self.u, a), mean_x + torch.outer(mean_a, self.u)
        else:
            a, mean_a = a + self.d @ x, mean_a + mean_x @ self.d
        factor = torch.cat([torch.eye(5)[:1], a.unsqueeze(0), x])
        self.mean = torch.cat([torch.zeros(3, 1), mean_a.unsqueeze(-1), mean_x], -1)
        self.covariance = factor @ factor.T

    def conditional(self, of: slice, by: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Gain, offset of each class and covariance of one part given another."""
        gain = self.covariance[of, by] @ torch.linalg.inv(self.covariance[by, by])
        return (
            gain,
            self.mean[:, of] - self.mean[:, by] @ gain.T,
            self.covariance[of, of] - gain @ self.covariance[by, of],
        )

    def _class_logits(self, by: slice) -> tuple[Tensor, Tensor]:
        """Constant (C,) and weight (C, I) of log p(y | part), which is linear in the part."""
        weight = self.mean[:, by] @ torch.linalg.inv(self.covariance[by, by])
        return self.logits - (weight * self.mean[:, by]).sum(-1) / 2, weight

    def _build(self, kind, inflate, temper, estimator, options):
        prior = CategoricalPrior(3, learn=True)
        with torch.no_grad():
            prior.logits.copy_(self.logits.unsqueeze(0))
        gain, offset, variance = self.conditional(Z, AX)
        q_z = normal(inflate**2 * variance, torch.zeros(1), gain[:, 1:], offset.T, gain[:, :1])
        constant, weight = self._class_logits(AX)
        q_y = Affine(*(temper * t.unsqueeze(0) for t in (constant, weight[:, 1:], weight[:, :1])))
        p_a = [self.g, torch.tensor([self.c])] if self.skip else [self.d, self.g, torch.tensor([self.c])]
        p_a = normal(torch.tensor(self.s**2), torch.zeros(1), *(reversed(p_a) if self.skip else p_a))
        above = [self.w.unsqueeze(-1), self.v.T] + [self.u.unsqueeze(-1)] * self.skip
        return kind(
            StandardNormalPrior(1),
            NormalLikelihood(1, (3,), net=Affine(torch.zeros(3), *above), scale=self.sigma),
            DiagonalNormalGuide((3,), 1, net=q_z),
            CategoricalGuide((3,), 3, net=q_y, estimator=estimator),
            MixtureOfNormalsGuide((3,), 1, num_components=3, net=self._mixture(inflate)),
            DiagonalNormalGuide((1,) if self.skip else (3,), 1, net=p_a),
            prior,
            **options,
        )

    def _mixture(self, inflate: float) -> Affine:
        """q(a | x), (C, 3): loc, log scale and logit of each."""
        gain, offset, variance = self.conditional(A, X)
        constant, weight = self._class_logits(X)
        log_scale = (inflate * variance.sqrt()).log().squeeze().expand(3)
        slope = torch.stack([gain.expand(3, 3), torch.zeros(3, 3), weight], 1)  # (C, 3, D)
        return Affine(torch.stack([offset.squeeze(-1), log_scale, constant], -1), slope)

    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x, y) for every class, (B, C)."""
        of_class = MultivariateNormal(self.mean[:, X], self.covariance[X, X])
        return self.logits.log_softmax(-1) + of_class.log_prob(x.unsqueeze(-2))

    def log_evidence(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x, y) where the label is known and log p(x) where it is not, (B,)."""
        joint = self.log_joint(x)
        if y is None:
            return joint.logsumexp(-1)
        known = joint.gather(-1, y.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        return torch.where(y == -1, joint.logsumexp(-1), known)

    def data(self, num: int) -> tuple[Tensor, Tensor]:
        """(num, 3) and (num,), drawn from the closed form."""
        y = Categorical(logits=self.logits).sample((num,))
        return MultivariateNormal(self.mean[y][:, X], self.covariance[X, X]).sample(), y
