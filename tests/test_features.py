"""The transformer passes scikit-learn's checks, and its features are exact for the linear-Gaussian model."""

import copy
import pickle
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from pyro_vae import VAE, fit, log_likelihood
from pyro_vae.features import VAETransformer
from pyro_vae.guides import DiagonalNormalGuide, IAFGuide
from pyro_vae.likelihoods import BernoulliLikelihood, NormalLikelihood
from pyro_vae.models.build import build_vae
from pyro_vae.networks import MLP, ConvDecoder, ConvEncoder
from pyro_vae.priors import StandardNormalPrior
from tests.linear_gaussian import LinearGaussian

NET = partial(MLP, hidden=(8,))
PARTS = {"likelihood": partial(NormalLikelihood, net=NET), "guide": partial(DiagonalNormalGuide, net=NET)}
QUICK = {"epochs": 2, "num_samples": 20, **PARTS}


def real(num=40, dim=5, dtype=np.float64):
    return np.random.default_rng(0).normal(size=(num, dim)).astype(dtype)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([VAETransformer(2, epochs=2, num_samples=20)])
def test_scikit_learn_s_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([VAETransformer(2, features="sample", active_threshold=0.0, epochs=1)])
def test_scikit_learn_s_checks_of_draws(estimator, check, single_precision):
    check(estimator)


@pytest.fixture
def x(exact):
    return exact.data(30)


@pytest.fixture
def fitted(exact, x):
    return VAETransformer.from_vae(exact.vae, x.numpy(), num_samples=7)


def close(result, expected):
    assert isinstance(result, np.ndarray)
    assert np.abs(result - expected.numpy()).max() < 1e-9


def test_the_features_are_the_exact_posterior_mean(exact, x, fitted):
    close(fitted.transform(x.numpy()), exact.posterior_mean(x))


def test_the_inverse_is_the_mean_of_the_likelihood(exact, fitted):
    z = torch.randn(4, 3)
    close(fitted.inverse_transform(z.numpy()), z @ exact.weight.T + exact.bias)


def test_the_score_is_the_exact_log_likelihood(exact, x, fitted):
    close(fitted.score_samples(x.numpy()), exact.log_prob(x))
    assert abs(fitted.score(x.numpy()) - float(exact.log_prob(x).mean())) < 1e-9


@pytest.mark.parametrize("num_samples", [1, 400, 2300])
def test_the_score_is_the_package_s_estimate_and_exact_within_its_error(num_samples):
    wide = LinearGaussian(inflate=1.3)
    x = wide.data(1)
    result = VAETransformer.from_vae(wide.vae, num_samples=num_samples, random_state=3).score_samples(x.numpy())
    same = log_likelihood(wide.vae.model, wide.vae.guide, x, num_samples=num_samples, chunk_size=1000, seed=3)
    assert abs(result[0] - float(same.log_likelihood[0])) < 1e-9
    if num_samples > 1:
        assert abs(result[0] - float(wide.log_prob(x))) < 4.5 * float(same.standard_error[0])


def test_the_score_of_a_datum_does_not_depend_on_the_others():
    wide = LinearGaussian(inflate=1.3)
    x = wide.data(1005).numpy()  # more than a block
    whole = VAETransformer.from_vae(wide.vae, num_samples=5).score_samples(x)
    assert np.abs(whole[1000:] - VAETransformer.from_vae(wide.vae, num_samples=5).score_samples(x[1000:])).max() < 1e-9


def test_draws_are_those_of_the_posterior(exact, x):
    many = x[:1].expand(4000, -1).numpy()
    draws = VAETransformer.from_vae(exact.vae, features="sample").transform(many)
    mean, variance = exact.posterior_mean(x[:1])[0].numpy(), exact.posterior_variance().numpy()
    assert np.abs((draws.mean(0) - mean) / np.sqrt(variance / 4000)).max() < 4.5
    assert np.abs((draws.var(0) / variance - 1) / np.sqrt(2 / 4000)).max() < 4.5
    assert np.abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 4.5 / np.sqrt(4000)  # independent noise per datum


def test_draws_follow_random_state(fitted, x):
    x = x.numpy()
    fitted.set_params(features="sample")
    first = fitted.transform(x)
    assert np.array_equal(first, fitted.transform(x))
    assert not np.array_equal(first, fitted.set_params(random_state=1).transform(x))
    fitted.set_params(random_state=np.random.RandomState(0))
    assert not np.array_equal(fitted.transform(x), fitted.transform(x))


