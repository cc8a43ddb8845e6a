"""Programs for sequences: deep Markov models as in Pyro's ``dmm`` example, and a recurrent decoder of text."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import TransformedDistribution
from pyro.distributions.transforms import affine_autoregressive
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from tests.programs.networks import HIDDEN, NormalNet, binary, mlp
from tests.programs.pair import Built, built


def reversed_in_time(sequences: Tensor, lengths: Tensor) -> Tensor:
    """Each of the sequences ``(B, T, ...)`` backwards up to its length, with zeros after it."""
    backwards = torch.zeros_like(sequences)
    for row, length in enumerate(lengths.tolist()):
        backwards[row, :length] = sequences[row, :length].flip(0)
    return backwards


class Combiner(nn.Module):
    """Parameters of q(z_t | z_{t-1}, x_{t:T})."""

    def __init__(self, z_dim: int) -> None:
        super().__init__()
        self.from_z = nn.Linear(z_dim, HIDDEN)
        self.head = nn.Linear(HIDDEN, 2 * z_dim)

    def forward(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = self.head(0.5 * (torch.tanh(self.from_z(z)) + h)).chunk(2, dim=-1)
        return loc, softplus(scale) + 1e-3


class DeepMarkovModel(nn.Module):
    """Batch-major, with a packed sequence as an argument and the latents in a sequential ``pyro.markov`` loop."""

    def __init__(self, features: int = 3, z_dim: int = 2) -> None:
        super().__init__()
        self.emitter = mlp(z_dim, HIDDEN, features)
        self.trans = NormalNet(z_dim, z_dim)
        self.combiner = Combiner(z_dim)
        self.rnn = nn.RNN(features, HIDDEN, batch_first=True)
        self.z_0, self.z_q_0 = nn.Parameter(torch.randn(z_dim)), nn.Parameter(torch.randn(z_dim))
        self.h_0 = nn.Parameter(torch.randn(1, 1, HIDDEN))

    def model(self, x: Tensor, packed: PackedSequence, mask: Tensor, lengths: Tensor, annealing: float = 1.0) -> None:
        pyro.module("dmm", self)
        z = self.z_0.expand(x.size(0), -1)
        with pyro.plate("z_minibatch", len(x)):
            for t in pyro.markov(range(1, x.size(1) + 1)):
                valid = mask[:, t - 1 : t]
                with poutine.scale(scale=annealing):
                    z = pyro.sample(f"z_{t}", dist.Normal(*self.trans(z)).mask(valid).to_event(1))
                emission = dist.Bernoulli(logits=self.emitter(z))
                pyro.sample(f"obs_x_{t}", emission.mask(valid).to_event(1), obs=x[:, t - 1, :])

    def guide(self, x: Tensor, packed: PackedSequence, mask: Tensor, lengths: Tensor, annealing: float = 1.0) -> None:
        pyro.module("dmm", self)
        h_0 = self.h_0.expand(1, x.size(0), -1).contiguous()
        output, _ = self.rnn(packed, h_0)
        h = reversed_in_time(pad_packed_sequence(output, batch_first=True)[0], lengths)
        z = self.z_q_0.expand(x.size(0), -1)
        with pyro.plate("z_minibatch", len(x)):
            for t in pyro.markov(range(1, x.size(1) + 1)):
                normal = dist.Normal(*self.combiner(z, h[:, t - 1, :]))
                with poutine.scale(scale=annealing):
                    z = pyro.sample(f"z_{t}", normal.mask(mask[:, t - 1 : t]).to_event(1))


def _sequences(lengths: list[int], features: int = 3) -> tuple[Tensor, PackedSequence, Tensor, Tensor]:
    """Sequences, longest first, with the example loader's additional arguments."""
    sizes = torch.tensor(lengths)
    mask = (torch.arange(max(lengths)) < sizes[:, None]).to(torch.get_default_dtype())
    x = binary(len(lengths), max(lengths), features) * mask[..., None]
    packed = pack_padded_sequence(reversed_in_time(x, sizes), sizes, batch_first=True)
    return x, packed, mask, sizes


def dmm() -> Built:
    program = DeepMarkovModel()
    batches = (*_sequences([3, 3, 2, 1]), 0.3), _sequences([4, 2, 1])
    return built(program.model, program.guide, *batches, notes="a PackedSequence and an annealing factor as arguments")


