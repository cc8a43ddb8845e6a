"""Expectation maximisation: alternating maximisation of the ELBO in q and in the parameters."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from pyro_vae._core.checks import check_arguments, check_count, check_positive, check_shape, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.owners import placement
from pyro_vae.data.batches import Batches, Data
from pyro_vae.models import Components, MixtureModel
from pyro_vae.training.em_steps import Chains, EStep, Latents, Responsibilities
from pyro_vae.training.parameters import OptimizerFactory
from pyro_vae.training.progress import monitor_numbers
from pyro_vae.training.settings import Monitor

ADAM = partial(Adam, lr=0.01)
"""Default optimizer of M-steps without a closed form."""
_READ = 1000  # data that are read at a time


@dataclass(frozen=True)
class EMResult:
    """Result of a fit by EM.

    Attributes:
        history: one record per iteration: ``elbo_e`` and ``elbo_m``, the ELBO after its E-step and after its M-step, in
            nats per datum, and ``seconds``; with chains also ``acceptance``. With samples of continuous latents the
            ELBO lacks the entropy of q, which the M-step does not change. With ``e_step="gradient"`` it is log p(x).
        converged: whether the last iteration changed the ELBO by less than the tolerance.
    """

    history: list[dict[str, float]]
    converged: bool


def fit_em(
    model: nn.Module,
    data: Data,
    *,
    e_step: EStep = "exact",
    iterations: int = 100,
    tolerance: float = 1e-6,
    start: Literal["k-means", "model"] = "k-means",
    m_steps: int = 20,
    optimizer: OptimizerFactory = ADAM,
    batch_size: int | None = None,
    num_samples: int = 1,
    num_transitions: int = 5,
    num_steps: int = 10,
    seed: int = 0,
    monitor: Monitor | None = None,
) -> EMResult:
    r"""Maximise :math:`\mathcal{L}(q, \theta) = E_q[\log p(x, z)] + H(q) \le \log p(x)` in q and in turn in the model.

    The E-step sets q for every datum with the model fixed, the M-step maximises in the model with q fixed. An M-step
    that lowers the ELBO by more than rounding is warned about; in closed form, and with an exact or hard E-step, none
    does. A VAE takes gradient steps in both at once, with one network for the q of all data.

    Args:
        model: a :class:`~pyro_vae.models.MixtureModel`; or, with ``e_step="monte-carlo"``, any Pyro model with
            continuous latents that is a module, such as ``vae.model``.
        data: as for :func:`pyro_vae.fit`.
        e_step: ``"exact"``, q is the posterior; ``"hard"``, its mode, as in k-means; ``"monte-carlo"``, samples of it,
            those of continuous latents by Hamiltonian Monte Carlo with chains that continue in the next E-step;
            ``"gradient"``, no E-step: gradient ascent on log p(x), the ELBO at the exact posterior.
        iterations: largest number of iterations.
        tolerance: stop when the ELBO of an iteration without sampling differs by less from that of the previous one,
            in nats per datum; 0 never stops.
        start: initial parameters of a mixture: ``"k-means"``, the M-step at the clusters of scikit-learn's k-means;
            ``"model"``, those of the model, as always for other models.
        m_steps: gradient steps of an M-step without a closed form.
        optimizer: builds the optimizer of these steps from the parameters.
        batch_size: data per E- and M-step, reshuffled in every iteration; None for all data, as closed forms need.
        num_samples: samples per datum of a Monte Carlo E-step; for continuous latents the number of chains.
        num_transitions: transitions of a chain in an E-step.
        num_steps: leapfrog steps of a transition.
        seed: of k-means, samples and batches.
        monitor: called after each iteration, with separate random numbers; the numbers that it returns by name are
            added to the record.

    Returns:
        The ELBO after each half of every iteration. The model is changed in place, and is in eval mode afterwards.

    Raises:
        ValueError: an argument is invalid or does not fit the model, the data are not finite, or there are fewer of
            them than components.

    References:
        A view of the EM algorithm that justifies incremental, sparse, and other variants (Neal and Hinton, 1998).
        https://doi.org/10.1007/978-94-011-5014-9_12
        A Monte Carlo implementation of the EM algorithm (Wei and Tanner, 1990).
        https://doi.org/10.1080/01621459.1990.10474930

    Example:
        >>> from pyro_vae.models import NormalComponents
        >>> x = torch.cat([torch.randn(50, 2) - 5, torch.randn(50, 2) + 5])
        >>> model = MixtureModel(NormalComponents((2,), 2))
        >>> fit_em(model, x).converged, model.responsibilities(x).argmax(-1)[:50].unique().numel()
        (True, 1)
    """
    check_arguments(fit_em, locals(), iterations=1, m_steps=1, num_samples=1, num_transitions=1, num_steps=1)
    check_positive("fit_em", at_least_zero=True, tolerance=tolerance)
    x = _data(model, data)
    _check(model, x, e_step, batch_size)
    batch_size = min(batch_size or len(x), len(x))
    model.eval()
    with isolated_rng(seed):
        built = optimizer([p for p in model.parameters() if p.requires_grad])
        if isinstance(model, MixtureModel):
            latents: Latents = Responsibilities(model, x, e_step, num_samples)
            if start == "k-means":
                _MStep(_clusters(model, x, seed), built, m_steps)(torch.arange(len(x)))
        else:
            latents = Chains(model, x, num_samples, num_transitions, num_steps)
        loop = _Alternation(latents, _MStep(latents, built, m_steps), e_step, tolerance, monitor)
        return loop.run(len(x), batch_size, iterations)


class _MStep:
    """The M-step: in closed form, or by gradient steps."""

    def __init__(self, latents: Latents, optimizer: Optimizer, num_steps: int) -> None:
        self.latents, self.optimizer, self.num_steps = latents, optimizer, num_steps

    def __call__(self, rows: Tensor) -> None:
        if self.latents.maximise(rows):
            return
        for _ in range(self.num_steps):
            self.optimizer.zero_grad()
            self.latents.backward(rows)
            self.optimizer.step()


class _Alternation:
    """The iterations, with a record of each and the falls of the ELBO."""

    def __init__(
        self, latents: Latents, m_step: _MStep, e_step: EStep, tolerance: float, monitor: Monitor | None
    ) -> None:
        self.latents, self.m_step, self.tolerance, self.monitor = latents, m_step, tolerance, monitor
        self.sampled = e_step == "monte-carlo"
        self.history: list[dict[str, float]] = []
        self.falls: dict[str, list[float]] = {"E": [], "M": []}

    def run(self, num: int, batch_size: int, iterations: int) -> EMResult:
        converged = False
        for _ in range(iterations):
            order = torch.arange(num) if batch_size == num else torch.randperm(num)
            began, previous = time.perf_counter(), self.history[-1]["elbo_m"] if self.history else None
            pairs = [self._step(rows, previous if batch_size == num else None) for rows in order.split(batch_size)]
            sizes = torch.tensor([len(rows) for rows in order.split(batch_size)], dtype=torch.float64)
            elbo_e, elbo_m = (sizes @ torch.tensor(pairs, dtype=torch.float64) / num).tolist()
            record = {"elbo_e": elbo_e, "elbo_m": elbo_m, "seconds": time.perf_counter() - began}
            extra = {} if self.latents.acceptance is None else {"acceptance": self.latents.acceptance}
            if self.monitor is not None:
                with isolated_rng(), torch.no_grad():
                    extra |= monitor_numbers(self.monitor(), record)
            self.history.append({**record, **extra})
            converged = not self.sampled and previous is not None and abs(elbo_m - previous) < self.tolerance
            if converged:
                break
        self._warn()
        return EMResult(self.history, converged)

    def _step(self, rows: Tensor, previous: float | None) -> tuple[float, float]:
        self.latents.expect(rows)
        before = self._bound(rows)
        if previous is not None and not self.sampled:
            self._compare("E", previous, before)
        self.m_step(rows)
        after = self._bound(rows)
        self._compare("M", before, after)
        return before, after

    def _bound(self, rows: Tensor) -> float:
        value = self.latents.bound(rows)
        advice = "Lower the learning rate, or check that the data are in the support of the model"
        require(math.isfinite(value), "fit_em", "the ELBO must be finite", f"{value}", advice)
        return value

    def _compare(self, step: str, before: float, after: float) -> None:
        precision = torch.finfo(self.latents.dtype).eps
        if after < before - 1000 * precision * (1 + abs(before)):
            self.falls[step].append(before - after)

    def _warn(self) -> None:
        for step, falls in self.falls.items():
            if falls:
                warnings.warn(
                    f"fit_em: {len(falls)} {step}-steps lowered the ELBO, by up to {max(falls):.3g} nats per datum. "
                    "Use a lower learning rate or more m_steps.",
                    stacklevel=4,
                )


def _clusters(model: MixtureModel, x: Tensor, seed: int) -> Responsibilities:
    """The clusters of k-means as probabilities 0 and 1."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of fewer distinct data than components
        means = KMeans(model.num_components, n_init=1, random_state=seed % 2**32).fit(
            x.flatten(1).double().cpu().numpy()
        )
    clusters = Responsibilities(model, x, "exact", 1)
    labels = torch.from_numpy(means.labels_).long().to(x.device)
    clusters.weights = nn.functional.one_hot(labels, model.num_components).to(x)
    return clusters


