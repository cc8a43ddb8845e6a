"""Running a model and a guide for objectives that are formed per datum: K draws in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.isolation import module_of
from pyro_vae.param_store import no_registration
from pyro_vae.traces import Layout, latents, losses, observations

Program = Callable[..., Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Draws:
    """K draws per datum and their log-probabilities, each ``(K, B)``, in nats and unscaled.

    Attributes:
        log_likelihood: log p(x | z).
        log_prior: log p(z).
        log_guide: log q(z | x) of everything the guide draws, auxiliary sites too.
        log_factor: the guide's factors; the reverse model of an auxiliary variable is one, with -log r(a | x, z).
        loss: what the guide adds to the loss beside the bound, such as a classifier's; 0 where there is nothing.
        model_trace: of the model.
        guide_trace: of the guide.
    """

    log_likelihood: Tensor
    log_prior: Tensor
    log_guide: Tensor
    log_factor: Tensor
    loss: Tensor
    model_trace: Trace
    guide_trace: Trace

    @property
    def log_model(self) -> Tensor:
        """log p(x, z), with log r(a | x, z) where the guide has an auxiliary variable a."""
        return self.log_likelihood + self.log_prior - self.log_factor

    @property
    def log_weight(self) -> Tensor:
        """log p(x, z) - log q(z | x)."""
        return self.log_model - self.log_guide


class Densities(NamedTuple):
    """Log-probabilities of what a trace drew and of what it observed, ``(K, B)`` each."""

    latent: Tensor
    observed: Tensor
    trace: Trace


class Programs:
    """A model and a guide with their arguments, which run in a plate of K particles.

    Args:
        layout: where the data are.
        model: Pyro model.
        guide: Pyro guide.
        args: what both are called with.
        kwargs: the same by keyword.
        num: number of particles K.
    """

    def __init__(self, layout: Layout, model: Program, guide: Program, args: Any, kwargs: Any, num: int) -> None:
        self.layout, self.model, self.guide, self.args, self.kwargs, self.num = layout, model, guide, args, kwargs, num

    def draw(self) -> Draws:
        """Run the guide, then the model at what it drew."""
        trace = self._trace(self.guide)
        return self._weigh(self._densities(trace), trace)

    def draw_without_path(self) -> Draws:
        """The same, with draws that are constants to the gradient, as those of discrete variables are."""
        with _Detached():
            trace = self._trace(self.guide)
        return self._weigh(self._densities(trace), trace)

    def draw_with_path_alone(self, scale: GradientScale | None = None) -> Draws:
        """The same, where the guide's parameters have a gradient through the draws and none through its density.

        The guide runs once to draw. It runs again at these values with its parameters held, for the density: whatever
        its densities depend on, such as deeper latents, still carries the gradient of the draws.

        Args:
            scale: multiplies the gradient by each draw, where it enters the draws from the densities.
        """
        noise = _Noise()
        with noise.kept():
            drawn = self._trace(self.guide)
        trace = drawn.copy()
        for site in latents(trace):
            value = scale.apply(self.layout, site) if scale else site["value"]
            trace.nodes[site["name"]] = {**site, "value": value}
        run = _held(lambda: self.guide_densities(trace), self.guide, self.model)
        with noise.repeated(), _held_parameters():
            densities = run()
        return self._weigh(densities, drawn)

    def guide_densities(self, trace: Trace) -> Densities:
        """Run the guide at the values of a trace."""
        return self._densities(self._trace(poutine.replay(self.guide, trace=trace)))

    def _densities(self, trace: Trace) -> Densities:
        latent, observed = latents(trace), observations(trace)
        return Densities(self.layout.sum(self.num, latent), self.layout.sum(self.num, observed), trace)

    def _weigh(self, guide: Densities, drawn: Trace) -> Draws:
        """Run the model at the guide's values; losses are those of the run that drew, whose parameters are not held."""
        loss = self.layout.sum(self.num, losses(drawn))
        model = self._densities(self._trace(poutine.replay(self.model, trace=guide.trace)))
        return Draws(model.observed, model.latent, guide.latent, guide.observed, loss, model.trace, guide.trace)

    def repeated(self, program: Program) -> Program:
        """The program within a plate of K particles, before all of its own."""
        return pyro.plate("num_particles_vectorized", self.num, dim=-self.layout.depth - 1)(program)

    def trace(self, program: Program) -> Trace:
        """Run a program with the arguments."""
        return poutine.trace(program).get_trace(*self.args, **self.kwargs)

    def _trace(self, program: Program) -> Trace:
        return self.trace(self.repeated(program))


