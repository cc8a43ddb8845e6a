"""Parse the options of a training: the parameters of ``experiments.experiment.train`` and of ``training.fit``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jsonargparse import Namespace

from pyro_vae._core.checks import refusal, require, with_article
from pyro_vae._core.files import read_bytes
from pyro_vae.cli.console import check_seed, say
from pyro_vae.data import Files
from pyro_vae.data.kinds import default_likelihood
from pyro_vae.experiments.assembly import MODEL_OPTIONS
from pyro_vae.experiments.components import KINDS, assign
from pyro_vae.experiments.config import MAX_SIZE, read_config
from pyro_vae.experiments.experiment import check_trained, default_options, instantiate, parse_config, parse_options
from pyro_vae.experiments.option_errors import unknown_option
from pyro_vae.models.build import takes_guide
from pyro_vae.networks import CausalNetwork
from pyro_vae.training import RunFolder

OBJECTIVES = {"enumerate": "EnumeratedELBO", "score": "ScoreFunction", "relaxed": "ELBO"}
"""The objective that trains M2, by the estimator of its classifier's gradient."""
_LATENTS = (("likelihood", "NormalLikelihood"), ("likelihood.scale", "network"), ("likelihood.min_scale", 0.001))
_DECIDING = ("model", "classifier", "m1", "data")  # options that the defaults of others depend on
_FILES = re.compile(r"pyro_vae(\.\w+)*\.Files")
_OF_A_KIND = re.compile(r"pyro_vae(\.\w+)*\.(Files|Faces|Patches)")
_OF_MODEL = {
    "M2": ("classifier", "label_prior", "alpha", "m1"),
    "ConditionalVAE": ("score_seen",),
    "AutoregressiveModel": ("net", "base"),
}
_CAUSAL = [name for name in KINDS["net"].names() if issubclass(getattr(KINDS["net"].module, name), CausalNetwork)]
_MIXTURE = "MixtureOfLogisticsLikelihood"
_OF_LATENTS = ("latent_dim", "prior", "likelihood", "guide", "prior_guide", "model_from", "objective", "num_samples")
_EXACT = {"num_samples": 1}  # of log p(x) without latent variables
_OF_THE_GUIDE = ("guide", "prior_guide", "classifier", "alpha")  # options of the model that refitting may change

Assignments = Sequence[tuple[str, Any]]


def parse_args(argv: Sequence[str], trust: Iterable[str] = (), *, first: Assignments = ()) -> Namespace:
    """The options of :func:`pyro_vae.experiments.experiment.train`, with the defaults of the chosen model.

    The name of a causal network as the model is short for ``--model AutoregressiveModel`` and that ``--net``. For M2
    the default objective is that of the classifier's estimator, and the default likelihood of latents (``--m1``) is a
    normal distribution whose scale the network computes.

    Args:
        argv: command-line arguments.
        trust: packages that a configuration may name.
        first: names and values of options that precede those of the command line.

    Example:
        >>> parse_args(["--model", "M2", "--classifier.estimator", "relaxed"]).objective.class_path
        'pyro_vae.ELBO'
    """
    given = list(_networks_as_models(read_arguments(argv, trust)))
    assignments = [*first, *given]
    options = {**default_options()}
    for name, value in assignments:
        if name.split(".")[0] in _DECIDING:
            assign(options, name, value)
    likelihood, of_the_data = ([], []) if first else data_defaults(options, assignments)
    parsed = parse_options([*likelihood, *_model_defaults(options), *assignments, *of_the_data])
    check_seed(parsed.seed)
    _refuse_idle([name for name, value in given], argv, parsed)
    return parsed


