"""From the words of a command line to the options of a training."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pydoc import locate
from typing import Any

import yaml
from jsonargparse import Namespace

from pyro_vae.cli.arguments import normalise_args
from pyro_vae.cli.console import check_seed
from pyro_vae.experiments.experiment import parse_config, parser, takes_guide, to_yaml
from pyro_vae.training import RunFolder

OBJECTIVES = {"enumerate": "EnumeratedELBO", "score": "ScoreFunction", "relaxed": "ELBO"}
"""What trains M2, by how its classifier's gradient is found."""
_LATENTS = ["--likelihood", "NormalLikelihood", "--likelihood.scale", "network", "--likelihood.min_scale", "0.001"]
_OF_THE_MODEL = ("model", "data", "latent_dim", "prior", "likelihood", "label_prior", "m1")


def parse_args(words: Sequence[str], trust: Sequence[str] = ()) -> Namespace:
    """The options of :func:`pyro_vae.experiments.experiment.train`, with the defaults of the model that is chosen.

    For M2 the objective is by default that of the classifier's estimator, and of latents (``--m1``) the likelihood a
    normal one whose scale comes from the network.

    Args:
        words: of the command line.
        trust: packages that a configuration may name.

    Example:
        >>> parse_args(["--model", "M2", "--classifier.estimator", "relaxed"]).objective.class_path
        'pyro_vae.objectives.ELBO'
    """
    given = normalise_args(list(words), trust)
    return parser().parse_args([*normalise_args(_defaults(parser().parse_args(given)), trust), *given])


def _defaults(options: Namespace) -> list[str]:
    if options.model == "VAE" or options.classifier is None:
        return []
    estimator = options.classifier.get("init_args", {}).get("estimator", "enumerate")
    return ["--objective", OBJECTIVES[estimator], *(_LATENTS if options.m1 else [])]


def refit_options(run: RunFolder, words: Sequence[str] = (), *, trust: Iterable[str] = ()) -> Namespace:
    """The options of :func:`pyro_vae.experiments.experiment.train` for another guide of a run's model.

    Data, prior and likelihood are the run's; the guide is too unless the words name another, and the classifier of M2;
    how it is trained is not taken from the run.

    Args:
        run: the run folder.
        words: options of the command line.
        trust: packages that the run's configuration may name.

    Raises:
        ValueError: a word would change the model.
    """
    wrong = next((w for w in words if w.startswith("--") and re.split(r"[.=]", w[2:])[0] in _OF_THE_MODEL), None)
    if wrong and not wrong.startswith("--data.root"):
        raise ValueError(f"refit: data, prior and likelihood must be those of the run, got {wrong}. Leave it away.")
    config = yaml.safe_load(to_yaml(parse_config(run, trust=trust)))
    kept = {key: config[key] for key in (*_OF_THE_MODEL, "guide", "classifier", "alpha")}
    if takes_guide(locate(config["prior"]["class_path"])):
        kept["prior_guide"] = config["prior_guide"] or config["guide"]
    first = [f"--config={json.dumps({**kept, 'model_from': str(run.path)})}"]
    given = [*first, *normalise_args(list(words), tuple(trust))]
    return parser().parse_args([*normalise_args(_defaults(parser().parse_args(given)), ()), *given])


def arguments_of(options: Namespace) -> dict[str, Any]:
    """The arguments of :func:`pyro_vae.experiments.experiment.train`, with what can be refused at once refused."""
    arguments = dict(vars(parser().instantiate(options)))
    arguments.pop("config", None)
    for name in ("epochs", "batch_size", "num_samples", "latent_dim"):
        if arguments[name] < 1:
            raise ValueError(f"--{name}: must be at least 1, got {arguments[name]}. Use a positive number.")
    check_seed(arguments["seed"])
    for name in ("data", "prior", "likelihood", "guide", "classifier", "label_prior", "objective", "optimizer"):
        if arguments[name] is None:
            raise ValueError(f"--{name}: must be a class, got null. Leave the option away for its default.")
    return arguments
