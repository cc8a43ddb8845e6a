"""The explorer: its JavaScript equals torch, its page makes no request, and its controls work."""

from __future__ import annotations

import base64
import hashlib
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from pyro_vae import VAE, latent_diagnostics, log_likelihood, zoo
from pyro_vae.data import ImageSet
from pyro_vae.explorer import explore
from pyro_vae.guides import CategoricalGuide, DiagonalNormalGuide, FullRankNormalGuide, SemiAmortizedGuide
from pyro_vae.latents import attribute_vector, traverse
from pyro_vae.latents.paths import slerp
from pyro_vae.likelihoods import (
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    LaplaceLikelihood,
    NormalLikelihood,
    PoissonLikelihood,
)
from pyro_vae.likelihoods.continuous_bernoulli import ContinuousBernoulli
from pyro_vae.models.build import build_semi_supervised
from pyro_vae.networks import (
    MLP,
    ConvDecoder,
    ConvEncoder,
    GatedConvDecoder,
    GatedConvEncoder,
    GatedMLP,
    ResidualConvDecoder,
    ResidualConvEncoder,
)
from pyro_vae.priors import FlowPrior, MixtureOfNormalsPrior, StandardNormalPrior, VampPrior
from tests import chromium
from tests.javascript import content_of, run_engine, run_page

L = 3
small = partial(MLP, hidden=(9,))
NETWORKS = {
    **{
        f"MLP {f}, {g}": (partial(small, activation=f), partial(small, activation=g))
        for f, g in (("tanh", "relu"), ("softplus", "gelu"), ("silu", "elu"), ("leaky_relu", "tanh"))
    },
    "linear": (partial(MLP, hidden=()),) * 2,
    "gated MLP": (partial(GatedMLP, hidden=(9, 8)),) * 2,
    "convolutional": (partial(ConvEncoder, channels=(5, 6)), partial(ConvDecoder, channels=(6, 5))),
    "wide kernels": (partial(ConvEncoder, channels=(5,), kernel_size=5), partial(ConvDecoder, channels=(6,))),
    "gated convolutional": (
        partial(GatedConvEncoder, channels=(5, 6)),
        partial(GatedConvDecoder, channels=(6, 5), features=4),
    ),
    "residual": (
        partial(ResidualConvEncoder, channels=(5, 6), activation="elu"),
        partial(ResidualConvDecoder, channels=(6, 5), features=4),
    ),
}


def rounded(vae: Any) -> Any:
    """The model with the weights of the page: matrices in half, all else in single precision."""
    with torch.no_grad():
        for name, tensor in vae.state_dict().items():
            tensor.add_(0.3 * torch.randn_like(tensor))
            tensor.copy_(tensor.half() if name.endswith("weight") else tensor.float())
    return vae.eval()


def vae_of(encoder: Any = small, decoder: Any = small, *, shape: Any = (1, 7, 5), **pieces: Any) -> VAE:
    likelihood = pieces.get("likelihood", BernoulliLikelihood)(L, shape, net=decoder)
    guide = pieces.get("guide", DiagonalNormalGuide)(shape, L, net=encoder)
    return rounded(VAE(pieces.get("prior", StandardNormalPrior)(L), likelihood, guide))


def log_weights(vae: VAE, x: Tensor, noise: Tensor) -> Tensor:
    """log p(x, z) - log q(z | x), ``(K, N)``, at z = loc + scale_tril noise."""
    q = vae.encode(x)
    scale = q.scale_tril if hasattr(q, "scale_tril") else q.base_dist.scale.diag_embed()
    z = q.mean + (scale @ noise.unsqueeze(-1)).squeeze(-1)
    return vae.prior().log_prob(z) + vae.decode(z).log_prob(x) - q.log_prob(z)


def compare(vae: VAE, path: Path, x: Tensor) -> None:
    """Means at 100 z, and log-weights and bounds of all x, agree with torch."""
    page = explore(vae, x, path / "page.html")
    z, noise = torch.randn(100, L), torch.randn(4, L)
    with torch.no_grad():
        expected = vae.decode(z).mean.flatten(1)
        weights = torch.cat([log_weights(vae, x[[i]], noise.unsqueeze(1)) for i in range(len(x))], 1).mT  # (N, K)
    bounds = torch.stack([weights.mean(1), weights.logsumexp(1) - math.log(4)], 1)
    expression = """({
      means: z.map((code) => [...model.decode(code)]),
      bounds: x.map((datum) => {
        const estimator = model.estimator(datum, null);
        noise.forEach((e) => estimator.step(Float64Array.from(e)));
        return [estimator.result().elbo, estimator.result().bound];
      }),
    })"""
    found = run_engine(page, expression, z=z.tolist(), x=x.flatten(1).tolist(), noise=noise.tolist())
    assert (torch.tensor(found["means"]) - expected).abs().max() < 1e-6
    assert (torch.tensor(found["bounds"]) - bounds).abs().max() < 1e-4


