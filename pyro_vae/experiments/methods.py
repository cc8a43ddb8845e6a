"""Methods of evaluation on the command line: functions, options and file names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from inspect import isfunction, signature
from pathlib import Path
from typing import Any, get_type_hints

from torch.nn import Module

from pyro_vae import evaluation
from pyro_vae._core.checks import refusal
from pyro_vae.compression import codelength, rate_distortion
from pyro_vae.evaluation import (
    Calibration,
    Classification,
    ClassPosterior,
    InflatedProposal,
    LatentDiagnostics,
    LogLikelihood,
    PredictiveCheck,
    Result,
    accurate_log_likelihood,
    annealed_log_likelihood,
    class_posterior,
    classification,
    disentanglement,
    harmonic_log_likelihood,
    inference_gaps,
    latent_diagnostics,
    log_likelihood,
    outliers,
    posterior_predictive_check,
    sample_quality,
    sandwich,
    simulation_based_calibration,
)
from pyro_vae.experiments.evaluation_options import Option, brief, content_hash, options_of
from pyro_vae.experiments.outlier_data import AGAINST, KINDS, outliers_of
from pyro_vae.experiments.provenance import PROVENANCE
from pyro_vae.experiments.trained_model import TrainedModel
from pyro_vae.models import VAE, AutoregressiveModel, ConditionalVAE, LabelledVAE
from pyro_vae.models.vae import is_deterministic

INFLATION = 1.2
"""Default factor by which an inflated proposal multiplies the guide's scales."""
Options = dict[str, Any]
_OF_INFERENCE = {"guide", "objective", "beta", *PROVENANCE} - {"model_sha256"}  # do not change log p(x)


@dataclass(frozen=True)
class Method:
    """A method of evaluation.

    Args:
        results: the kinds of results, the main one first; it gives the method's name.
        options: the method's options.
        run: evaluates a trained model with these options.
        stem: format, over the options, of file names between split and seed.
        num_data: default number of examples; None for all.
        applies: whether a model can be evaluated by this method.
    """

    results: tuple[type[Result], ...]
    options: tuple[Option, ...]
    run: Callable[[TrainedModel, Options], list[Result]]
    stem: str = ""
    num_data: int | None = None
    applies: Callable[[Any], bool] = lambda vae: not isinstance(vae, AutoregressiveModel)  # all others have latents

    @property
    def name(self) -> str:
        """Name on the command line."""
        return self.results[0].method

    @property
    def summary(self) -> str:
        """Titles of the results, for help texts."""
        return "; ".join(kind.title for kind in self.results)

    def defaults(self) -> Options:
        """Every option that file names depend on, at its default."""
        common: Options = {"split": "test", "seed": 0, "num_data": self.num_data}
        return {**common, **{option.name: option.default for option in self.options}}

    def file_stem(self, options: Options) -> str:
        """File name without the result's kind, such as ``test-guide-5000-seed0-first100``."""
        first = "" if options["num_data"] is None else f"-first{options['num_data']}"
        changed = (o for o in self.options if options[o.name] != o.default and f"{{{o.name}}}" not in self.stem)
        marks = "".join(option.mark.format(brief(options[option.name])) for option in changed)
        stem = self.stem.format(**options)
        return f"{options['split']}{'-' if stem else ''}{stem}{marks}-seed{options['seed']}{first}"


def method_of(function: Callable[..., Result], options: Iterable[Option] = (), **entries: Any) -> Method:
    """The method that calls an evaluation function; entries are those of :class:`Method`."""
    kind = get_type_hints(function)["return"]
    method = Method((kind,), tuple(options) or options_of(function), partial(_call, function))
    return replace(method, **entries)


def _call(function: Callable[..., Any], trained: TrainedModel, options: Options, guide: Any = None) -> list[Result]:
    """Call a function of model, guide and data, or of VAE and data, with the run's protocol."""
    parameters = signature(function).parameters
    keywords = {name: value for name, value in options.items() if name in parameters}
    for name, value in keywords.items():
        if isinstance(parameters[name].default, bool) and isinstance(value, str):
            keywords[name] = value == "yes"
    vae, data = trained.vae, trained.images(options["split"], options["num_data"])
    programs = (vae,) if "vae" in parameters else (vae.model, vae.guide if guide is None else guide)
    return [function(*programs, data, protocol=trained.protocol_of(options["split"]), **keywords)]


