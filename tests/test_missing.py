"""Data with missing entries: the evidence of the observed ones, and imputation, against closed forms."""

from __future__ import annotations

import csv
import math
from functools import partial

import numpy as np
import pytest
import torch
from pyro.distributions import MultivariateNormal
from torch.distributions import kl_divergence

from pyro_vae import VAE, fit, impute, log_likelihood, objectives
from pyro_vae import likelihoods as likelihood_folder
from pyro_vae.cli.main import main
from pyro_vae.data import ImageSet
from pyro_vae.data.binarization import binarize
from pyro_vae.distributions import ObservedEntries
from pyro_vae.evaluation import (
    annealed_log_likelihood,
    inference_gaps,
    latent_diagnostics,
    posterior_predictive_check,
    sandwich,
)
from pyro_vae.experiments.experiment import load_run
from pyro_vae.guides import DiagonalNormalGuide, IAFGuide, SemiAmortizedGuide
from pyro_vae.likelihoods import (
    AutoregressiveLikelihood,
    MixedLikelihood,
    MixtureOfLogisticsLikelihood,
    NormalLikelihood,
)
from pyro_vae.models.build import build_vae
from pyro_vae.networks import MLP, ConvEncoder, ZeroFilledNetwork
from pyro_vae.plotting.images import reconstructions
from pyro_vae.priors import StandardNormalPrior, VampPrior
from tests.data import kinds_of_data as typical
from tests.linear_incomplete import Antithetic, IncompleteGaussian
from tests.test_contracts import build, concrete, names, small
from tests.test_engines import assert_agrees, engine_of
from tests.test_own_data import quick, trained

__all__ = ["quick"]  # a fixture
SIGMAS = 4.5
DEPENDENT = {"AutoregressiveLikelihood", "ImplicitLikelihood"}
INDEPENDENT = [cls for cls in concrete(likelihood_folder) if cls.__name__ not in DEPENDENT]


def vae_of(likelihood=NormalLikelihood, dim: int = 5, **options) -> VAE:
    guide = DiagonalNormalGuide((dim,), 2, net=partial(ZeroFilledNetwork, net=small))
    return VAE(StandardNormalPrior(2), likelihood(2, (dim,), net=small), guide, missing=True, **options)


class OrderedTriple(NormalLikelihood):
    """A likelihood of dependent entries."""

    def forward(self, z, *context):
        return MultivariateNormal(super().forward(z, *context).mean, torch.eye(3))


def holes(*shape: int, share: float = 0.4) -> torch.Tensor:
    return torch.randn(shape).masked_fill(torch.rand(shape) < share, torch.nan)


# ---------------------------------------------------------------- the likelihood of the observed entries


@pytest.mark.parametrize("cls", INDEPENDENT, ids=names)
def test_the_observed_and_the_missing_entries_add_up_to_the_whole(cls):
    p = build(cls)(torch.randn(3, 4, 5))
    x = p.sample()
    first = torch.rand(x.shape[1:]) < 0.5  # the same for every particle
    parts = [ObservedEntries(p).log_prob(x.masked_fill(hidden, torch.nan)) for hidden in (first, ~first)]
    assert parts[0].shape == (3, 4)
    torch.testing.assert_close(parts[0] + parts[1], p.log_prob(x), rtol=1e-10, atol=1e-10)
    assert (parts[0] - parts[1]).abs().min() > 1e-3  # neither is the half
    assert (ObservedEntries(p).log_prob(torch.full_like(x, torch.nan)) == 0).all()


@pytest.mark.parametrize(
    "likelihood",
    [
        lambda: build(AutoregressiveLikelihood),
        lambda: MixtureOfLogisticsLikelihood(5, (3, 4, 4), net=small),
        lambda: MixedLikelihood(5, (4,), parts=[([0], NormalLikelihood), ([1, 2, 3], OrderedTriple)], net=small),
    ],
    ids=["pixels", "channels", "part"],
)
def test_dependent_entries_are_refused(likelihood):
    p_x = likelihood()
    guide = DiagonalNormalGuide(p_x.data_shape, 5, net=partial(ZeroFilledNetwork, net=small))
    vae = VAE(StandardNormalPrior(5), p_x, guide, missing=True)
    x = torch.zeros(4, *p_x.data_shape)
    x.view(-1)[0] = torch.nan
    with pytest.raises(ValueError, match=r"entries must be independent given z, got an? [A-Z]"):
        fit(vae.model, vae.guide, x, epochs=1, batch_size=4, progress=False)


