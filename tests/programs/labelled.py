"""Programs with labels for some batches: Pyro's SS-VAE and scANVI examples, and Pyro's CEVAE."""

from __future__ import annotations

from itertools import pairwise

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.cevae import CEVAE, TraceCausalEffect_ELBO
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import one_hot, softplus

from tests.programs.networks import HIDDEN, NormalNet, binary, join, mlp
from tests.programs.pair import Built, built


def one_hot_labels(size: int, classes: int) -> Tensor:
    return one_hot(torch.randint(classes, (size,)), classes).to(torch.get_default_dtype())


class M2(nn.Module):
    """As Pyro's ``ss_vae_M2`` example: ``plate("data")`` without a size, classes to be enumerated in the guide."""

    def __init__(self, features: int = 5, z_dim: int = 2, classes: int = 3) -> None:
        super().__init__()
        self.z_dim, self.classes, self.multiplier = z_dim, classes, 46.0
        self.encoder_y = nn.Sequential(mlp(features, HIDDEN, classes), nn.Softmax(dim=-1))
        self.encoder_z = NormalNet(features + classes, z_dim)
        self.decoder = nn.Sequential(mlp(z_dim + classes, HIDDEN, features), nn.Sigmoid())

    def model(self, xs: Tensor, ys: Tensor | None = None) -> Tensor:
        pyro.module("m2", self)
        size = xs.size(0)
        with pyro.plate("data"):
            zeros = torch.zeros(size, self.z_dim, dtype=xs.dtype, device=xs.device)
            zs = pyro.sample("z", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            uniform = torch.ones(size, self.classes, dtype=xs.dtype, device=xs.device) / self.classes
            ys = pyro.sample("y", dist.OneHotCategorical(uniform), obs=ys)
            probs = self.decoder(join([zs, ys]))
            pyro.sample("x", dist.Bernoulli(probs, validate_args=False).to_event(1), obs=xs)
            return probs

    def guide(self, xs: Tensor, ys: Tensor | None = None) -> None:
        with pyro.plate("data"):
            if ys is None:
                ys = pyro.sample("y", dist.OneHotCategorical(self.encoder_y(xs)))
            loc, scale = self.encoder_z([xs, ys])
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def model_classify(self, xs: Tensor, ys: Tensor | None = None) -> None:
        pyro.module("m2", self)
        with pyro.plate("data"):
            if ys is not None:
                with poutine.scale(scale=self.multiplier):
                    pyro.sample("y_aux", dist.OneHotCategorical(self.encoder_y(xs)), obs=ys)

    def guide_classify(self, xs: Tensor, ys: Tensor | None = None) -> None:
        """The model without latent sites."""


def ss_vae_m2() -> Built:
    program = M2()
    return built(
        program.model,
        config_enumerate(program.guide, "parallel", expand=True),
        (binary(6, 5),),
        (binary(4, 5), one_hot_labels(4, 3)),
        objective=lambda: TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
        notes="plate without a size; y enumerated in the guide, and observed in the second batch",
    )


def ss_vae_m2_classify() -> Built:
    program = M2()
    batches = [(binary(size, 5), one_hot_labels(size, 3)) for size in (6, 4)]
    idle = tuple(f"{name}.{key}" for name in ("encoder_z", "decoder") for key in getattr(program, name).state_dict())
    notes = "the classifier's loss alone: no latent site, and a guide that does nothing"
    return built(program.model_classify, program.guide_classify, *batches, idle=idle, notes=notes)


def normalized(*sizes: int) -> nn.Sequential:
    """Linear layers with batch normalization, which is also the last layer."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.LeakyReLU()]
    return nn.Sequential(*layers[:-1])


def halves(rows: Tensor) -> tuple[Tensor, Tensor]:
    first, second = rows.reshape(*rows.shape[:-1], 2, -1).unbind(-2)
    return first, second


class Flattened(nn.Module):
    """Batch normalization of an input with an enumeration dimension in addition to its two."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.fc = normalized(*sizes)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        rows = join(list(inputs))
        hidden = self.fc(rows.reshape(-1, rows.size(-1)))
        loc, scale = halves(hidden.reshape(*rows.shape[:-1], hidden.size(-1)))
        return loc, softplus(scale) + 1e-3


class CellAnnotation(nn.Module):
    """As Pyro's ``scanvi`` example: counts, a latent size of each cell, and a classification loss as a factor."""

    def __init__(self, genes: int = 4, classes: int = 3, z_dim: int = 2, alpha: float = 0.1) -> None:
        super().__init__()
        self.genes, self.classes, self.z_dim, self.alpha = genes, classes, z_dim, alpha
        self.scale_factor = 1.0 / (6 * genes)
        self.z2_decoder = Flattened(z_dim + classes, HIDDEN, 2 * z_dim)
        self.x_decoder = normalized(z_dim, HIDDEN, 2 * genes)
        self.z2l_encoder = normalized(genes, HIDDEN, 2 * z_dim + 2)
        self.classifier = normalized(z_dim, HIDDEN, classes)
        self.z1_encoder = Flattened(classes + z_dim, HIDDEN, 2 * z_dim)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("scanvi", self)
        theta = pyro.param("inverse_dispersion", 10.0 * x.new_ones(self.genes), constraint=constraints.positive)
        with pyro.plate("batch", len(x)), poutine.scale(scale=self.scale_factor):
            z1 = pyro.sample("z1", dist.Normal(0, x.new_ones(self.z_dim)).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(self.classes)), obs=y)
            z2 = pyro.sample("z2", dist.Normal(*self.z2_decoder(z1, y)).to_event(1))
            size = pyro.sample("l", dist.LogNormal(1.0, x.new_ones(1)).to_event(1))
            gate_logits, fractions = halves(self.x_decoder(z2))
            fractions = fractions.softmax(dim=-1)
            logits = (size * fractions + 1e-6).log() - (theta + 1e-6).log()
            counts = dist.ZeroInflatedNegativeBinomial(gate_logits=gate_logits, total_count=theta, logits=logits)
            pyro.sample("x", counts.to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("scanvi", self)
        with pyro.plate("batch", len(x)), poutine.scale(scale=self.scale_factor):
            loc, scale = halves(self.z2l_encoder(x))
            scale = softplus(scale) + 1e-3
            pyro.sample("l", dist.LogNormal(loc[..., -1:], scale[..., -1:]).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(loc[..., :-1], scale[..., :-1]).to_event(1))
            classes = dist.OneHotCategorical(logits=self.classifier(z2))
            if y is None:
                y = pyro.sample("y", classes)
            else:  # the guide's log-probability enters the loss with the other sign
                pyro.factor("classification_loss", -self.alpha * classes.log_prob(y), has_rsample=False)
            pyro.sample("z1", dist.Normal(*self.z1_encoder(z2, y)).to_event(1))


def scanvi() -> Built:
    program = CellAnnotation()
    batches = (torch.randint(7, (6, 4)) * 1.0,), (torch.randint(7, (4, 4)) * 1.0, one_hot_labels(4, 3))
    return built(
        program.model,
        config_enumerate(program.guide, "parallel", expand=True),
        *batches,
        objective=lambda: TraceEnum_ELBO(strict_enumeration_warning=False),
        idle=("0.bias", "3.bias"),  # batch normalization cancels them
        notes="a scale around all sites; with labels the guide has a factor that is a loss and no density",
    )


def cevae() -> Built:
    program = CEVAE(feature_dim=4, outcome_dist="normal", latent_dim=2, hidden_dim=HIDDEN, num_layers=2)
    whole, part = ((torch.randn(size, 4), binary(size), torch.randn(size)) for size in (6, 4))
    batches = whole, (*part, 12)  # of 12 data
    notes = "the guide observes t and y, marked auxiliary; their log-probabilities are losses; plate(subsample=x)"
    return built(program.model, program.guide, *batches, objective=TraceCausalEffect_ELBO, notes=notes)


class Temperature(nn.Module):
    """A relaxed class whose temperature is an attribute that the training loop lowers."""

    def __init__(self, features: int = 5, classes: int = 3) -> None:
        super().__init__()
        self.temperature = 0.7
        self.classes = classes
        self.classify = mlp(features, HIDDEN, classes)
        self.decode = mlp(classes, HIDDEN, features)

    def model(self, x: Tensor) -> None:
        pyro.module("temperature", self)
        heat = x.new_tensor(self.temperature)
        with pyro.plate("data", len(x)):
            uniform = x.new_zeros(len(x), self.classes)
            y = pyro.sample("y", dist.RelaxedOneHotCategorical(heat, logits=uniform))
            pyro.sample("x", dist.Bernoulli(logits=self.decode(y)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("temperature", self)
        with pyro.plate("data", len(x)):
            heat = x.new_tensor(self.temperature)
            pyro.sample("y", dist.RelaxedOneHotCategorical(heat, logits=self.classify(x)))


def temperature() -> Built:
    program = Temperature()
    notes = "a plain attribute of the module enters both densities"
    return built(program.model, program.guide, (binary(6, 5),), (binary(4, 5),), objective=Trace_ELBO, notes=notes)


class SummedMixture(nn.Module):
    """A mixture of normal distributions as the prior; its component is summed out in the model, not in the guide."""

    def __init__(self, features: int = 5, z_dim: int = 2, components: int = 3) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(components))
        self.means = nn.Parameter(torch.randn(components, z_dim))
        self.encoder = NormalNet(features, z_dim)
        self.decoder = mlp(z_dim, HIDDEN, features)

    def model(self, x: Tensor) -> None:
        pyro.module("mixture", self)
        with pyro.plate("data", len(x)):
            component = pyro.sample("c", dist.Categorical(logits=self.weights), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(self.means[component], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*self.encoder(x)).to_event(1))


def summed_mixture() -> Built:
    program = SummedMixture()
    batches = (torch.randn(6, 5),), (torch.randn(4, 5),)
    objective = lambda: TraceEnum_ELBO(max_plate_nesting=1)  # noqa: E731
    notes = "a discrete site of the model that the guide does not sample"
    return built(program.model, program.guide, *batches, objective=objective, notes=notes)
