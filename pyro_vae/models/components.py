"""Components of mixture models, whose parameters have a maximum in closed form."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from pyro.distributions import Bernoulli, MultivariateNormal, Normal, TorchDistribution
from torch import Tensor, nn

from pyro_vae._core.checks import CheckedArguments, check_count, check_positive, require
from pyro_vae.networks import Shape

Covariance = Literal["full", "tied", "diagonal", "spherical"]
_EMPTY = 1e-12  # data of a component below which it keeps its parameters


class Components(nn.Module, CheckedArguments, ABC):
    """p(x | z) of a mixture: a module whose ``forward(z)`` returns the component of the one-hot vector z.

    Args:
        data_shape: shape of one datum.
        num_components: number of components K.

    Attributes:
        latent_dim: K, since z is a one-hot vector.
        locs: ``(K, D)``, the parameters of the means, for data of D entries.
    """

    locs: nn.Parameter

    def __init__(self, data_shape: Shape, num_components: int) -> None:
        super().__init__()
        check_count(type(self).__name__, num_components=num_components)
        require(len(data_shape) > 0, type(self).__name__, "data_shape must not be empty", "data_shape=()")
        self.data_shape, self.latent_dim = tuple(data_shape), num_components
        self.locs = nn.Parameter(torch.randn(num_components, math.prod(data_shape)))

    @abstractmethod
    def forward(self, z: Tensor) -> TorchDistribution:
        """p(x | z) for one-hot ``z`` ``(*batch, K)``: batch shape ``batch``, event shape ``data_shape``."""

    @abstractmethod
    def maximise(self, x: Tensor, weights: Tensor) -> None:
        """Maximise the sum of the weighted log-densities; components without weight keep their parameters.

        Args:
            x: ``(N, *data_shape)``.
            weights: ``(N, K)``.
        """

    @property
    @abstractmethod
    def num_parameters(self) -> int:
        """Number of free parameters, for information criteria."""

    def _weighted_means(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of the data of each component, ``(K, D)``, and the mask of those with data, ``(K, 1)``."""
        total = weights.sum(0).unsqueeze(-1)  # (K, 1)
        return weights.mT @ x / total.clamp_min(_EMPTY), total > _EMPTY