def test_other_errors_are_not_blamed_on_missing_entries():
    vae = vae_of()
    with pytest.raises(ValueError, match="input must end in in_shape"):
        fit(vae.model, vae.guide, holes(8, 4), epochs=1, batch_size=4, progress=False)
    with pytest.raises(ValueError, match="same dtype"):
        fit(vae.model.float(), vae.guide, holes(8, 5), epochs=1, batch_size=4, progress=False)


def test_the_evidence_is_that_of_the_observed_entries():
    model = IncompleteGaussian()
    x, vae = model.incomplete(20), model.vae
    exact = model.log_prob_observed(x)
    result = log_likelihood(vae.model, vae.guide, x, num_samples=7, chunk_size=3, batch_size=6)
    for estimate in (result.log_likelihood, result.elbo):
        torch.testing.assert_close(estimate, exact, rtol=0, atol=1e-9)
    assert exact[0] == 0
    for objective in (objectives.ELBO(num_particles=3), objectives.IWAE(num_particles=5)):
        assert abs(objective.loss(vae.model, vae.guide, x) + exact.sum()) < 1e-8


def test_every_estimator_agrees_with_the_closed_form():
    model = IncompleteGaussian(inflate=1.3)
    x, programs = model.incomplete(8), (model.vae.model, model.vae.guide)
    exact = model.log_prob_observed(x)
    result = log_likelihood(*programs, x, num_samples=2000)
    assert ((result.log_likelihood - exact).abs() < SIGMAS * result.standard_error).all()
    annealed = annealed_log_likelihood(*programs, x, num_distributions=40, num_chains=16)
    assert ((annealed.log_likelihood - exact).abs() <= SIGMAS * annealed.standard_error).all()
    bounds = sandwich(*programs, x, num_distributions=40, num_chains=16)
    assert ((bounds.log_likelihood - exact).abs() <= SIGMAS * bounds.standard_error).all()
    mean, error = bounds.gap()
    assert -SIGMAS * error < mean < 0.2
    assert bounds.lower[0] == bounds.upper[0] == 0  # simulated data have the same missing entries


def test_inference_gaps_are_those_of_the_observed_entries():
    model = IncompleteGaussian()
    x, guide = model.incomplete(8), DiagonalNormalGuide((7,), 3, net=partial(ZeroFilledNetwork, net=small))
    exact, vae = model.log_prob_observed(x), model.vae.with_guide(guide)
    gaps = inference_gaps(vae.model, vae.guide, x, num_samples=500, num_steps=50)
    q, posterior = guide.posterior(x), model.vae.guide.posterior(x)
    scale = q.stddev.diag_embed()
    divergence = kl_divergence(MultivariateNormal(q.mean, scale_tril=scale), posterior)
    assert ((gaps.elbo - exact + divergence).abs() <= SIGMAS * gaps.elbo_error + 1e-12).all()
    assert (gaps.best_elbo <= exact + SIGMAS * gaps.best_elbo_error).all()
    assert gaps.amortization[1:].min() > 0.1
    diagnostics = latent_diagnostics(vae, x, num_draws=50)
    assert ((diagnostics.elbo - exact + divergence).abs() <= SIGMAS * diagnostics.standard_errors() + 1e-12).all()


def test_predictive_checks_need_complete_data():
    with pytest.raises(ValueError, match=r"^posterior_predictive_check: data must lie in .*, got NaN. Impute missing"):
        posterior_predictive_check(vae_of(), holes(6, 5))


