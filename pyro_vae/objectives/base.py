"""Base class of objectives: Pyro ELBOs that report reconstruction and KL and may schedule a weight."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from pyro.infer import ELBO as PyroELBO
from pyro.infer.elbo import logger
from torch import Tensor

from pyro_vae._core.checks import CheckedArguments, check_count, check_positive
from pyro_vae._core.types import Program
from pyro_vae.distributions import Score, scored_by
from pyro_vae.objectives.schedules import ConstantSchedule, Schedule


class Terms(NamedTuple):
    """The two terms of the ELBO, summed over the batch, in nats, unweighted and detached.

    Per datum, minus the reconstruction is the *distortion* and the KL is the *rate* of the evaluations.
    """

    reconstruction: Tensor
    """E_q[log p(x | z)], of all observed sites; higher is better."""
    kl: Tensor
    """E_q[log q(z | x) - log p(z)], of all latent sites."""


class Objective(PyroELBO, CheckedArguments):
    r"""Base class of objectives: a Pyro ELBO that stores the two terms of its last evaluation.

    As with every Pyro ELBO, ``objective(model, guide)`` is a module whose call returns the loss, and ``SVI`` accepts it
    as ``loss``. The loss is a sum over the batch.

    Args:
        num_particles: number of particles K per datum.
        beta: a weight that may be scheduled, for most objectives that of the KL.
        vectorized: whether Pyro's plate of particles is used.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014). https://arxiv.org/abs/1312.6114

    Attributes:
        terms: the :class:`Terms` of the last ``differentiable_loss`` or ``loss``; None before.
        additive: whether the loss is a sum over the data of terms that depend on one datum each; otherwise several
            processes cannot share a batch.
        analytic_kl: whether the KL must have a closed form.
        sums: whether sites that are marked to be enumerated are summed over.
        min_particles: smallest number of particles.
        score: replaces the log-probability of sites without a density; None if there must not be any.
    """

    terms: Terms | None = None
    additive = True
    analytic_kl = False
    sums = False
    min_particles = 1
    score: Score | None = None

    def __init__(self, *, num_particles: int = 1, beta: float | Schedule = 1.0, vectorized: bool | None = None) -> None:
        # One particle needs no plate of particles, nor the extra run in which Pyro determines its position.
        vectorized = num_particles > 1 if vectorized is None else vectorized
        super().__init__(num_particles=num_particles, vectorize_particles=vectorized)
        check_count(type(self).__name__, at_least=self.min_particles, num_particles=num_particles)
        if not isinstance(beta, Schedule):
            check_positive(type(self).__name__, at_least_zero=True, beta=beta)
        self.schedule = beta if isinstance(beta, Schedule) else ConstantSchedule(beta)
        self.beta = self.schedule(0, 0.0)
        self._beta_tensor: Tensor | None = None

    def set_progress(self, step: int, epoch: float) -> None:
        """Update beta by its schedule; :func:`pyro_vae.fit` calls this before every step.

        Args:
            step: number of gradient steps taken.
            epoch: number of passes over the data, with their fraction.
        """
        self.beta = self.schedule(step, epoch)
        if self._beta_tensor is not None:
            self._beta_tensor.fill_(self.beta)

    def reset(self) -> None:
        """Forget what :meth:`update` has learned; a training calls this at its start."""
        return  # nothing is learned

    def trained(self, model: Program, guide: Program, *args: Any) -> list[Tensor]:
        """Tensors that :meth:`update` changes; they are saved and restored with the training."""
        return []

    def update(self) -> Tensor | float:
        """Train what belongs to the objective itself, after the gradient of a loss; return the loss of this step."""
        return 0.0

    def numbers(self) -> dict[str, float]:
        """Numbers for the record of an epoch."""
        return {"beta": self.beta}

    def scoring(self) -> AbstractContextManager[None]:
        """Context in which sites without a density have the score of this objective, if it has one."""
        return scored_by(self.score)

    def state(self, like: Tensor) -> list[Tensor]:
        """Tensors that a traced step reads at each replay: a scheduled beta, or none.

        From this call on beta is a tensor with the device and dtype of ``like``, updated by :meth:`set_progress`.
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

    def _guess_max_plate_nesting(self, model: Program, guide: Program, args: Any, kwargs: Any) -> None:
        level = logger.level
        logger.setLevel("WARNING")  # no message about the position of the plate of particles
        try:
            super()._guess_max_plate_nesting(model, guide, args, kwargs)
        finally:
            logger.setLevel(level)
