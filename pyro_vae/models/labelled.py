"""Base classes of models of data and labels: label statements, checks of the pieces, properties."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution, Unit
from torch import Tensor, nn

from pyro_vae._core.checks import CheckedArguments, check_count, check_equal, check_positive, require
from pyro_vae._core.html import DisplayedModule
from pyro_vae._core.param_store import no_registration, register
from pyro_vae._core.saved_modules import SavedModule
from pyro_vae.distributions import IndependentOneHotCategorical
from pyro_vae.guides import AmortizedGuide, CategoricalGuide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.models.labels import check_labels, known, one_hot, pinned
from pyro_vae.priors import CategoricalPrior, Prior


class LabelledModel(nn.Module, CheckedArguments, ABC):
    r"""A Pyro model with :math:`p(y)\, p(z)` and the data of :meth:`sample_data`; calling it runs it.

    Args:
        label_prior: p(y), one variable.
        prior: p(z).
        likelihood: p(x | y, z, ...).
    """

    def __init__(self, label_prior: CategoricalPrior, prior: Prior, likelihood: Likelihood) -> None:
        super().__init__()
        self.label_prior, self.prior, self.likelihood = label_prior, prior, likelihood

    @abstractmethod
    def sample_data(self, x: Tensor | None, z: Tensor, label: Tensor) -> Tensor:
        """Run the Pyro statements of x and its own latents, given z ``(*all, L)`` and one-hot y ``(*all, C)``.

        Called within the plate ``"data"``.

        Returns:
            x, ``(B, *data_shape)``.
        """

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, *, batch_size: int = 1) -> Tensor:
        """Run the Pyro model: sample ``"y"``, ``"z"`` and ``"x"`` within the plate ``"data"``.

        A known label is observed at the site ``"label"``, and ``"y"`` equals it with certainty.

        Args:
            x: ``(B, *data_shape)``, observed; None to sample x.
            y: ``(B,)``, int64, the class of each datum, -1 if unknown; None if all are unknown.
            batch_size: number of data to sample if neither is given.

        Returns:
            x, ``(B, *data_shape)``.

        Raises:
            ValueError: ``y`` has a wrong dtype or length, or, if Pyro validates, an invalid class.
        """
        register(self)
        observed = x if x is not None else y
        with pyro.plate("data", batch_size if observed is None else len(observed), dim=-1):
            label = self.sample_label(None if y is None else check_labels(y, observed, self.label_prior.categories))
            z = pyro.sample("z", self.prior())
            return self.sample_data(x, z, label)

    def sample_label(self, y: Tensor | None) -> Tensor:
        """Run the Pyro statements of y, one-hot ``(B, C)``, within the plate ``"data"``."""
        logits = self.label_prior.logits
        if y is None:
            return pyro.sample("y", IndependentOneHotCategorical(logits), infer={"enumerate": "parallel"})
        label = one_hot(torch.where(known(y), y, 0), logits)
        pyro.sample("label", IndependentOneHotCategorical(logits).mask(known(y)), obs=label)
        return pyro.sample("y", IndependentOneHotCategorical(pinned(logits, y)), infer={"enumerate": "parallel"})


class LabelledGuide(nn.Module, CheckedArguments, ABC):
    """A Pyro guide with q(y | x, ...) and q(z | x, y, ...); calling it runs it.

    Args:
        classifier: q(y | x, ...), of one variable.
        guide: q(z | x, y, ...).
        classification_weight: weight of log q(y | x, ...) of each labelled datum in training.
    """

    def __init__(self, classifier: CategoricalGuide, guide: AmortizedGuide, classification_weight: float = 0.0) -> None:
        super().__init__()
        check_positive(type(self).__name__, at_least_zero=True, classification_weight=classification_weight)
        self.classifier, self.guide = classifier, guide
        self.classification_weight = classification_weight

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, ...]:
        """Run the Pyro guide: sample ``"y"`` and ``"z"`` within the plate ``"data"``.

        Args:
            x: ``(B, *data_shape)``, a batch of data.
            y: ``(B,)``, int64, the class of each datum, -1 if unknown; None if all are unknown.

        Returns:
            The samples, the last two being one-hot y ``(B, C)`` and z ``(B, L)``; with more leading dimensions under
            enumeration.
        """

    def sample_label(self, logits: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
        """Run the Pyro statements of y with logits ``(*batch, 1, C)``, within the plate ``"data"``."""
        infer = dict(self.classifier.infer)
        if y is None:
            return pyro.sample("y", self.classifier.distribution(logits), infer=infer)
        y = check_labels(y, x, self.classifier.categories)
        if self.training and self.classification_weight > 0:
            log_q = IndependentOneHotCategorical(logits).log_prob(one_hot(torch.where(known(y), y, 0), logits))
            loss = -self.classification_weight * torch.where(known(y), log_q, 0.0)
            unit = Unit(loss, has_rsample=True)  # a factor that is not part of the guide's density
            pyro.sample("classification", unit, obs=unit.sample(), infer={"is_auxiliary": True, "is_loss": True})
        return pyro.sample("y", self.classifier.distribution(pinned(logits, y)), infer=infer)


class LabelledVAE(nn.Module, DisplayedModule, SavedModule, CheckedArguments, ABC):
    """Base class of models of data and classes with their guides.

    Args:
        model: the Pyro model.
        guide: the Pyro guide.

    Raises:
        ValueError: the pieces do not share ``latent_dim``, ``data_shape`` or the number of classes, the classifier is
            of several variables, or the classification weight is negative.
    """

    def __init__(self, model: LabelledModel, guide: LabelledGuide) -> None:
        super().__init__()
        self.model, self.guide = model, guide
        self._check_sizes()

    @abstractmethod
    def class_probabilities(self, x: Tensor) -> Tensor:
        """Probabilities q(y | x), ``(*batch, C)``, of x ``(*batch, *data_shape)``."""

    def classify(self, x: Tensor, *, reject: Callable[[Tensor], Tensor] | None = None, **options: Any) -> Tensor:
        """Probabilities q(y | x), ``(*batch, C)``, of x ``(*batch, *data_shape)``; nan for rejected data.

        Args:
            x: the data.
            reject: from x to the mask ``(*batch,)`` of data to reject, such as
                :meth:`OutlierDetector.rejects(0.01) <pyro_vae.evaluation.OutlierDetector.rejects>` for data unlike the
                training data, with a false alarm rate of 1%; None rejects nothing.
            options: of :meth:`class_probabilities`.

        Raises:
            ValueError: ``reject`` is not a function.
        """
        advice = "Pass OutlierDetector(vae.model, vae.guide, held_out).rejects(0.01)"
        valid = reject is None or callable(reject)
        require(valid, type(self).__name__, "reject must be a function of the data", f"reject={reject!r}", advice)
        probabilities = self.class_probabilities(x, **options)
        return probabilities if reject is None else probabilities.masked_fill(reject(x).unsqueeze(-1), torch.nan)

    def mean_over(self, q: TorchDistribution, logits: Callable[[Tensor], Tensor], num_samples: int | None) -> Tensor:
        """Mean of the class probabilities over samples of q, ``(*batch, C)``.

        Args:
            q: distribution of the classifier's second input.
            logits: from a sample of q to ``(*batch, 1, C)``.
            num_samples: number of samples for each datum; None uses the mean of q instead.

        Raises:
            ValueError: ``num_samples`` is not positive.
        """
        check_count(type(self).__name__, num_samples=num_samples)
        # One sample at a time, which takes no more memory than a classifier of x alone.
        samples = (q.mean,) if num_samples is None else (q() for _ in range(num_samples))
        probs = [IndependentOneHotCategorical(logits(sample)).mean for sample in samples]
        return sum(probs[1:], probs[0]) / len(probs)

    def _check_sizes(self) -> None:
        model, guide = self.model, self.guide
        latent = {"prior": model.prior, "likelihood": model.likelihood, "guide": guide.guide}
        shaped = {"likelihood": model.likelihood, "guide": guide.guide, "classifier": guide.classifier}
        classes = {"classifier": guide.classifier, "label_prior": model.label_prior}
        name, num_classes = type(self).__name__, "latent_dim (the number of classes)"
        check_equal(name, "latent_dim", {key: piece.latent_dim for key, piece in latent.items()})
        check_equal(name, "data_shape", {key: piece.data_shape for key, piece in shaped.items()})
        check_equal(name, num_classes, {key: piece.latent_dim for key, piece in classes.items()})
        single = all(piece.categories == piece.latent_dim for piece in classes.values())
        got = ", ".join(f"{key}={piece.categories}" for key, piece in classes.items())
        require(single, name, "y must be one variable, whose categories are the classes", got)

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

    @torch.no_grad()
    def sample(self, num_samples: int = 1, y: Tensor | None = None, *, mean: bool = False) -> Tensor:
        """Sample x from the model, ``(num_samples, *data_shape)``.

        Args:
            num_samples: number of samples; with ``y`` it is the number of labels.
            y: ``(B,)``, int64, the classes; those that are -1, or all if it is None, are sampled.
            mean: return the mean of x given all other samples instead of a sample of x.
        """
        with no_registration():
            trace = poutine.trace(self.model).get_trace(y=y, batch_size=num_samples)
        site = trace.nodes["x"]
        return site["fn"].mean if mean else site["value"]
