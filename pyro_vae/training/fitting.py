"""The training loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from pyro.infer import ELBO as PyroELBO
from torch import Tensor
from torch.optim import Adam

from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.distributed import Ranks, join
from pyro_vae._core.owners import placement
from pyro_vae._core.precision import NetworkPrecision, Precision
from pyro_vae._core.types import Program
from pyro_vae.data import ImageSet
from pyro_vae.data.batches import Batches, Data
from pyro_vae.objectives import ELBO
from pyro_vae.training.engines.select import EngineName, resolve_engine
from pyro_vae.training.loss import check_objective
from pyro_vae.training.parameters import OptimizerFactory
from pyro_vae.training.progress import check_tensorboard
from pyro_vae.training.run_folder import RunFolder
from pyro_vae.training.settings import FitResult, Monitor, ScheduleFactory, Settings
from pyro_vae.training.trainer import Trainer


def fit(
    model: Program,
    guide: Program,
    data: Data,
    *,
    epochs: int = 100,
    batch_size: int = 100,
    objective: PyroELBO | None = None,
    optimizer: OptimizerFactory = Adam,
    lr_schedule: ScheduleFactory | None = None,
    lr_schedule_unit: Literal["epoch", "step"] = "epoch",
    clip_norm: float | None = None,
    validation: Data | None = None,
    patience: int | None = None,
    monitor: Monitor | None = None,
    seed: int = 0,
    accumulate: int = 1,
    engine: EngineName = "auto",
    precision: Precision = "fp32",
    run: RunFolder | str | Path | Callable[[], RunFolder] | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 60.0,
    tensorboard: bool = False,
    progress: bool | None = None,
) -> FitResult:
    """Train a Pyro model and guide by stochastic variational inference with a torch optimizer.

    Under ``torchrun`` the processes share every batch and draw the random numbers of one process: losses and weights
    are those of one process to rounding, whatever the number of processes, which may change at a resume. The first
    process alone writes the run folder.

    The parameters are those of the modules that the programs use, however these are written, what they declare with
    ``pyro.param``, and tensors in variables of their functions; our modules stay out of Pyro's parameter store. Random
    numbers come from ``seed`` and the global generator is left as it was. Programs are validated on the first batch and
    run without validation from then on; that the data lie in the likelihood's support is checked throughout the first
    epoch. Modules are in train mode meanwhile and in eval mode afterwards.

    The loss of a step is Pyro's, divided by the number of data, which is the size of the plate that the observed sites
    are in; the scale of a plate, if you gave it one, is a part of it. Every step's sites are compared with those of the
    first: another structure is checked anew.

    Args:
        model: Pyro model, called as ``model(*batch)``; for a VAE ``vae.model``.
        guide: Pyro guide; for a VAE ``vae.guide``.
        data: an ``ImageSet``; a tensor ``(N, *data_shape)``, an array or a data frame; or an iterable of batches such
            as a ``DataLoader``. Floating-point numbers are taken in the model's dtype, and so are integers if the
            programs take no others.
        epochs: passes over the data, in all, the ones before a resume included.
        batch_size: data per step; the last batch of an epoch may be smaller.
        objective: any Pyro ELBO; those of :mod:`pyro_vae.objectives` report reconstruction and KL apart. ``ELBO()``.
        optimizer: builds the optimizer from the parameters, such as ``partial(torch.optim.Adam, lr=1e-3)``.
        lr_schedule: builds the learning-rate schedule from the optimizer, such as
            ``partial(CosineAnnealingLR, T_max=100)``.
        lr_schedule_unit: whether the schedule counts epochs or steps.
        clip_norm: largest norm of the gradient of all parameters together.
        validation: data whose ELBO is computed after each epoch.
        patience: stop after so many epochs without a better validation ELBO, and go back to the best weights.
        monitor: called after each epoch, with the modules in eval mode and random numbers of its own; the numbers that
            it returns by name, such as a validation error, enter the record of the epoch.
        seed: of shuffling, binarization and latents.
        accumulate: batches per step, whose gradients are added up: the effect of a larger batch at the memory of one.
        engine: how a step runs: ``"eager"``, Pyro as it is; ``"compiled"``, the program's Python once and its compiled
            tensor operations from then on; ``"cuda-graph"``, those captured with data and optimizer; ``"auto"``, the
            fastest that can record the programs, and eager on a CPU for trainings too short to pay for compiling. All
            draw the same random numbers.
        precision: ``"bf16"`` multiplies in bfloat16 in linear and convolutional layers, everything else in float32.
        run: run folder for checkpoints and metrics, made if it does not exist; or a function that makes it, called once
            everything else has been found in order.
        resume: continue from the run's last checkpoint: the final weights are those of an uninterrupted run, bit for
            bit on the same machine with the same numbers of threads and processes (not with a ``DataLoader`` that has a
            generator of its own). Without it a run folder that has been trained in is refused.
        checkpoint_seconds: time between checkpoints.
        tensorboard: write TensorBoard events to the run folder.
        progress: show a bar; None does on a terminal.

    Returns:
        The history, one record per epoch.

    Raises:
        ValueError: an argument is out of range; the message says which and what to do.
        NonFiniteError: loss or gradient is not finite; the last good state is kept, in the run folder too.
        KeyboardInterrupt: Ctrl-C, after the current step and its checkpoint.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014), algorithm 1. https://arxiv.org/abs/1312.6114

    Example:
        >>> import torch
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> result = fit(vae.model, vae.guide, torch.ones(70, 5), epochs=3, batch_size=20)
        >>> [record["epoch"] for record in result.history]
        [1, 2, 3]
    """
    _check(epochs=epochs, batch_size=batch_size, clip_norm=clip_norm, patience=patience, accumulate=accumulate)
    _check_choices(lr_schedule_unit, patience, validation)
    check_objective(objective or ELBO())
    NetworkPrecision(precision)
    if tensorboard:
        check_tensorboard(run)
    ranks = join()
    batches = _training_batches(model, guide, data, batch_size, seed, ranks)
    resolve_engine(engine, batches.device or torch.device("cpu"), ranks=ranks)
    settings = Settings(
        objective or ELBO(),
        optimizer,
        lr_schedule,
        lr_schedule_unit,
        clip_norm,
        validation,
        patience,
        monitor,
        seed,
        engine,
        precision,
        accumulate,
        checkpoint_seconds,
    )
    with isolated_rng(seed):
        loop = Trainer(model, guide, batches, settings)
        loop.check()
        loop.attach(_open_run(run) if ranks.first else None, resume)
        return loop.train(epochs, tensorboard=tensorboard, progress=progress)


def _training_batches(model: Program, guide: Program, data: Data, batch_size: int, seed: int, ranks: Ranks) -> Batches:
    device, dtype = placement(model, guide)
    batches = Batches(data, batch_size, shuffle_seed=seed, device=device, dtype=dtype, ranks=ranks)
    if batches.num_data is not None and batch_size > batches.num_data:
        raise ValueError(
            f"fit: batch_size must not exceed the data, got batch_size={batch_size}, data={batches.num_data}. "
            f"Use at most {batches.num_data}."
        )
    if device is not None and isinstance(data, ImageSet | Tensor) and data.device != device:
        raise ValueError(
            f"fit: data and model must be on one device, got data={data.device}, model={device}. Move one with .to()."
        )
    return batches


def _open_run(run: RunFolder | str | Path | Callable[[], RunFolder] | None) -> RunFolder | None:
    if run is None or isinstance(run, RunFolder):
        return run
    if callable(run):
        return run()
    return RunFolder(run) if Path(run).exists() else RunFolder.create(run)


def _check_choices(lr_schedule_unit: str, patience: int | None, validation: Data | None) -> None:
    if patience is not None and validation is None:
        raise ValueError("fit: patience must have validation data, got validation=None. Pass some, or patience=None.")
    if lr_schedule_unit not in ("epoch", "step"):
        raise ValueError(
            f"fit: lr_schedule_unit must be 'epoch' or 'step', got lr_schedule_unit={lr_schedule_unit!r}. Use 'epoch'."
        )


def _check(**sizes: float | None) -> None:
    for name, value in sizes.items():
        if value is not None and (not value > 0 or (name != "clip_norm" and value != int(value))):
            raise ValueError(f"fit: {name} must be positive and whole, got {name}={value}. Use such a number.")
