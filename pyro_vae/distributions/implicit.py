"""Distributions without a density: those of a network's outputs for random inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._core.checks import CheckedArguments, check_count, refusal

Score: TypeAlias = Callable[["Implicit", Tensor], Tensor]
_score: ContextVar[Score | None] = ContextVar("score", default=None)


@contextmanager
def scored_by(score: Score | None) -> Iterator[None]:
    """Context in which implicit distributions have a score in place of their log-probability.

    Args:
        score: from the distribution and a value ``(*batch, *event)`` to ``batch``; None for none.
    """
    token = _score.set(score)
    try:
        yield
    finally:
        _score.reset(token)


class Implicit(TorchDistribution, CheckedArguments):
    r"""The distribution of :math:`f(y, \epsilon)`, :math:`\epsilon \sim \mathcal{N}(0, I)`, given y: without a density.

    Without noise it is the point f(y). It can be sampled, with the pathwise gradient of f, and its log-probability is
    refused. :class:`~pyro_vae.objectives.AdversarialELBO` and :class:`~pyro_vae.objectives.AdversarialReconstruction`
    are trained on samples alone.

    Args:
        function: f of the noise, ``(*sample, *batch, noise_dim)``, to values ``(*sample, *batch, *event_shape)``; y is
            part of it.
        given: y, ``(*batch, *shape)``.
        batch_shape: the leading dimensions of ``given``.
        event_shape: shape of one value.
        noise_dim: number of dimensions of the noise; 0 for a point.
        owner: class that the refusal names.
        advice: what the refusal advises.

    Shape:
        batch shape ``batch_shape``, event shape ``event_shape``.

    References:
        Learning in implicit generative models (Mohamed and Lakshminarayanan, 2016), section 2.
        https://arxiv.org/abs/1610.03483

    Example:
        >>> import torch
        >>> y = torch.zeros(7, 3)
        >>> q = Implicit(lambda e: y + e, y, batch_shape=(7,), event_shape=(3,), noise_dim=3, owner="q", advice="")
        >>> q.rsample((2,)).shape
        torch.Size([2, 7, 3])
    """

    arg_constraints: dict[str, Any] = {}
    has_rsample = True

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        given: Tensor,
        *,
        batch_shape: tuple[int, ...],
        event_shape: tuple[int, ...],
        noise_dim: int = 0,
        owner: str,
        advice: str,
    ) -> None:
        check_count("Implicit", 0, noise_dim=noise_dim)
        self.function, self.given, self.noise_dim = function, given, noise_dim
        self.given_batch, self.owner, self.advice = torch.Size(batch_shape), owner, advice
        super().__init__(self.given_batch, torch.Size(event_shape), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Real vectors or arrays."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def has_mean(self) -> bool:
        """Whether the mean has a closed form, as that of a point."""
        return not self.noise_dim

    @property
    def mean(self) -> Tensor:
        """The point f(y), ``(*batch, *event)``; of a distribution with noise not available."""
        if not self.has_mean:
            raise NotImplementedError(f"{self.owner}: the mean has no closed form. Average samples.")
        return self.rsample()

    @property
    def has_density(self) -> bool:
        """Whether there is a log-probability, that is, a score."""
        return _score.get() is not None

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> Implicit:
        """The same distribution with batch dimensions added on the left."""
        options = {"event_shape": self.event_shape, "owner": self.owner, "advice": self.advice}
        new = Implicit(self.function, self.given, batch_shape=batch_shape, noise_dim=self.noise_dim, **options)
        new.given_batch = self.given_batch
        return new

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        shape = (*sample_shape, *self.batch_shape, self.noise_dim)
        return self.function(torch.randn(shape, dtype=self.given.dtype, device=self.given.device))

    @torch.no_grad()
    def moments(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of vectors at points of the noise that are the same for every y.

        Args:
            noise: ``(N, noise_dim)``.

        Returns:
            ``(*given_batch, L)`` and ``(*given_batch, L, L)``, for values ``(L,)``.
        """
        points = noise.reshape(len(noise), *[1] * len(self.given_batch), -1)
        values = self.function(points.expand(-1, *self.given_batch, -1)).movedim(0, -2)  # (*given_batch, N, L)
        loc = values.mean(-2)
        centred = values - loc.unsqueeze(-2)
        return loc, centred.mT @ centred / (len(noise) - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Within :func:`scored_by` the score.

        Raises:
            ValueError: without a score; the message names what to use.
        """
        score = _score.get()
        if score is None:
            raise self.refusal()
        return score(self, value)

    def refusal(self) -> ValueError:
        """The error for whatever needs a density."""
        return refusal(self.owner, "a density is required here", "a distribution that can only be sampled", self.advice)
