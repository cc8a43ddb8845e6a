"""Programs with other distributions than the normal: topics of documents, counts, proportions, heavy tails."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from torch.nn.functional import softmax, softplus

from tests.programs.networks import HIDDEN, NormalNet, mlp
from tests.programs.pair import Built, built


def count_rows(size: int, features: int, most: int = 5) -> Tensor:
    """Counts with at least one in each row."""
    return torch.randint(most, (size, features)) * 1.0 + torch.eye(size, features)


class TopicEncoder(nn.Module):
    """Location and scale of the logistic normal, each by batch normalization without scale and shift."""

    def __init__(self, words: int, topics: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(words, HIDDEN)
        self.drop = nn.Dropout(0.2)
        self.loc, self.log_var = nn.Linear(HIDDEN, topics), nn.Linear(HIDDEN, topics)
        self.loc_norm = nn.BatchNorm1d(topics, affine=False)
        self.log_var_norm = nn.BatchNorm1d(topics, affine=False)

    def forward(self, documents: Tensor) -> tuple[Tensor, Tensor]:
        h = self.drop(softplus(self.hidden(documents)))
        return self.loc_norm(self.loc(h)), (0.5 * self.log_var_norm(self.log_var(h))).exp()


class TopicDecoder(nn.Module):
    """Word probabilities of a mixture of topics, normalized over the second dimension by its number."""

    def __init__(self, words: int, topics: int) -> None:
        super().__init__()
        self.beta = nn.Linear(topics, words, bias=False)
        self.norm = nn.BatchNorm1d(words, affine=False)
        self.drop = nn.Dropout(0.2)

    def forward(self, theta: Tensor) -> Tensor:
        return softmax(self.norm(self.beta(self.drop(theta))), dim=1)


class ProdLDA(nn.Module):
    """As Pyro's ``prodlda`` tutorial: documents as counts of words, with the maximal total of the batch."""

    def __init__(self, words: int = 5, topics: int = 3) -> None:
        super().__init__()
        self.topics = topics
        self.encoder, self.decoder = TopicEncoder(words, topics), TopicDecoder(words, topics)

    def model(self, documents: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("documents", documents.shape[0]):
            loc = documents.new_zeros((documents.shape[0], self.topics))
            log_theta = pyro.sample("logtheta", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            probs = self.decoder(softmax(log_theta, -1))
            most = int(documents.sum(-1).max())  # documents differ in length; the density uses the length of each
            pyro.sample("obs", dist.Multinomial(most, probs), obs=documents)

    def guide(self, documents: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("documents", documents.shape[0]):
            pyro.sample("logtheta", dist.Normal(*self.encoder(documents)).to_event(1))


def prodlda() -> Built:
    program = ProdLDA()
    batches = (count_rows(6, 5),), (count_rows(4, 5),)
    notes = "softmax(dim=1), BatchNorm1d and dropout in train mode, a total count of the batch"
    idle = ("loc.bias", "log_var.bias")
    kl = TraceMeanField_ELBO  # the objective of the tutorial
    return built(program.model, program.guide, *batches, objective=kl, idle=idle, notes=notes)


class HeavyTails(nn.Module):
    """Student's t as likelihood, with degrees of freedom and scales of its own, and as the guide's family."""

    def __init__(self, features: int = 4, z_dim: int = 2) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.encoder = NormalNet(features, z_dim)
        self.decoder = mlp(z_dim, HIDDEN, features)
        self.log_df, self.log_scale = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(features))

    def model(self, x: Tensor) -> None:
        pyro.module("robust", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.z_dim), 1.0).to_event(1))
            noise = dist.StudentT(2 + self.log_df.exp(), self.decoder(z), self.log_scale.exp())
            pyro.sample("x", noise.to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.StudentT(5.0, *self.encoder(x)).to_event(1))


def student_t() -> Built:
    program = HeavyTails()
    return built(program.model, program.guide, (torch.randn(6, 4),), (torch.randn(4, 4),))


