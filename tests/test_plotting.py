"""Figures show the right numbers and change nothing else."""

import io
import subprocess
import sys

import matplotlib
import matplotlib.style
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from pyro_vae import VAE
from pyro_vae import plotting as plots
from pyro_vae._core.contexts import isolated_rng
from pyro_vae.data import ImageSet, Splits
from pyro_vae.evaluation import LatentDiagnostics, LogLikelihood
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.plotting.panels import PALETTE, WIDTH
from pyro_vae.priors import StandardNormalPrior

HISTORY = [
    {
        "epoch": e,
        "loss": 9.0 / e,
        "elbo": -9.0 / e,
        "distortion": 7.0 / e,
        "rate": 2.0 / e,
        "validation_elbo": -9.5 / e,
    }
    for e in range(1, 4)
]
SETTINGS = dict(matplotlib.rcParams)  # before anything was drawn here
FILES = ["training_curves", "reconstructions", "samples", "manifold", "latents", "active_units", "log_likelihood"]


def make_vae(latent_dim=2, data_shape=(1, 4, 6)):
    torch.manual_seed(0)
    parts = BernoulliLikelihood(latent_dim, data_shape), DiagonalNormalGuide(data_shape, latent_dim)
    return VAE(StandardNormalPrior(latent_dim), *parts)


def make_splits(data_shape=(1, 4, 6), labelled=True):
    images = torch.rand(12, *data_shape).gt(0.5).to(torch.uint8)
    split = ImageSet(images, torch.arange(12) % 3 if labelled else None, 1)
    return Splits(split, None, split, {"dataset": "Noise", "binarize": "fixed", "data_seed": 7})


def make_result(**changes):
    names = ("log_likelihood", "standard_error", "effective_sample_size", "pareto_k", "elbo", "distortion", "rate")
    values = {name: torch.linspace(-3, -1, 9) for name in names} | {"elbo": torch.linspace(-4, -2, 9)}
    return LogLikelihood(**{**values, **changes}, protocol={"num_samples": 50})


def labels(figure):
    return [(ax.get_xlabel(), ax.get_ylabel()) for ax in figure.axes]


def legend(owner):
    box = owner.legends[0] if hasattr(owner, "legends") else owner.get_legend()
    return [text.get_text() for text in box.get_texts()]


def pixels(figure):
    return torch.tensor(figure.axes[0].images[0].get_array())  # (H, W, 3)


def is_whole(figure):
    figure.draw_without_rendering()
    box = figure.get_tightbbox()  # inches
    return min(box.x0, box.y0, figure.get_figwidth() - box.x1, figure.get_figheight() - box.y1) >= 0


@pytest.fixture
def untouched():
    state, seed = torch.get_rng_state(), torch.random.initial_seed()
    yield
    assert dict(matplotlib.rcParams) == SETTINGS
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.random.initial_seed() == seed


# captions


def test_a_long_caption_is_wrapped_within_the_figure():
    caption = " ".join(["$binarization_{"] * 30)
    figure = plots.image_grid(torch.rand(4, 1, 8, 8), columns=2, caption=caption)
    assert figure.get_supxlabel().split() == caption.split()
    assert is_whole(figure)
    figure = plots.image_grid(torch.rand(4, 1, 8, 8), columns=2, caption=", ".join(["a phrase of words"] * 12))
    assert figure.get_supxlabel() == ",\n".join([", ".join(["a phrase of words"] * 3)] * 4)


# training curves


def test_notebooks_show_a_figure_without_pyplot():
    assert plots.training_curves(HISTORY)._repr_png_().startswith(b"\x89PNG")


def test_training_curves_show_the_history():
    figure = plots.training_curves(HISTORY)
    assert labels(figure)[-1][0] == "Epoch"
    training, validation = figure.axes[0].lines
    assert training.get_xdata().tolist() == [1, 2, 3]
    assert training.get_ydata().tolist() == [r["elbo"] for r in HISTORY]
    assert validation.get_ydata().tolist() == [r["validation_elbo"] for r in HISTORY]
    assert figure.axes[2].lines[0].get_ydata().tolist() == [r["rate"] for r in HISTORY]


