"""M1+M2: a semi-supervised model of the latents of a variational autoencoder, and through it of the data."""

from __future__ import annotations

import pyro
import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn

from pyro_vae._core.param_store import register
from pyro_vae.guides import AmortizedGuide, DiagonalNormalGuide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.models.labelled import LabelledGuide, LabelledModel, LabelledVAE
from pyro_vae.models.semi_supervised import SemiSupervisedVAE
from pyro_vae.models.vae import VAE
from pyro_vae.priors import StandardNormalPrior


class Split(nn.Module):
    """The latents of M1 in two parts: those that M2 is a model of, and the others.

    Args:
        active: positions of the first part, each once.
        latent_dim: number of all latents L_1.
    """

    active: Tensor
    rest: Tensor

    def __init__(self, active: Tensor, latent_dim: int) -> None:
        super().__init__()
        chosen = active.tolist()
        if not chosen or sorted(set(chosen)) != sorted(chosen) or not 0 <= min(chosen) <= max(chosen) < latent_dim:
            raise ValueError(
                f"StackedVAE: active must hold positions in 0..{latent_dim - 1}, each once, got active={chosen}. "
                "Pass those of the latents whose posterior means vary."
            )
        rest = [i for i in range(latent_dim) if i not in set(chosen)]
        self.whole = chosen == list(range(latent_dim))
        self.register_buffer("active", active.clone())
        self.register_buffer("rest", torch.tensor(rest, dtype=torch.int64, device=active.device))

    def of(self, q: TorchDistribution, part: Tensor) -> TorchDistribution:
        """The margin of a diagonal normal, or all of any distribution where nothing is left out or moved."""
        if self.whole:
            return q
        normal = q.base_dist
        return Normal(normal.loc[..., part], normal.scale[..., part]).to_event(1)

    def join(self, active: Tensor, rest: Tensor | None) -> Tensor:
        """Both parts, ``(*batch, L_1)``."""
        if self.whole:
            return active
        order = torch.cat([self.active, self.rest]).argsort()
        return (active if rest is None else torch.cat([active, rest], -1))[..., order]


class StackedModel(LabelledModel):
    r"""The Pyro model :math:`p(y)\, p(z)\, p(z_1 | y, z)\, p(x | z_1)`; calling it runs it.

    Args:
        lower: M1.
        upper: M2's model, of the active z_1.
        split: which these are.
    """

    def __init__(self, lower: VAE, upper: LabelledModel, split: Split) -> None:
        super().__init__(upper.label_prior, upper.prior, upper.likelihood)
        self.decoder: Likelihood = lower.likelihood
        self.lower_prior, self.split = lower.prior, split

    def sample_data(self, x: Tensor | None, z: Tensor, label: Tensor) -> Tensor:
        z1, rest = pyro.sample("z1", self.likelihood(z, label)), None
        if len(self.split.rest):
            margin = self.split.of(self.lower_prior(), self.split.rest)
            rest = pyro.sample("z1_rest", margin)
        return pyro.sample("x", self.decoder(self.split.join(z1, rest)), obs=x)


class StackedGuide(LabelledGuide):
    r"""The Pyro guide :math:`q(z_1 | x)\, q(y | z_1)\, q(z | z_1, y)`; calling it runs it.

    Args:
        lower: q(z_1 | x).
        upper: M2's guide, of the active z_1.
        split: which these are.
    """

    def __init__(self, lower: AmortizedGuide, upper: LabelledGuide, split: Split) -> None:
        super().__init__(upper.classifier, upper.guide, upper.classification_weight)
        self.lower, self.split = lower, split

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, ...]:
        register(self)
        q = self.lower.posterior(x)
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", self.split.of(q, self.split.active))
            if len(self.split.rest):
                pyro.sample("z1_rest", self.split.of(q, self.split.rest))
            label = self.sample_label(self.classifier.net(z1), x, y)
            z = pyro.sample("z", self.guide.posterior(z1, label), infer=dict(self.guide.infer))
        return z1, label, z


class StackedVAE(LabelledVAE):
    r"""M1+M2: M2 of the latents :math:`z_1` of a VAE, M1: :math:`p(y)\, p(z)\, p(z_1 | y, z)\, p(x | z_1)`.

    M1 is trained first and kept; then M2, ``upper``, on draws of :math:`q(z_1 | x)`, new ones for every batch
    (:class:`~pyro_vae.data.LatentSet`). This class is what both are together: a model of x, which may be evaluated,
    drawn from, and trained further as a whole.

    The latents of M1 that carry nothing may be left out of M2: they keep their prior, of which they are independent.

    Args:
        lower: M1.
        upper: M2; its data are the ``active`` latents of M1.
        active: ``(L,)``, int64, their positions; None takes all. Leaving some out needs a
            :class:`~pyro_vae.guides.DiagonalNormalGuide` and a :class:`~pyro_vae.priors.StandardNormalPrior`.

    Attributes:
        model: the Pyro model with the sites ``"y"``, ``"z"``, ``"z1"``, ``"x"``; ``"z1_rest"`` where latents are left
            out, ``"label"`` where labels are given.
        guide: the Pyro guide with ``"z1"``, ``"y"``, ``"z"``, and ``"z1_rest"``.

    Raises:
        ValueError: M2 is not a model of that many latents, or latents that depend on each other are left out.

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
            raise ValueError(
                f"StackedVAE: M2 must be a model of the {len(active)} active latents, got "
                f"data_shape={upper.data_shape}. Build it with data_shape=({len(active)},)."
            )
        factorised = isinstance(lower.guide, DiagonalNormalGuide) and isinstance(lower.prior, StandardNormalPrior)
        if not isinstance(lower.guide, AmortizedGuide) or not (split.whole or factorised):
            raise ValueError(
                "StackedVAE: latents may be left out of diagonal normals only, or moved, got "
                f"guide={type(lower.guide).__name__}, prior={type(lower.prior).__name__}. Leave active away, for all."
            )
        model = StackedModel(lower, upper.model, split)
        super().__init__(model, StackedGuide(lower.guide, upper.guide, split))

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one datum x."""
        return self.model.decoder.data_shape

    def classify(self, x: Tensor, *, num_samples: int | None = 20) -> Tensor:
        r"""Probabilities of the classes, :math:`q(y | x) = E_{q(z_1 | x)}\, q(y | z_1)`.

        Args:
            x: ``(*batch, *data_shape)``.
            num_samples: number of draws of z_1 for each datum; None takes the mean of q(z_1 | x) alone.

        Returns:
            ``(*batch, C)``.

        Raises:
            ValueError: ``num_samples`` is not positive.
        """
        q = self.guide.split.of(self.guide.lower.posterior(x), self.guide.split.active)
        return self.mean_over(q, lambda z1: self.classifier.net(z1), num_samples)