class GammaPoisson(nn.Module):
    """Counts as products of positive factors: gamma latents, a Poisson likelihood."""

    def __init__(self, features: int = 4, factors: int = 2) -> None:
        super().__init__()
        self.factors = factors
        self.loadings = nn.Parameter(torch.randn(factors, features))
        self.encoder = mlp(features, HIDDEN, 2 * factors)

    def model(self, x: Tensor) -> None:
        pyro.module("factors", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(x.new_full((self.factors,), 2.0), 1.0).to_event(1))
            pyro.sample("x", dist.Poisson(z @ softplus(self.loadings)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            concentration, rate = (softplus(self.encoder(x)) + 0.1).chunk(2, dim=-1)
            pyro.sample("z", dist.Gamma(concentration, rate).to_event(1))


def gamma_poisson() -> Built:
    program = GammaPoisson()
    return built(program.model, program.guide, (count_rows(6, 4),), (count_rows(4, 4),), notes="implicit gradients")


class CountsWithSizes(nn.Module):
    """As scVI: a log-normal size of each cell beside its code, and negative binomial counts."""

    def __init__(self, features: int = 4, z_dim: int = 2) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.encoder, self.size_encoder = NormalNet(features, z_dim), NormalNet(features, 1)
        self.decoder = nn.Sequential(mlp(z_dim, HIDDEN, features), nn.Softmax(dim=-1))
        self.log_total = nn.Parameter(torch.zeros(features))

    def model(self, x: Tensor) -> None:
        pyro.module("scvi", self)
        with pyro.plate("cells", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), self.z_dim), 1.0).to_event(1))
            size = pyro.sample("size", dist.LogNormal(x.new_full((len(x), 1), 2.0), 1.0).to_event(1))
            rate = pyro.deterministic("rate", size * self.decoder(z), event_dim=1)
            logits = rate.log() - self.log_total
            pyro.sample("x", dist.NegativeBinomial(self.log_total.exp(), logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("cells", len(x)):
            pyro.sample("size", dist.LogNormal(*self.size_encoder(x.log1p())).to_event(1))
            pyro.sample("z", dist.Normal(*self.encoder(x.log1p())).to_event(1))


def negative_binomial() -> Built:
    program = CountsWithSizes()
    notes = "a deterministic site; the guide samples in another order than the model"
    return built(program.model, program.guide, (count_rows(6, 4),), (count_rows(4, 4),), notes=notes)


class Proportions(nn.Module):
    """A beta latent without event dimensions, ``(B,)``, as the probability of binomial counts of several totals."""

    def __init__(self, features: int = 4) -> None:
        super().__init__()
        self.prior = nn.Parameter(torch.zeros(2))
        self.slopes = nn.Parameter(torch.randn(features))
        self.encoder = mlp(2 * features, HIDDEN, 2)

    def model(self, successes: Tensor, trials: Tensor) -> None:
        pyro.module("proportions", self)
        with pyro.plate("data", len(successes)):
            p = pyro.sample("p", dist.Beta(*softplus(self.prior).add(0.5)))  # (B,)
            logits = p.logit().unsqueeze(-1) + self.slopes
            pyro.sample("successes", dist.Binomial(trials, logits=logits).to_event(1), obs=successes)

    def guide(self, successes: Tensor, trials: Tensor) -> None:
        with pyro.plate("data", len(successes)):
            ones, zeros = (softplus(self.encoder(torch.cat([successes, trials], -1))) + 0.5).unbind(-1)
            pyro.sample("p", dist.Beta(ones, zeros))


def beta_binomial() -> Built:
    program = Proportions()
    batches = []
    for size in (6, 4):
        trials = torch.randint(2, 6, (size, 4)) * 1.0
        batches.append(((trials * torch.rand(size, 4)).floor(), trials))
    return built(program.model, program.guide, *batches, notes="a latent without event dimensions")


class DirichletTopics(nn.Module):
    """Proportions of topics from a Dirichlet distribution, words from their mixture."""

    def __init__(self, words: int = 5, topics: int = 3) -> None:
        super().__init__()
        self.topics = topics
        self.words = nn.Parameter(torch.randn(topics, words))
        self.encoder = mlp(words, HIDDEN, topics)

    def model(self, documents: Tensor) -> None:
        pyro.module("topics", self)
        with pyro.plate("documents", len(documents)):
            theta = pyro.sample("theta", dist.Dirichlet(documents.new_ones(self.topics)))
            probs = theta @ self.words.softmax(-1)
            most = int(documents.sum(-1).max())
            pyro.sample("x", dist.Multinomial(most, probs), obs=documents)

    def guide(self, documents: Tensor) -> None:
        with pyro.plate("documents", len(documents)):
            pyro.sample("theta", dist.Dirichlet(softplus(self.encoder(documents)) + 0.5))


def dirichlet_multinomial() -> Built:
    program = DirichletTopics()
    return built(program.model, program.guide, (count_rows(6, 5),), (count_rows(4, 5),))
