"""Result of lossy compression: rate and squared error per datum, and the length of the file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pyro_vae.evaluation.result import Quantity, Result


@dataclass(frozen=True)
class LossyCode(Result):
    r"""Rate and distortion of data, by a rate-distortion autoencoder or a VAE.

    Attributes:
        rate: ``(N,)``, estimated length of each datum in bits: minus the log2 of its rounded code's probability; for a
            VAE, which has no code, the KL in bits, from one sample.
        squared_error: ``(N,)``, mean squared error of the entries of each datum, at the decoded code or at that sample.
        coded_bits: ``(N,)``, growth of the file by each datum, in bits; nan for a VAE.

    References:
        End-to-end optimized image compression (Balle, Laparra and Simoncelli, 2017), section 4.
        https://arxiv.org/abs/1611.01704
    """

    method: ClassVar[str] = "rate_distortion"
    title: ClassVar[str] = "Length of the lossily compressed data and squared error of their reconstructions"
    topic: ClassVar[str] = "other"
    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity("rate", "rate", "bits"),
        Quantity("squared_error", "mean squared error", ""),
    )
    layout: ClassVar[dict[str, str]] = {"N": "rate squared_error coded_bits"}
    alternative_text: ClassVar[str] = "Mean squared error against bits per dimension"

    rate: Tensor
    squared_error: Tensor
    coded_bits: Tensor

    def bits_per_dim(self) -> dict[str, float]:
        """The estimated rate and, of a coded file, its whole length with header, in bits per entry of the data."""
        dimensions = int(self.protocol["dimensions"])
        file = {"file": 8.0 * self.protocol["file_bytes"] / len(self)} if self.protocol["file_bytes"] else {}
        return {name: value / dimensions for name, value in {**file, "estimate": self.mean("rate")}.items()}

    def psnr(self) -> float:
        """Peak signal-to-noise ratio in dB, of the mean squared error, for data in [0, 1]."""
        return -10 * math.log10(max(self.mean("squared_error"), 1e-300))

    def summary(self) -> dict[str, Any]:
        """The means, bits per dimension and PSNR."""
        return {**self.means("rate", "squared_error"), "bits_per_dim": self.bits_per_dim(), "psnr": self.psnr()}

    def lines(self) -> list[str]:
        """Rate and error."""
        bits = "".join(f"{name:<13} {value:.5f} bits per dimension\n" for name, value in self.bits_per_dim().items())
        error, spread = self.mean("squared_error"), self.sampling_error("squared_error")
        return [*bits.splitlines(), f"squared error {error:.6f} +- {spread:.6f} over data; PSNR {self.psnr():.2f} dB"]
