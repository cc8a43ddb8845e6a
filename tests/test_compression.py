"""Compression is lossless, as short as the ELBO claims, and the same on every machine; damage is noticed."""

from __future__ import annotations

import io
import json
import lzma
import math
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pyro import poutine
from pyro.distributions import Laplace, ZeroInflatedDistribution

from benchmarks.numpy_decoder import last_data
from pyro_vae import VAE, AutoregressiveModel, HierarchicalVAE, SemiSupervisedVAE, fit
from pyro_vae import guides as G
from pyro_vae import likelihoods as L
from pyro_vae import networks as N
from pyro_vae import priors as P
from pyro_vae.cli import compress as cli_compress
from pyro_vae.cli.main import main
from pyro_vae.compression import codelength, compress, decompress
from pyro_vae.compression.ans import Stacks
from pyro_vae.compression.bits_back import BitsBack
from pyro_vae.compression.container import Container
from pyro_vae.compression.encoder import GRID, LANES
from pyro_vae.compression.exact import ExactFunction
from pyro_vae.compression.families import family_of
from pyro_vae.compression.family import Sizes
from pyro_vae.compression.symbols import (
    FRACTION,
    PRECISION,
    Binary,
    Categorical,
    LogisticLevels,
    NormalGrid,
    logarithm,
    shares,
)
from pyro_vae.distributions import LogMeanNegativeBinomial, LogMeanPoisson
from pyro_vae.models import BottomUpGuide
from pyro_vae.networks import ContextNetwork
from pyro_vae.networks.inputs import with_inputs
from pyro_vae.objectives import ELBO, EnumeratedELBO

SHAPE, DIM = (1, 3, 3), 2
SMALL_FILE, OLD_FILE = (Path(__file__).parent / "files" / name for name in ("small.pvz", "small-1.pvz"))
NARROW = partial(G.DiagonalNormalGuide, log_scale_bounds=(-3.0, 0.5))
PAIR = partial(ContextNetwork, context_dim=3)


@pytest.fixture(autouse=True)
def _single_precision(clean_state):
    torch.set_default_dtype(torch.float32)


def vae(likelihood=L.BernoulliLikelihood, prior=P.StandardNormalPrior, guide=G.DiagonalNormalGuide, shape=SHAPE):
    built = guide(shape, DIM)
    return VAE(prior(built) if prior is VAMP else prior(DIM), likelihood(DIM, shape), built)


def VAMP(guide):
    return P.VampPrior(guide, num_components=4)


MODELS = {
    "Bernoulli": vae,
    "gated": partial(vae, partial(L.BernoulliLikelihood, net=N.GatedMLP)),
    "mixture prior": partial(vae, prior=P.MixtureOfNormalsPrior),
    "VampPrior": partial(vae, prior=VAMP),
    "full rank": partial(vae, guide=G.FullRankNormalGuide),
    "Laplace prior": partial(vae, prior=P.LaplacePrior),
    "flow prior": partial(vae, prior=partial(P.FlowPrior, num_flows=1)),
    "inverse flow": partial(vae, guide=partial(G.IAFGuide, num_flows=1)),
    "mixture guide": partial(vae, guide=G.MixtureOfNormalsGuide),
    "categorical": partial(vae, partial(L.CategoricalLikelihood, levels=5)),
    "discretized logistic": partial(vae, partial(L.DiscretizedLogisticLikelihood, levels=256)),
    "mixture of logistics": partial(vae, partial(L.MixtureOfLogisticsLikelihood, num_components=2)),
    "colour": partial(vae, partial(L.MixtureOfLogisticsLikelihood, num_components=2), shape=(3, 2, 2)),
    "beta-binomial": partial(vae, partial(L.BetaBinomialLikelihood, levels=17)),
    "Poisson": partial(vae, L.PoissonLikelihood),
    "negative binomial": partial(vae, L.NegativeBinomialLikelihood),
    "zero-inflated": partial(vae, L.ZeroInflatedNegativeBinomialLikelihood),
    "codes": partial(vae, partial(L.CategoricalLikelihood, levels=5, codes=True), guide=NARROW),
    "discrete": lambda: VAE(
        P.CategoricalPrior(4, categories=2),
        L.BernoulliLikelihood(4, SHAPE),
        G.CategoricalGuide(SHAPE, 4, categories=2),
    ),
    "classes": lambda: SemiSupervisedVAE(
        P.StandardNormalPrior(DIM),
        L.BernoulliLikelihood(DIM, SHAPE, net=PAIR),
        G.DiagonalNormalGuide(SHAPE, DIM, net=PAIR),
        G.CategoricalGuide(SHAPE, 3),
    ),
    "layers": lambda: HierarchicalVAE(
        P.StandardNormalPrior(2),
        [NARROW((2,), DIM)],
        L.BernoulliLikelihood(DIM, SHAPE),
        BottomUpGuide([NARROW(SHAPE, DIM), NARROW((DIM,), 2)]),
    ),
}
ENUMERATED = ("discrete", "classes")