@pytest.mark.parametrize(
    ("history", "names"),
    [
        (HISTORY[:1], ["ELBO", "Distortion", "Rate"]),
        ([{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 2.0}], ["Loss"]),
        ([{"epoch": 1, "loss": 3.0, "validation_elbo": -3.0}], ["ELBO", "Loss"]),
        ([{"epoch": 1, "elbo": float("nan"), "loss": 1.0}, {"epoch": 2, "elbo": None, "loss": 2.0}], ["Loss"]),
        ([{"epoch": 1, "elbo": -1.0}, {"epoch": 2}, {"epoch": 3, "elbo": -2.0, "rate": 1.0}], ["ELBO", "Rate"]),
    ],
)
def test_training_curves_draw_the_recorded_terms(history, names):
    assert [y.split("\n")[0] for _, y in labels(plots.training_curves(history))] == names


def test_a_single_epoch_is_a_point_at_a_whole_number():
    axes = plots.training_curves(HISTORY[:1]).axes
    assert axes[-1].get_xticks().tolist() == [1]
    assert axes[0].lines[0].get_marker() == "o"


def test_outliers_in_the_first_epochs_are_cut_off():
    values = [-1e6, -1e5] + [-100 + e / 100 for e in range(3, 101)]
    axes = plots.training_curves([{"epoch": e, "elbo": v} for e, v in enumerate(values, 1)]).axes
    low, high = axes[0].get_ylim()
    assert axes[0].get_xscale() == "log"
    assert low < min(values[3:]) < max(values) < high  # the third is in the first quarter of the axis
    assert high - low < 2


def test_calm_first_epochs_stay_in_view():
    values = [-100 + e / 10 for e in range(1, 101)]
    low, _ = plots.training_curves([{"epoch": e, "elbo": v} for e, v in enumerate(values, 1)]).axes[0].get_ylim()
    assert low < values[0]


def test_twenty_epochs_have_a_linear_axis_with_whole_ticks():
    ax = plots.training_curves([{"epoch": e, "elbo": -1.0 / e} for e in range(1, 21)]).axes[0]
    assert ax.get_xscale() == "linear"
    assert all(tick == int(tick) for tick in ax.get_xticks())


@pytest.mark.parametrize("history", [[], [{"epoch": 1, "lr": 1.0}], [{"epoch": 1, "elbo": float("inf")}]])
def test_a_history_without_numbers_raises(history):
    with pytest.raises(ValueError, match=r"^training_curves: history must hold a finite elbo or loss, got"):
        plots.training_curves(history)


# images


def test_a_grid_shows_each_image_at_its_place_and_clamps(caplog):
    images = torch.linspace(-0.5, 1.5, 5 * 3 * 28 * 20).reshape(5, 3, 28, 20)
    with matplotlib.rc_context({"image.origin": "lower"}):
        figure = plots.image_grid(images, columns=3)
    assert figure.axes[0].images[0].origin == "upper"
    image = pixels(figure)
    assert image.shape == (2 * 28 + 3 * 2, 3 * 20 + 4 * 2, 3)
    fourth = image[2 + 30 : 2 + 30 + 28, 2 : 2 + 20].permute(2, 0, 1)
    assert torch.equal(fourth, images[3].clamp(0, 1))
    assert (image[32:60, 46:66] == 1).all()  # the sixth place is empty
    assert not caplog.records  # matplotlib clips too, with a warning


@pytest.mark.parametrize("images", [torch.rand(4, 2, 5, 5), torch.rand(4, 5), torch.rand(2, 4, 3, 5, 5)])
def test_other_shapes_raise(images):
    with pytest.raises(ValueError, match=r"^image_grid: data must be images .*got data_shape=.*\. Draw other data"):
        plots.image_grid(images, columns=2)


@pytest.mark.parametrize("data_shape", [(1, 4, 6), (4, 6)])
def test_reconstructions_show_the_data_above_their_means(data_shape):
    vae, x = make_vae(data_shape=data_shape), torch.rand(9, *data_shape)
    figure = plots.reconstructions(vae, x, num=5)
    image = pixels(figure)[..., 0]
    rows = [torch.stack([image[t : t + 4, 1 + 7 * i : 7 + 7 * i] for i in range(5)]) for t in (1, 6)]
    assert torch.equal(rows[0], x[:5].reshape(5, 4, 6))
    torch.manual_seed(0)
    torch.testing.assert_close(rows[1], vae.reconstruct(x[:5]).reshape(5, 4, 6))


