"""Rate-distortion autoencoders: the noisy model is a proper VAE, and files are as long as the prior says."""

from __future__ import annotations

import io
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pyro.distributions import Normal, Uniform
from torch import nn

from pyro_vae import VAE
from pyro_vae.cli.main import main
from pyro_vae.cli.train_options import parse_args
from pyro_vae.compression import compress, compress_lossy, decompress, decompress_lossy, rate_distortion
from pyro_vae.compression.image_formats import Point, bits_at, image_formats
from pyro_vae.compression.lossy import decode_lossy
from pyro_vae.compression.rounded_codes import TABLES, FrequencyTables
from pyro_vae.compression.symbols import PRECISION
from pyro_vae.distributions import UnitBox
from pyro_vae.evaluation import LossyCode, Result, log_weights
from pyro_vae.experiments.experiment import instantiate, to_yaml, train
from pyro_vae.guides import DeltaGuide, DiagonalNormalGuide, QuantizedGuide
from pyro_vae.likelihoods import NormalLikelihood
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO, RateDistortion
from pyro_vae.plotting import rate_distortion_curve
from pyro_vae.priors import FactorizedPrior, HyperPrior, Prior, StandardNormalPrior
from pyro_vae.training import RunFolder

small, linear = partial(MLP, hidden=(6,)), partial(MLP, hidden=())


def bent(latent_dim: int = 2, **options) -> FactorizedPrior:
    """A prior with gates away from 0, so that its distribution functions are not logistic."""
    prior = FactorizedPrior(latent_dim, **options)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.7 * torch.randn_like(parameter))
    return prior


def coder(latent_dim: int = 16, dim: int = 20, gain: float = 8.0, *, prior: Prior | None = None) -> VAE:
    """A model whose codes spread over tens of integers."""
    likelihood = NormalLikelihood(latent_dim, (dim,), net=linear, scale=0.1)
    prior = prior or bent(latent_dim, init_scale=4.0)
    vae = VAE(prior, likelihood, QuantizedGuide((dim,), latent_dim, net=linear))
    with torch.no_grad():
        vae.guide.net.layers[0].weight.mul_(gain)
    return vae


# ---------------------------------------------------------------- densities


def test_the_box_is_a_uniform_distribution_whose_samples_are_all_inside() -> None:
    loc = torch.tensor([[-3.2, 0.0, 41.7]])
    q, u = UnitBox(loc), Uniform(loc - 0.5, loc + 0.5)
    torch.testing.assert_close(q.variance, u.variance)
    z = loc + torch.linspace(-0.9, 0.9, 11)[:, None]
    expected = Uniform(loc - 0.5, loc + 0.5, validate_args=False).log_prob(z)
    torch.testing.assert_close(q.log_prob(z), expected, rtol=0, atol=1e-12)
    loc = torch.linspace(-130, 130, 1000, dtype=torch.float32)
    assert not UnitBox(loc).log_prob(UnitBox(loc).sample((1000,))).any()
    other = loc.nextafter(loc - 1)  # the last bit of a network's output depends on the size of the batch
    assert not UnitBox(other).log_prob(loc + 0.5).any()
    assert UnitBox(loc).expand((2, 1000)).sample().shape == (2, 1000)


def test_masses_and_density_of_the_factorized_prior_add_up_to_one() -> None:
    prior = bent()
    with torch.no_grad():
        k = torch.arange(-400.0, 401.0)[:, None].expand(-1, 2)
        p = prior().base_dist
        torch.testing.assert_close(p.log_prob(k).exp().sum(0), torch.ones(2), rtol=0, atol=1e-9)
        z = torch.linspace(-400, 400, 80_001)[:, None].expand(-1, 2)
        torch.testing.assert_close(p.log_prob(z).exp().sum(0) / 100, torch.ones(2), rtol=0, atol=1e-9)