@pytest.fixture(scope="module")
def trained():
    """Each model after a short training on its own samples, with these samples."""
    models = {}

    def get(name):
        if name not in models:
            torch.manual_seed(1)
            model = MODELS[name]()
            x = model.sample(300)
            objective = EnumeratedELBO() if name in ENUMERATED else ELBO()
            adam = partial(torch.optim.Adam, lr=1e-2)
            options = {"epochs": 8, "batch_size": 50, "engine": "eager", "progress": False, "optimizer": adam}
            fit(model.model, model.guide, x, objective=objective, **options)
            models[name] = model.eval(), x
        return models[name]

    return get


@pytest.mark.parametrize("name", MODELS)
def test_data_are_restored_at_the_rate_of_the_elbo(name, trained) -> None:
    model, x = trained(name)
    content = compress(model, x, chunk_size=90)
    torch.testing.assert_close(decompress(model, content), x, rtol=0, atol=1e-6)
    lengths, latents = net_nats(model, x)
    log_weights = densities(model.model, {**latents, "x": x}, x) - densities(model.guide, latents, x)
    loss = lengths + log_weights
    assert float(loss.mean()) < 2e-3 * float(lengths.mean())  # less where a frequency is a density's least
    assert float(loss.abs().median()) < 2e-3 * float(lengths.mean())


def net_nats(model, x):
    """The information of the symbols of each datum, in nats, and the latents that were popped."""
    coder = BitsBack(model, Sizes(GRID, int(x.max()) + 1), rows=1)
    symbols = coder.data_family.symbols(x.double()).round().long().flatten(1).numpy()
    stacks = Accounts.filled(1, LANES, 4096)
    bits, rows = [0.0], []
    for row in symbols:
        rows.append(coder.push(stacks, row[None]))
        bits.append(stacks.information)
    sites = {name: np.concatenate([row[name] for row in rows]) for name in rows[0] if name != "x"}
    latents = {name: coder.families[name].numbers(value) / 2**FRACTION for name, value in sites.items()}
    return torch.tensor(np.diff(bits)) * math.log(2), {n: torch.tensor(v).to(x) for n, v in latents.items()}


class Accounts(Stacks):
    """Stacks that add up the information of the symbols; their own length differs by the rounding of a state."""

    information = 0.0

    def _push(self, start, frequency):
        self.information += float((PRECISION - np.log2(frequency.astype(np.float64))).sum())
        super()._push(start, frequency)

    def _pop(self, code, start, frequency):
        self.information -= float((PRECISION - np.log2(frequency.astype(np.float64))).sum())
        super()._pop(code, start, frequency)


def densities(program, values, x):
    """Log density of the program at values of its sites, per datum."""
    with torch.no_grad():
        trace = poutine.trace(poutine.condition(program, data=values)).get_trace(x)
        trace.compute_log_prob()
    return sum(trace.nodes[name]["log_prob"] for name in values).double()


def test_the_file_is_as_long_as_its_information(trained) -> None:
    model, x = trained("Bernoulli")
    coder, symbols = BitsBack(model, Sizes(GRID, 2), rows=1), x.flatten(1).long().numpy()
    stacks = Accounts.filled(1, LANES, 4096)
    start = float(stacks.content()[0])
    for row in symbols:
        coder.push(stacks, row[None])
    assert stacks.content()[0] - start == pytest.approx(stacks.information, rel=3e-3)


