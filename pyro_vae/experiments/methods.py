"""The methods of evaluation that the command line offers: the options of each, its files, and what it runs."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

from pyro_vae.evaluation import (
    InflatedProposal,
    Result,
    annealed_log_likelihood,
    latent_diagnostics,
    log_likelihood,
    posterior_predictive_check,
    simulation_based_calibration,
)
from pyro_vae.evaluation.bidirectional import sandwich
from pyro_vae.evaluation.classifier import classification
from pyro_vae.evaluation.gaps import inference_gaps
from pyro_vae.evaluation.harmonic import harmonic_log_likelihood
from pyro_vae.evaluation.label_posterior import class_posterior
from pyro_vae.experiments.method import Method, Option, Options
from pyro_vae.experiments.trained_model import TrainedModel
from pyro_vae.models import VAE, LabelledVAE

__all__ = ["INFLATION", "METHODS", "Method", "Option", "Options"]

INFLATION = 1.2
"""What an inflated proposal multiplies the guide's scales by, if it is not told."""


def _call(function: Callable[..., Any], trained: TrainedModel, options: Options, guide: Any = None) -> list[Result]:
    """A function of model, guide and data, with the run's protocol."""
    rest = dict(options)
    split, num_data = rest.pop("split"), rest.pop("num_data")
    pair = trained.vae.model, trained.vae.guide if guide is None else guide
    protocol = trained.protocol_of(split)
    return [function(*pair, trained.images(split, num_data), protocol=protocol, **rest)]


def _is_vae(vae: Any) -> bool:
    return isinstance(vae, VAE)


def _has_classes(vae: Any) -> bool:
    return isinstance(vae, LabelledVAE)


def _classification(trained: TrainedModel, options: Options) -> list[Result]:
    rest = {key: value for key, value in options.items() if key != "progress"}
    return [trained.classification(rest.pop("split"), **rest)]


def _class_posterior(trained: TrainedModel, options: Options) -> list[Result]:
    """The class posterior, and what it tells of the classes where they are known."""
    rest = dict(options)
    split = rest.pop("split")
    found = trained.class_posterior(split, **rest)
    labels = trained.images(split, options["num_data"]).labels
    if labels is None or bool((labels == -1).any()):
        return [found]
    own = {**found.protocol, "classified_by": "class_posterior"}
    return [found, classification(found.probabilities(), labels=labels, protocol=own)]


def _importance(trained: TrainedModel, options: Options) -> list[Result]:
    rest = dict(options)
    factor = rest.pop("inflate")
    if rest["proposal"] != "inflated":
        return _call(log_likelihood, trained, rest)
    wide = InflatedProposal(trained.vae.guide, factor)
    return _call(log_likelihood, trained, {**rest, "proposal": "guide"}, wide)


def _gaps(trained: TrainedModel, options: Options) -> list[Result]:
    rest = dict(options)
    path = rest.pop("log_likelihood")
    if path is None:
        return _call(inference_gaps, trained, rest)
    return _call(inference_gaps, trained, {**rest, "log_likelihood": _reference(path, trained, options)})


def _reference(path: Path, trained: TrainedModel, options: Options) -> Result:
    """The result that stands for log p(x), if it is one of the data that are to be evaluated."""
    given: Result = Result.load(path)
    expected = trained.protocol_of(options["split"])
    expected["num_data"] = len(trained.images(options["split"], options["num_data"]))
    wrong = next((key for key, value in expected.items() if key != "guide" and given.protocol.get(key) != value), None)
    if wrong:
        raise ValueError(
            f"--log_likelihood: must be of this model and these data, got {wrong}={given.protocol.get(wrong)} "
            f"in {path}, {expected[wrong]} here. Make one by --method ais."
        )
    return given


