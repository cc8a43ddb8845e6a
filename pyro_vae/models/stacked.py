"""M1+M2: a semi-supervised model of the latents of a variational autoencoder, and thereby of the data."""

from __future__ import annotations

import pyro
import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn

from pyro_vae._core.checks import refusal, require
from pyro_vae._core.param_store import register
from pyro_vae.guides import AmortizedGuide, DiagonalNormalGuide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.models.labelled import LabelledGuide, LabelledModel, LabelledVAE
from pyro_vae.models.semi_supervised import SemiSupervisedVAE
from pyro_vae.models.vae import VAE
from pyro_vae.priors import StandardNormalPrior


class Split(nn.Module):
    """Partition of the latents of M1 into active ones, modelled by M2, and the rest.

    Args:
        active: distinct positions of the active latents.
        latent_dim: number of latents L_1 of M1.
    """

    active: Tensor
    rest: Tensor

    def __init__(self, active: Tensor, latent_dim: int) -> None:
        super().__init__()
        what = f"active of shape {tuple(active.shape)}, {active.dtype}, on {active.device}"
        valid = active.dtype == torch.int64 and active.dim() == 1 and not active.is_meta
        require(valid, "StackedVAE", "active must be positions (L,), int64", what)
        positions = active.tolist()
        if not positions or len(set(positions)) < len(positions) or not set(positions) <= set(range(latent_dim)):
            rule, advice = f"active must hold distinct positions in 0..{latent_dim - 1}", "Pass those of active latents"
            raise refusal("StackedVAE", rule, f"active={positions}", advice)
        rest = [i for i in range(latent_dim) if i not in set(positions)]
        self.whole = positions == list(range(latent_dim))
        self.register_buffer("active", active.clone())
        self.register_buffer("rest", torch.tensor(rest, dtype=torch.int64, device=active.device))

    def marginal(self, q: TorchDistribution, positions: Tensor) -> TorchDistribution:
        """Marginal of a diagonal normal at the positions; q itself if all latents are active in their order."""
        if self.whole:
            return q
        normal = q.base_dist
        return Normal(normal.loc[..., positions], normal.scale[..., positions]).to_event(1)

    def join(self, active: Tensor, rest: Tensor | None) -> Tensor:
        """All latents of M1 in their order, ``(*batch, L_1)``."""
        if self.whole:
            return active
        order = torch.cat([self.active, self.rest]).argsort()
        return (active if rest is None else torch.cat([active, rest], -1))[..., order]


class StackedModel(LabelledModel):
    r"""The Pyro model :math:`p(y)\, p(z)\, p(z_1 | y, z)\, p(x | z_1)`; calling it runs it.

    Args:
        lower: M1.
        upper: model of M2, of the active z_1.
        split: the partition of z_1.
    """

    def __init__(self, lower: VAE, upper: LabelledModel, split: Split) -> None:
        super().__init__(upper.label_prior, upper.prior, upper.likelihood)
        self.decoder: Likelihood = lower.likelihood
        self.lower_prior, self.split = lower.prior, split

    def sample_data(self, x: Tensor | None, z: Tensor, label: Tensor) -> Tensor:
        z1, rest = pyro.sample("z1", self.likelihood(z, label)), None
        if len(self.split.rest):
            rest = pyro.sample("z1_rest", self.split.marginal(self.lower_prior(), self.split.rest))
        return pyro.sample("x", self.decoder(self.split.join(z1, rest)), obs=x)


class StackedGuide(LabelledGuide):
    r"""The Pyro guide :math:`q(z_1 | x)\, q(y | z_1)\, q(z | z_1, y)`; calling it runs it.

    Args:
        lower: q(z_1 | x).
        upper: guide of M2, of the active z_1.
        split: the partition of z_1.
    """

    def __init__(self, lower: AmortizedGuide, upper: LabelledGuide, split: Split) -> None:
        super().__init__(upper.classifier, upper.guide, upper.classification_weight)
        self.lower, self.split = lower, split

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, ...]:
        register(self)
        q = self.lower.posterior(x)
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", self.split.marginal(q, self.split.active))
            if len(self.split.rest):
                pyro.sample("z1_rest", self.split.marginal(q, self.split.rest))
            label = self.sample_label(self.classifier.net(z1), x, y)
            z = pyro.sample("z", self.guide.posterior(z1, label), infer=dict(self.guide.infer))
        return z1, label, z


