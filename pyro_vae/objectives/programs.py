"""Running a model and a guide for objectives that are formed per datum: K draws in one run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae._core.checks import refusal
from pyro_vae._core.layout import Layout
from pyro_vae._core.owners import Owners
from pyro_vae._core.param_store import no_registration
from pyro_vae._core.runs import run
from pyro_vae._core.traces import is_auxiliary, latents, observations
from pyro_vae._core.types import Program
from pyro_vae._core.watch import leaves
from pyro_vae._core.ways import Runs, joined

T = TypeVar("T")


@dataclass(frozen=True)
class Draws:
    """K draws per datum and their log-probabilities, each ``(K, B)``, in nats and unscaled.

    Attributes:
        log_likelihood: log p(x | z).
        log_prior: log p(z).
        log_guide: log q(z | x) of everything the guide draws, auxiliary sites too.
        log_factor: reverse models of the guide's auxiliary variables, as factors with -log r(a | x, z).
        loss: what the guide adds to the loss beside the bound, such as a classifier's; 0 without such a factor.
        runs: how the programs ran.
        num: K.
        model_traces: of the model's runs, one or K.
        guide_traces: of the guide's runs, one or K.
    """

    log_likelihood: Tensor
    log_prior: Tensor
    log_guide: Tensor
    log_factor: Tensor
    loss: Tensor
    runs: Runs
    num: int
    model_traces: Sequence[Trace]
    guide_traces: Sequence[Trace]

    @property
    def model_trace(self) -> Trace:
        """Of the model's first run."""
        return self.model_traces[0]

    @property
    def guide_trace(self) -> Trace:
        """Of the guide's first run."""
        return self.guide_traces[0]

    @property
    def latent(self) -> Trace:
        """The guide's latents, ``(K, *plates, *event)``."""
        return self.runs.in_front(self.guide_traces, self.num)

    @property
    def log_model(self) -> Tensor:
        """log p(x, z), with log r(a | x, z) if the guide has an auxiliary variable a."""
        return self.log_likelihood + self.log_prior - self.log_factor

    @property
    def kl(self) -> Tensor:
        """log q(z | x) - log p(z), whose mean is the KL; -log r(a | x, z) of an auxiliary variable is added."""
        kl = self.log_guide + self.log_factor - self.log_prior
        return kl if kl.dim() else kl.expand_as(self.log_likelihood)

    @property
    def log_weight(self) -> Tensor:
        """log p(x, z) - log q(z | x)."""
        return self.log_model - self.log_guide


class GuideDensity(NamedTuple):
    """Log-probabilities of a guide's runs, ``(K, B)`` each."""

    latent: Tensor
    factor: Tensor
    traces: Sequence[Trace]


