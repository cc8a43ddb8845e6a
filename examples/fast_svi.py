"""The compiled engine on a plain Pyro model and guide: a topic model, written without this package.

``ProdLDA`` is plain Pyro: an ``nn.Module`` with a model and a guide. From the same initial weights it is trained

1. with Pyro's ``SVI``, ``Trace_ELBO`` and ``Adam``; then again with Pyro's validation off, as in 2 and 3;
2. with ``fit(..., engine="compiled")``, on the unmodified model and guide;
3. with ``build_engine`` in a custom loop, which draws the same random numbers as ``SVI``.

``docs/engine.md`` explains the engine and its limits. Run it::

    OMP_NUM_THREADS=1 python examples/fast_svi.py

Two runs (25 and 38 s on a shared machine, torch 2.15, 2026-11-21) printed 5.6 and 8.9 ms per step for 1, 3.9 and 6.4
without validation, 1.8 and 3.0 for 2, 2.5 and 2.6 for 3; ELBO -228.323 for 1 and 3, -224.636 for 2 (other batches).

References:
    Autoencoding variational inference for topic models (Srivastava and Sutton, 2017). https://arxiv.org/abs/1703.01488
    Probabilistic topic modeling (Pyro's tutorial on this model). https://pyro.ai/examples/prodlda.html
"""

import argparse
import time
from copy import deepcopy
from functools import partial

import pyro
import torch
from pyro.distributions import Multinomial, Normal
from pyro.infer import SVI, Trace_ELBO
from torch import nn
from torch.distributions import Dirichlet

from pyro_vae import fit, objectives
from pyro_vae.training import build_engine


class ProdLDA(nn.Module):
    """p(z) = N(0, I), p(x | z) = Multinomial(softmax(norm(W softmax(z)))), and a neural guide."""

    def __init__(self, num_words, num_topics, longest):
        super().__init__()
        # ``longest`` is a constant: int(x.sum(-1).max()) within the model, as in the tutorial, cannot be recorded.
        self.num_topics, self.longest = num_topics, longest
        self.topics = nn.Sequential(nn.Linear(num_topics, num_words, False), nn.BatchNorm1d(num_words, affine=False))
        first, last = nn.Linear(num_words, 100), nn.Linear(100, 2 * num_topics)
        self.encoder = nn.Sequential(first, nn.Softplus(), nn.Dropout(0.2), last)

    def model(self, x):
        pyro.module("topics", self.topics)
        with pyro.plate("documents", len(x)):
            z = pyro.sample("z", Normal(x.new_zeros(len(x), self.num_topics), 1.0).to_event(1))  # (B, T)
            pyro.sample("x", Multinomial(self.longest, logits=self.topics(z.softmax(-1))), obs=x)  # (B, V)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        loc, log_scale = self.encoder(x.log1p()).chunk(2, -1)
        with pyro.plate("documents", len(x)):
            pyro.sample("z", Normal(loc, log_scale.exp()).to_event(1))


def draw_documents(num_documents, num_words, num_topics):
    """Word counts (N, V) with few words per topic, few topics per document, and 50 to 150 words per document."""
    words = Dirichlet(torch.full((num_words,), 0.05)).sample((num_topics,))  # (T, V)
    shares = Dirichlet(torch.full((num_topics,), 0.2)).sample((num_documents,))  # (N, T)
    return torch.poisson((50 + 100 * torch.rand(num_documents, 1)) * (shares @ words))


def train_svi(lda, batches, *, lr, seed, validate):
    """Train with Pyro's own loop; return seconds before the first step and milliseconds per step."""
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    svi = SVI(lda.model, lda.guide, pyro.optim.Adam({"lr": lr}), Trace_ELBO())
    clock = time.perf_counter()
    with pyro.validation_enabled(validate):
        for x in batches:
            svi.step(x)
    return 0.0, 1000 * (time.perf_counter() - clock) / len(batches)


def train_fit(lda, documents, *, lr, seed, **options):
    """The same training in one call, with its own shuffling of the documents."""
    clock, adam = time.perf_counter(), partial(torch.optim.Adam, lr=lr)
    result = fit(lda.model, lda.guide, documents, optimizer=adam, engine="compiled", seed=seed, **options)
    steps = sum(record["seconds"] for record in result.history)
    return time.perf_counter() - clock - steps, 1000 * steps / result.history[-1]["step"]


def train_engine(lda, batches, *, lr, seed):
    """The compiled engine in a custom loop over the same batches as SVI."""
    parameters, elbo, clock = list(lda.parameters()), objectives.ELBO(), time.perf_counter()
    adam = torch.optim.Adam(parameters, lr=lr, fused=True)
    engine = build_engine("compiled", elbo, lda.model, lda.guide, adam, parameters, args=(batches[0],))
    before = time.perf_counter() - clock
    loss, gradient = engine.check_against(Trace_ELBO(), (batches[0],))
    print(f"  engine={engine.name}, relative difference from Trace_ELBO: loss {loss:.1e}, gradient {gradient:.1e}")
    torch.manual_seed(seed)
    clock = time.perf_counter()
    for x in batches:
        if not engine.step((x,)).finite:
            raise FloatingPointError("loss or gradient is not finite; the weights are those before this step")
    return before, 1000 * (time.perf_counter() - clock) / len(batches)


@torch.no_grad()
def test_elbo(lda, documents):
    """ELBO in nats per document, from 20 samples each."""
    pyro.set_rng_seed(0)
    lda.eval()
    return -Trace_ELBO(num_particles=20).loss(lda.model, lda.guide, documents) / len(documents)


def positive(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def main(argv=None):
    parser = argparse.ArgumentParser(description="The compiled engine on a topic model in plain Pyro.")
    parser.add_argument("--documents", type=positive, default=2000, help="training documents (%(default)s)")
    parser.add_argument("--epochs", type=positive, default=50, help="passes over the documents (%(default)s)")
    parser.add_argument("--batch-size", type=positive, default=100, help="documents per step (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of data, weights and training (%(default)s)")
    args = parser.parse_args(argv)
    if args.batch_size == 1 or args.documents % args.batch_size:  # equal batches: the engine divides by their size
        parser.error("--documents must be a multiple of --batch-size, and that 2 or more (batch normalization)")

    pyro.set_rng_seed(args.seed)
    documents, test = draw_documents(args.documents + 500, num_words=500, num_topics=10).split([args.documents, 500])
    first = ProdLDA(num_words=500, num_topics=10, longest=int(torch.cat([documents, test]).sum(1).max()))
    batches = [x for _ in range(args.epochs) for x in documents[torch.randperm(len(documents))].split(args.batch_size)]
    settings = {"lr": 2e-3, "seed": args.seed}
    train_svi(deepcopy(first), batches[:1], validate=True, **settings)  # the first step of a process loads modules

    methods = {
        "SVI": partial(train_svi, batches=batches, validate=True),
        "SVI, validation off": partial(train_svi, batches=batches, validate=False),
        "fit": partial(train_fit, documents=documents, epochs=args.epochs, batch_size=args.batch_size),
        "build_engine": partial(train_engine, batches=batches),
    }
    print(f"{len(batches)} steps; ELBO in nats per document, over {len(test)} test documents")
    for name, train in methods.items():
        before, milliseconds = train(lda := deepcopy(first), **settings)
        elbo = test_elbo(lda, test)
        print(f"{name:<19} {milliseconds:6.2f} ms per step, {before:4.1f} s before the first; ELBO {elbo:.3f}")


if __name__ == "__main__":
    main()