@pytest.mark.parametrize("name", ["Bernoulli", "mixture prior", "colour"])
def test_several_particles_code_at_the_importance_weighted_bound(name, trained) -> None:
    model, x = trained(name)
    content = compress(model, x[:70], chunk_size=30, num_particles=8)
    torch.testing.assert_close(decompress(model, content), x[:70], rtol=0, atol=1e-6)
    result = codelength(model, x, num_particles=8, num_samples=8)
    excess = result.net_bits * math.log(2) + result.log_likelihood  # both from 8 samples
    slack = 4.5 * float(excess.std()) / len(x) ** 0.5
    assert abs(float(excess.mean())) < slack + 2e-3 * float(result.net_bits.mean())


def test_a_wide_guide_costs_less_with_more_particles() -> None:
    """One latent and a guide that is the prior: many particles cost about -log p(x)."""
    torch.manual_seed(0)
    model = vae(partial(L.BernoulliLikelihood, net=partial(N.MLP, hidden=()))).eval()
    with torch.no_grad():
        for p in model.guide.parameters():
            p.zero_()
        for p in model.likelihood.net.parameters():
            p.mul_(8)
    x = model.sample(400)
    few, many = (codelength(model, x, num_particles=k, num_samples=500) for k in (1, 64))
    gain = few.net_bits - many.net_bits
    assert float(gain.mean()) > 4.5 * float(gain.std()) / len(x) ** 0.5
    excess = many.net_bits * math.log(2) + many.log_likelihood
    assert abs(float(excess.mean())) < 4.5 * float(excess.std()) / len(x) ** 0.5 + 0.05


def test_the_code_length_adds_up(trained) -> None:
    model, x = trained("discretized logistic")
    result = codelength(model, x, chunk_size=90, num_samples=30)
    bits = result.bits_per_dim()
    assert result.total_bits() == 8 * len(compress(model, x, chunk_size=90))
    assert bits["file"] == pytest.approx(bits["net"] + bits["initial bits"] + bits["header"], abs=1e-12)
    assert bits["net"] == pytest.approx(bits["-ELBO"], rel=0.02)
    assert bits["-log p(x)"] < bits["-ELBO"]
    assert result.initial_bits.shape == (4,)
    raw = (x * 255).round().to(torch.uint8).numpy()
    assert bits["lzma"] * x.numel() == pytest.approx(8 * len(lzma.compress(raw.tobytes(), preset=9)))
    image = io.BytesIO()
    Image.fromarray(raw.reshape(-1, 3)).save(image, format="PNG", optimize=True)
    assert bits["PNG"] * x.numel() == pytest.approx(8 * len(image.getvalue()))


def test_the_code_length_of_other_data_omits_the_image_formats(trained) -> None:
    model, _ = trained("Bernoulli")
    other = vae(shape=(9,))
    assert {"PNG", "WebP"} <= codelength(model, torch.ones(2, *SHAPE), num_samples=2).bits_per_dim().keys()
    assert not {"PNG", "WebP"} & codelength(other, torch.ones(2, 9), num_samples=2).bits_per_dim().keys()


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("count", [0, 1, 7, 40])
@pytest.mark.parametrize("chunk_size", [1, 3, 1000])
def test_any_number_of_data_in_chunks_of_any_size(count, chunk_size) -> None:
    model = vae()
    x = model.sample(40)[:count]
    assert torch.equal(decompress(model, compress(model, x, chunk_size=chunk_size)), x)


def test_every_changed_missing_or_additional_byte_is_noticed() -> None:
    model = vae()
    content = compress(model, model.sample(24), chunk_size=8)
    for i in range(len(content)):
        flipped = bytes([*content[:i], content[i] ^ 0x41, *content[i + 1 :]])
        for damaged in (flipped, content[:i], content[:i] + b"x" + content[i:]):
            with pytest.raises(ValueError, match=r"^decompress: [^\n]+\.$"):
                decompress(model, damaged)


