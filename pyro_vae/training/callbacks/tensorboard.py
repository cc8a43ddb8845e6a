"""Events for TensorBoard."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.checks import check_count
from pyro_vae.distributions import mean_or_sample
from pyro_vae.evaluation.marginals import kl_per_dimension
from pyro_vae.guides import Guide
from pyro_vae.models.vae import GenerativeModel
from pyro_vae.training.callbacks.base import Callback, Training, imported, numbers_of, run_of


class TensorBoard(Callback):
    """Writes TensorBoard events to ``tensorboard/`` in the run folder after each epoch: ``tensorboard --logdir runs``.

    The events are the numbers of the record, the options of the training, and of a VAE a histogram of the KL of each
    latent dimension and, if the data are images, data above reconstructions; both of a fixed training batch.

    Args:
        num_images: number of images; 0 for none.

    Raises:
        ValueError: TensorBoard is not installed.

    References:
        https://www.tensorflow.org/tensorboard
    """

    def __init__(self, *, num_images: int = 8) -> None:
        check_count("TensorBoard", 0, num_images=num_images)
        self.num_images = num_images
        self._module = imported(self, "torch.utils.tensorboard")
        self._writer: Any = None

    def start(self, training: Training) -> None:
        folder = str(run_of(self, training).folder("tensorboard"))
        last = training.history[-1]["step"] if training.history else 0
        self._writer = self._module.SummaryWriter(folder, purge_step=last + 1)  # hides what a resume repeats

    def epoch(self, training: Training) -> None:
        numbers, step = numbers_of(training.history[-1]), training.step
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        if training.epoch == 1:
            options = {k: v if isinstance(v, int | float | str) else str(v) for k, v in training.options.items()}
            for summary in self._module.summary.hparams(options, numbers):  # add_hparams would repeat the numbers
                self._writer.file_writer.add_summary(summary)
        model, guide, x = training.model, training.guide, training.batch[0]
        if isinstance(model, GenerativeModel) and isinstance(guide, Guide) and len(training.batch) == 1:
            kl = kl_per_dimension(guide.posterior(x), model.prior(), 100)
            if kl is not None:
                self._writer.add_histogram("KL per latent dimension", kl.mean(0), step)
            if self.num_images and x.ndim == 4 and x.shape[1] in (1, 3):
                self._writer.add_images("reconstructions", _pairs(model, guide, x[: self.num_images]), step)

    def end(self, training: Training) -> None:
        self._writer.close()


def _pairs(model: GenerativeModel, guide: Guide, x: Tensor) -> Tensor:
    """Each datum above the mean of p(x | z) at a sample z of q(z | x), ``(N, C, 2 H, W)``."""
    means = mean_or_sample(model.likelihood(guide.posterior(x).sample()))
    return torch.cat([x, means.reshape(x.shape)], -2).clamp(0, 1)