def test_the_prior_is_logistic_at_the_start_and_keeps_its_digits_in_the_tails() -> None:
    prior = FactorizedPrior(1, filters=(), init_scale=2.0)
    nn.init.constant_(prior.biases[0], 0.3)
    z = torch.tensor([[-1500.0], [-40.0], [-0.2], [3.0], [1500.0]])
    high, low = ((z + s) / 2 + 0.3 for s in (0.5, -0.5))
    near = (high.sigmoid() - low.sigmoid()).log().squeeze(-1)
    log_prob = prior().log_prob(z)
    torch.testing.assert_close(log_prob[2:4], near[2:4], rtol=1e-12, atol=1e-12)
    # In the tails c is exponential: log p = -|z| / 2 + log(2 sinh(1/4)) -+ 0.3.
    tail = -z.abs().squeeze(-1) / 2 + math.log(2 * math.sinh(0.25)) - 0.3 * z.squeeze(-1).sign()
    torch.testing.assert_close(log_prob[[0, 1, 4]], tail[[0, 1, 4]], rtol=1e-7, atol=0)
    assert prior().log_prob(z.float()).isfinite().all()


def test_distribution_functions_increase() -> None:
    logits = bent(5).logits(torch.linspace(-50, 50, 2001)[:, None].expand(-1, 5))
    assert (logits.diff(dim=0) > 0).all()


def test_samples_have_the_density() -> None:
    prior, n = bent(3), 5000
    with torch.no_grad():
        z = prior().sample((n,))
        for edge in (-1.3, 0.2, 2.1):
            grid = torch.linspace(-100, edge, 5001)[:, None].expand(-1, 3)
            below = torch.trapezoid(prior().base_dist.log_prob(grid).exp(), grid, dim=0)
            error = (below * (1 - below) / n).sqrt()
            assert (((z < edge).double().mean(0) - below) / error).abs().max() < 4.5


def test_options_of_the_prior_are_checked() -> None:
    with pytest.raises(ValueError, match=r"^FactorizedPrior: filters must be a tuple of positive integers, got"):
        FactorizedPrior(2, filters=(3, 0))
    with pytest.raises(ValueError, match=r"^FactorizedPrior: init_scale must be positive"):
        FactorizedPrior(2, init_scale=0.0)
    with pytest.raises(ValueError, match=r"^RateDistortion: weight must be positive"):
        RateDistortion(weight=0.0)


# ---------------------------------------------------------------- the objective


def scalar_model(a: float, b: float, scale: float) -> VAE:
    """y = a x, the decoder b z, and a logistic prior of scale 2."""
    prior = FactorizedPrior(1, filters=(), init_scale=2.0)
    vae = VAE(prior, NormalLikelihood(1, (1,), net=linear, scale=scale), QuantizedGuide((1,), 1, net=linear))
    with torch.no_grad():
        prior.biases[0].zero_()
        for net, value in ((vae.guide.net, a), (vae.likelihood.net, b)):
            net.layers[0].weight.fill_(value)
            net.layers[0].bias.zero_()
    return vae


def test_the_gradient_of_the_noisy_model_is_that_by_hand() -> None:
    a, b, weight, x = 3.0, 0.3, 5.0, 0.7
    vae = scalar_model(a, b, (2 * weight) ** -0.5)
    torch.manual_seed(4)
    RateDistortion(weight=weight)(vae.model, vae.guide)(torch.tensor([[x]])).backward()
    torch.manual_seed(4)
    z = float(vae.guide(torch.tensor([[x]])).detach())
    high, low = (1 / (1 + math.exp(-(z + s) / 2)) for s in (0.5, -0.5))
    density = (high * (1 - high) - low * (1 - low)) / 2  # derivative of p~(z)
    by_z = -density / (high - low) - 2 * weight * b * (x - b * z)
    gradients = {"a": vae.guide.net.layers[0].weight.grad, "b": vae.likelihood.net.layers[0].weight.grad}
    expected = {"a": by_z * x, "b": -2 * weight * z * (x - b * z)}
    for name, value in expected.items():
        assert abs(float(gradients[name]) / value - 1) < 1e-9, name


