"""The guide for categorical variables."""

from __future__ import annotations

from typing import Literal

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vae._core.checks import check_positive, refusal
from pyro_vae.distributions import IndependentOneHotCategorical, RelaxedIndependentOneHotCategorical
from pyro_vae.distributions.one_hot import split_into_variables
from pyro_vae.guides.base import AmortizedGuide
from pyro_vae.networks import MLP, NetworkFactory, Shape

Estimator = Literal["enumerate", "score", "relaxed"]


class CategoricalGuide(AmortizedGuide):
    r"""Independent categorical variables, :math:`q(z | x) = \prod_v \mathrm{Cat}(z_v; \mathrm{softmax}(\ell_v(x)))`.

    For a :class:`~pyro_vae.priors.CategoricalPrior` of the same categories. z concatenates the one-hot vectors of all
    variables. Three estimators of the gradient of their distribution:

    - ``"enumerate"``: exact, the sum over all combinations, with ``EnumeratedELBO`` or Pyro's ``TraceEnum_ELBO``;
      the model is evaluated at each of them.
    - ``"score"``: the score function, with any objective: unbiased, of large variance.
    - ``"relaxed"``: the pathwise gradient of relaxed samples while training, with ``ELBO`` and other objectives with
      pathwise gradients: of small variance, and biased, since the model is defined for one-hot z only and the density
      of z is taken as that of a one-hot z. The bias falls with the temperature, while the variance grows. In ``eval``
      mode samples are one-hot, so that estimates of log p(x) hold for the model with categorical variables.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L, variables times categories.
        categories: number of categories of each variable; None for a single variable.
        estimator: estimator of the gradient.
        temperature: temperature of relaxed samples; the buffer ``temperature``, which may be changed in training.
        straight_through: in relaxed training, pass the nearest one-hot z to the model, with the relaxed gradient.
        net: builds the encoder, ``net(data_shape, (variables, categories))``, which returns logits.

    Shape:
        ``(*batch, *data_shape)`` to a distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    Raises:
        ValueError: ``latent_dim`` is not a multiple of ``categories``, ``estimator`` is unknown, the temperature is not
            positive, or ``straight_through`` is set for an estimator that is not relaxed.

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
    discrete = True

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        *,
        categories: int | None = None,
        estimator: Estimator = "enumerate",
        temperature: float = 0.5,
        straight_through: bool = False,
        net: NetworkFactory = MLP,
    ) -> None:
        shape = split_into_variables("CategoricalGuide", latent_dim, categories) if latent_dim > 0 else (1, 1)
        super().__init__(data_shape, latent_dim, param_shape=shape, net=net)
        name = type(self).__name__
        check_positive(name, temperature=temperature, advice="Use 0.5")
        if straight_through and estimator != "relaxed":
            rule = "straight_through must go with relaxed samples"
            raise refusal(name, rule, f"estimator={estimator!r}", "Use estimator='relaxed'")
        self.estimator, self.straight_through, self.categories = estimator, straight_through, shape[-1]
        self.infer = {"enumerate": "parallel"} if estimator == "enumerate" else {}
        # A buffer, so that a traced step reads its current value; saved, since it may have been annealed.
        self.register_buffer("temperature", torch.tensor(float(temperature)), persistent=estimator == "relaxed")

    def distribution(self, params: Tensor) -> TorchDistribution:
        if self.estimator == "relaxed" and self.training:
            return RelaxedIndependentOneHotCategorical(params, self.temperature, straight_through=self.straight_through)
        return IndependentOneHotCategorical(params)
