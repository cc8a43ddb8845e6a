"""Semi-supervised learning: a model of data and labels of which most are missing, known as M2."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae.distributions import OneHotVariables
from pyro_vae.guides import AmortizedGuide, CategoricalGuide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.models.labels import check_labels, known, one_hot, pinned
from pyro_vae.param_store import register
from pyro_vae.priors import CategoricalPrior, Prior

Conditional = Callable[[Tensor], TorchDistribution]


class SemiSupervisedModel(nn.Module):
    r"""The Pyro model :math:`p(y)\, p(z)\, p(x | y, z)`; calling it runs it.

    Args:
        label_prior: p(y), one variable.
        prior: p(z).
        likelihood: p(x | y, z), called as ``likelihood(z, y)``.

    Example:
        >>> from functools import partial
        >>> from pyro_vae import BernoulliLikelihood, CategoricalPrior, ContextNetwork, StandardNormalPrior
        >>> likelihood = BernoulliLikelihood(2, (5,), net=partial(ContextNetwork, context_dim=3))
        >>> model = SemiSupervisedModel(CategoricalPrior(3), StandardNormalPrior(2), likelihood)
        >>> model(batch_size=4).shape
        torch.Size([4, 5])
    """

    def __init__(self, label_prior: CategoricalPrior, prior: Prior, likelihood: Likelihood) -> None:
        super().__init__()
        self.label_prior, self.prior, self.likelihood = label_prior, prior, likelihood

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, *, batch_size: int = 1) -> Tensor:
        """The Pyro model: samples ``"y"``, ``"z"`` and ``"x"`` within the plate ``"data"``.

        A label that is given is observed at the site ``"label"``, and ``"y"`` is that label with certainty.

        Args:
            x: ``(B, *data_shape)``, observed; without it x is sampled.
            y: ``(B,)``, int64, the class of each datum, -1 where it is not known; None where none is.
            batch_size: number of data to sample where neither is given.

        Returns:
            x, ``(B, *data_shape)``.

        Raises:
            ValueError: ``y`` has another dtype or length; where Pyro validates, also a class that does not exist.
        """
        register(self)
        given = x if x is not None else y
        with pyro.plate("data", batch_size if given is None else len(given), dim=-1):
            label = self.sample_label(None if y is None else check_labels(y, given, self.label_prior.categories))
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(z, label), obs=x)

    def sample_label(self, y: Tensor | None) -> Tensor:
        """The Pyro statements of y, ``(B, C)`` one-hot, within the plate ``"data"``."""
        logits = self.label_prior.logits
        if y is None:
            return pyro.sample("y", OneHotVariables(logits), infer={"enumerate": "parallel"})
        label = one_hot(y.clamp_min(0), logits)
        pyro.sample("label", OneHotVariables(logits).mask(known(y)), obs=label)
        return pyro.sample("y", OneHotVariables(pinned(logits, y)), infer={"enumerate": "parallel"})


class SemiSupervisedGuide(nn.Module):
    r"""The Pyro guide :math:`q(y | x)\, q(z | x, y)`; calling it runs it.

    Args:
        classifier: q(y | x), of one variable.
        guide: q(z | x, y), called as ``guide.posterior(x, y)``.
        classification_weight: see :class:`SemiSupervisedVAE`.
    """

    def __init__(self, classifier: CategoricalGuide, guide: AmortizedGuide, classification_weight: float = 0.0) -> None:
        super().__init__()
        self.classifier, self.guide = classifier, guide
        self.classification_weight = classification_weight

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The Pyro guide: samples ``"y"`` and ``"z"`` within the plate ``"data"``.

        Args:
            x: ``(B, *data_shape)``, a batch of data.
            y: ``(B,)``, int64, the class of each datum, -1 where it is not known; None where none is.

        Returns:
            y ``(B, C)`` one-hot, and z ``(B, L)``; under enumeration with more dimensions before.
        """
        register(self)
        with pyro.plate("data", len(x), dim=-1):
            label = self.sample_label(self.classifier.net(x), x, y)
            z = pyro.sample("z", self.guide.posterior(x, label), infer=dict(self.guide.infer))
        return label, z

    def sample_label(self, logits: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
        """The Pyro statements of y given its logits ``(*batch, 1, C)``, within the plate ``"data"``."""
        infer = dict(self.classifier.infer)
        if y is None:
            return pyro.sample("y", self.classifier.distribution(logits), infer=infer)
        y = check_labels(y, x, self.classifier.categories)
        if self.training and self.classification_weight > 0:
            log_q = OneHotVariables(logits).log_prob(one_hot(y.clamp_min(0), logits))
            loss = -self.classification_weight * torch.where(known(y), log_q, 0.0)
            pyro.factor("classification", loss, has_rsample=True)
        return pyro.sample("y", self.classifier.distribution(pinned(logits, y)), infer=infer)


class SemiSupervisedVAE(nn.Module):
    r"""M2: a variational autoencoder of data x and classes y, trained on few labels and many data without.

    :math:`p(y)\, p(z)\, p(x | y, z)` with :math:`q(y | x)\, q(z | x, y)`; q(y | x) is the classifier. The loss of a
    datum with a label is the bound on log p(x, y), that of one without the bound on log p(x), in which y is summed over
    (:class:`~pyro_vae.objectives.SummedELBO`, Pyro's ``TraceEnum_ELBO``), drawn
    (:class:`~pyro_vae.objectives.ScoreFunction`) or relaxed (:class:`~pyro_vae.objectives.ELBO`), as the classifier's
    ``estimator`` says. Both kinds may be in one batch.

    A label takes no part in q(y | x) through these bounds, so the classifier's log-likelihood is added for the labelled
    data, times ``classification_weight``: while training, at the guide's site ``"classification"``. In ``eval`` mode it
    is left out, so that whatever is estimated then is a bound on log p(x) or log p(x, y).

    Args:
        prior: p(z).
        likelihood: p(x | y, z), with a network of two inputs, :class:`~pyro_vae.networks.ContextNetwork`.
        guide: q(z | x, y), with such a network too.
        classifier: q(y | x).
        label_prior: p(y), uniform by default; ``CategoricalPrior(num_classes, learn=True)`` is learned.
        classification_weight: weight of log q(y | x) of each labelled datum; the paper's is alpha = 0.1 times the
            number of data over the number of labels. See :func:`classification_weight`.

    Attributes:
        model: the Pyro model, an ``nn.Module``; ``model(x, y)`` has the sites ``"y"``, ``"z"``, ``"x"``, and
            ``"label"`` where ``y`` is given, in the plate ``"data"``.
        guide: the Pyro guide, an ``nn.Module``; ``guide(x, y)`` has the sites ``"y"`` and ``"z"``.

    Raises:
        ValueError: the pieces do not share ``latent_dim``, ``data_shape`` or the number of classes, or the classifier
            is of several variables.

    References:
        Semi-supervised learning with deep generative models (Kingma et al., 2014), eq. 2, 6, 7 and 9.
        https://arxiv.org/abs/1406.5298

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from pyro_vae import BernoulliLikelihood, CategoricalGuide, ContextNetwork, DiagonalNormalGuide
        >>> from pyro_vae import SemiSupervisedVAE, StandardNormalPrior, objectives
        >>> net = partial(ContextNetwork, context_dim=3)
        >>> pieces = BernoulliLikelihood(2, (5,), net=net), DiagonalNormalGuide((5,), 2, net=net)
        >>> vae = SemiSupervisedVAE(StandardNormalPrior(2), *pieces, CategoricalGuide((5,), 3))
        >>> x, y = torch.ones(4, 5), torch.tensor([0, -1, 2, -1])
        >>> objectives.SummedELBO()(vae.model, vae.guide)(x, y).backward()
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
        super().__init__()
        label_prior = CategoricalPrior(classifier.latent_dim) if label_prior is None else label_prior
        dims = {"prior": prior.latent_dim, "likelihood": likelihood.latent_dim, "guide": guide.latent_dim}
        shapes = {"likelihood": likelihood.data_shape, "guide": guide.data_shape, "classifier": classifier.data_shape}
        classes = {"classifier": classifier.latent_dim, "label_prior": label_prior.latent_dim}
        for name, found in (("latent_dim", dims), ("data_shape", shapes), ("the number of classes", classes)):
            self._require(f"{', '.join(found)} must share {name}", found, len(set(found.values())) == 1)
        single = {"classifier": classifier.categories, "label_prior": label_prior.categories}
        same = set(single.values()) == set(classes.values())
        self._require("y must be one variable, whose categories are the classes", {**classes, **single}, same)
        weight = {"classification_weight": classification_weight}
        self._require("classification_weight must not be negative", weight, classification_weight >= 0)
        self.model = SemiSupervisedModel(label_prior, prior, likelihood)
        self.guide = SemiSupervisedGuide(classifier, guide, classification_weight)

    def _require(self, rule: str, given: dict[str, object], holds: bool) -> None:
        if not holds:
            what = ", ".join(f"{name}={value}" for name, value in given.items())
            raise ValueError(f"{type(self).__name__}: {rule}, got {what}. Build the pieces to fit each other.")

    @property
    def prior(self) -> Prior:
        """p(z)."""
        return self.model.prior

    @property
    def likelihood(self) -> Likelihood:
        """p(x | y, z)."""
        return self.model.likelihood

    @property
    def label_prior(self) -> CategoricalPrior:
        """p(y)."""
        return self.model.label_prior

    @property
    def classifier(self) -> CategoricalGuide:
        """q(y | x)."""
        return self.guide.classifier

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return self.classifier.categories

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions L."""
        return self.prior.latent_dim

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return self.likelihood.data_shape

    def classify(self, x: Tensor) -> Tensor:
        """Probabilities q(y | x), ``(*batch, C)``, of x ``(*batch, *data_shape)``."""
        return OneHotVariables(self.classifier.net(x)).mean

    @torch.no_grad()
    def sample(self, num_samples: int = 1, y: Tensor | None = None, *, mean: bool = False) -> Tensor:
        """Draw x from the model, ``(num_samples, *data_shape)``.

        Args:
            num_samples: number of data; where ``y`` is given there are as many as labels.
            y: ``(B,)``, int64, the classes to draw from; None draws these too.
            mean: return the mean of p(x | y, z) instead of a draw of it.
        """
        logits = self.label_prior.logits
        num = num_samples if y is None else len(y)
        label = OneHotVariables(logits).sample((num,)) if y is None else one_hot(y, logits)
        p = self.likelihood(self.prior().sample((num,)), label)
        return p.mean if mean else p.sample()


def classification_weight(num_data: int, num_labels: int, *, alpha: float = 0.1) -> float:
    """The paper's weight of each labelled datum's log q(y | x), alpha times the data per label.

    Args:
        num_data: number of training data, with and without a label.
        num_labels: number of them that have one.
        alpha: the weight of a mean over all data.

    Raises:
        ValueError: no data without a label, no label at all, or a negative alpha.

    References:
        Semi-supervised learning with deep generative models (Kingma et al., 2014), eq. 9 and section 4.
        https://arxiv.org/abs/1406.5298

    Example:
        >>> classification_weight(50_000, 100)
        50.0
    """
    if num_labels < 1 or num_data <= num_labels or alpha < 0:
        raise ValueError(
            "classification_weight: there must be labels, more data than labels, and alpha of 0 or more, got "
            f"num_data={num_data}, num_labels={num_labels}, alpha={alpha}. Pass data without labels too."
        )
    return alpha * num_data / num_labels