def test_samples_are_means_and_depend_only_on_their_seed():
    vae = make_vae()
    first, again, other = (pixels(plots.samples(vae, num=7, seed=s)) for s in (1, 1, 2))
    assert first.shape == (3 * 5 + 1, 3 * 7 + 1, 3)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.unique().numel() > 50  # means are grey, samples are not


def test_the_manifold_decodes_the_normal_quantiles(monkeypatch):
    vae, latents = make_vae(), []
    forward = vae.likelihood.forward
    monkeypatch.setattr(vae.likelihood, "forward", lambda z: (latents.append(z), forward(z))[1])
    figure = plots.manifold(vae, num=5)
    grid = torch.distributions.Normal(0, 1).cdf(latents[0]).reshape(5, 5, 2)  # rows from the top
    levels = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    torch.testing.assert_close(grid[..., 0], levels.expand(5, 5))
    torch.testing.assert_close(grid[..., 1], levels.flip(0)[:, None].expand(5, 5))
    image = pixels(figure)[:4, -6:, 0]
    torch.testing.assert_close(image, forward(latents[0][4]).mean[0].detach())
    ax = figure.axes[0]
    ticks = {t.get_text(): p for t, p in zip(ax.get_xticklabels(), ax.get_xticks(), strict=True)}
    assert ticks["\N{MINUS SIGN}1"] == pytest.approx(0.158655, abs=1e-5)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.manifold(make_vae(3)), r"^manifold: latent_dim must be 2, got latent_dim=3\. Use"),
        (lambda: plots.manifold(make_vae(), num=0), r"^manifold: num must be at least 1, got num=0\."),
        (lambda: plots.samples(make_vae(), num=0), r"^samples: num must be at least 1, got num=0\."),
        (lambda: plots.samples(make_vae(2, (5,))), r"^samples: data must be images .*, got data_shape=\(5,\)\. Draw"),
        (lambda: plots.manifold(make_vae(2, (5,))), r"^manifold: data must be images .*, got data_shape=\(5,\)\. Draw"),
        (
            lambda: plots.reconstructions(make_vae(2, (5,)), torch.rand(3, 5)),
            r"^reconstructions: data must be images .*, got data_shape=\(5,\)\. Draw",
        ),
        (lambda: plots.reconstructions(make_vae(), torch.rand(0, 1, 4, 6)), r"^reconstructions: images must be"),
        (lambda: plots.image_grid(torch.rand(3, 4, 4), columns=0), r"^image_grid: columns must be at least 1, got"),
        (lambda: plots.latent_scatter(torch.rand(3)), r"^latent_scatter: means must be .*got means=\(3,\)"),
        (lambda: plots.latent_scatter(torch.rand(3, 2), torch.zeros(4)), r"^latent_scatter: .*labels=\(4,\)"),
    ],
)
def test_bad_arguments_raise(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


# the latent space


def test_many_dimensions_are_drawn_by_principal_components():
    angle = torch.arange(400, dtype=torch.float64) * (2 * torch.pi / 400)
    waves = torch.stack([3 * angle.cos(), 2 * (2 * angle).cos(), (3 * angle).cos()], 1)  # variances 9 : 4 : 1
    turn = torch.linalg.qr(torch.randn(5, 3, dtype=torch.float64, generator=torch.manual_seed(0))).Q  # (5, 3)
    figure = plots.latent_scatter(waves @ turn.T + 10)
    assert labels(figure) == [("PC 1 (64% of variance)", "PC 2 (29% of variance)")]
    points = torch.tensor(figure.axes[0].collections[0].get_offsets())  # (400, 2)
    torch.testing.assert_close(points.abs(), waves[:, :2].abs(), rtol=0, atol=1e-9)


def test_two_dimensions_are_drawn_directly_with_a_colour_per_class():
    means, classes = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]), torch.tensor([3, 8, 3, 5])
    figure = plots.latent_scatter(means, classes)
    points = figure.axes[0].collections[0]
    assert points.get_offsets().tolist() == means.tolist()
    blue, orange, green = plots.PALETTE[:3]
    assert [to_hex(c).upper() for c in points.get_facecolors()] == [blue, green, blue, orange]
    assert legend(figure) == ["3", "5", "8"]
    assert [to_hex(h.get_color()).upper() for h in figure.legends[0].legend_handles] == [blue, orange, green]


