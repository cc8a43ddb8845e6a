"""Mixture models, whose posterior is a sum over the components."""

from __future__ import annotations

import math
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_vae._core.checks import CheckedArguments, check_arguments
from pyro_vae._core.html import DisplayedModule
from pyro_vae._core.param_store import register
from pyro_vae._core.saved_modules import SavedModule
from pyro_vae.likelihoods import Likelihood
from pyro_vae.models.components import Components
from pyro_vae.priors import CategoricalPrior

_BLOCK = 1_000_000  # entries of data times components at a time


class MixtureModel(nn.Module, DisplayedModule, SavedModule, CheckedArguments):
    r"""Mixture model, :math:`p(x) = \sum_k \pi_k\, p(x | z = e_k)`, as a Pyro model; calling it runs it.

    It is a VAE with a one-hot z whose exact posterior needs no guide: with :meth:`guide`, which has no sites,
    ``EnumeratedELBO`` and Pyro's ``TraceEnum_ELBO`` are log p(x). :func:`pyro_vae.training.fit_em` fits it.

    Args:
        components: p(x | z) of one-hot z: components with an M-step in closed form, such as
            :class:`~pyro_vae.models.NormalComponents`, or any likelihood whose ``latent_dim`` is the number of
            components.
        learn_weights: whether the weights of the components are learned; otherwise they are equal.

    Attributes:
        prior: p(z), with the weights of the components.
        likelihood: p(x | z), the components.

    References:
        Maximum likelihood from incomplete data via the EM algorithm (Dempster, Laird and Rubin, 1977).
        https://doi.org/10.1111/j.2517-6161.1977.tb01600.x

    Example:
        >>> from pyro_vae.models import NormalComponents
        >>> model = MixtureModel(NormalComponents((2,), 3))
        >>> x = model.sample(5)
        >>> model.responsibilities(x).shape, model.log_prob(x).shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(self, components: Components | Likelihood, *, learn_weights: bool = True) -> None:
        super().__init__()
        self.likelihood = components
        self.prior = CategoricalPrior(components.latent_dim, learn=learn_weights)
        self.learn_weights = learn_weights

    @property
    def num_components(self) -> int:
        """Number of components K."""
        return self.prior.latent_dim

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return self.likelihood.data_shape

    def forward(self, x: Tensor | None = None, *, batch_size: int = 1) -> Tensor:
        """Run the Pyro model: sample ``"z"``, marked for enumeration, and ``"x"`` within the plate ``"data"``.

        Args:
            x: ``(B, *data_shape)``, observed; None to sample x.
            batch_size: number of data to sample if ``x`` is None.

        Returns:
            x, ``(B, *data_shape)``.
        """
        register(self)
        with pyro.plate("data", batch_size if x is None else x.shape[0], dim=-1):
            z = pyro.sample("z", self.prior(), infer={"enumerate": "parallel"})
            return pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x: Tensor | None = None, **options: Any) -> None:
        """The guide without sites: z is summed over."""

    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x, z) for every component, ``(B, K)``, in nats, of ``x`` ``(B, *data_shape)``."""
        logits = self.prior.logits[0]
        p = self.likelihood(torch.eye(self.num_components).to(logits))  # batch shape (K,)
        return p.log_prob(x.unsqueeze(1)) + logits.log_softmax(-1)

    def blocks(self, x: Tensor) -> tuple[Tensor, ...]:
        """Split data into blocks whose densities under all components fit into memory."""
        return x.split(max(1, _BLOCK // (self.num_components * math.prod(self.data_shape))))

    @torch.no_grad()
    def log_joints(self, x: Tensor) -> Tensor:
        """:meth:`log_joint` in blocks, without a gradient."""
        check_arguments(MixtureModel.log_joints, locals(), "MixtureModel")
        return torch.cat([self.log_joint(block) for block in self.blocks(x)])

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), ``(B,)``, in nats, of ``x`` ``(B, *data_shape)``; without a gradient."""
        return self.log_joints(x).logsumexp(-1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """p(z | x), the probabilities of the components, ``(B, K)``, of ``x`` ``(B, *data_shape)``."""
        return self.log_joints(x).softmax(-1)

    @torch.no_grad()
    def sample(self, num_samples: int = 1) -> Tensor:
        """Sample from the model, ``(N, *data_shape)``."""
        return self.likelihood(self.prior().sample(torch.Size([num_samples]))).sample()

    @property
    def num_parameters(self) -> int:
        """Number of free parameters: K - 1 weights, if they are learned, and those of the components."""
        own = getattr(self.likelihood, "num_parameters", sum(p.numel() for p in self.likelihood.parameters()))
        return own + (self.num_components - 1 if self.learn_weights else 0)

    def bic(self, x: Tensor) -> float:
        r"""Bayesian information criterion of data, :math:`-2 \log p(x) + P \log N`; lower is better.

        Args:
            x: ``(N, *data_shape)``.

        References:
            Estimating the dimension of a model (Schwarz, 1978). https://doi.org/10.1214/aos/1176344136
        """
        return -2 * float(self.log_prob(x).sum()) + self.num_parameters * math.log(len(x))