class GradientScale:
    """Multiplies the gradient that enters the draws by a factor per draw, which may be known later than the draws.

    Attributes:
        factor: ``(K, B)``, to be set before the gradient is taken.
    """

    def __init__(self) -> None:
        self.factor = torch.ones(())

    def apply(self, layout: Layout, site: Any) -> Tensor:
        """The site's value; what is computed from it sends its gradient back scaled."""
        value, event_dim = site["value"], site["fn"].event_dim
        if not value.requires_grad:
            return value
        value = value.clone()
        value.register_hook(lambda gradient: gradient * layout.spread(site, self.factor, event_dim=event_dim))
        return value


class _Detached(Messenger):
    """Draws without a gradient."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["value"], Tensor) and not msg["is_observed"]:
            msg["value"] = msg["value"].detach()


class _HeldStatements(Messenger):
    """``pyro.param`` statements whose values have no gradient."""

    def _pyro_post_param(self, msg: Any) -> None:
        msg["value"] = msg["value"].detach()


@contextmanager
def _held_parameters() -> Iterator[None]:
    # The parameters' own run told Pyro of them; what is held must not take their place in its store.
    with no_registration(), poutine.block(hide_types=["param"]), _HeldStatements():
        yield


class _Held(nn.Module):
    def __init__(self, program: Program, owners: list[nn.Module]) -> None:
        super().__init__()
        self.owners, self._program = nn.ModuleList(owners), program

    def forward(self) -> Any:
        return self._program()


def _held(program: Callable[[], T], *owners: Program) -> Callable[[], T]:
    """The program with the modules' parameters as constants, but for those of reverse models r(a | x, z).

    These belong to the model though the guide has them; their module is called ``reverse``. Of the model's parameters
    the guide may use some, as that of a ladder VAE does; in its density they are the guide's.
    """
    modules = {id(m): m for m in map(module_of, owners) if m is not None}
    whole = _Held(program, list(modules.values()))
    tensors: dict[str, Tensor] = {}
    # Each module once: a VampPrior's guide is both a part of the model and the guide itself, and what is swapped under
    # two names would not be swapped back.
    for prefix, module in whole.named_modules():
        own = {_join(prefix, k): p.detach() for k, p in module.named_parameters(recurse=False)}
        tensors |= {k: p for k, p in own.items() if "reverse" not in k.split(".")}
        # Clones, so that running statistics move once.
        tensors |= {_join(prefix, k): b.clone() for k, b in module.named_buffers(recurse=False)}
    return lambda: torch.func.functional_call(whole, tensors, (), tie_weights=False)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


class _Noise:
    """The random numbers that a program takes outside of its sample statements, dropout's say: kept, then repeated."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep those of the programs that run within."""
        sampling = _Sampling()
        with sampling, _Keep(self.values, sampling):
            yield

    @contextmanager
    def repeated(self) -> Iterator[None]:
        """Give them again, in their order."""
        with _Repeat(self.values):
            yield


class _Sampling(Messenger):
    """Knows whether a sample statement is drawing."""

    active = False

    def _pyro_sample(self, msg: Any) -> None:
        self.active = True

    def _pyro_post_sample(self, msg: Any) -> None:
        self.active = False


class _Keep(TorchDispatchMode):
    def __init__(self, values: list[Any], sampling: _Sampling) -> None:
        super().__init__()
        self.values, self.sampling = values, sampling

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags and not self.sampling.active:
            self.values.append(found.clone() if isinstance(found, Tensor) else found)
        return found


class _Repeat(TorchDispatchMode):
    def __init__(self, values: list[Any]) -> None:
        super().__init__()
        self.values = iter(values)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        value = next(self.values, None)
        if value is None:  # of a density that is itself estimated, which the first run did not ask for
            return func(*args, **(kwargs or {}))
        return args[0].copy_(value) if func._schema.is_mutable else value