def test_one_dimension_is_a_histogram_per_class():
    figure = plots.latent_scatter(torch.linspace(0, 1, 30)[:, None], torch.arange(30) % 2)
    steps = [patch.get_xy() for patch in figure.axes[0].patches]  # the outline of a histogram per class
    assert [(xy[:, 0].min(), xy[:, 0].max()) for xy in steps] == [(0, 1)] * 2
    assert legend(figure) == ["0", "1"]


@pytest.mark.parametrize("classes", [None, torch.arange(11)])
def test_no_or_too_many_classes_have_one_colour_and_no_legend(classes):
    figure = plots.latent_scatter(torch.rand(11, 2), classes)
    assert len({to_hex(c) for c in figure.axes[0].collections[0].get_facecolors()}) == 1
    assert not figure.legends


def test_active_units_are_sorted_by_their_kl():
    diagnostics = LatentDiagnostics(torch.zeros(9, 3), torch.tensor([0.5, 0.0, 0.02]), torch.tensor([0.3, 0.1, 2.0]))
    upper, lower = plots.active_units(diagnostics).axes
    assert [bar.get_height() for bar in upper.patches] == pytest.approx([2.0, 0.3, 0.1])
    assert lower.lines[0].get_ydata().tolist() == pytest.approx([0.02, 0.5, 1e-8])
    assert [t.get_text() for t in lower.get_xticklabels()] == ["3", "1", "2"]
    assert upper.get_title() == "2 of 3 units active"
    assert lower.get_yscale() == "log"
    assert set(lower.lines[1].get_ydata()) == {0.01}


def test_active_units_without_a_kl_are_sorted_by_their_activity():
    (ax,) = plots.active_units(LatentDiagnostics(torch.zeros(9, 2), torch.tensor([0.001, 0.5]), None)).axes
    assert ax.lines[0].get_ydata().tolist() == pytest.approx([0.5, 0.001])
    assert ax.get_title() == "1 of 2 units active"


# the log-likelihood


def test_the_histogram_counts_every_datum_and_marks_the_means():
    figure = plots.log_likelihood_histogram(make_result())
    assert sum(p.get_height() for p in figure.axes[0].patches if hasattr(p, "get_height")) == 9
    assert [line.get_xdata()[0] for line in figure.axes[0].lines] == pytest.approx([-2, -3])


def test_guides_are_compared_on_one_axis_by_paired_differences():
    better = make_result(elbo=torch.linspace(-3.5, -1.5, 9))
    figure = plots.guide_comparison({"diagonal": make_result(), "IAF": better}, caption="Noise")
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["diagonal", "IAF"]
    points = {
        (round(float(line.get_xdata()[0]), 6), line.get_marker()) for line in ax.lines if len(line.get_xdata()) == 1
    }
    assert {(-3.0, "o"), (-2.5, "o"), (-2.0, "D")} <= points
    (bar,) = (c for c in ax.containers if round(float(c[0].get_xdata()[0]), 6) == -2.5)
    segment = bar[2][0].get_segments()[0]
    assert abs(segment[1][0] - segment[0][0]) < 1e-6  # every datum gains the same: no error in the difference


@pytest.mark.parametrize("results", [{"one": 9}, {"one": 9, "other": 8}], ids=["one", "other data"])
def test_results_of_different_data_raise(results):
    by_guide = {name: make_result(log_likelihood=torch.zeros(size)) for name, size in results.items()}
    with pytest.raises(ValueError, match=r"^guide_comparison: results must be"):
        plots.guide_comparison(by_guide)


