"""The latents of a VAE as features: a scikit-learn transformer, the M1 of semi-supervised learning."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.optim import Adam, Optimizer
from typing_extensions import Self

from pyro_vae._core.checks import check_arguments, check_count, check_positive, require
from pyro_vae._core.owners import placement
from pyro_vae.data.image_set import ImageSet
from pyro_vae.features.encoding import active_dimensions, as_array, decode, encode, log_likelihoods
from pyro_vae.features.inputs import FLOATS, new_vae, validated
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.models import VAE
from pyro_vae.networks import Shape
from pyro_vae.priors import Prior
from pyro_vae.training import fit


class VAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""A VAE as a scikit-learn transformer: x to the mean of :math:`q(z | x)`, trained without labels (M1).

    It works in pipelines and cross-validation, with ``set_output``, ``clone`` and pickling. X has two dimensions,
    ``(N, D)``: flatten images, and pass their shape as ``data_shape`` for a convolutional network. The weights have the
    dtype of X: float32 trains faster. The defaults suit standardized real data; for data in {0, 1} pass
    ``likelihood=BernoulliLikelihood``. X may also be a data frame with texts, a sparse matrix, a file or a torch data
    set: it is loaded by :func:`pyro_vae.data.load`, and the default likelihood is that of its kind. No global state
    changes.

    Args:
        latent_dim: number of latent dimensions L.
        prior: builds p(z), ``prior(latent_dim)``; None is ``StandardNormalPrior``.
        likelihood: builds p(x | z), ``likelihood(latent_dim, data_shape)``; None is ``NormalLikelihood``.
        guide: builds q(z | x), ``guide(data_shape, latent_dim)``; None is ``DiagonalNormalGuide``.
        data_shape: shape of one datum; None is ``(D,)``.
        vae: a trained VAE to use instead; ``fit`` then only finds the active dimensions. See :meth:`from_vae`.
        epochs: passes over the data.
        batch_size: data per step; N if there are fewer data.
        optimizer: called as ``optimizer(parameters, lr=lr)``; None is torch's ``Adam``.
        lr: learning rate.
        features: ``"mean"`` of q(z | x), or ``"sample"``, one sample of it per datum.
        active_threshold: keep the dimensions whose posterior mean has a standard deviation above this over the data of
            ``fit``; Kingma et al. used 0.1. None keeps all.
        num_samples: importance samples per datum for :meth:`score`.
        random_state: an int gives the same weights, samples and scores, to rounding; None uses NumPy's global
            generator, as throughout scikit-learn.

    Attributes:
        vae_: the trained VAE.
        active_: mask ``(L,)`` of the dimensions that are kept.
        latent_mean_, latent_std_: ``(L,)``, mean and standard deviation of the posterior mean over the data of ``fit``.
        history_: the history of the training, one record per epoch; empty if ``vae`` is given.
        n_features_in_: D.
        columns_: names, kinds and levels of the columns of a table with texts; otherwise empty.

    Raises:
        ValueError: in ``fit``: X is not finite, outside the likelihood's support or not of ``data_shape``, no dimension
            is active, or an option is out of range.

    References:
        Semi-supervised learning with deep generative models (Kingma et al., 2014), section 2.1; the threshold is that
        of the authors' code, which samples z at every use (``features="sample"``). https://arxiv.org/abs/1406.5298

    Example:
        >>> import numpy as np
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> from sklearn.svm import LinearSVC
        >>> X = np.random.default_rng(0).normal(size=(60, 5)).astype("float32")
        >>> pipeline = make_pipeline(StandardScaler(), VAETransformer(2, epochs=3), LinearSVC())
        >>> pipeline.fit(X, X[:, 0] > 0).predict(X).shape
        (60,)
        >>> VAETransformer(2, epochs=3).fit_transform(X).shape
        (60, 2)
    """

    vae_: VAE
    history_: list[dict[str, Any]]

    def __init__(
        self,
        latent_dim: int = 10,
        *,
        prior: Callable[[int], Prior] | None = None,
        likelihood: Callable[[int, Shape], Likelihood] | None = None,
        guide: Callable[[Shape, int], Guide] | None = None,
        data_shape: Shape | None = None,
        vae: VAE | None = None,
        epochs: int = 100,
        batch_size: int = 100,
        optimizer: Callable[..., Optimizer] | None = None,
        lr: float = 1e-3,
        features: Literal["mean", "sample"] = "mean",
        active_threshold: float | None = None,
        num_samples: int = 500,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        # Arguments are checked in fit, since scikit-learn copies an estimator by its arguments.
        self.latent_dim, self.data_shape, self.vae = latent_dim, data_shape, vae
        self.prior, self.likelihood, self.guide = prior, likelihood, guide
        self.epochs, self.batch_size, self.optimizer, self.lr = epochs, batch_size, optimizer, lr
        self.features, self.active_threshold = features, active_threshold
        self.num_samples, self.random_state = num_samples, random_state

    @classmethod
    def from_vae(cls, vae: VAE, X: Any = None, **options: Any) -> Self:
        """Use a trained VAE, such as that of a run folder, as a fitted transformer; the VAE is not copied.

        A pipeline, which fits all its steps, does not train it either.

        Args:
            vae: the VAE, such as ``load_run("runs/mnist").vae``.
            X: ``(N, D)``, data that determine the active dimensions; without them all are kept.
            options: other arguments of the constructor: ``features``, ``active_threshold``, ``num_samples``,
                ``random_state``.

        Raises:
            ValueError: ``active_threshold`` without X.
            TypeError: ``vae`` is not a :class:`~pyro_vae.VAE`.

        Example:
            >>> from pyro_vae.likelihoods import BernoulliLikelihood
            >>> from pyro_vae.guides import DiagonalNormalGuide
            >>> from pyro_vae.priors import StandardNormalPrior
            >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (1, 3, 3)), DiagonalNormalGuide((1, 3, 3), 2))
            >>> VAETransformer.from_vae(vae).transform(np.ones((4, 9))).shape
            (4, 2)
        """
        if not isinstance(vae, VAE):
            raise TypeError(f"{cls.__name__}: vae must be a VAE, got a {type(vae).__name__}. Pass load_run(PATH).vae.")
        transformer = cls(vae.latent_dim, data_shape=vae.data_shape, vae=vae, **options)
        if X is not None:
            return transformer.fit(X)
        advice = "Pass X, or active_threshold=None"
        rule = "active_threshold must have data"
        require(transformer.active_threshold is None, cls.__name__, rule, "X=None", advice)
        transformer._check_options()
        transformer.vae_, transformer.history_ = vae, []
        transformer.n_features_in_ = math.prod(vae.data_shape)
        transformer.active_ = np.ones(vae.latent_dim, dtype=bool)
        return transformer

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train the VAE on X, ``(N, D)``; y is not used."""
        min_samples = 1 if self.active_threshold is None else 2  # over one datum nothing varies
        X, data = validated(self, X, ensure_min_samples=min_samples)
        self.columns_ = () if data is None else data.columns
        self._like = None if data is None else data.subset([0])
        self._check_options()
        is_own = data is not None and self.vae is None and self.data_shape is None
        shape = data.data_shape if data is not None and is_own else self._data_shape(X.shape[1])
        if self.vae is None:
            self._train(torch.from_numpy(np.array(X)).reshape(-1, *shape), data)
        else:
            self.vae_, self.history_ = self.vae, []
        means = self._encode(X, "mean")
        self.latent_mean_, self.latent_std_ = means.mean(0), means.std(0)
        self.active_ = active_dimensions(type(self).__name__, self.latent_std_, self.active_threshold)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The features of X: mean or sample of q(z | x) in the active dimensions.

        With an int as ``random_state`` the samples of equal X are equal; ``set_params(random_state=...)`` gives others.

        Args:
            X: ``(N, D)``.

        Returns:
            ``(N, active dimensions)``, of the dtype of X.
        """
        X = self._checked(X)
        return self._encode(X, self.features)[:, self.active_]

    def inverse_transform(self, X: Any) -> np.ndarray:
        """The mean of p(x | z); an inactive dimension of z has its mean over the data of ``fit``.

        Args:
            X: ``(N, active dimensions)``, features z.

        Returns:
            ``(N, D)``.
        """
        check_is_fitted(self)
        Z = check_array(X, dtype=FLOATS, estimator=self, input_name="X")
        num = self.active_.sum()
        rule, advice = f"X must have {num} features", "Pass the result of transform"
        require(Z.shape[1] == num, type(self).__name__, rule, Z.shape[1], advice)
        full = np.empty((len(Z), len(self.active_)), dtype=Z.dtype)
        full[:, self.active_] = Z
        if not self.active_.all():
            full[:, ~self.active_] = self.latent_mean_[~self.active_]
        return as_array(decode(self.vae_, self._tensor(full)).flatten(1), like=Z)

    def score_samples(self, X: Any) -> np.ndarray:
        r"""Importance-sampling estimate of log p(x) per datum, :math:`\log \frac1S \sum_s p(x, z_s) / q(z_s | x)`.

        A lower bound in expectation. Every datum uses the same stream of random numbers: to rounding, its value is that
        of :func:`pyro_vae.log_likelihood` for this datum alone with ``chunk_size=1000``, for any other data of X. All
        latent dimensions are used, active or not.

        Args:
            X: ``(N, D)``.

        Returns:
            ``(N,)``, nats.

        References:
            Importance Weighted Autoencoders (Burda et al., 2016), section 5. https://arxiv.org/abs/1509.00519
        """
        X = self._checked(X)
        x, seed = self._data(X), self._seed()
        return as_array(log_likelihoods(self.vae_, x, num_samples=self.num_samples, seed=seed), like=X)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-likelihood per datum of X, ``(N, D)``, in nats; higher is better. See :meth:`score_samples`."""
        return float(self.score_samples(X).mean(dtype=np.float64))

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The class's name with the number of the latent dimension, such as ``vaetransformer3``."""
        check_is_fitted(self)
        return super().get_feature_names_out(input_features)[self.active_]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.non_deterministic = self.features == "sample"  # a datum's sample depends on its row in X
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.vae_.latent_dim

    def _train(self, x: Tensor, data: ImageSet | None) -> None:
        seed = self._seed()
        pieces = {"prior": self.prior, "likelihood": self.likelihood, "guide": self.guide}
        self.vae_ = new_vae(x, data, self.latent_dim, **pieces, seed=seed)
        self.history_ = fit(
            self.vae_.model,
            self.vae_.guide,
            x,
            epochs=self.epochs,
            batch_size=min(self.batch_size, len(x)),
            optimizer=partial(self.optimizer or Adam, lr=self.lr),
            seed=seed,
            progress=False,
        ).history

    def _encode(self, X: np.ndarray, features: str) -> np.ndarray:
        """``(N, L)``, all dimensions."""
        z = encode(self.vae_, self._data(X), sample=features == "sample", seed=self._seed())
        return as_array(z, like=X)

    def _checked(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        self._check_options()
        return validated(self, X, like=getattr(self, "_like", None), reset=False)[0]

    def _tensor(self, X: np.ndarray) -> Tensor:
        device, dtype = placement(self.vae_)
        return torch.from_numpy(np.array(X)).to(device=device, dtype=dtype)

    def _data(self, X: np.ndarray) -> Tensor:
        return self._tensor(X).reshape(-1, *self.vae_.data_shape)

    def _data_shape(self, num_features: int) -> Shape:
        shape = self.data_shape if self.vae is None else self.vae.data_shape
        if shape is None:
            return (num_features,)
        rule = f"X must have as many features as data_shape={tuple(shape)} has entries"
        advice = "Flatten each datum: X.reshape(len(X), -1)"
        require(math.prod(shape) == num_features, type(self).__name__, rule, num_features, advice)
        return tuple(shape)

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _check_options(self) -> None:
        name, sizes = type(self).__name__, ("latent_dim", "epochs", "batch_size", "num_samples")
        check_arguments(VAETransformer.__init__, vars(self), name)
        check_count(name, **{size: getattr(self, size) for size in sizes})
        check_positive(name, lr=self.lr)
        check_positive(name, at_least_zero=True, active_threshold=self.active_threshold)