def binary(shape: Any, num: int = 5) -> Tensor:
    return torch.rand(num, *shape).round()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_equals_torch(name: str, tmp_path: Path) -> None:
    encoder, decoder = NETWORKS[name]
    compare(vae_of(encoder, decoder), tmp_path, binary((1, 7, 5)))


def vamp(latent_dim: int, encoder: Any = DiagonalNormalGuide) -> VampPrior:
    return VampPrior(encoder((1, 7, 5), latent_dim, net=small), num_components=4)


PIECES: dict[str, dict[str, Any]] = {
    "full rank": {"guide": FullRankNormalGuide},
    "clamped scale": {"guide": partial(DiagonalNormalGuide, log_scale_bounds=(-0.1, 0.1))},
    "mixture": {"prior": partial(MixtureOfNormalsPrior, num_components=4)},
    "VampPrior": {"prior": vamp},
    "colours": {"shape": (3, 7, 5)},
    "rows and columns": {"shape": (7, 5)},
    "continuous Bernoulli": {"likelihood": ContinuousBernoulliLikelihood},
    "logistic": {"likelihood": partial(DiscretizedLogisticLikelihood, levels=17), "steps": 16},
    **{f"normal {s}": {"likelihood": partial(NormalLikelihood, scale=s)} for s in ("global", "pixel", "network", 0.3)},
    **{f"Laplace {s}": {"likelihood": partial(LaplaceLikelihood, scale=s)} for s in ("network", 0.3)},
}


@pytest.mark.parametrize("name", PIECES)
def test_every_prior_guide_and_likelihood_equals_torch(name: str, tmp_path: Path) -> None:
    pieces = PIECES[name]
    shape, steps = pieces.get("shape", (1, 7, 5)), pieces.get("steps", 1)
    compare(vae_of(**pieces), tmp_path, (torch.rand(5, *shape) * steps).round() / steps)


def test_a_model_in_training_is_described_in_eval_mode_and_left_as_it_was(tmp_path: Path) -> None:
    dropping = partial(DiagonalNormalGuide, net=partial(small, dropout=0.5))
    vae, x = vae_of(prior=partial(vamp, encoder=lambda shape, n, net: dropping(shape, n))), binary((1, 7, 5))
    expected = content_of(explore(vae, x, tmp_path / "eval.html"))["block"]
    vae.train()
    state = torch.get_rng_state()
    assert content_of(explore(vae, x, tmp_path / "train.html"))["block"] == expected
    assert vae.training
    assert torch.equal(torch.get_rng_state(), state)


def test_the_mean_of_the_continuous_bernoulli_is_smooth_where_its_series_ends(tmp_path: Path) -> None:
    page = explore(vae_of(likelihood=ContinuousBernoulliLikelihood), binary((1, 7, 5)), tmp_path / "page.html")
    logits = torch.tensor([-40.0, -0.6, -0.5, -0.499, -1e-9, 0.0, 1e-4, 0.499, 0.5, 0.501, 30.0])
    p = ContinuousBernoulli(logits)
    expression = (
        "f.map((v) => [LIKELIHOODS.continuous_bernoulli.mean(v), LIKELIHOODS.continuous_bernoulli.log(v, 0.3)])"
    )
    found = torch.tensor(run_engine(page, expression, f=logits.tolist()))
    assert (found[:, 0] - p.mean).abs().max() < 1e-8
    assert (found[:, 1] - p.log_prob(torch.tensor(0.3))).abs().max() < 1e-8


