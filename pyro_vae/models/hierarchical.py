"""Variational autoencoders with several layers of latents."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae._core.checks import CheckedArguments, refusal, require
from pyro_vae._core.html import DisplayedModule
from pyro_vae._core.param_store import no_registration, register
from pyro_vae._core.saved_modules import SavedModule
from pyro_vae.distributions import mean_or_sample
from pyro_vae.guides import AmortizedGuide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.models.layered_guides import LayeredGuide, layer_list
from pyro_vae.priors import Prior


class HierarchicalModel(nn.Module, CheckedArguments):
    r"""The Pyro model :math:`p(z_n)\, p(z_{n-1} | z_n) \cdots p(z_1 | z_2)\, p(x | z)`; calling it runs it.

    Args:
        prior: p(z_n) of the top layer.
        conditionals: p(z_1 | z_2) to p(z_{n-1} | z_n).
        likelihood: p(x | z_1), or p(x | z_1, ..., z_n) with a skip connection.
        skip: whether x depends on every layer.

    Example:
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> below = DiagonalNormalGuide((2,), 3)  # p(z1 | z2)
        >>> model = HierarchicalModel(StandardNormalPrior(2), [below], BernoulliLikelihood(3, (5,)), skip=False)
        >>> model(batch_size=4).shape
        torch.Size([4, 5])
    """

    def __init__(
        self, prior: Prior, conditionals: Sequence[AmortizedGuide], likelihood: Likelihood, *, skip: bool
    ) -> None:
        super().__init__()
        self.prior, self.likelihood, self.skip = prior, likelihood, skip
        self.conditionals = layer_list(conditionals)

    def forward(self, x: Tensor | None = None, *, batch_size: int = 1) -> Tensor:
        """Run the Pyro model: sample ``"zn"``, ..., ``"z1"`` and ``"x"`` within the plate ``"data"``.

        Args:
            x: ``(B, *data_shape)``, observed; None to sample x.
            batch_size: number of data to sample if ``x`` is None.

        Returns:
            x, ``(B, *data_shape)``.
        """
        register(self)
        with pyro.plate("data", batch_size if x is None else x.shape[0], dim=-1):
            latents = self.latents()
            return pyro.sample("x", self.decode(latents), obs=x)

    def latents(self) -> list[Tensor]:
        """Run the Pyro statements of the latents; returns z_1 to z_n, ``(*batch, L_l)`` each."""
        latents = [pyro.sample(f"z{len(self.conditionals) + 1}", self.prior())]
        for layer in range(len(self.conditionals), 0, -1):
            latents.insert(0, pyro.sample(f"z{layer}", self.conditionals[layer - 1].posterior(latents[0])))
        return latents

    def decode(self, latents: Sequence[Tensor]) -> TorchDistribution:
        """p(x | z) for z_1 to z_n."""
        return self.likelihood(torch.cat(list(latents), -1) if self.skip else latents[0])


class HierarchicalVAE(nn.Module, DisplayedModule, SavedModule, CheckedArguments):
    r"""Variational autoencoder with n layers of latents, any prior of the top layer and any conditional families.

    The conditional distributions of the layers are guides: ``DiagonalNormalGuide((L2,), L1)`` is p(z_1 | z_2) or
    q(z_1 | z_2), and one with a :class:`~pyro_vae.networks.ContextNetwork` is q(z_1 | x, z_2).

    Args:
        prior: p(z_n) of the top layer.
        conditionals: p(z_1 | z_2) to p(z_{n-1} | z_n); the ``data_shape`` of each is ``(L_{l+1},)``.
        likelihood: p(x | z_1), or with ``skip`` p(x | z_1, ..., z_n), whose ``latent_dim`` is L_1 + ... + L_n.
        guide: :class:`BottomUpGuide`, :class:`TopDownGuide` or :class:`LadderGuide`.
        skip: whether x depends on every layer, as in the two-level model of the VampPrior paper.

    Attributes:
        model: the Pyro model, with the sites ``"zn"``, ..., ``"z1"`` and ``"x"`` in the plate ``"data"``.
        guide: the Pyro guide of the same latent sites.

    Raises:
        ValueError: sizes of layers are inconsistent.

    References:
        Ladder variational autoencoders (Sonderby et al., 2016), section 2. https://arxiv.org/abs/1602.02282
        VAE with a VampPrior (Tomczak and Welling, 2018), section 3. https://arxiv.org/abs/1705.07120

    Example:
        >>> import torch
        >>> from pyro_vae import log_likelihood
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> from pyro_vae.models import BottomUpGuide, HierarchicalVAE
        >>> guide = BottomUpGuide([DiagonalNormalGuide((5,), 3), DiagonalNormalGuide((3,), 2)])
        >>> conditionals = [DiagonalNormalGuide((2,), 3)]
        >>> vae = HierarchicalVAE(StandardNormalPrior(2), conditionals, BernoulliLikelihood(3, (5,)), guide)
        >>> len(log_likelihood(vae.model, vae.guide, torch.ones(7, 5), num_samples=10))
        7
    """

    def __init__(
        self,
        prior: Prior,
        conditionals: Sequence[AmortizedGuide],
        likelihood: Likelihood,
        guide: LayeredGuide,
        *,
        skip: bool = False,
    ) -> None:
        super().__init__()
        dims = _latent_dims(prior, conditionals)
        expected = sum(dims) if skip else dims[0]
        if likelihood.latent_dim != expected:
            rule = f"the likelihood's latent_dim must be {expected} (skip={skip}, layers {dims})"
            raise refusal("HierarchicalVAE", rule, f"latent_dim={likelihood.latent_dim}")
        if guide.latent_dims != dims or guide.data_shape != likelihood.data_shape:
            rule = f"the guide must have layers {dims} and data_shape={likelihood.data_shape}"
            raise refusal("HierarchicalVAE", rule, f"layers {guide.latent_dims} and data_shape={guide.data_shape}")
        self.model = HierarchicalModel(prior, conditionals, likelihood, skip=skip)
        self.guide = guide
        guide.attach(self.model.conditionals)

    @property
    def latent_dims(self) -> tuple[int, ...]:
        """Number of latent dimensions of z_1 to z_n."""
        return _latent_dims(self.model.prior, list(self.model.conditionals))

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return self.model.likelihood.data_shape

    def with_guide(self, guide: LayeredGuide) -> HierarchicalVAE:
        """Combine the model with another guide; the model's tensors are shared, not copied.

        Args:
            guide: guide with the same layers and data_shape.
        """
        model = self.model
        return HierarchicalVAE(model.prior, list(model.conditionals), model.likelihood, guide, skip=model.skip)

    @torch.no_grad()
    def sample(self, num_samples: int = 1, *, mean: bool = False) -> Tensor:
        """Sample from the model: the latents from the top layer down, then x from p(x | z).

        Args:
            num_samples: number of samples N.
            mean: return the mean of p(x | z) instead of a sample.

        Returns:
            ``(N, *data_shape)``.
        """
        with no_registration(), pyro.plate("data", num_samples, dim=-1):
            p = self.model.decode(self.model.latents())
        return mean_or_sample(p) if mean else p.sample()

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Mean of p(x | z) at one sample z of the guide, ``(B, *data_shape)``."""
        with no_registration():
            return mean_or_sample(self.model.decode(self.guide(x)))


def _latent_dims(prior: Prior, conditionals: Sequence[AmortizedGuide]) -> tuple[int, ...]:
    """Check the sizes of adjacent layers and return L_1 to L_n."""
    dims = (*(conditional.latent_dim for conditional in conditionals), prior.latent_dim)
    for layer, conditional in enumerate(conditionals, start=1):
        if conditional.data_shape != (dims[layer],):
            rule = f"p(z{layer} | z{layer + 1}) must take data_shape={(dims[layer],)}, the size of the layer above"
            raise refusal("HierarchicalVAE", rule, f"data_shape={conditional.data_shape}")
    require(len(dims) > 1, "HierarchicalVAE", "there must be two layers or more", "conditionals=[]", "Use VAE for one")
    return dims
