"""Reconstructions, and interpolations between data along paths in latent space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from pyro_vae._core.checks import check_choice, check_count, require
from pyro_vae.latents.geodesic import geodesic
from pyro_vae.latents.paths import lerp, prior_path, slerp
from pyro_vae.latents.space import Codes, Inputs, LatentSpace, Model, latent_space

PathName = Literal["lerp", "slerp", "prior", "geodesic"]


@dataclass(frozen=True)
class Decoded:
    """Codes and the means of p(x | z) at them.

    Attributes:
        codes: of N data.
        means: ``(N, *data_shape)``.
    """

    codes: Codes
    means: Tensor


@dataclass(frozen=True)
class Interpolation:
    """Paths between N pairs of data.

    Attributes:
        z: ``(N, T, L)``, the codes.
        means: ``(N, T, *data_shape)``, the means of p(x | z).
        fractions: ``(T,)``, from 0 to 1.
        path: kind of the path.
        site: name of the latent.
    """

    z: Tensor
    means: Tensor
    fractions: Tensor
    path: PathName
    site: str

    @property
    def lengths(self) -> Tensor:
        """Lengths ``(N,)`` of the polygons of the means, in units of the data (Euclidean norm)."""
        return self.means.flatten(2).diff(dim=1).norm(dim=-1).sum(-1)


def reconstruct(vae: Model, x: Inputs, *, site: str | None = None, num_samples: int = 1000, seed: int = 0) -> Decoded:
    """Mean of p(x | z) at the posterior mean of z; ``vae.reconstruct`` uses a sample of z.

    Args:
        vae: the model, or a :class:`~pyro_vae.latents.LatentSpace` of it.
        x: data ``(N, *data_shape)``, a tuple of data and classes ``(N,)``, or codes.

    Raises:
        ValueError: as :class:`~pyro_vae.latents.LatentSpace`.

    Example:
        >>> from pyro_vae import VAE, guides, likelihoods, priors
        >>> guide, likelihood = guides.IAFGuide((5,), 2), likelihoods.BernoulliLikelihood(2, (5,))
        >>> reconstruct(VAE(priors.StandardNormalPrior(2), likelihood, guide), torch.ones(3, 5)).means.shape
        torch.Size([3, 5])
    """
    with latent_space(vae) as space:
        codes = space.encode(x)
        return Decoded(codes, space.decode(codes))


def interpolate(
    vae: Model,
    a: Inputs,
    b: Inputs,
    *,
    num: int = 11,
    path: PathName = "lerp",
    num_segments: int = 32,
) -> Interpolation:
    """Decode the way from the posterior mean of a to that of b, whose ends are the reconstructions of a and b.

    - ``"lerp"``: the straight path.
    - ``"slerp"``: the direction turns at constant speed and the norm changes linearly
      (:func:`~pyro_vae.latents.paths.slerp`).
    - ``"prior"``: straight in the quantiles of a prior of independent normal dimensions
      (:func:`~pyro_vae.latents.paths.prior_path`).
    - ``"geodesic"``: the shortest path of the decoded means (:func:`~pyro_vae.latents.geodesic.geodesic`).

    Other latents that x depends on, and floating-point arguments of the model, change linearly: the class of M2, as a
    one-hot vector, the layers above in a hierarchy with skip connections. Means of a posterior without a closed form
    are estimated from samples.

    Args:
        vae: the model, or a :class:`~pyro_vae.latents.LatentSpace` of it.
        a: data ``(N, *data_shape)``, a tuple of data and classes ``(N,)``, or codes.
        b: as many data.
        num: number of points T of a path, at least 2 with both ends.
        path: kind of the path.
        num_segments: number of segments of a geodesic, at least 2; more follow a curved path more closely.

    Raises:
        ValueError: a and b differ in number, a number is too small, the path is not defined for this model (a prior
            that is not normal, a decoder without a derivative), or as :class:`~pyro_vae.latents.LatentSpace`.

    References:
        Sampling Generative Networks (White, 2016). https://arxiv.org/abs/1609.04468

    Example:
        >>> from pyro_vae import VAE, guides, likelihoods, priors
        >>> guide, likelihood = guides.DiagonalNormalGuide((5,), 2), likelihoods.BernoulliLikelihood(2, (5,))
        >>> vae = VAE(priors.StandardNormalPrior(2), likelihood, guide)
        >>> interpolate(vae, torch.zeros(3, 5), torch.ones(3, 5), num=7, path="slerp").means.shape
        torch.Size([3, 7, 5])
    """
    check_choice("interpolate", "path", path, get_args(PathName))
    check_count("interpolate", 2, num=num, num_segments=num_segments)
    with latent_space(vae) as space:
        start, end = space.encode(a), space.encode(b)
        sizes = f"{len(start)} and {len(end)}"
        require(len(start) == len(end), "interpolate", "a and b must be equally many", sizes, "Repeat one of them")
        fractions = torch.linspace(0, 1, num, dtype=torch.float64, device=start.z.device)
        z = _path(space, start, end, fractions, path, max(num_segments, num - 1))
        # One point after the other: the ends are then decoded in batches of N, like reconstructions, to the last bit.
        points = [start.towards(end, t, z[:, i]) for i, t in enumerate(fractions.tolist())]
        return Interpolation(z, torch.stack([space.decode(c) for c in points], 1), fractions, path, start.site)


def _path(space: LatentSpace, start: Codes, end: Codes, fractions: Tensor, path: PathName, num_segments: int) -> Tensor:
    """The codes ``(N, T, L)``."""
    ends = start.z, end.z
    if path == "prior":
        return prior_path("interpolate", [space.prior(codes) for codes in (start, end)], *ends, fractions)
    if path == "geodesic":

        def decode(z: Tensor, t: Tensor) -> Tensor:
            num = len(t)
            codes = start.repeat(num).towards(end.repeat(num), t.repeat(len(z)), z.flatten(0, 1))
            return space.decode(codes).unflatten(0, (len(z), num)).flatten(2)

        return geodesic("interpolate", decode, *ends, fractions, num_segments=num_segments)
    return (slerp if path == "slerp" else lerp)(*ends, fractions)
