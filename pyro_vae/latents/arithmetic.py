"""Arithmetic with codes: edits by a vector, and analogies."""

from __future__ import annotations

import math

from torch import Tensor

from pyro_vae._core.checks import check_shape, require
from pyro_vae.latents.interpolation import Decoded
from pyro_vae.latents.space import Inputs, Model, latent_space


def edit(vae: Model, x: Inputs, vector: Tensor, amount: float = 1.0) -> Decoded:
    """Add a multiple of a vector to the codes of x.

    Args:
        vae: the model, or a :class:`~pyro_vae.latents.LatentSpace` of it.
        x: data ``(N, *data_shape)``, a tuple of data and classes ``(N,)``, or codes, as of an earlier edit.
        vector: ``(L,)``, as of :func:`attribute_vector`.
        amount: factor of the vector; 1 moves from the mean without the attribute to the mean with it.

    Raises:
        ValueError: the vector has another size, ``amount`` is not finite, or as :class:`~pyro_vae.latents.LatentSpace`.

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, guides, likelihoods, priors
        >>> guide, likelihood = guides.DiagonalNormalGuide((5,), 2), likelihoods.BernoulliLikelihood(2, (5,))
        >>> vae = VAE(priors.StandardNormalPrior(2), likelihood, guide)
        >>> x, vector = torch.ones(3, 5), torch.tensor([1.0, -1.0])
        >>> there = edit(vae, x, vector)
        >>> back = edit(vae, there.codes, vector, -1.0)
        >>> torch.allclose(back.means, edit(vae, x, vector, 0.0).means, atol=1e-6)
        True
    """
    require(math.isfinite(amount), "edit", "amount must be finite", f"amount={amount}")
    with latent_space(vae) as space:
        codes = space.encode(x)
        check_shape("edit", "vector", vector.shape, codes.z.shape[1:], "Pass one vector of attribute_vector")
        moved = codes.at(codes.z + amount * vector.to(codes.z))
        return Decoded(moved, space.decode(moved))


def analogy(vae: Model, a: Inputs, b: Inputs, c: Inputs) -> Decoded:
    """The x that is to c as b is to a: the code :math:`b - a + c`, with the other latents of c.

    Args:
        vae: the model, or a :class:`~pyro_vae.latents.LatentSpace` of it.
        a: data ``(N, *data_shape)``, a tuple of data and classes ``(N,)``, or codes.
        b: as many data.
        c: as many data.

    Raises:
        ValueError: a, b and c differ in number, or as :class:`~pyro_vae.latents.LatentSpace`.

    References:
        Deep visual analogy-making (Reed et al., 2015): the difference of codes.
        https://papers.nips.cc/paper/2015/hash/45f31d16b1058d586fc3be7207b58053-Abstract.html
    """
    with latent_space(vae) as space:
        codes = [space.encode(x) for x in (a, b, c)]
        sizes = ", ".join(str(len(code)) for code in codes)
        require(len({len(code) for code in codes}) == 1, "analogy", "a, b and c must be equally many", sizes)
        moved = codes[2].at(codes[1].z - codes[0].z + codes[2].z)
        return Decoded(moved, space.decode(moved))
