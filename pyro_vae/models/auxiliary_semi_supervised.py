"""Semi-supervised learning with an auxiliary variable, for more flexible q(y | x) and q(z | x, y)."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar, Literal

import pyro
from torch import Tensor

from pyro_vae._core.checks import check_equal, require
from pyro_vae._core.param_store import register
from pyro_vae.guides import AmortizedGuide, CategoricalGuide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.models.labelled import LabelledGuide, LabelledModel, LabelledVAE
from pyro_vae.priors import CategoricalPrior, Prior


class AuxiliaryModel(LabelledModel, ABC):
    r"""A Pyro model of x, y, z and an auxiliary variable a; calling it runs it.

    Args:
        label_prior: p(y), one variable.
        prior: p(z).
        likelihood: p(x | y, z), or p(x | a, y, z).
        auxiliary: p(a | ...).

    Attributes:
        of: first input of p(a | ...): the datum x or the latent z.
    """

    of: ClassVar[Literal["x", "z"]]

    def __init__(
        self, label_prior: CategoricalPrior, prior: Prior, likelihood: Likelihood, auxiliary: AmortizedGuide
    ) -> None:
        super().__init__(label_prior, prior, likelihood)
        self.auxiliary = auxiliary


class ADGMModel(AuxiliaryModel):
    r"""The Pyro model :math:`p(y)\, p(z)\, p(x | y, z)\, p(a | x, y, z)` of :class:`ADGM`."""

    of = "x"

    def sample_data(self, x: Tensor | None, z: Tensor, label: Tensor) -> Tensor:
        x = pyro.sample("x", self.likelihood(z, label), obs=x)
        pyro.sample("a", self.auxiliary.posterior(x, label, z))
        return x


class SDGMModel(AuxiliaryModel):
    r"""The Pyro model :math:`p(y)\, p(z)\, p(a | y, z)\, p(x | a, y, z)` of :class:`SDGM`."""

    of = "z"

    def sample_data(self, x: Tensor | None, z: Tensor, label: Tensor) -> Tensor:
        a = pyro.sample("a", self.auxiliary.posterior(z, label))
        return pyro.sample("x", self.likelihood(z, label, a), obs=x)


class AuxiliarySemiSupervisedGuide(LabelledGuide):
    r"""The Pyro guide :math:`q(a | x)\, q(y | a, x)\, q(z | a, x, y)` of :class:`ADGM` and :class:`SDGM`.

    Args:
        classifier: q(y | a, x), of one variable, whose network is called with x and a.
        guide: q(z | a, x, y), called as ``guide.posterior(x, y, a)``.
        auxiliary: q(a | x).
        classification_weight: see :class:`ADGM`.
    """

    def __init__(
        self,
        classifier: CategoricalGuide,
        guide: AmortizedGuide,
        auxiliary: AmortizedGuide,
        classification_weight: float = 0.0,
    ) -> None:
        super().__init__(classifier, guide, classification_weight)
        self.auxiliary = auxiliary

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        register(self)
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", self.auxiliary.posterior(x), infer=dict(self.auxiliary.infer))
            label = self.sample_label(self.classifier.net(x, a), x, y)
            z = pyro.sample("z", self.guide.posterior(x, label, a), infer=dict(self.guide.infer))
        return a, label, z


class AuxiliarySemiSupervisedVAE(LabelledVAE, ABC):
    """Base class of :class:`ADGM` and :class:`SDGM`, which differ in the model.

    Attributes:
        program: class of the model.
    """

    model: AuxiliaryModel
    guide: AuxiliarySemiSupervisedGuide
    program: ClassVar[type[AuxiliaryModel]]

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        guide: AmortizedGuide,
        classifier: CategoricalGuide,
        auxiliary: AmortizedGuide,
        auxiliary_model: AmortizedGuide,
        label_prior: CategoricalPrior | None = None,
        *,
        classification_weight: float = 0.0,
    ) -> None:
        label_prior = CategoricalPrior(classifier.latent_dim) if label_prior is None else label_prior
        model = self.program(label_prior, prior, likelihood, auxiliary_model)
        super().__init__(model, AuxiliarySemiSupervisedGuide(classifier, guide, auxiliary, classification_weight))
        name, shapes = type(self).__name__, {"likelihood": likelihood.data_shape, "auxiliary": auxiliary.data_shape}
        check_equal(name, "data_shape", shapes)
        sizes = {"auxiliary": auxiliary.latent_dim, "auxiliary_model": auxiliary_model.latent_dim}
        check_equal(name, "latent_dim (the size of a)", sizes)
        expected = self.data_shape if model.of == "x" else (self.latent_dim,)
        shape = auxiliary_model.data_shape
        rule = f"the model's p(a | ...) must have data_shape={expected}, that of {model.of}"
        require(shape == expected, name, rule, f"auxiliary_model={shape}")

    @property
    def auxiliary(self) -> AmortizedGuide:
        """q(a | x)."""
        return self.guide.auxiliary

    @property
    def auxiliary_model(self) -> AmortizedGuide:
        """p(a | x, y, z), or p(a | y, z)."""
        return self.model.auxiliary

    @property
    def auxiliary_dim(self) -> int:
        """Number of dimensions of a."""
        return self.auxiliary.latent_dim

    def class_probabilities(self, x: Tensor, *, num_samples: int | None = 20) -> Tensor:
        r"""Probabilities of the classes, :math:`q(y | x) = E_{q(a | x)}\, q(y | a, x)`.

        Args:
            x: ``(*batch, *data_shape)``.
            num_samples: number of samples of a for each datum, for an unbiased estimate whose standard error is at most
                0.11 with 20 samples. None evaluates q(y | a, x) at the mean of q(a | x): one evaluation without random
                numbers, biased if q(y | a, x) is not linear in a.

        Returns:
            ``(*batch, C)``.

        Raises:
            ValueError: ``num_samples`` is not positive.
            NotImplementedError: ``num_samples`` is None and q(a | x) has no mean in closed form, as a flow.
        """
        return self.mean_over(self.auxiliary.posterior(x), lambda a: self.classifier.net(x, a), num_samples)


class ADGM(AuxiliarySemiSupervisedVAE):
    r"""Auxiliary deep generative model: M2 with an auxiliary variable a that the model samples after the data.

    :math:`p(y)\, p(z)\, p(x | y, z)\, p(a | x, y, z)` with :math:`q(a | x)\, q(y | a, x)\, q(z | a, x, y)`. The
    marginal p(x, y, z) is that of M2, :class:`~pyro_vae.SemiSupervisedVAE`, and q(y, z | x) is a continuous mixture
    over a. As p(a | x, y, z) is a part of the model, estimates of log p(x) apply to the pair as it is.

    Labels, objectives and ``classification_weight`` are those of M2, the weighted classifier being q(y | a, x) at the
    sampled a.

    Args:
        prior: p(z).
        likelihood: p(x | y, z), called as ``likelihood(z, y)``: ``net=partial(ContextNetwork, context_dim=C)`` for C
            classes.
        guide: q(z | a, x, y), called as ``guide.posterior(x, y, a)``: ``context_dim=(C, A)`` for a of A dimensions.
        classifier: q(y | a, x), whose network is called with x and a: ``context_dim=A``.
        auxiliary: q(a | x).
        auxiliary_model: p(a | x, y, z), called as ``auxiliary_model.posterior(x, y, z)``: ``context_dim=(C, L)``.
        label_prior: p(y), uniform by default; ``CategoricalPrior(num_classes, learn=True)`` is learned.
        classification_weight: weight of log q(y | a, x) of each labelled datum in training, see
            :func:`classification_weight`.

    Attributes:
        model: the Pyro model, an ``nn.Module``; ``model(x, y)`` has the sites ``"y"``, ``"z"``, ``"x"``, ``"a"``, and
            ``"label"`` if ``y`` is given, in the plate ``"data"``.
        guide: the Pyro guide, an ``nn.Module``; ``guide(x, y)`` has the sites ``"a"``, ``"y"`` and ``"z"``.

    Raises:
        ValueError: the pieces do not share ``latent_dim``, ``data_shape``, the number of classes or the size of a, the
            classifier has several variables, or the weight is negative.

    References:
        Auxiliary deep generative models (Maaloe, Sonderby, Sonderby and Winther, 2016), section 3.
        https://arxiv.org/abs/1602.05473

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from pyro_vae.guides import CategoricalGuide, DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.networks import ContextNetwork
        >>> from pyro_vae import objectives
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> def net(*context_dim):
        ...     return partial(ContextNetwork, context_dim=context_dim)
        >>> vae = ADGM(
        ...     StandardNormalPrior(2),
        ...     BernoulliLikelihood(2, (5,), net=net(3)),
        ...     DiagonalNormalGuide((5,), 2, net=net(3, 4)),
        ...     CategoricalGuide((5,), 3, net=net(4)),
        ...     auxiliary=DiagonalNormalGuide((5,), 4),
        ...     auxiliary_model=DiagonalNormalGuide((5,), 4, net=net(3, 2)),
        ... )
        >>> x, y = torch.ones(4, 5), torch.tensor([0, -1, 2, -1])
        >>> objectives.EnumeratedELBO()(vae.model, vae.guide)(x, y).backward()
        >>> vae.classify(x).shape
        torch.Size([4, 3])
    """

    program = ADGMModel


class SDGM(AuxiliarySemiSupervisedVAE):
    r"""Skip deep generative model: two layers of latents, a and z, with data that depend on both.

    :math:`p(y)\, p(z)\, p(a | y, z)\, p(x | a, y, z)` with :math:`q(a | x)\, q(y | a, x)\, q(z | a, x, y)`: as
    :class:`ADGM`, with a between z and x and a skip connection.

    Args:
        prior: p(z).
        likelihood: p(x | a, y, z), called as ``likelihood(z, y, a)``: ``net=partial(ContextNetwork,
            context_dim=(C, A))`` for C classes and a of A dimensions.
        guide: q(z | a, x, y), called as ``guide.posterior(x, y, a)``: ``context_dim=(C, A)``.
        classifier: q(y | a, x), whose network is called with x and a: ``context_dim=A``.
        auxiliary: q(a | x).
        auxiliary_model: p(a | y, z), of ``data_shape=(L,)``, called as ``auxiliary_model.posterior(z, y)``:
            ``context_dim=C``.
        label_prior: p(y), uniform by default; ``CategoricalPrior(num_classes, learn=True)`` is learned.
        classification_weight: weight of log q(y | a, x) of each labelled datum in training, see
            :func:`classification_weight`.

    Attributes:
        model: the Pyro model, an ``nn.Module``; ``model(x, y)`` has the sites ``"y"``, ``"z"``, ``"a"``, ``"x"``, and
            ``"label"`` if ``y`` is given, in the plate ``"data"``.
        guide: the Pyro guide, an ``nn.Module``; ``guide(x, y)`` has the sites ``"a"``, ``"y"`` and ``"z"``.

    Raises:
        ValueError: the pieces do not share ``latent_dim``, ``data_shape``, the number of classes or the size of a, the
            classifier has several variables, or the weight is negative.

    References:
        Auxiliary deep generative models (Maaloe, Sonderby, Sonderby and Winther, 2016), section 3.
        https://arxiv.org/abs/1602.05473

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from pyro_vae.guides import CategoricalGuide, DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.networks import ContextNetwork
        >>> from pyro_vae import objectives
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> def net(*context_dim):
        ...     return partial(ContextNetwork, context_dim=context_dim)
        >>> vae = SDGM(
        ...     StandardNormalPrior(2),
        ...     BernoulliLikelihood(2, (5,), net=net(3, 4)),
        ...     DiagonalNormalGuide((5,), 2, net=net(3, 4)),
        ...     CategoricalGuide((5,), 3, net=net(4)),
        ...     auxiliary=DiagonalNormalGuide((5,), 4),
        ...     auxiliary_model=DiagonalNormalGuide((2,), 4, net=net(3)),
        ... )
        >>> objectives.EnumeratedELBO()(vae.model, vae.guide)(torch.ones(4, 5)).backward()
        >>> vae.sample(7).shape
        torch.Size([7, 5])
    """

    program = SDGMModel