@pytest.mark.parametrize(("file", "every"), [(SMALL_FILE, 1), (OLD_FILE, 51)])
def test_all_changes_of_all_bytes_are_noticed(file, every) -> None:
    content = file.read_bytes()
    whole = chunks_or_message(content)
    others = [bytes([b]) for b in range(256)]
    for i, byte in enumerate(content):
        before, after = content[:i], content[i + 1 :]
        damaged = [before + b + after for b in others[::every] if b[0] != byte]
        damaged += [before, *(before + b + content[i:] for b in others[:: 1 if i < 8 else 51])]
        for changed in damaged:
            chunks = chunks_or_message(changed)
            if isinstance(chunks, str):
                assert re.fullmatch(r"decompress: [^\n]+\.", chunks)
                continue
            assert len(changed) == len(content)  # a byte of a chunk was changed
            assert sum(chunk is None for chunk in chunks) == 1
            assert all(chunk in (None, other) for chunk, other in zip(chunks, whole, strict=True))


def chunks_or_message(content):
    try:
        container = Container(io.BytesIO(content))
        return [container.chunk(i) for i in range(container.header.num_chunks)]
    except ValueError as error:
        return str(error)


def test_a_file_of_another_machine_is_restored_and_written_again() -> None:
    model = plain()
    x = ((torch.arange(54).reshape(6, *SHAPE) * 7) % 5 < 2).float()
    content = SMALL_FILE.read_bytes()
    assert torch.equal(decompress(model, content), x)
    assert compress(model, x, chunk_size=4) == content
    assert torch.equal(decompress(model, OLD_FILE.read_bytes()), x)  # of the first scheme


def plain() -> VAE:
    """A model whose weights are multiples of 1/8, the same on every machine."""
    model = vae().eval()
    for tensor in model.state_dict().values():
        tensor.copy_(((torch.arange(tensor.numel()) * 5) % 7 - 3).reshape(tensor.shape) / 8)
    return model


def test_a_damaged_chunk_is_named_and_the_others_are_restored() -> None:
    model = vae()
    x = model.sample(24)
    content = bytearray(compress(model, x, chunk_size=8))
    content[-1] ^= 1  # of the last chunk
    with pytest.raises(ValueError, match=r"chunk 2 \(data 16 to 23\)"):
        decompress(model, bytes(content))
    restored = decompress(model, bytes(content), damaged="omit")
    assert torch.equal(restored, x[:16])


def test_another_model_and_foreign_files_are_refused() -> None:
    model, x = vae(), torch.ones(3, *SHAPE)
    content = compress(model, x)
    with pytest.raises(ValueError, match="decompress: the model must be"):
        decompress(vae(), content)
    for foreign in (b"", b"PVZ", b"PVZ\x01" + bytes(200), b"\x89PNG" + bytes(50), content[:4] + b"\xff" * 300):
        with pytest.raises(ValueError, match=r"^decompress: [^\n]+\.$"):
            decompress(model, foreign)


class Normalized(N.MLP):
    """A network that begins with a batch normalization."""

    def __init__(self, in_shape, out_shape) -> None:
        super().__init__(in_shape, out_shape, hidden=(8,))
        self.norm = torch.nn.BatchNorm1d(math.prod(in_shape))

    def transform(self, x):
        return super().transform(self.norm(x.flatten(1)))