class TimeMajorMarkovModel(nn.Module):
    """Time-major: ``(T, B, features)``, with inverse autoregressive flows in the guide."""

    def __init__(self, features: int = 3, z_dim: int = 2) -> None:
        super().__init__()
        self.emitter = mlp(z_dim, HIDDEN, features)
        self.trans = NormalNet(z_dim, z_dim)
        self.combiner = Combiner(z_dim)
        self.rnn = nn.GRU(features, HIDDEN)
        self.iafs = nn.ModuleList([affine_autoregressive(z_dim, hidden_dims=[HIDDEN]) for _ in range(2)])
        self.z_0, self.z_q_0 = nn.Parameter(torch.randn(z_dim)), nn.Parameter(torch.randn(z_dim))

    def model(self, x: Tensor, backwards: Tensor, mask: Tensor, annealing: float = 1.0) -> None:
        pyro.module("dmm", self)
        steps, size = x.shape[:2]
        z = self.z_0.expand(size, -1)
        with pyro.plate("sequences", size):
            for t in pyro.markov(range(steps)):
                valid = mask[t].bool()
                with poutine.scale(scale=annealing):
                    z = pyro.sample(f"z_{t}", dist.Normal(*self.trans(z)).to_event(1).mask(valid))
                emission = dist.Bernoulli(logits=self.emitter(z)).to_event(1)
                pyro.sample(f"x_{t}", emission.mask(valid), obs=x[t])

    def guide(self, x: Tensor, backwards: Tensor, mask: Tensor, annealing: float = 1.0) -> None:
        pyro.module("dmm", self)
        steps, size = x.shape[:2]
        h = self.rnn(backwards)[0].flip(0)  # the padding comes first, in time
        z = self.z_q_0.expand(size, -1)
        with pyro.plate("sequences", size):
            for t in pyro.markov(range(steps)):
                flow = TransformedDistribution(dist.Normal(*self.combiner(z, h[t])), list(self.iafs))
                with poutine.scale(scale=annealing):
                    z = pyro.sample(f"z_{t}", flow.mask(mask[t].bool()))


def dmm_iaf() -> Built:
    program = TimeMajorMarkovModel()
    batches = []
    for lengths in ([3, 3, 2, 1], [2, 2, 1]):
        x, _, mask, _ = _sequences(lengths)
        x, mask = x.transpose(0, 1).contiguous(), mask.t().contiguous()  # (T, B)
        batches.append((x, x.flip(0), mask, 0.5))
    notes = "time comes first: the data are the second dimension of every argument"
    return built(program.model, program.guide, *batches, num_data=lambda x, *_: x.shape[1], notes=notes)


class TextVAE(nn.Module):
    """Recurrent encoder and decoder with ``batch_first``; the decoder reads the true tokens before each one."""

    def __init__(self, words: int = 6, z_dim: int = 2) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.embed = nn.Embedding(words, 4)
        self.encoder = nn.GRU(4, HIDDEN, batch_first=True)
        self.head = NormalNet(HIDDEN, z_dim)
        self.start = nn.Linear(z_dim, HIDDEN)
        self.decoder = nn.GRU(4, HIDDEN, batch_first=True)
        self.output = nn.Linear(HIDDEN, words)

    def model(self, tokens: Tensor) -> None:
        pyro.module("text_vae", self)
        size = tokens.size(0)
        with pyro.plate("sentences", size):
            zeros = torch.zeros(size, self.z_dim, device=tokens.device)
            z = pyro.sample("z", dist.Normal(zeros, 1.0).to_event(1))
            before = self.embed(tokens)[:, :-1]
            inputs = torch.cat([torch.zeros_like(before[:, :1]), before], dim=1)
            h, _ = self.decoder(inputs, torch.tanh(self.start(z)).unsqueeze(0))
            pyro.sample("tokens", dist.Categorical(logits=self.output(h)).to_event(1), obs=tokens)

    def guide(self, tokens: Tensor) -> None:
        pyro.module("text_vae", self)
        with pyro.plate("sentences", tokens.size(0)):
            _, last = self.encoder(self.embed(tokens))
            pyro.sample("z", dist.Normal(*self.head(last.squeeze(0))).to_event(1))


def gru_text() -> Built:
    program = TextVAE()
    batches = (torch.randint(6, (6, 4)),), (torch.randint(6, (4, 5)),)
    return built(program.model, program.guide, *batches, notes="the decoder starts at z.unsqueeze(0): (B, z) only")
