"""A training described by a configuration: from the components' class names to a run folder, and back."""

from __future__ import annotations

import copy
from argparse import ArgumentError
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from jsonargparse import ArgumentParser, Namespace
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyro_vae._core.checks import check_choice, check_count, require
from pyro_vae._core.device import Device, choose_device
from pyro_vae.data import Dataset, Digits
from pyro_vae.evaluation.classifier import validation_error
from pyro_vae.experiments.assembly import MODEL_OPTIONS, FirstModel, ModelName, assemble
from pyro_vae.experiments.components import assign
from pyro_vae.experiments.config import read_config
from pyro_vae.experiments.latent_data import check_magnitude, initialise_at_data
from pyro_vae.experiments.option_values import check_plain, wrong_value
from pyro_vae.experiments.provenance import RecordedRun, check_data, is_earlier, objective_entries, provenance_entries
from pyro_vae.experiments.restore import restore_model, restore_weights
from pyro_vae.experiments.resumable import check_resumable
from pyro_vae.experiments.trained_model import TrainedModel
from pyro_vae.guides import CategoricalGuide, DiagonalNormalGuide, Guide
from pyro_vae.likelihoods import BernoulliLikelihood, Likelihood, SiteLikelihood
from pyro_vae.models import AutoregressiveModel
from pyro_vae.models.vae import is_deterministic
from pyro_vae.networks import CausalNetwork, GatedPixelCNN, Shape
from pyro_vae.objectives import ELBO, Objective
from pyro_vae.priors import CategoricalPrior, Prior, StandardNormalPrior
from pyro_vae.training import Callback, RunFolder, fit, frozen