def _diagnostics(trained: TrainedModel, options: Options) -> list[Result]:
    """Latent diagnostics of the data; and tests of the guide and the model on data of the model's own."""
    vae, protocol = trained.vae, trained.protocol_of(options["split"])
    images = trained.images(options["split"], options["num_data"])
    common: Options = {"seed": options["seed"], "protocol": protocol}
    mine = {key: options[key] for key in ("batch_size", "num_samples", "num_decomposed", "num_draws")}
    found: list[Result] = [latent_diagnostics(vae, images, **mine, **common)]
    ranks = {"num_simulations": options["num_simulations"], "num_samples": options["num_ranks"]}
    found.append(simulation_based_calibration(vae, **ranks, num_bins=options["num_bins"], **common))
    found.append(posterior_predictive_check(vae, images, num_samples=options["num_replicates"], **common))
    return found


def _of(function: Callable[..., Any], name: str, *told: Any, **more: Any) -> Option:
    """An option with the default that the function has."""
    return Option(name, signature(function).parameters[name].default, *told, **more)


def _chains(function: Callable[..., Any]) -> tuple[Option, ...]:
    """The options of annealing."""
    return (
        _of(function, "num_distributions", "from the start to the posterior"),
        _of(function, "num_chains", "annealed chains per image"),
        _of(function, "num_steps", "leapfrog steps of each HMC transition", mark="-steps{}"),
        _of(function, "start", "what the chains start from", ("prior", "guide")),
        _of(function, "schedule", "how the temperatures are spaced", ("sigmoid", "linear"), "-{}"),
        _of(function, "batch_size", "images at a time"),
        _of(function, "engine", "how the programs run", ("auto", "eager", "compiled")),
    )


_INSTEAD = "JSON of a result, such as of --method ais, that stands for log p(x) (default: importance sampling)"
_DECOMPOSED: dict[str, Any] = {"mark": "-decomposed{}", "type": int}
_FACTOR: dict[str, Any] = {"mark": "-x{:g}", "type": float}
_PROPOSALS = ("guide", "prior", "inflated")
_IMPORTANCE = (
    _of(log_likelihood, "num_samples", "draws of z per image"),
    _of(log_likelihood, "proposal", "what z is drawn from; prior is the naive baseline", _PROPOSALS),
    Option("inflate", None, f"with --proposal inflated: factor of the guide's scales (default {INFLATION})", **_FACTOR),
    _of(log_likelihood, "batch_size", "images at a time"),
    _of(log_likelihood, "chunk_size", "draws at a time"),
    _of(log_likelihood, "engine", "how the programs run", ("auto", "eager", "compiled")),
    _of(log_likelihood, "precision", "of the networks' products", ("fp32", "bf16"), "-{}"),
)
_HARMONIC = (
    _of(harmonic_log_likelihood, "num_samples", "fresh draws of the posterior per image"),
    _of(harmonic_log_likelihood, "num_fitted", "draws that a density is fitted to", mark="-fitted{}"),
    _of(harmonic_log_likelihood, "num_chains", "chains per image; they divide both numbers of draws"),
    _of(harmonic_log_likelihood, "num_steps", "leapfrog steps of each HMC transition", mark="-steps{}"),
    _of(harmonic_log_likelihood, "warmup", "transitions before the first draw", mark="-warmup{}"),
    _of(harmonic_log_likelihood, "start", "what the chains start from", ("prior", "guide")),
    _of(harmonic_log_likelihood, "batch_size", "images at a time"),
    _of(harmonic_log_likelihood, "engine", "how the programs run", ("auto", "eager", "compiled")),
)
_REAL = Option("real", "yes", "bound the real images from below too, by the same path", ("yes", "no"), "-simulated")
_GAPS = (
    _of(inference_gaps, "num_samples", "draws per image of each ELBO and of the importance estimate"),
    _of(inference_gaps, "num_steps", "steps of Adam per image"),
    Option("lr", None, "its first step size (default 0.01; 0.003 for a copy of the guide)", mark="-lr{:g}", type=float),
    _of(inference_gaps, "num_particles", "draws per image and step", mark="-particles{}"),
    Option("log_likelihood", None, _INSTEAD, mark="-by-{0.stem}", type=Path),
    _of(inference_gaps, "batch_size", "images at a time"),
    _of(inference_gaps, "chunk_size", "draws at a time"),
)
_DIAGNOSTICS = (
    _of(latent_diagnostics, "num_samples", "draws per image for moments without a closed form"),
    Option("num_decomposed", None, "images whose ELBO is taken apart (default 2000; 200 for flows)", **_DECOMPOSED),
    _of(latent_diagnostics, "num_draws", "draws per image for the parts of the ELBO", mark="-draws{}"),
    _of(simulation_based_calibration, "num_simulations", "data simulated for the calibration", mark="-sims{}"),
    Option("num_ranks", 99, "draws of the guide that each simulated z is ranked among", mark="-ranks{}"),
    _of(simulation_based_calibration, "num_bins", "bins of the ranks; they divide num_ranks + 1", mark="-bins{}"),
    Option("num_replicates", 200, "replicates per image for the predictive check", mark="-replicates{}"),
    _of(latent_diagnostics, "batch_size", "images at a time, for the latent diagnostics"),
)

