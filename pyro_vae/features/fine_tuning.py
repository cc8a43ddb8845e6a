"""Classifiers whose encoder is that of a model trained without labels."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any, Literal

import numpy as np
import pyro
import torch
from pyro.distributions import Categorical
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn
from torch.optim import Adam
from typing_extensions import Self

from pyro_vae._core.checks import CheckedArguments, check_arguments, check_count, check_positive, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.owners import evaluating
from pyro_vae._core.param_store import register
from pyro_vae.evaluation.marginals import moments
from pyro_vae.features.inputs import FLOATS
from pyro_vae.guides import Guide
from pyro_vae.models import VAE, ImplicitModel
from pyro_vae.training import fit, frozen

Encoder = Literal["tuned", "frozen", "scratch"]
NUM_SAMPLES = 100  # for the mean of a posterior without a closed form


class EncoderClassifier(nn.Module, CheckedArguments):
    r"""Classifier :math:`p(y | x) = \mathrm{softmax}(W \mu(x) + b)` on the mean :math:`\mu` of q(z | x), a Pyro model.

    Args:
        encoder: q(z | x).
        num_classes: number of classes.

    Example:
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> EncoderClassifier(DiagonalNormalGuide((5,), 2), 3).predict(torch.zeros(7, 5)).shape
        torch.Size([7])
    """

    def __init__(self, encoder: Guide, num_classes: int) -> None:
        super().__init__()
        check_count("EncoderClassifier", num_classes=num_classes)
        self.encoder, self.head = encoder, nn.Linear(encoder.latent_dim, num_classes)

    def logits(self, x: Tensor) -> Tensor:
        """Unnormalised log-probabilities, ``(B, classes)``, of ``x`` ``(B, *data_shape)``."""
        return self.head(moments(self.encoder.posterior(x), NUM_SAMPLES)[0])

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Run the Pyro model: sample ``"y"``, ``(B,)``, within the plate ``"data"``, or observe it."""
        register(self)
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("y", Categorical(logits=self.logits(x)), obs=y)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """The guide without sites."""

    def probabilities(self, x: Tensor) -> Tensor:
        """p(y | x), ``(B, classes)``, in eval mode and without a gradient."""
        with evaluating(self):
            return torch.cat([self.logits(block).softmax(-1) for block in x.split(1000)])

    def predict(self, x: Tensor) -> Tensor:
        """The most probable class, ``(B,)``."""
        return self.probabilities(x).argmax(-1)


def fine_tune(
    source: Any,
    images: Tensor,
    labels: Tensor,
    *,
    encoder: Encoder = "tuned",
    num_classes: int | None = None,
    epochs: int = 100,
    batch_size: int = 20,
    lr: float = 1e-3,
    seed: int = 0,
    **options: Any,
) -> EncoderClassifier:
    """Train a classifier of few labelled data on the encoder of a model that was trained without labels.

    Args:
        source: a VAE, or a trained run such as ``load_run("runs/mnist")``. Its encoder is copied.
        images: ``(N, *data_shape)``, labelled data.
        labels: ``(N,)``, their classes, integers from 0.
        encoder: ``"frozen"``, kept as it is, so that only the linear layer is trained; ``"tuned"``, then trained
            together with it at a tenth of the learning rate, since a layer that starts at random would first distort
            the encoder; ``"scratch"``, its weights drawn anew, for comparison.
        num_classes: number of classes; None is the largest label plus 1.
        epochs: passes over the labelled data, in each of the two parts.
        batch_size: data per step; N if there are fewer.
        lr: learning rate of Adam.
        seed: of the linear layer, new weights and the order of the data.
        options: further options of :func:`pyro_vae.fit`, such as ``engine``; not ``optimizer``.

    Returns:
        The classifier, in eval mode.

    Raises:
        ValueError: the source has no encoder q(z | x), data and labels do not fit, all labels are of one class, or the
            encoder has parameters that cannot be drawn anew.

    References:
        Greedy layer-wise training of deep networks (Bengio et al., 2007).
        https://papers.nips.cc/paper/2006/hash/5da713a690c067105aeb2fae32403405-Abstract.html
        Fine-tuning can distort pretrained features and underperform out-of-distribution (Kumar et al., 2022), the
        linear layer first. https://arxiv.org/abs/2202.10054

    Example:
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> x = torch.rand(40, 5).round()
        >>> fine_tune(vae, x, x[:, 0].long(), epochs=2).predict(x).shape
        torch.Size([40])
    """
    check_arguments(fine_tune, locals(), epochs=1, batch_size=1)
    check_positive("fine_tune", lr=lr)
    check_count("fine_tune", num_classes=num_classes)
    guide = _encoder(source)
    _check_data(guide, images, labels)
    num_classes = num_classes or int(labels.max()) + 1
    rule, got = "labels must be less than num_classes", f"num_classes={num_classes}, largest label {int(labels.max())}"
    require(int(labels.max()) < num_classes, "fine_tune", rule, got)
    with isolated_rng(seed):
        guide = copy.deepcopy(guide)
        if encoder == "scratch":
            _draw_anew(guide)
        like = next(guide.parameters())
        classifier = EncoderClassifier(guide, num_classes).to(like)
    data = images.to(like), labels.long().to(like.device)
    options = {"progress": False, "batch_size": min(batch_size, len(labels)), "seed": seed, **options}
    if encoder != "scratch":
        with frozen(guide):
            fit(classifier, classifier.guide, data, epochs=epochs, optimizer=partial(Adam, lr=lr), **options)
    if encoder != "frozen":
        rate = lr if encoder == "scratch" else lr / 10
        fit(classifier, classifier.guide, data, epochs=epochs, optimizer=partial(Adam, lr=rate), **options)
    return classifier.eval()