def train(
    model: ModelName = "VAE",
    data: Callable[[], Dataset] = Digits,
    latent_dim: int = 20,
    prior: Callable[[int], Prior] = StandardNormalPrior,
    likelihood: Callable[[int, Shape], Likelihood] = BernoulliLikelihood,
    guide: Callable[[Shape, int], Guide] = DiagonalNormalGuide,
    prior_guide: Callable[[Shape, int], Guide] | None = None,
    classifier: Callable[[Shape, int], CategoricalGuide] = CategoricalGuide,
    label_prior: Callable[[int], CategoricalPrior] = CategoricalPrior,
    alpha: float = 0.1,
    m1: str | None = None,
    score_seen: bool = False,
    net: Callable[[Shape, Shape], CausalNetwork] = GatedPixelCNN,
    base: Callable[[int, Shape], SiteLikelihood] = BernoulliLikelihood,
    model_from: str | None = None,
    init_at_mean: bool = True,
    objective: Callable[[], Objective] = ELBO,
    optimizer: Callable[[Iterable], Optimizer] = Adam,
    lr_schedule: Callable[[Optimizer], LRScheduler] | None = None,
    logger: Callable[[], Callback] | None = None,
    seed: int = 0,
    device: Device = "auto",
    num_samples: int = 1000,
    *,
    run: RunFolder | Callable[[], RunFolder],
    resume: bool = False,
    may_download: bool = True,
    trust: Iterable[str] = (),
    **options: Any,
) -> TrainedModel:
    """Train a VAE, M2 on few labels, a conditional VAE or an autoregressive model in a run folder.

    Args:
        model: VAE; M2, the semi-supervised model p(y) p(z) p(x | y, z), with the number of labels as
            ``--data.labels``; ConditionalVAE, p(z | c) p(x | z, c), with the context c as ``--data.context``; or
            AutoregressiveModel, the product of p(x_s | x_before), without latents. The name of a causal network, such
            as PixelCNN, is short for AutoregressiveModel with that ``--net``; with ``--data.context label`` it is
            one of images given their class. ImplicitModel is a generator x = g(z)
            without a guide, for the objective AdversarialSamples.
        data: the data set; Digits needs no download, and Files reads your own images or arrays.
        latent_dim: number of latent dimensions.
        prior: p(z); for a ConditionalVAE also ConditionalPrior, p(z | c).
        likelihood: p(x | z), with the decoder ``--likelihood.net``; in M2 p(x | y, z), given a context p(x | z, c).
        guide: q(z | x), with the encoder ``--guide.net``; in M2 q(z | x, y).
        prior_guide: the guide that a VampPrior is built from, if it is not the one that is trained; or a
            ConditionalPrior, of contexts.
        classifier: in M2, q(y | x); ``--classifier.estimator`` chooses whether y is summed out, drawn or relaxed.
        label_prior: in M2, p(y): uniform, or learned with ``--label_prior.learn true``.
        alpha: in M2, the weight of the classifier's log-likelihood, times the data per label.
        m1: in M2, run folder of a VAE of the same data, whose active latents become the data (M1+M2).
        score_seen: in a ConditionalVAE given a part of the data, score that part too, not only the others.
        net: in an AutoregressiveModel, the causal network.
        base: in an AutoregressiveModel, the distribution of a pixel given those before.
        model_from: run folder whose trained prior and likelihood are kept fixed; only the guide is trained.
        init_at_mean: start the decoder's output at the mean of the training data.
        objective: the objective to maximise; in M2 by default the one that the classifier's estimator needs.
        optimizer: any of torch.optim.
        lr_schedule: any of torch.optim.lr_scheduler; without it the learning rate is constant.
        logger: where to log the records in addition to ``metrics.jsonl``, or another callback.
        seed: seed of initial weights, shuffling, binarization and latents.
        device: where to train; auto is the GPU, or the CPU if there is no GPU.
        num_samples: samples per test image for the log-likelihood at the end.
        run: the run folder, or a function that creates it, called after all checks.
        resume: continue from the run's last checkpoint.
        may_download: whether missing files of the data set are downloaded, unless ``resume``.
        trust: packages whose classes the configuration of ``m1`` may name.
        options: options of :func:`pyro_vae.fit`, such as ``epochs``.
    """
    check_count("train", latent_dim=latent_dim, num_samples=num_samples)
    callbacks = [] if logger is None else [logger()]
    place, dataset = choose_device(device), data()
    dataset.may_download, dataset.by_name = may_download and not resume, not is_earlier(run)
    dataset.detects = not resume and model_from is None  # a run's configuration holds what was detected
    assembly = assemble(
        dataset,
        place,
        model=model,
        latent_dim=latent_dim,
        prior=prior,
        likelihood=likelihood,
        guide=guide,
        prior_guide=prior_guide,
        classifier=classifier,
        label_prior=label_prior,
        alpha=alpha,
        m1=_first_model(m1, model, trust),
        score_seen=score_seen,
        net=net,
        base=base,
        seed=seed,
    )
    vae, training_data = assembly.trained, assembly.training_data
    for images in (assembly.splits.train, assembly.splits.validation, assembly.splits.test):
        if images is not None:
            check_magnitude(images)
    initialise_at_data(vae, training_data.train, seed=seed, at_mean=init_at_mean)
    if model_from is not None:
        exact, advice = isinstance(vae, AutoregressiveModel), "Use a model with latent variables"
        require(not exact, "train", "model_from must come with a model that has a guide", model, advice)
        restore_model(cast(Any, vae), RunFolder(model_from))
    vae.to(place)
    goal, open_run = objective(), RecordedRun(run, assembly.splits, resume=resume)
    with nullcontext() if model_from is None else frozen(cast(Any, vae).model):
        result = fit(
            vae.model,
            vae.guide,
            training_data.train,
            objective=goal,
            optimizer=optimizer,
            lr_schedule=lr_schedule,
            # an autoencoder has no ELBO of held-out data
            validation=None if is_deterministic(getattr(vae, "guide", None)) else training_data.validation,
            monitor=validation_error(assembly.vae, assembly.splits.validation, seed=seed),
            callbacks=callbacks,
            seed=seed,
            run=open_run,
            resume=resume,
            progress=None,
            **options,
        )
    protocol = {**assembly.protocol, **objective_entries(goal), **open_run.entries()}
    return TrainedModel(assembly.vae, assembly.splits, protocol, result, num_samples)


