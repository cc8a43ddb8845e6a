"""Run a model and a guide for K particles of each datum, for objectives per datum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._core.checks import refusal
from pyro_vae._core.layout import Layout
from pyro_vae._core.modes import Runs, joined
from pyro_vae._core.owners import Owners
from pyro_vae._core.runs import run
from pyro_vae._core.traces import is_auxiliary, latents, observations
from pyro_vae._core.types import Program
from pyro_vae._core.watch import leaves
from pyro_vae.objectives.held import DetachedSamples, RepeatedNoise, held_parameters, hold_modules


@dataclass(frozen=True)
class Particles:
    """K particles per datum with their log-probabilities, each ``(K, B)``, in nats and unscaled.

    Attributes:
        log_likelihood: log p(x | z).
        log_prior: log p(z).
        log_guide: log q(z | x) of all sites of the guide, including auxiliary ones.
        log_factor: -log r(a | x, z) of the reverse models of auxiliary variables.
        loss: terms of the guide that are added to the loss, such as a classifier's; 0 without such a factor.
        runs: the way in which the programs ran.
        num: K.
        model_traces: traces of the model's runs, one or K.
        guide_traces: traces of the guide's runs, one or K.
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
        """Trace of the model's first run."""
        return self.model_traces[0]

    @property
    def guide_trace(self) -> Trace:
        """Trace of the guide's first run."""
        return self.guide_traces[0]

    @property
    def latent(self) -> Trace:
        """The guide's latents, ``(K, *plates, *event)``."""
        return self.runs.stack(self.guide_traces, self.num)

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
    """A model and a guide with their arguments, run for K particles of each datum.

    Args:
        runs: the way in which they run.
        owners: their modules.
        guide: Pyro guide.
        args: positional arguments of both.
        kwargs: keyword arguments of both.
        num: number of particles K.
    """

    def __init__(self, runs: Runs, owners: Owners, guide: Program, args: Any, kwargs: Any, num: int) -> None:
        self.runs, self.owners, self.guide, self.args, self.kwargs, self.num = runs, owners, guide, args, kwargs, num

    @property
    def model(self) -> Program:
        """The Pyro model."""
        return self.runs.model

    @property
    def layout(self) -> Layout:
        """Positions of particles and data in the shapes of the guide."""
        return self.runs.guide_layout

    def sample(self) -> Particles:
        """Run the guide, then the model at its samples."""
        guides = self._run_guide()
        models = self._run_model(guides)
        return self._particles(self._density(guides, models), models, guides)

    def sample_detached(self) -> Particles:
        """Run both with samples that are constants for the gradient, as those of discrete variables are."""
        with DetachedSamples():
            guides = self._run_guide()
        models = self._run_model(guides)
        return self._particles(self._density(guides, models), models, guides)

    def sample_pathwise(self, scale: GradientScale | None = None) -> Particles:
        """Run both so that the guide's parameters get a gradient through the samples and none through its density.

        The guide runs once to sample, and again at the samples with its parameters held constant, for the density. The
        inputs of its densities, such as deeper latents, still carry the gradient of the samples.

        Args:
            scale: factors of the gradient that the densities send into each sample.
        """
        noise = RepeatedNoise()
        with noise.recorded():
            guides = self._run_guide()
        each = self.num // len(guides)
        at = [self._scaled(trace, scale, slice(k * each, (k + 1) * each)) for k, trace in enumerate(guides)]
        models = self._run_model(at)
        held = hold_modules(lambda: self._density(self._run_guide(at), models), self.owners)
        with noise.repeated(), held_parameters():
            density = held()
        if any(self.layout.factors(trace) for trace in density.traces):  # the parameters of reverse models are trained
            with noise.repeated():
                density = density._replace(factor=self._density(self._run_guide(at), models).factor)
        return self._particles(density, models, guides)

    def generate(self, guides: Sequence[Trace] | None = None) -> list[Trace]:
        """Traces of the model at samples of the guide as constants, or at samples of its own prior."""
        if guides is None:
            layout = self.runs.model_layout
            return run(self.model, layout, self.runs.axes, self.num, self.args, self.kwargs)
        constant = [trace.copy() for trace in guides]
        for trace in constant:
            for site in latents(trace):
                trace.nodes[site["name"]] = {**site, "value": site["value"].detach()}
        return self._run_model(constant)

    def check_holdable(self) -> None:
        """Raise if parameters of the guide cannot be held constant: they are neither in a module nor in Pyro's store.

        Raises:
            ValueError: with the shape of such a parameter.
        """
        with torch.enable_grad():
            with DetachedSamples(auxiliary=True):
                following = self._run_guide()[0]
            points = [s for s in latents(following) if not is_auxiliary(s) and s["value"].requires_grad]
            if points and any(map(is_auxiliary, latents(following))) and not self.layout.factors(following):
                rule = "latents determined by auxiliary sites must not depend on parameters"
                what = f"site {points[0]['name']!r}, which does"
                raise refusal(self.layout.owner, rule, what, "Sample the latents themselves, or use IWAE or ELBO")
            with DetachedSamples():
                guides = self._run_guide()
            models = self._run_model(guides)
            held = hold_modules(lambda: self._density(self._run_guide(guides), models), self.owners)
            with held_parameters():  # twice: tensors that a run creates for inner gradients are not parameters
                runs = [{id(leaf): leaf for leaf in leaves(held().latent.sum())} for _ in range(2)]
        loose = [leaf for key, leaf in runs[0].items() if key in runs[1]]
        if loose:
            rule = "the guide's parameters must be in modules or in pyro.param, to be held constant in its density"
            what = f"a tensor of shape {tuple(loose[0].shape)} elsewhere"
            raise refusal(self.layout.owner, rule, what, "Keep it in an nn.Module, or use IWAE or ELBO")

    def _scaled(self, guide_trace: Trace, scale: GradientScale | None, rows: slice) -> Trace:
        trace = guide_trace.copy()
        for site in latents(trace):
            value = scale.apply(self.layout, site, rows) if scale else site["value"]
            trace.nodes[site["name"]] = {**site, "value": value}
        return trace

    def density_at(self, latent: Trace, models: Sequence[Trace]) -> GuideDensity:
        """Run the guide at given latents, for K = 1."""
        return self._density(self._run_guide([latent]), models)

    def _run_guide(self, at: Sequence[Trace] | None = None) -> list[Trace]:
        return run(self.guide, self.layout, self.runs.axes, self.num, self.args, self.kwargs, at=at)

    def _run_model(self, guides: Sequence[Trace]) -> list[Trace]:
        at, layout = self.runs.for_model(guides, self.num), self.runs.model_layout
        return run(self.model, layout, self.runs.axes, self.num, self.args, self.kwargs, at=at)

    def _density(self, traces: Sequence[Trace], models: Sequence[Trace]) -> GuideDensity:
        each = self.num // len(traces)
        masks = models if len(models) == len(traces) else [None] * len(traces)
        pairs = list(zip(traces, masks, strict=True))
        latent = joined([self.layout.sum(each, latents(trace), model) for trace, model in pairs])
        return GuideDensity(latent, joined([self.layout.sum(each, self.layout.factors(t)) for t in traces]), traces)

    def _particles(self, guide: GuideDensity, models: Sequence[Trace], guides: Sequence[Trace]) -> Particles:
        # Losses of the run that sampled, in which parameters are not held constant.
        loss = joined([self.layout.sum(self.num // len(guides), self.layout.losses(trace)) for trace in guides])
        layout, each = self.runs.model_layout, self.num // len(models)
        observed = joined([layout.sum(each, observations(trace)) for trace in models])
        prior = joined([layout.sum(each, latents(trace)) for trace in models])
        return Particles(observed, prior, guide.latent, guide.factor, loss, self.runs, self.num, models, guide.traces)


class GradientScale:
    """Factors of the gradient that enters the samples, which may be set after sampling.

    Attributes:
        factor: ``(K, B)``, set before the gradient is taken.
    """

    def __init__(self) -> None:
        self.factor = torch.ones(())

    def apply(self, layout: Layout, site: Any, rows: slice) -> Tensor:
        """Return the value of a site, for some of the particles, with a hook that scales its gradient."""
        value, event_dim = site["value"], site["fn"].event_dim
        if not value.requires_grad:
            return value
        value = value.clone()
        value.register_hook(lambda grad: grad * layout.broadcast(site, self.factor[rows], event_dim=event_dim))
        return value