def _data(model: nn.Module, data: Data) -> Tensor:
    device, dtype = placement(model)
    batches = Batches(data, _READ, device=device, dtype=dtype, owner="fit_em")
    x = torch.cat([batch.args[0] for batch in batches.epoch()])
    x = x if x.is_floating_point() else x.to(dtype)
    require(bool(x.isfinite().all()), "fit_em", "the data must be finite", "nan or inf")
    return x


def _check(model: nn.Module, x: Tensor, e_step: EStep, batch_size: int | None) -> None:
    mixture = isinstance(model, MixtureModel)
    rule, advice = "e_step must be 'monte-carlo' for a model that is no mixture", "Use it, or fit a MixtureModel"
    require(mixture or e_step == "monte-carlo", "fit_em", rule, f"e_step={e_step!r}", advice)
    if isinstance(model, MixtureModel):
        check_shape(
            "fit_em", "a datum of data", x.shape[1:], model.data_shape, "Build the components with this data_shape"
        )
        rule, got = "there must be at least as many data as components", f"{len(x)} and {model.num_components}"
        require(len(x) >= model.num_components, "fit_em", rule, got, "Use fewer components")
        support = model.likelihood(torch.eye(model.num_components).to(x)).support
        rule, got = "the data must be in the support of the components", f"{support}, which lacks some"
        require(bool(support.check(x[:, None]).all()), "fit_em", rule, got, "Binarize them, or use other components")
        closed = isinstance(model.likelihood, Components) and e_step != "gradient"
        rule, got = "an M-step in closed form needs all data", f"batch_size={batch_size}"
        require(batch_size in (None, len(x)) or not closed, "fit_em", rule, got, "Omit batch_size")
    check_count("fit_em", batch_size=batch_size)
    rule, got = "the model must have parameters to train", type(model).__name__
    require(any(p.requires_grad for p in model.parameters()), "fit_em", rule, got)
