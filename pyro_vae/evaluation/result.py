"""The result of an evaluation: numbers per datum with their uncertainty and their protocol."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.files import json_ready, write_atomically

_PER_DATUM = (
    "log_likelihood",
    "standard_error",
    "effective_sample_size",
    "pareto_k",
    "elbo",
    "distortion",
    "rate",
)


@dataclass(frozen=True)
class LogLikelihood:
    r"""Importance-weighted estimate of log p(x), per datum, in nats.

    :math:`L_S = \log \frac1S \sum_s w_s`, :math:`w_s = p(x, z_s) / q(z_s | x)`: a lower bound on log p(x) in
    expectation, for every S, which tightens as S grows. Higher is better.

    Attributes:
        log_likelihood: ``(N,)``, the estimate.
        standard_error: ``(N,)``, its Monte Carlo standard error by the delta method,
            :math:`\sqrt{\mathrm{Var}(w) / S} / \bar w`. It does not see the bias of the bound.
        effective_sample_size: ``(N,)``, :math:`(\sum w)^2 / \sum w^2`, between 1 and S.
        pareto_k: ``(N,)``, the shape of the weights' tail; above 0.7 estimate and standard error are not to be trusted.
        elbo: ``(N,)``, the mean log-weight: the evidence lower bound from the same samples.
        distortion: ``(N,)``, :math:`-E_q[\log p(x | z)]`.
        rate: ``(N,)``, :math:`E_q[\log q(z | x) - \log p(z)]`; elbo = -(distortion + rate).
        protocol: how the number was made; what makes it comparable with another, or not.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), eq. 8 and theorem 1. https://arxiv.org/abs/1509.00519
        Fixing a broken ELBO (Alemi et al., 2018), section 2: rate and distortion. https://arxiv.org/abs/1711.00464
    """

    log_likelihood: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor
    elbo: Tensor
    distortion: Tensor
    rate: Tensor
    protocol: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.log_likelihood)

    def mean(self, name: str = "log_likelihood") -> float:
        """The mean of a quantity over the data, in nats per datum."""
        return float(getattr(self, name).mean())

    def sampling_error(self, name: str = "log_likelihood") -> float:
        """Standard error of a mean as an estimate for the population that the data were drawn from, in nats."""
        values = getattr(self, name)
        return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan

    def monte_carlo_error(self) -> float:
        """Standard error of the mean log-likelihood of just these data: what more samples would reduce, in nats."""
        return float(self.standard_error.square().sum().sqrt() / len(self))

    def gain(self, other: LogLikelihood, name: str = "log_likelihood") -> tuple[float, float]:
        """The mean difference to another result of the same data, in nats, and its standard error, datum by datum.

        The spread over the data, which both share, is not in that error, so that small differences can be seen.

        Raises:
            ValueError: the other is of another number of data.
        """
        if len(self) != len(other):
            raise ValueError(
                f"LogLikelihood: both results must be of the same data, got {len(self)} and {len(other)} data. "
                "Evaluate both on the same ones."
            )
        difference = getattr(self, name) - getattr(other, name)
        error = float(difference.std() / math.sqrt(len(difference))) if len(difference) > 1 else math.nan
        return float(difference.mean()), error

    def bits_per_dim(self, name: str = "log_likelihood") -> float:
        """Minus the mean of a lower bound, in bits per entry of the datum.

        A code length for discrete data only; for a density it can be negative.
        """
        return -self.mean(name) / math.log(2) / int(self.protocol["dimensions"])

    def untrusted(self) -> float:
        """Share of the data with a Pareto k above 0.7; nan where there were too few samples to tell."""
        known = self.pareto_k[~self.pareto_k.isnan()]
        return float((known > 0.7).double().mean()) if len(known) else math.nan

    def summary(self) -> dict[str, Any]:
        """The means with their errors, and the protocol."""
        means = {
            name: {"mean": self.mean(name), "sampling_error": self.sampling_error(name)}
            for name in ("log_likelihood", "elbo", "rate", "distortion")
        }
        means["log_likelihood"]["monte_carlo_error"] = self.monte_carlo_error()
        diagnostics = {
            "effective_sample_size_median": float(self.effective_sample_size.median()),
            "pareto_k_above_0.7": self.untrusted(),
        }
        names = ("log_likelihood", "elbo") if self.protocol["discrete"] else ()
        bits = {f"{name}_bits_per_dim": self.bits_per_dim(name) for name in names}
        return {**means, **bits, **diagnostics, "protocol": self.protocol}

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write summary and per-datum numbers as JSON, atomically.

        Args:
            path: the file.
            overwrite: replace a file that is there.

        Raises:
            FileExistsError: the file is there and ``overwrite`` is False.
        """
        data = {name: getattr(self, name).tolist() for name in _PER_DATUM}
        text = json.dumps(json_ready({**self.summary(), "per_datum": data}), allow_nan=False, indent=1)
        write_atomically(Path(path), (text + "\n").encode(), overwrite=overwrite)

    @staticmethod
    def load(path: str | Path) -> LogLikelihood:
        """Read what :meth:`save` wrote."""
        content = json.loads(Path(path).read_text())
        lists = {k: [math.nan if v is None else float(v) for v in content["per_datum"][k]] for k in _PER_DATUM}
        tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in lists.items()}
        return LogLikelihood(**tensors, protocol=content["protocol"])

    def __str__(self) -> str:
        bits = f" ({self.bits_per_dim():.4f} bits per dimension)" if self.protocol["discrete"] else ""
        bad = "unknown (fewer than 25 samples)" if math.isnan(self.untrusted()) else f"for {self.untrusted():.1%}"
        ess = f"{float(self.effective_sample_size.median()):.1f} of {self.protocol['num_samples']}"
        lines = [
            f"log-likelihood  {self.mean():.3f} nats per datum{bits}",
            f"                +- {self.monte_carlo_error():.3f} Monte Carlo, +- {self.sampling_error():.3f} over data",
            *(f"{n:<15} {self.mean(n):.3f} +- {self.sampling_error(n):.3f} over data" for n in _PER_DATUM[4:]),
            f"effective sample size, median: {ess}; Pareto k > 0.7: {bad}",
            "protocol: " + ", ".join(f"{k}={v}" for k, v in self.protocol.items()),
        ]
        return "\n".join(lines)