class NormalComponents(Components):
    r"""Normal components, :math:`\mathcal{N}(x; \mu_k, \Sigma_k)`.

    The eigenvalues of a covariance are at least ``min_scale`` squared. The maximum under this condition replaces the
    smaller eigenvalues of the weighted covariance by it, so that EM still never lowers the ELBO; scikit-learn adds a
    constant to the diagonal instead.

    Args:
        data_shape: shape of one datum, ``(D,)``; longer ones for ``"diagonal"`` and ``"spherical"`` only.
        num_components: number of components K.
        covariance: ``"full"``, one matrix per component; ``"tied"``, one matrix for all; ``"diagonal"``, one variance
            per component and entry; ``"spherical"``, one variance for all, the mixture of k-means.
        min_scale: smallest standard deviation in any direction, in units of the data.

    Raises:
        ValueError: ``min_scale`` is not positive, or a covariance matrix is chosen for data that are not vectors.

    References:
        Pattern recognition and machine learning (Bishop, 2006), section 9.2.2.

    Example:
        >>> components = NormalComponents((2,), 3, covariance="full")
        >>> components(torch.eye(3)).batch_shape, components.num_parameters
        (torch.Size([3]), 15)
    """

    def __init__(
        self,
        data_shape: Shape,
        num_components: int,
        *,
        covariance: Covariance = "full",
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__(data_shape, num_components)
        check_positive("NormalComponents", min_scale=min_scale, advice="Use 1e-3")
        vectors = len(self.data_shape) == 1 or covariance in ("diagonal", "spherical")
        rule, what = "data with a covariance matrix must be vectors", f"data_shape={self.data_shape}"
        require(vectors, "NormalComponents", rule, what, "Flatten each datum, or use covariance='diagonal'")
        self.covariance, self.min_scale = covariance, float(min_scale)
        size, shapes = self.locs.shape[1], {"tied": (), "full": (num_components,)}
        start = torch.eye(size).expand(*shapes[covariance], size, size).clone() if covariance in shapes else None
        if start is None:
            start = torch.ones(self.locs.shape if covariance == "diagonal" else ())
        # The covariance is min_scale^2 I + F F', or min_scale^2 + f^2 without correlations.
        self.factors = nn.Parameter(start)

    def forward(self, z: Tensor) -> TorchDistribution:
        loc, floor = z @ self.locs, self.min_scale**2  # (*batch, D)
        if self.covariance in ("diagonal", "spherical"):
            scale = (floor + self.factors.square()).sqrt().expand_as(self.locs)  # (K, D)
            event = (*loc.shape[:-1], *self.data_shape)
            return Normal(loc.reshape(event), (z @ scale).reshape(event)).to_event(len(self.data_shape))
        matrices = self.factors @ self.factors.mT + floor * torch.eye(loc.shape[-1]).to(loc)
        triangular = torch.linalg.cholesky(matrices)  # (D, D) or (K, D, D)
        if self.covariance == "full":
            triangular = (z @ triangular.flatten(1)).unflatten(-1, triangular.shape[1:])  # (*batch, D, D)
        return MultivariateNormal(loc, scale_tril=triangular)

    @torch.no_grad()
    def maximise(self, x: Tensor, weights: Tensor) -> None:
        x = x.flatten(1)
        means, used = self._weighted_means(x, weights)
        self.locs.copy_(torch.where(used, means, self.locs))
        scatter = torch.stack([self._scatter(x - loc, w) for loc, w in zip(self.locs, weights.mT, strict=True)])
        total = weights.sum(0).reshape(-1, *[1] * (scatter.dim() - 1)).clamp_min(_EMPTY)
        if self.covariance in ("full", "diagonal"):
            factors = self._factors(scatter / total)
            used = used.reshape(total.shape)
        else:
            factors, used = self._factors(scatter.sum(0) / weights.sum()), torch.tensor(True)
        self.factors.copy_(torch.where(used, factors, self.factors))

    def _scatter(self, deviation: Tensor, weight: Tensor) -> Tensor:
        """Weighted sum of squared deviations ``(N, D)`` of one component: ``(D, D)``, ``(D,)`` or ``()``."""
        if self.covariance in ("full", "tied"):
            return (weight.unsqueeze(-1) * deviation).mT @ deviation
        squares = weight @ deviation.square()  # (D,)
        return squares if self.covariance == "diagonal" else squares.mean()

    def _factors(self, covariance: Tensor) -> Tensor:
        """F with F F' = the covariance, its eigenvalues at least the floor, minus the floor."""
        if self.covariance in ("diagonal", "spherical"):
            return (covariance - self.min_scale**2).clamp_min(0).sqrt()
        values, vectors = torch.linalg.eigh(covariance)
        return vectors * (values - self.min_scale**2).clamp_min(0).sqrt().unsqueeze(-2)

    @property
    def num_parameters(self) -> int:
        """Number of means and of variances and covariances."""
        k, d = self.locs.shape
        matrix = d * (d + 1) // 2
        return k * d + {"full": k * matrix, "tied": matrix, "diagonal": k * d, "spherical": 1}[self.covariance]


class BernoulliComponents(Components):
    r"""Bernoulli components, :math:`\prod_d p_{kd}^{x_d} (1 - p_{kd})^{1 - x_d}`, for binary data.

    Args:
        data_shape: shape of one datum.
        num_components: number of components K.
        min_probability: smallest probability of a 0 and of a 1; with 0 a pixel that is constant in the training data
            would give new data without this value the log-likelihood minus infinity.

    Raises:
        ValueError: ``min_probability`` is not positive.

    References:
        Pattern recognition and machine learning (Bishop, 2006), section 9.3.3.

    Example:
        >>> BernoulliComponents((1, 8, 8), 10).num_parameters
        640
    """

    def __init__(self, data_shape: Shape, num_components: int, *, min_probability: float = 1e-4) -> None:
        super().__init__(data_shape, num_components)
        check_positive("BernoulliComponents", min_probability=min_probability, advice="Use 1e-4")
        self.min_probability = float(min_probability)

    def forward(self, z: Tensor) -> TorchDistribution:
        logits = (z @ self.locs).reshape(*z.shape[:-1], *self.data_shape)
        return Bernoulli(logits=logits).to_event(len(self.data_shape))

    @torch.no_grad()
    def maximise(self, x: Tensor, weights: Tensor) -> None:
        means, used = self._weighted_means(x.flatten(1), weights)
        logits = means.clamp(self.min_probability, 1 - self.min_probability).logit()
        self.locs.copy_(torch.where(used, logits, self.locs))

    @property
    def num_parameters(self) -> int:
        """Number of probabilities."""
        return self.locs.numel()
