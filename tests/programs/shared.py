"""Programs with latents that all data share, so that there are no weights per datum and evaluation must raise."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_mean
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints

from tests.programs.networks import HIDDEN, NormalNet, mlp
from tests.programs.pair import Built, built


class BayesianDecoder(PyroModule):
    """A linear decoder whose weights are latent."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](2, 4)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([4, 2]).to_event(2))

    def forward(self, x: Tensor) -> None:
        weight = self.linear.weight  # drawn before the plate
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight.t() + self.linear.bias, 0.5).to_event(1), obs=x)


class BayesianGuide(nn.Module):
    """A normal distribution of the weights, an amortized one of each datum's latent."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = NormalNet(4, 2)
        self.loc, self.log_scale = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.full((4, 2), -1.0))

    def forward(self, x: Tensor) -> None:
        pyro.module("bayesian_guide", self)
        pyro.sample("linear.weight", dist.Normal(self.loc, self.log_scale.exp()).to_event(2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*self.encoder(x)).to_event(1))


def bayesian_weight() -> Built:
    """Weights of a network with a prior."""
    return built(BayesianDecoder(), BayesianGuide(), (torch.randn(6, 4),), (torch.randn(4, 4),), global_latents=True)


TOPICS, WORDS = 2, 5


def _lda(documents: Tensor) -> None:
    """Documents are columns: ``(words per document, documents)``."""
    length, size = documents.shape
    with pyro.plate("topics", TOPICS):
        weights = pyro.sample("topic_weights", dist.Gamma(1.0 / TOPICS, 1.0))
        words = pyro.sample("topic_words", dist.Dirichlet(torch.ones(WORDS) / WORDS))
    with pyro.plate("documents", size) as index:
        theta = pyro.sample("doc_topics", dist.Dirichlet(weights))
        with pyro.plate("words", length):
            topic = pyro.sample("word_topics", dist.Categorical(theta), infer={"enumerate": "parallel"})
            pyro.sample("doc_words", dist.Categorical(words[topic]), obs=documents[:, index])


def _lda_guide(predictor: nn.Module, documents: Tensor) -> None:
    weights = pyro.param("topic_weights_q", lambda: torch.ones(TOPICS), constraint=constraints.positive)
    words = pyro.param("topic_words_q", lambda: torch.ones(TOPICS, WORDS), constraint=constraints.greater_than(0.5))
    with pyro.plate("topics", TOPICS):
        pyro.sample("topic_weights", dist.Gamma(weights, 1.0))
        pyro.sample("topic_words", dist.Dirichlet(words))
    pyro.module("predictor", predictor)
    with pyro.plate("documents", documents.shape[1]) as index:
        chosen = documents[:, index]
        counts = torch.zeros(WORDS, chosen.shape[1]).scatter_add(0, chosen, torch.ones(chosen.shape))
        pyro.sample("doc_topics", dist.Delta(predictor(counts.t()), event_dim=1))


def lda() -> Built:
    """As Pyro's ``lda`` example: topics are shared, each document's proportions are a point that a network predicts."""
    predictor = nn.Sequential(mlp(WORDS, HIDDEN, TOPICS), nn.Softmax(dim=-1))
    return built(
        _lda,
        partial(_lda_guide, predictor),
        (torch.randint(WORDS, (4, 6)),),
        (torch.randint(WORDS, (3, 5)),),
        objective=lambda: TraceEnum_ELBO(max_plate_nesting=2),
        num_data=lambda documents: documents.shape[1],
        global_latents=True,
        notes="the data are the second dimension; words are enumerated in the model; a Delta in the guide",
    )


def auto_normal_scale() -> Built:
    """A scale that all data share, guided by AutoNormal within a guide written by hand."""
    encoder, decoder = NormalNet(4, 2), mlp(2, HIDDEN, 4)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        sigma = pyro.sample("sigma", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), sigma).to_event(1), obs=x)

    automatic = AutoNormal(poutine.block(model, expose=["sigma"]), init_loc_fn=init_to_mean)

    def guide(x: Tensor) -> None:
        automatic(x)
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*encoder(x)).to_event(1))

    notes = "parameters of the autoguide are created at its first call"
    return built(model, guide, (torch.randn(6, 4),), (torch.randn(4, 4),), global_latents=True, notes=notes)


def gmm() -> Built:
    """As Pyro's ``gmm`` tutorial: points for weights, means and scale, and assignments enumerated in the model."""

    def model(x: Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            assignment = pyro.sample("assignment", dist.Categorical(weights), infer={"enumerate": "parallel"})
            pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=x)

    starts = {"weights": torch.tensor([0.4, 0.6]), "scale": torch.tensor(1.5), "locs": torch.tensor([-1.0, 2.0])}
    hidden = poutine.block(model, expose=list(starts))
    guide = AutoDelta(hidden, init_loc_fn=lambda site: starts[site["name"]].clone())
    objective = lambda: TraceEnum_ELBO(max_plate_nesting=1)  # noqa: E731
    notes = "the guide has no local latent"
    batches = (torch.randn(6),), (torch.randn(4),)
    return built(model, guide, *batches, objective=objective, global_latents=True, notes=notes)
