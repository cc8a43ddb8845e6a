"""Result of lossless compression: code length per datum, against the ELBO and other coders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pyro_vae.evaluation.result import Quantity, Result

OTHER_CODERS = ("gzip", "bz2", "lzma", "PNG", "WebP")
"""The coders of :attr:`CodeLength.other_bits`."""
_EXCESS = 0.005


@dataclass(frozen=True)
class CodeLength(Result):
    r"""Length of losslessly compressed data, per datum, in bits, with the bounds that it should reach.

    A file consists of the net code lengths, of the initial bits of each chunk, and of the header with the index of
    chunks. The mean net code length is minus the ELBO in bits, plus the loss of the grid and of the fixed-point
    networks; with several particles it is minus the importance-weighted bound.

    Attributes:
        net_bits: ``(N,)``, growth of the stack by each datum, in bits; lower is better.
        elbo: ``(N,)``, the ELBO, in nats.
        log_likelihood: ``(N,)``, importance-weighted estimate of log p(x) from ``num_samples`` samples, in nats.
        standard_error: ``(N,)``, its Monte Carlo standard error.
        initial_bits: ``(C,)``, bits of each chunk beyond the net code lengths of its data.
        other_bits: ``(5,)``, bits of all data by each of :data:`OTHER_CODERS`; nan if a coder does not apply. The
            images are one tall image for PNG and WebP, and one file for the others.

    References:
        Practical lossless compression with latent variables using bits back coding (Townsend et al., 2019).
        https://arxiv.org/abs/1901.04866
    """

    method: ClassVar[str] = "codelength"
    title: ClassVar[str] = "Length of the losslessly compressed data against the ELBO and other coders"
    topic: ClassVar[str] = "bounds"
    quantities: ClassVar[tuple[Quantity, ...]] = (Quantity("net_bits", "net code length", "bits"),)
    phrases: ClassVar[dict[str, str]] = {"num_samples": "bounds from {} samples", "num_particles": "{} particles"}
    layout: ClassVar[dict[str, str]] = {
        "N": "net_bits elbo log_likelihood standard_error",
        "C": "initial_bits",
        "O": "other_bits",
    }
    alternative_text: ClassVar[str] = "Bars of bits per dimension of the file, its bounds and other coders"

    net_bits: Tensor
    elbo: Tensor
    log_likelihood: Tensor
    standard_error: Tensor
    initial_bits: Tensor
    other_bits: Tensor

    def total_bits(self) -> float:
        """Length of the file, in bits."""
        return 8.0 * float(self.protocol["file_bytes"])

    def bits_per_dim(self) -> dict[str, float]:
        """The file, its parts, the bounds and the other coders, in bits per entry of the data."""
        count = len(self) * int(self.protocol["dimensions"])
        net, initial = float(self.net_bits.double().sum()), float(self.initial_bits.double().sum())
        bounds = {"-ELBO": "elbo", "-log p(x)": "log_likelihood"}
        bits = {
            "file": self.total_bits(),
            "net": net,
            "initial bits": initial,
            "header": self.total_bits() - net - initial,
            **{label: -self.mean(name) * len(self) / math.log(2) for label, name in bounds.items()},
            **dict(zip(OTHER_CODERS, self.other_bits.tolist(), strict=True)),
        }
        return {label: value / count for label, value in bits.items() if not math.isnan(value)}

    def advice(self) -> str:
        """Report a net code length that is more than 0.5% above minus the ELBO; empty otherwise."""
        bits = self.bits_per_dim()
        excess = bits["net"] / bits["-ELBO"] - 1
        if excess < _EXCESS:
            return ""
        return (
            f"The net code length is {excess:.1%} above -ELBO: latents outside [-16, 16] or posteriors much narrower "
            "than 1/64, which the grid of the latents cannot represent, or too few data to average over."
        )

    def summary(self) -> dict[str, Any]:
        """The means, and the bits per dimension of every coder and bound."""
        return {**self.means("net_bits", "elbo", "log_likelihood"), "bits_per_dim": self.bits_per_dim()}

    def lines(self) -> list[str]:
        """A table in bits per dimension and per datum."""
        dimensions = int(self.protocol["dimensions"])
        rows = [
            f"{label:<13} {rate:10.4f} bits per dimension {rate * dimensions:12.2f} per datum"
            for label, rate in self.bits_per_dim().items()
        ]
        return [f"file of {self.protocol['file_bytes']} bytes for {len(self)} data", *rows]