def test_the_loss_is_minus_the_elbo_of_a_normal_likelihood() -> None:
    x, weight = torch.rand(7, 20), 12.0
    vae = coder(gain=1.0)
    vae.likelihood.fixed_scale = (2 * weight) ** -0.5
    constant = 10 * math.log(math.pi / weight)  # half of 20 log(2 pi sigma^2)
    losses = []
    for objective in (RateDistortion(weight=weight), ELBO()):
        torch.manual_seed(0)
        losses.append(float(objective(vae.model, vae.guide)(x).detach()))
    assert abs(losses[1] - losses[0] - 7 * constant) < 1e-9
    with pytest.raises(
        ValueError, match=r"the guide must have all of the model's support, got site 'z' on Interval in"
    ):
        log_weights(vae.model, vae.guide, x, num_samples=3)  # would not converge to log p(x)


def test_the_expected_error_is_that_of_the_noise() -> None:
    a, b, x, n = 3.0, 0.3, 0.7, 20_000
    objective = RateDistortion(weight=1.0, num_particles=n)
    vae = scalar_model(a, b, 1.0)
    objective.loss(vae.model, vae.guide, torch.tensor([[x]]))
    u = torch.rand(n) - 0.5
    spread = float((x - b * (a * x + u)).square().std()) / math.sqrt(n)
    expected = (x - b * a * x) ** 2 + b**2 / 12
    assert abs(-float(objective.terms.reconstruction) - expected) / spread < 4.5


def test_missing_entries_have_no_error_and_several_particles_agree() -> None:
    vae, x = coder(), torch.rand(5, 20)
    x[:, 3] = torch.nan
    net = vae.guide.net
    vae = VAE(vae.prior, vae.likelihood, vae.guide, missing=True)
    vae.guide.net = nn.Sequential(ZeroNaN(), net)
    objective = RateDistortion(weight=2.0, num_particles=4)
    torch.manual_seed(1)
    objective.loss(vae.model, vae.guide, x)
    assert objective.terms.reconstruction.isfinite()
    assert objective.numbers() == {"weight": 2.0}


