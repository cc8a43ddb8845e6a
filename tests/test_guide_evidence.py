"""Every guide on a correlated posterior: what its ELBO lacks, and that its log-likelihood lacks nothing."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_vae import guides, log_likelihood, refit_guide
from pyro_vae.networks import MLP
from pyro_vae.objectives import StickingTheLanding
from tests.linear_gaussian import LinearGaussian
from tests.test_contracts import concrete, names

NONE = ("discrete", "implicit", "deterministic", "bounded")
CONTINUOUS = [cls for cls in concrete(guides) if not any(getattr(cls, name) for name in NONE)]
# What is left of the gap of the best diagonal normal, at most; a guide that is not here cannot do without it.
LEFT = {
    "FullRankNormalGuide": 0.1,
    "LowRankNormalGuide": 0.5,
    "HouseholderFlowGuide": 0.3,
    "IAFGuide": 0.3,
    "PlanarFlowGuide": 0.3,
    "SplineFlowGuide": 0.3,
    "SylvesterFlowGuide": 0.3,
}
OPTIONS = {"LowRankNormalGuide": {"rank": 2}, "IAFGuide": {"hidden": (20,)}, "SplineFlowGuide": {"hidden": (20,)}}
STEPS, EPOCHS = 250, 5
MORE_STEPS = {"FullRankNormalGuide": 350, "HouseholderFlowGuide": 350}
linear = partial(MLP, hidden=())


def build(cls):
    """One of the class, linear in x."""
    net = {"net": linear}
    if cls is guides.SemiAmortizedGuide:
        net = {"guide": partial(guides.DiagonalNormalGuide, net=linear), "num_steps": 3}
    guide = cls((5,), 2, **net, **OPTIONS.get(cls.__name__, {}))
    with torch.no_grad():  # the linear encoders' scales would start at exp of tens
        for name, parameter in guide.named_parameters():
            if "net." in name and "reverse" not in name:
                parameter.mul_(0.02)
    return guide


@pytest.fixture
def case() -> LinearGaussian:
    """A correlation of -0.44, so that the weights of the best diagonal normal still have a variance (below 0.5)."""
    case = LinearGaussian(latent_dim=2, dim=5, scale=1.0)
    products = torch.tensor([[1.5, 1.1], [1.1, 1.5]])
    case.weight = torch.linalg.qr(torch.randn(5, 2)).Q @ torch.linalg.cholesky(products).T
    case._set_model()
    return case


def diagonal_gap(case: LinearGaussian) -> float:
    """KL from the best diagonal normal to the posterior, the same for every datum: half the log of diag over det."""
    precision = torch.eye(2) + case.weight.T @ case.weight / case.scale**2
    return 0.5 * float(precision.diagonal().log().sum() - torch.logdet(precision))


@pytest.mark.slow
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("cls", CONTINUOUS, ids=names)
def test_a_fitted_guide_has_the_evidence_and_the_elbo_of_its_family(cls, case) -> None:
    x, steps = case.data(60), MORE_STEPS.get(cls.__name__, STEPS)
    options = {"lr_schedule": partial(CosineAnnealingLR, T_max=steps), "lr_schedule_unit": "step"}
    options |= {"optimizer": partial(Adam, lr=1e-2), "objective": StickingTheLanding(num_particles=8)}
    data = case.data(60 * steps // EPOCHS)  # the compiled engine runs the program itself once an epoch
    vae, _ = refit_guide(case.vae, build(cls), data, epochs=EPOCHS, batch_size=60, engine="compiled", **options)
    result = log_likelihood(vae.model, vae.guide, x, num_samples=5000)
    z = (result.log_likelihood - case.log_prob(x)) / result.standard_error
    assert z.abs().max() < 4.5
    gap, best = float((case.log_prob(x) - result.elbo).mean()), diagonal_gap(case)
    assert best > 0.1
    if cls.__name__ in LEFT:
        assert gap < LEFT[cls.__name__] * best
    if cls is guides.FullRankNormalGuide:
        assert gap < 0.02
    if cls is guides.DiagonalNormalGuide:
        assert 0.95 * best < gap < 1.1 * best
