"""Outliers by a VAE: a scikit-learn detector with a false alarm rate that held-out data determine."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from typing_extensions import Self

from pyro_vae._core.checks import check_arguments, require
from pyro_vae.evaluation import OutlierDetector
from pyro_vae.evaluation.outlier_detection import LEAST_REFERENCE, least_level
from pyro_vae.evaluation.outlier_rules import Combination
from pyro_vae.features.transformer import FLOATS, VAETransformer


class VAEOutlierDetector(OutlierMixin, BaseEstimator):
    r"""Outlier detector of scikit-learn: a VAE is trained on a part of X, and the rest calibrates the scores.

    The score is the combination of all statistics that one evaluation gives (:class:`OutlierDetector
    <pyro_vae.evaluation.OutlierDetector>`): log p(x), rate, distortion and, for discrete data, the complexity. A datum
    is an outlier, -1, if its conformal p-value is at most ``level``, which is therefore the rate of false
    alarms on data like X, whatever the model. It is not scikit-learn's ``contamination``, the share of outliers in X.

    Args:
        transformer: the VAE and its training; None is ``VAETransformer()``. One of a trained VAE, ``vae=...``, is not
            trained on X.
        level: rate of false alarms.
        holdout: share of X that calibrates the scores, at random.
        combination: rule of the combined score, ``"density"``, ``"svm"``, ``"mean"`` or ``"largest"``.
        num_samples: importance samples of log p(x) per datum.
        random_state: of the division of X and of the samples.

    Attributes:
        vae_: the trained VAE.
        offset_: ``decision_function`` is ``score_samples`` minus this; it is negative for outliers.
        n_features_in_: D.

    Raises:
        ValueError: in ``fit``: X is not finite or outside the likelihood's support, an option is out of range, or
            fewer than 10 data are held out.

    References:
        Density of states estimation for out-of-distribution detection (Morningstar et al., 2021).
        https://arxiv.org/abs/2006.09273

    Example:
        >>> X = np.random.default_rng(0).normal(size=(300, 5)).astype("float32")
        >>> detector = VAEOutlierDetector(VAETransformer(2, epochs=3)).fit(X)
        >>> detector.predict(np.array([[0.0] * 5, [50.0] * 5], dtype="float32"))
        array([ 1, -1])
    """

    def __init__(
        self,
        transformer: VAETransformer | None = None,
        *,
        level: float = 0.05,
        holdout: float = 0.4,
        combination: Combination = "density",
        num_samples: int = 32,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.transformer, self.level, self.holdout = transformer, level, holdout
        self.combination, self.num_samples, self.random_state = combination, num_samples, random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train the VAE on a part of X, ``(N, D)``, and calibrate the scores on the rest; y is not used."""
        X = validate_data(self, X, dtype=FLOATS)
        self._check_options()
        generator = check_random_state(self.random_state)
        order, num = generator.permutation(len(X)), round(self.holdout * len(X))
        rule = f"the held-out part of X must have at least {LEAST_REFERENCE} samples"
        got = f"{num} of n_samples = {len(X)}, n_features = {X.shape[1]}"
        require(LEAST_REFERENCE <= num < len(X), type(self).__name__, rule, got, "Pass more data or a larger holdout")
        rule = f"level must be at least {least_level(num):.3g}, 1 / (calibration data + 1)"
        require(self.level >= least_level(num), type(self).__name__, rule, f"level={self.level}", "Pass more data")
        transformer = VAETransformer() if self.transformer is None else clone(self.transformer)
        self.vae_ = transformer.fit(X[order[num:]]).vae_
        options: dict[str, Any] = {"combination": self.combination, "num_samples": self.num_samples}
        seed = int(generator.randint(2**31 - 2))
        reference = self._data(X[order[:num]])
        self._detector = OutlierDetector(self.vae_.model, self.vae_.guide, reference, seed=seed, **options)
        self.offset_ = -self._detector.threshold(self.level)
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Minus the combined score, ``(N,)``; lower is stranger."""
        X = self._checked(X)
        return -self._detector.scores(self._data(X))[:, -1].numpy()

    def decision_function(self, X: Any) -> np.ndarray:
        """``score_samples(X) - offset_``, ``(N,)``: negative for data with p <= ``level``."""
        return self.score_samples(X) - self.offset_

    def p_values(self, X: Any) -> np.ndarray:
        """Conformal p-values of the combined score, ``(N,)``."""
        X = self._checked(X)
        values: np.ndarray = self._detector(self._data(X)).p_value().numpy()
        return values

    def predict(self, X: Any) -> np.ndarray:
        """-1 for outliers, 1 for other data, ``(N,)``."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = True  # a datum's samples depend on its row in X
        return tags

    def _checked(self, X: Any) -> Any:
        check_is_fitted(self)
        return validate_data(self, X, dtype=FLOATS, reset=False)

    def _data(self, X: np.ndarray) -> Tensor:
        like = next(self.vae_.parameters())
        return torch.from_numpy(np.array(X)).to(like).reshape(-1, *self.vae_.data_shape)

    def _check_options(self) -> None:
        name = type(self).__name__
        check_arguments(VAEOutlierDetector.__init__, vars(self), name)
        for option in ("level", "holdout"):
            value = getattr(self, option)
            require(0 < value < 1, name, f"{option} must be between 0 and 1", f"{option}={value}")
