"""Implementations of the log-likelihood of the same images under the same VAE."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from programs import Pair
from roofline import Work, shortest, work_of
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_vae import log_likelihood

Estimate = tuple[Tensor, Tensor]
CHUNKS = (10, 25, 50, 100, 250, 500)
IMAGE_BY_IMAGE = "image by image"


class Clock:
    """Batches of images with the time of each request, which is when the previous batch is finished.

    An iterable: every pass starts again.
    """

    def __init__(self, x: Tensor, batch: int) -> None:
        self.batches, self.device = x.split(batch), x.device
        self._times: list[float] = []

    def __iter__(self) -> Iterator[Tensor]:
        self._times = []
        for batch in self.batches:
            self._record_time()
            yield batch
        self._record_time()

    def _record_time(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._times.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Duration of every batch."""
        return [b - a for a, b in zip(self._times, self._times[1:], strict=False)]


def package(pair: Pair, data: Clock, num_samples: int, chunk: int, **how: Any) -> Estimate:
    """``pyro_vae.log_likelihood``."""
    sizes = {"num_samples": num_samples, "chunk_size": chunk}
    result = log_likelihood(pair.model, pair.guide, data, **sizes, **how)
    return result.log_likelihood, result.standard_error


def log_weight_function(pair: Pair) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """A function of a batch, its posterior and noise: log p(x, z) - log q(z | x), ``(chunk, B)``."""
    decoder = pair.model.likelihood.net.layers

    def log_weights(x: Tensor, loc: Tensor, log_scale: Tensor, noise: Tensor) -> Tensor:
        z = loc + log_scale.exp() * noise  # (chunk, B, L)
        logits = decoder(z)  # (chunk, B, D)
        log_p = -binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        return log_p + (log_scale + 0.5 * (noise**2 - z**2)).sum(-1)

    return log_weights


@torch.no_grad()
def by_hand(
    pair: Pair, data: Clock, num_samples: int, chunk: int, *, compile: Callable[..., Any] | None = None
) -> Estimate:
    """The same without Pyro: one encoding, and streamed sums of the weights and their squares over the chunks."""
    log_weights, encoder = log_weight_function(pair), pair.guide.net.layers
    log_weights = compile(log_weights) if compile else log_weights
    values, errors = [], []
    for number, x in enumerate(data):
        torch.manual_seed(number)  # the random numbers of pyro_vae at its seed 0
        loc, log_scale = encoder(x).chunk(2, -1)
        first = second = torch.full((len(x),), -math.inf, device=x.device, dtype=torch.float64)
        for start in range(0, num_samples, chunk):
            noise = torch.randn(min(chunk, num_samples - start), *loc.shape, device=x.device)
            log_w = log_weights(x, loc, log_scale, noise).double()
            first = torch.logaddexp(first, log_w.logsumexp(0))
            second = torch.logaddexp(second, (2 * log_w).logsumexp(0))
        values.append(first - math.log(num_samples))
        errors.append(standard_error(first, second, num_samples))
    return torch.cat(values), torch.cat(errors)


def standard_error(log_sum: Tensor, log_sum_squares: Tensor, num_samples: int) -> Tensor:
    """Standard error of the logarithm of the mean weight, by the delta method."""
    ess = (2 * log_sum - log_sum_squares).exp()
    return ((num_samples / ess - 1) / max(1, num_samples - 1)).sqrt()


@torch.no_grad()
def image_by_image(pair: Pair, data: Clock, num_samples: int, chunk: int, *, replicas: int) -> Estimate:
    """The procedure of published code: ``replicas`` copies of one image at a time, with the encoder run on every copy.

    The code of the Sylvester flows takes 500 copies, that of the VampPrior 100; ``chunk`` is not used. The densities
    are those of :func:`by_hand`, from logits and without gradients, and so not slower than the published ones.
    """
    encoder, log_weights = pair.guide.net.layers, log_weight_function(pair)
    sums = []
    for number, x in enumerate(data):
        torch.manual_seed(number)
        for image in x:
            chunks = []
            for start in range(0, num_samples, replicas):
                copies = image.expand(min(replicas, num_samples - start), -1)
                loc, log_scale = encoder(copies).chunk(2, -1)
                chunks.append(log_weights(copies, loc, log_scale, torch.randn_like(loc)))
            log_w = torch.cat(chunks).double()
            sums.append(torch.stack([log_w.logsumexp(0), (2 * log_w).logsumexp(0)]))
    first, second = torch.stack(sums, -1)
    return first - math.log(num_samples), standard_error(first, second, num_samples)


class Products:
    """The matrix products of decoding alone, in float32, with preallocated results.

    Args:
        pair: its decoder is a chain of linear layers.
        images: number of images per batch.
    """

    def __init__(self, pair: Pair, images: int) -> None:
        layers = [layer for layer in pair.model.likelihood.net.layers if isinstance(layer, torch.nn.Linear)]
        self.weights, self.images = [layer.weight.detach() for layer in layers], images

    def of_chunk(self, chunk: int) -> Callable[[], None]:
        """A function that computes the products of ``chunk`` samples of every image."""
        rows = chunk * self.images
        inputs = [torch.randn(rows, w.shape[1], device=w.device) for w in self.weights]
        results = [w.new_empty(rows, w.shape[0]) for w in self.weights]

        def compute() -> None:
            for a, w, out in zip(inputs, self.weights, results, strict=True):
                torch.mm(a, w.t(), out=out)

        return compute

    def run(self, data: Clock, num_samples: int, chunk: int) -> None:
        """Compute the products of all samples of all images."""
        whole, rest = num_samples // chunk, num_samples % chunk
        computations = [self.of_chunk(chunk)] * whole + [self.of_chunk(rest)] * bool(rest)
        for _ in data:
            for compute in computations:
                compute()

    def best_chunk(self, num_samples: int, device: torch.device) -> int:
        """The fastest number of samples per product."""
        sizes = [n for n in CHUNKS if n < num_samples] or [num_samples]
        return min(sizes, key=lambda n: shortest(self.of_chunk(n), device) / n)


@torch.no_grad()
def decoding(pair: Pair, x: Tensor, num_samples: int, chunk: int) -> Work:
    """Work per image: decoding its samples, chunk by chunk, and encoding it once."""
    loc, log_scale = pair.guide.net.layers(x).chunk(2, -1)
    noise = torch.randn(chunk, *loc.shape, device=x.device)
    decode = work_of(lambda: log_weight_function(pair)(x, loc, log_scale, noise))
    encode = work_of(lambda: pair.guide.net.layers(x))
    return (decode * (num_samples / chunk) + encode) * (1 / len(x))


ESTIMATORS: dict[str, Callable[..., Estimate]] = {
    "pyro_vae eager, fp32": partial(package, engine="eager", precision="fp32"),
    "pyro_vae eager, bf16": partial(package, engine="eager", precision="bf16"),
    "pyro_vae compiled, fp32": partial(package, engine="compiled", precision="fp32"),
    "pyro_vae compiled, bf16": partial(package, engine="compiled", precision="bf16"),
    "torch eager": by_hand,
    "torch compiled": partial(by_hand, compile=torch.compile),
    **{f"{IMAGE_BY_IMAGE}, {n} copies": partial(image_by_image, replicas=n) for n in (500, 100)},
}
