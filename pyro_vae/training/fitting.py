"""The function ``fit``, which trains a model and a guide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from pyro.infer import ELBO as PyroELBO
from torch.optim import Adam

from pyro_vae._core.checks import check_arguments, check_positive, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.distributed import join
from pyro_vae._core.owners import placement
from pyro_vae._core.precision import Precision, check_precision, warn_if_slower
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Batches, Data
from pyro_vae.data.image_set import ImageSet
from pyro_vae.data.loading import is_external, loaded
from pyro_vae.objectives import ELBO
from pyro_vae.training.callbacks import Callback, TensorBoard
from pyro_vae.training.compatibility import has_score
from pyro_vae.training.engines.select import EngineName, resolve_engine
from pyro_vae.training.loss import check_objective
from pyro_vae.training.parameters import OptimizerFactory
from pyro_vae.training.run_folder import RunFolder
from pyro_vae.training.settings import FitResult, Monitor, ScheduleFactory, Settings
from pyro_vae.training.threads import Threads, check_threads, restored_threads
from pyro_vae.training.trainer import Trainer

RunOption: TypeAlias = RunFolder | str | Path | Callable[[], RunFolder] | None


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
    lr_warmup: int = 0,
    clip_norm: float | None = None,
    skip_norm: float | None = None,
    ema: float | None = None,
    validation: Data | None = None,
    patience: int | None = None,
    monitor: Monitor | None = None,
    callbacks: Sequence[Callback] = (),
    seed: int = 0,
    accumulate: int = 1,
    engine: EngineName = "auto",
    precision: Precision = "fp32",
    threads: Threads = None,
    run: RunOption = None,
    resume: bool = False,
    checkpoint_seconds: float = 60.0,
    tensorboard: bool = False,
    progress: bool | None = None,
) -> FitResult:
    """Train a Pyro model and guide by stochastic variational inference with a torch optimizer.

    The trained parameters are those of the modules that the programs use, those declared by ``pyro.param``, and tensors
    in variables of the programs' functions; modules are not registered in Pyro's parameter store. Random numbers depend
    on ``seed`` alone, and the global generators are left as they were. The programs are validated on the first batch,
    and whether the data lie in the likelihood's support is checked throughout the first epoch. Modules are in train
    mode during training and in eval mode afterwards.

    The loss of a step is Pyro's, divided by the number of data, which is the size of the plate of the observed sites;
    it includes the scale of that plate, if one is set. The sites of every step are compared with those of earlier
    steps: a new structure is validated again.

    Under ``torchrun`` the processes share every batch and draw the random numbers of one process: losses and weights
    are those of one process to rounding. The number of processes may change at a resume. Only the first process writes
    the run folder.

    Args:
        model: Pyro model, called as ``model(*batch)``; for a VAE ``vae.model``.
        guide: Pyro guide; for a VAE ``vae.guide``.
        data: an ``ImageSet``; a tensor ``(N, *data_shape)``, an array or a data frame; or an iterable of batches such
            as a ``DataLoader``. Floating-point data are converted to the model's dtype, and so are integers if the
            programs accept no integers.
        epochs: total number of passes over the data, including those before a resume.
        batch_size: data per batch; the last batch of an epoch may be smaller.
        objective: any Pyro ELBO; those of :mod:`pyro_vae.objectives` also report distortion and rate. None is
            ``ELBO()``.
        optimizer: builds the optimizer from the parameters, such as ``partial(torch.optim.Adam, lr=1e-3)``.
        lr_schedule: builds the learning-rate schedule from the optimizer, such as
            ``partial(CosineAnnealingLR, T_max=100)``.
        lr_schedule_unit: whether the schedule counts epochs or steps.
        lr_warmup: number of steps over which the learning rate increases linearly to its value.
        clip_norm: largest norm of the gradient of all parameters together; a larger one is scaled down.
        skip_norm: norm of the gradient above which a step is skipped, which changes neither parameters nor running
            statistics; the record of the epoch counts these steps.
        ema: decay of an exponential moving average of the parameters, such as 0.999. Validation, monitor and the
            final weights are those of the average; the run folder keeps the others as ``weights-raw.safetensors``.
        validation: data whose ELBO is computed after each epoch; the loss of objectives for sites without a density.
        patience: stop after this number of epochs without a better validation ELBO, and restore the best weights.
        monitor: called after each epoch in eval mode, with separate random numbers; the numbers that it returns by
            name, such as a validation error, are added to the record of the epoch.
        callbacks: called at the start, after steps, epochs and checkpoints, and at the end: see
            :mod:`pyro_vae.training.callbacks`. Of several processes only the first calls them.
        seed: seed of shuffling, binarization and latents.
        accumulate: batches per step, whose gradients are averaged: the effect of a larger batch at the memory of one.
        engine: how a step runs: ``"eager"``, Pyro's programs in Python; ``"compiled"``, the program's tensor
            operations, recorded once and compiled; ``"cuda-graph"``, those captured together with data and optimizer;
            ``"auto"``, the fastest engine that can record the programs, and eager for trainings on a CPU that are too
            short for compiling to pay. All draw the same random numbers.
        precision: ``"bf16"`` multiplies in bfloat16 in linear and convolutional layers; all else is float32. Warns if
            that is slower on this processor.
        threads: number of processor threads; ``"auto"`` times a step with all and with one, and a resumed run keeps
            the number; None is torch's number. More threads than free cores are slow.
        run: run folder for checkpoints and metrics, created if it does not exist; or a function that creates it, called
            after all checks.
        resume: continue from the run's last checkpoint: the final weights are those of an uninterrupted run, bit for
            bit on the same machine with the same numbers of threads and processes (not with a ``DataLoader`` that has
            its own generator). Without it the run folder must not hold a training. ``epochs``, the learning rate,
            ``lr_schedule``, ``clip_norm``, ``skip_norm`` and ``patience`` may be others: a new rate or schedule acts
            as if it had been there from the start (ReduceLROnPlateau: from now on), patience counts from now on, and
            the next record holds old and new values as ``changed``.
        checkpoint_seconds: time between checkpoints.
        tensorboard: write TensorBoard events to the run folder: short for the callback ``TensorBoard()``.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        The history, one record per epoch.

    Raises:
        ValueError: an argument is invalid, or does not fit the others.
        NonFiniteError: loss or gradient is not finite; the parameters are those before that step, and the run folder
            keeps its last checkpoint, from which a lower learning rate can be tried.
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
    check_arguments(fit, locals(), epochs=1, batch_size=1, patience=1, accumulate=1, lr_warmup=0)
    data = data if validation is None else _loaded(data, None, model, guide)
    settings = Settings(
        epochs=epochs,
        objective=objective or ELBO(),
        optimizer=optimizer,
        lr_schedule=lr_schedule,
        lr_schedule_unit=lr_schedule_unit,
        lr_warmup=lr_warmup,
        clip_norm=clip_norm,
        skip_norm=skip_norm,
        ema=ema,
        validation=_loaded(validation, data, model, guide),
        patience=patience,
        monitor=monitor,
        callbacks=[*callbacks, *([TensorBoard()] if tensorboard else [])],
        seed=seed,
        accumulate=accumulate,
        engine=engine,
        precision=precision,
        threads=threads,
        checkpoint_seconds=checkpoint_seconds,
        tensorboard=tensorboard,
        progress=progress,
    )
    _check_settings(settings)
    advice = "Pass run='runs/NAME'"
    require(run is not None or not tensorboard, "fit", "tensorboard requires a run folder", "run=None", advice)
    batches = _training_batches(model, guide, data, batch_size, seed)
    warn_if_slower("fit", precision, batches.device)
    return _train(model, guide, batches, settings, run, resume=resume)