def test_a_posterior_without_a_mean_in_closed_form_is_averaged():
    vae = build_vae((5,), 3, StandardNormalPrior, NormalLikelihood, IAFGuide)
    x = torch.randn(6, 5)
    draws = vae.encode(x).sample((4000,))
    result = VAETransformer.from_vae(vae).transform(x.numpy())
    error = (draws.var(0) * (1 / 4000 + 1 / 100)).sqrt().detach().numpy()
    assert np.abs((result - draws.mean(0).detach().numpy()) / error).max() < 4.5


def test_only_active_dimensions_are_features(exact, x):
    with torch.no_grad():  # z_1 no longer depends on x: its posterior mean is 0.3 for all
        exact.vae.guide.net.layers[0].weight[1] = 0
        exact.vae.guide.net.layers[0].bias[1] = 0.3
    fitted = VAETransformer.from_vae(exact.vae, x.numpy(), active_threshold=0.1)
    assert fitted.active_.tolist() == [True, False, True]
    close(fitted.latent_std_[[0, 2]], exact.posterior_mean(x)[:, [0, 2]].std(0, correction=0))
    close(fitted.transform(x.numpy()), exact.posterior_mean(x)[:, [0, 2]])
    assert fitted.get_feature_names_out().tolist() == ["vaetransformer0", "vaetransformer2"]
    z = torch.randn(4, 2)
    full = torch.stack([z[:, 0], torch.full((4,), 0.3), z[:, 1]], 1)
    close(fitted.inverse_transform(z.numpy()), full @ exact.weight.T + exact.bias)


@pytest.mark.parametrize(("threshold", "kept"), [(None, 3), (0.0, 3), (0.8, 2)])
def test_the_threshold_is_on_the_standard_deviation(exact, threshold, kept):
    x = exact.data(2000).numpy()
    # along a column of W of length w, x has variance w^2 + s^2, and the mean is w / (w^2 + s^2) of it
    norms = exact.weight.norm(dim=0)
    assert ((norms / (norms**2 + 0.25).sqrt()) > 0.8).tolist() == [False, True, True]
    fitted = VAETransformer.from_vae(exact.vae, x, active_threshold=threshold)
    assert fitted.transform(x).shape == (2000, kept)


def test_which_dimensions_are_active_does_not_depend_on_the_features(exact, x):
    of_means, of_draws = (VAETransformer.from_vae(exact.vae, x.numpy(), features=f) for f in ("mean", "sample"))
    assert np.array_equal(of_means.latent_std_, of_draws.latent_std_)
    assert np.array_equal(of_means.latent_mean_, of_draws.latent_mean_)


@pytest.mark.parametrize(("features", "random"), [("mean", False), ("sample", True)])
def test_the_tags_report_random_features(features, random):
    assert get_tags(VAETransformer(features=features)).non_deterministic == random


def test_features_have_the_dtype_of_the_data_not_of_a_trained_vae(fitted, x):
    x = x.numpy().astype(np.float32)
    for result in (fitted.transform(x), fitted.score_samples(x), fitted.inverse_transform(fitted.transform(x))):
        assert result.dtype == np.float32


def test_fit_trains_as_the_package_does():
    x = real()
    result = VAETransformer(3, epochs=4, batch_size=16, lr=2e-3, random_state=5, **PARTS).fit(x)
    vae = build_vae((5,), 3, StandardNormalPrior, PARTS["likelihood"], PARTS["guide"], seed=5)
    vae.likelihood.initialise_mean(torch.tensor(x).mean(0))
    adam = partial(torch.optim.Adam, lr=2e-3)
    history = fit(vae.model, vae.guide, torch.tensor(x), epochs=4, batch_size=16, optimizer=adam, seed=5).history
    assert [r["elbo"] for r in result.history_] == [r["elbo"] for r in history]
    assert all(torch.equal(a, b) for a, b in zip(result.vae_.parameters(), vae.parameters(), strict=True))


def test_training_raises_the_score():
    x = real() @ np.diag([3.0, 1.0, 0.2, 0.2, 0.2])
    few, many = (VAETransformer(2, **{**QUICK, "epochs": n, "lr": 1e-2}).fit(x) for n in (1, 150))
    assert many.score(x) > few.score(x) + 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_is_that_of_the_data(dtype, single_precision):
    x = real(dtype=dtype)
    fitted = VAETransformer(2, **QUICK).fit(x)
    assert {str(p.dtype) for p in fitted.vae_.parameters()} == {f"torch.{np.dtype(dtype)}"}
    for result in (fitted.transform(x), fitted.score_samples(x), fitted.inverse_transform(fitted.transform(x))):
        assert result.dtype == dtype
    assert torch.get_default_dtype() == torch.float32


