"""A training described by a configuration: from the pieces' class names to a run folder, and back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from pydoc import locate
from typing import Literal

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyro_vae.assembly import Device, build_vae, choose_device, load_model, takes_guide
from pyro_vae.config import load_config
from pyro_vae.data import Dataset, Digits
from pyro_vae.guides import DiagonalNormalGuide, Guide
from pyro_vae.isolation import isolated
from pyro_vae.likelihoods import BernoulliLikelihood, Likelihood
from pyro_vae.networks import Shape
from pyro_vae.objectives import ELBO, Objective
from pyro_vae.precision import Precision
from pyro_vae.priors import Prior, StandardNormalPrior, VampPrior
from pyro_vae.trained import Trained, parts_of
from pyro_vae.training import EngineName, Run, fit, frozen

__all__ = [
    "Device",
    "Trained",
    "build_vae",
    "choose_device",
    "load_model",
    "load_run",
    "parse_config",
    "parser",
    "refit_options",
    "takes_guide",
    "to_yaml",
    "train",
]


def train(
    data: Callable[[], Dataset] = Digits,
    latent_dim: int = 20,
    prior: Callable[[int], Prior] = StandardNormalPrior,
    likelihood: Callable[[int, Shape], Likelihood] = BernoulliLikelihood,
    guide: Callable[[Shape, int], Guide] = DiagonalNormalGuide,
    start_at_mean: bool = True,
    objective: Callable[[], Objective] = ELBO,
    optimizer: Callable[[Iterable], Optimizer] = Adam,
    lr_schedule: Callable[[Optimizer], LRScheduler] | None = None,
    lr_schedule_unit: Literal["epoch", "step"] = "epoch",
    epochs: int = 100,
    batch_size: int = 100,
    clip_norm: float | None = None,
    patience: int | None = None,
    seed: int = 0,
    device: Device = "auto",
    accumulate: int = 1,
    engine: EngineName = "auto",
    precision: Precision = "fp32",
    checkpoint_seconds: float = 60.0,
    tensorboard: bool = False,
    num_samples: int = 1000,
    model_from: str | None = None,
    prior_guide: Callable[[Shape, int], Guide] | None = None,
    *,
    run: Run | Callable[[], Run],
    resume: bool = False,
) -> Trained:
    """Train a VAE on a data set, in a run folder, and estimate its test log-likelihood.

    Args:
        data: the data set: Digits (embedded), MNIST, FreyFaces, or Files for data of your own.
        latent_dim: number of latent dimensions.
        prior: p(z).
        likelihood: p(x | z); its decoder is ``--likelihood.net``.
        guide: q(z | x); its encoder is ``--guide.net``.
        start_at_mean: start the decoder's output at the mean of the training data.
        objective: what is maximised, and its weights.
        optimizer: any of torch.optim.
        lr_schedule: any of torch.optim.lr_scheduler; none keeps the learning rate.
        lr_schedule_unit: what the schedule counts.
        epochs: passes over the training data.
        batch_size: data per step.
        clip_norm: largest norm of the whole gradient.
        patience: stop after so many epochs without a better validation ELBO, and keep the best weights.
        seed: of initial weights, shuffling, binarization and latents.
        device: where to train; auto takes the GPU where there is one.
        accumulate: batches per step, whose gradients are added up.
        engine: how a step runs; auto takes the fastest that can record the programs.
        precision: of the networks' products; everything else is float32.
        checkpoint_seconds: time between two checkpoints.
        tensorboard: write TensorBoard events too.
        num_samples: draws per test image for the log-likelihood at the end.
        model_from: run folder whose trained prior and likelihood are taken and kept: only the guide is trained.
        prior_guide: the guide that a VampPrior goes through, where it is not the one that is trained.
        run: the run folder, or what makes it once everything else has been found in order.
        resume: go on from the run's last checkpoint.
    """
    place = choose_device(device)
    dataset = data()
    dataset.may_download = not resume
    splits = dataset.load().to(place)
    vae = build_vae(splits.data_shape, latent_dim, prior, likelihood, guide, prior_guide, seed=seed)
    if start_at_mean:
        vae.likelihood.start_at(splits.train.mean())
    if isinstance(vae.prior, VampPrior):
        with isolated(seed):
            vae.prior.start_at(splits.train.batch(torch.randperm(len(splits.train))[: len(vae.prior.raw)]))
    if model_from is not None:
        load_model(vae, Run(model_from))
    vae.to(place)
    with frozen(vae.model) if model_from is not None else nullcontext():
        result = fit(
            vae.model,
            vae.guide,
            splits.train,
            epochs=epochs,
            batch_size=batch_size,
            objective=objective(),
            optimizer=optimizer,
            lr_schedule=lr_schedule,
            lr_schedule_unit=lr_schedule_unit,
            clip_norm=clip_norm,
            validation=splits.validation,
            patience=patience,
            seed=seed,
            accumulate=accumulate,
            engine=engine,
            precision=precision,
            run=run,
            resume=resume,
            checkpoint_seconds=checkpoint_seconds,
            tensorboard=tensorboard,
        )
    return Trained(vae, splits, {**splits.protocol, **parts_of(vae)}, result, num_samples)


def load_run(
    path: str | Path, *, device: Device = "auto", root: str | None = None, trust: Iterable[str] = ()
) -> Trained:
    """Rebuild the VAE, the data and the protocol of a run folder.

    Nothing in the folder is executed: the configuration may name only classes of this package and torch's optimizers,
    and the weights are plain tensors.

    Args:
        path: the run folder.
        device: where to put model and data.
        root: where the data set lies, if not where it lay in training.
        trust: packages whose classes the configuration may name too; importing them runs their code.

    Raises:
        FileNotFoundError: no run there, or it has no weights yet.
        ValueError: a file is damaged, foreign, or names code that is not trusted.
    """
    run = Run(path)
    weights = run.load_weights()
    options = parser().instantiate(parse_config(run, trust=trust))
    place = choose_device(device)
    dataset = options.data()
    dataset.may_download = root is not None
    dataset.root = dataset.root if root is None else root
    splits = dataset.load().to(place)
    vae = build_vae(
        splits.data_shape,
        options.latent_dim,
        options.prior,
        options.likelihood,
        options.guide,
        options.prior_guide,
        seed=options.seed,
    )
    try:
        vae.load_state_dict(weights)
    except RuntimeError:
        raise ValueError(
            f"Run: {run.path} must hold the weights of its own config.yaml, got others. Restore the folder from a copy."
        ) from None
    return Trained(vae.to(place).eval(), splits, {**splits.protocol, **parts_of(vae)})


def parse_config(run: Run, *, trust: Iterable[str] = ()) -> Namespace:
    """The options of a run, from its ``config.yaml``."""
    config = load_config(run.config(), str(run.path / "config.yaml"), trust=trust)
    return parser().parse_args([f"--config={json.dumps(config)}"])


_OF_THE_MODEL = ("data", "latent_dim", "prior", "likelihood")


def refit_options(run: Run, words: Sequence[str] = (), *, trust: Iterable[str] = ()) -> Namespace:
    """The options of :func:`train` for another guide of a run's model.

    Data, prior and likelihood are the run's; the guide is too unless the words name another; how it is trained is not
    taken from the run.

    Args:
        run: the run folder.
        words: options of the command line, component names in their exact form.
        trust: packages that the run's configuration may name.

    Raises:
        ValueError: a word would change the model.
    """
    wrong = next((w for w in words if w.startswith("--") and re.split(r"[.=]", w[2:])[0] in _OF_THE_MODEL), None)
    if wrong and not wrong.startswith("--data.root"):
        raise ValueError(f"refit: data, prior and likelihood must be those of the run, got {wrong}. Leave it away.")
    config = yaml.safe_load(to_yaml(parse_config(run, trust=trust)))
    kept = {key: config[key] for key in (*_OF_THE_MODEL, "guide")}
    if takes_guide(locate(config["prior"]["class_path"])):
        kept["prior_guide"] = config["prior_guide"] or config["guide"]
    return parser().parse_args([f"--config={json.dumps({**kept, 'model_from': str(run.path)})}", *words])


def parser() -> ArgumentParser:
    """The command-line options of :func:`train`, made from its signature and those of the components."""
    made = ArgumentParser(
        exit_on_error=False,
        allow_abbrev=False,
        prog="pyro-vae train",
        description=(train.__doc__ or "").splitlines()[0],
    )
    made.add_argument("--config", action="config", help="YAML file with any of these options.")
    made.add_function_arguments(train, skip={"run", "resume"})
    return made


def to_yaml(options: Namespace) -> str:
    """The text of ``config.yaml``: every option, defaults included, so that later defaults change nothing."""
    plain = yaml.safe_load(parser().dump(options, skip_unset=False))
    plain.pop("config", None)
    return yaml.safe_dump(plain, sort_keys=False)