@pytest.mark.parametrize("net", [small, partial(GatedMLP, hidden=(9,)), "convolutional"], ids=["MLP", "gated", "conv"])
def test_m2_equals_torch_in_every_class(net: Any, tmp_path: Path) -> None:
    encoder, decoder = NETWORKS["convolutional"] if net == "convolutional" else (net, net)
    pieces = partial(BernoulliLikelihood, net=decoder), partial(DiagonalNormalGuide, net=encoder)
    classifier = partial(CategoricalGuide, net=small)
    vae = rounded(build_semi_supervised((1, 7, 5), L, 4, StandardNormalPrior, *pieces, classifier=classifier))
    x, z, noise = binary((1, 7, 5)), torch.randn(20, L), torch.randn(L)
    page = explore(vae, ImageSet(x, torch.arange(5) % 4), tmp_path / "page.html")
    expression = """({
      classes: x.map((datum) => model.classify(datum)),
      means: z.map((code, i) => [...model.decode(code, i % 4)]),
      bounds: x.map((datum) => {
        const estimator = model.estimator(datum, null);
        estimator.step(Float64Array.from(noise));
        return estimator.result().bound;
      }),
    })"""
    found = run_engine(page, expression, x=x.flatten(1).tolist(), z=z.tolist(), noise=noise.tolist())
    label = torch.eye(4)
    with torch.no_grad():
        means = vae.likelihood(z, label[torch.arange(20) % 4]).mean.flatten(1)
        log_joints = []
        for y in label:
            q = vae.guide.guide.posterior(x, y.expand(5, 4))
            code = q.mean + q.base_dist.scale * noise
            log_p = vae.prior().log_prob(code) + vae.likelihood(code, y.expand(5, 4)).log_prob(x) - math.log(4)
            log_joints.append(log_p - q.log_prob(code))
        bounds = torch.stack(log_joints).logsumexp(0)
        assert (torch.tensor(found["classes"]) - vae.classify(x)).abs().max() < 1e-6
    assert (torch.tensor(found["means"]) - means).abs().max() < 1e-6
    assert (torch.tensor(found["bounds"]) - bounds).abs().max() < 1e-4
    assert content_of(page)["vectors"] == []  # the class is no direction of z


BRIGHTNESS = torch.tensor([1.0, 2.0, -0.5])


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[VAE, ImageSet, Path]:
    """A VAE, labelled images, and the page."""
    torch.manual_seed(1)
    vae, labels = vae_of().double(), torch.arange(40) % 4
    images = ImageSet((torch.rand(40, 1, 7, 5) < labels.view(-1, 1, 1, 1) / 4 + 0.1).double(), labels)
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    vector = {"<brightness>": BRIGHTNESS}
    return vae, images, explore(vae, images, path, attributes=vector, title="Digits & <more>")


