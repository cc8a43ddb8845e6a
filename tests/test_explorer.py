"""The explorer: its JavaScript equals torch, its page makes no request, and its controls work."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_vae import VAE
from pyro_vae.data import ImageSet
from pyro_vae.explorer import explore
from pyro_vae.guides import CategoricalGuide, DiagonalNormalGuide, FullRankNormalGuide
from pyro_vae.likelihoods import (
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    LaplaceLikelihood,
    NormalLikelihood,
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
from pyro_vae.priors import MixtureOfNormalsPrior, StandardNormalPrior, VampPrior
from tests.javascript import content_of, run_engine

L = 3
small = partial(MLP, hidden=(9,))
NETWORKS = {
    **{f"MLP {name}": (partial(small, activation=name),) * 2 for name in ("tanh", "relu", "softplus", "gelu")},
    **{f"MLP {name}": (partial(small, activation=name),) * 2 for name in ("silu", "elu", "leaky_relu")},
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