def test_a_batch_normalization_is_coded_by_its_statistics_and_does_not_change_them() -> None:
    model = vae(guide=partial(G.DiagonalNormalGuide, net=Normalized))
    norm, x = model.guide.net.norm, model.sample(20)
    norm.running_mean.fill_(0.5)
    norm.running_var.fill_(0.25)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    content = compress(model.train(), x)
    assert torch.equal(decompress(model, content), x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    net = model.eval().guide.net
    function, integers = lambda x: {"y": net(x)}, x.double() * 2**FRACTION
    exact = ExactFunction(function, [SHAPE], bits=FRACTION)(integers)["y"]
    torch.testing.assert_close(exact.to(x) / 2**FRACTION, net(x).detach(), rtol=0, atol=2e-3)
    norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    with pytest.raises(ValueError, match=r"^compress: batch normalization must have statistics of the training"):
        ExactFunction(function, [SHAPE], bits=FRACTION)(integers)


def test_the_same_weights_with_another_order_are_another_model() -> None:
    orders = [None, [3, 1, 2, 0]]
    models = [AutoregressiveModel((4,), net=partial(N.MaskedMLP, hidden=(6,), order=order)) for order in orders]
    models[1].load_state_dict(models[0].state_dict())
    content = compress(models[0], x := models[0].sample(20))
    assert torch.equal(decompress(models[0], content), x)
    with pytest.raises(ValueError, match=r"^decompress: the model must be "):
        decompress(models[1], content)


def test_a_model_on_another_device_is_refused() -> None:
    content = compress(model := vae(), model.sample(2))
    with pytest.raises(ValueError, match=r"^compress: the model must be on the CPU, got meta\. Use vae\.cpu\(\)"):
        compress(model.to("meta"), torch.zeros(2, *SHAPE))
    with pytest.raises(ValueError, match=r"^decompress: the model must be on the CPU, got meta"):
        decompress(model, content)


def test_the_same_weights_with_other_levels_are_no_wrong_data() -> None:
    models = [vae(partial(L.DiscretizedLogisticLikelihood, levels=n)).eval() for n in (256, 17)]
    models[1].load_state_dict(models[0].state_dict())
    x = models[0].sample(20)
    content = compress(models[0], x, chunk_size=1)
    torch.testing.assert_close(decompress(models[0], content), x, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"^decompress: the chunks must be those of this model, got others\.$"):
        decompress(models[1], content)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.full((2, *SHAPE), 0.5), "data must be on the likelihood's levels"),
        (torch.ones(2, 9), r"data must be \(N, 1, 3, 3\)"),
        (torch.full((2, *SHAPE), 2.0), "data must be in 0..1"),
        (torch.full((2, *SHAPE), math.nan), "data must be complete"),
        ([1.0], "data must be a tensor or an ImageSet, got list"),
        (torch.tensor(1.0), r"data must be \(N, 1, 3, 3\)"),
    ],
)
def test_other_data_are_refused(x, message) -> None:
    with pytest.raises(ValueError, match=f"^compress: {message}"):
        compress(vae(), x)


@pytest.mark.parametrize(
    "model",
    [
        lambda: vae(L.NormalLikelihood),
        lambda: vae(guide=G.IAFGuide),
        object,
        lambda: vae(partial(L.BernoulliLikelihood, net=Cosine)),
    ],
)
def test_what_cannot_be_coded_is_refused(model) -> None:
    with pytest.raises(ValueError, match=r"^compress: [^\n]+ must [^\n]+\.$"):
        compress(model(), torch.ones(3, *SHAPE))


class Cosine(N.MLP):
    def transform(self, x):
        return super().transform(x).cos()


DECODE = """
import sys, torch
sys.path.insert(0, {root!r})
torch.set_num_threads(2)
from tests.test_compression import MODELS, decompress
torch.set_default_dtype(torch.float32)
torch.manual_seed(1)
model = MODELS["gated"]().eval()
model.load_state_dict(torch.load({weights!r}, weights_only=True))
x = decompress(model, open({file!r}, "rb").read())
torch.save(x, {out!r})
"""


@pytest.mark.slow
def test_another_process_with_other_threads_restores_the_data(trained, tmp_path, request) -> None:
    model, x = trained("gated")
    (tmp_path / "file").write_bytes(compress(model, x, chunk_size=100))
    torch.save(model.state_dict(), tmp_path / "weights")
    paths = {name: str(tmp_path / name) for name in ("weights", "file", "out")}
    code = DECODE.format(root=str(request.config.rootpath), **paths)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "out", weights_only=True), x)


def test_the_file_is_read_by_numpy_alone(trained) -> None:
    model, x = trained("Bernoulli")
    restored = last_data(model, compress(model, x[:50]), 50)
    assert np.array_equal(restored, x[:50].flatten(1).numpy())


