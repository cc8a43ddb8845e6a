"""The command line: ``pyro-vae train | refit | evaluate | classify | report | compare | sample``."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from pyro_vae._core.version import __version__
from pyro_vae.cli.commands import COMMANDS
from pyro_vae.cli.errors import describe, log_errors_in

_HELP = """\
Variational autoencoders as probabilistic programs.

commands:
  pyro-vae train [options]           train a VAE, evaluate it, draw its figures, in a run folder
  pyro-vae train --model M2 --data.labels N [options]     train M2 on images of which N are labelled
  pyro-vae train --seeds 0 1 2 --out OUT [options]        a run for each seed, and their mean
  pyro-vae train --resume RUN        resume a run: on this machine the same weights bit for bit
  pyro-vae refit RUN [options]       train another guide for a run's model, in a run folder of its own
  pyro-vae evaluate RUN [options]    bounds on the log-likelihood with their errors, gaps, diagnostics: --method
  pyro-vae classify RUN IMAGE ...    tell the classes of images, by a run of a model with classes
  pyro-vae report RUN                one HTML page of a run and of all its results
  pyro-vae compare RUN RUN ...       a table of the runs' results, one protocol to a column
  pyro-vae sample RUN [options]      draw images from the model

examples:
  pyro-vae train                                      digits, embedded, half a minute
  pyro-vae train --data mnist --data.root data --latent_dim 50 --epochs 100 --out runs/mnist
  pyro-vae train --likelihood.net GatedMLP --likelihood.net.hidden '[300, 300]' --optimizer.lr 5e-4
  pyro-vae train --objective BetaELBO --objective.beta LinearWarmUp --objective.beta.length 50
  pyro-vae train --config runs/mnist/config.yaml --out runs/again
  pyro-vae train --prior VampPrior --prior.num_components 100
  pyro-vae refit runs/mnist --guide IAFGuide --epochs 20 --out runs/mnist-iaf
  pyro-vae train --model M2 --data.labels 100 --epochs 100 --seeds 0 1 2 --out runs/m2
  pyro-vae train --model M2 --data mnist --data.root data --data.labels 100 --m1 runs/mnist --out runs/m1m2
  pyro-vae classify runs/m2-0 --split test --num_data 10
  pyro-vae evaluate runs/mnist --num_samples 5000
  pyro-vae evaluate runs/mnist --method ais --num_distributions 1000 --num_data 100
  pyro-vae compare runs/mnist runs/mnist-iaf --out table.md
  torchrun --nproc-per-node 2 -m pyro_vae train --out runs/two       two processes share every batch

Every component (data, prior, likelihood, guide, classifier, net, objective, optimizer, lr_schedule) is chosen by its
class name, and its constructor's arguments follow after a dot. `pyro-vae train --guide.help DiagonalNormalGuide` shows
them.
PYRO_VAE_TRACEBACK=1 shows the traceback of an error.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the words after the program's name; None takes those of the process.

    Returns:
        The exit code: 0; 1 where training became non-finite; 2 for bad input; 130 after Ctrl-C; 141 where the output's
        reader has left.
    """
    command, *arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    if command == "--version":
        print(f"pyro-vae {__version__}")
        return 0
    if command not in COMMANDS:
        return _fail(f"pyro-vae: the command must be one of {', '.join(COMMANDS)}, got {command!r}. See --help.", 2)
    log_errors_in(None)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            COMMANDS[command](arguments)
    except SystemExit as stop:  # after the help of a component
        return int(stop.code or 0)
    except KeyboardInterrupt as stop:
        return _fail(f"pyro-vae: interrupted{f', {stop}' if stop.args else ''}", 130)
    except BrokenPipeError:  # whoever read the output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        return _fail(*describe(error, [command, *arguments]))
    return 0


def _show_warning(message: Warning | str, *args: object, **kwargs: object) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