def _importance(trained: TrainedModel, options: Options) -> list[Result]:
    if options["proposal"] != "inflated":
        return _call(log_likelihood, trained, options)
    wide = InflatedProposal(trained.vae.guide, options["inflate"])
    return _call(log_likelihood, trained, {**options, "proposal": "guide"}, wide)


def _gaps(trained: TrainedModel, options: Options) -> list[Result]:
    path = options["log_likelihood"]
    reference = None if path is None else _reference(path, trained, options)
    return _call(inference_gaps, trained, {**options, "log_likelihood": reference})


def _reference(path: Path, trained: TrainedModel, options: Options) -> Result:
    """The result that replaces log p(x).

    Raises:
        ValueError: it is of another model or of other data.
    """
    result: Result = Result.load(path)
    expected = trained.protocol_of(options["split"])
    expected.setdefault("weights", None)  # final ones
    expected["num_data"] = len(trained.images(options["split"], options["num_data"]))
    compared = [key for key in expected if key not in _OF_INFERENCE]
    compared = [key for key in compared if key in result.protocol or key not in ("model_sha256", "data_sha256")]
    wrong = next((key for key in compared if result.protocol.get(key) != expected[key]), None)
    if wrong:
        got = f"{wrong}={result.protocol.get(wrong)} in {path}, {expected[wrong]} here"
        raise refusal("--log_likelihood", "must be of this model and these data", got, "Make one by --method ais")
    return result


def _diagnostics(trained: TrainedModel, options: Options) -> list[Result]:
    """Latent diagnostics of the data, calibration on simulated data, and a predictive check if no entry is missing."""
    images = trained.images(options["split"], options["num_data"])
    common: Options = {"seed": options["seed"], "protocol": trained.protocol_of(options["split"])}
    ranks = {name: options[changes.get("name", name)] for name, changes in _SIMULATION.items()}
    results = _call(latent_diagnostics, trained, options)
    if is_deterministic(trained.vae.guide):  # the others compare samples of it
        return results
    results.append(simulation_based_calibration(trained.vae, **ranks, **common))
    if images.missing:  # the statistics of replicates need complete data
        return results
    return [*results, posterior_predictive_check(trained.vae, images, num_samples=options["num_replicates"], **common)]


def _outliers(trained: TrainedModel, options: Options) -> list[Result]:
    keywords = {key: value for key, value in options.items() if key != "against"}
    source = options["against"]
    outside = None if source is None else outliers_of(trained, source, seed=options["seed"])
    result = trained.outliers(**keywords, against=outside)
    entries = {} if source is None else {"outliers": source.stem}
    if source is not None and str(source) not in KINDS:
        entries["outliers_sha256"] = content_hash(source)
    return [replace(result, protocol={**result.protocol, **entries})]


def _classification(trained: TrainedModel, options: Options) -> list[Result]:
    keywords = {key: value for key, value in options.items() if key not in ("split", "progress")}
    return [trained.classification(options["split"], **keywords)]


def _class_posterior(trained: TrainedModel, options: Options) -> list[Result]:
    """The class posterior; its classification too if all labels are known."""
    keywords = {key: value for key, value in options.items() if key != "split"}
    posterior = trained.class_posterior(options["split"], **keywords)
    labels = trained.images(options["split"], options["num_data"]).labels
    if labels is None or bool((labels == -1).any()):
        return [posterior]
    labelled = trained.labelled_protocol_of(options["split"])
    protocol = {**posterior.protocol, "data_sha256": labelled["data_sha256"], "classified_by": "class_posterior"}
    return [posterior, classification(posterior.probabilities(), labels=labels, protocol=protocol)]


def _disentanglement(trained: TrainedModel, options: Options) -> list[Result]:
    factors = trained.factors(options["split"], options["num_data"])
    return _call(partial(disentanglement, factors=factors), trained, options)


def _sample_quality(trained: TrainedModel, options: Options) -> list[Result]:
    return _call(partial(sample_quality, train=trained.images("train")), trained, options)


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda vae: isinstance(vae, kinds)


