"""A density fitted to draws."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_BANDWIDTHS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12)


class KernelDensity:
    r"""Kernel density estimate with normal kernels :math:`\mathcal{N}(z_n, h^2 \hat\Sigma)`.

    :math:`\hat\Sigma` is the covariance of the draws, and h is, of seven fractions of Scott's bandwidth
    :math:`n^{-1/(D + 4)}`, the one under which left-out draws are the most likely: draws of several modes want a small
    one.

    Args:
        draws: ``(n, D)``, with n > D.

    References:
        Multivariate density estimation (Scott, 2015), section 6.3. https://doi.org/10.1002/9781118575574

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> density = KernelDensity(torch.randn(500, 1, dtype=torch.float64))
        >>> bool((density.log_prob(torch.zeros(1, 1, dtype=torch.float64)) + 0.919).abs() < 0.2)
        True
    """

    def __init__(self, draws: Tensor) -> None:
        n, dim = draws.shape
        covariance = torch.atleast_2d(draws.T.cov()) + 1e-12 * torch.eye(dim, dtype=draws.dtype, device=draws.device)
        self._factor = torch.linalg.cholesky(covariance)
        self._centers = self._whiten(draws)
        squares = torch.cdist(self._centers, self._centers).square().fill_diagonal_(torch.inf)
        scales = [fraction * n ** (-1 / (dim + 4)) for fraction in _BANDWIDTHS]
        likelihoods = torch.stack([self._mix(squares, h, n - 1).mean() for h in scales])
        self.bandwidth = scales[int(likelihoods.argmax())]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density at ``(m, D)``: ``(m,)``."""
        squares = torch.cdist(self._whiten(value), self._centers).square()
        return self._mix(squares, self.bandwidth, len(self._centers))

    def _whiten(self, value: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self._factor, value.T, upper=False).T

    def _mix(self, squares: Tensor, h: float, n: int) -> Tensor:
        """log of the mean of the kernels at squared distances ``(m, n)``."""
        dim = self._factor.shape[0]
        log_volume = dim * (math.log(h) + 0.5 * math.log(2 * math.pi)) + self._factor.diagonal().log().sum()
        return (-0.5 * squares / h**2).logsumexp(-1) - math.log(n) - log_volume
