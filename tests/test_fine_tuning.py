"""Classifiers on the encoder of a model trained without labels."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from torch import Tensor

from pyro_vae import VAE
from pyro_vae.features import VAEClassifier, fine_tune
from pyro_vae.guides import DeltaGuide, DiagonalNormalGuide, HMCGuide
from pyro_vae.likelihoods import BernoulliLikelihood, ImplicitLikelihood
from pyro_vae.models import ImplicitModel
from pyro_vae.networks import MLP
from pyro_vae.priors import StandardNormalPrior
from tests.linear_gaussian import LinearGaussian

QUICK: dict[str, Any] = {"epochs": 40, "batch_size": 50, "lr": 0.03, "engine": "eager"}
CASE = {"latent_dim": 2, "dim": 200, "scale": 0.3}


def labelled(case: LinearGaussian, num: int) -> tuple[Tensor, Tensor]:
    """Data of two latents among 200 noisy entries; the class is the quadrant of the latents."""
    z = torch.randn(num, 2)
    x = z @ case.weight.mT + case.bias + case.scale * torch.randn(num, 200)
    return x, (z > 0).long() @ torch.tensor([1, 2])


def test_at_100_labels_fine_tuning_is_better_than_from_scratch() -> None:
    """Beyond the 95% interval of the paired difference over five draws of the labels.

    The model is the data's own, so that its encoder knows the plane in which the classes differ.
    """
    case = LinearGaussian(**CASE)  # type: ignore[arg-type]
    x, y = labelled(case, 1000)
    accuracy: dict[str, list[float]] = {"tuned": [], "scratch": []}
    for draw in range(5):
        labelled_x, labelled_y = labelled(case, 100)
        for encoder, values in accuracy.items():
            classifier = fine_tune(case.vae, labelled_x, labelled_y, encoder=encoder, seed=draw, **QUICK)  # type: ignore[arg-type]
            values.append(float((classifier.predict(x) == y).double().mean()))
    gain = np.subtract(accuracy["tuned"], accuracy["scratch"])
    assert gain.mean() > stats.t.ppf(0.975, 4) * stats.sem(gain), accuracy


def small(guide: Any = DiagonalNormalGuide) -> VAE:
    net = partial(MLP, hidden=(6,))
    return VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (1, 2, 3), net=net), guide((1, 2, 3), 2, net=net))


def gan() -> ImplicitModel:
    net = partial(MLP, hidden=(6,))
    return ImplicitModel(StandardNormalPrior(2), ImplicitLikelihood(2, (1, 2, 3), net=net))


def binary(num: int = 30) -> tuple[Tensor, Tensor]:
    x = torch.rand(num, 1, 2, 3).round()
    return x, x.flatten(1)[:, 0].long()


def test_the_encoder_of_the_source_is_copied() -> None:
    vae, (x, y) = small(DeltaGuide), binary()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    classifiers = {e: fine_tune(vae, x, y, encoder=e, epochs=2, engine="eager") for e in ("tuned", "frozen", "scratch")}  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    ours = dict(vae.guide.named_parameters())
    for name, parameter in classifiers["frozen"].encoder.named_parameters():
        assert torch.equal(parameter, ours[name])
        assert parameter.requires_grad
    for kind in ("tuned", "scratch"):
        assert not any(torch.equal(p, ours[n]) for n, p in classifiers[kind].encoder.named_parameters())
    first = {kind: c.encoder.net.layers[0].weight.detach() for kind, c in classifiers.items()}
    distance = {kind: float((weight - first["frozen"]).abs().max()) for kind, weight in first.items()}
    assert 0 < distance["tuned"] < 5e-4 < 0.05 < distance["scratch"]  # four steps of Adam at a rate of 1e-4


def test_a_run_and_the_seed() -> None:
    vae, (x, y) = small(), binary()
    one, two, three = (
        fine_tune(source, x, y, epochs=2, seed=seed, engine="eager").probabilities(x)
        for source, seed in ((vae, 0), (SimpleNamespace(vae=vae), 0), (vae, 1))
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    torch.testing.assert_close(one.sum(-1), torch.ones(30))
    assert fine_tune(vae, x, y, epochs=1, num_classes=4, engine="eager").probabilities(x).shape == (30, 4)


def test_the_estimator_of_scikit_learn() -> None:
    vae, (x, y) = small(), binary(60)
    X, names = x.flatten(1).numpy(), np.where(y.numpy() > 0, "one", "none")
    estimator = clone(VAEClassifier(vae, epochs=20, lr=0.05))
    fitted = estimator.fit(X, names)
    assert list(fitted.classes_) == ["none", "one"]
    assert fitted.predict_proba(X).shape == (60, 2)
    assert (fitted.predict(X) == fitted.classes_[fitted.predict_proba(X).argmax(-1)]).all()
    assert fitted.score(X, names) > 0.9
    assert len(cross_val_score(VAEClassifier(vae, epochs=1), X, names, cv=2)) == 2


X = torch.zeros(4, 1, 2, 3)
Y = torch.tensor([0, 1, 0, 1])
REFUSED = [
    (lambda: fine_tune(small(), X, Y * 0), "fine_tune: labels must be of at least two classes, got class 0 alone."),
    (lambda: fine_tune(small(), X, Y.double()), "fine_tune: labels must be integers from 0, got torch.float64"),
    (lambda: fine_tune(small(), X, Y - 1), "fine_tune: labels must be integers from 0, got torch.int64, smallest -1."),
    (lambda: fine_tune(small(), X[:3], Y), "fine_tune: images must be (N, 1, 2, 3) and labels (N,), got images=(3,"),
    (
        lambda: fine_tune(small(), X[:0], Y[:0]),
        "fine_tune: images must be (N, 1, 2, 3) and labels (N,), got",
    ),
    (lambda: fine_tune(small(), X * torch.nan, Y), "fine_tune: images must be finite, got nan or inf."),
    (lambda: fine_tune(small(), X, Y, num_classes=1), "fine_tune: labels must be less than num_classes, got"),
    (lambda: fine_tune(small(), X, Y, encoder="new"), "fine_tune: encoder must be one of 'tuned', 'frozen', 'scratch'"),  # type: ignore[arg-type]
    (lambda: fine_tune(3, X, Y), "fine_tune: source must be a VAE, or a run of one, with an encoder, got int. Pass"),
    (lambda: fine_tune(small(partial(HMCGuide, hidden=(6,))), X, Y), "fine_tune: source must be a VAE, or a run of"),
    (
        lambda: fine_tune(gan(), X, Y),
        "fine_tune: source must be a VAE, or a run of one, with an encoder, got ImplicitM",
    ),
    (lambda: VAEClassifier(small()).fit(X[:, 0, 0].numpy(), Y.numpy()), "VAEClassifier: X must have as many features"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=lambda v: v[:60] if isinstance(v, str) else "")
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        call()
    assert str(error.value).startswith(message)