_ANY: dict[str, Any] = {"applies": _is(Module)}
_PROPOSALS = {
    "choices": ("guide", "optimised", "inflated", "prior"),
    "help": "distribution of z; optimised fits a normal to each image's posterior, prior is the naive baseline",
}
_FACTOR = f"with --proposal inflated: factor of the guide's scales (default {INFLATION})"
_IMPORTANCE = (
    Option("inflate", None, _FACTOR, float, mark="-x{}"),
    *(option for option in options_of(log_likelihood, proposal=_PROPOSALS) if option.name != "accuracy"),
)
_REFERENCE = "JSON of a result, such as of --method ais, that replaces log p(x) (default: importance sampling)"
_GAPS = (*options_of(inference_gaps), Option("log_likelihood", None, _REFERENCE, Path, mark="-by-{}"))
_DECOMPOSED = "examples used to decompose the ELBO (default 2000; 200 for flows)"
_SIMULATION = {
    "num_simulations": {"help": "simulated examples for the calibration", "mark": "-sims{}"},
    "num_samples": {"name": "num_ranks", "help": "samples of the guide among which z is ranked", "mark": "-ranks{}"},
    "num_bins": {"help": "bins of the ranks, a divisor of num_ranks + 1"},
}
_REPLICATES = {
    "name": "num_replicates",
    "help": "replicates per example for the predictive check",
    "mark": "-replicates{}",
}
_DIAGNOSTICS = (
    *options_of(latent_diagnostics, num_decomposed={"help": _DECOMPOSED}),
    *options_of(simulation_based_calibration, *_SIMULATION, **_SIMULATION),
    *options_of(posterior_predictive_check, "num_samples", num_samples=_REPLICATES),
)
_OUTLIERS = (
    Option("against", None, AGAINST, Path, mark="-against-{}"),
    Option("reference", "validation", "split that calibrates the p-values", str, ("validation", "train"), "-by-{}"),
    Option("num_reference", 5000, "largest number of its examples to use", int, mark="-reference{}"),
    *options_of(outliers, "combination", "num_samples", "regret_steps", "batch_size"),
)
_ANNEALING = "{start}-{num_distributions}x{num_chains}"
_SPECIAL = (
    method_of(
        log_likelihood, _IMPORTANCE, results=(LogLikelihood,), stem="{proposal}-{num_samples}", run=_importance, **_ANY
    ),
    method_of(accurate_log_likelihood, stem="{accuracy}"),
    method_of(annealed_log_likelihood, stem=_ANNEALING, num_data=100),
    method_of(
        harmonic_log_likelihood,
        stem="{start}-{num_samples}x{num_chains}",
        num_data=100,
        applies=lambda vae: getattr(vae, "latent_dim", 5) < 5,
    ),
    method_of(sandwich, options_of(sandwich, real={"mark": "-simulated"}), stem=_ANNEALING, num_data=100),
    method_of(
        inference_gaps,
        _GAPS,
        stem="{num_samples}x{num_steps}",
        run=_gaps,
        num_data=100,
        applies=_is(VAE, ConditionalVAE),
    ),
    Method(
        (LatentDiagnostics, Calibration, PredictiveCheck),
        _DIAGNOSTICS,
        _diagnostics,
        stem="{num_samples}",
        applies=_is(VAE),
    ),
    method_of(disentanglement, stem="{num_bootstrap}", run=_disentanglement, applies=_is(VAE)),
    method_of(sample_quality, stem="{num_repeats}", run=_sample_quality, num_data=2000, applies=_is(VAE)),
    method_of(codelength, options_of(codelength, chunk_size={"mark": "-chunk{}"}), stem="{num_samples}", **_ANY),
    method_of(rate_distortion, options_of(rate_distortion, chunk_size={"mark": "-chunk{}"}), applies=_is(VAE)),
    method_of(outliers, _OUTLIERS, stem="{num_samples}", run=_outliers, **_ANY),
    method_of(classification, stem="classifier", run=_classification, applies=_is(LabelledVAE)),
    method_of(
        class_posterior,
        results=(ClassPosterior, Classification),
        stem="posterior-{num_samples}",
        run=_class_posterior,
        applies=_is(LabelledVAE),
    ),
)


def find_methods() -> dict[str, Method]:
    """Every method by name: those listed here, and one for each other public function that returns a result."""
    return {method.name: method for method in (*_SPECIAL, *_others())}


def _others() -> Iterator[Method]:
    listed = {kind for method in _SPECIAL for kind in method.results}
    for function in filter(isfunction, map(vars(evaluation).get, evaluation.__all__)):
        kind = get_type_hints(function).get("return")
        if isinstance(kind, type) and issubclass(kind, Result) and kind not in listed:
            yield method_of(function)


METHODS = find_methods()