@pytest.mark.parametrize("binarize", ["threshold", "none"])
def test_the_commands_restore_the_images(tmp_path, capsys, monkeypatch, binarize) -> None:
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 17, (40, 4, 4), dtype=np.uint8)
    images[0, 0, 0] = 255  # so that 255 stands for 1
    np.savez("mine.npz", images=images)
    data = ["--data", "Files", "--data.root", "mine.npz", "--data.binarize", binarize, "--device", "cpu"]
    model = ["--likelihood", "DiscretizedLogisticLikelihood"] if binarize == "none" else []
    size = ["--latent_dim", "2", "--epochs", "1", "--batch_size", "10", "--num_samples", "5"]
    assert main(["train", *data, *model, *size, "--out", "run"]) == 0
    assert main(["compress", "run", "mine.npz", "mine.pvz"]) == 0
    line = r"(?m)^40 images: \d+ bytes, \d+\.\d{4} bits per dimension\nfile: mine.pvz$"
    assert re.search(line, capsys.readouterr().out)
    assert main(["decompress", "run", "mine.pvz", "back.npz"]) == 0
    expected = images if binarize == "none" else images >= 128
    assert np.array_equal(np.load("back.npz")["images"][:, 0], expected)
    assert main(["compress", "run", "--split", "test", "test.pvz"]) == 0
    np.save("mine.npy", images)
    monkeypatch.setattr(cli_compress, "_LARGE", 1)  # read by batches
    assert main(["compress", "run", "mine.npy", "rows.pvz"]) == 0
    assert main(["decompress", "run", "rows.pvz", "back.npy"]) == 0
    assert np.array_equal(np.load("back.npy")[:, 0], expected)
    assert main(["decompress", "run", "rows.pvz", "folder"]) == 0
    assert main(["compress", "run", "folder", "folder.pvz"]) == 0
    contents = {Path(f"{name}.pvz").read_bytes() for name in ("mine", "rows", "folder")}
    assert len(contents) == 1
    capsys.readouterr()
    for command, message in (
        (["compress", "run", "mine.npz", "mine.pvz"], "must not exist yet"),
        (["compress", "run", "mine.npz", "mine.zip"], "must end in .pvz"),
        (["compress", "run", "x.pvz"], "either images or --split must be given, got neither"),
        (["decompress", "run", "mine.npz", "other.npz"], "the file must be one of pyro-vae compress"),
        (["decompress", "run", "mine.pvz", "back.npz"], "must not exist yet"),
        (["decompress", "run", "mine.pvz", "folder"], "must not exist yet"),
        (["compress", "run", "mine.npz", "x.pvz", "--workers", "0"], "workers must be"),
        (["compress", "run", "missing.npz", "x.pvz"], "missing.npz"),
    ):
        assert main(command) == 2
        assert message in capsys.readouterr().err
    assert not Path("x.pvz").exists()


# ---------------------------------------------------------------- pieces


def integers(low, high, *shape, seed=0):
    return np.random.default_rng(seed).integers(low, high, shape)


SYMBOLS = {
    "binary": lambda: Binary(integers(-1 << 17, 1 << 17, 2, 5)),
    "categorical": lambda: Categorical(integers(-1 << 16, 1 << 16, 2, 5, 7)),
    "normal": lambda: NormalGrid(integers(-1 << 14, 1 << 14, 2, 5), integers(-1 << 14, 1 << 13, 2, 5), grid=3),
    "logistic": lambda: LogisticLevels(
        shares(integers(-1 << 13, 1 << 13, 2, 5, 3)),
        integers(0, 1 << 12, 2, 5, 3),
        integers(-5 << 12, 0, 2, 5, 3),
        levels=256,
    ),
}


