"""Anybody's data at every door: exact densities in the data's units, fit, evaluation, transformer, command line."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.distributions import MultivariateNormal, Normal
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae import VAE, fit, log_likelihood, vae_for
from pyro_vae.cli.main import main
from pyro_vae.cli.results import Saved
from pyro_vae.cli.train_options import parse_args, refit_options
from pyro_vae.data import ImageSet, load
from pyro_vae.evaluation import LogLikelihood
from pyro_vae.experiments.experiment import load_run, parse_config
from pyro_vae.features import VAETransformer
from pyro_vae.guides import DiagonalNormalGuide, SemiAmortizedGuide
from pyro_vae.likelihoods import (
    BernoulliLikelihood,
    LaplaceLikelihood,
    MixedLikelihood,
    NormalLikelihood,
    StudentTLikelihood,
)
from pyro_vae.models.build import build_semi_supervised
from pyro_vae.networks import MLP, ConvEncoder
from pyro_vae.networks.inputs import InputNetwork, moments, with_inputs
from pyro_vae.objectives import EnumeratedELBO
from pyro_vae.priors import StandardNormalPrior
from pyro_vae.training import RunFolder
from tests.data import kinds_of_data as typical
from tests.linear_gaussian import LinearGaussian

LINEAR = partial(MLP, hidden=())
QUICK = ["--epochs", "1", "--latent_dim", "2", "--num_samples", "5", "--engine", "eager", "--device", "cpu"]
SMALL = ["--likelihood.net.hidden", "[8]", "--guide.net.hidden", "[8]", "--batch_size", "20"]


def test_densities_of_standardized_data_are_exact_in_the_units_of_the_data() -> None:
    exact = LinearGaussian(latent_dim=3, dim=7)
    scale, shift = torch.logspace(-3, 3, 7), torch.linspace(-50, 50, 7)
    data = ImageSet(shift + scale * exact.data(60), kind="real")
    likelihood = partial(NormalLikelihood, net=LINEAR, scale=exact.scale)
    vae = vae_for(data, 3, likelihood=likelihood, guide=partial(DiagonalNormalGuide, net=LINEAR))
    vae.likelihood.net.load_state_dict(exact.vae.likelihood.net.state_dict())
    vae.guide.net.net.load_state_dict(exact.vae.guide.net.state_dict())
    x, unit = data.images, data.images.std(0, correction=0)
    covariance = exact.weight @ exact.weight.T + exact.scale**2 * torch.eye(7)
    closed = MultivariateNormal(x.mean(0) + unit * exact.bias, unit.unsqueeze(-1) * covariance * unit).log_prob(x)
    result = log_likelihood(vae.model, vae.guide, data, num_samples=1)
    assert (result.log_likelihood - closed).abs().max() < 1e-9
    assert (result.elbo - closed).abs().max() < 1e-9
    standardized = exact.log_prob((x - x.mean(0)) / unit) - unit.log().sum()
    assert (result.log_likelihood - standardized).abs().max() < 1e-9


@pytest.mark.parametrize("family", [NormalLikelihood, LaplaceLikelihood, StudentTLikelihood])
@pytest.mark.parametrize("scale", ["global", "pixel", "network", 0.3])
def test_the_unit_of_a_likelihood_divides_its_density(family, scale) -> None:
    plain, other = (family(2, (4,), scale=scale, net=LINEAR) for _ in range(2))
    unit, mean = torch.tensor([0.01, 1.0, 20.0, 3.0]), torch.randn(4)
    other.load_state_dict(plain.state_dict())
    other.set_unit(unit)
    other.initialise_mean(mean)
    if isinstance(scale, str):
        plain.log_scale.data.zero_()
    z, x = torch.randn(6, 2), torch.randn(6, 4)
    assert (other(z).log_prob(mean + unit * x) + unit.log().sum() - plain(z).log_prob(x)).abs().max() < 1e-9
    with pytest.raises(ValueError, match=r"unit must have shape \(4,\), got \(3,\)"):
        other.set_unit(torch.ones(3))
    with pytest.raises(ValueError, match="unit must be positive"):
        other.set_unit(torch.zeros(4))


def test_moments_are_those_of_all_batches_without_missing_entries() -> None:
    x = 1e6 + torch.randn(50, 3) * torch.tensor([1.0, 1e-2, 0.0])
    x[::7, 1] = torch.nan
    mean, deviation = moments(iter(x.split(9)))
    present = x[~x[:, 1].isnan(), 1]
    assert (mean - torch.stack([x[:, 0].mean(), present.mean(), x[0, 2]])).abs().max() < 1e-9
    expected = torch.stack([x[:, 0].std(correction=0), present.std(correction=0), torch.tensor(1.0)])
    assert (deviation - expected).abs().max() < 1e-9


def test_the_encoder_sees_standardized_numbers_logarithms_and_one_hot_classes(tmp_path: Path) -> None:
    data = load(typical.survey(tmp_path / "survey.csv", missing=0.1))
    kinds = [(column.kind, len(column.levels)) for column in data.columns]
    net = InputNetwork((7,), (4,), kinds=kinds, net=MLP).initialise([data.batch(slice(None))])
    inputs = net.inputs(data.batch(slice(None)))  # (N, 9): age, income, children, satisfaction, sex, region 3, smoker
    assert net.net.in_shape == (9,)
    x, missing = data.images, data.images.isnan()
    children = x[:, 2].log1p()
    place = (children.nanmean(), children[~missing[:, 2]].std(correction=0))
    expected = (children - place[0]) / place[1]
    assert torch.allclose(inputs[:, 2], expected, atol=1e-9, rtol=0, equal_nan=True)
    assert torch.equal(inputs[:, 4].nan_to_num(-1), x[:, 4].nan_to_num(-1))
    codes = x[:, 5].nan_to_num(0).long()
    one_hot = torch.eye(3)[codes].masked_fill(missing[:, 5:6], torch.nan)
    assert torch.equal(inputs[:, 5:8].nan_to_num(-1), one_hot.nan_to_num(-1))
    assert inputs[missing[:, 0], 0].isnan().all()
    images = InputNetwork((1, 8, 8), (4,), kinds=[("real", 0)], net=ConvEncoder)
    assert images(torch.zeros(3, 2, 1, 8, 8)).shape == (3, 2, 4)


def test_every_guide_with_a_network_sees_them() -> None:
    kinds = [("count", 0)]
    for guide in (DiagonalNormalGuide, partial(DiagonalNormalGuide, net=LINEAR), SemiAmortizedGuide):
        built = with_inputs(guide, kinds)((4,), 2)
        assert sum(isinstance(module, InputNetwork) for module in built.modules()) == 1
    ready = partial(DiagonalNormalGuide, net=MLP((4,), (2, 2)))
    assert with_inputs(ready, kinds) is ready


def test_three_lines_from_a_table_to_a_number(tmp_path: Path) -> None:
    data = load(typical.survey(tmp_path / "survey.csv"))
    vae = vae_for(data, latent_dim=2)
    before = log_likelihood(vae.model, vae.guide, data, num_samples=20).mean()
    fit(vae.model, vae.guide, data, epochs=5, batch_size=20, engine="eager")
    assert log_likelihood(vae.model, vae.guide, data, num_samples=20).mean() > before
    # started at the marginal means: no worse than independent normals and frequencies by more than a few nats
    numbers = data.images[:, :2]
    independent = Normal(numbers.mean(0), numbers.std(0)).log_prob(numbers).sum(-1).mean()
    assert before < independent < before + 10


def test_a_kind_must_be_known() -> None:
    with pytest.raises(ValueError, match=r"^vae_for: the kind of the data must be known, got kind=None. Pass the resu"):
        vae_for(ImageSet(torch.zeros(3, 2)))
    with pytest.raises(ValueError, match=r"^MixedLikelihood: the data must have columns, got none"):
        vae_for(load(np.zeros((3, 2))), likelihood=MixedLikelihood)
    with pytest.raises(ValueError, match=r"^MixedLikelihood: parts must be pairs of columns and likelihood, got None"):
        MixedLikelihood(2, (3,))


def test_labels_that_a_model_does_not_take_are_left_out_once() -> None:
    x, y = torch.rand(40, 6), torch.arange(40) % 3
    loader = DataLoader(TensorDataset(x, y), batch_size=20)
    vae = vae_for(load(x), latent_dim=2)
    with pytest.warns(UserWarning, match="^fit: the labels of the batches are left out, since the model does not take"):
        fit(vae.model, vae.guide, loader, epochs=1)
    with pytest.warns(UserWarning, match="^log_likelihood: the labels"):
        a = log_likelihood(vae.model, vae.guide, loader, num_samples=3)
    b = log_likelihood(vae.model, vae.guide, [x[:20], x[20:]], num_samples=3)
    assert torch.equal(a.log_likelihood, b.log_likelihood)
    pieces = StandardNormalPrior, NormalLikelihood, DiagonalNormalGuide
    m2 = build_semi_supervised((6,), 2, 3, *pieces)
    fit(m2.model, m2.guide, loader, epochs=1, objective=EnumeratedELBO())  # takes them, without a warning


def test_labels_are_not_left_out_for_another_error() -> None:
    x, y = torch.rand(40, 6) + 2, torch.arange(40) % 3
    vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (6,)), DiagonalNormalGuide((6,), 2))
    with pytest.raises(ValueError, match="support"), pytest.warns(UserWarning, match="labels"):
        fit(vae.model, vae.guide, DataLoader(TensorDataset(x, y), batch_size=20), epochs=1)


def test_fit_and_evaluations_load_what_they_are_given(tmp_path: Path) -> None:
    from scipy.sparse import csr_matrix

    counts = typical.counts()
    np.save(tmp_path / "x.npy", counts)
    data = load(counts)
    vae = vae_for(data, latent_dim=2)
    expected = log_likelihood(vae.model, vae.guide, data, num_samples=3).log_likelihood
    forms = csr_matrix(counts), tmp_path / "x.npy", TensorDataset(torch.tensor(counts)), torch.tensor(counts), counts
    for form in forms:
        result = log_likelihood(vae.model, vae.guide, form, num_samples=3)
        assert torch.equal(result.log_likelihood, expected)
    fit(vae.model, vae.guide, str(tmp_path / "x.npy"), epochs=1, validation=csr_matrix(counts), batch_size=20)
    with pytest.raises(FileNotFoundError, match=r"^fit: data must be a file .* which does not exist"):
        fit(vae.model, vae.guide, tmp_path / "none.npy", epochs=1)


def test_the_transformer_takes_tables(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.read_csv(typical.survey(tmp_path / "survey.csv"))
    transformer = VAETransformer(2, epochs=1, num_samples=3).fit(table)
    assert transformer.feature_names_in_.tolist() == list(table.columns)
    assert [column.kind for column in transformer.columns_][:3] == ["real", "real", "count"]
    z = transformer.transform(table.iloc[:10])  # as few rows, with fewer levels, as one likes
    assert np.allclose(z, transformer.transform(table)[:10], atol=1e-6)
    assert np.isfinite(transformer.score(table))
    with pytest.raises(ValueError, match=r"column 'region' must hold the levels .*\(east, north, south\), got 'west'"):
        transformer.transform(table.assign(region="west"))
    with pytest.raises(ValueError, match="feature names"):
        transformer.transform(table.drop(columns="region"))
    from_file = VAETransformer(2, epochs=1, num_samples=3).fit(str(tmp_path / "survey.csv"))
    assert np.array_equal(from_file.transform(table), transformer.transform(table))


# command line


def trained(source: Path, out: Path, *options: str, capsys) -> str:
    capsys.readouterr()
    assert main(["train", "--data", str(source), *QUICK, *SMALL, *options, "--out", str(out)]) == 0
    return capsys.readouterr().out


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, single_precision: None) -> None:
    monkeypatch.setattr("pyro_vae.plotting.save_figures", lambda *args, **options: [])
    monkeypatch.setattr("pyro_vae.cli.results._save", _save)


def _save(result, path, overwrite, figures):
    result.save(path, overwrite=overwrite)
    return Saved(path, result, None)


LINES = {
    "photos": "data: 40 data (3, 12, 12): colours 0 to 255 in 2 classes (dusk, forest); MixtureOfLogisticsLikelihood, "
    "values as they are. To change this: --data.kind, --likelihood, --data.binarize dynamic.",
    "survey.csv": "data: 120 data (7,): mixed columns (real: age, income; count: children; ordinal: satisfaction; "
    "binary: sex, smoker; category: region); MixedLikelihood, standardized, densities in the data's units. To change "
    "this: --data.kinds '{COLUMN: KIND}', --likelihood, --data.standardize false.",
    "spectra.npy": "data: 80 data (30,): real; NormalLikelihood, standardized, densities in the data's units. To "
    "change this: --data.kind, --likelihood, --data.standardize false.",
}


@pytest.mark.parametrize("name", LINES)
def test_a_path_is_a_data_set(name: str, quick: None, tmp_path: Path, capsys) -> None:
    np.save(tmp_path / "spectra.npy", typical.spectra())
    source = {
        "photos": lambda: typical.photographs(tmp_path / "photos"),
        "survey.csv": lambda: typical.survey(tmp_path / "survey.csv"),
        "spectra.npy": lambda: tmp_path / "spectra.npy",
    }[name]()
    run = tmp_path / "run"
    page = trained(source, run, capsys=capsys)
    assert page.splitlines()[0] == LINES[name]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["init_args"]["kind"] is not None
    result = load_run(run)  # rebuilds the same model
    (saved,) = run.glob("log_likelihood-*.json")
    again = result.evaluate(num_samples=5, seed=0).log_likelihood
    assert torch.allclose(again.double(), LogLikelihood.load(saved).log_likelihood.double(), atol=1e-4)
    assert result.protocol["standardize"] == ("no" if name == "photos" else "yes")
    refit = refit_options(RunFolder(run), ["--guide", "FullRankNormalGuide"])
    assert refit.data.as_dict() == parse_config(RunFolder(run)).data.as_dict()
    if name == "survey.csv":
        assert main(["train", "--resume", str(run), "--epochs", "2"]) == 0
        assert main(["refit", str(run), "--epochs", "1", "--batch_size", "20", "--out", str(tmp_path / "refit")]) == 0
        assert len(load_run(tmp_path / "refit").vae.likelihood.parts) == 5


def test_options_of_the_user_come_first(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=typical.counts())
    path = str(tmp_path / "x.npz")
    options = parse_args(["--data", path, "--likelihood", "PoissonLikelihood", "--data.standardize", "false"])
    assert options.likelihood.class_path.endswith("PoissonLikelihood")
    assert options.data.init_args.standardize is False
    options = parse_args(["--data", path, "--data.kind", "real", "--likelihood.min_scale", "0.1"])
    assert options.likelihood.init_args.as_dict() | {"net": None} == {"scale": "pixel", "min_scale": 0.1, "net": None}
    options = parse_args(["--data", "Files", "--data.root", path])
    assert options.likelihood.class_path.endswith("NegativeBinomialLikelihood")
    np.savez(tmp_path / "y.npz", images=typical.scans())
    options = parse_args(["--data", str(tmp_path / "y.npz"), "--data.binarize", "dynamic"])
    assert options.likelihood.class_path.endswith("BernoulliLikelihood")
    assert parse_args([]).likelihood.class_path.endswith("BernoulliLikelihood")
    assert parse_args(["--data", "mnist"]).data.init_args.binarize == "dynamic"


def test_few_labels_of_a_table(quick: None, tmp_path: Path, capsys) -> None:
    source = typical.survey(tmp_path / "survey.csv")
    options = ["--data.label", "region", "--data.labels", "12", "--data.kinds", "{children: category}"]
    trained(source, tmp_path / "run", "--model", "M2", "--classifier.net.hidden", "[8]", *options, capsys=capsys)
    run = load_run(tmp_path / "run")
    assert run.vae.num_classes == 3
    assert sum(isinstance(module, InputNetwork) for module in run.vae.modules()) == 2
    assert run.splits.train.columns[2].kind == "category"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["photos/"],
            "Files: root must be a file (.npz, .npy, .csv, .parquet) or a folder of images, got root='photos",
        ),
        (["none.csv"], "which does not exist. Check the path"),
        (["survey.csv", "--data.drop", "[agee]"], "Files: drop must name columns, got ['agee']. The columns are age, "),
        (["survey.csv", "--data.kinds", "{age: number}"], "Files: the kind of column 'age' must be one of real, count"),
        (["survey.csv", "--data.kind", "colours"], "--data.kind: must be one of binary, grey"),
        (["survey.csv", "--likelihood", "DiscretizedLogisticLikelihood"], "support"),
    ],
)
def test_bad_options_are_one_line(
    argv: list[str], message: str, quick: None, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    typical.survey(tmp_path / "survey.csv")
    capsys.readouterr()
    assert main(["train", "--data", *argv, *QUICK, *SMALL, "--out", "run"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()


def test_help_on_a_path_is_that_on_files(tmp_path: Path, capsys) -> None:
    assert main(["train", "--data", str(tmp_path), "--help"]) == 0
    page = capsys.readouterr().out
    assert "--data Files:" in page
    assert "--data.kinds" in page
