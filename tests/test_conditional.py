"""The conditional VAE against a linear-Gaussian model in closed form, and contexts of every kind."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from pyro.distributions import Bernoulli, Categorical, Normal
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae import (
    VAE,
    Digits,
    annealed_log_likelihood,
    fit,
    inference_gaps,
    log_likelihood,
    refit_guide,
    sandwich,
)
from pyro_vae.cli.main import main
from pyro_vae.data import ImageSet
from pyro_vae.data.batches import Batches
from pyro_vae.distributions import GivenEntries
from pyro_vae.experiments.experiment import load_run
from pyro_vae.guides import DiagonalNormalGuide, HMCGuide, IAFGuide
from pyro_vae.likelihoods import (
    AutoregressiveLikelihood,
    BernoulliLikelihood,
    MixedLikelihood,
    MixtureOfLogisticsLikelihood,
    NormalLikelihood,
)
from pyro_vae.models import GreyLevels, LowResolution
from pyro_vae.models.build import build_conditional
from pyro_vae.models.given import REGIONS, given_part
from pyro_vae.networks import MLP, ConvDecoder, ConvEncoder, GatedPixelCNN, with_context
from pyro_vae.networks.context import as_vector
from pyro_vae.plotting import completions
from pyro_vae.priors import ConditionalPrior, StandardNormalPrior, VampPrior
from tests.conditional_linear_gaussian import ConditionalLinearGaussian, D
from tests.test_semi_supervised_cli import error_line

each_form = pytest.mark.parametrize("joined", [False, True], ids=["argument", "part of x"])
SMALL = partial(MLP, hidden=(8,))


@each_form
def test_the_exact_posterior_gives_the_conditional_log_likelihood(joined: bool) -> None:
    exact = ConditionalLinearGaussian(joined=joined)
    x, c = exact.draw(9)
    vae, data = exact.vae, exact.data(x, c)
    result = log_likelihood(vae.model, vae.guide, data, num_samples=7, batch_size=4, chunk_size=3)
    torch.testing.assert_close(result.log_likelihood, exact.log_prob(x, c), rtol=0, atol=1e-9)
    torch.testing.assert_close(result.elbo, exact.log_prob(x, c), rtol=0, atol=1e-9)
    posterior = vae.encode(*data) if isinstance(data, tuple) else vae.encode(data)
    torch.testing.assert_close(posterior.mean, exact.posterior_mean(x, c), rtol=0, atol=1e-9)
    assert result.protocol["dimensions"] == D
    if joined:  # for guides that use the model's density
        z = posterior.sample()
        log_p = vae.model.log_joint(data, z) - posterior.log_prob(z)
        torch.testing.assert_close(log_p, exact.log_prob(x, c), rtol=0, atol=1e-9)


@each_form
def test_estimators_are_of_the_conditional_log_likelihood(joined: bool) -> None:
    exact = ConditionalLinearGaussian(joined=joined, inflate=1.3)
    x, c = exact.draw(20)
    vae, data, expected = exact.vae, exact.data(x, c), exact.log_prob(x, c)
    options = {"num_distributions": 12, "num_chains": 4, "num_steps": 3, "start": "guide", "engine": "eager"}
    for result in (
        log_likelihood(vae.model, vae.guide, data, num_samples=200, engine="eager"),
        annealed_log_likelihood(vae.model, vae.guide, data, **options),
    ):
        ratio = (result.log_likelihood - expected).exp()  # the mean weight over p(x | c), with expectation 1
        assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / len(ratio) ** 0.5
    bounds = sandwich(vae.model, vae.guide, data, real=False, **options)
    gap = bounds.upper - bounds.lower
    assert -4.5 * gap.std() / len(gap) ** 0.5 < gap.mean() < 1


@each_form
def test_gaps_and_a_refitted_guide_keep_the_context(joined: bool) -> None:
    exact = ConditionalLinearGaussian(joined=joined, inflate=1.5)
    x, c = exact.draw(60)
    vae, data = exact.vae, exact.data(x, c)
    gaps = inference_gaps(vae.model, vae.guide, data, num_samples=300, num_steps=150, lr=0.03)
    torch.testing.assert_close(gaps.best_elbo, exact.log_prob(x, c), rtol=0, atol=0.05)
    assert gaps.amortization.mean() > 0.2
    net = partial(MLP, hidden=())
    guide = DiagonalNormalGuide(vae.data_shape, vae.latent_dim, net=net if joined else with_context(net, c.shape[1]))
    refitted, result = refit_guide(vae, guide, data, epochs=3, batch_size=20, engine="eager")
    assert refitted.model.prior is vae.prior
    assert result.history[-1]["elbo"] > result.history[0]["elbo"]


@pytest.mark.usefixtures("uncompiled")
def test_a_class_is_its_one_hot_vector() -> None:
    vae = build_conditional((1, 4, 4), 2, 3, ConditionalPrior, BernoulliLikelihood, DiagonalNormalGuide)
    x, y = torch.rand(7, 1, 4, 4).round(), torch.tensor([0, 1, 2, 2, 0, 1, 1])
    one_hot = torch.nn.functional.one_hot(y, 3).double()
    results = [log_likelihood(vae.model, vae.guide, (x, c), num_samples=20).log_likelihood for c in (y, one_hot)]
    torch.testing.assert_close(*results)
    swapped = log_likelihood(vae.model, vae.guide, (x, (y + 1) % 3), num_samples=20).log_likelihood
    assert not torch.allclose(results[0], swapped)
    recorded = log_likelihood(vae.model, vae.guide, (x, y), num_samples=20, engine="compiled").log_likelihood
    torch.testing.assert_close(recorded, results[0])
    assert vae.sample(y, 5).shape == (5, 7, 1, 4, 4)


def test_classes_that_do_not_exist_raise() -> None:
    vae = build_conditional((4,), 2, 3, StandardNormalPrior, BernoulliLikelihood, DiagonalNormalGuide)
    x, wrong = torch.ones(40, 4), torch.arange(40) // 10  # the last ten are of class 3
    with pytest.raises(ValueError, match=r"^context: classes must be in 0..2, got 0..3\. Number the classes from 0"):
        log_likelihood(vae.model, vae.guide, (x, wrong), num_samples=3, batch_size=40)
    with pyro.validation_enabled(False):  # as in most steps of a training, which then ends with a NonFiniteError
        assert as_vector(wrong[[0, 39]], 3, x.dtype).isnan().all(-1).tolist() == [False, True]


def test_given_entries_are_not_scored_and_are_kept_in_samples() -> None:
    seen, value = torch.tensor([True, False, False]), torch.tensor([5.0, 0.0, 0.0])
    base = Normal(torch.arange(3.0), 2.0).to_event(1)
    p = GivenEntries(base.expand((4,)), seen, value)
    x = p.sample((6,))
    assert x.shape == (6, 4, 3)
    assert (x[..., 0] == 5).all()
    expected = base.base_dist.log_prob(x)[..., 1:].sum(-1)
    torch.testing.assert_close(p.log_prob(x), expected)
    assert p.expand((2, 4)).log_prob(x[0]).shape == (2, 4)
    with pytest.raises(ValueError, match=r"entries must be independent given z, got a Categorical"):
        GivenEntries(Categorical(torch.ones(3)), seen, value)


def test_whole_pixels_of_dependent_channels_are_given() -> None:
    given, x = given_part("top-half", (3, 4, 2)), torch.rand(5, 3, 4, 2).mul(255).round() / 255
    pieces = ConditionalPrior, MixtureOfLogisticsLikelihood, DiagonalNormalGuide
    vae = build_conditional((3, 4, 2), 2, given, *pieces)
    p = vae.decode(torch.randn(5, 2), given(x))
    other = x.clone()
    other[..., :2, :] = 0.0
    assert not torch.allclose(p.base.log_prob(x), p.base.log_prob(other))
    torch.testing.assert_close(p.log_prob(x), p.log_prob(other))
    whole = p.base.log_prob(x) - p.log_prob(x)
    flipped = GivenEntries(p.base, ~given.seen, x).log_prob(x)
    torch.testing.assert_close(flipped, whole)
    with pytest.raises(ValueError, match="of dependent channels whole pixels must be given"):
        GivenEntries(p.base, torch.arange(24).reshape(3, 4, 2) > 3, x)


def test_columns_of_a_table_are_given_whatever_their_kind() -> None:
    parts = [([0, 2], NormalLikelihood), ([1], BernoulliLikelihood)]
    given = given_part("1,0", (3,))
    vae = build_conditional(
        (3,), 2, given, ConditionalPrior, partial(MixedLikelihood, parts=parts), DiagonalNormalGuide
    )
    x = torch.randn(8, 3)
    x[:, 1] = x[:, 1].gt(0).double()
    result = log_likelihood(vae.model, vae.guide, x, num_samples=5)
    assert result.protocol["dimensions"] == 1
    z, changed = torch.zeros(8, 2), x.clone()
    changed[:, 2] += 1
    log_p = vae.decode(z, given(x)).log_prob(x)
    scale = vae.likelihood.parts[0].scale()
    loc = vae.decode(z, given(x)).base.mean[:, 2]
    torch.testing.assert_close(log_p, Normal(loc, scale).log_prob(x[:, 2]))
    assert torch.equal(given(changed), given(x))


@pytest.mark.parametrize("name", REGIONS)
def test_a_region_and_its_complement_are_the_image(name: str) -> None:
    seen, others = given_part(name, (2, 5, 7)).seen, given_part(f"all-but-{name}", (2, 5, 7)).seen
    assert torch.equal(seen, ~others)
    rows, columns = seen[0].any(1).nonzero().flatten().tolist(), seen[0].any(0).nonzero().flatten().tolist()
    halves = {"top": [0, 1], "bottom": [2, 3, 4]}, {"left": [0, 1, 2], "right": [3, 4, 5, 6]}
    for axis, half, size in zip((rows, columns), halves, (5, 7), strict=True):
        assert axis == next((where for part, where in half.items() if part in name), list(range(size)))
    assert seen.sum() == 2 * len(rows) * len(columns)


def test_grey_levels_and_low_resolutions_are_means() -> None:
    x = torch.rand(3, 3, 4, 6)
    torch.testing.assert_close(GreyLevels((3, 4, 6))(x), x.mean(1, keepdim=True))
    torch.testing.assert_close(LowResolution((3, 4, 6), 2)(x), torch.nn.functional.avg_pool2d(x, 2))
    for given in (GreyLevels((3, 4, 6)), LowResolution((3, 4, 6))):
        kinds = partial(NormalLikelihood, net=ConvDecoder), partial(DiagonalNormalGuide, net=ConvEncoder)
        vae = build_conditional((3, 4, 6), 2, given, ConditionalPrior, *kinds, kinds[1])
        assert log_likelihood(vae.model, vae.guide, x, num_samples=3).protocol["dimensions"] == x[0].numel()
        assert vae.sample(given(x), 2, mean=True).shape == (2, *x.shape)
        assert completions(vae, x, num=2).axes[0].images


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("top-haf", (1, 4, 4)), "--data.context: must be label, grey, .*top-half.* got top-haf"),
        (("grey", (1, 4, 4)), "images of several channels, got data_shape="),
        (("half-size", (1, 5, 4)), "factor must divide height and width"),
        (("age", (2,), ["sex", "height"]), "columns of the table, sex, height, got age"),
        (("7", (2,)), "columns of the table, 0 to 1, got 7"),
        (("0,1", (2,)), "seen must be a bool tensor with True and False"),
    ],
)
def test_contexts_that_do_not_exist_raise(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        given_part(*arguments)


def test_pieces_that_do_not_fit_raise() -> None:
    given, shape = given_part("left-half", (1, 4, 4)), (1, 4, 4)
    prior = ConditionalPrior(DiagonalNormalGuide((3,), 2))
    with pytest.raises(ValueError, match="VAE: the prior must not be conditional"):
        VAE(prior, BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
    with pytest.raises(ValueError, match="must be amortized, with a network of x and c, got HMCGuide"):
        build_conditional(shape, 2, 3, StandardNormalPrior, BernoulliLikelihood, HMCGuide)
    with pytest.raises(ValueError, match="a VampPrior of a ConditionalVAE must have its own guide"):
        build_conditional(shape, 2, given, VampPrior, BernoulliLikelihood, DiagonalNormalGuide)
    vae = build_conditional(shape, 2, given, StandardNormalPrior, BernoulliLikelihood, DiagonalNormalGuide)
    with pytest.raises(ValueError, match=r"context must be of shape|context must"):
        vae.sample(torch.zeros(2, 1, 4, 3))
    by_class = build_conditional(shape, 2, 3, StandardNormalPrior, BernoulliLikelihood, DiagonalNormalGuide)
    with pytest.raises(ValueError, match=r"the contexts must have \(3,\) dimensions, got shapes=\[\]. Pass the"):
        log_likelihood(by_class.model, by_class.guide, torch.ones(4, *shape))
    net = partial(GatedPixelCNN, channels=4, num_layers=2)
    pieces = StandardNormalPrior, partial(AutoregressiveLikelihood, net=net), DiagonalNormalGuide
    dependent = build_conditional(shape, 2, given, *pieces)
    with pytest.raises(ValueError, match=r"must be independent given z, got an Autoregressive.*score_seen=True"):
        log_likelihood(dependent.model, dependent.guide, torch.ones(4, *shape))


@pytest.mark.parametrize("guide", [HMCGuide, IAFGuide])
def test_any_guide_completes_parts_of_the_data(guide: type) -> None:
    given = given_part("left-half", (1, 4, 4))
    vae = build_conditional((1, 4, 4), 2, given, ConditionalPrior, BernoulliLikelihood, guide)
    x = torch.rand(30, 1, 4, 4).round()
    fit(vae.model, vae.guide, x, epochs=1, batch_size=15, engine="eager")
    result = log_likelihood(vae.model, vae.guide, x, num_samples=10)
    assert (result.protocol["dimensions"], len(result)) == (8, 30)
    samples = vae.sample(given(x), 3)
    assert torch.equal(samples[..., :2], x[..., :2].expand(3, -1, -1, -1, -1))


def test_scoring_the_seen_entries_adds_their_density() -> None:
    given, x, z = given_part("left-half", (1, 4, 4)), torch.rand(6, 1, 4, 4).round(), torch.randn(6, 2)
    vaes = [
        build_conditional(
            (1, 4, 4), 2, given, StandardNormalPrior, BernoulliLikelihood, DiagonalNormalGuide, score_seen=scored
        )
        for scored in (False, True)
    ]
    some, all_of = (vae.decode(z, given(x)).log_prob(x) for vae in vaes)
    logits = vaes[0].likelihood(z, given(x)).base_dist.logits
    seen = Bernoulli(logits=logits[..., :2]).log_prob(x[..., :2]).sum((1, 2, 3))
    torch.testing.assert_close(all_of, some + seen)


@pytest.mark.usefixtures("uncompiled")
@each_form
def test_a_resumed_and_a_recorded_training_are_the_same(joined: bool, tmp_path: Path) -> None:
    exact = ConditionalLinearGaussian(joined=joined)
    data, weights = exact.data(*exact.draw(20)), []
    for engine, epochs in (("eager", [2]), ("eager", [1, 2]), ("compiled", [2])):
        vae = ConditionalLinearGaussian(joined=joined, inflate=1.5).vae
        for end in epochs:
            options = {"run": tmp_path / f"{engine}{len(epochs)}", "resume": end != epochs[0]}
            fit(vae.model, vae.guide, data, epochs=end, batch_size=10, engine=engine, **options)
        weights.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    assert torch.equal(weights[0], weights[1])
    torch.testing.assert_close(weights[0], weights[2], rtol=0, atol=1e-8)
    changed = (data[0], data[1] + 1) if isinstance(data, tuple) else data + 1
    with pytest.raises(ValueError, match="training data"):
        fit(
            vae.model, vae.guide, changed, epochs=3, batch_size=10, engine="eager", run=tmp_path / "eager1", resume=True
        )


def test_a_tuple_of_arrays_is_a_data_loader_of_pairs() -> None:
    x, c = torch.randn(10, 3), np.arange(10)
    batches = [batch.args for batch in Batches((x, c), 4).epoch()]
    loader = [batch.args for batch in Batches(DataLoader(TensorDataset(x, torch.from_numpy(c)), 4), 4).epoch()]
    assert all(torch.equal(a, b) for pair in zip(batches, loader, strict=True) for a, b in zip(*pair, strict=True))
    pairs = [batch.args for batch in Batches((x, c), 4, shuffle_seed=1).epoch()]
    shuffled = [torch.cat([pair[i] for pair in pairs]) for i in range(2)]
    assert torch.equal(shuffled[0], x[shuffled[1]])
    assert not torch.equal(shuffled[1], torch.arange(10))
    with pytest.raises(ValueError, match=r"arrays of one length and device, got shapes=\[\(10, 3\), \(9,\)\]"):
        Batches((x, c[:9]), 4)
    with pytest.raises(ValueError, match=r"one class per datum, got shape=\(10, 2\)\. Convert it with \.float"):
        Batches((x, np.ones((10, 2), dtype=int)), 4)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_default_dtype(torch.float32)
    folder, paths = tmp_path_factory.mktemp("runs"), {}
    quick = ["--epochs", "1", "--num_samples", "5", "--latent_dim", "3", "--device", "cpu", "--engine", "eager"]
    for context in ("label", "bottom-left"):
        paths[context] = folder / context
        argv = ["train", "--model", "ConditionalVAE", "--data.context", context, "--prior", "ConditionalPrior", *quick]
        assert main([*argv, "--out", str(paths[context])]) == 0
    return paths


@pytest.mark.usefixtures("single_precision")
def test_images_are_encoded_with_their_context_and_edits_change_the_class(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = str(runs["label"]), str(tmp_path / "a.npz")
    model = load_run(path)
    x, y = model.splits.test.arguments([3, 5])
    assert y[0] != y[1]
    z = model.vae.encode(x, y).mean
    other = torch.full_like(y, 7)
    expected = torch.cat([model.vae.decode(z, c).mean[[i]] for i in (0, 1) for c in (y, other)]).detach().numpy()
    assert main(["edit", path, "3", "5", "--to", "7", "--amounts", "0", "1", "--out", out]) == 0
    assert np.abs(np.load(out)["images"] - expected).max() < 1e-6
    for argv in (["interpolate", path, "3", "5", "--num", "2"], ["traverse", path, "3", "--dims", "1", "--num", "2"]):
        assert main([*argv, "--out", out, "--overwrite"]) == 0
        images = np.load(out)["images"]
        assert argv[0] == "traverse" or np.abs(images - expected[::2]).max() < 1e-6
    np.save(tmp_path / "own.npy", x.numpy())
    line = error_line(capsys, "interpolate", path, "3", str(tmp_path / "own.npy"))
    assert line.startswith("images: with a class as context, images must be positions, got ")
    assert error_line(capsys, "edit", path, "3", "--to", "10").startswith("--to: must be in 0..9, got 10")
    own, part = str(tmp_path / "own.npy"), str(runs["bottom-left"])  # two images, whose context is a part of them
    assert main(["interpolate", part, "3", own, "1", "--out", str(tmp_path / "b.npz")]) == 0


@pytest.mark.usefixtures("single_precision")
def test_the_command_line_trains_samples_and_reports(runs: dict[str, Path], tmp_path: Path) -> None:
    for context, path in runs.items():
        content = json.loads((path / "log_likelihood-test-guide-5-seed0.json").read_text())
        assert content["protocol"]["context"] == context
        assert content["protocol"]["dimensions"] == {"label": 64, "bottom-left": 48}[context]
        assert (path / "figures" / "completions.png").exists()
        assert main(["sample", str(path), "--num", "20", "--out", str(tmp_path / f"{context}.npz")]) == 0
        assert main(["report", str(path)]) == 0
        assert "Samples given a context" in (path / "report.html").read_text()
    by_class, completed = (np.load(tmp_path / f"{context}.npz") for context in runs)
    assert by_class["contexts"].tolist() == [y for y in range(10) for _ in range(2)]
    seen = given_part("bottom-left", (1, 8, 8)).seen.numpy()
    images, contexts = completed["images"], completed["contexts"]
    assert images.shape == (20, 1, 8, 8)
    assert (images[:, seen] == contexts[:, seen]).all()
    trained = load_run(runs["bottom-left"])
    first = trained.splits.test.images[0, 0].numpy() * 16 // trained.splits.max_value
    np.savez(tmp_path / "mine.npz", images=(first > 8).astype("uint8"))
    argv = ["sample", str(runs["bottom-left"]), "--context", str(tmp_path / "mine.npz"), "--num", "3"]
    assert main([*argv, "--out", str(tmp_path / "mine-drawn.npz")]) == 0
    drawn = np.load(tmp_path / "mine-drawn.npz")["images"]
    assert (drawn[:, seen] == (first > 8)[seen[0]]).all()


@pytest.mark.usefixtures("single_precision")
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "--data.context=label"], "a VAE must have no context, got label. Add --model ConditionalVAE."),
        (
            ["train", "--model", "ConditionalVAE"],
            "must have a context, got none. Add for example --data.context label.",
        ),
        (["train", "--score_seen", "true"], "--score_seen: must come with --model ConditionalVAE"),
        (["sample", "label", "--context", "10"], "--context: must be a class in 0..9, got 10."),
        (["sample", "label", "--label", "1"], "--label: must come with a model with classes"),
        (["sample", "bottom-left", "--context", "3"], "--context: images must be files, got 3"),
        (
            ["evaluate", "label", "--method", "diagnostics"],
            "requires a VAE, got a ConditionalVAE. Use one of importance",
        ),
        (["compress", "label", "--split", "test", "x.pvz"], "the model must be a VAE, an M2, an Auto"),
    ],
)
def test_the_command_line_refuses_in_one_line(
    runs: dict[str, Path], argv: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = [str(runs.get(word, tmp_path / word if word.endswith(".pvz") else word)) for word in argv]
    assert main([*words, *(["--out", str(tmp_path / "x.npz")] if argv[0] == "sample" else [])]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_the_labels_of_a_context_are_part_of_the_fingerprint() -> None:
    plain, given = Digits().load(), Digits(context="label").load()
    part = Digits(context="top-half").load()
    assert part.fingerprints == plain.fingerprints
    assert given.fingerprints.keys() == plain.fingerprints.keys()
    assert not {*given.fingerprints.values()} & {*plain.fingerprints.values()}
    assert [len(given.test.arguments([0, 1])), len(plain.test.arguments([0, 1]))] == [2, 1]
    with pytest.raises(ValueError, match="must come with a class for every image"):
        Digits(context="label")._with_context(ImageSet(torch.zeros(3, 4)))