class Programs:
    """A model and a guide with their arguments, run for K draws of each datum.

    Args:
        runs: how they run.
        owners: their modules.
        guide: Pyro guide.
        args: what both are called with.
        kwargs: the same by keyword.
        num: number of draws K.
    """

    def __init__(self, runs: Runs, owners: Owners, guide: Program, args: Any, kwargs: Any, num: int) -> None:
        self.runs, self.owners, self.guide, self.args, self.kwargs, self.num = runs, owners, guide, args, kwargs, num

    @property
    def model(self) -> Program:
        """The Pyro model."""
        return self.runs.model

    @property
    def layout(self) -> Layout:
        """Where draws and data are in the shapes of the guide."""
        return self.runs.guide_layout

    def draw(self) -> Draws:
        """Run the guide, then the model at what it drew."""
        drawn = self._drawn()
        models = self._models(drawn)
        return self._weigh(self._density(drawn, models), models, drawn)

    def draw_without_path(self) -> Draws:
        """The same, with draws that are constants to the gradient, as those of discrete variables are."""
        with _Detached():
            drawn = self._drawn()
        models = self._models(drawn)
        return self._weigh(self._density(drawn, models), models, drawn)

    def draw_with_path_alone(self, scale: GradientScale | None = None) -> Draws:
        """The same, where the guide's parameters have a gradient through the draws and none through its density.

        The guide runs once to draw. It runs again at these values with its parameters held, for the density: whatever
        its densities depend on, such as deeper latents, still carries the gradient of the draws.

        Args:
            scale: multiplies the gradient by each draw, as it enters the draws from the densities.
        """
        noise = _Noise()
        with noise.kept():
            drawn = self._drawn()
        each = self.num // len(drawn)
        at = [self._scaled(trace, scale, slice(k * each, (k + 1) * each)) for k, trace in enumerate(drawn)]
        models = self._models(at)
        held = _held(lambda: self._density(self._drawn(at), models), self.owners)
        with noise.repeated(), _held_parameters():
            density = held()
        if any(self.layout.factors(trace) for trace in density.traces):  # reverse models, whose parameters are trained
            with noise.repeated():
                density = density._replace(factor=self._density(self._drawn(at), models).factor)
        return self._weigh(density, models, drawn)

    def check_held(self) -> None:
        """Refuse a guide whose parameters cannot be held, since they are in no module and not in Pyro's store.

        Raises:
            ValueError: the message gives the shape of one.
        """
        with torch.enable_grad():
            with _Detached(auxiliary=True):
                following = self._drawn()[0]
            points = [s for s in latents(following) if not is_auxiliary(s) and s["value"].requires_grad]
            if points and any(map(is_auxiliary, latents(following))) and not self.layout.factors(following):
                rule = "latents that follow from auxiliary sites must do so without parameters"
                what = f"site {points[0]['name']!r}, which depends on some"
                raise refusal(self.layout.owner, rule, what, "Sample the latents themselves, or use IWAE or ELBO")
            with _Detached():
                drawn = self._drawn()
            models = self._models(drawn)
            held = _held(lambda: self._density(self._drawn(drawn), models), self.owners)
            with _held_parameters():  # twice: tensors that a run makes for gradients of its own are no parameters
                runs = [{id(leaf): leaf for leaf in leaves(held().latent.sum())} for _ in range(2)]
        loose = [leaf for key, leaf in runs[0].items() if key in runs[1]]
        if loose:
            rule = "the guide's parameters must be in modules or in pyro.param, to be held in its density"
            what = f"a tensor of shape {tuple(loose[0].shape)} elsewhere"
            raise refusal(self.layout.owner, rule, what, "Keep it in an nn.Module, or use IWAE or ELBO")

    def _scaled(self, drawn: Trace, scale: GradientScale | None, rows: slice) -> Trace:
        trace = drawn.copy()
        for site in latents(trace):
            value = scale.apply(self.layout, site, rows) if scale else site["value"]
            trace.nodes[site["name"]] = {**site, "value": value}
        return trace

    def density_at(self, latent: Trace, models: Sequence[Trace]) -> GuideDensity:
        """Run the guide at the latents of a run of the programs as they are, for K = 1."""
        return self._density(self._drawn([latent]), models)

    def _drawn(self, at: Sequence[Trace] | None = None) -> list[Trace]:
        return run(self.guide, self.layout, self.runs.axes, self.num, self.args, self.kwargs, at=at)

    def _models(self, drawn: Sequence[Trace]) -> list[Trace]:
        at, layout = self.runs.at(drawn, self.num), self.runs.model_layout
        return run(self.model, layout, self.runs.axes, self.num, self.args, self.kwargs, at=at)

    def _density(self, traces: Sequence[Trace], models: Sequence[Trace]) -> GuideDensity:
        each = self.num // len(traces)
        masks = models if len(models) == len(traces) else [None] * len(traces)
        pairs = list(zip(traces, masks, strict=True))
        latent = joined([self.layout.sum(each, latents(trace), model) for trace, model in pairs])
        return GuideDensity(latent, joined([self.layout.sum(each, self.layout.factors(t)) for t in traces]), traces)

    def _weigh(self, guide: GuideDensity, models: Sequence[Trace], drawn: Sequence[Trace]) -> Draws:
        """Losses are those of the run that drew, whose parameters are not held."""
        loss = joined([self.layout.sum(self.num // len(drawn), self.layout.losses(trace)) for trace in drawn])
        layout, each = self.runs.model_layout, self.num // len(models)
        observed = joined([layout.sum(each, observations(trace)) for trace in models])
        prior = joined([layout.sum(each, latents(trace)) for trace in models])
        return Draws(observed, prior, guide.latent, guide.factor, loss, self.runs, self.num, models, guide.traces)


class GradientScale:
    """Multiplies the gradient that enters the draws by a factor per draw, which may be known later than the draws.

    Attributes:
        factor: ``(K, B)``, to be set before the gradient is taken.
    """

    def __init__(self) -> None:
        self.factor = torch.ones(())

    def apply(self, layout: Layout, site: Any, rows: slice) -> Tensor:
        """The site's value, of some of the draws; what is computed from it sends its gradient back scaled."""
        value, event_dim = site["value"], site["fn"].event_dim
        if not value.requires_grad:
            return value
        value = value.clone()
        value.register_hook(lambda grad: grad * layout.spread(site, self.factor[rows], event_dim=event_dim))
        return value


class _Detached(Messenger):
    """Draws without a gradient, or those of auxiliary sites alone."""

    def __init__(self, *, auxiliary: bool = False) -> None:
        super().__init__()
        self.auxiliary = auxiliary

    def _pyro_post_sample(self, msg: Any) -> None:
        if self.auxiliary and not msg["infer"].get("is_auxiliary"):
            return
        if isinstance(msg["value"], Tensor) and not msg["is_observed"]:
            msg["value"] = msg["value"].detach()


class _HeldStatements(Messenger):
    """``pyro.param`` statements whose values have no gradient."""

    def _pyro_post_param(self, msg: Any) -> None:
        msg["value"] = msg["value"].detach()


@contextmanager
def _held_parameters() -> Iterator[None]:
    # The parameters' own run told Pyro of them; what is held must not take their place in its store.
    with no_registration(), poutine.block(hide_types=["param"]), _HeldStatements(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not registered in the param store")  # they are held
        yield


class _Held(nn.Module):
    def __init__(self, program: Program, owners: list[nn.Module]) -> None:
        super().__init__()
        self.owners, self._program = nn.ModuleList(owners), program

    def forward(self) -> Any:
        return self._program()


def _held(program: Callable[[], T], owners: Owners) -> Callable[[], T]:
    """The program with the modules' parameters as constants.

    Of the model's parameters the guide may use some, as that of a ladder VAE does; in its density they are the guide's.
    """
    modules = {id(m): m for m in owners.modules.values()}
    whole = _Held(program, list(modules.values()))
    tensors: dict[str, Tensor] = {}
    # Each module once: a VampPrior's guide is both a part of the model and the guide itself, and what is swapped under
    # two names would not be swapped back.
    for prefix, module in whole.named_modules():
        tensors |= {_join(prefix, k): p.detach() for k, p in module.named_parameters(recurse=False)}
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