def test_rates_and_distortions_stand_above_the_samples_of_their_models():
    results = {"0": make_result(rate=torch.full((9,), 7.0)), "inf": make_result(rate=torch.zeros(9))}
    models = {"0": make_vae(), "inf": make_vae(3)}
    figure = plots.rate_distortion(results, models, num_samples=5, caption="Noise")
    plane, grid = figure.axes
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in plane.lines if line.get_marker() == "o"]
    assert points == [(7.0, -2.0), (0.0, -2.0)]
    assert [(text.get_text(), text.xy) for text in plane.texts] == list(zip(results, points, strict=True))
    for line in plane.lines[2:]:
        assert np.add(line.get_xdata(), line.get_ydata()) == pytest.approx([sum(line.get_data())[0]] * 2)
    with isolated_rng(0):
        image = models["inf"].sample(5, mean=True)[4, 0].detach()
    drawn = torch.as_tensor(grid.images[0].get_array())[1 + 5 : 5 + 5, 1 + 4 * 7 : 7 + 4 * 7, 0]
    torch.testing.assert_close(drawn, image.to(drawn))
    assert [text.get_text() for text in grid.get_yticklabels()] == ["0", "inf"]
    assert is_whole(figure)
    assert len(plots.rate_distortion(results).axes) == 1
    with pytest.raises(ValueError, match=r"^rate_distortion: models and results must have the same names"):
        plots.rate_distortion(results, {"0": make_vae()})
    with pytest.raises(ValueError, match=r"^rate_distortion: results must not be empty"):
        plots.rate_distortion({})


def test_infinite_estimates_are_omitted_and_no_finite_one_raises():
    values = torch.tensor([-float("inf"), -1.0, -2.0])
    figure = plots.log_likelihood_histogram(make_result(log_likelihood=values))
    assert sum(p.get_height() for p in figure.axes[0].patches if hasattr(p, "get_height")) == 2
    nothing = torch.full((3,), float("nan"))
    with pytest.raises(ValueError, match=r"^log_likelihood_histogram: result must hold finite values"):
        plots.log_likelihood_histogram(make_result(log_likelihood=nothing, elbo=nothing))


# all of them


@pytest.mark.slow
@pytest.mark.parametrize(
    ("latent_dim", "data_shape", "missing"),
    [
        (2, (1, 4, 6), set()),
        (3, (3, 4, 6), {"manifold"}),
        (2, (24,), {"reconstructions", "samples", "manifold"}),
        (1, (2, 4, 6), {"reconstructions", "samples", "manifold"}),
    ],
)
def test_save_figures_draws_the_applicable_figures(tmp_path, latent_dim, data_shape, missing):
    vae, splits = make_vae(latent_dim, data_shape), make_splits(data_shape)
    files = plots.save_figures(tmp_path / "new", vae, splits, HISTORY, result=make_result())
    assert [path.stem for path in files] == [name for name in FILES if name not in missing]
    assert sorted(files) == sorted((tmp_path / "new").iterdir())
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)


def test_save_figures_again_gives_the_same_files(tmp_path):
    vae, splits = make_vae(3), make_splits(labelled=False)
    first = [path.read_bytes() for path in plots.save_figures(tmp_path, vae, splits, HISTORY[:1])]
    torch.rand(3)
    again = plots.save_figures(tmp_path, vae, splits, HISTORY[:1])
    assert [path.read_bytes() for path in again] == first


PROTOCOL = "Noise, fixed binarization, BernoulliLikelihood, DiagonalNormalGuide, 2 latent dimensions, data seed 7"


@pytest.mark.parametrize(("caption", "shown"), [("", PROTOCOL), ("title", "title")])
def test_the_caption_is_the_protocol_or_the_argument(tmp_path, monkeypatch, caption, shown):
    captions = {}
    store = lambda figure, path: captions.update({path.stem: figure.get_supxlabel().replace("\n", " ")})  # noqa: E731
    monkeypatch.setattr(plots.save, "save_png", store)
    plots.save_figures(tmp_path, make_vae(), make_splits(), [], caption=caption)
    assert captions == dict.fromkeys(["reconstructions", "samples", "manifold", "latents", "active_units"], shown)