@pytest.mark.parametrize("name", SYMBOLS)
def test_frequencies_are_positive_add_up_and_are_found_again(name) -> None:
    symbols = SYMBOLS[name]()
    values = [np.full(symbols.shape, k) for k in range(symbols.size)]
    start, frequency = (np.stack(a) for a in zip(*map(symbols.interval, values), strict=True))
    assert (frequency > 0).all()
    assert (start[0] == 0).all()
    assert np.array_equal(start[1:], (start + frequency)[:-1])
    assert (start[-1] + frequency[-1] == 2**PRECISION).all()
    for k in range(0, symbols.size, max(1, symbols.size // 40)):
        assert np.array_equal(symbols.find(start[k]), values[k])
        last = start[k] + frequency[k] - 1
        assert np.array_equal(symbols.find(last), values[k])
        assert np.array_equal(symbols.locate(last), [values[k], start[k], frequency[k]])


def test_frequencies_are_those_of_the_distributions() -> None:
    grid, loc, log_scale = 4, np.array([[700, -3000]]), np.array([[-5000, 1000]])
    symbols = NormalGrid(loc, log_scale, grid=grid)
    mean, scale = torch.tensor(loc / 2**FRACTION), torch.tensor(np.exp(log_scale / 2**FRACTION))
    normal = torch.distributions.Normal(mean, scale)
    for k in (228, 256, 259, 278):
        edges = (torch.tensor(float(k - 256)) + torch.tensor([-0.5, 0.5])) / 2**grid
        expected = normal.cdf(edges[1].double()) - normal.cdf(edges[0].double())
        measured = symbols.interval(np.full((1, 2), k))[1] / 2**PRECISION
        assert measured == pytest.approx(expected.numpy(), abs=2e-5)


COUNTS = {
    "Poisson": LogMeanPoisson(torch.tensor([[-1.0, 1.5]])),
    "negative binomial": LogMeanNegativeBinomial(torch.tensor([[-1.0, 1.5]]), torch.tensor([[0.5, -0.5]])),
    "zero-inflated": ZeroInflatedDistribution(
        LogMeanNegativeBinomial(torch.tensor([[-1.0, 1.5]]), torch.tensor([[0.5, -0.5]])),
        gate_logits=torch.tensor([[-0.5, 0.7]]),
    ),
    "Laplace": Laplace(torch.tensor([[0.3, -2.0]]), torch.tensor([[1.0, 0.4]])),
}


@pytest.mark.parametrize("name", COUNTS)
def test_masses_are_those_of_the_distributions(name) -> None:
    """Frequencies against probabilities; those of counts are normalised over the values that are coded."""
    distribution = COUNTS[name]
    family = family_of(distribution, Sizes(2, 30))
    parameters = family.parameters(distribution)
    coder = family.build({key: (p * 2**FRACTION).round().long().numpy() for key, p in parameters.items()})
    values = np.broadcast_to(np.arange(family.size)[:, None], (family.size, 2))
    points = torch.tensor(values) if name != "Laplace" else torch.tensor(family.numbers(values) / 2**FRACTION)
    base = getattr(distribution, "base_dist", distribution)
    expected = base.log_prob(points.float()).double().softmax(0)  # (size, 2)
    if base is not distribution:
        expected = expected * (1 - distribution.gate)
        expected[0] += distribution.gate[0]
    frequencies = np.stack([coder.symbols.interval(row[None])[1][0] for row in values])
    assert frequencies / 2**PRECISION == pytest.approx(expected.numpy(), rel=4e-3, abs=1e-5)


def test_no_draw_lies_in_the_tails_which_would_cost_hundreds_of_bits() -> None:
    """If each of 2,049 values had a frequency, one in 650 images with 50 latents would have such a draw."""
    symbols = NormalGrid(np.zeros((1, 1), dtype=np.int64), np.full((1, 1), -1 << FRACTION), grid=6, everywhere=False)
    values = np.arange(symbols.size)[None]
    start, frequency = symbols.interval(values)
    assert (start + frequency)[0, -1] == frequency.sum() == 2**PRECISION
    likely = frequency[0] > 0
    assert abs(values[0, likely] / 2**6 - 16).max() < 6 * math.exp(-1)
    value, *interval = symbols.locate(start[:, likely])
    assert np.array_equal(value, values[:, likely])
    assert np.array_equal(interval, [start[:, likely], frequency[:, likely]])


def test_the_logarithm_is_that_of_fixed_point_numbers() -> None:
    x = np.concatenate([np.arange(1, 5000), 2 ** np.arange(13, 45) + 12345])
    expected = np.log(x / 2**FRACTION) * 2**FRACTION
    assert np.abs(logarithm(x, FRACTION) - expected).max() < 1.5


@pytest.mark.parametrize("num_lanes", [1, 4])
def test_pushing_and_popping_in_any_order_restores_the_stacks(num_lanes) -> None:
    stacks = Stacks.filled(3, num_lanes, 50)
    before = stacks.states.copy(), stacks.sizes.copy()
    kinds = [SYMBOLS[name] for name in ("normal", "binary", "categorical")]
    popped = []
    for kind in kinds:
        stacks.mix(2)
        popped.append(stacks.pop(kind()))
    for kind, values in zip(kinds[::-1], popped[::-1], strict=True):
        stacks.push(values, kind())
        stacks.unmix(2)
    assert np.array_equal(stacks.states, before[0])
    assert np.array_equal(stacks.sizes, before[1])


def test_a_symbol_costs_its_information() -> None:
    stacks = Stacks.filled(1, 4)
    symbols = Categorical(np.array([[[4000, 0, -9000]]] * 1))
    start = float(stacks.content()[0])
    for k in [0, 1, 2, 0] * 50:
        stacks.push(np.full((1, 1), k), symbols)
    probabilities = torch.tensor([4000.0, 0.0, -9000.0]).div(2**FRACTION).softmax(0)
    expected = -50 * float(torch.log2(probabilities[[0, 1, 2, 0]]).sum())
    assert stacks.content()[0] - start == pytest.approx(expected, rel=1e-3)


ACTIVATIONS = ("tanh", "relu", "softplus", "gelu", "silu", "elu", "leaky_relu")
NETWORKS = {
    **{name: partial(N.MLP, hidden=(16, 16), activation=name) for name in ACTIVATIONS},
    **{name: getattr(N, name) for name in ("GatedMLP", "ConvDecoder", "GatedConvDecoder", "ResidualConvDecoder")},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_in_fixed_point_are_close_and_independent_of_the_batch(name) -> None:
    net = NETWORKS[name]((3,), (1, 8, 8)).eval()
    exact = ExactFunction(lambda z: {"y": net(z)}, [(3,)], bits=FRACTION, limit=8.0)
    z = (torch.randn(5, 3).clamp(-8, 8).double() * 2**FRACTION).round()
    together = exact(z)["y"]
    one_by_one = torch.cat([exact(z[i : i + 1])["y"] for i in range(5)])
    assert torch.equal(together, one_by_one)
    with torch.no_grad():
        expected = net.double()(z / 2**FRACTION)
    assert float((together / 2**FRACTION - expected).abs().max()) < 2e-3


def test_logarithms_of_counts_are_close_at_every_size() -> None:
    unit = torch.tensor([0.3, 2.0, 7.0])
    is_count = unit > 1

    def net(x):
        return {"y": (torch.where(is_count, x.clamp_min(0).log1p(), x) - 1.5) / unit}

    exact = ExactFunction(net, [(3,)], bits=FRACTION, limit=2**16)
    x = torch.tensor([0, 1, 2, 3, 15, 16, 17, 1000, 65535.0]).unsqueeze(-1).expand(-1, 3)
    y = exact(x.double() * 2**FRACTION)["y"] / 2**FRACTION
    expected = net(x.double())["y"]
    assert (y - expected)[:, 1:].abs().max() < 4e-4
    assert ((y - expected)[:, 0].abs() <= 2**-11 + 1e-6 * expected[:, 0].abs()).all()
    model = vae(L.NegativeBinomialLikelihood, guide=with_inputs(G.DiagonalNormalGuide, [("count", 0)])).eval()
    counts = torch.poisson(torch.tensor([0.5, 40.0, 300.0]).expand(20, 1, 3, 3))
    assert torch.equal(decompress(model, compress(model, counts)), counts)


def test_incomplete_data_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^compress: data must be complete, got missing entries\. Fill them"):
        compress(vae(L.PoissonLikelihood), torch.full((2, *SHAPE), torch.nan))


def test_the_header_holds_plain_values() -> None:
    content = compress(vae(), torch.ones(3, *SHAPE))
    size = int.from_bytes(content[4:8], "little")
    assert json.loads(content[8 : 8 + size])[2:] == ["bits back 2", 6, 2, 1, 16, [*SHAPE], 3, 2500]