class StackedVAE(LabelledVAE):
    r"""M1+M2: M2 of the latents :math:`z_1` of a VAE, M1: :math:`p(y)\, p(z)\, p(z_1 | y, z)\, p(x | z_1)`.

    M1 is trained first; then M2, ``upper``, on samples of :math:`q(z_1 | x)`, new ones for every batch
    (:class:`~pyro_vae.data.latent_set.LatentSet`). This class combines both into a model of x, which can be evaluated,
    sampled from, and trained further as a whole.

    Inactive latents of M1 may be left out of M2: they keep their independent prior.

    Args:
        lower: M1.
        upper: M2; its data are the ``active`` latents of M1.
        active: ``(L,)``, int64, their positions; None for all. Leaving some out needs a
            :class:`~pyro_vae.guides.DiagonalNormalGuide` and a :class:`~pyro_vae.priors.StandardNormalPrior`.

    Attributes:
        model: the Pyro model with the sites ``"y"``, ``"z"``, ``"z1"``, ``"x"``; ``"z1_rest"`` if latents are left out,
            ``"label"`` if labels are given.
        guide: the Pyro guide with ``"z1"``, ``"y"``, ``"z"``, and ``"z1_rest"``.

    Raises:
        ValueError: M2 is a model of another number of latents, or dependent latents are left out.

    References:
        Semi-supervised learning with deep generative models (Kingma et al., 2014), section 2: the stacked model.
        https://arxiv.org/abs/1406.5298

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import CategoricalGuide, DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.networks import ContextNetwork
        >>> from pyro_vae import SemiSupervisedVAE, StackedVAE
        >>> from pyro_vae.likelihoods import NormalLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> m1 = VAE(StandardNormalPrior(4), BernoulliLikelihood(4, (5,)), DiagonalNormalGuide((5,), 4))
        >>> net = partial(ContextNetwork, context_dim=3)
        >>> pieces = NormalLikelihood(2, (3,), net=net), DiagonalNormalGuide((3,), 2, net=net)
        >>> m2 = SemiSupervisedVAE(StandardNormalPrior(2), *pieces, CategoricalGuide((3,), 3))
        >>> both = StackedVAE(m1, m2, torch.tensor([0, 1, 3]))
        >>> both.classify(torch.ones(7, 5)).shape, both.sample(2).shape
        (torch.Size([7, 3]), torch.Size([2, 5]))
    """

    model: StackedModel
    guide: StackedGuide

    def __init__(self, lower: VAE, upper: SemiSupervisedVAE, active: Tensor | None = None) -> None:
        active = torch.arange(lower.latent_dim) if active is None else active
        split = Split(active, lower.latent_dim)
        if upper.data_shape != (len(active),):
            rule, advice = f"M2 must be a model of the {len(active)} active latents", "Build it with their number"
            raise refusal("StackedVAE", rule, f"data_shape={upper.data_shape}", advice)
        factorised = isinstance(lower.guide, DiagonalNormalGuide) and isinstance(lower.prior, StandardNormalPrior)
        if not isinstance(lower.guide, AmortizedGuide) or not (split.whole or factorised):
            rule = "latents can be left out or reordered for DiagonalNormalGuide and StandardNormalPrior only"
            what = f"guide={type(lower.guide).__name__}, prior={type(lower.prior).__name__}"
            raise refusal("StackedVAE", rule, what, "Omit active to use all latents")
        model = StackedModel(lower, upper.model, split)
        super().__init__(model, StackedGuide(lower.guide, upper.guide, split))

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one datum x."""
        return self.model.decoder.data_shape

    def class_probabilities(self, x: Tensor, *, num_samples: int | None = 20) -> Tensor:
        r"""Probabilities of the classes, :math:`q(y | x) = E_{q(z_1 | x)}\, q(y | z_1)`.

        Args:
            x: ``(*batch, *data_shape)``.
            num_samples: number of samples of z_1 for each datum; None uses the mean of q(z_1 | x) instead.

        Returns:
            ``(*batch, C)``.

        Raises:
            ValueError: ``num_samples`` is not positive.
        """
        q = self.guide.split.marginal(self.guide.lower.posterior(x), self.guide.split.active)
        return self.mean_over(q, lambda z1: self.classifier.net(z1), num_samples)