def test_the_controls_of_the_page_change_the_code(digits: tuple[VAE, ImageSet, Path]) -> None:
    vae, images, page = digits
    steps = """
      const out = {}, snap = async (name) => {
        await settled();
        out[name] = { z: [...state.z], x: state.x && [...state.x] };
      };
      await snap("first");
      out.bound = $("bound").textContent; out.status = $("status").textContent; out.note = $("bound-note").textContent;
      out.painted = $("decoded-image").painted.at(-1)[1];
      out.bars = $("classes").children.map((child) => child.textContent);
      $("number").enter(7, "change"); await snap("seventh");
      const sliders = $("latents").children.map((row) => row.children[1]);
      sliders[1].enter(1.25); await snap("slider");
      $("reset").click(); await snap("reset");
      const directions = $("directions").children.map((row) => row.children[1]);
      directions[0].enter(0.5); directions[1].enter(-1); await snap("directions");
      sliders[1].enter(1.25); await snap("mixed");
      directions[0].enter(0); directions[1].enter(0); await snap("back");
      $("fraction").enter(0.25); await snap("path");
      $("path-kind").enter("lerp", "change"); $("fraction").enter(0.25); await snap("straight");
      $("map").fire("pointermove", { clientX: 70, clientY: 210 }); await snap("map");
      out.inverse = [0, 1].map((axis) => fromScreen(toScreen(0.7, axis, 280), axis, 280));
      out.limits = limits; out.axes = selects.map((select) => [...AXES[select.value].direction]);
      const place = selects.map((_, k) => toScreen(points[k][11], k, 280));
      $("map").fire("pointerdown", { clientX: place[0], clientY: place[1] }); await snap("picked");
      $("map").fire("keydown", { key: "ArrowRight" }); await snap("arrow");
      $("temperature").value = "0"; $("sample").click(); await snap("cold");
      $("clear").click(); $("draw").fire("pointerdown", { clientX: 140, clientY: 20 });
      $("draw").fire("pointermove", { clientX: 140, clientY: 260 });
      $("draw").fire("pointermove", { clientX: 20, clientY: 260 }); $("draw").fire("pointerup"); await snap("drawn");
      $("draw").fire("keydown", { key: "ArrowLeft" }); $("draw").fire("keydown", { key: " " }); await snap("keys");
      out.order = codes.order; out.traversed = rows.map(({ canvas }) => canvas.painted.length % inner.length);
      rows[1].canvas.fire("click", { clientX: 279, clientY: 5 }); await snap("traversal");
      out.quantile = quantile(codes.order[1], inner.length);
      return out;"""
    out = run_page(page, steps)
    z = {name: torch.tensor(value["z"]) for name, value in out.items() if isinstance(value, dict)}
    x = images.batch(slice(None))
    with torch.no_grad():
        means, first = vae.encode(x).mean, vae.decode(vae.encode(x[:1]).mean).mean[0, 0]
    for name, index in (("first", 0), ("seventh", 7), ("reset", 7), ("picked", 11)):
        assert (z[name] - means[index]).abs().max() < 1e-6, name
    assert (torch.tensor(out["painted"]).reshape(7, 5, 4)[..., 0] - 255 * first).abs().max() <= 0.5 + 1e-6
    changed = means[7].clone()
    changed[out["order"][1]] = 1.25
    assert (z["slider"] - changed).abs().max() < 1e-6
    vectors = [BRIGHTNESS, attribute_vector(vae, images, images.labels == 0)]
    assert (z["directions"] - means[7] - 0.5 * vectors[0] + vectors[1]).abs().max() < 1e-5
    change = 0.5 * vectors[0] - vectors[1]
    mixed = means[7] + change
    mixed[out["order"][1]] = 1.25
    assert (z["mixed"] - mixed).abs().max() < 1e-5
    assert (z["back"] - mixed + change).abs().max() < 1e-5
    assert (torch.tensor(out["inverse"]) - 0.7).abs().max() < 1e-6
    fraction = torch.tensor([0.25])
    assert (z["path"] - slerp(means[:1], means[1:2], fraction)[0, 0]).abs().max() < 1e-6
    assert (z["straight"] - torch.lerp(means[0], means[1], 0.25)).abs().max() < 1e-6
    axes, limits = torch.tensor(out["axes"]), torch.tensor(out["limits"])
    target = limits[:, 0] + 0.25 * (limits[:, 1] - limits[:, 0])
    assert (axes @ (z["map"] - means.mean(0)) - target).abs().max() < 1e-5
    rest = torch.eye(L) - axes.mT @ axes  # the principal components are orthonormal
    assert (rest @ (z["map"] - z["straight"])).abs().max() < 1e-5
    step = axes @ (z["arrow"] - z["picked"])
    assert (step - torch.tensor([(limits[0, 1] - limits[0, 0]) / 50, 0])).abs().max() < 1e-5
    assert z["cold"].abs().max() == 0
    drawing = torch.tensor(out["drawn"]["x"], dtype=torch.float64).reshape(7, 5)
    assert drawing[:, 2].tolist() == [1] * 7
    assert drawing[6].tolist() == [1, 1, 1, 0, 0]
    assert drawing[:6, [0, 1, 3, 4]].sum() == 0
    assert torch.tensor(out["keys"]["x"]).reshape(7, 5)[3, 1] == 1
    with torch.no_grad():
        assert (z["drawn"] - vae.encode(drawing[None, None]).mean[0]).abs().max() < 1e-6
    assert out["traversed"] == [0] * L
    assert abs(z["traversal"][out["order"][1]] - out["quantile"]) < 1e-6
    assert out["status"].endswith(out["bound"])
    assert out["note"].startswith("64 importance samples; ELBO ")
    assert out["bars"][0].startswith("class ")


def test_the_shown_bound_is_a_bound(digits: tuple[VAE, ImageSet, Path]) -> None:
    vae, images, page = digits
    (text,) = [run_page(page, 'await settled(); return $("bound").textContent;')]
    bound = float(text.replace("\u2212", "-").split()[3])
    result = log_likelihood(vae.model, vae.guide, images.batch([0]), num_samples=20_000)
    assert bound < result.mean() + 4.5 * result.monte_carlo_error() + 3
    assert bound > result.elbo.mean() - 3