def test_of_images_with_convolutions():
    x = (real(20, 64) > 0).astype("float32")
    parts = {
        "likelihood": partial(BernoulliLikelihood, net=partial(ConvDecoder, channels=(4, 4))),
        "guide": partial(DiagonalNormalGuide, net=partial(ConvEncoder, channels=(4, 4))),
    }
    fitted = VAETransformer(2, data_shape=(1, 8, 8), epochs=1, **parts).fit(x)
    assert fitted.vae_.data_shape == (1, 8, 8)
    assert fitted.transform(x).shape == (20, 2)
    back = fitted.inverse_transform(fitted.transform(x))
    assert back.shape == (20, 64)
    assert 0 < back.min() < back.max() < 1
    assert fitted.score(x) < 0


def test_a_trained_vae_is_not_trained_again(fitted, exact, x):
    before = copy.deepcopy(exact.vae.state_dict())
    x, labels = x.numpy(), (x[:, 0] > x[:, 0].median()).numpy()
    pipeline = make_pipeline(fitted, LogisticRegression())
    search = GridSearchCV(pipeline, {"logisticregression__C": [0.1, 1.0]}, cv=2).fit(x, labels)
    inside = search.best_estimator_[0]
    close(inside.transform(x), exact.posterior_mean(torch.tensor(x)))
    assert inside.history_ == []
    assert all(torch.equal(before[name], value) for name, value in exact.vae.state_dict().items())


def unpickled(estimator):
    return pickle.loads(pickle.dumps(estimator))  # noqa: S301


@pytest.mark.parametrize("copied", [copy.deepcopy, unpickled], ids=["deepcopy", "pickle"])
def test_copies_give_the_same(copied):
    x = real()
    fitted = VAETransformer(2, **QUICK).fit(x)
    again = copied(fitted)
    assert np.array_equal(fitted.transform(x), again.transform(x))
    assert np.array_equal(fitted.score_samples(x), again.score_samples(x))


def test_a_clone_is_not_fitted_and_fits_the_same():
    x = real()
    fitted = VAETransformer(2, **QUICK).fit(x)
    assert not hasattr(clone(fitted), "vae_")
    assert np.array_equal(fitted.transform(x), clone(fitted).fit_transform(x))


def numpy_state():
    return repr(np.random.get_state())  # noqa: NPY002


def test_nothing_global_changes():
    x = real()
    before = torch.get_rng_state(), numpy_state()
    fitted = VAETransformer(2, features="sample", **QUICK).fit(x)
    fitted.inverse_transform(fitted.transform(x))
    fitted.score(x)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == numpy_state()
    assert not list(pyro.get_param_store())
    assert torch.get_default_dtype() == torch.float64
    assert pyro.poutine.util.is_validation_enabled()
    assert torch.is_grad_enabled()


def test_any_optimizer_is_called_with_the_learning_rate():
    rates = []

    def optimizer(parameters, lr):
        rates.append(lr)
        return torch.optim.SGD(parameters, lr=lr)

    VAETransformer(2, **{**QUICK, "optimizer": optimizer, "lr": 1e-4}).fit(real())
    assert rates == [1e-4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "median"}, "features='median'"),
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"latent_dim": -1}, "latent_dim=-1"),
        ({"num_samples": 0}, "num_samples=0"),
        ({"num_samples": None}, "num_samples must be an integer, got num_samples=None"),
        ({"data_shape": (2, 3)}, r"data_shape=\(2, 3\) has entries, got 5"),
        ({"active_threshold": 100.0}, "active_threshold=100.0"),
        ({"likelihood": partial(BernoulliLikelihood, net=NET)}, "support"),
    ],
)
def test_bad_options_are_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        VAETransformer(**{"latent_dim": 2, **QUICK, **options}).fit(real())
    assert "\n" not in str(caught.value)


def test_bad_data_are_one_line(fitted, exact):
    with pytest.raises(ValueError, match="3 features"):
        fitted.inverse_transform(np.ones((2, 7)))
    with pytest.raises(ValueError, match="active_threshold must have data"):
        VAETransformer.from_vae(exact.vae, active_threshold=0.1)
    with pytest.raises(ValueError, match="has entries, got 6"):
        VAETransformer.from_vae(exact.vae, np.ones((4, 6)))
    with pytest.raises(TypeError, match="must be a VAE, got a GenerativeModel"):
        VAETransformer.from_vae(exact.vae.model)


def test_a_datum_outside_the_support_has_no_score():
    binary = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
    x = np.ones((9, 5))
    x[6, 2] = 0.5
    with pytest.raises(ValueError, match="row 6"):
        VAETransformer.from_vae(binary).score(x)
