"""Normalizing flows as prior and as guide, from zuko by Pyro's wrapper, as in Pyro's two tutorials."""

from __future__ import annotations

from types import ModuleType

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from tests.programs.networks import HIDDEN, NormalNet, binary, mlp
from tests.programs.pair import Built, built


def _zuko() -> ModuleType:
    """Import zuko only here, because its import turns torch's validation off."""
    before = torch.distributions.Distribution._validate_args
    import zuko

    torch.distributions.Distribution.set_default_validate_args(before)
    return zuko


class FlowPriorVAE(nn.Module):
    """As the tutorial ``vae_flow_prior``: a masked autoregressive flow in place of p(z) = N(0, I)."""

    def __init__(self, features: int = 6, z_dim: int = 2) -> None:
        super().__init__()
        self.prior = _zuko().flows.MAF(features=z_dim, transforms=2, hidden_features=(HIDDEN,))
        self.encoder = NormalNet(features, z_dim)
        self.decoder = mlp(z_dim, HIDDEN, features)

    def model(self, x: Tensor) -> None:
        from pyro.contrib.zuko import ZukoToPyro

        pyro.module("prior", self.prior)
        pyro.module("decoder", self.decoder)
        with pyro.plate("batch", len(x)):
            z = pyro.sample("z", ZukoToPyro(self.prior()))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("batch", len(x)):
            pyro.sample("z", dist.Normal(*self.encoder(x)).to_event(1))


def vae_flow_prior() -> Built:
    program = FlowPriorVAE()
    return built(program.model, program.guide, (binary(6, 6),), (binary(4, 6),), notes="a distribution of zuko's")


def _correlated(z: Tensor) -> dist.MultivariateNormal:
    """Two observed numbers around the first two latents, correlated by the third."""
    rho = z[..., 2].tanh() * 0.9
    ones = torch.ones_like(rho)
    covariance = 0.1 * torch.stack([ones, rho, rho, ones], dim=-1).unflatten(-1, (2, 2))
    return dist.MultivariateNormal(z[..., :2], covariance)


def svi_flow_guide() -> Built:
    """As the tutorial ``svi_flow_guide``: plain functions; five observations of each datum in an inner plate."""
    from pyro.contrib.zuko import ZukoToPyro

    prior = dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1)
    flow = _zuko().flows.NSF(features=3, context=10, transforms=1, hidden_features=(HIDDEN,))
    flow.transform = flow.transform.inv

    def model(x: Tensor) -> None:
        with pyro.plate("batch", len(x)):
            z = pyro.sample("z", prior)
            with pyro.plate("obs", 5):
                pyro.sample("x", _correlated(z), obs=x.transpose(0, 1))

    def guide(x: Tensor) -> None:
        pyro.module("flow", flow)
        with pyro.plate("batch", len(x)):
            pyro.sample("z", ZukoToPyro(flow(x.flatten(-2))))

    batches = (torch.randn(6, 5, 2),), (torch.randn(4, 5, 2),)
    objective = lambda: Trace_ELBO(num_particles=3, vectorize_particles=True)  # noqa: E731
    notes = "the model has no parameters; particles in a plate in front; the inner plate is left of the data's"
    return built(model, guide, *batches, objective=objective, notes=notes)
