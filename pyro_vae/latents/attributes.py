"""Attribute vectors: directions in latent space that change one feature of an image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_vae._core.checks import check_shape, require
from pyro_vae.data.batches import Data
from pyro_vae.latents.space import Model, latent_space


def attribute_vector(vae: Model, images: Data, labels: Tensor, *, balance: bool = True) -> Tensor:
    """Mean code of the images with an attribute minus that of the images without.

    With ``balance``, the bias-corrected vector: labels of several attributes are often correlated, and the
    plain difference of one then contains the others. Here the difference is taken within every combination of the
    other attributes and averaged over combinations, as if images had been replicated until all were equally many.
    Combinations in which all images agree in the attribute do not count.

    Args:
        vae: the model, or a :class:`~pyro_vae.latents.LatentSpace` of it.
        images: an ``ImageSet``, a tensor ``(N, *data_shape)``, or an iterable of batches.
        labels: ``(N,)`` for one attribute or ``(N, A)``: bool, or 0 and 1.
        balance: whether the vector of each attribute is corrected for the others.

    Returns:
        ``(L,)`` for one attribute, or ``(A, L)``.

    Raises:
        ValueError: labels are not 0 and 1 of all images, no image has the attribute or none lacks it, with ``balance``
            in any combination of the others, or as :class:`~pyro_vae.latents.LatentSpace`.

    References:
        Sampling Generative Networks (White, 2016): the correction by replication.
        https://arxiv.org/abs/1609.04468

    Example:
        >>> from pyro_vae import VAE, guides, likelihoods, priors
        >>> guide, likelihood = guides.DiagonalNormalGuide((5,), 2), likelihoods.BernoulliLikelihood(2, (5,))
        >>> vae = VAE(priors.StandardNormalPrior(2), likelihood, guide)
        >>> attribute_vector(vae, torch.rand(6, 5), torch.tensor([0, 0, 0, 1, 1, 1])).shape
        torch.Size([2])
    """
    with latent_space(vae) as space:
        z = space.means(images)
    table = _binary("attribute_vector", labels, len(z)).to(z.device)  # (N, A)
    vectors = [_difference(z, table, j, balance) for j in range(table.shape[1])]
    return vectors[0] if labels.ndim == 1 else torch.stack(vectors)


def synthetic_vector(vae: Model, images: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean change of the codes if the images are transformed: an attribute vector without labels.

    The negative vector of a blur sharpens reconstructions.

    Args:
        vae: the model, or a :class:`~pyro_vae.latents.LatentSpace` of it.
        images: ``(N, *data_shape)``.
        transform: from images to as many images, such as a blur or a shift.

    Returns:
        ``(L,)``.

    Raises:
        ValueError: the transformed images have another shape, or as :class:`~pyro_vae.latents.LatentSpace`.

    References:
        Sampling Generative Networks (White, 2016). https://arxiv.org/abs/1609.04468
    """
    changed = transform(images)
    check_shape("synthetic_vector", "transformed images", changed.shape, images.shape, "Keep number and size")
    with latent_space(vae) as space:
        after, before = (space.means(batch) for batch in (changed, images))
    return (after - before).mean(0)


def attribute_auroc(vae: Model, images: Data, labels: Tensor, vector: Tensor) -> float:
    """AtDot: area under the ROC curve of the dot product of code and vector, as a classifier of the attribute.

    The probability that an image with the attribute has a larger product than one without: 0.5 for a useless vector,
    1 for one that separates them. Use images on which the vector was not computed.

    Args:
        vae: the model, or a :class:`~pyro_vae.latents.LatentSpace` of it.
        images: an ``ImageSet``, a tensor ``(N, *data_shape)``, or an iterable of batches.
        labels: ``(N,)`` of one attribute: bool, or 0 and 1.
        vector: ``(L,)``.

    Raises:
        ValueError: labels are not 0 and 1 of all images, or all equal, the vector has another size, or as
            :class:`~pyro_vae.latents.LatentSpace`.

    References:
        Sampling Generative Networks (White, 2016). https://arxiv.org/abs/1609.04468
    """
    from sklearn.metrics import roc_auc_score  # importing it takes longer than importing this package

    with latent_space(vae) as space:
        z = space.means(images)
    check_shape("attribute_auroc", "vector", vector.shape, z.shape[1:], "Pass one vector of attribute_vector")
    table = _binary("attribute_auroc", labels.reshape(len(labels), -1)[:, :1], len(z))
    return float(roc_auc_score(table[:, 0].cpu().numpy(), (z @ vector.to(z)).double().cpu().numpy()))


def _binary(owner: str, labels: Tensor, num: int) -> Tensor:
    """The labels as a bool matrix ``(N, A)``, in which every attribute has both values."""
    valid = labels.ndim in (1, 2) and len(labels) == num and bool(((labels == 0) | (labels == 1)).all())
    what = f"shape={tuple(labels.shape)}, dtype={labels.dtype}"
    require(valid, owner, f"labels must be 0 and 1, ({num},) or ({num}, A)", what, "Compare classes: labels == 3")
    table = labels.reshape(num, -1).bool()
    both = table.any(0) & ~table.all(0)
    rule, missing = "images with and without the attribute are needed", (~both).nonzero().flatten().tolist()
    require(not missing, owner, rule, f"equal labels of attributes {missing}", "Pass more images")
    return table


def _difference(z: Tensor, table: Tensor, j: int, balance: bool) -> Tensor:
    """Mean of z with attribute j minus that without, averaged over the combinations of the others if ``balance``."""
    others = table[:, [i for i in range(table.shape[1]) if i != j]] if balance else table[:, :0]
    group = others.unique(dim=0, return_inverse=True)[1] if others.shape[1] else torch.zeros_like(table[:, 0]).long()
    differences = []
    for number in range(int(group.max()) + 1):
        inside = group == number
        yes, no = z[inside & table[:, j]], z[inside & ~table[:, j]]
        if len(yes) and len(no):
            differences.append(yes.mean(0) - no.mean(0))
    rule = f"attribute {j} must vary within a combination of the others"
    require(bool(differences), "attribute_vector", rule, "none in which it does", "Use balance=False")
    return torch.stack(differences).mean(0)
