"""Objectives that are invalid for a model and a guide raise, and the error names a valid one."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import nn

from pyro_vae import fit
from pyro_vae._core.owners import Owners
from pyro_vae.objectives import ELBO, IWAE, BetaTC, FreeBits, InfoVAE, MeanFieldELBO, ScoreFunction, TraceEnumELBO
from pyro_vae.training.compatibility import check_additive, check_pair, examine
from tests.linear_gaussian import LinearGaussian


def _check(objective, model, guide, args) -> None:
    check_pair(objective, examine(objective, model, guide, args, Owners(model=model, guide=guide)))


def _plain(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)


def _guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 1.0))


def _subsampled_model(x):
    with pyro.plate("data", 50, subsample=torch.arange(len(x))):
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)


def _subsampled_guide(x):
    with pyro.plate("data", 50, subsample=torch.arange(len(x))):
        pyro.sample("z", dist.Normal(x / 2, 1.0))


def _two(x):
    with pyro.plate("data", len(x)):
        b = pyro.sample("b", dist.Normal(pyro.sample("a", dist.Normal(0.0, 1.0)), 1.0))
        pyro.sample("x", dist.Normal(b, 1.0), obs=x)


def _two_backwards(x):
    with pyro.plate("data", len(x)):
        pyro.sample("a", dist.Normal(pyro.sample("b", dist.Normal(x, 1.0)), 1.0))


def _auxiliary(x):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(x, 1.0), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(a, 1.0))
        pyro.factor("r", -dist.Normal(0.0, 1.0).log_prob(a), has_rsample=True)


def _classes(x, y=None):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Bernoulli(0.5), obs=y)
        pyro.sample("x", dist.Normal(y, 1.0), obs=x)


def _classifier(infer, kind=dist.Bernoulli):
    def guide(x, y=None):
        with pyro.plate("data", len(x)):
            if y is None:
                pyro.sample("y", kind(logits=x), infer=infer)

    return guide


_relaxed = partial(dist.RelaxedBernoulliStraightThrough, torch.tensor(0.5))
_sum = {"enumerate": "parallel"}
RIGHT = {
    "Trace_ELBO": (Trace_ELBO(), _subsampled_model, _subsampled_guide),
    "Renyi": (RenyiELBO(alpha=0.0), _plain, _guide),
    "mean field": (TraceMeanField_ELBO(), _plain, _guide),
    "backwards": (ELBO(), _two, _two_backwards),
    "enumerated": (TraceEnum_ELBO(max_plate_nesting=1), _classes, _classifier(_sum)),
    "ours enumerated": (TraceEnumELBO(), _classes, _classifier(_sum)),
    "score": (ScoreFunction(), _classes, _classifier({})),
    "iwae": (IWAE(), _subsampled_model, _subsampled_guide),
}
WRONG = {
    "subsampled": (RenyiELBO(alpha=0.0), _subsampled_model, _subsampled_guide, "RenyiELBO .*Use objectives.Renyi"),
    "scaled": (
        RenyiELBO(alpha=0.0),
        poutine.scale(_plain, 0.1),
        poutine.scale(_guide, 0.1),
        "RenyiELBO .* scale of 0.1 at site 'z'. Use objectives.Renyi",
    ),
    "backwards": (
        TraceMeanField_ELBO(),
        _two,
        _two_backwards,
        "in the same order, got model=.*Use ELBO, which is right",
    ),
    "auxiliary": (TraceMeanField_ELBO(), _plain, _auxiliary, r"without auxiliary .* got \['a', 'r'\]. Use ELBO"),
    "ours": (MeanFieldELBO(), _two, _two_backwards, "MeanField_ELBO requires sites in the same order"),
    "nothing": (TraceEnum_ELBO(), _plain, _guide, "must have a site to enumerate, got sites .*'z'.* Use ELBO"),
    "drawn": (
        TraceEnumELBO(),
        _classes,
        _classifier({}),
        "TraceEnumELBO must have a site to enumerate.*ScoreFunction",
    ),
    "relaxed": (TraceEnum_ELBO(), _classes, _classifier({}, _relaxed), "a site to enumerate, got .* Use ELBO"),
    "marked": (TraceEnum_ELBO(), _classes, _classifier(_sum, _relaxed), "must enumerate discrete sites.*relaxed guide"),
    "not summed": (ELBO(), _classes, _classifier(_sum), "ELBO requires sites that are not enumerated.*EnumeratedELBO"),
    "Pyro's": (Trace_ELBO(), _classes, _classifier(_sum), "Trace_ELBO requires sites that are not enumerated"),
}


@pytest.mark.parametrize(("objective", "model", "guide"), RIGHT.values(), ids=RIGHT)
def test_valid_pairs_pass_without_side_effects(objective, model, guide) -> None:
    state = torch.get_rng_state()
    _check(objective, model, guide, (torch.randn(5, generator=torch.Generator().manual_seed(1)),))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("objective", "model", "guide", "message"), WRONG.values(), ids=WRONG)
def test_invalid_pairs_raise(objective, model, guide, message) -> None:
    with pytest.raises(ValueError, match=f"^fit: .*{message}"):
        _check(objective, model, guide, (torch.randn(5),))


def test_a_labelled_batch_without_enumerated_sites_is_valid() -> None:
    x = torch.randn(5)
    for objective in (TraceEnum_ELBO(max_plate_nesting=1), TraceEnumELBO()):
        _check(objective, _classes, _classifier(_sum), (x, x.gt(0).to(x)))


def test_programs_that_need_the_whole_batch_are_not_distributed(exact: LinearGaussian) -> None:
    x = exact.data(4)
    for objective in (FreeBits(), BetaTC(num_data=4), InfoVAE(), ScoreFunction(baseline="batch")):
        check_additive(objective, alone=True)
        _check(objective, exact.vae.model, exact.vae.guide, (x,))
        with pytest.raises(ValueError, match="requires the whole batch in one process, got several"):
            check_additive(objective, alone=False)
    check_additive(ScoreFunction(baseline="none"), alone=False)


def test_fit_checks_before_the_first_step() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def model(self, x):
            _classes(x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Bernoulli(logits=self.layer(x.unsqueeze(-1)).squeeze(-1)), infer=dict(_sum))

    pair, x = Pair(), torch.randn(20)
    before = pair.layer.weight.clone()
    with pytest.raises(ValueError, match="Use EnumeratedELBO"):  # without a preceding warning of Pyro
        fit(pair.model, pair.guide, x, epochs=1, batch_size=5, objective=ELBO())
    assert torch.equal(pair.layer.weight, before)
    fit(pair.model, pair.guide, x, epochs=1, batch_size=5, objective=TraceEnumELBO())
    assert not torch.equal(pair.layer.weight, before)


def test_an_autoguide_s_auxiliary_site_needs_no_reverse_model() -> None:
    """Its other sites are bijections of it, with the Jacobian in their densities."""

    def model(x):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, scale), obs=x)

    x = torch.randn(20)
    guide = AutoMultivariateNormal(model)
    before = ELBO().loss(model, guide, x)
    fit(model, guide, x, epochs=30, batch_size=20, optimizer=partial(torch.optim.Adam, lr=0.05), progress=False)
    assert ELBO(num_particles=50).loss(model, guide, x) < before


def test_fit_names_the_alternative_to_pyro_s_renyi(exact: LinearGaussian) -> None:
    with pytest.raises(ValueError, match=r"^fit: objective must be .*, got RenyiELBO\. Use objectives\.Renyi"):
        fit(exact.vae.model, exact.vae.guide, exact.data(20), batch_size=10, objective=RenyiELBO())
