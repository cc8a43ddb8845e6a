"""The guide of categorical variables."""

from __future__ import annotations

from typing import Literal

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vae.distributions import IndependentOneHotCategorical, RelaxedIndependentOneHotCategorical
from pyro_vae.distributions.one_hot import split_into_variables
from pyro_vae.guides.base import AmortizedGuide
from pyro_vae.networks import MLP, NetworkFactory, Shape


class CategoricalGuide(AmortizedGuide):
    r"""Independent categorical variables, :math:`q(z | x) = \prod_v \mathrm{Cat}(z_v; \mathrm{softmax}(\ell_v(x)))`.

    For a :class:`~pyro_vae.priors.CategoricalPrior` of the same categories. z are the one-hot vectors of all variables,
    one after the other. The gradient of their distribution is found in one of three ways:

    - ``"enumerate"``: exactly, by summing over all combinations, with ``EnumeratedELBO`` or Pyro's ``TraceEnum_ELBO``;
      the model is evaluated at each of them.
    - ``"score"``: by the score function of a draw, with any objective: unbiased, of large variance.
    - ``"relaxed"``: through relaxed draws while training, with ``ELBO`` and others that follow paths: of small
      variance, and biased, since a relaxed z is none that the model is about and its density is taken as that of a
      one-hot z. The bias falls with the temperature, while the variance grows. In ``eval`` mode draws are one-hot, so
      that estimates of log p(x) are of the model with categorical variables.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L, variables times categories.
        categories: number of categories of each variable; by default one variable.
        estimator: of the gradient.
        temperature: of relaxed draws; the buffer ``temperature``, which may be filled anew while training.
        straight_through: in relaxed training, give the model the nearest one-hot z, with the gradient of the relaxed.
        net: builds the encoder, ``net(data_shape, (variables, categories))``, which returns logits.

    Shape:
        ``(*batch, *data_shape)`` to a distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    Raises:
        ValueError: ``latent_dim`` is no multiple of ``categories``, there is no such estimator, the temperature is not
            positive, or ``straight_through`` is asked of another estimator.

    References:
        Categorical reparameterization with Gumbel-Softmax (Jang et al., 2017). https://arxiv.org/abs/1611.01144
        The concrete distribution: a continuous relaxation of discrete random variables (Maddison et al., 2017).
        https://arxiv.org/abs/1611.00712
        Simple statistical gradient-following algorithms for connectionist reinforcement learning (Williams, 1992).
        https://doi.org/10.1007/BF00992696

    Example:
        >>> import torch
        >>> from pyro.infer import TraceEnum_ELBO
        >>> from pyro_vae import VAE
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.guides import CategoricalGuide
        >>> from pyro_vae.priors import CategoricalPrior
        >>> prior, guide = CategoricalPrior(6, categories=3), CategoricalGuide((5,), 6, categories=3)
        >>> vae = VAE(prior, BernoulliLikelihood(6, (5,)), guide)
        >>> TraceEnum_ELBO(max_plate_nesting=1)(vae.model, vae.guide)(torch.ones(7, 5)).shape
        torch.Size([])
    """

    temperature: Tensor

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        *,
        categories: int | None = None,
        estimator: Literal["enumerate", "score", "relaxed"] = "enumerate",
        temperature: float = 0.5,
        straight_through: bool = False,
        net: NetworkFactory = MLP,
    ) -> None:
        shape = split_into_variables("CategoricalGuide", latent_dim, categories) if latent_dim > 0 else (1, 1)
        super().__init__(data_shape, latent_dim, param_shape=shape, net=net)
        if estimator not in ("enumerate", "score", "relaxed") or not temperature > 0:
            raise ValueError(
                "CategoricalGuide: estimator must be enumerate, score or relaxed and temperature positive, got "
                f"estimator={estimator!r}, temperature={temperature}. Use for example 'relaxed' and 0.5."
            )
        if straight_through and estimator != "relaxed":
            raise ValueError(
                "CategoricalGuide: straight_through must go with relaxed draws, got "
                f"estimator={estimator!r}. Use estimator='relaxed'."
            )
        self.estimator, self.straight_through, self.categories = estimator, straight_through, shape[-1]
        self.infer = {"enumerate": "parallel"} if estimator == "enumerate" else {}
        # A buffer, so that a recorded step reads it anew; saved, since it may have been annealed.
        self.register_buffer("temperature", torch.tensor(float(temperature)), persistent=estimator == "relaxed")

    def distribution(self, params: Tensor) -> TorchDistribution:
        if self.estimator == "relaxed" and self.training:
            return RelaxedIndependentOneHotCategorical(params, self.temperature, straight_through=self.straight_through)
        return IndependentOneHotCategorical(params)
