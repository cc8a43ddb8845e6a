"""Features of images: the last hidden layer of a small classifier trained on the same data, or of a random one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.fingerprint import fingerprint_of
from pyro_vae.data import ImageSet
from pyro_vae.networks import ConvEncoder

NUM_FEATURES = 64
_CHANNELS = (16, 32, 64)
_BATCH, _RATE = 128, 2e-3
_LARGEST = 1000  # images at a time
_NUM_SCALED = 2000  # training images that set the scale


class ImageFeatures:
    """A convolutional network with 64 features, trained to classify images if their classes are known.

    Features are divided by one number, so that their variance over the training images is 1 on average.

    Without classes the network keeps its random weights, whose features still respond to edges and shapes at several
    scales; they separate distributions, but not as people see them.

    Args:
        train: images to train on, as a model sees them: pixels of a dynamically binarized set are sampled.
        num_steps: number of steps of Adam, with a rate that falls linearly to 0.
        seed: of the weights and the batches; the global generators are restored.

    Attributes:
        kind: ``"classifier"`` or ``"random"``.
        sha256: fingerprint of the weights.
    """

    def __init__(self, train: ImageSet, *, num_steps: int = 1000, seed: int = 0) -> None:
        labels = train.labels
        known = None if labels is None else (labels >= 0).nonzero().squeeze(-1)
        self.num_classes = 0 if known is None or not len(known) else int(labels.max()) + 1  # type: ignore[union-attr]
        self.kind = "classifier" if self.num_classes > 1 else "random"
        with isolated_rng(seed):
            network = ConvEncoder(train.data_shape, (NUM_FEATURES,), channels=_CHANNELS)
            self.network = nn.Sequential(network, nn.ReLU()).to(train.device, torch.float32)
            head = nn.Linear(NUM_FEATURES, max(self.num_classes, 1))
            self.head = head.to(train.device, torch.float32)
            if self.kind == "classifier" and known is not None:
                self._train(train, known, num_steps)
            self.network.requires_grad_(False).eval()
            self.scale = 1.0
            some = self(train.batch(slice(_NUM_SCALED), dtype=torch.float32))
        self.scale = float(some.var(0).mean().sqrt()) or 1.0
        self.sha256 = fingerprint_of(self.network.state_dict())

    def _train(self, train: ImageSet, known: Tensor, num_steps: int) -> None:
        parameters = [*self.network.parameters(), *self.head.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=_RATE)
        for step in range(num_steps):
            rows = known[torch.randint(len(known), (_BATCH,), device=known.device)]
            loss = nn.functional.cross_entropy(self._logits(train, rows), train.labels[rows])  # type: ignore[index]
            optimizer.zero_grad()
            loss.backward()
            optimizer.param_groups[0]["lr"] = _RATE * (1 - step / num_steps)
            optimizer.step()

    def _logits(self, images: ImageSet, rows: Tensor) -> Tensor:
        return self.head(self.network(images.batch(rows, dtype=torch.float32)))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """The features of images ``(N, C, H, W)``, ``(N, 64)``."""
        return torch.cat([self.network(part.to(torch.float32)) for part in images.split(_LARGEST)]) / self.scale

    @torch.no_grad()
    def accuracy(self, images: ImageSet) -> float | None:
        """Accuracy of the classifier; None without one, or without classes."""
        if self.kind != "classifier" or images.labels is None:
            return None
        rows = (images.labels >= 0).nonzero().squeeze(-1)
        hits = [(self._logits(images, part).argmax(1) == images.labels[part]) for part in rows.split(_LARGEST)]
        return float(torch.cat(hits).double().mean()) if hits else None

    def protocol(self, seed: int) -> dict[str, Any]:
        """Entries that identify the features."""
        return {"features": self.kind, "features_seed": seed, "features_sha256": self.sha256}
