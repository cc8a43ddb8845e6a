"""The contract of an objective: a Pyro ELBO that tells what it is made of, and whose weight of the KL may be moved."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pyro.infer import ELBO as PyroELBO
from pyro.infer.elbo import logger
from torch import Tensor

from pyro_vae._core.types import Program
from pyro_vae.objectives.schedules import ConstantSchedule, Schedule


class Terms(NamedTuple):
    """What an ELBO is made of: sums over the data of the batch, in nats, unweighted and detached."""

    reconstruction: Tensor
    """E_q[log p(x | z)], all observed sites; higher is better."""
    kl: Tensor
    """E_q[log q(z | x) - log p(z)], all latent sites."""


class Objective(PyroELBO):
    r"""What is minimised: a Pyro ELBO that keeps the two terms of its last evaluation.

    As with every Pyro ELBO: ``objective(model, guide)`` is a module whose call returns the loss, and ``SVI`` takes it
    as ``loss``. The loss is a sum over the batch.

    Args:
        num_particles: number of draws of z per datum K.
        beta: a weight that may be scheduled, for most objectives that of the KL.
        vectorized: whether Pyro's own plate of particles is used.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014). https://arxiv.org/abs/1312.6114

    Attributes:
        terms: the :class:`Terms` of the last ``differentiable_loss`` or ``loss``; None before.
        additive: whether the loss is a sum over the data of what each contributes alone; where not, several processes
            cannot share a batch.
        analytic_kl: whether the KL has to have a closed form.
        sums: whether discrete sites that are marked to be enumerated are summed over.
    """

    terms: Terms | None = None
    additive = True
    analytic_kl = False
    sums = False

    def __init__(self, *, num_particles: int = 1, beta: float | Schedule = 1.0, vectorized: bool | None = None) -> None:
        # One particle needs no plate of particles, nor the extra run with which Pyro guesses where to put it.
        vectorized = num_particles > 1 if vectorized is None else vectorized
        super().__init__(num_particles=num_particles, vectorize_particles=vectorized)
        self._require("num_particles", num_particles, num_particles >= 1, "must be at least 1", "Use 1")
        if not isinstance(beta, Schedule):
            self._require("beta", beta, beta >= 0, "must not be negative", "Use 0, 1 or above")
        self.schedule = beta if isinstance(beta, Schedule) else ConstantSchedule(beta)
        self.beta = self.schedule(0, 0.0)
        self._beta_tensor: Tensor | None = None

    def set_progress(self, step: int, epoch: float) -> None:
        """Move the schedule of beta; :func:`pyro_vae.fit` does it before every step.

        Args:
            step: gradient steps done.
            epoch: passes over the data done, with their fraction.
        """
        self.beta = self.schedule(step, epoch)
        if self._beta_tensor is not None:
            self._beta_tensor.fill_(self.beta)

    def state(self, like: Tensor) -> list[Tensor]:
        """The tensors that a recording has to read anew at each replay: a scheduled beta, or nothing.

        From this call on beta is such a tensor, with the device and dtype of ``like``, moved by :meth:`set_progress`.
        """
        if isinstance(self.schedule, ConstantSchedule):
            return []
        if self._beta_tensor is None or (self._beta_tensor.device, self._beta_tensor.dtype) != (
            like.device,
            like.dtype,
        ):
            self._beta_tensor = torch.full((), self.beta, device=like.device, dtype=like.dtype)
        return [self._beta_tensor]

    @property
    def _weight(self) -> float | Tensor:
        return self.beta if self._beta_tensor is None else self._beta_tensor

    def _require(self, name: str, value: Any, holds: bool, rule: str, advice: str) -> None:
        if not holds:
            raise ValueError(f"{type(self).__name__}: {name} {rule}, got {name}={value}. {advice}.")

    def _guess_max_plate_nesting(self, model: Program, guide: Program, args: Any, kwargs: Any) -> None:
        level = logger.level
        logger.setLevel("WARNING")  # the user did not ask where Pyro puts its plate of particles
        try:
            super()._guess_max_plate_nesting(model, guide, args, kwargs)
        finally:
            logger.setLevel(level)