class ZeroNaN(nn.Module):
    """Replaces missing entries by 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.nan_to_num()


def test_a_likelihood_without_a_mean_is_refused() -> None:
    class Plain(Normal):
        @property
        def mean(self):
            raise NotImplementedError

    vae = coder()
    vae.likelihood.family = lambda loc, scale: Plain(loc, scale)
    with pytest.raises(ValueError, match=r"^RateDistortion: p\(x \| z\) must have a mean, got"):
        RateDistortion()(vae.model, vae.guide)(torch.rand(3, 20))


# ---------------------------------------------------------------- files


def test_the_frequencies_are_those_of_the_prior() -> None:
    prior, bound = bent(4, init_scale=3.0), 40
    tables = FrequencyTables(prior, bound, 2 * bound - 1)
    k = torch.arange(-bound + 1, bound)[:, None].expand(-1, 4).double()
    symbols = (k + bound).long().numpy()
    _, frequency = tables.interval(symbols)
    assert (tables.sums[..., 0] == 0).all()
    assert (tables.sums[..., -1] == 2**PRECISION).all()
    assert (np.diff(tables.sums) >= 1).all()
    p = prior().base_dist.log_prob(k).exp().detach().numpy()
    spare = 2**PRECISION - tables.size
    assert np.abs(frequency - 1 - p * spare).max() <= 1.0  # two roundings of half a unit


def test_the_gain_multiplies_the_code() -> None:
    guide, x = QuantizedGuide((20,), 3, net=small, gain=10.0), torch.randn(7, 20)
    with torch.no_grad():
        y = 10 * guide.net(x)
        torch.testing.assert_close(guide.posterior(x).mean, y, rtol=1e-12, atol=0)
        assert torch.equal(guide.code(x), y.round())
    with pytest.raises(ValueError, match=r"^QuantizedGuide: gain must be"):
        QuantizedGuide((20,), 3, gain=0.0)


@pytest.fixture(scope="module", params=[FactorizedPrior, HyperPrior])
def coded(request):
    """A model with codes that its prior suits, data, and their encoding in four chunks."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    if request.param is HyperPrior:  # longer codes of fewer data, as its network is evaluated for each
        prior = HyperPrior(80, hyper_dim=5, net=small)
        vae, x, steps = coder(80, prior=prior), torch.rand(1400, 20), 150
    else:
        vae, x, steps = coder(), torch.rand(5000, 20), 60
    with torch.no_grad():
        code = vae.guide.code(x)
    optimizer = torch.optim.Adam(vae.prior.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        (-vae.prior().log_prob(code[:500]).mean()).backward()
        optimizer.step()
    return vae, x, rate_distortion(vae, x, chunk_size=len(x) // 4)


def test_a_file_is_as_long_as_its_estimate_and_decoded_exactly(coded) -> None:
    vae, x, result = coded
    content = compress_lossy(vae, x, chunk_size=len(x) // 4)
    assert len(content) == result.protocol["file_bytes"]
    bits = result.bits_per_dim()
    assert 0 < bits["file"] / bits["estimate"] - 1 < 0.01
    assert abs(float(result.coded_bits.mean()) / result.mean("rate") - 1) < 1e-4
    code = vae.guide.code(x)
    assert code.abs().max() > 5
    assert torch.equal(decode_lossy(vae, content), code.double())
    with torch.no_grad():
        images = vae.decode(code).mean
    few = decompress_lossy(vae, compress_lossy(vae, x[:40]))
    torch.testing.assert_close(few, images[:40], rtol=1e-12, atol=1e-12)
    error = (images - x).square().mean(1)
    torch.testing.assert_close(result.squared_error, error, rtol=1e-9, atol=0)
    assert abs(result.psnr() + 10 * math.log10(float(error.mean()))) < 1e-9


def test_damaged_files_and_those_of_others_are_refused(coded) -> None:
    vae, x, _ = coded
    content = compress_lossy(vae, x[:40], chunk_size=15)
    broken = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
    with pytest.raises(ValueError, match=r"^decompress: all chunks must be whole, got a damaged chunk 2 "):
        decompress_lossy(vae, broken)
    assert torch.equal(decode_lossy(vae, broken, damaged="omit"), vae.guide.code(x[:30]))
    with pytest.raises(ValueError, match=r"^decompress: the file must be whole"):
        decompress_lossy(vae, content[:-1])
    with pytest.raises(ValueError, match=r"^decompress_lossy: the model must be"):
        decompress_lossy(coder(), content)
    with pytest.raises(ValueError, match=r"^decompress: the coding scheme must be known, got rounded codes 1"):
        decompress(vae, content)
    assert decompress_lossy(vae, compress_lossy(vae, x[:0])).shape == (0, 20)


def test_frequencies_of_another_machine_are_refused(coded, monkeypatch) -> None:
    vae, x, _ = coded
    content = compress_lossy(vae, x[:40])
    monkeypatch.setattr(TABLES[type(vae.prior)], "digest", lambda self: "0" * 16)
    with pytest.raises(ValueError, match=r"^decompress_lossy: frequencies must be those of the file, got others"):
        decompress_lossy(vae, content)


def test_what_cannot_be_coded_is_refused(coded) -> None:
    vae, x, _ = coded
    with pytest.raises(ValueError, match=r"^compress_lossy: data must be \(N, 20\), got shape=\(3, 19\)"):
        compress_lossy(vae, x[:3, :19])
    with pytest.raises(ValueError, match=r"^compress_lossy: codes must be finite and at most 2048, got a largest"):
        compress_lossy(vae, 1e6 * x[:3])
    with pytest.raises(ValueError, match=r"^compress_lossy: codes must be finite"):
        compress_lossy(vae, torch.nan * x[:3])
    other = VAE(StandardNormalPrior(vae.latent_dim), vae.likelihood, vae.guide)
    with pytest.raises(ValueError, match=r"^compress_lossy: vae must have a FactorizedPrior or a HyperPrior, and a Q"):
        compress_lossy(other, x)
    with pytest.raises(ValueError, match=r"^compress: "):
        compress(vae, x[:3])
    point = VAE(StandardNormalPrior(2), NormalLikelihood(2, (20,)), DeltaGuide((20,), 2))
    with pytest.raises(ValueError, match=r"^rate_distortion: the guide must have a density, got DeltaGuide"):
        rate_distortion(point, x[:3])


def test_a_vae_has_a_rate_without_a_file(tmp_path) -> None:
    vae = VAE(StandardNormalPrior(2), NormalLikelihood(2, (20,), net=small), DiagonalNormalGuide((20,), 2, net=small))
    result = rate_distortion(vae, torch.rand(9, 20))
    assert result.protocol["file_bytes"] == 0
    assert set(result.bits_per_dim()) == {"estimate"}
    assert result.coded_bits.isnan().all()
    result.save(tmp_path / "result.json")
    assert isinstance(Result.load(tmp_path / "result.json"), LossyCode)
    with pytest.raises(ValueError, match=r"^rate_distortion: data must be complete, got missing entries\. Fill them"):
        rate_distortion(vae, torch.full((2, 20), torch.nan))
    with pytest.raises(ValueError, match=r"^rate_distortion_curve: results must be of the same data, got \[4, 9\]"):
        rate_distortion_curve([result, rate_distortion(vae, torch.rand(4, 20))])


# ---------------------------------------------------------------- image formats


@pytest.mark.parametrize("channels", [1, 3])
def test_the_error_of_a_format_is_that_of_its_decoded_images(channels) -> None:
    images = torch.rand(5, channels, 4, 4).repeat_interleave(5, -1).repeat_interleave(5, -2)[..., :18, :20]
    formats = image_formats(images, (20, 90))
    for points in formats.values():
        assert points[0].bits < points[1].bits
        assert points[0].squared_error > points[1].squared_error
    one = image_formats(images[:1], (90,), block=16)["JPEG"][0]
    levels = np.pad((images[0] * 255).round().byte().permute(1, 2, 0).numpy(), ((0, 14), (0, 12), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    picture = Image.fromarray(levels if channels == 3 else levels[..., 0])
    picture.save(buffer, format="JPEG", quality=90, optimize=True, progressive=True)
    decoded = np.asarray(Image.open(buffer)).reshape(32, 32, channels)[:18, :20] / 255
    assert abs(one.squared_error - np.square(decoded - images[0].permute(1, 2, 0).numpy()).mean()) < 1e-12
    assert one.bits == 8 * len(buffer.getvalue()) / images[0].numel()


def test_bits_at_an_error_are_interpolated_in_logarithms() -> None:
    points = [Point(10, 0.5, 0.01), Point(20, 2.0, 0.0001)]
    assert abs(bits_at(points, 0.001) - 1.0) < 1e-12
    assert math.isnan(bits_at(points, 0.02))
    with pytest.raises(ValueError, match=r"^image_formats: images must be \(N, C, H, W\) with C 1 or 3, got"):
        image_formats(torch.rand(3, 2, 8, 8))


# ---------------------------------------------------------------- command line


def test_runs_are_compared_with_the_formats(tmp_path, capsys) -> None:
    common = "--epochs 1 --latent_dim 4 --likelihood NormalLikelihood --likelihood.scale 0.1 --data.binarize none"
    common += " --engine eager --device cpu"
    coded = "--prior FactorizedPrior --guide QuantizedGuide --objective RateDistortion --objective.weight 20"
    runs = [str(tmp_path / name) for name in ("coded", "vae")]
    for run, options in zip(runs, (coded, ""), strict=True):
        parsed = parse_args([*common.split(), *options.split()])
        train(**instantiate(parsed), run=RunFolder.create(run, config=to_yaml(parsed)))
    out = tmp_path / "table.json"
    capsys.readouterr()
    assert main(["rate-distortion", *runs, "--out", str(out)]) == 0
    assert "bits, JPEG" in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert set(content["formats"]) == {"JPEG", "WebP"}
    assert set(content["runs"]["coded"]["bits_per_dim"]) == {"file", "estimate"}
    assert set(content["runs"]["vae"]["bits_per_dim"]) == {"estimate"}
    assert out.with_suffix(".png").exists()
    assert main(["rate-distortion", runs[0], "--split", "validation"]) == 0
    assert main(["evaluate", runs[0], "--method", "rate_distortion"]) == 0
    assert main(["report", runs[0]]) == 0
    assert "squared error" in (Path(runs[0]) / "report.html").read_text()
    capsys.readouterr()
    assert main(["evaluate", runs[0], "--num_samples", "2"]) == 2
    assert "the guide must have all of the model's support" in capsys.readouterr().err