_CLASSIFICATION = (
    _of(classification, "num_bins", "bins of the calibration error", mark="-bins{}"),
    _of(classification, "batch_size", "images at a time"),
)
_CLASS_POSTERIOR = (
    _of(class_posterior, "num_samples", "draws of z per image and class"),
    _of(class_posterior, "batch_size", "images at a time"),
    _of(class_posterior, "chunk_size", "draws at a time"),
    _of(class_posterior, "engine", "how the programs run", ("auto", "eager", "compiled")),
    _of(class_posterior, "precision", "of the networks' products", ("fp32", "bf16"), "-{}"),
)

METHODS = {
    method.name: method
    for method in (
        Method(
            "importance",
            "importance-weighted bound on the log-likelihood, with its curve and Pareto k",
            "{proposal}-{num_samples}",
            _IMPORTANCE,
            _importance,
            ("importance",),
        ),
        Method(
            "ais",
            "bound on the log-likelihood by annealed importance sampling",
            "{start}-{num_distributions}x{num_chains}",
            _chains(annealed_log_likelihood),
            lambda trained, options: _call(annealed_log_likelihood, trained, options),
            ("ais",),
            num_data=100,
        ),
        Method(
            "sandwich",
            "bounds from both sides on data simulated from the model, and the gap between them",
            "{start}-{num_distributions}x{num_chains}",
            (*_chains(sandwich), _REAL),
            lambda trained, options: _call(sandwich, trained, {**options, "real": options["real"] == "yes"}),
            ("sandwich",),
            num_data=100,
        ),
        Method(
            "harmonic",
            "log-likelihood from posterior samples (AEVB, appendix D), for fewer than five latent dimensions",
            "{start}-{num_samples}x{num_chains}",
            _HARMONIC,
            lambda trained, options: _call(harmonic_log_likelihood, trained, options),
            ("harmonic",),
            num_data=100,
            applies=lambda vae: vae.latent_dim < 5,
        ),
        Method(
            "gaps",
            "log p(x) - ELBO, split into approximation and amortization gap",
            "{num_samples}x{num_steps}",
            _GAPS,
            _gaps,
            ("gaps",),
            num_data=100,
            applies=_is_vae,
        ),
        Method(
            "diagnostics",
            "what the latent space does, calibration of the guide, predictive check",
            "{num_samples}",
            _DIAGNOSTICS,
            _diagnostics,
            ("diagnostics", "calibration", "predictive"),
            applies=_is_vae,
        ),
        Method(
            "classification",
            "test error of the classifier q(y | x) of a model with classes, calibration, confusion",
            "classifier",
            _CLASSIFICATION,
            _classification,
            ("classification",),
            applies=_has_classes,
        ),
        Method(
            "class_posterior",
            "p(y | x) of the model by importance sampling, log-likelihood with y summed out",
            "posterior-{num_samples}",
            _CLASS_POSTERIOR,
            _class_posterior,
            ("class_posterior", "classification"),
            applies=_has_classes,
        ),
    )
}