class VAEClassifier(ClassifierMixin, BaseEstimator):
    """Classifier of scikit-learn on the encoder of a trained VAE; see :func:`fine_tune`.

    X has two dimensions, ``(N, D)``: flatten images. It works in pipelines and cross-validation.

    Args:
        vae: the trained VAE, or a run; its encoder is copied.
        encoder: ``"tuned"``, ``"frozen"`` or ``"scratch"``.
        epochs: passes over the labelled data.
        batch_size: data per step.
        lr: learning rate of Adam.
        random_state: seed.

    Attributes:
        classifier_: the trained :class:`EncoderClassifier`.
        classes_: the classes.
        n_features_in_: D.

    Raises:
        ValueError: in ``fit``: no VAE, X that does not fit it, or labels of one class.

    Example:
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> X = np.random.default_rng(0).integers(0, 2, (40, 5)).astype("float32")
        >>> VAEClassifier(vae, epochs=2).fit(X, np.where(X[:, 0] > 0, "one", "zero")).predict(X).shape
        (40,)
    """

    classifier_: EncoderClassifier

    def __init__(
        self,
        vae: Any = None,
        *,
        encoder: Encoder = "tuned",
        epochs: int = 100,
        batch_size: int = 20,
        lr: float = 1e-3,
        random_state: int = 0,
    ) -> None:
        self.vae, self.encoder, self.epochs, self.batch_size = vae, encoder, epochs, batch_size
        self.lr, self.random_state = lr, random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Train on labelled X, ``(N, D)``, with classes y, ``(N,)``."""
        X, y = validate_data(self, X, y, dtype=FLOATS)
        self.classes_, codes = np.unique(y, return_inverse=True)
        options = {name: getattr(self, name) for name in ("encoder", "epochs", "batch_size", "lr")}
        images = self._images(X, _encoder(self.vae))
        self.classifier_ = fine_tune(self.vae, images, torch.from_numpy(codes), seed=self.random_state, **options)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """p(y | x), ``(N, classes)``, in the order of ``classes_``."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=FLOATS, reset=False)
        values: np.ndarray = self.classifier_.probabilities(self._images(X, self.classifier_.encoder)).cpu().numpy()
        return values

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class, ``(N,)``."""
        return self.classes_[self.predict_proba(X).argmax(-1)]

    def _images(self, X: np.ndarray, encoder: Guide) -> Tensor:
        rule, size = "X must have as many features as a datum of the VAE has entries", math.prod(encoder.data_shape)
        require(X.shape[1] == size, type(self).__name__, rule, f"{X.shape[1]} and {size}", "Flatten each datum")
        return torch.from_numpy(np.array(X)).to(next(encoder.parameters())).reshape(-1, *encoder.data_shape)


def _encoder(source: Any) -> Guide:
    vae = getattr(source, "vae", source)
    rule = "source must be a VAE, or a run of one, with an encoder"
    usable = isinstance(vae, VAE) and not isinstance(vae, ImplicitModel) and not vae.guide.needs_model
    require(usable, "fine_tune", rule, type(vae).__name__, "Pass a VAE with a DiagonalNormalGuide, or load_run(PATH)")
    return vae.guide


def _check_data(guide: Guide, images: Tensor, labels: Tensor) -> None:
    shapes = f"images={tuple(images.shape)}, labels={tuple(labels.shape)}"
    fits = images.shape[1:] == guide.data_shape and labels.shape == images.shape[:1] and len(images) > 0
    rule = f"images must be (N, {', '.join(map(str, guide.data_shape))}) and labels (N,)"
    require(fits, "fine_tune", rule, shapes)
    require(not (images.is_meta or labels.is_meta), "fine_tune", "images and labels must have values", "device='meta'")
    integers = not labels.is_floating_point() and labels.dtype != torch.bool
    got = f"{labels.dtype}, smallest {labels.min()}"
    require(integers and int(labels.min()) >= 0, "fine_tune", "labels must be integers from 0", got)
    rule, got = "labels must be of at least two classes", f"class {int(labels[0])} alone"
    require(labels.unique().numel() > 1, "fine_tune", rule, got)
    require(bool(images.isfinite().all()), "fine_tune", "images must be finite", "nan or inf")


def _draw_anew(guide: Guide) -> None:
    modules = [module for module in guide.modules() if callable(getattr(module, "reset_parameters", None))]
    drawn = {id(p) for module in modules for p in module.parameters(recurse=False)}
    rule = "encoder='scratch' needs layers of torch, whose weights can be drawn anew"
    require(drawn >= {id(p) for p in guide.parameters()}, "fine_tune", rule, type(guide).__name__, "Build a new VAE")
    for module in modules:
        module.reset_parameters()  # type: ignore[operator]
