"""Metrics of disentanglement, of a matrix of codes and a table of known factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pyro_vae._core.checks import refusal, require, shown

Array = np.ndarray
METRICS = (
    *("MIG", "SAP", "DCI disentanglement", "DCI completeness", "DCI informativeness"),
    *("FactorVAE metric", "beta-VAE metric"),
)
"""Names of the metrics, in the order of :func:`measure`."""
_TREES = {"n_estimators": 30, "learning_rate": 0.2, "random_state": 0}
_MAX_ROWS = 2000  # for the trees; half of the rows train them
_NUM_VOTES, _GROUP = 1000, 64  # of the metrics that classify which factor is constant; half of the votes train them
_UNRELATED = 1e-9  # share of a factor that a predictor must explain to have importances


@dataclass(frozen=True)
class Factors:
    """Known factors of N data, one column each.

    Attributes:
        names: their names.
        values: ``(N, F)`` float64; classes of a factor that is no number are numbered from 0.
        classes: ``(N, F)`` int64, from 0: the values of a factor of few values, bins of equal width of any other.
        discrete: whether each factor has at most as many values as there are bins.
    """

    names: list[str]
    values: Array
    classes: Array
    discrete: list[bool]

    def __getitem__(self, rows: Array) -> Factors:
        return Factors(self.names, self.values[rows], self.classes[rows], self.discrete)


def as_factors(factors: Any, num_data: int, *, num_bins: int, owner: str) -> Factors:
    """Check a table of factors.

    Args:
        factors: values ``(N,)`` by name (a dictionary, a DataFrame), or ``(N, F)``.
        num_data: N.
        num_bins: bins of a continuous factor, and the largest number of values of a discrete one.
        owner: name that messages begin with.

    Raises:
        ValueError: fewer than two factors, another number of data, values that are not finite, or a constant factor.
    """
    if isinstance(factors, Mapping) or hasattr(factors, "items"):
        columns = {str(name): _array(column, f"factor {name!r}", owner) for name, column in factors.items()}
    else:
        matrix = as_numbers(factors, "factors", owner=owner)
        require(matrix.ndim == 2, owner, "factors must be (N, F), or (N,) by name", f"shape {matrix.shape}")
        columns = {f"factor {i}": column for i, column in enumerate(matrix.T)}
    require(len(columns) > 1, owner, "there must be at least two factors", f"{len(columns)}", "Pass those of Faces")
    values, classes, discrete = [], [], []
    for name, column in columns.items():
        right = column.shape == (num_data,)
        require(
            right, owner, f"factors must have shape ({num_data},)", f"{column.shape} of {name!r}", "Index both alike"
        )
        levels, inverse = np.unique(column, return_inverse=True)
        numeric = column.dtype.kind in "fiub"
        if numeric and not np.isfinite(column).all():
            raise refusal(owner, "factors must be finite", f"nan or infinite values of {name!r}", "Remove these data")
        require(len(levels) > 1, owner, "factors must vary", f"{name!r} of the only value {levels[0]}", "Omit it")
        discrete.append(not numeric or len(levels) <= num_bins)
        values.append(column.astype(float) if numeric else inverse.astype(float))
        classes.append(inverse if discrete[-1] else binned(values[-1][:, None], num_bins)[:, 0])
    return Factors(list(columns), np.stack(values, 1), np.stack(classes, 1).astype(np.int64), discrete)


def as_numbers(values: Any, name: str, *, owner: str) -> Array:
    """A float64 array of a tensor, an array or a sequence of real numbers.

    Raises:
        ValueError: the values are no real numbers.
    """
    array = _array(values, name, owner)
    require(array.dtype.kind in "fiub", owner, f"{name} must be real numbers", shown(values), "Pass a tensor (N, ...)")
    return array.astype(float)


def _array(values: Any, name: str, owner: str) -> Array:
    try:
        return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    except (TypeError, ValueError, NotImplementedError):  # a ragged list, or a tensor without values
        raise refusal(owner, f"{name} must be an array", shown(values), "Pass a tensor (N, ...)") from None


def binned(codes: Array, num_bins: int) -> Array:
    """Bins 0, 1, ... of equal width between the smallest and the largest value of each column; ``(N, L)``."""
    low, high = codes.min(0), codes.max(0)
    width = np.where(high > low, high - low, 1.0)
    return np.minimum((codes - low) / width * num_bins, num_bins - 1).astype(np.int64)


def mutual_information(codes: Array, factors: Factors, *, num_bins: int) -> tuple[Array, Array]:
    """Mutual information of every code and factor, ``(L, F)``, and the entropies of the factors, ``(F,)``, in nats.

    Args:
        codes: ``(N, L)``, put into bins of equal width.
        factors: their classes are used.
        num_bins: bins of each code.
    """
    bins = binned(codes, num_bins)
    information = np.zeros((codes.shape[1], len(factors.names)))
    for f, column in enumerate(factors.classes.T):
        num = int(column.max()) + 1
        for j, code in enumerate(bins.T):
            joint = np.bincount(code * num + column, minlength=num_bins * num).reshape(num_bins, num) / len(code)
            product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
            some = joint > 0
            information[j, f] = (joint[some] * np.log(joint[some] / product[some])).sum()
    shares = [np.bincount(column) / len(column) for column in factors.classes.T]
    return information, np.array([-(p[p > 0] * np.log(p[p > 0])).sum() for p in shares])


def gap(scores: Array) -> Array:
    """Difference of the largest and the second largest score of each factor, ``(F,)``; of one code, its score."""
    ordered = np.sort(scores, 0)[::-1]
    return ordered[0] - ordered[1] if len(ordered) > 1 else ordered[0]


def separability(codes: Array, factors: Factors) -> Array:
    """Score of each single code as a predictor of each factor, ``(L, F)``, from 0 by chance to 1.

    The squared correlation with a continuous factor; of a discrete one the mean accuracy over its classes of thresholds
    on the code, one fewer than there are classes, with chance at 0.
    """
    scores = np.zeros((codes.shape[1], len(factors.names)))
    for f, discrete in enumerate(factors.discrete):
        for j, code in enumerate(codes.T):
            score = _threshold_accuracy if discrete else _squared_correlation
            scores[j, f] = score(code, (factors.classes if discrete else factors.values)[:, f])
    return scores


def _squared_correlation(code: Array, values: Array) -> float:
    variance = code.var() * values.var()
    return 0.0 if variance < 1e-24 else float(np.mean((code - code.mean()) * (values - values.mean())) ** 2 / variance)


def _threshold_accuracy(code: Array, classes: Array) -> float:
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    num = len(np.unique(classes))
    if num < 2:  # of a resample
        return 0.0
    tree = DecisionTreeClassifier(max_leaf_nodes=num, class_weight="balanced", random_state=0)
    predicted = tree.fit(code[:, None], classes).predict(code[:, None])
    return float((balanced_accuracy_score(classes, predicted) - 1 / num) / (1 - 1 / num))


def importances(codes: Array, factors: Factors, rng: np.random.Generator) -> tuple[Array, Array]:
    """Importance of each code for boosted trees that predict each factor, ``(L, F)``, and their test scores ``(F,)``.

    The score is R^2 for a continuous factor, the accuracy for a discrete one. A factor that the trees cannot predict at
    all has no importances.
    """
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    rows = rng.permutation(len(codes))[:_MAX_ROWS]
    train, test = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    matrix, scores = np.zeros((codes.shape[1], len(factors.names))), np.zeros(len(factors.names))
    for f, discrete in enumerate(factors.discrete):
        target = (factors.classes if discrete else factors.values)[:, f]
        kind = GradientBoostingClassifier if discrete else GradientBoostingRegressor
        if len(np.unique(target[train])) < 2:
            continue
        trees = kind(**_TREES).fit(codes[train], target[train])
        baseline = np.bincount(target[train]).max() / len(train) if discrete else 0.0
        if trees.score(codes[train], target[train]) > baseline + _UNRELATED:
            matrix[:, f] = trees.feature_importances_
        scores[f] = trees.score(codes[test], target[test])
    return matrix, scores


def concentration(matrix: Array) -> float:
    """One minus the entropy of each row, in units of its largest value, averaged by the sums of the rows."""
    sums = matrix.sum(1)
    if sums.sum() == 0:
        return 0.0
    p = matrix / np.where(sums > 0, sums, 1.0)[:, None]
    entropy = -(p * np.log(np.where(p > 0, p, 1.0))).sum(1) / (np.log(matrix.shape[1]) or 1.0)
    return float((sums * (1 - entropy)).sum() / sums.sum())


def constant_factor(codes: Array, factors: Factors, rng: np.random.Generator) -> tuple[float, float]:
    """Accuracies of two classifiers of the factor that is the same in a group of data: FactorVAE's and beta-VAE's.

    The first takes the code of least variance in the group, in units of its variance over all data, and votes by
    majority; the second is a logistic regression on the mean absolute differences of the codes of pairs.
    """
    from sklearn.linear_model import LogisticRegression

    scale = codes.std(0)
    if not (scale > 1e-12).any():
        return 1 / len(factors.names), 1 / len(factors.names)
    scaled = codes[:, scale > 1e-12] / scale[scale > 1e-12]
    num, quietest, differences = _NUM_VOTES // len(factors.names), [], []
    for column in factors.classes.T:
        order = np.argsort(column, kind="stable")
        chosen = column[rng.integers(len(column), size=num)]
        start, end = (np.searchsorted(column[order], chosen, side) for side in ("left", "right"))
        places = start + (rng.random((2, _GROUP, num)) * (end - start)).astype(np.int64)
        group = scaled[order[places]]  # (2, 64, num, L): pairs of data that share the factor
        quietest.append(group.reshape(2 * _GROUP, num, -1).var(0).argmin(1))
        differences.append(np.abs(group[0] - group[1]).mean(0))
    labels = np.arange(len(factors.names)).repeat(num)
    train, test = np.arange(len(labels)) % 2 == 0, np.arange(len(labels)) % 2 == 1
    quiet, difference = np.concatenate(quietest), np.concatenate(differences)
    votes = np.zeros((scaled.shape[1], len(factors.names)))
    np.add.at(votes, (quiet[train], labels[train]), 1)
    first = float((votes.argmax(1)[quiet[test]] == labels[test]).mean())
    regression = LogisticRegression(C=1e3, max_iter=1000).fit(difference[train], labels[train])
    return first, float(regression.score(difference[test], labels[test]))


def measure(codes: Array, factors: Factors, rng: np.random.Generator, *, num_bins: int) -> tuple[Array, Array, Array]:
    """Every metric of :data:`METRICS`, the mutual information and the importances, ``(L, F)`` each."""
    information, entropies = mutual_information(codes, factors, num_bins=num_bins)
    mig = gap(information / np.where(entropies > 0, entropies, 1.0)).mean()
    sap = gap(separability(codes, factors)).mean()
    matrix, scores = importances(codes, factors, rng)
    constant = constant_factor(codes, factors, rng)
    values = (mig, sap, concentration(matrix), concentration(matrix.T), scores.mean(), *constant)
    return np.array(values), information, matrix
