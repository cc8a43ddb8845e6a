"""Ways to the log-likelihood of the same images under the same VAE."""

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
    """Batches of images that note when each is asked for, which is when the one before is done.

    Not an iterator: every pass starts again.
    """

    def __init__(self, x: Tensor, batch: int) -> None:
        self.batches, self.device = x.split(batch), x.device
        self._times: list[float] = []

    def __iter__(self) -> Iterator[Tensor]:
        self._times = []
        for batch in self.batches:
            self._note()
            yield batch
        self._note()

    def _note(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._times.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Of every batch."""
        return [b - a for a, b in zip(self._times, self._times[1:], strict=False)]


def ours(pair: Pair, data: Clock, num_samples: int, chunk: int, **how: Any) -> Estimate:
    """``pyro_vae.log_likelihood``."""
    sizes = {"num_samples": num_samples, "chunk_size": chunk}
    result = log_likelihood(pair.model, pair.guide, data, **sizes, **how)
    return result.log_likelihood, result.standard_error


def weigher(pair: Pair) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """From a batch, its posterior and noise to log p(x, z) - log q(z | x), ``(chunk, B)``."""
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
    """The same without Pyro: encoded once, the sums of weights and of their squares streamed over the chunks."""
    log_weights, encoder = weigher(pair), pair.guide.net.layers
    log_weights = compile(log_weights) if compile else log_weights
    values, errors = [], []
    for number, x in enumerate(data):
        torch.manual_seed(number)  # the draws of pyro_vae at its seed 0
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
    """Of the logarithm of the mean weight, by the delta method."""
    ess = (2 * log_sum - log_sum_squares).exp()
    return ((num_samples / ess - 1) / max(1, num_samples - 1)).sqrt()


@torch.no_grad()
def image_by_image(pair: Pair, data: Clock, num_samples: int, chunk: int, *, replicas: int) -> Estimate:
    """As published codes evaluate: one image, ``replicas`` copies of it at a time, the encoder run on every copy.

    The authors of the Sylvester flows take 500 copies, those of the VampPrior 100; ``chunk`` is not used. The densities
    are those of :func:`by_hand`, from logits, and without gradients: no slower than the published ones.
    """
    encoder, log_weights = pair.guide.net.layers, weigher(pair)
    sums = []
    for number, x in enumerate(data):
        torch.manual_seed(number)
        for image in x:
            parts = []
            for start in range(0, num_samples, replicas):
                copies = image.expand(min(replicas, num_samples - start), -1)
                loc, log_scale = encoder(copies).chunk(2, -1)
                parts.append(log_weights(copies, loc, log_scale, torch.randn_like(loc)))
            log_w = torch.cat(parts).double()
            sums.append(torch.stack([log_w.logsumexp(0), (2 * log_w).logsumexp(0)]))
    first, second = torch.stack(sums, -1)
    return first - math.log(num_samples), standard_error(first, second, num_samples)


class Products:
    """The matrix products of decoding alone, in float32, the memory for their results at hand: nothing else is done.

    Args:
        pair: whose decoder is a chain of linear layers.
        images: at a time.
    """

    def __init__(self, pair: Pair, images: int) -> None:
        layers = [layer for layer in pair.model.likelihood.net.layers if isinstance(layer, torch.nn.Linear)]
        self.weights, self.images = [layer.weight.detach() for layer in layers], images

    def of_chunk(self, chunk: int) -> Callable[[], None]:
        """What computes those of ``chunk`` samples of every image."""
        rows = chunk * self.images
        inputs = [torch.randn(rows, w.shape[1], device=w.device) for w in self.weights]
        results = [w.new_empty(rows, w.shape[0]) for w in self.weights]

        def compute() -> None:
            for a, w, out in zip(inputs, self.weights, results, strict=True):
                torch.mm(a, w.t(), out=out)

        return compute

    def run(self, data: Clock, num_samples: int, chunk: int) -> None:
        """Those of all samples of all images."""
        whole, rest = num_samples // chunk, num_samples % chunk
        computations = [self.of_chunk(chunk)] * whole + [self.of_chunk(rest)] * bool(rest)
        for _ in data:
            for compute in computations:
                compute()

    def best_chunk(self, num_samples: int, device: torch.device) -> int:
        """The number of samples at a time with which they are fastest."""
        sizes = [n for n in CHUNKS if n < num_samples] or [num_samples]
        return min(sizes, key=lambda n: shortest(self.of_chunk(n), device) / n)


@torch.no_grad()
def decoding(pair: Pair, x: Tensor, num_samples: int, chunk: int) -> Work:
    """What one image takes: decoding its samples, chunk by chunk, and encoding it once."""
    loc, log_scale = pair.guide.net.layers(x).chunk(2, -1)
    noise = torch.randn(chunk, *loc.shape, device=x.device)
    decode = work_of(lambda: weigher(pair)(x, loc, log_scale, noise))
    encode = work_of(lambda: pair.guide.net.layers(x))
    return (decode * (num_samples / chunk) + encode) * (1 / len(x))


ESTIMATORS: dict[str, Callable[..., Estimate]] = {
    "pyro_vae eager, fp32": partial(ours, engine="eager", precision="fp32"),
    "pyro_vae eager, bf16": partial(ours, engine="eager", precision="bf16"),
    "pyro_vae compiled, fp32": partial(ours, engine="compiled", precision="fp32"),
    "pyro_vae compiled, bf16": partial(ours, engine="compiled", precision="bf16"),
    "torch eager": by_hand,
    "torch compiled": partial(by_hand, compile=torch.compile),
    **{f"{IMAGE_BY_IMAGE}, {n} copies": partial(image_by_image, replicas=n) for n in (500, 100)},
}
