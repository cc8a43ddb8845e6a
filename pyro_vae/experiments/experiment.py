"""A training described by a configuration: from the pieces' class names to a run folder, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.precision import Precision
from pyro_vae.data import Dataset, Digits, Splits
from pyro_vae.experiments.config import load_config
from pyro_vae.experiments.labels import check_labels_asked, classes_of
from pyro_vae.experiments.latent_data import active_latents, check_same_data, initialise_at_data, latents_of
from pyro_vae.experiments.run_weights import Device, choose_device, load_model, load_weights
from pyro_vae.experiments.trained_model import TrainedModel, parts_of, validation_error
from pyro_vae.guides import CategoricalGuide, DiagonalNormalGuide, Guide
from pyro_vae.likelihoods import BernoulliLikelihood, Likelihood
from pyro_vae.models import VAE, LabelledVAE, SemiSupervisedVAE, classification_weight
from pyro_vae.models.build import build_semi_supervised, build_vae, takes_guide
from pyro_vae.models.stacked import StackedVAE
from pyro_vae.networks import Shape
from pyro_vae.objectives import ELBO, Objective
from pyro_vae.priors import CategoricalPrior, Prior, StandardNormalPrior, VampPrior
from pyro_vae.training import EngineName, RunFolder, fit, frozen

__all__ = [
    "Device",
    "TrainedModel",
    "build_vae",
    "choose_device",
    "load_model",
    "load_run",
    "parse_config",
    "parser",
    "takes_guide",
    "to_yaml",
    "train",
]


def train(
    model: Literal["VAE", "M2"] = "VAE",
    data: Callable[[], Dataset] = Digits,
    latent_dim: int = 20,
    prior: Callable[[int], Prior] = StandardNormalPrior,
    likelihood: Callable[[int, Shape], Likelihood] = BernoulliLikelihood,
    guide: Callable[[Shape, int], Guide] = DiagonalNormalGuide,
    classifier: Callable[[Shape, int], CategoricalGuide] = CategoricalGuide,
    label_prior: Callable[[int], CategoricalPrior] = CategoricalPrior,
    alpha: float = 0.1,
    m1: str | None = None,
    init_at_mean: bool = True,
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
    run: RunFolder | Callable[[], RunFolder],
    resume: bool = False,
    trust: Iterable[str] = (),
) -> TrainedModel:
    """Train a VAE, or M2 on few labels, on a data set, in a run folder, and evaluate it on the test images.

    Args:
        model: VAE; or M2, the semi-supervised model p(y) p(z) p(x | y, z) of data and classes, for which
            ``--data.labels`` says how many labels there are.
        data: the data set: Digits (embedded), MNIST, FreyFaces, or Files for data of your own.
        latent_dim: number of latent dimensions.
        prior: p(z).
        likelihood: p(x | z); its decoder is ``--likelihood.net``. In M2 p(x | y, z), whose decoder takes y too.
        guide: q(z | x); its encoder is ``--guide.net``. In M2 q(z | x, y), whose encoder takes y too.
        classifier: of M2, q(y | x); ``--classifier.estimator`` says whether y is summed out, drawn or relaxed.
        label_prior: of M2, p(y); uniform, or learned with ``--label_prior.learn true``.
        alpha: of M2, the weight of the classifier's log-likelihood, times the data per label.
        m1: of M2, run folder of a VAE of the same data: the data are draws of its active latents (M1+M2).
        init_at_mean: start the decoder's output at the mean of the training data.
        objective: what is maximised, and its weights. In M2 by default what the classifier's estimator needs.
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
        trust: packages whose classes the configuration of ``m1`` may name.
    """
    place = choose_device(device)
    dataset = data()
    dataset.may_download = not resume
    pieces: dict[str, Any] = {"model": model, "latent_dim": latent_dim, "prior": prior, "likelihood": likelihood}
    pieces |= {"guide": guide, "prior_guide": prior_guide, "classifier": classifier, "label_prior": label_prior}
    found = _assemble(dataset, place, **pieces, alpha=alpha, m1=m1, seed=seed, trust=trust)
    vae, splits = found.vae, found.data
    if init_at_mean:
        initialise_at_data(vae, splits.train, seed=seed)
    if isinstance(vae.prior, VampPrior):
        with isolated_rng(seed):
            vae.prior.initialise_pseudo_inputs(
                splits.train.batch(torch.randperm(len(splits.train))[: len(vae.prior.raw)])
            )
    if model_from is not None:
        load_model(vae, RunFolder(model_from))
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
            monitor=validation_error(found.whole, found.images.validation, seed=seed),
            seed=seed,
            accumulate=accumulate,
            engine=engine,
            precision=precision,
            run=run,
            resume=resume,
            checkpoint_seconds=checkpoint_seconds,
            tensorboard=tensorboard,
        )
    return TrainedModel(found.whole, found.images, found.protocol, result, num_samples)


def load_run(
    path: str | Path, *, device: Device = "auto", root: str | None = None, trust: Iterable[str] = ()
) -> TrainedModel:
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
    run = RunFolder(path)
    run.load_weights()  # which must be there
    options = parser().instantiate(parse_config(run, trust=trust))
    place = choose_device(device)
    dataset = options.data()
    dataset.may_download = root is not None
    dataset.root = dataset.root if root is None else root
    found = _assemble(dataset, place, **{name: options[name] for name in _PIECES}, trust=trust)
    load_weights(found.vae, run)
    return TrainedModel(found.whole.to(place).eval(), found.images, found.protocol)


_PIECES = (
    *("model", "latent_dim", "prior", "likelihood", "guide", "prior_guide"),
    *("classifier", "label_prior", "alpha", "m1", "seed"),
)


@dataclass(frozen=True)
class _Assembled:
    """What is trained and on which data; and what that is a part of, which is evaluated on images."""

    vae: VAE | SemiSupervisedVAE
    data: Splits
    whole: VAE | LabelledVAE
    images: Splits
    protocol: dict[str, Any]


def _assemble(
    dataset: Dataset,
    place: torch.device,
    *,
    model: str,
    latent_dim: int,
    classifier: Callable[[Shape, int], CategoricalGuide],
    label_prior: Callable[[int], CategoricalPrior],
    alpha: float,
    m1: str | None,
    trust: Iterable[str],
    **pieces: Any,
) -> _Assembled:
    check_labels_asked(model, dataset)
    if model == "VAE" and m1 is not None:
        raise ValueError(f"--m1: there must be a model of its latents, got {m1} for a VAE. Add --model M2.")
    images = dataset.load().to(place)
    if model == "VAE":
        vae = build_vae(images.data_shape, latent_dim, **pieces)
        return _Assembled(vae, images, vae, images, {**images.protocol, **parts_of(vae)})
    weight = classification_weight(len(images.train), dataset.labels or 0, alpha=alpha)
    own: dict[str, Any] = {"classifier": classifier, "label_prior": label_prior, "classification_weight": weight}
    build = partial(build_semi_supervised, num_classes=classes_of(images), **pieces, **own)
    if m1 is None:
        m2 = build(data_shape=images.data_shape, latent_dim=latent_dim)
        return _Assembled(m2, images, m2, images, {**images.protocol, "model": model, **parts_of(m2), "alpha": alpha})
    lower = _first_model(RunFolder(m1), dataset, images, trust).to(place)
    active = active_latents(lower, images.train)
    upper = build(data_shape=(len(active),), latent_dim=latent_dim)
    told = {"model": "M1+M2", "m1": Path(m1).resolve().name, **parts_of(upper), "alpha": alpha}
    whole = StackedVAE(lower, upper, active)
    return _Assembled(upper, latents_of(lower, images, active), whole, images, {**images.protocol, **told})


def _first_model(run: RunFolder, dataset: Dataset, splits: Splits, trust: Iterable[str]) -> VAE:
    """The trained VAE of the same data that M2 is put onto."""
    run.load_weights()  # which must be there
    options = parser().instantiate(parse_config(run, trust=trust))
    if options.model != "VAE":
        raise ValueError(f"--m1: the run must be of a VAE, got {options.model} in {run.path}. Use another run.")
    check_same_data(options.data(), dataset, str(run.path))
    parts = options.prior, options.likelihood, options.guide, options.prior_guide
    vae = build_vae(splits.data_shape, options.latent_dim, *parts, seed=options.seed)
    load_weights(vae, run)
    return vae.eval().requires_grad_(False)


def parse_config(run: RunFolder, *, trust: Iterable[str] = ()) -> Namespace:
    """The options of a run, from its ``config.yaml``."""
    config = load_config(run.config(), str(run.path / "config.yaml"), trust=trust)
    return parser().parse_args([f"--config={json.dumps(config)}"])


def parser() -> ArgumentParser:
    """The command-line options of :func:`train`, made from its signature and those of the components."""
    made = ArgumentParser(
        exit_on_error=False,
        allow_abbrev=False,
        prog="pyro-vae train",
        description=(train.__doc__ or "").splitlines()[0],
    )
    made.add_argument("--config", action="config", help="YAML file with any of these options.")
    made.add_function_arguments(train, skip={"run", "resume", "trust"})
    return made


def to_yaml(options: Namespace) -> str:
    """The text of ``config.yaml``: every option, defaults included, so that later defaults change nothing."""
    plain = yaml.safe_load(parser().dump(options, skip_unset=False))
    plain.pop("config", None)
    return yaml.safe_dump(plain, sort_keys=False)
