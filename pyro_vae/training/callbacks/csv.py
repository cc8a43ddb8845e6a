"""A table of the records in the run folder."""

from __future__ import annotations

import csv
import io

from pyro_vae._core.files import write_atomically
from pyro_vae.training.callbacks.base import Callback, Training, run_of


class CSV(Callback):
    """Writes the records to ``metrics.csv`` in the run folder, one row per epoch, after each epoch.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from pyro_vae import VAE, fit
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> run = Path(tempfile.mkdtemp()) / "run"
        >>> _ = fit(vae.model, vae.guide, torch.ones(70, 5), epochs=2, batch_size=20, run=run, callbacks=[CSV()])
        >>> [line.split(",")[:2] for line in (run / "metrics.csv").read_text().splitlines()]
        [['epoch', 'step'], ['1', '4'], ['2', '8']]
    """

    def start(self, training: Training) -> None:
        run_of(self, training)

    def epoch(self, training: Training) -> None:
        names = dict.fromkeys(name for record in training.history for name in record)
        table = io.StringIO()
        writer = csv.DictWriter(table, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(training.history)
        write_atomically(run_of(self, training).path / "metrics.csv", table.getvalue().encode(), overwrite=True)