@pytest.mark.parametrize("name", ["eager", "compiled"])
@pytest.mark.usefixtures("uncompiled")
def test_engines_agree_and_gradients_are_finite(name):
    vae, x, objective = vae_of(likelihood_folder.StudentTLikelihood), holes(8, 5), objectives.IWAE(num_particles=3)
    x[0] = torch.nan
    engine = engine_of(name, objective, vae.model, vae.guide, (x,))
    before = [p.clone() for p in vae.parameters()]
    assert engine.step((x,)).finite
    assert all(p.isfinite().all() and (p != b).any() for p, b in zip(vae.parameters(), before, strict=True))
    assert_agrees(engine, objective, (holes(8, 5),))  # with other missing entries


# ---------------------------------------------------------------- the encoder


@pytest.mark.parametrize("net", [MLP, ConvEncoder], ids=names)
def test_the_encoder_reads_the_mask_and_no_hidden_value(net):
    encoder, x = ZeroFilledNetwork((1, 8, 8), (4,), net=net), torch.rand(3, 1, 8, 8)
    hidden = torch.rand(x.shape) < 0.3
    y = encoder(x.masked_fill(hidden, torch.nan))
    assert y.isfinite().all()
    assert (y - encoder(x.masked_fill(hidden, 0.0))).abs().min() > 1e-6  # an observed zero is not a missing entry
    torch.testing.assert_close(y[:1], encoder(x.masked_fill(hidden, torch.nan)[:1]))


def test_a_model_of_complete_data_refuses_missing_entries_with_the_remedy():
    complete = VAE(
        StandardNormalPrior(2), NormalLikelihood(2, (5,), net=small), DiagonalNormalGuide((5,), 2, net=small)
    )
    without_mask = VAE(complete.prior, complete.likelihood, complete.guide, missing=True)
    for vae in (complete, without_mask):
        for use in (partial(fit, epochs=1, batch_size=4, progress=False), partial(log_likelihood, num_samples=2)):
            with pytest.raises(ValueError, match=r"NaN, the first at datum \d.*missing=True.*ZeroFilledNetwork.$"):
                use(vae.model, vae.guide, holes(8, 5))


def test_build_vae_gives_the_guide_the_mask():
    x = holes(6, 5)
    normal = partial(DiagonalNormalGuide, net=small)
    for guide in (normal, partial(IAFGuide, net=small), partial(SemiAmortizedGuide, guide=normal, num_steps=2)):
        vae = build_vae((5,), 2, StandardNormalPrior, partial(NormalLikelihood, net=small), guide, missing=True)
        assert torch.isfinite(log_likelihood(vae.model, vae.guide, x, num_samples=3).log_likelihood).all()
    vae = build_vae((5,), 2, VampPrior, NormalLikelihood, DiagonalNormalGuide, missing=True)
    assert vae.with_guide(vae.guide).missing
    with pytest.raises(ValueError, match="guide: of data with missing entries must build a network"):
        build_vae((5,), 2, StandardNormalPrior, NormalLikelihood, lambda *shapes: None, missing=True)


# ---------------------------------------------------------------- imputation


def test_the_imputed_mean_is_the_conditional_mean():
    model = IncompleteGaussian(family=Antithetic)
    x = model.incomplete(12)
    result = impute(model.vae, x, num_samples=20, chunk_size=10, batch_size=5)
    torch.testing.assert_close(result.mean, model.conditional_mean(x), rtol=0, atol=1e-9)
    torch.testing.assert_close(result.log_likelihood, model.log_prob_observed(x), rtol=0, atol=1e-9)
    observed = ~x.isnan()
    assert (result.standard_error[observed] == 0).all()
    assert (result.draws == x)[:, observed].all()
    torch.testing.assert_close(result.effective_sample_size, torch.full((12,), 20.0))


def test_intervals_of_weighted_draws_have_their_coverage():
    model = IncompleteGaussian(inflate=1.3)
    truth = model.data(3000)
    missing = torch.rand(truth.shape) < 0.4
    x = truth.masked_fill(missing, torch.nan)
    result = impute(model.vae, x, num_samples=400, num_draws=200, batch_size=1000)
    low, high = result.interval(0.9)
    coverage = ((low <= truth) & (truth <= high))[missing].double().mean()
    assert 0.88 < coverage < 0.92
    z = ((result.mean - model.conditional_mean(x)) / result.standard_error)[missing]
    assert z.abs().max() < 1.3 * SIGMAS  # the largest of 8,000
    assert abs(z.square().mean() - 1) < 0.1
    assert result.advice() == ""


