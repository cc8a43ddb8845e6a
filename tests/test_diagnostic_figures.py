"""Figures of the latent space show the numbers of the results."""

import io

import matplotlib
import pytest
import torch
from matplotlib.colors import to_hex

from pyro_vae import VAE, guides, latent_diagnostics
from pyro_vae import plotting as plots
from pyro_vae.evaluation import (
    Calibration,
    LatentDiagnostics,
    posterior_predictive_check,
    simulation_based_calibration,
)
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.priors import StandardNormalPrior
from tests.linear_gaussian import LinearGaussian

SETTINGS = dict(matplotlib.rcParams)


def make_diagnostics(**options):
    case = LinearGaussian(inflate=1.3)
    return latent_diagnostics(case.vae, case.data(40), **options)


def flow_diagnostics():
    vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), guides.PlanarFlowGuide((5,), 2))
    return latent_diagnostics(vae, torch.ones(9, 5))


def make_ranks():
    # dimension 1 uniform, 2 in the middle, 3 low
    n = torch.arange(1000) % 100
    return Calibration(torch.stack([n, 30 + n % 40, n // 2], -1), protocol={"num_samples": 99, "num_bins": 20})


def widths(ax):
    return [bar.get_width() for bar in ax.patches]


# the ELBO


def test_the_bars_are_the_terms_and_add_up_to_the_elbo():
    d = make_diagnostics()
    (ax,) = plots.elbo_decomposition(d).axes
    names = ["reconstruction", "information", "total_correlation", "dimension_kl"]
    assert widths(ax) == pytest.approx([-d.mean(names[0]), *(d.mean(name) for name in names[1:])])
    assert -sum(widths(ax)) == pytest.approx(d.mean("elbo"))
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        "Distortion",
        "Mutual information",
        "Total correlation",
        "Dimension-wise KL",
    ]
    assert ax.get_title() == f"ELBO: {d.mean('elbo'):.2f}".replace("-", "\N{MINUS SIGN}")
    bound = next(line for line in ax.lines if line.get_label() == "log M, its bound")
    assert set(bound.get_xdata()) == {d.information_bound}
    bars = next(c for c in ax.containers if hasattr(c, "errorbar"))
    segments = bars.errorbar.lines[2][0].get_segments()
    assert (segments[1][1, 0] - segments[1][0, 0]) / 2 == pytest.approx(d.monte_carlo_error("information"))


def test_without_margins_the_marginal_kl_is_one_bar():
    d = flow_diagnostics()
    (ax,) = plots.elbo_decomposition(d).axes
    assert widths(ax) == pytest.approx([-d.mean("reconstruction"), d.mean("information"), d.mean("marginal_kl")])


def test_a_guide_without_a_density_has_no_decomposition():
    vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), guides.AuxiliaryGuide((5,), 2))
    with pytest.raises(ValueError, match="no density in closed form"):
        plots.elbo_decomposition(latent_diagnostics(vae, torch.ones(9, 5)))
    with pytest.raises(ValueError, match="num_decomposed=0"):
        plots.elbo_decomposition(make_diagnostics(num_decomposed=0))


# the aggregate posterior


def test_the_most_active_dimensions_are_drawn_against_the_prior():
    d = make_diagnostics()
    figure = plots.aggregate_posterior(d, num=2)
    order = d.activity.argsort(descending=True).tolist()
    assert [ax.get_ylabel() for ax in figure.axes] == [f"$z_{{{j + 1}}}$" for j in order[:2]]
    assert f"mean {float(d.aggregate_mean[order[0]]):.2f}".replace("-", "\N{MINUS SIGN}") in (
        figure.axes[0].texts[0].get_text()
    )
    assert len(plots.aggregate_posterior(d, num=9).axes) == 3


def test_the_histogram_is_a_density():
    d = make_diagnostics()
    ax = plots.aggregate_posterior(d, num=1).axes[0]
    prior = [(bar.get_width(), bar.get_height()) for bar in ax.patches[:40]]
    assert sum(w * h for w, h in prior) == pytest.approx(1.0)
    inside = d.prior_draws[:, d.activity.argmax()]
    low, high = ax.patches[0].get_x(), ax.patches[39].get_x() + prior[39][0]
    assert float(((inside >= low) & (inside <= high)).double().mean()) > 0.98


def test_samples_and_a_positive_number_are_needed():
    with pytest.raises(ValueError, match="must hold draws"):
        plots.aggregate_posterior(LatentDiagnostics(torch.zeros(3, 2), torch.ones(2)))
    with pytest.raises(ValueError, match="num must be at least 1"):
        plots.aggregate_posterior(make_diagnostics(), num=0)


# the ranks


def test_ranks_are_drawn_worst_first_with_their_band():
    c = make_ranks()
    figure = plots.rank_histograms(c)
    assert [ax.get_ylabel() for ax in figure.axes] == ["$z_{2}$\ncount", "$z_{3}$\ncount", "$z_{1}$\ncount"]
    uniform = figure.axes[2]
    band, *bars = uniform.patches
    assert (band.get_y(), band.get_y() + band.get_height()) == c.band()
    assert [bar.get_height() for bar in bars] == [50] * 20
    assert (bars[0].get_x(), bars[0].get_width()) == pytest.approx((-0.5, 0.92 * 5))
    assert [ax.texts[0].get_text() for ax in figure.axes] == [
        "guide too wide, p < 0.001",
        "guide shifted up, p < 0.001",
        "uniform, p = 1.000",
    ]
    colors = [to_hex(ax.patches[1].get_facecolor()) for ax in figure.axes]
    assert colors[0] == colors[1] != colors[2]
    assert [bar.get_height() for bar in figure.axes[0].patches[1:]] == c.histogram()[1].tolist()


def test_the_number_of_dimensions_is_positive():
    assert len(plots.rank_histograms(make_ranks(), num=2).axes) == 2
    with pytest.raises(ValueError, match="num must be at least 1"):
        plots.rank_histograms(make_ranks(), num=0)


# predictive checks


def test_every_statistic_has_its_probabilities():
    case = LinearGaussian()
    check = posterior_predictive_check(case.vae, case.data(60), num_samples=50)
    axes = plots.predictive_checks(check).axes
    assert [ax.get_title(loc="left").split(":")[0] for ax in axes] == check.statistics
    assert axes[0].get_title(loc="left").endswith(f"p {float(check.set_p_values()[0]):.3f}")
    counts = torch.histc(check.p_values[:, 0], 20, 0, 1).tolist()
    assert sum(counts) == 60
    assert abs(sum(bar.get_height() for bar in axes[0].patches) - 60) < 1e-9


def test_captions_are_below_and_matplotlib_settings_stay():
    case = LinearGaussian()
    for figure in (
        plots.elbo_decomposition(make_diagnostics(), caption="Simulated"),
        plots.aggregate_posterior(make_diagnostics(), caption="Simulated"),
        plots.rank_histograms(simulation_based_calibration(case.vae), caption="Simulated"),
        plots.predictive_checks(posterior_predictive_check(case.vae, case.data(9), num_samples=5), caption="Simulated"),
    ):
        assert figure.get_supxlabel() == "Simulated"
        assert figure.get_size_inches()[0] == plots.WIDTH
        figure.savefig(io.BytesIO(), format="png")  # no warning: everything fits
    assert dict(matplotlib.rcParams) == SETTINGS