def test_model_mode_and_global_state_stay(tmp_path, untouched):
    with torch.random.fork_rng():
        vae, splits = make_vae(), make_splits()
    vae.train()
    vae.guide.eval()
    modes = [module.training for module in vae.modules()]
    plots.save_figures(tmp_path, vae, splits, HISTORY, result=make_result())
    assert [module.training for module in vae.modules()] == modes
    assert all(p.grad is None for p in vae.parameters())


def test_the_model_is_drawn_in_eval_mode_and_its_mode_restored_after_an_error():
    vae, modes = make_vae(), []
    vae.train()
    handle = vae.likelihood.net.register_forward_hook(lambda net, *_: modes.append(net.training))
    plots.samples(vae)
    assert modes == [False]
    handle.remove()
    with pytest.raises(ValueError, match="broken"):
        plots.reconstructions(vae, Broken(torch.rand(2, 1, 4, 6)))
    assert all(module.training for module in vae.modules())


class Broken(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.linear:
            raise ValueError("broken")
        return super().__torch_function__(func, types, args, kwargs or {})


def test_a_model_in_double_precision_is_drawn(tmp_path):
    assert plots.save_figures(tmp_path, make_vae().double(), make_splits(), [])


def test_figures_have_column_width_print_resolution_and_no_clipping():
    caption = "Noise, dynamic binarization, BernoulliLikelihood, seed 0"
    classes = torch.arange(40) % 10
    figures = [
        plots.training_curves(HISTORY, caption=caption),
        plots.manifold(make_vae(), num=3, caption=caption),
        plots.reconstructions(make_vae(), torch.rand(9, 1, 4, 6), caption=caption),
        plots.latent_scatter(100 * torch.randn(40, 5), classes, caption=caption),
        plots.log_likelihood_histogram(make_result(), caption=caption),
    ]
    for figure in figures:
        assert (figure.get_figwidth(), figure.dpi) == (plots.WIDTH, 200)
        assert is_whole(figure)


def test_figures_are_saved_independently_of_the_current_settings():
    pictures = []
    for size in (5, 20):
        figure, buffer = plots.training_curves(HISTORY), io.BytesIO()
        with matplotlib.rc_context({"font.size": size, "xtick.labelsize": size, "ytick.major.width": size}):
            figure.savefig(buffer, format="png")
        pictures.append(buffer.getvalue())
    assert pictures[0] == pictures[1]


def test_figures_for_a_paper_have_their_caption_in_a_text_file(tmp_path):
    caption = "Noise, fixed binarization, " * 4
    height = plots.training_curves(HISTORY).get_figheight()
    for suffix, head in ((".pdf", b"%PDF"), (".svg", b"<?xml"), (".png", b"\x89PNG")):
        figure = plots.training_curves(HISTORY, caption=caption)
        path, text = plots.save_for_paper(figure, tmp_path / f"curves{suffix}", dpi=100)
        assert text.read_text().split() == caption.split()
        assert figure.get_figheight() == pytest.approx(height)  # no space for a caption
        content = path.read_bytes()
        assert content.startswith(head)
        assert b"Noise" not in content
        plots.save_for_paper(plots.training_curves(HISTORY, caption=caption), path, dpi=100)
        assert path.read_bytes() == content
    assert b"/FontFile2" in (tmp_path / "curves.pdf").read_bytes()  # TrueType, embedded
    assert plots.save_for_paper(plots.training_curves(HISTORY), tmp_path / "bare.pdf") == [tmp_path / "bare.pdf"]


@pytest.mark.slow
def test_the_package_does_not_load_matplotlib_and_plotting_not_pyplot():
    code = (
        "import sys, pyro_vae; assert 'matplotlib' not in sys.modules\n"
        "import pyro_vae.plotting; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_style_of_the_figures_can_be_used_by_name() -> None:
    with matplotlib.style.context("pyro_vae.plotting.paper"):
        figure = Figure()
        axes = figure.subplots()
        axes.plot([0, 1])
    assert axes.lines[0].get_color() == PALETTE[0]
    assert tuple(figure.get_size_inches()) == (WIDTH, 2.4)
    assert not axes.spines["top"].get_visible()
