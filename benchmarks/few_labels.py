"""Classifiers of few labelled and many unlabelled examples, with options selected within the labelled ones alone.

References:
    Transductive inference for text classification using support vector machines (Joachims, 1999), algorithm 1.
    https://dl.acm.org/doi/10.5555/645528.657646
    Learning with local and global consistency (Zhou et al., 2004), label spreading.
    https://papers.nips.cc/paper/2506-learning-with-local-and-global-consistency
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier
from sklearn.svm import SVC

LINEAR = {"C": [0.01, 0.1, 1, 10]}
RBF = {"C": [0.1, 1, 10, 100], "gamma": [0.01, 0.03, 0.1, 0.3]}  # for features of about unit variance
NEIGHBOURS = {"n_neighbors": [1, 3, 5, 7, 11]}
CONFIDENT, ROUNDS = 0.9, 10  # self-training: probability threshold and number of rounds
WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0)  # transduction: of all unlabelled examples together, relative to the labelled
# With a smaller C nearly all dual variables are at their bound, and the machine keeps the initial classes of the
# unlabelled examples: one label draw of three ended with an error of 88%.
LEAST_C = 1
SLACK = 1.1  # transduction: maximal size of a class, as a multiple of the mean size
GRAPH_NEIGHBOURS, ALPHA = 7, 0.2

PROTOCOL = {
    "chosen by cross-validation on the labelled examples": {"linear SVM": LINEAR, "RBF SVM": RBF, "kNN": NEIGHBOURS},
    "self-training": {"threshold": CONFIDENT, "rounds": ROUNDS},
    "transduction": {"weights": WEIGHTS, "slack": SLACK, "least C": LEAST_C},
    "label spreading": {"neighbours": GRAPH_NEIGHBOURS, "alpha": ALPHA},
}


def classifiers(x: np.ndarray, y: np.ndarray, some: np.ndarray, many: np.ndarray, seed: int) -> dict[str, Any]:
    """Fit every classifier; the last three use unlabelled examples, too.

    Args:
        x: ``(n, L)``, labelled examples.
        y: ``(n,)``, their classes.
        some: ``(m, L)``, unlabelled examples for the support vector machines.
        many: ``(M, L)``, unlabelled examples for the graph.
        seed: seed of the folds.
    """
    rbf = searched(SVC(), RBF, x, y, seed)
    calibrated = CalibratedClassifierCV(SVC(**rbf.best_params_), ensemble=False, cv=3)
    spreading = LabelSpreading(kernel="knn", n_neighbors=GRAPH_NEIGHBOURS, alpha=ALPHA, max_iter=100)
    return {
        "linear SVM": searched(SVC(kernel="linear"), LINEAR, x, y, seed),
        "RBF SVM": rbf,
        "kNN": searched(KNeighborsClassifier(), NEIGHBOURS, x, y, seed),
        "self-training RBF SVM": SelfTrainingClassifier(calibrated, threshold=CONFIDENT, max_iter=ROUNDS).fit(
            *joined(x, y, some)
        ),
        "transductive RBF SVM": transductive(SVC(**rbf.best_params_), x, y, some),
        "label spreading": spreading.fit(*joined(x, y, many)),
    }


def searched(estimator: Any, grid: dict[str, list[Any]], x: np.ndarray, y: np.ndarray, seed: int) -> Any:
    """Fit the estimator to the labelled examples, with options selected by cross-validation within them."""
    folds = StratifiedKFold(min(5, int(np.bincount(y).min())), shuffle=True, random_state=seed)
    return GridSearchCV(estimator, grid, cv=folds).fit(x, y)


def joined(x: np.ndarray, y: np.ndarray, unlabelled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labelled and unlabelled examples, the latter with class -1."""
    return np.concatenate([x, unlabelled]), np.concatenate([y, np.full(len(unlabelled), -1)])


def transductive(svm: SVC, x: np.ndarray, y: np.ndarray, unlabelled: np.ndarray) -> ClassifierMixin:
    """Refit an SVM to its own labels of the unlabelled examples with increasing weight, under bounded class sizes.

    Joachims (1999) for several classes: every round assigns all labels again instead of exchanging pairs.
    """
    svm.set_params(C=max(svm.C, LEAST_C))
    svm.fit(x, y)
    for weight in WEIGHTS:
        assigned = svm.classes_[balanced(svm.decision_function(unlabelled))]
        weights = np.concatenate([np.ones(len(x)), np.full(len(unlabelled), weight * len(x) / len(unlabelled))])
        svm.fit(np.concatenate([x, unlabelled]), np.concatenate([y, assigned]), sample_weight=weights)
    return svm


def balanced(scores: np.ndarray) -> np.ndarray:
    """The class of every row, ``(N,)``, assigned in the order of confidence, with classes of bounded size."""
    room = np.full(scores.shape[1], int(np.ceil(SLACK * len(scores) / scores.shape[1])))
    classes = np.empty(len(scores), dtype=int)
    top = np.sort(scores, 1)
    for row in np.argsort(top[:, -2] - top[:, -1]):
        classes[row] = np.where(room > 0, scores[row], -np.inf).argmax()
        room[classes[row]] -= 1
    return classes