def load_run(
    path: str | Path,
    *,
    device: Device = "auto",
    root: str | None = None,
    weights: Literal["final", "raw"] = "final",
    trust: Iterable[str] = (),
) -> TrainedModel:
    """Rebuild the VAE, the data and the protocol of a run folder.

    Nothing in the folder is executed: the configuration may name only classes of this package and torch's optimizers,
    and the weights are plain tensors.

    Args:
        path: the run folder.
        device: where to put model and data.
        root: folder of the data set, if it has moved since the training.
        weights: the final ones, which a training with ``ema`` averages, or the raw ones of such a training.
        trust: packages whose classes the configuration may name in addition; importing them runs their code.

    Raises:
        FileNotFoundError: the run or these weights do not exist.
        ValueError: a file is damaged, foreign, or names code that is not trusted; or the data are not those that the
            run was trained on.
    """
    check_choice("load_run", "weights", weights, ("final", "raw"))
    run = RunFolder(path)
    provenance = run.provenance(raw=weights == "raw")  # of weights that must exist
    options = instantiate(parse_config(run, trust=trust))
    place, dataset = choose_device(device), options["data"](**({} if root is None else {"root": root}))
    dataset.may_download, dataset.by_name, dataset.detects = root is not None, not is_earlier(run), False
    options["m1"] = _first_model(options["m1"], options["model"], trust)
    assembly = assemble(dataset, place, **{name: options[name] for name in MODEL_OPTIONS})
    check_data(provenance, assembly.splits, str(path))
    restore_weights(assembly.trained, run, raw=weights == "raw")
    same = run.provenance(raw=weights == "raw") == provenance
    require(same, str(path), "the weights must not change while they are read", "others", "Run it again")
    entries = {**objective_entries(options["objective"]()), **provenance_entries(provenance)}
    protocol = {**assembly.protocol, **entries, **({} if weights == "final" else {"weights": weights})}
    return TrainedModel(assembly.vae.to(place).eval(), assembly.splits, protocol)


def _first_model(path: str | None, model: ModelName, trust: Iterable[str]) -> FirstModel | None:
    if path is None:
        return None
    require(model == "M2", "--m1", "M1 must have a model of its latents", f"{path} for a {model}", "Add --model M2")
    run = RunFolder(path)
    run.load_weights()  # which must exist
    return FirstModel(run, instantiate(parse_config(run, trust=trust)))


@cache
def parser() -> ArgumentParser:
    """The parser of the options of :func:`train`, made from its signature, that of ``fit`` and the components'."""
    parser = ArgumentParser(prog="pyro-vae train", exit_on_error=False, allow_abbrev=False)
    parser.add_function_arguments(train, skip={"run", "resume", "may_download", "trust"})
    return parser


@cache
def default_options() -> dict[str, Any]:
    """All options of :func:`train` at their defaults, components as ``{"class_path": ..., "init_args": {...}}``."""
    return parser().get_defaults().as_dict()


def parse_options(assignments: Iterable[tuple[str, Any]]) -> Namespace:
    """Parse options of :func:`train`; those not given have their defaults.

    Args:
        assignments: names, such as ``guide.net.hidden``, and values as text or parsed; a later one replaces an earlier.

    Raises:
        ValueError: an option or component does not exist, or a value has the wrong type.
    """
    options = copy.deepcopy(default_options())
    for name, value in assignments:
        assign(options, name, value)
    try:
        parsed = parser().parse_object(options, defaults=False)
    except ArgumentError as error:
        raise wrong_value(error, options, parser()) from None
    check_plain(parsed)
    for name, default in default_options().items():
        has_value = default is None or parsed[name] is not None
        require(has_value, f"--{name}", "must have a value", "null", "Omit the option for its default")
    return parsed


def parse_config(run: RunFolder, *, trust: Iterable[str] = ()) -> Namespace:
    """The options of a run, from its ``config.yaml``.

    Raises:
        ValueError: the file is damaged, or has other options than its weights were trained with.
    """
    options = parse_options(read_config(run.config(), str(run.path / "config.yaml"), trust=trust).items())
    trained = run.provenance().get("config") if run.has_weights() else None
    check_trained(trained, options, str(run.path / "weights.safetensors"), trust=trust)
    return options


def check_trained(text: str | None, options: Namespace, source: str, *, trust: Iterable[str] = ()) -> None:
    """Require options to be those of a training, except those that may change.

    Args:
        text: the configuration of the training; empty or None if it is not known.
        options: those of now.
        source: the file that holds the configuration.
        trust: packages that it may name.

    Raises:
        ValueError: naming the first other option.
    """
    if text and text != to_yaml(options):
        trained = parse_options(read_config(text, source, trust=trust).items())
        check_resumable(to_yaml(trained), to_yaml(options))


def instantiate(options: Namespace) -> dict[str, Any]:
    """The keyword arguments of :func:`train`: components as partial functions, the others as they are."""
    return dict(vars(parser().instantiate(options)))


def to_yaml(options: Namespace) -> str:
    """The text of ``config.yaml``: every option, defaults included, so that later defaults change nothing."""
    return yaml.safe_dump(yaml.safe_load(parser().dump(options, skip_unset=False)), sort_keys=False)
