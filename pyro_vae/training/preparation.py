"""Preparation of a training: its parameters, and checks of the data against the programs before the first step."""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_flatten

from pyro_vae._core.checks import refusal, require
from pyro_vae._core.contexts import isolated_rng, rng_state, set_rng_state, validating
from pyro_vae._core.pair import Pair
from pyro_vae._core.rows import is_local, makes_local, rows_follow
from pyro_vae._core.support import SupportError
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Batches, Data
from pyro_vae.data.missing import check_observed
from pyro_vae.evaluation import ImportanceWeights
from pyro_vae.training.compatibility import check_additive, data_axes, has_score, scoring
from pyro_vae.training.parameters import ParameterSet


def prepare(
    batches: Batches, objective: ELBO, model: Program, guide: Program, *, alone: bool
) -> tuple[tuple[Any, ...], ParameterSet]:
    """Find the parameters, and check that the programs can be trained on the data.

    Args:
        batches: the data, changed in place: integers are converted to floating point if the programs accept no
            integers, shuffling is turned off for a guide with parameters for each datum, and ``axes`` is set.
        objective: the objective.
        model: Pyro model.
        guide: Pyro guide.
        alone: whether a single process trains.

    Returns:
        The arguments of the first batch, and the parameters.

    Raises:
        ValueError: naming what must be changed.
    """
    with scoring(objective):
        return _prepare(batches, objective, model, guide, alone=alone)


def _prepare(
    batches: Batches, objective: ELBO, model: Program, guide: Program, *, alone: bool
) -> tuple[tuple[Any, ...], ParameterSet]:
    args, index = first_batch(batches)
    check_observed(getattr(batches.data, "images", batches.data), owner="fit")
    check_additive(objective, alone=alone)
    check_autoguide(batches, model, guide, args)
    args, parameters = _find_parameters(batches, objective, model, guide, args, index)
    batches.axes = data_axes(parameters.pair)
    if is_local(parameters.pair):
        batches.shuffle_seed = None
        check_whole(batches, alone=alone)
        args, _ = first_batch(batches)
    check_order(batches, parameters.pair)
    check_last_batch(batches, parameters, objective, model, guide)
    return args, parameters


def _find_parameters(
    batches: Batches, objective: ELBO, model: Program, guide: Program, args: tuple[Any, ...], index: Tensor | None
) -> tuple[tuple[Any, ...], ParameterSet]:
    try:
        return args, ParameterSet(objective, model, guide, args)
    except SupportError as error:
        raise error.in_data(index) from None
    except ValueError as error:
        if not batches.adapt(error):
            raise
        args, _ = first_batch(batches)
        try:
            return args, ParameterSet(objective, model, guide, args)
        except ValueError as second:
            raise (second if batches.drops_labels else error) from None


def first_batch(batches: Batches) -> tuple[tuple[Any, ...], Tensor | None]:
    """The arguments of the first batch and the indices of its data (None for an iterable); the random state is kept.

    Raises:
        ValueError: there is no batch.
    """
    state = rng_state()
    first = next(((batch.args, batch.index) for batch in batches.epoch()), None)
    set_rng_state(state)
    if first is None:
        raise no_batch()
    return first


def no_batch() -> ValueError:
    """The error for data without a batch."""
    return refusal("fit", "data must not be empty", "an iterable without a batch", "Pass at least one")


def check_autoguide(batches: Batches, model: Program, guide: Program, args: tuple[Any, ...]) -> None:
    """Require one batch per epoch for an autoguide with parameters per datum: its first run creates those of one batch.

    Raises:
        ValueError: an epoch has several batches.
    """
    if len(batches) > 1 and makes_local(model, guide, args):
        raise _minibatches(f"{len(batches)} batches an epoch")


def check_whole(batches: Batches, *, alone: bool) -> None:
    """Require all data in one batch, in the same order every epoch, for a guide with parameters for each datum.

    Raises:
        ValueError: the batches are smaller, differ from epoch to epoch, or are shared by several processes.
    """
    require(alone, "fit", "a guide with parameters for each datum must be trained in one process", "several")
    if len(batches) != 1:
        raise _minibatches(f"{len(batches)} batches an epoch" if len(batches) else "an iterable of unknown length")
    first, second = (tree_flatten(next(batches.epoch(number)).args)[0] for number in (0, 1))
    same = len(first) == len(second) and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a is b for a, b in zip(first, second, strict=True)
    )
    if not same:
        raise _minibatches("another order in each epoch")


def _minibatches(value: str) -> ValueError:
    rule = "a guide with parameters for each datum requires all data in one batch, in the same order every epoch"
    return refusal("fit", rule, value, "Use batch_size=len(data), or an amortized guide")


def check_order(batches: Batches, pair: Pair) -> None:
    """Require that everything that belongs to a datum is an argument, if the data are shuffled.

    Raises:
        ValueError: the model's densities are not reordered with the arguments.
    """
    plate = pair.data_plate()
    shuffled = batches.num_data is not None and batches.shuffle_seed is not None
    if plate is None or not shuffled or pair.enum_dim is not None:
        return
    try:
        follows = rows_follow(pair, plate, data_axes(pair))
    except Exception:  # the programs cannot run on reordered data, so that this cannot be decided
        return
    require(
        follows,
        "fit",
        "all values per datum must be arguments, because the data are shuffled",
        "other data in the model (a closure, poutine.condition, a scale or a mask of its own)",
        "Pass them: DataLoader(TensorDataset(x, w), batch_size=100, shuffle=True)",
    )


def check_last_batch(
    batches: Batches, parameters: ParameterSet, objective: ELBO, model: Program, guide: Program
) -> None:
    """Raise if the last batch is a single datum, of which batch normalization cannot compute statistics.

    Raises:
        ValueError: naming a batch size that leaves no such batch.
    """
    num, size = batches.num_data, batches.batch_size
    modules = [module for owner in parameters.modules.values() for module in owner.modules()]
    if num is None or size == 1 or num % size != 1 or not any(isinstance(m, _BatchNorm) for m in modules):
        return
    args = batches.fetch(torch.zeros(1, dtype=torch.long, device=getattr(batches.data, "device", None)))
    owners = parameters.owners
    with owners.unchanged(), owners.evaluating(), isolated_rng(), torch.enable_grad():
        owners.training(True)
        try:
            objective.differentiable_loss(model, guide, *args)
        except ValueError as error:
            better = next(b for b in range(size + 1, num + 1) if num % b != 1)
            rule = "batch normalization requires more than one datum per batch"
            value = f"a last batch of 1 ({num} data, batch_size={size})"
            raise refusal("fit", rule, value, f"Use batch_size={better}") from error


def check_validation(
    data: Data, batches: Batches, parameters: ParameterSet, objective: ELBO, model: Program, guide: Program
) -> None:
    """Check that the programs have weights per datum on the first validation batch, one datum if the order is ours.

    Sites without a density have none; their objective's loss is computed instead.

    Raises:
        ValueError: the programs cannot be evaluated on it.
    """
    validation = Batches(data, 1, device=batches.device, dtype=batches.dtype)
    validation.drops_labels = batches.drops_labels
    args = next(iter(validation.epoch())).args
    plate = parameters.pair.data_plate()
    name = None if plate is None else plate.name
    if has_score(objective):
        return
    with validating(True):
        ImportanceWeights(model, guide, args, owner="fit", owners=parameters.owners, data_plate=name)
