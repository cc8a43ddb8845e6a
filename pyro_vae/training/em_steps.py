"""The E-steps of EM: distributions of the latents, with the terms of the ELBO that the M-step maximises."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyro_vae._core.contexts import validating
from pyro_vae._core.owners import Owners
from pyro_vae.evaluation.hmc import HMC, TARGET_ACCEPTANCE, StepSizes
from pyro_vae.evaluation.latent_density import LatentDensity
from pyro_vae.models import Components, MixtureModel

EStep = Literal["exact", "hard", "monte-carlo", "gradient"]
_GAIN = 0.3  # of the stochastic approximation of the log step size, divided by the root of the number of E-steps


class Latents(ABC):
    """A distribution of the latents of every datum."""

    acceptance: float | None = None
    x: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the ELBO."""
        return self.x.dtype

    @abstractmethod
    def expect(self, rows: Tensor) -> None:
        """The E-step for these data."""

    @abstractmethod
    def bound(self, rows: Tensor) -> float:
        """The ELBO of these data at the present parameters, in nats per datum; see :class:`EMResult`."""

    @abstractmethod
    def backward(self, rows: Tensor) -> None:
        """Add the gradient of minus :meth:`bound` to the parameters'."""

    def maximise(self, rows: Tensor) -> bool:
        """The M-step in closed form; False if there is none."""
        return False


class Responsibilities(Latents):
    """Probabilities of the components of a mixture.

    Args:
        model: the mixture.
        x: ``(N, *data_shape)``.
        e_step: ``"exact"``, the posterior; ``"hard"``, its mode; ``"monte-carlo"``, frequencies of samples of it;
            ``"gradient"``, the posterior at the parameters of every gradient step.
        num_samples: number of samples per datum.
    """

    def __init__(self, model: MixtureModel, x: Tensor, e_step: EStep, num_samples: int) -> None:
        self.model, self.x, self.e_step, self.num_samples = model, x, e_step, num_samples
        self.weights = x.new_zeros(len(x), model.num_components)  # (N, K)

    def expect(self, rows: Tensor) -> None:
        posterior = self.model.responsibilities(self.x[rows])
        if self.e_step == "hard":
            posterior = nn.functional.one_hot(posterior.argmax(-1), posterior.shape[-1]).to(posterior)
        elif self.e_step == "monte-carlo":
            draws = torch.multinomial(posterior, self.num_samples, replacement=True)  # (B, S)
            ones = torch.ones_like(draws, dtype=posterior.dtype)
            posterior = torch.zeros_like(posterior).scatter_add(1, draws, ones) / self.num_samples
        self.weights[rows] = posterior

    @torch.no_grad()
    def bound(self, rows: Tensor) -> float:
        x = self.x[rows]
        if self.e_step == "gradient":
            return float(self.model.log_prob(x).double().mean())
        weights = self.weights[rows].double()
        # a component of probability 0 contributes 0 even if its log-density is -inf
        terms = torch.where(weights == 0, 0.0, weights * self.model.log_joints(x).double())
        return float((terms + torch.special.entr(weights)).sum(-1).mean())

    def backward(self, rows: Tensor) -> None:
        for block in self.model.blocks(rows):
            log_joint, weights = self.model.log_joint(self.x[block]), self.weights[block]
            if self.e_step == "gradient":
                value = log_joint.logsumexp(-1)
            else:
                value = torch.where(weights == 0, 0.0, weights * log_joint).sum(-1)
            (-value.sum() / len(rows)).backward()

    @torch.no_grad()
    def maximise(self, rows: Tensor) -> bool:
        components, weights = self.model.likelihood, self.weights[rows]
        if self.e_step == "gradient" or not isinstance(components, Components):
            return False
        if self.model.learn_weights:
            share = weights.mean(0).clamp_min(torch.finfo(weights.dtype).tiny)
            self.model.prior.logits.copy_(share.log().unsqueeze(0))
        components.maximise(self.x[rows], weights)
        return True


class Chains(Latents):
    """Posterior samples by Hamiltonian Monte Carlo, with chains of every datum that continue in the next E-step.

    Args:
        model: Pyro model with continuous latents.
        x: ``(N, *data_shape)``.
        num_chains: number of chains per datum.
        num_transitions: transitions in an E-step.
        num_steps: leapfrog steps of a transition.

    References:
        MCMC using Hamiltonian dynamics (Neal, 2011). https://arxiv.org/abs/1206.1901
    """

    def __init__(self, model: nn.Module, x: Tensor, num_chains: int, num_transitions: int, num_steps: int) -> None:
        self.model, self.x, self.num_transitions = model, x, num_transitions
        self.hmc = HMC("fit_em", num_steps, Owners(model=model), compiled=False)
        self.densities: dict[int, LatentDensity] = {}
        u = self._density(x).sample(num_chains, (x,))  # (C, N, D)
        self.u = u.detach().clone()
        # trajectories of length pi / 2 are a quarter of the period of a unit normal
        self.log_size = torch.full_like(x[:, :1].flatten(1)[:, 0], math.log(math.pi / 2 / num_steps))
        self.calls = 0

    def _density(self, x: Tensor) -> LatentDensity:
        if len(x) not in self.densities:
            with validating(True):
                self.densities[len(x)] = LatentDensity("fit_em", self.model, None, (x,), owners=self.hmc.owners)
        return self.densities[len(x)]

    @torch.no_grad()
    def expect(self, rows: Tensor) -> None:
        args = (self.x[rows],)
        self.hmc.set_density(self._density(*args))
        state, size = self.hmc.evaluate_at(self.u[:, rows], args), self.log_size[rows]
        self.calls += 1
        accepted: list[Tensor] = []
        for _ in range(self.num_transitions):
            steps = StepSizes(size.exp(), torch.ones_like(state.u[0]))
            state, probability = self.hmc.transition(state, 1.0, steps, args)
            size = size + _GAIN / math.sqrt(self.calls) * (probability.mean(0).to(size) - TARGET_ACCEPTANCE)
            accepted.append(probability.mean())
        self.u[:, rows], self.log_size[rows] = state.u, size.clamp(max=math.log(math.pi / 2))
        self.acceptance = float(torch.stack(accepted).mean())

    def _value(self, rows: Tensor) -> Tensor:
        args: tuple[Any, ...] = (self.x[rows],)
        return self._density(*args).log_densities(self.u[:, rows], args).target.mean()

    def bound(self, rows: Tensor) -> float:
        with torch.no_grad():
            return float(self._value(rows))

    def backward(self, rows: Tensor) -> None:
        (-self._value(rows)).backward()
