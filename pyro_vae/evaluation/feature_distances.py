"""Distances between two sets of feature vectors, and their overlap."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae._core.checks import require

_ROWS = 1000  # of a matrix of distances at a time


def frechet_distance(a: Tensor, b: Tensor) -> float:
    r"""Squared Frechet distance of the normal distributions with the moments of two sets.

    :math:`\|m_a - m_b\|^2 + \mathrm{tr}(S_a + S_b - 2 (S_a^{1/2} S_b S_a^{1/2})^{1/2})`. With N vectors each it is
    biased upwards, in proportion to 1 / N.

    Args:
        a: ``(N, D)``.
        b: ``(M, D)``.

    References:
        GANs trained by a two time-scale update rule converge to a local Nash equilibrium (Heusel et al., 2017), eq. 6.
        https://arxiv.org/abs/1706.08500

    Example:
        >>> import torch
        >>> x = torch.randn(100, 3)
        >>> round(frechet_distance(x, x + 2.0), 6)
        12.0
    """
    a, b = a.double(), b.double()
    values, vectors = torch.linalg.eigh(a.T.cov())
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T  # (D, D)
    product = torch.linalg.eigvalsh(root @ b.T.cov() @ root).clamp_min(0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + a.var(0).sum() + b.var(0).sum() - 2 * product
    return float(distance.clamp_min(0))


def kernel_distance(a: Tensor, b: Tensor) -> float:
    r"""Unbiased estimate of the squared maximum mean discrepancy with the kernel :math:`(x \cdot y / D + 1)^3`.

    Args:
        a: ``(N, D)``.
        b: ``(M, D)``.

    References:
        Demystifying MMD GANs (Binkowski et al., 2018), section 4. https://arxiv.org/abs/1801.01401
    """

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        sums = [((rows @ y.T / x.shape[1] + 1) ** 3).sum() for rows in x.split(_ROWS)]
        return torch.stack(sums).sum()

    def within(x: Tensor) -> Tensor:
        own = ((x.square().sum(1) / x.shape[1] + 1) ** 3).sum()
        return (kernel(x, x) - own) / (len(x) * (len(x) - 1))

    a, b = a.double(), b.double()
    return float(within(a) + within(b) - 2 * kernel(a, b) / (len(a) * len(b)))


def overlap(real: Tensor, generated: Tensor, *, neighbours: int = 5) -> dict[str, float]:
    """Precision, recall, density and coverage, by balls that reach from a vector to its k-th neighbour in its own set.

    Precision is the share of generated vectors in the ball of a real one, recall the share of real vectors in the ball
    of a generated one. Density is the mean number of real balls around a generated vector, divided by k, coverage the
    share of real balls that hold a generated vector. Two equal distributions have a density of 1 and a coverage of
    1 - 2^-k for many data, and about the same precision and recall.

    Args:
        real: ``(N, D)``.
        generated: ``(M, D)``.
        neighbours: k.

    Raises:
        ValueError: a set is not larger than k.

    References:
        Improved precision and recall metric for assessing generative models (Kynkaanniemi et al., 2019), eq. 1 to 3.
        https://arxiv.org/abs/1904.06991
        Reliable fidelity and diversity metrics for generative models (Naeem et al., 2020), eq. 3, 4 and 8.
        https://arxiv.org/abs/2002.09797
    """
    smallest = min(len(real), len(generated))
    rule, value = "both sets must be larger than neighbours", f"{smallest} data for neighbours={neighbours}"
    require(smallest > neighbours, "sample_quality", rule, value, "Use more data")
    of_real, of_generated = _radii(real, neighbours), _radii(generated, neighbours)
    inside, reached, covered = real.new_zeros(len(generated)), [], []
    for rows, radius in zip(real.split(_ROWS), of_real.split(_ROWS), strict=True):
        distances = torch.cdist(rows, generated)
        within = distances <= radius[:, None]
        inside += within.sum(0)
        covered.append(within.any(1))
        reached.append((distances <= of_generated).any(1))
    return {
        "precision": float((inside > 0).double().mean()),
        "recall": float(torch.cat(reached).double().mean()),
        "density": float(inside.mean() / neighbours),
        "coverage": float(torch.cat(covered).double().mean()),
    }


def _radii(x: Tensor, k: int) -> Tensor:
    """Distance of each vector to its k-th neighbour, the vector itself not counted."""
    return torch.cat([torch.cdist(rows, x).kthvalue(k + 1).values for rows in x.split(_ROWS)])


def laplacian_energy(images: Tensor) -> Tensor:
    """Mean square of the discrete Laplacian of each image, ``(N,)``; small for blurred ones.

    Args:
        images: ``(N, C, H, W)``.

    References:
        Analysis of focus measure operators for shape-from-focus (Pertuz, Puig and Garcia, 2013), "energy of Laplacian".
        https://doi.org/10.1016/j.patcog.2012.11.011
    """
    curvature = images[..., 1:-1].diff(n=2, dim=-2) + images[..., 1:-1, :].diff(n=2, dim=-1)  # (N, C, H - 2, W - 2)
    return curvature.square().flatten(1).mean(1)