def test_quantiles_order_and_classifier_are_those_of_the_package(digits: tuple[VAE, ImageSet, Path]) -> None:
    vae, images, page = digits
    content = content_of(page)
    diagnostics = latent_diagnostics(vae, images)
    assert torch.tensor(content["codes"]["kl"]).argsort(descending=True).tolist() == content["codes"]["order"]
    assert (torch.tensor(content["codes"]["kl"]) - diagnostics.kl).abs().max() < 1e-3
    expression = """({quantiles: [...page.codes.quantiles], codes: [...page.images.codes],
      pixels: [...page.images.pixels], w: [...page.classifier.w], b: [...page.classifier.b]})"""
    found = {name: torch.tensor(value) for name, value in run_engine(page, expression).items()}
    expected = traverse(vae, images.batch([0]), images, dims=[0, 1, 2]).values
    assert (found["quantiles"].reshape(L, -1)[:, 1:-1] - expected).abs().max() < 1e-5
    assert torch.equal(found["pixels"].reshape(40, 1, 7, 5).double(), images.images)
    logits = found["codes"].reshape(40, L) @ found["w"].reshape(4, L).mT + found["b"]
    with torch.no_grad():
        codes = vae.encode(images.images).mean
    scores = LogisticRegression(max_iter=1000).fit(
        ((codes - codes.mean(0)) / codes.std(0, correction=0)), images.labels
    )
    exact = torch.as_tensor(scores.predict_proba((codes - codes.mean(0)) / codes.std(0, correction=0)))
    assert (logits.softmax(1) - exact).abs().max() < 1e-4


