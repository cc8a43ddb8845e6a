"""Hamiltonian Monte Carlo on the path between two densities, for many chains of many data at once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae._core.owners import Owners
from pyro_vae._core.recording import Recorded, RecordingError
from pyro_vae.evaluation.latent_density import LatentDensity

TARGET_ACCEPTANCE = 0.65
"""Acceptance rate that step sizes are adapted to (Neal, 2011, section 5.4.4.3; Wu et al., 2017)."""
BURN_IN = 20
"""Number of transitions at the first inverse temperature whose adapted step sizes are not stored."""
_JITTER = 0.2  # relative range of the random factor of step sizes, so that no trajectory is periodic
_GAIN = 0.3  # gain of the stochastic approximation of the log step size
_MEMORY = 0.9  # weight of the past in the moving averages of variance and log step size


class State(NamedTuple):
    """Positions of chains, with log-densities and gradients at these positions."""

    u: Tensor
    """``(num_chains, batch, dim)``."""
    start: Tensor
    """``(num_chains, batch)``, log-density of the initial distribution."""
    target: Tensor
    """``(num_chains, batch)``, log p(x, z)."""
    start_gradient: Tensor
    """The gradient of ``start``."""
    target_gradient: Tensor
    """The gradient of ``target``."""

    def log_ratio(self) -> Tensor:
        """target - start, ``(num_chains, batch)``, float64: the rate at which log-weights grow along the path."""
        return self.target.double() - self.start.double()

    def energy(self, beta: float) -> Tensor:
        """Minus the log-density at inverse temperature ``beta``, float64."""
        if beta == 1:  # 0 times an infinite log-density would be nan
            return -self.target.double()
        return -(1 - beta) * self.start.double() - beta * self.target.double()

    def gradient(self, beta: float) -> Tensor:
        """The gradient of the log-density at inverse temperature ``beta``."""
        if beta == 1:  # 0 times an infinite gradient would be nan
            return self.target_gradient
        weight = torch.tensor(beta, dtype=self.u.dtype, device=self.u.device)
        return (1 - weight) * self.start_gradient + weight * self.target_gradient


class StepSizes(NamedTuple):
    """Step sizes of the chains of each datum: the step in dimension d is ``size * scale[d]``."""

    size: Tensor
    """``(batch,)``."""
    scale: Tensor
    """``(batch, dim)``."""


class HMC:
    r"""Transitions that leave invariant :math:`f_\beta(u) \propto f_0(u)^{1 - \beta} f_1(u)^\beta`.

    :math:`f_0` is the density of the initial distribution and :math:`f_1 = p(x, \cdot)`.

    A transition draws a momentum :math:`v \sim \mathcal{N}(0, I)`, takes leapfrog steps on :math:`f_\beta`, and is
    accepted with probability :math:`\min(1, e^{H - H'})`, :math:`H = -\log f_\beta(u) + |v|^2 / 2`. Step sizes are
    multiplied by a random factor between 0.8 and 1.2, independent of the state, which preserves the invariance.

    Args:
        owner: name that messages begin with.
        num_steps: number of leapfrog steps.
        owners: the programs' modules, whose tensors the densities read.
        compiled: record and compile density and gradient; if that fails they run eagerly, after one warning.

    References:
        MCMC using Hamiltonian dynamics (Neal, 2011), section 5.3. https://arxiv.org/abs/1206.1901
    """

    def __init__(self, owner: str, num_steps: int, owners: Owners, *, compiled: bool) -> None:
        self.owner, self.num_steps = owner, num_steps
        self.owners, self._compiled = owners, compiled
        self._recorded: Recorded | None = None
        self._density: LatentDensity | None = None

    @property
    def density(self) -> LatentDensity:
        """The densities at both ends of the path.

        Raises:
            RuntimeError: :meth:`set_density` has not been called.
        """
        if self._density is None:
            raise RuntimeError(f"{self.owner}: chains must have a density, got none. Call set_density() first.")
        return self._density

    def set_density(self, density: LatentDensity) -> None:
        """Set the densities of a batch. A recording made for an earlier batch is reused.

        Raises:
            ValueError: the support of a latent differs from that of the earlier batch.
        """
        density.check_supports(self._density)
        self._density = density
        if self._compiled and self._recorded is None:
            self._recorded = Recorded(self._log_densities, self.owners.tensors())

    def evaluate_at(self, u: Tensor, args: tuple[Any, ...]) -> State:
        """Log-densities and their gradients at u, ``(num_chains, batch, dim)``."""
        if self._recorded:
            try:
                return State(u, *self._recorded(u, *args))
            except RecordingError as cause:
                self._compiled, self._recorded = False, None
                warnings.warn(
                    f"{self.owner}: runs eagerly, because the programs cannot be recorded: {cause}.", stacklevel=2
                )
        return State(u, *self._log_densities(u, *args))

    def transition(self, state: State, beta: float, steps: StepSizes, args: tuple[Any, ...]) -> tuple[State, Tensor]:
        """One HMC transition of every chain.

        Args:
            state: state of the chains.
            beta: inverse temperature, from 0 to 1.
            steps: step sizes.
            args: the batch.

        Returns:
            The new state, and the acceptance probabilities, ``(num_chains, batch)``.
        """
        jitter = 1 + _JITTER * (2 * torch.rand_like(state.start) - 1)
        step = (jitter * steps.size).unsqueeze(-1) * steps.scale  # (K, B, D)
        momentum = torch.randn_like(state.u)
        proposed, last = self._leapfrog(state, momentum, beta, step, args)
        change = state.energy(beta) + _kinetic(momentum) - proposed.energy(beta) - _kinetic(last)
        probability = change.clamp(max=0).exp().nan_to_num(nan=0.0)
        accepted = torch.rand_like(probability) < probability
        return State(*(_choose(accepted, new, old) for new, old in zip(proposed, state, strict=True))), probability

    def _leapfrog(
        self, state: State, momentum: Tensor, beta: float, step: Tensor, args: tuple[Any, ...]
    ) -> tuple[State, Tensor]:
        for _ in range(self.num_steps):
            momentum = momentum + 0.5 * step * state.gradient(beta)
            state = self.evaluate_at(state.u + step * momentum, args)
            momentum = momentum + 0.5 * step * state.gradient(beta)
        return state, momentum

    def _log_densities(self, u: Tensor, *args: Any) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            start, target = self.density.log_densities(u, args)
            (start_gradient,) = torch.autograd.grad(start.sum(), u, retain_graph=True)
            (target_gradient,) = torch.autograd.grad(target.sum(), u)
        return start.detach(), target.detach(), start_gradient, target_gradient


class AdaptedStepSizes:
    """Step sizes along a path, adapted by pilot chains and then fixed: later transitions leave their target invariant.

    The pilot chains follow the path once. Each datum has its own step size, adapted to an acceptance rate of
    :data:`TARGET_ACCEPTANCE`, and its own scale in each dimension, the running standard deviation of its chains. With
    these scales a trajectory of length pi / 2 is a quarter of a normal's period; step sizes are limited so that a
    trajectory, before the random factor, is not longer.

    Args:
        hmc: the transitions.
        u: initial positions of the pilot chains, ``(num_chains, batch, dim)``.
        betas: inverse temperatures, with one transition at each after :data:`BURN_IN` transitions at the first.
        args: the batch.
        advance: callback after each transition, for the progress bar.

    Attributes:
        steps: step sizes at each of ``betas``.
        betas: the inverse temperatures.
        variances: for each of them, the variance of :meth:`State.log_ratio` over the chains, mean over the data.
        last: final state of the pilot chains.

    References:
        A tutorial on adaptive MCMC (Andrieu and Thoms, 2008), section 4, the updates of scale and step size; here they
        end before the estimate begins. https://doi.org/10.1007/s11222-008-9110-y
    """

    def __init__(
        self,
        hmc: HMC,
        u: Tensor,
        betas: list[float],
        args: tuple[Any, ...],
        advance: Callable[[int], object],
    ) -> None:
        max_log_size = math.log(math.pi / 2 / hmc.num_steps)
        state = hmc.evaluate_at(u, args)
        log_size = torch.full_like(u[0, :, 0], max_log_size)
        variance, mean_log_size = _variance(u), log_size
        adapted: list[StepSizes] = []
        variances: list[Tensor] = []
        for beta in [betas[0]] * BURN_IN + betas:
            steps = StepSizes(log_size.exp(), variance.sqrt())
            state, probability = hmc.transition(state, beta, steps, args)
            error = probability.mean(0).to(log_size.dtype) - TARGET_ACCEPTANCE
            log_size = (log_size + _GAIN * error).clamp(max=max_log_size)
            mean_log_size = _MEMORY * mean_log_size + (1 - _MEMORY) * log_size
            variance = _MEMORY * variance + (1 - _MEMORY) * _variance(state.u)
            adapted.append(StepSizes(mean_log_size.exp(), variance.sqrt()))
            variances.append(_variance(state.log_ratio()).mean())
            advance(1)
        self.steps, self.last, self.betas = adapted[BURN_IN:], state, betas
        self.variances = torch.stack(variances[BURN_IN:]).tolist()

    def at(self, fraction: float) -> StepSizes:
        """The step sizes at a fraction of the path, between 0 and 1."""
        return self.steps[round(fraction * (len(self.steps) - 1))]


def _variance(u: Tensor) -> Tensor:
    """Variance over the chains, ``(batch, dim)`` or ``(batch,)``; 1 for a single chain."""
    if len(u) < 2:
        return torch.ones_like(u[0])
    return u.var(0).nan_to_num(nan=1.0).clamp(1e-12, 1e12)


def _kinetic(momentum: Tensor) -> Tensor:
    return 0.5 * momentum.double().square().sum(-1)


def _choose(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(accepted.reshape(*accepted.shape, *[1] * (new.dim() - accepted.dim())), new, old)