def test_draws_of_categories_are_categories():
    parts = [([0], NormalLikelihood), ([2, 1], partial(likelihood_folder.CategoricalLikelihood, levels=3, codes=True))]
    vae = vae_of(partial(MixedLikelihood, parts=parts), dim=3)
    x = torch.tensor([[0.5, torch.nan, 2.0], [torch.nan, 1.0, torch.nan]])
    result = impute(vae, x, num_samples=50, num_draws=21)
    assert set(result.draws[:, 0, 1].tolist()) <= {0.0, 1.0, 2.0}
    assert result.mode()[0, 1] in (0, 1, 2)
    assert 0 < result.mean[0, 1] < 2


def test_impute_refuses_other_models_and_other_numbers():
    vae = vae_of()
    with pytest.raises(ValueError, match=r"^impute: the model must be one of data with missing entries"):
        impute(VAE(vae.prior, vae.likelihood, vae.guide), holes(4, 5))
    with pytest.raises(ValueError, match="num_draws must be at least 1"):
        impute(vae, holes(4, 5), num_draws=0)
    with pytest.raises(ValueError, match=r"coverage must be in"):
        impute(vae, holes(4, 5), num_samples=2, num_draws=2).interval(90)


def test_seeds_and_chunks_of_imputations():
    vae, x = vae_of(), holes(6, 5)
    state = torch.get_rng_state()
    one, two, other = (impute(vae, x, num_samples=30, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.draws, two.draws)
    assert not torch.equal(one.mean, other.mean)
    assert math.isnan(impute(vae, x, num_samples=1).pareto_k[0])


# ---------------------------------------------------------------- data


def test_statistics_are_those_of_the_observed_entries():
    x = torch.tensor([[1.0, torch.nan], [3.0, 5.0]])
    images = ImageSet(x)
    assert images.missing
    assert images.mean().tolist() == [2.0, 5.0]
    negative = (x.view(torch.int64) | torch.where(x.isnan(), -(2**63), 0)).view(torch.float64)  # another bit pattern
    assert ImageSet(negative).fingerprint() == images.fingerprint()
    assert ImageSet(x.nan_to_num(0)).fingerprint() != images.fingerprint()


def test_a_column_without_an_observed_value_is_refused():
    x = holes(8, 5)
    x[:, 3] = torch.nan
    vae = vae_of()
    with pytest.raises(ValueError, match=r"^ImageSet: every column must have an observed value, got column 3, which"):
        ImageSet(x).mean()
    for data in (x, ImageSet(x)):
        with pytest.raises(ValueError, match=r"^fit: every column .* missing in all 8 data. Remove this column.$"):
            fit(vae.model, vae.guide, data, epochs=1, batch_size=4, progress=False)


@pytest.mark.parametrize("protocol", ["dynamic", "fixed", "threshold", "none"])
def test_binarization_keeps_missing_pixels(protocol):
    x = torch.rand(50, 1, 3, 3).masked_fill(torch.rand(50, 1, 3, 3) < 0.3, torch.nan)
    images = binarize(ImageSet(x), protocol, split="train", seed=0)
    batch = images.batch(range(50))
    assert torch.equal(batch.isnan(), x.isnan())
    if protocol != "none":
        assert set(batch[~batch.isnan()].tolist()) == {0.0, 1.0}


# ---------------------------------------------------------------- command line


def cells(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_a_table_with_holes_is_trained_on_and_imputed(quick, tmp_path, capsys):
    source, out = typical.survey(tmp_path / "survey.csv", missing=0.2), tmp_path / "imputed.csv"
    page = trained(source, tmp_path / "run", capsys=capsys)
    assert "log-likelihood" in page
    assert load_run(tmp_path / "run").vae.missing
    command = ["impute", str(tmp_path / "run"), str(source), "--num_samples", "30", "--out"]
    assert main([*command, str(out)]) == 0
    page = capsys.readouterr().out
    (names, *before), (same, *after) = cells(source), cells(out)
    holes = [(i, j) for i, row in enumerate(before) for j, cell in enumerate(row) if not cell]
    assert f"120 rows: {len(holes)} of 840 entries imputed" in page
    assert same == names
    levels = {"satisfaction": set("12345"), "sex": {"f", "m"}, "children": set("0123456789"), "smoker": {"0", "1"}}
    for i, row in enumerate(before):
        for name, old, new in zip(names, row, after[i], strict=True):
            if old:
                assert new == old or float(new) == float(old)
            else:
                assert new in levels.get(name, {new})
                assert new
    incomes = [float(row[names.index("income")]) for row in after]
    assert 3_000 < min(incomes) < max(incomes) < 200_000  # in their own units
    assert main([*command, str(out)]) == 2
    assert "must not exist yet" in capsys.readouterr().err
    assert main([*command, str(out), "--overwrite", "--draws", "3"]) == 0
    header, *rows = cells(out)
    assert header == ["draw", *names]
    assert [row[0] for row in rows] == [str(k) for k in (1, 2, 3) for _ in range(120)]
    assert all(cell for row in rows for cell in row)
    assert rows[:120] != [["1", *row[1:]] for row in rows[120:240]]


def test_arrays_with_holes_are_imputed(quick, tmp_path, capsys):
    x = typical.spectra()
    x[np.random.default_rng(0).random(x.shape) < 0.2] = np.nan
    source, out = tmp_path / "spectra.npy", tmp_path / "imputed.npy"
    np.save(source, x)
    trained(source, tmp_path / "run", capsys=capsys)
    command = ["impute", str(tmp_path / "run"), str(source), "--num_samples", "30"]
    assert main([*command, "--out", str(out)]) == 0
    y = np.load(out)
    assert np.isfinite(y).all()
    assert np.array_equal(y[~np.isnan(x)], x[~np.isnan(x)])
    assert main([*command, "--draws", "2", "--out", str(out), "--overwrite"]) == 0
    assert np.load(out).shape == (2, *x.shape)
    np.save(tmp_path / "narrow.npy", x[:, :5])
    narrow = str(tmp_path / "narrow.npy")
    for arguments, message in [
        ([narrow, "--out", str(tmp_path / "x.npy")], "must hold data of shape (30,), as the training data, got (5,)"),
        ([narrow, "--out", str(tmp_path / "x.csv")], "--out: must end in .npy"),
        ([narrow, "--out", str(tmp_path / "x.npy"), "--draws", "0"], "impute: draws must be at least 1, got draws=0"),
    ]:
        capsys.readouterr()
        assert main([*command[:2], *arguments]) == 2
        assert message in capsys.readouterr().err


def test_models_without_missing_entries_are_refused(quick, tmp_path, capsys):
    source = typical.survey(tmp_path / "survey.csv")
    trained(source, tmp_path / "run", capsys=capsys)
    assert main(["impute", str(tmp_path / "run"), str(source), "--out", str(tmp_path / "y.csv")]) == 2
    line = capsys.readouterr().err
    assert line.startswith("impute: the model must be one of data with missing entries, got complete training data.")
    typical.survey(source, missing=0.2)
    options = ["--model", "M2", "--data.label", "region", "--data.labels", "12", "--out", str(tmp_path / "m2")]
    assert main(["train", "--data", str(source), *options]) == 2
    assert "--model: of data with missing entries must be a VAE, got M2." in capsys.readouterr().err


def test_missing_pixels_are_grey_in_figures():
    likelihood = likelihood_folder.BernoulliLikelihood(2, (1, 4, 4), net=small)
    guide = DiagonalNormalGuide((1, 4, 4), 2, net=partial(ZeroFilledNetwork, net=small))
    vae, x = VAE(StandardNormalPrior(2), likelihood, guide, missing=True), torch.zeros(3, 1, 4, 4)
    x[0, 0, 1, 2] = torch.nan
    mosaic = reconstructions(vae, x, num=3).axes[0].images[0].get_array()
    data = mosaic[: mosaic.shape[0] // 2]
    assert (data == 0.5).sum() == 3  # one pixel of three colours