def _train(
    model: Program, guide: Program, batches: Batches, settings: Settings, run: RunOption, *, resume: bool
) -> FitResult:
    ranks = join()
    resolve_engine(settings.engine, batches.device or torch.device("cpu"), ranks=ranks)
    with isolated_rng(settings.seed), restored_threads(), ExitStack() as stack:
        trainer = Trainer(model, guide, batches, settings, ranks)
        folder = _open_run(run) if ranks.first else None
        if folder is not None:
            stack.enter_context(folder.locked())
        trainer.attach(folder, resume=resume)
        return trainer.train()


def _loaded(data: Any, train: Any, model: Program, guide: Program) -> Any:
    """Data as they are; a file or the like is read, validation data as the training data ``train`` were."""
    if not is_external(data):
        return data
    device, like = placement(model, guide)[0], train if isinstance(train, ImageSet) else None
    return loaded(data, owner="fit", like=like).to("cpu" if device is None else device)


def _check_settings(settings: Settings) -> None:
    patience, validation = settings.patience, settings.validation
    check_positive("fit", clip_norm=settings.clip_norm, skip_norm=settings.skip_norm, advice="Use None for no limit")
    seconds = settings.checkpoint_seconds
    require(seconds >= 0, "fit", "checkpoint_seconds must be at least 0", f"checkpoint_seconds={seconds}")
    rule, advice = "patience requires validation data", "Pass some, or patience=None"
    require(patience is None or validation is not None, "fit", rule, "validation=None", advice)
    check_objective(settings.objective)
    rule, got = "patience requires an objective with an ELBO", type(settings.objective).__name__
    require(patience is None or not has_score(settings.objective), "fit", rule, got, "Use patience=None")
    check_precision(settings.precision)
    check_threads(settings.threads)


def _training_batches(model: Program, guide: Program, data: Data, batch_size: int, seed: int) -> Batches:
    device, dtype = placement(model, guide)
    batches = Batches(data, batch_size, shuffle_seed=seed, device=device, dtype=dtype, owner="fit")
    num = batches.num_data
    value, advice = f"batch_size={batch_size}, data={num}", f"Use at most {num}"
    require(num is None or batch_size <= num, "fit", "batch_size must not exceed the data", value, advice)
    return batches


def _open_run(run: RunOption) -> RunFolder | None:
    if run is None or isinstance(run, RunFolder):
        return run
    if callable(run):
        return run()
    if str(run) == "" or not Path(run).exists():
        return RunFolder.create(run)
    folder = RunFolder(run)
    value, advice = f"{run}, which holds other files", "Choose another name"
    require(folder.is_run, "fit", "run must be a run folder or a new one", value, advice)
    return folder
