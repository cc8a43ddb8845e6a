"""Refusing data that a likelihood gives no probability."""

from __future__ import annotations

import re
from typing import Any

import torch
from pyro.distributions import Bernoulli, MaskedDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, TransformedDistribution, constraints


class OneLineError(ValueError):
    """Something wrong within a program; one line, also where Pyro adds the shapes of a trace to it."""

    def __init__(self, message: str) -> None:
        super().__init__(message.splitlines()[0])


class SupportError(OneLineError):
    """Data outside the support of a likelihood; the message ends with the row of the batch."""

    def in_data(self, index: Tensor | None) -> SupportError:
        """The same for a batch of known data: the number in the data set."""
        place = re.search(r"at row (\d+)", str(self))
        if index is None or place is None or int(place[1]) >= len(index):
            return self
        return SupportError(str(self).replace(place[0], f"at datum {int(index[int(place[1])])}"))


def outside(owner: str, rule: str, value: str, bad: Tensor) -> SupportError:
    """The error for bad values, the data in the first dimension of ``bad``."""
    row = int(bad.reshape(len(bad), -1).any(1).nonzero()[0]) if bad.dim() else 0
    advice = "Change the data (binarize them, or leave such data out) or the likelihood"
    return SupportError(f"{owner}: {rule}, got {value}, the first at row {row}. {advice}.")


class SupportCheck(Messenger):
    """Within it, an observed value outside the support of its site is refused; much cheaper than full validation.

    Args:
        owner: name to begin the message with.

    Raises:
        ValueError: on such a value; the message names site and row.

    Example:
        >>> import pyro, torch
        >>> from pyro.distributions import Bernoulli
        >>> with SupportCheck("fit"):
        ...     pyro.sample("x", Bernoulli(logits=torch.zeros(2)), obs=torch.tensor([1.0, 0.5]))
        Traceback (most recent call last):
        ...
        pyro_vae._core.support.SupportError: fit: data must lie in the support of site 'x' (Boolean()), ...
    """

    def __init__(self, owner: str) -> None:
        super().__init__()
        self.owner = owner

    def _pyro_post_sample(self, msg: Any) -> None:
        support = _support(msg)
        if support is None:
            return
        bad = ~torch.as_tensor(support.check(msg["value"]))
        if bad.any():
            value = "NaN" if bool(torch.isnan(msg["value"][bad if bad.dim() else ...]).any()) else "another value"
            rule = f"data must lie in the support of site {msg['name']!r} ({support})"
            raise outside(self.owner, rule, value, bad)


class SupportFlag(Messenger):
    """Keeps whether the observed values lie in the support of their sites, as tensors and without looking at them.

    Example:
        >>> import pyro, torch
        >>> from pyro.distributions import Bernoulli
        >>> with SupportFlag() as flag, pyro.validation_enabled(False):
        ...     _ = pyro.sample("x", Bernoulli(logits=torch.zeros(2)), obs=torch.tensor([1.0, 0.5]))
        >>> flag.all(torch.tensor(True))
        tensor(False)
    """

    def __init__(self) -> None:
        super().__init__()
        self._inside: list[Tensor] = []

    def _pyro_post_sample(self, msg: Any) -> None:
        support = _support(msg)
        if support is not None:
            self._inside.append(torch.as_tensor(support.check(msg["value"])).all())

    def all(self, flag: Tensor) -> Tensor:
        """Whether ``flag`` holds and every value was inside."""
        for inside in self._inside:
            flag = flag & inside
        return flag


def _support(msg: Any) -> Any:
    """The support of an observed site; None for another, or where the distribution has none."""
    if not msg["is_observed"] or not isinstance(msg["value"], Tensor) or msg["infer"].get("_deterministic"):
        return None
    try:
        return msg["fn"].support
    except NotImplementedError:
        return None


def covers(guide: Any, model: Any) -> bool:
    """Whether a distribution can give every value that another can; taken for granted if that is not known."""
    try:
        discrete = bool(guide.support.is_discrete and model.support.is_discrete)
        one, other = _bounds(guide), _bounds(model)
    except NotImplementedError:
        return True
    if discrete and hasattr(guide, "probs") and hasattr(model, "probs"):
        drawn, possible = guide.probs, model.probs  # the density of a class without probability is not 0, but clamped
        if guide.has_enumerate_support and model.has_enumerate_support and type(guide) is type(model):
            if not isinstance(guide, Bernoulli) and drawn.shape[-1] != possible.shape[-1]:
                return False
            missing = ((drawn == 0) & (possible > 0)) | ((drawn == 1) & (possible < 1))
            return not bool(missing.any())
    if one is None or other is None:
        return True
    return bool((one[0] <= other[0]).all() and (one[1] >= other[1]).all())


def _bounds(fn: Any) -> tuple[Tensor, Tensor] | None:
    """The lower and the upper bound of a distribution's values; None if they are not known."""
    while isinstance(fn, Independent | MaskedDistribution):
        fn = fn.base_dist
    if isinstance(fn, TransformedDistribution):  # the support is that of the last transform's range, not of the values
        inner = _bounds(fn.base_dist)
        if inner is None or any(transform.domain.event_dim for transform in fn.transforms):
            return None if inner is None or torch.isfinite(torch.stack(inner)).any() else _ends(fn.support)
        for transform in fn.transforms:
            low, high = (transform(end) for end in inner)
            inner = torch.minimum(low, high), torch.maximum(low, high)
        return inner
    return _ends(fn.support)


def _ends(support: Any) -> tuple[Tensor, Tensor] | None:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.real:
        return torch.tensor(-torch.inf), torch.tensor(torch.inf)
    if support in (constraints.boolean, constraints.simplex):
        return torch.tensor(0.0), torch.tensor(1.0)
    lower, upper = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if lower is None and upper is None:
        return None
    ends = (-torch.inf if lower is None else lower, torch.inf if upper is None else upper)
    return torch.as_tensor(ends[0]).float(), torch.as_tensor(ends[1]).float()
