"""Advice for the command line, where results name functions of Python."""

from __future__ import annotations

import re

COMMANDS = {
    "num_samples": "--num_samples",
    "max_samples": "--max_samples",
    "max_distributions": "--max_distributions",
    "num_decomposed": "--num_decomposed",
    "refit_guide": "pyro-vae refit",
    "annealed_log_likelihood": "--method ais",
    "sandwich": "--method sandwich",
    "objectives.BetaELBO with a LinearWarmUp": "--objective BetaELBO --objective.beta LinearWarmUp",
    "objectives.FreeBits": "--objective FreeBits",
    "objectives.InfoVAE": "--objective InfoVAE",
    "init_at_mean, Likelihood.initialise_mean": "--init_at_mean",
    "SemiAmortizedGuide": "--guide SemiAmortizedGuide",
    "VampPrior, FlowPrior": "--prior VampPrior, FlowPrior",
    "receptive_field": "--likelihood.receptive_field",
}
_ADVICE = re.compile(r"^(?:note|warning): .*(?:\n  .*)*", re.MULTILINE)
_PATTERNS = (re.escape(name).replace(r"\ ", r"\s+") for name in COMMANDS)  # a line may end at a space
_NAMES = re.compile(rf"(?<![\w-])({'|'.join(_PATTERNS)})\b")


def with_commands(text: str) -> str:
    """A printed result whose advice names options and commands in place of Python's functions.

    Example:
        >>> with_commands("-1.0 nats\\nnote: Fit a better guide (refit_guide).")
        '-1.0 nats\\nnote: Fit a better guide (pyro-vae refit).'
    """
    return _ADVICE.sub(lambda advice: _NAMES.sub(_command, advice[0]), text)


def _command(name: re.Match[str]) -> str:
    return COMMANDS[" ".join(name[0].split())]
