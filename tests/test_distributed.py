"""Several processes that share every batch give one process's numbers."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from pyro_vae import VAE
from pyro_vae._core.axes import Axes, leading
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.distributed import Ranks
from pyro_vae._core.shared_random import Share, SharedRandom, find_rows
from pyro_vae.cli.main import main
from pyro_vae.data.batches import Batch, Batches
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO
from pyro_vae.priors import StandardNormalPrior
from pyro_vae.training import LossFunction, build_engine
from pyro_vae.training.engines.rows import count_rows, take_rows

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
OPTIONS = """
    --epochs 4 --latent_dim 3 --num_samples 10 --batch_size 64 --data Digits --data.binarize dynamic --patience 9
    --guide.net.dropout 0.1 --objective.num_particles 2 --checkpoint_seconds 0.01 --accumulate 2 --logger CSV
""".split()  # noqa: SIM905
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def _vae(dropout=0.2, dim=6):
    net = partial(MLP, hidden=(5,), dropout=dropout)
    likelihood = BernoulliLikelihood(3, (dim,), net=net)
    return VAE(StandardNormalPrior(3), likelihood, DiagonalNormalGuide((dim,), 3, net=net))


@pytest.mark.parametrize("num_particles", [1, 4, 7])  # 7 and 3 are sizes of the batch and of a share too
@pytest.mark.parametrize("shares", [[(0, 3), (3, 7)], [(0, 1), (1, 4), (4, 7)]])
def test_gradients_of_the_processes_add_up_to_that_of_the_batch(num_particles, shares):
    vae, x = _vae(), (torch.rand(7, 6) < 0.3).double()
    loss = LossFunction(ELBO(num_particles=num_particles), vae.model, vae.guide, list(vae.parameters()))
    loss.gradients(x)  # the first run determines the plates
    rows = find_rows(loss.gradients, (x,), leading((x,)))
    with isolated_rng(3):
        whole = loss.gradients(x)
    loss = LossFunction(loss.objective, vae.model, vae.guide, loss.parameters, rows=rows)
    value, total = torch.zeros(()), [torch.zeros_like(p) for p in loss.parameters]
    for start, stop in shares:
        with isolated_rng(3):
            part = loss.gradients(x[start:stop], share=Share(start, stop - start, 7))
        value = value + part.loss
        total = [t + g * (stop - start) / 7 for t, g in zip(total, part.gradients, strict=True)]
    torch.testing.assert_close(value, whole.loss, rtol=1e-12, atol=0)
    for gradient, expected in zip(total, whole.gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(
    "draw",
    [
        torch.bernoulli,
        torch.randn_like,
        torch.rand_like,
        lambda p: torch.rand(p.shape),
        lambda p: torch.randn(p.shape),
        lambda p: torch.randint(10, p.shape),
        lambda p: torch.randint(3, 10, p.shape),
        lambda p: torch.normal(p, p),
        lambda p: torch.normal(p, 2.0),
        lambda p: torch.normal(2.0, p),
        lambda p: torch.empty_like(p).normal_(1.0, 2.0),
        lambda p: torch.empty_like(p).uniform_(1.0, 2.0),
        lambda p: torch.empty_like(p).bernoulli_(0.3),
        lambda p: torch.empty_like(p).exponential_(),
        lambda p: torch.nn.functional.dropout(p, 0.3),
        lambda p: torch.native_dropout(p, 0.3, True)[0],
    ],
)
@pytest.mark.parametrize(("place", "shape"), [((0, 1), (8, 2)), ((1, 1), (3, 8)), ((0, 3), (24, 2))])
def test_a_process_draws_its_rows_of_the_whole_batch(draw, place, shape):
    dim, repeats = place
    p = torch.rand(shape)

    def cut(whole):
        return whole.unflatten(dim, (repeats, 8)).narrow(dim + 1, 2, 3).flatten(dim, dim + 1)

    with isolated_rng(1):
        whole, after = draw(p), torch.rand(())
    with isolated_rng(1):
        with SharedRandom(Share(2, 3, 8), [place]):
            drawn = draw(cut(p).clone())
        assert torch.equal(torch.rand(()), after), "the generators must stay together"
    torch.testing.assert_close(drawn, cut(whole), rtol=1e-9, atol=1e-9)


def test_a_generator_without_a_known_shape_raises():
    with pytest.raises(ValueError, match="ranks: random numbers must be drawn by functions whose shape is known"):
        find_rows(lambda x: torch.distributions.Gamma(x, x).sample(), (torch.ones(5, 2),), Axes((0,)))


def test_batch_statistics_and_shared_sites_raise():
    import pyro
    import pyro.distributions as dist

    class Normalized(torch.nn.Module):
        def __init__(self, in_shape, out_shape):
            super().__init__()
            self.net, self.norm = MLP(in_shape, out_shape), torch.nn.BatchNorm1d(in_shape[0])

        def forward(self, x):
            return self.net(self.norm(x))

    vae = VAE(
        StandardNormalPrior(3), BernoulliLikelihood(3, (6,)), DiagonalNormalGuide((6,), 3, net=lambda i, o: MLP(i, o))
    )
    vae.guide.net = Normalized((6,), (2, 3))
    parameters, x = list(vae.parameters()), torch.ones(8, 6)
    adam = torch.optim.Adam(parameters)
    build = partial(build_engine, "eager", ELBO(), optimizer=adam, parameters=parameters)
    with pytest.raises(ValueError, match="ranks: programs must not keep statistics of their batches"):
        build(vae.model, vae.guide, args=(x,), ranks=Ranks(0, 2))

    def model(x):
        pyro.sample("shared", dist.Normal(0.0, 1.0))
        return vae.model(x)

    def guide(x):
        pyro.sample("shared", dist.Normal(0.0, 1.0))
        return vae.guide(x)

    with pytest.raises(ValueError, match="every site must be within one vectorised plate over the data"):
        build(model, guide, args=(x,), ranks=Ranks(0, 2))
    with pytest.raises(ValueError, match="'cuda-graph' must"):
        build_engine("cuda-graph", ELBO(), vae.model, vae.guide, adam, parameters, args=(x,), ranks=Ranks(0, 2))


def test_processes_cover_a_batch_once():
    for size in (1, 2, 3, 5):
        for length in (0, 1, 4, 7, 10):
            rows = [i for rank in range(size) for i in Ranks(rank, size).share(length)]
            assert rows == list(range(length))
    x = torch.arange(10.0)
    for batch in Batches(x, 4, shuffle_seed=1).epoch():
        n, shares = len(batch), [take_rows(batch, Ranks(rank, 2)) for rank in range(2)]
        assert torch.equal(torch.cat([rows.args[0] for rows in shares]), batch.args[0])
        assert torch.equal(torch.cat([rows.indices for rows in shares]), batch.index)
        assert [rows.share for rows in shares] == [Share(0, n // 2, n), Share(n // 2, n - n // 2, n)]
        assert [count_rows(batch, Ranks(rank, 2)) for rank in range(2)] == [len(rows.args[0]) for rows in shares]
    assert take_rows(Batch((x,)), Ranks()) == ((x,), None, None)


def _train(folder, *, arguments=OPTIONS):
    assert main(["train", *(["--resume", str(folder)] if folder.exists() else [*arguments, "--out", str(folder)])]) == 0


def _train_on_two(folder, *, arguments):
    command = [*TORCHRUN, "-m", "pyro_vae", "train", *arguments, "--out", str(folder)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)


def _records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _assert_same(a, b):
    for record, expected in zip(_records(a), _records(b), strict=True):
        for key in ("loss", "distortion", "rate", "validation_elbo"):
            assert record[key] == pytest.approx(expected[key], rel=2e-5), key
        assert record["step"] == expected["step"]
    first, second = (json.loads((f / "log_likelihood-test-guide-10-seed0.json").read_text()) for f in (a, b))
    assert first.keys() == second.keys()
    weights = load_file(a / "weights.safetensors"), load_file(b / "weights.safetensors")
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("single_precision")
def test_two_processes_train_as_one_and_one_resumes_for_two(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    _train(one)
    first = _train_on_two(two, arguments=[*OPTIONS, "--epochs", "2"])
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("run folder:") == 1
    config = (two / "config.yaml").read_text()
    (two / "config.yaml").write_text(config.replace("epochs: 2\n", "epochs: 4\n"))
    _train(two)
    _assert_same(one, two)
    assert (two / "metrics.csv").read_text().count("\n") == 1 + 4


@pytest.mark.slow
def test_a_dead_process_stops_the_others_with_a_message(tmp_path):
    arguments = [
        "--epochs",
        "100000",
        "--latent_dim",
        "3",
        "--out",
        str(tmp_path / "run"),
        "--checkpoint_seconds",
        "0.1",
    ]
    command = [*TORCHRUN, "-m", "pyro_vae", "train", *arguments, "--engine", "eager"]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as run:
        children = f"/proc/{run.pid}/task/{run.pid}/children"
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "state.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        with open(children) as file:
            ranks = [int(pid) for pid in file.read().split()]
        os.kill(ranks[-1], signal.SIGKILL)
        _, messages = run.communicate(timeout=120)
    assert run.returncode != 0
    assert "ranks: every process must stay alive, lost one" in messages or "SIGKILL" in messages
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["progress"]["step"] > 0
