"""Weights of any model and guide in a file, from which a factory's pair gets them back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyro.infer import ELBO as PyroELBO
from torch import Tensor

from pyro_vae._core.checks import check_arguments, refusal, require, shown
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.types import Program
from pyro_vae._core.weights import read_weights, write_weights
from pyro_vae.objectives import ELBO
from pyro_vae.training.loss import check_objective
from pyro_vae.training.parameters import ParameterSet


def save_pair(
    path: str | Path,
    model: Program,
    guide: Program,
    batch: Tensor | tuple[Any, ...],
    *,
    objective: PyroELBO | None = None,
    overwrite: bool = False,
) -> None:
    """Write all parameters and buffers of a Pyro model and guide to a file of safetensors, atomically.

    A VAE of this package has :meth:`VAE.save`, which also keeps its construction.

    Args:
        path: the file, whose folder must exist.
        model: Pyro model.
        guide: Pyro guide.
        batch: argument of both, or a tuple of them, with which they are run once: some parameters are created at the
            first call.
        objective: that of the training, if it sums over discrete sites; None is ``ELBO()``.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: the file exists and ``overwrite`` is False.
        ValueError: the programs do not go together.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from pyro_vae import AutoregressiveModel
        >>> from pyro_vae.networks import MaskedMLP
        >>> pixels = AutoregressiveModel((4,), net=MaskedMLP)
        >>> save_pair(tempfile.mkdtemp() + "/pair.safetensors", pixels.model, pixels.guide, torch.zeros(3, 4))
    """
    check_arguments(save_pair, locals())
    check_objective(objective or ELBO())
    weights = _parameters(model, guide, batch, objective).weights()
    write_weights(Path(path), weights, {}, overwrite=overwrite)


def load_pair(
    path: str | Path,
    factory: Callable[[], tuple[Program, Program]],
    batch: Tensor | tuple[Any, ...],
    *,
    objective: PyroELBO | None = None,
) -> tuple[Program, Program]:
    """Build a pair and set its parameters and buffers to those that :func:`save_pair`, or a run, wrote.

    Args:
        path: the file; of a run folder ``weights.safetensors``.
        factory: returns model and guide, as they were built before.
        batch: as of :func:`save_pair`.
        objective: as of :func:`save_pair`.

    Returns:
        Model and guide.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or its tensors are not those of the pair.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from pyro_vae import AutoregressiveModel
        >>> from pyro_vae.networks import MaskedMLP
        >>> def factory():
        ...     pixels = AutoregressiveModel((4,), net=MaskedMLP)
        ...     return pixels.model, pixels.guide
        >>> file, x = tempfile.mkdtemp() + "/pair.safetensors", torch.zeros(3, 4)
        >>> save_pair(file, *factory(), x)
        >>> model, guide = load_pair(file, factory, x)
    """
    check_arguments(load_pair, locals())
    check_objective(objective or ELBO())
    require(callable(factory), "load_pair", "factory must be a function without arguments", shown(factory))
    model, guide = factory()
    try:
        weights, _ = read_weights(Path(path))
    except OSError:
        raise
    except Exception as error:
        line = (str(error).splitlines() or [""])[0][:120]
        raise refusal("load_pair", f"{path} must be a whole file of weights", f"another ({line})") from None
    _parameters(model, guide, batch, objective).load(weights)
    return model, guide


def _parameters(
    model: Program, guide: Program, batch: Tensor | tuple[Any, ...], objective: PyroELBO | None
) -> ParameterSet:
    args = batch if isinstance(batch, tuple) else (batch,)
    with isolated_rng():
        return ParameterSet(objective or ELBO(), model, guide, args)