def _refuse_idle(names: Iterable[str], argv: Sequence[str], parsed: Namespace) -> None:
    """Refuse options that do nothing; those of a configuration file only if they differ from the defaults."""
    typed = {argument.split("=")[0] for argument in argv}
    defaults, own = parse_options([]), _EXACT if parsed.model == "AutoregressiveModel" else {}
    for name in names:
        option, first = f"--{name}", name.split(".")[0]
        if option not in typed and parsed[first] in (defaults[first], own.get(first, defaults[first])):
            continue
        model = next((model for model, options in _OF_MODEL.items() if first in options), parsed.model)
        require(parsed.model == model, option, f"must come with --model {model}", with_article(parsed.model), "Omit it")
        if first in _OF_LATENTS:
            rule = "must come with a model that has latent variables"
            require(parsed.model != "AutoregressiveModel", option, rule, "an AutoregressiveModel", "Omit it")
        elif name == "lr_schedule_unit":
            require(parsed.lr_schedule is not None, option, "must come with --lr_schedule", "it alone", "Omit it")
        elif name == "data.label_seed":
            is_used = parsed.data.init_args.get("labels") is not None
            require(is_used, option, "must come with --data.labels", "it alone", "Omit it")


def _networks_as_models(given: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The options with ``--model AutoregressiveModel`` and a ``--net`` before all others for a network's name."""
    given = list(given)
    networks = [value for name, value in given if name == "model" and value in _CAUSAL]
    yield from (("net", value) for value in networks)
    yield from (
        (name, "AutoregressiveModel" if name == "model" and value in networks else value) for name, value in given
    )


def check_names(argv: Iterable[str], *others: str) -> None:
    """Require options to exist.

    Args:
        argv: command-line arguments.
        others: names of further options that the command takes, to suggest.

    Raises:
        ValueError: an option does not exist.
    """
    known = [*default_options(), "config", *others]
    for argument in argv:
        name = argument.split("=")[0].removeprefix("--")
        if argument.startswith("--") and name.split(".")[0] not in known:
            nested = [f"{option}.{name}" for option in default_options() if name in _arguments(option)]
            raise _meant(name, nested[0]) if nested else unknown_option(name, known)


def _arguments(option: str) -> Iterable[str]:
    """The constructor arguments of an option's default component."""
    default = default_options()[option]
    return default.get("init_args", ()) if isinstance(default, dict) else ()


def _meant(name: str, option: str) -> ValueError:
    return ValueError(f"unknown option --{name}; did you mean --{option}?")


def read_arguments(argv: Sequence[str], trust: Iterable[str] = ()) -> Iterator[tuple[str, Any]]:
    """Names and values of the options in order, those of configuration files among them."""
    arguments = iter(argv)
    for argument in arguments:
        option, has_value, value = argument.partition("=")
        require(option.startswith("--"), "train", "options must begin with --", argument)
        if not has_value and (value := next(arguments, "--")).startswith("--"):
            raise refusal(option, "must have a value", "none", "See pyro-vae train --help")
        if option == "--config":
            yield from read_config(_text(value), value, trust=trust).items()
        else:
            yield option[2:].replace(".init_args.", "."), None if value == "null" else value


def _text(path: str) -> str:
    try:
        return read_bytes(path, limit=MAX_SIZE).decode()
    except UnicodeDecodeError:
        raise refusal(path, "must be a text file", "other bytes", "Give a YAML file") from None


def _model_defaults(options: dict[str, Any]) -> Assignments:
    if options["model"] == "AutoregressiveModel":
        return list(_EXACT.items())
    if options["model"] != "M2" or not isinstance(options["classifier"], dict):
        return []
    estimator = options["classifier"]["init_args"].get("estimator", "enumerate")
    objective = OBJECTIVES.get(estimator, "ELBO")  # an unknown estimator is reported by the parser
    return [("objective", objective), *(_LATENTS if options["m1"] else ())]


def data_defaults(options: dict[str, Any], assignments: Assignments) -> tuple[Assignments, Assignments]:
    """The likelihood for the kind of the user's own data, and the arguments of the data set that were detected."""
    if not isinstance(options["data"], dict) or not _OF_A_KIND.fullmatch(options["data"]["class_path"]):
        return [], []
    dataset = instantiate(parse_options([pair for pair in assignments if pair[0].split(".")[0] == "data"]))["data"]()
    if isinstance(dataset, Files):
        arguments, (name, values), _ = dataset.defaults()
    elif kind := dataset.known_kind:
        arguments, (name, values) = {}, default_likelihood(kind, 255)
    else:
        return [], []
    option = "likelihood"
    if options["model"] == "AutoregressiveModel":
        option, name = "base", _MIXTURE if name == "DiscretizedLogisticLikelihood" else name
    known = name in KINDS[option].names()
    likelihood = [(option, name), *((f"{option}.{key}", value) for key, value in values.items())] if known else []
    return likelihood, [(f"data.{key}", value) for key, value in arguments.items()]


def files_of(options: Namespace) -> Any:
    """The data set of the options if it is the user's own files, otherwise None."""
    return instantiate(options)["data"]() if _FILES.fullmatch(options.data.class_path) else None


def density_of(options: Namespace) -> tuple[str, str]:
    """The option that chooses the distribution of the data, and the name of its class."""
    option = "base" if options.model == "AutoregressiveModel" else "likelihood"
    return option, options[option].class_path.rsplit(".", 1)[-1]


def say_data(options: Namespace) -> None:
    """Print what was detected in the user's own data, what follows from it, and how to change it."""
    dataset = files_of(options)
    if dataset is None or dataset.kind is None:
        return
    arguments, _, words = dataset.defaults()
    option, name = density_of(options)
    form = f"binarized ({dataset.binarize})" if dataset.binarize != "none" else ""
    form = form or "values as they are"
    if arguments["standardize"]:
        counts = arguments["kind"] == "counts"
        form = "log(1 + x) standardized in the encoder" if counts else "standardized, densities in the data's units"
    kinds = "--data.kinds '{COLUMN: KIND}'" if arguments["kind"] == "mixed" else "--data.kind"
    others = "--data.standardize false" if arguments["standardize"] else "--data.binarize dynamic"
    say(f"data: {words}; {name}, {form}. To change this: {kinds}, --{option}, {others}.")


def refit_options(run: RunFolder, argv: Sequence[str] = (), *, trust: Iterable[str] = ()) -> Namespace:
    """The options of :func:`pyro_vae.experiments.experiment.train` that fit another guide to a run's model.

    Data, prior and likelihood are the run's. So are the guide and M2's classifier, unless the arguments name others;
    the options of the training are not taken from the run.

    Args:
        run: the run folder.
        argv: command-line arguments.
        trust: packages that the run's configuration may name.

    Raises:
        ValueError: an argument would change the model.
    """
    of_the_model = {"data", *MODEL_OPTIONS} - {"seed"}
    for argument in argv:
        option = argument.split("=")[0]
        name = option[2:].split(".")[0]
        changes = option.startswith("--") and name in of_the_model and name not in _OF_THE_GUIDE
        rule = "data, prior and likelihood must be those of the run"
        require(not changes or option == "--data.root", "refit", rule, option, "Omit it")
    options = parse_config(run, trust=trust)
    advice = "Use a run of another model"
    require(options.model != "AutoregressiveModel", "refit", "the model must have a guide", options.model, advice)
    kept = {name: value for name, value in options.as_dict().items() if name in of_the_model}
    if takes_guide(instantiate(options)["prior"]) and options.model != "ConditionalVAE":  # whose guide takes contexts
        kept["prior_guide"] = kept["prior_guide"] or kept["guide"]
    return parse_args(argv, trust, first=[*kept.items(), ("model_from", str(run.path.resolve()))])


def resume_options(run: RunFolder, argv: Sequence[str] = (), *, trust: Iterable[str] = ()) -> Namespace:
    """The options to resume a run with: those of its ``config.yaml``, as changed by the arguments.

    Args:
        run: the run folder.
        argv: command-line arguments.
        trust: packages that the run's configuration may name.

    Raises:
        ValueError: an option that cannot change is not the one of the last checkpoint.
    """
    options = parse_options([*parse_config(run, trust=trust).as_dict().items(), *read_arguments(argv, trust)])
    check_trained(run.trained_config(), options, f"{run.path}/state.pt", trust=trust)
    return options