def test_the_page_forbids_every_request(digits: tuple[VAE, ImageSet, Path]) -> None:
    html = digits[2].read_text()
    policy = html.split('Content-Security-Policy" content="')[1].split('"')[0]
    assert policy.startswith("default-src 'none'; ")
    for kind, tag in (("script", "<script>"), ("style", "<style>")):
        text = html.split(tag)[1].split(f"</{kind}>")[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in policy
    assert "://" not in html
    assert "Digits &amp; &lt;more&gt;" in html
    assert "<brightness>" not in html  # within the data, where it could end the script


def test_the_page_makes_no_request_and_shows_the_bound(
    digits: tuple[VAE, ImageSet, Path], tmp_path: Path, record_property: Any
) -> None:
    """In Chromium if it is installed, otherwise in Node with a stand-in for the browser."""
    page, texts = digits[2], '[$("bound").textContent, $("classes").children[0].textContent]'
    stand_in = run_page(page, f"await settled(); return {texts};")
    record_property("browser", chromium.PATH or "node")
    if chromium.PATH is None:
        assert stand_in[0].startswith("log p(x) ")
        return
    with chromium.Chromium(tmp_path, width=1200) as browser:
        browser.open(page)
        wait = (
            'new Promise((go) => { const look = () => $("status").textContent ? go() : setTimeout(look, 20); look(); })'
        )
        browser.run(wait)
        assert browser.run(texts) == stand_in
        fetched = browser.run("fetch('https://example.org').then(() => 'loaded', () => 'forbidden')")
        assert fetched == "forbidden"
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []
    assert [error for error in browser.errors if "example.org" not in error] == []


def test_classes_of_m2_are_chosen_and_mixed(tmp_path: Path) -> None:
    pieces = partial(BernoulliLikelihood, net=small), partial(DiagonalNormalGuide, net=small)
    classifier = partial(CategoricalGuide, net=small)
    vae = rounded(build_semi_supervised((1, 7, 5), L, 3, StandardNormalPrior, *pieces, classifier=classifier))
    x = binary((1, 7, 5))
    steps = """
      const painted = async () => { await settled(); return $("decoded-image").painted.at(-1)[1]; };
      const out = { first: await painted(), z: [...state.z] };
      $("class-buttons").children[2].click(); out.second = await painted(); $("set-a").click();
      out.pressed = $("class-buttons").children.map((button) => button.getAttribute("aria-pressed"));
      $("class-buttons").children[0].click(); $("set-b").click();
      $("fraction").enter(0.25); out.mixed = await painted();
      $("temperature").value = "0"; $("sample").click(); await settled(); out.sampled = [state.y, ...state.z];
      return out;"""
    out = run_page(explore(vae, x, tmp_path / "page.html"), steps)
    assert out["pressed"] == ["false", "false", "true"]
    assert out["sampled"][0] in (0, 1, 2)
    assert out["sampled"][1:] == [0.0] * L
    label = torch.eye(3)
    with torch.no_grad():
        best = label[vae.classify(x[:1]).argmax(-1)]
        z = vae.guide.guide.posterior(x[:1], best).mean
        assert (torch.tensor(out["z"]) - z[0]).abs().max() < 1e-6
        labels = {"first": best, "second": label[[2]], "mixed": 0.75 * label[[2]] + 0.25 * label[[0]]}
        for name, y in labels.items():
            expected = 255 * vae.likelihood(z, y).mean[0, 0]
            found = torch.tensor(out[name]).reshape(7, 5, 4)[..., 0]
            assert (found - expected).abs().max() <= 0.5 + 1e-6, name


def test_a_page_of_mnist_is_small_and_quick(tmp_path: Path) -> None:
    x = (torch.rand(500, 1, 28, 28) < 0.1).float()
    page = explore(zoo.load("mnist-vae-50").float(), x, tmp_path / "page.html")
    assert page.stat().st_size < 2e6
    clock = """(() => {
      const start = performance.now(), z = generator(0).normals(50);
      for (let k = 0; k < 30; k++) model.decode(z);
      return performance.now() - start;
    })()"""
    assert run_engine(page, clock) < 1000  # milliseconds for 30 images


class Other(MLP):
    """A network of the user's."""


def semi_amortized(shape: Any, latent_dim: int, net: Any) -> SemiAmortizedGuide:
    return SemiAmortizedGuide(shape, latent_dim, guide=partial(DiagonalNormalGuide, net=net))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "network": ({"encoder": Other}, "the networks must run in the browser, got Other. Use MLP, GatedMLP, ConvEncoder"),
    "guide": ({"guide": semi_amortized}, "FullRankNormalGuide, got SemiAmortizedGuide. Run pyro-vae refit RUN --guide"),
    "prior": ({"prior": FlowPrior}, "the prior must be of normals, got FlowPrior. Use StandardNormalPrior"),
    "components": (
        {"prior": partial(vamp, encoder=FullRankNormalGuide)},
        "the prior must be of normals, got VampPrior of FullRankNormalGuide",
    ),
    "likelihood": ({"likelihood": PoissonLikelihood}, "got PoissonLikelihood. Use one of BernoulliLikelihood"),
    "vectors": (
        {"shape": (35,)},
        r"data must be images \(C, H, W\) with C 1 or 3, or \(H, W\), got data_shape=\(35,\)",
    ),
    "two channels": ({"shape": (2, 7, 5)}, r"got data_shape=\(2, 7, 5\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_browser_cannot_evaluate_is_refused_by_name(name: str, tmp_path: Path) -> None:
    pieces, message = REFUSED[name]
    shape = pieces.get("shape", (1, 7, 5))
    with pytest.raises(ValueError, match=f"^explore: .*{message}"):
        explore(vae_of(**pieces), binary(shape), tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_refused(digits: tuple[VAE, ImageSet, Path], tmp_path: Path) -> None:
    vae, images, page = digits
    with pytest.raises(FileExistsError, match="must not exist yet"):
        explore(vae, images, page)
    out = tmp_path / "page.html"
    for arguments, options, message in (
        ((vae, images, tmp_path / "page.txt"), {}, "out must end in .html, got out="),
        ((vae, binary((1, 5, 7)), out), {}, r"an image must have shape \(1, 7, 5\), got \(1, 5, 7\)"),
        ((vae.model, images, out), {}, "vae must be a VAE or M2, got GenerativeModel"),
        ((vae, images, out), {"num_images": 0}, "num_images must be at least 1, got num_images=0"),
        (
            (vae, images, out),
            {"attributes": {"a": torch.zeros(2)}},
            r"attribute 'a' must have shape \(3,\), got \(2,\)",
        ),
    ):
        with pytest.raises(ValueError, match=f"^explore: {message}"):
            explore(*arguments, **options)
    assert list(tmp_path.iterdir()) == []


def test_one_image_of_one_dimension_is_explored(tmp_path: Path) -> None:
    pieces = BernoulliLikelihood(1, (7, 5), net=small), DiagonalNormalGuide((7, 5), 1, net=small)
    vae = rounded(VAE(StandardNormalPrior(1), *pieces))
    page = explore(vae, ImageSet(torch.ones(1, 7, 5), torch.tensor([-1])), tmp_path / "page.html")
    point = '$("map").fire("pointerdown", { clientX: 9, clientY: 9 }); await settled();'
    bound, z, place = run_page(page, f'{point} return [$("bound").textContent, state.z[0], fromScreen(9, 0, 280)];')
    assert bound.startswith("log p(x) ")
    assert abs(z - vae.encode(torch.ones(7, 5)).mean.item() - place) < 1e-6
