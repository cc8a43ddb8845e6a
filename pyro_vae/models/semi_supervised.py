"""Semi-supervised learning with M2: a model of data and labels, of which most are missing."""

from __future__ import annotations

import math

import pyro
from torch import Tensor

from pyro_vae._core.checks import check_arguments, refusal
from pyro_vae._core.param_store import register
from pyro_vae.distributions import IndependentOneHotCategorical
from pyro_vae.guides import AmortizedGuide, CategoricalGuide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.models.labelled import LabelledGuide, LabelledModel, LabelledVAE
from pyro_vae.priors import CategoricalPrior, Prior


class SemiSupervisedModel(LabelledModel):
    r"""The Pyro model :math:`p(y)\, p(z)\, p(x | y, z)`; calling it runs it.

    Args:
        label_prior: p(y), one variable.
        prior: p(z).
        likelihood: p(x | y, z), called as ``likelihood(z, y)``.

    Example:
        >>> from functools import partial
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.networks import ContextNetwork
        >>> from pyro_vae.priors import CategoricalPrior, StandardNormalPrior
        >>> likelihood = BernoulliLikelihood(2, (5,), net=partial(ContextNetwork, context_dim=3))
        >>> model = SemiSupervisedModel(CategoricalPrior(3), StandardNormalPrior(2), likelihood)
        >>> model(batch_size=4).shape
        torch.Size([4, 5])
    """

    def sample_data(self, x: Tensor | None, z: Tensor, label: Tensor) -> Tensor:
        return pyro.sample("x", self.likelihood(z, label), obs=x)


class SemiSupervisedGuide(LabelledGuide):
    r"""The Pyro guide :math:`q(y | x)\, q(z | x, y)`; calling it runs it.

    Args:
        classifier: q(y | x), of one variable.
        guide: q(z | x, y), called as ``guide.posterior(x, y)``.
        classification_weight: see :class:`SemiSupervisedVAE`.

    References:
        Semi-supervised learning with deep generative models (Kingma et al., 2014), eq. 4.
        https://arxiv.org/abs/1406.5298
    """

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        register(self)
        with pyro.plate("data", len(x), dim=-1):
            label = self.sample_label(self.classifier.net(x), x, y)
            z = pyro.sample("z", self.guide.posterior(x, label), infer=dict(self.guide.infer))
        return label, z


class SemiSupervisedVAE(LabelledVAE):
    r"""M2: a variational autoencoder of data x and classes y, trained with few labels.

    :math:`p(y)\, p(z)\, p(x | y, z)` with :math:`q(y | x)\, q(z | x, y)`; q(y | x) is the classifier. The loss of a
    datum with a label is the bound on log p(x, y), that of one without the bound on log p(x), in which y is summed over
    (:class:`~pyro_vae.objectives.EnumeratedELBO`, Pyro's ``TraceEnum_ELBO``), sampled
    (:class:`~pyro_vae.objectives.ScoreFunction`) or relaxed (:class:`~pyro_vae.objectives.ELBO`), according to the
    classifier's ``estimator``. A batch may contain both kinds of data.

    These bounds do not train q(y | x) on labels, so its log-likelihood of the labels is added in training, times
    ``classification_weight``, at the guide's site ``"classification"``. In ``eval`` mode it is omitted, so that
    estimates are bounds on log p(x) or log p(x, y).

    Args:
        prior: p(z).
        likelihood: p(x | y, z), with a network of two inputs, :class:`~pyro_vae.networks.ContextNetwork`.
        guide: q(z | x, y), with such a network.
        classifier: q(y | x).
        label_prior: p(y), uniform by default; ``CategoricalPrior(num_classes, learn=True)`` is learned.
        classification_weight: weight of log q(y | x) of each labelled datum; the paper's is alpha = 0.1 times the
            number of data over the number of labels. See :func:`classification_weight`.

    Attributes:
        model: the Pyro model, an ``nn.Module``; ``model(x, y)`` has the sites ``"y"``, ``"z"``, ``"x"``, and
            ``"label"`` if ``y`` is given, in the plate ``"data"``.
        guide: the Pyro guide, an ``nn.Module``; ``guide(x, y)`` has the sites ``"y"`` and ``"z"``.

    Raises:
        ValueError: the pieces do not share ``latent_dim``, ``data_shape`` or the number of classes, or the classifier
            has several variables.

    References:
        Semi-supervised learning with deep generative models (Kingma et al., 2014), eq. 2, 6, 7 and 9.
        https://arxiv.org/abs/1406.5298

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from pyro_vae.guides import CategoricalGuide, DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.networks import ContextNetwork
        >>> from pyro_vae import SemiSupervisedVAE, objectives
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> net = partial(ContextNetwork, context_dim=3)
        >>> pieces = BernoulliLikelihood(2, (5,), net=net), DiagonalNormalGuide((5,), 2, net=net)
        >>> vae = SemiSupervisedVAE(StandardNormalPrior(2), *pieces, CategoricalGuide((5,), 3))
        >>> x, y = torch.ones(4, 5), torch.tensor([0, -1, 2, -1])
        >>> objectives.EnumeratedELBO()(vae.model, vae.guide)(x, y).backward()
        >>> vae.classify(x).shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        guide: AmortizedGuide,
        classifier: CategoricalGuide,
        label_prior: CategoricalPrior | None = None,
        *,
        classification_weight: float = 0.0,
    ) -> None:
        label_prior = CategoricalPrior(classifier.latent_dim) if label_prior is None else label_prior
        model = SemiSupervisedModel(label_prior, prior, likelihood)
        super().__init__(model, SemiSupervisedGuide(classifier, guide, classification_weight))

    def class_probabilities(self, x: Tensor) -> Tensor:
        return IndependentOneHotCategorical(self.classifier.net(x)).mean


def classification_weight(num_data: int, num_labels: int, *, alpha: float = 0.1) -> float:
    """Weight of each labelled datum's log q(y | x) in the paper, alpha times the number of data per label.

    Args:
        num_data: number of training data, with and without labels.
        num_labels: number of labelled data.
        alpha: weight of a mean over all data.

    Raises:
        ValueError: no label, no datum without a label, or a negative alpha.

    References:
        Semi-supervised learning with deep generative models (Kingma et al., 2014), eq. 9 and section 4.
        https://arxiv.org/abs/1406.5298

    Example:
        >>> classification_weight(50_000, 100)
        50.0
    """
    check_arguments(classification_weight, locals())
    if num_labels < 1 or num_data <= num_labels or not 0 <= alpha < math.inf:
        what = f"num_data={num_data}, num_labels={num_labels}, alpha={alpha}"
        raise refusal("classification_weight", "num_data > num_labels >= 1 and alpha >= 0 must hold", what)
    return alpha * num_data / num_labels
